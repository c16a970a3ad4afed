"""The audit log as a file: one JSON object a line, which can be verified, or CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, TypeAlias

from pydantic import ValidationError

from viewer.audit import Entry, broken

ExportFormat: TypeAlias = Literal["ndjson", "csv"]
MEDIA_TYPES: dict[ExportFormat, str] = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}

_COLUMNS = (
    "number", "at", "tenant_id", "principal", "principal_name", "address", "action", "target", "outcome",
    "detail", "request_id", "chain",
)  # fmt: skip
_LINES_AT_ONCE = 500
# A spreadsheet takes a cell that begins so for a formula, which may run programs and send cells away
# (owasp.org/www-community/attacks/CSV_Injection). Also as full-width letters.
_OF_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class NotAnExport(Exception):
    """The text is one sentence."""


def export(entries: Iterable[Entry], form: ExportFormat) -> Iterator[str]:
    """The file, in parts of some hundred lines."""
    lines = _csv(entries) if form == "csv" else (f"{entry.line()}\n" for entry in entries)
    while part := "".join(islice(lines, _LINES_AT_ONCE)):
        yield part


def entries_of(lines: Iterable[str]) -> Iterator[Entry]:
    """What an NDJSON export holds. Raises NotAnExport."""
    for number, line in enumerate(lines, start=1):
        try:
            yield Entry.model_validate_json(line)
        except ValidationError as error:
            raise NotAnExport(f"line {number} is no entry of an audit log") from error


def problems_of(entries: Iterable[Entry]) -> Iterator[str]:
    """What is wrong with the entries of an export, a sentence each. One tenant's follow each other; the first
    of each is believed, unless it is the first of all."""
    tenant, number, chain = "", 0, ""
    for entry in entries:
        if entry.tenant_id != tenant and entry.number > 1:
            tenant, number, chain = entry.tenant_id, entry.number, entry.chain
            continue
        if entry.tenant_id != tenant:
            yield from broken([entry])
        else:
            yield from broken([entry], number=number, chain=chain)
        tenant, number, chain = entry.tenant_id, entry.number, entry.chain


def _csv(entries: Iterable[Entry]) -> Iterator[str]:
    yield _row(_COLUMNS)
    for entry in entries:
        fields = json.loads(entry.line())
        fields["detail"] = "" if entry.detail is None else json.dumps(fields["detail"], sort_keys=True)
        yield _row("" if fields[name] is None else _harmless(str(fields[name])) for name in _COLUMNS)


def _row(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerow(cells)
    return text.getvalue()


def _harmless(cell: str) -> str:
    """With an apostrophe before what would be a formula; a spreadsheet shows the rest as it is."""
    return f"'{cell}" if cell.startswith(_OF_FORMULAS) else cell
