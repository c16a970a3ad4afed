"""What the relay answers over HTTP, as types, for it and for its client in the control plane. No aiohttp."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Base64Bytes, Field

from viewer.model import DesktopBackend, Frozen

LONGEST_CLOSE_REASON = 120
"""Bytes of UTF-8; a WebSocket close frame has room for 123."""


def cut_reason(reason: str) -> str:
    """What of it fits into a close frame, without half a character at its end."""
    return reason.encode()[:LONGEST_CLOSE_REASON].decode(errors="ignore")


StreamKind = Literal["rfb", "content", "devtools", "port", "input"]


class CloseCode:
    """Why the relay ended a stream, as the WebSocket close code that the page sees."""

    OK = 1000
    TOO_BIG = 1009
    """The browser sent a WebSocket message above the limit."""
    INTERNAL = 1011
    RESTARTING = 1012
    PROTOCOL_ERROR = 4400
    SIGNED_OUT = 4401
    """The sign-in, key, ticket or share link that it came by is over."""
    REVOKED = 4403
    """The role is too small by now, or somebody closed it."""
    GONE = 4404
    TIMED_OUT = 4408
    ENDED = 4410
    """The session has ended."""
    LEASE_LOST = 4423
    """Somebody else has keyboard and mouse now: open it again to watch."""
    BUSY = 4429
    """Too many streams, of this session, of its tenant or on this relay."""
    UNREACHABLE = 4502
    UNSUPERVISED = 4503
    """The relay has not heard of the control plane for too long to know who may still watch."""


class ProbeOutcome(StrEnum):
    """`frame`: a full frame with two colours or more was seen. `blank`: connected, but one colour until the
    deadline. `unreachable`: nothing usable answered in time. `refused`: it answered and turned us away."""

    FRAME = "frame"
    BLANK = "blank"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


class ProbeResult(Frozen):
    """Answer of GET /probe/<session_id>. Width and height are pixels, 0 while unknown."""

    result: ProbeOutcome
    detail: str = ""
    """One sentence for a person; holds no secret."""
    width: int = 0
    height: int = 0
    colours: int = Field(default=0, description="distinct colours seen; counting stops at 2")
    colour: str | None = Field(default=None, description="`#rrggbb`, where an RFB screen has one alone")
    elapsed_ms: float
    backend: DesktopBackend | None = None
    """What shows the picture; None for a sandbox, whose image says it."""


class InputOutcome(StrEnum):
    """How a gesture of the input API ended. Only `done` is done whole; of `outside`, `no-pointer`,
    `keyboard-full`, `clipboard-refused` and `busy`, nothing is."""

    DONE = "done"
    OUTSIDE = "outside"
    NO_POINTER = "no-pointer"
    KEYBOARD_FULL = "keyboard-full"
    CLIPBOARD_REFUSED = "clipboard-refused"
    WRONG_CLIPBOARD = "wrong-clipboard"
    LEASE_LOST = "lease-lost"
    CUT = "cut"
    BUSY = "busy"
    UNREACHABLE = "unreachable"


class InputResult(Frozen):
    """Answer of POST /input/<session_id>."""

    result: InputOutcome
    detail: str = ""
    """One sentence for a person; holds nothing that was typed."""
    done: int = 0
    """Actions that were done whole."""
    began: bool = False
    """Whether anything has reached the desktop."""
    width: int = 0
    height: int = 0
    """Of the screen, in pixels; 0 while unknown."""


class RelayStatus(Frozen):
    """Answer of GET /status. is_supervised: it has heard of the worker lately, and so lets people in.
    silent_seconds: since it heard of the worker last. streams: that are open, of all tenants."""

    version: str
    is_supervised: bool
    silent_seconds: float
    streams: int


class StreamInfo(Frozen):
    """One open stream. `rfb`: parsed by the relay; `content`: the own protocol of a desktop's web client;
    `devtools`: of Chromium's DevTools; `port`: a WebSocket, or a request that is under way, to a port of a
    sandbox; `input`: a gesture that is being done through the API."""

    stream_id: str
    kind: StreamKind = "rfb"
    session_id: str
    tenant_id: str
    principal: str
    may_control: bool
    opened_at: datetime
    last_input_at: datetime | None = None
    """When a key, the pointer or the clipboard last passed."""
    under_lease: bool = False
    ticket_id: str = ""
    bytes_to_browser: int
    bytes_to_desktop: int
    """Both of an `rfb` stream's payload; of others with the headers of their frames."""


class StreamList(Frozen):
    """Answer of GET /streams."""

    streams: list[StreamInfo]
    ports_used: dict[str, datetime] = Field(default_factory=dict)
    """By session: when a port of its sandbox was last asked for, or input was last sent through the API. The
    sessions that were last; UTC."""
    leases: dict[str, int] = Field(default_factory=dict)
    """By session: the number of the lease that the relay goes by."""


class DevToolsTarget(Frozen):
    """What DevTools can be attached to. Title and URL are whatever the page there says; made harmless to
    show, and cut."""

    id: str
    type: str
    title: str
    url: str


class DevToolsTargets(Frozen):
    """Answer of GET /devtools/<session_id>."""

    targets: list[DevToolsTarget]


PictureFormat = Literal["jpeg", "png"]


class WantedPicture(Frozen):
    """One desktop's. grant: sealed, of purpose `picture`. etag: of the picture that the asker has."""

    grant: str = Field(repr=False)
    etag: str | None = None


class WantedPictures(Frozen):
    """Body of POST /pictures. width: pixels to scale down to, keeping the proportions; None: as it is."""

    items: tuple[WantedPicture, ...] = Field(max_length=200)
    width: int | None = Field(default=None, ge=16, le=8192)
    format: PictureFormat = "jpeg"


class PictureResult(StrEnum):
    """`new`: `data` holds it. `same`: as the asker has it. `none`: there is no picture; `detail` says why."""

    NEW = "new"
    SAME = "same"
    NONE = "none"


class Picture(Frozen):
    """etag: of the picture at the wanted width and format. changed_at: when the screen last changed, as far
    as the capture saw it. data: base64 in JSON."""

    session_id: str
    result: PictureResult
    detail: str = ""
    """One sentence for a person; holds no secret."""
    etag: str | None = None
    screen_width: int = 0
    screen_height: int = 0
    """Of the screen itself, in pixels; 0 while unknown."""
    changed_at: datetime | None = None
    data: Base64Bytes | None = None


MOST_PICTURE_BYTES = 16 << 20
"""Of all pictures of one answer."""


class Pictures(Frozen):
    """Answer of POST /pictures, in the order of the question."""

    items: tuple[Picture, ...]


class RelayProblem(Frozen):
    """Body of every refusal (application/problem+json, RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class SandboxProblem(Frozen):
    """Body of a refusal to a client of OpenSandbox's, in the shape that its server uses."""

    code: str
    message: str
