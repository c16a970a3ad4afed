"""API v1: a tenant's audit log, for its admins: a page at a time, or as a file."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response, request

from viewer.access import needs, principal
from viewer.answers import json_answer
from viewer.audit import ACTIONS, Entry
from viewer.audit_files import MEDIA_TYPES, export
from viewer.audit_store import AuditFilter, actions_named
from viewer.incoming import AuditConditions, AuditQuery, ExportQuery, query
from viewer.model import Role, Scope, utcnow
from viewer.openapi import Answer, Operation, describes
from viewer.problems import Problem, unknown_name
from viewer.public import AuditChain, AuditList, PublicEntry
from viewer.services import services

audit_api = Blueprint("audit", __name__, url_prefix="/api/v1")

MOST_CHECKED = 5000
"""Entries that one question reads: a quarter of a second's work."""


@audit_api.get("/audit")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="Who did what in this tenant, newest first",
        query=AuditQuery,
        answers={200: Answer("One page.", AuditList)},
        problems=(400, 422),
    )
)
def list_audit() -> Response:
    asked = query(AuditQuery)
    page = services().store.audit.page(principal().tenant, _filter(asked), asked.cursor, asked.limit)
    return json_answer(AuditList(items=tuple(map(_public, page.items)), next_cursor=page.next_cursor))


@audit_api.get("/audit/export")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary="The same as a file, oldest first",
        query=ExportQuery,
        answers={
            200: Answer("One entry a line.", media_type="application/x-ndjson", also=("text/csv",)),
        },
        problems=(422, 429),
    )
)
def export_audit() -> Response:
    asked, who, here = query(ExportQuery), principal(), services()
    wanted = _filter(asked)
    # A file takes a thread for as long as its reader likes, as a wait does.
    if not here.waits.take(who):
        raise _too_many_exports()
    try:
        if request.method != "HEAD":
            here.store.audit.note_export(who.tenant, asked.model_dump(mode="json", exclude_defaults=True))
        answer = Response(_file(here.store.audit.entries(who.tenant, wanted), asked))
    except BaseException:
        here.waits.give_back(who)
        raise
    answer.call_on_close(lambda: here.waits.give_back(who))
    answer.content_type = MEDIA_TYPES[asked.format]
    name = f"audit-{who.tenant}-{utcnow():%Y%m%dT%H%M%SZ}.{asked.format}"
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


@audit_api.get("/audit/chain")
@needs(Role.ADMIN, scope=Scope.MANAGE)
@describes(
    Operation(
        summary=f"Check that the newest {MOST_CHECKED} entries are as they were written",
        answers={200: Answer("What is wrong with them, if anything is.", AuditChain)},
        problems=(429,),
    )
)
def check_audit_chain() -> Response:
    who, here = principal(), services()
    # Thousands of entries are read and hashed: as much as a file.
    if not here.waits.take(who):
        raise _too_many_exports()
    try:
        found = here.store.audit.check_newest(who.tenant, MOST_CHECKED)
    finally:
        here.waits.give_back(who)
    return json_answer(AuditChain(checked=found.checked, of=found.kept, problems=found.problems))


def _file(entries: Iterator[Entry], asked: ExportQuery) -> Iterator[bytes]:
    return (part.encode() for part in export(entries, asked.format))


def _filter(asked: AuditConditions) -> AuditFilter:
    if asked.action is not None and not actions_named(asked.action):
        kinds = sorted({name.partition(".")[0] for name in ACTIONS})
        raise unknown_name("action", asked.action, [*kinds, *ACTIONS])
    return AuditFilter(
        action=asked.action,
        principal=asked.principal,
        target=asked.target,
        since=asked.since,
        until=asked.until,
    )


def _public(entry: Entry) -> PublicEntry:
    return PublicEntry.model_validate(entry, from_attributes=True)


def _too_many_exports() -> Problem:
    return Problem(
        429,
        "too-many-exports",
        "Too many files are being read",
        "Your tenant reads as many files, or waits for as many desktops, as it may; try again in a moment.",
        headers={"Retry-After": "10"},
    )
