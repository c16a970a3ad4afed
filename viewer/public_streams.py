"""How tickets and open streams look from outside."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from viewer.model import Frozen
from viewer.relay.answers import StreamInfo, StreamKind
from viewer.tickets import TicketRole

Way = Literal["key", "cookie", "ticket", "share"]


class PublicTicket(Frozen):
    """A ticket, shown this once: send it as `Authorization: Bearer <ticket>` to `stream_url`."""

    id: str = Field(description="By which it is revoked; opens nothing.")
    ticket: str = Field(repr=False)
    session_id: str
    role: TicketRole
    single_use: bool
    stream_url: str = Field(description="The stream: WebSocket, subprotocol `binary`, RFB 3.8.")
    expires_at: datetime = Field(description="What was opened by then goes on.")


class PublicStream(Frozen):
    """Somebody who has a session open now. Times are RFC 3339 in UTC."""

    stream_id: str
    kind: StreamKind = Field(description="`rfb` or `content`: its screen; `port`: a port of its sandbox.")
    principal: str
    name: str = Field(description="What people call him.")
    role: TicketRole
    via: Way = Field(description="What he came by.")
    opened_at: datetime
    last_input_at: datetime | None = Field(description="When a key or the pointer last passed.")


class OpenStreams(Frozen):
    items: tuple[PublicStream, ...]


class PublicWatchers(Frozen):
    """How many see the screen of a session now; who they are, its list of streams says."""

    session_id: str
    watching: int


def public_stream(stream: StreamInfo, name: str) -> PublicStream:
    return PublicStream(
        stream_id=stream.stream_id,
        kind=stream.kind,
        principal=principal_of(stream),
        name=name,
        role=TicketRole.CONTROL if stream.may_control else TicketRole.WATCH,
        via=_way_of(stream),
        opened_at=stream.opened_at,
        last_input_at=stream.last_input_at,
    )


def principal_of(stream: StreamInfo) -> str:
    """Without the sign-in, which is of one browser of his."""
    return stream.principal.partition("/")[0]


def _way_of(stream: StreamInfo) -> Way:
    if stream.principal.startswith("share:"):
        return "share"
    if stream.ticket_id:
        return "ticket"
    return "key" if stream.principal.startswith("key:") and "/" not in stream.principal else "cookie"
