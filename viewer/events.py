"""Server-sent events from the outbox: one stream per browser tab or agent, of its own tenant only.

The store is the truth and an event only says how one session looks now. `ready` is sent first, with the id to
resume from; `reset` says that events were missed for good, so the list must be read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field

from viewer.access import Credential, credential, needs, principal, public_origin
from viewer.model import HostStatus, Principal, Role
from viewer.openapi import Answer, Operation, describes
from viewer.problems import FieldError, Problem, wrong_fields
from viewer.public import public_session
from viewer.rows import Event
from viewer.services import Services, services
from viewer.store import TenantStore

events = Blueprint("events", __name__, url_prefix="/api/v1")

HEARTBEAT_SECONDS = 15.0
# A stream ends after this and the client comes back with Last-Event-ID: threads never leak for good.
LONGEST_STREAM_SECONDS = 3600.0
_BATCH = 200


class StreamedEvent(BaseModel):
    """One event of the stream, field by field."""

    id: str = Field(description="Send it as `Last-Event-ID` to go on after this event.")
    event: Literal["ready", "reset", "session"]
    data: str = Field(description="JSON: the session as in the API; `{}` of the others.")


@events.get("/events")
@needs(Role.WATCHER)
@describes(
    Operation(
        summary="Changes of sessions as they happen",
        headers={"Last-Event-ID": "The id of the last event that arrived; the stream goes on after it."},
        answers={
            200: Answer(
                "`session` with a session as in the API; `ready` comes first, `reset` after a gap.",
                StreamedEvent,
                media_type="text/event-stream",
            )
        },
        problems=(422, 503),
    )
)
def stream_events() -> Response:
    here, who = services(), principal()
    start = _last_event_id()
    if not here.streams.take(who):
        raise Problem(
            503,
            "too-many-streams",
            "Too many event streams are open",
            "Close some, or try again in a few seconds.",
            headers={"Retry-After": "5"},
        )
    stream = EventStream(here, who, credential(), public_origin())
    response = Response(stream.run(start), content_type="text/event-stream; charset=utf-8")
    response.headers["X-Accel-Buffering"] = "no"
    # Not in the generator's `finally`: one that never starts (HEAD, a client gone at once) never gets there.
    response.call_on_close(lambda: here.streams.give_back(who))
    return response


class EventStream:
    """The frames of one stream, until the client goes, the credential ends, or the server stops."""

    def __init__(self, here: Services, who: Principal, shown: Credential, origin: str) -> None:
        self._here = here
        self._who = who
        self._shown = shown
        self._tenant: TenantStore = here.store.tenant(who.tenant)
        self._origin = origin

    def run(self, start: int | None) -> Iterator[str]:
        last = self._tenant.last_event_id() if start is None else start
        if start is not None and not self._tenant.has_events_since(start):
            last = self._tenant.last_event_id()
            yield frame("reset", last, "{}")
        yield "retry: 2000\n" + frame("ready", last, "{}")
        ends, checked = time.monotonic() + LONGEST_STREAM_SECONDS, time.monotonic()
        while not self._here.stopping.is_set() and time.monotonic() < ends:
            mark = self._here.store.mark()
            new = self._tenant.events_after(last, _BATCH)
            if new:
                yield from self._frames(new)
                last = new[-1].id
            elif not self._here.store.wait_for_change(HEARTBEAT_SECONDS, since=mark):
                yield ": still here\n\n"
            if time.monotonic() - checked >= HEARTBEAT_SECONDS:
                checked = time.monotonic()
                if not self._still_welcome():
                    return

    def _still_welcome(self) -> bool:
        """A revoked key, a sign-out or another role ends the stream."""
        return self._shown.principal(self._here.store.accounts) == self._who

    def _frames(self, new: Sequence[Event]) -> Iterator[str]:
        hosts: dict[str, HostStatus] = {host.name: host.status for host in self._here.store.fleet.hosts()}
        for event in new:
            session = public_session(event.session, origin=self._origin, hosts=hosts)
            yield frame("session", event.id, session.model_dump_json())


def frame(kind: str, event_id: int, data: str) -> str:
    return f"id: {event_id}\nevent: {kind}\ndata: {data}\n\n"


def _last_event_id() -> int | None:
    text = request.headers.get("Last-Event-ID")
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise wrong_fields(
            [FieldError(field="Last-Event-ID", message="is not an id of ours", mend="leave it out")]
        )
    return int(text)
