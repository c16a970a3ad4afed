"""`deskfleet audit`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import BinaryIO

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, whole_number
from viewer.cli.files import new_file
from viewer.cli.output import Output, moment, table
from viewer.cli.paging import collect
from viewer.incoming import AuditQuery, ExportQuery
from viewer.public import AuditList, PublicEntry


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "audit", "who did what, and from where (admins)")
    shown = leaf(verbs, "list", _list, "list what was done, newest first")
    shown.add_argument("--limit", type=whole_number, default=50, help="how many at most, 50 if not given")
    written = leaf(verbs, "export", _export, "write what was done into a file, oldest first")
    written.add_argument("--format", choices=("ndjson", "csv"), default="ndjson")
    written.add_argument("--to", type=Path, metavar="FILE", help="a new file, instead of standard output")
    for parser in (shown, written):
        parser.add_argument(
            "--action", help="only this one, such as key.create, or all of a kind, such as key"
        )
        parser.add_argument("--principal", metavar="ID", help="only what was done by key:… or person:…")
        parser.add_argument("--target", metavar="ID", help="only what was done to session:…, key:… and so on")
        parser.add_argument(
            "--since", metavar="TIME", help="not before 2026-11-30T06:00:00Z, or a day in UTC"
        )
        parser.add_argument("--until", metavar="TIME", help="before such a time")


def _conditions(asked: argparse.Namespace) -> dict[str, object]:
    return {name: getattr(asked, name) for name in ("action", "principal", "target", "since", "until")}


def _list(asked: argparse.Namespace, api: Api, out: Output) -> int:
    def page(cursor: str | None, limit: int) -> AuditList:
        return api.audit(given(AuditQuery, cursor=cursor, limit=limit, **_conditions(asked)))

    found, cursor = collect(page, asked.limit)
    header = ("WHEN", "WHO", "FROM", "ACTION", "TARGET", "OUTCOME", "DETAIL")
    out.show(AuditList(items=found, next_cursor=cursor), table(header, map(_row, found)))
    return 0


def _row(entry: PublicEntry) -> tuple[str | None, ...]:
    return (
        moment(entry.at),
        f"{entry.principal_name} ({entry.principal})",
        entry.address,
        entry.action,
        entry.target,
        entry.outcome,
        json.dumps(entry.detail, ensure_ascii=False) if entry.detail else None,
    )


def _export(asked: argparse.Namespace, api: Api, _out: Output) -> int:
    wanted = given(ExportQuery, format=asked.format, **_conditions(asked))
    if asked.to is None:
        _copy(api, wanted, sys.stdout.buffer)
        return 0
    # Names and addresses of people are nobody else's business.
    with new_file(asked.to, mode=0o600) as target:
        _copy(api, wanted, target)
    return 0


def _copy(api: Api, wanted: ExportQuery, target: BinaryIO) -> None:
    with api.audit_file(wanted) as parts:
        for part in parts:
            target.write(part)
