"""`deskfleet events`: changes of sessions as they happen, over interruptions without a gap."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from viewer.cli.api import Api, NoAnswer, TryAgain
from viewer.cli.arguments import Nouns, leaf, whole_number
from viewer.cli.output import Output, clock, reason_of
from viewer.cli.problems import Refused
from viewer.model import Frozen
from viewer.public import PublicSession
from viewer.public_documents import PublicDocumentNews
from viewer.public_leases import PublicLease, in_words
from viewer.public_streams import PublicWatchers

RETRY_SECONDS = 2.0

Kind = Literal["ready", "session", "lease", "watchers", "document", "reset"]
_KIND: TypeAdapter[Kind] = TypeAdapter(Kind)


class Event(Frozen):
    """id: where to go on from (`--after`). `reset`: some were missed for good, so lists must be read anew."""

    id: int
    event: Kind
    session: PublicSession | None = None
    lease: PublicLease | None = None
    watchers: PublicWatchers | None = None
    document: PublicDocumentNews | None = None

    def is_of(self, session_id: str) -> bool:
        told = self.lease or self.watchers or (self.document and self.document.document)
        return session_id == (self.session.id if self.session is not None else told and told.session_id)


def add_to(nouns: Nouns) -> None:
    parser = leaf(
        nouns, "events", _events, "follow what happens to sessions; --json prints one object a line"
    )
    parser.add_argument("--after", type=whole_number, metavar="ID", help="begin after this event, not now")
    parser.add_argument("--session", metavar="SESSION", help="only what happens to this one")


def _events(asked: argparse.Namespace, api: Api, out: Output) -> int:
    for event in follow(api, asked.after, out.note):
        if event.event == "reset":
            out.note("events were missed that are not kept any more; list what you follow again")
        is_of_another = bool(asked.session) and event.event != "reset" and not event.is_of(asked.session)
        if event.event == "ready" or is_of_another:
            continue
        out.line(event, as_text(event))
    return 0


def as_text(event: Event) -> str | None:
    session, lease = event.session, event.lease
    if event.document is not None:
        document = event.document.document
        about = f"{document.type} {document.title!r} {event.document.change}"
        return f"{clock(document.updated_at)}  {document.session_id or '-':<36}  document    {about}"
    if lease is not None:
        at = lease.since or (lease.requests[-1].at if lease.requests else None)
        return f"{clock(at) if at else ' ' * 8}  {lease.session_id}  {in_words(lease)}"
    if session is None:
        return None
    return f"{clock(session.updated_at)}  {session.id}  {session.status:<10}  {reason_of(session)}".rstrip()


def follow(
    api: Api, last_id: int | None, note: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> Iterator[Event]:
    """Events for ever. Only what ends the first try, or would end every other, is raised."""
    has_begun = False
    while True:
        try:
            with api.event_lines(last_id) as lines:
                for event in read_events(lines):
                    has_begun, last_id = True, event.id
                    yield event
        except (NoAnswer, TryAgain) as error:
            if not has_begun:
                raise
            note(f"{error}; trying again")
        pause(RETRY_SECONDS)


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Server-sent events, as the API writes them: one line each of `id`, `event` and `data`."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            yield _event(fields)
        fields = {}


def _event(fields: dict[str, str]) -> Event:
    try:
        kind = _KIND.validate_python(fields.get("event"))
        session = lease = watchers = document = None
        if kind == "session":
            session = PublicSession.model_validate_json(fields["data"], extra="ignore")
        elif kind == "lease":
            lease = PublicLease.model_validate_json(fields["data"], extra="ignore")
        elif kind == "watchers":
            watchers = PublicWatchers.model_validate_json(fields["data"], extra="ignore")
        elif kind == "document":
            document = PublicDocumentNews.model_validate_json(fields["data"], extra="ignore")
        event_id = int(fields.get("id", ""))
        return Event(
            id=event_id, event=kind, session=session, lease=lease, watchers=watchers, document=document
        )
    except (ValidationError, ValueError) as error:
        raise Refused(
            "an event came that this version does not understand; install the fleet's own"
        ) from error
