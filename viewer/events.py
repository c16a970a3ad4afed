"""Server-sent events from the outbox: one stream per browser tab or agent, of its own tenant only.

The store is the truth and an event only says how one session looks now. `ready` is sent first, with the id to
resume from; `reset` says that events were missed for good, so the list must be read again.
The answer begins here, in a thread of the server; what follows is sent by `viewer.event_hub`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field

from viewer.access import also_by, credential, needs, principal, public_origin, shown_ticket
from viewer.event_hub import EventHub, EventStream, Reader, frame
from viewer.model import Role
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, Problem, wrong_fields
from viewer.services import services
from viewer.store import TenantStore

events = Blueprint("events", __name__, url_prefix="/api/v1")

PATH = "/api/v1/events"
HANDOVER = "deskfleet.handover"
"""In the WSGI environment of a server that can part with a connection: its `Handover`."""
_RETRY = b"retry: 2000\n"


class StreamedEvent(BaseModel):
    """One event of the stream, field by field."""

    id: str = Field(description="Send it as `Last-Event-ID` to go on after this event.")
    event: Literal["ready", "reset", "session", "lease", "watchers", "document"]
    data: str = Field(
        description="JSON: the session, or the lease, as in the API; of `watchers` `{session_id, watching}`:"
        " how many see its screen; of `document` `{change, document}`: it was `created`, `changed` or"
        " `deleted`; `{}` of the others."
    )


class Handover:
    """The server's offer to let the answer's stream have the connection once the answer's head is sent."""

    def __init__(self) -> None:
        self.stream: EventStream | None = None
        """Set by the view when it has taken the offer; the answer's body is then empty."""


@events.get("/events")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="Changes of sessions as they happen",
        headers={"Last-Event-ID": "The id of the last event that arrived; the stream goes on after it."},
        answers={
            200: Answer(
                "`session` with a session as in the API, `lease` with who has its keyboard and mouse since,"
                " `watchers` with how many see its screen, `document` with one that was put down, changed or"
                " deleted; `ready` comes first, `reset` after a gap.",
                StreamedEvent,
                media_type="text/event-stream",
            )
        },
        problems=(422, 503),
    )
)
def stream_events() -> Response:
    return _answer(session_id=None)


@events.get("/sessions/<session_id>/events")
@needs(Role.WATCHER)
@also_by("ticket")
@describes(
    Operation(
        summary="Changes of one session as they happen; also for the bearer of a ticket",
        headers={"Last-Event-ID": "The id of the last event that arrived; the stream goes on after it."},
        answers={
            200: Answer(
                "`session`, `lease` and `watchers` of it; `ready` comes first, `reset` after a gap.",
                StreamedEvent,
                media_type="text/event-stream",
            )
        },
        problems=(404, 422, 503),
    )
)
def stream_session_events(session_id: str) -> Response:
    return _answer(session_id=services().store.tenant(principal().tenant).get(session_id).id)


def _answer(session_id: str | None) -> Response:
    start = _last_event_id()
    # Not an empty text: its length would be told.
    answer = Response(iter(()), content_type="text/event-stream; charset=utf-8")
    answer.headers["X-Accel-Buffering"] = "no"
    if request.method == "HEAD":
        return answer
    stream = _stream(start, session_id)
    handover = request.environ.get(HANDOVER)
    if isinstance(handover, Handover):
        handover.stream = stream
    else:
        answer.response = _Body(stream, services().events)
    return answer


def _stream(start: int | None, session_id: str | None) -> EventStream:
    here, who = services(), principal()
    slots = here.streams
    if not slots.take(who):
        raise Problem(
            503,
            "too-many-streams",
            "Too many event streams are open",
            "Close some, or try again in a few seconds.",
            headers={"Retry-After": "5"},
        )
    try:
        opening, last = _opening(here.store.tenant(who.tenant), start)
    except Exception:
        slots.give_back(who)
        raise
    reader = Reader(
        who=who,
        shown=credential(),
        origin=public_origin(),
        ticket=shown_ticket() if who.via == "ticket" else None,
        session_id=session_id,
    )
    return EventStream(reader, opening=opening, last=last, ended=lambda: slots.give_back(who))


def _opening(tenant: TenantStore, start: int | None) -> tuple[bytes, int]:
    """What is sent first, and the event that the stream goes on after."""
    if start is None or tenant.has_events_since(start):
        last = tenant.last_event_id() if start is None else start
        return _RETRY + frame("ready", last, "{}"), last
    last = tenant.last_event_id()
    return frame("reset", last, "{}") + _RETRY + frame("ready", last, "{}"), last


class _Body:
    """The stream for a server that keeps its connections to itself, as a test's client does: one thread of
    its own waits for each frame."""

    def __init__(self, stream: EventStream, hub: EventHub) -> None:
        self._stream = stream
        self._end, carried = socket.socketpair()
        hub.carry(stream, carried)

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while data := self._end.recv(65536):
            *whole, rest = (rest + data).split(b"\n\n")
            yield from (text + b"\n\n" for text in whole)

    def close(self) -> None:
        self._end.close()
        self._stream.over()


def _last_event_id() -> int | None:
    text = request.headers.get("Last-Event-ID")
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise wrong_fields(
            [FieldError(field="Last-Event-ID", message="is not an id of ours", mend="leave it out")]
        )
    return int(text)
