"""`deskfleet-admin audit`: all tenants' logs, and what only the host's operator may do with them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from viewer.audit import Entry
from viewer.audit_files import ExportFormat, NotAnExport, entries_of, export, problems_of
from viewer.audit_store import AuditFilter, AuditStore, Head
from viewer.model import utcnow

PRUNED_AT_ONCE = 5000
"""Entries. Nobody else can write while they go."""


class AuditError(Exception):
    """What was asked cannot be done, or a log is not as it was written; the text says so."""


def do(asked: argparse.Namespace, store: AuditStore) -> str:
    """What to print. Raises AuditError."""
    match asked.verb:
        case "export":
            return _export(store, _heads(store, asked.tenant), asked.to, asked.format)
        case "heads":
            return "\n".join(head.model_dump_json() for head in store.heads())
        case "verify":
            return _verify_file(asked.file) if asked.file else _verify(store, asked.kept)
        case _:
            return _prune(store, _heads(store, asked.tenant), asked.before, asked.to)


def _heads(store: AuditStore, tenant: str | None) -> list[Head]:
    heads = store.heads()
    if tenant is None:
        return heads
    found = [head for head in heads if head.tenant_id == tenant]
    if not found:
        known = ", ".join(head.tenant_id for head in heads) or "none yet"
        raise AuditError(f"there is no audit log of {tenant}; known: {known}")
    return found


def _export(store: AuditStore, heads: Iterable[Head], target: Path, form: ExportFormat) -> str:
    shown = list(heads)
    for head in shown:
        store.note_export(head.tenant_id, {"format": form})
    with _new_file(target) as file:
        # One stream, so that a CSV file has one header.
        for part in export(_all_of(store, shown), form):
            file.write(part)
    return f"{target}: {target.stat().st_size} bytes"


def _all_of(store: AuditStore, heads: Iterable[Head]) -> Iterator[Entry]:
    for head in heads:
        yield from store.entries(head.tenant_id)


def _verify(store: AuditStore, kept: Path | None) -> str:
    heads = store.heads()
    if kept is not None:
        heads = _kept_heads(kept)
    problems = [problem for head in heads for problem in store.problems(head)]
    if problems:
        raise AuditError("\n".join(["the audit log is not as it was written:", *problems]))
    return "\n".join(_said(head) for head in heads) or "there is no audit log yet"


def _said(head: Head) -> str:
    pruned = f", pruned up to {head.pruned_number}" if head.pruned_number else ""
    return f"{head.tenant_id}: as it was written up to entry {head.number}{pruned}"


def _kept_heads(file: Path) -> list[Head]:
    try:
        return [Head.model_validate_json(line) for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        raise AuditError(f"{file} is not what `deskfleet-admin audit heads` prints") from error


def _verify_file(file: Path) -> str:
    try:
        with file.open() as lines:
            problems = list(problems_of(entries_of(lines)))
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{file} cannot be read: {error}") from error
    except NotAnExport as error:
        raise AuditError(f"{file}: {error}; give an export of the format ndjson") from error
    if problems:
        raise AuditError("\n".join([f"{file} is not as it was written:", *problems]))
    return f"{file} is as it was written"


def _prune(store: AuditStore, heads: Iterable[Head], before: datetime, target: Path) -> str:
    if before > utcnow():
        raise AuditError(f"{before:%Y-%m-%d} is yet to come; give a day in the past")
    ends = {head.tenant_id: store.newest_before(head.tenant_id, before) for head in heads}
    old = {tenant: end for tenant, end in ends.items() if end}
    if not old:
        return f"there is no entry from before {before:%Y-%m-%d}"
    # Only what is as it was written: else the file would prove the wrong thing.
    broken = [problem for head in heads if head.tenant_id in old for problem in store.problems(head)]
    if broken:
        raise AuditError("\n".join(["nothing was pruned; the log is not as it was written:", *broken]))
    with _new_file(target) as file:
        for tenant, end in old.items():
            for part in export(_up_to(store, tenant, end), "ndjson"):
                file.write(part)
        # On the disk, before the entries go.
        file.flush()
        os.fsync(file.fileno())
    gone = 0
    for tenant, end in old.items():
        entries = _up_to(store, tenant, end)
        while some := list(islice(entries, PRUNED_AT_ONCE)):
            gone += store.prune(tenant, some[-1], file=str(target))
    return f"{gone} entries are in {target}, and no longer in the database"


def _up_to(store: AuditStore, tenant: str, end: int) -> Iterator[Entry]:
    for entry in store.entries(tenant, AuditFilter()):
        if entry.number > end:
            return
        yield entry


@contextmanager
def _new_file(target: Path) -> Iterator[TextIO]:
    """That only its owner can read; one that could not be written to its end goes away again."""
    try:
        file = os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", newline="")
    except FileExistsError as error:
        raise AuditError(f"{target} exists already; give a new name") from error
    except OSError as error:
        raise AuditError(f"{target} cannot be written ({error.strerror})") from error
    try:
        with file:
            yield file
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise AuditError(f"{target} cannot be written ({error.strerror})") from error
        raise
