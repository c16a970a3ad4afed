"""Opening a WebSocket for a moment, to see whether a desktop answers at its other end.

No client for WebSockets: the handshake is a request, and all that is read are the first frames, which are
short and never in pieces (`viewer.relay.framing` makes them).
"""

from __future__ import annotations

import base64
import secrets
import time
from typing import Protocol

import httpcore
import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from viewer.model import Frozen

BANNER = b"RFB "
LONGEST_READ = 4096
_BINARY, _CLOSE = 2, 8


class Upgraded(Frozen):
    """What became of it. status: of the answer to the handshake, 101 where it is open. close_code, reason: of
    the close frame that came instead of a desktop; for a refused handshake, reason is the refusal's."""

    status: int
    has_banner: bool = False
    close_code: int | None = None
    reason: str = ""


class _Problem(BaseModel):
    """What we read of a problem document."""

    model_config = ConfigDict(extra="ignore")

    detail: str


class _Wire(Protocol):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...


def try_stream(
    http: httpx.Client,
    url: str,
    headers: dict[str, str],
    *,
    seconds: float,
    extensions: dict[str, str] | None = None,
) -> Upgraded:
    """Open that stream, wait for the desktop's greeting, and leave. Raises httpx.TransportError.

    extensions: httpx's own, such as the name that TLS asks for."""
    handshake = {
        **headers,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
        "Sec-WebSocket-Protocol": "binary",
    }
    deadline = time.monotonic() + seconds
    with http.stream("GET", url, headers=handshake, timeout=seconds, extensions=extensions) as answer:
        if answer.status_code != httpx.codes.SWITCHING_PROTOCOLS:
            answer.read()
            return Upgraded(status=answer.status_code, reason=_refusal(answer))
        return _greeting(answer.extensions["network_stream"], deadline)


def _greeting(wire: _Wire, deadline: float) -> Upgraded:
    received = b""
    while (left := deadline - time.monotonic()) > 0 and len(received) < LONGEST_READ:
        try:
            data = wire.read(LONGEST_READ, timeout=left)
        except (httpcore.TimeoutException, httpcore.NetworkError):
            break
        if not data:
            break
        received += data
        if (seen := greeting_in(received)) is not None:
            return seen
    return Upgraded(status=101)


def greeting_in(received: bytes) -> Upgraded | None:
    """What the first of these frames say that says something; None while more is to come."""
    while len(received) >= 2:
        kind, length, start = received[0] & 0xF, received[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(received[2:start], "big")
        payload = received[start : start + length]
        if len(received) < start + length:
            return None
        if kind == _BINARY:
            return Upgraded(status=101, has_banner=payload.startswith(BANNER))
        if kind == _CLOSE:
            code = int.from_bytes(payload[:2], "big") if length >= 2 else None
            return Upgraded(status=101, close_code=code, reason=payload[2:].decode(errors="replace"))
        received = received[start + length :]
    return None


def _refusal(answer: httpx.Response) -> str:
    try:
        return _Problem.model_validate_json(answer.content).detail
    except ValidationError:
        return ""
