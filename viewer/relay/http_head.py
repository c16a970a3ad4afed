"""One HTTP exchange on a socket of our own, up to the end of the answer's head."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from base64 import b64encode
from typing import NamedTuple

from viewer.relay.desktops import DesktopUnreachable

LONGEST_HEAD = 16 * 1024
_READ_BYTES = 1 << 16
_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LENGTH = re.compile(r"[0-9]{1,15}")


class Head(NamedTuple):
    """An answer's beginning. Header names are in lower case; `early` is what came after the empty line."""

    status: int
    headers: dict[str, str]
    early: bytes


async def exchange_heads(sock: socket.socket, request: bytes, *, whose: str = "desktop") -> Head:
    """Send `request` and return the beginning of its answer. Raises DesktopUnreachable; the caller sets the
    time limit."""
    loop = asyncio.get_running_loop()
    received = b""
    try:
        await loop.sock_sendall(sock, request)
        while b"\r\n\r\n" not in received:
            part = await loop.sock_recv(sock, _READ_BYTES)
            received += part
            if not part or len(received) > LONGEST_HEAD + _READ_BYTES:
                raise DesktopUnreachable(f"what listens in the {whose} does not speak HTTP")
    except OSError as error:
        raise DesktopUnreachable(f"the {whose} hung up ({error.strerror})") from error
    return _parse(received, whose)


def accept_of(key: str) -> str:
    """The answer to a Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return b64encode(hashlib.sha1(key.encode() + _ACCEPT_SALT, usedforsecurity=False).digest()).decode()


def switching(key: str, protocol: str | None) -> bytes:
    """The 101 to an upgrade that came with this Sec-WebSocket-Key; `protocol`: of those that it offered."""
    chosen = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_of(key)}\r\n{chosen}\r\n"
    ).encode("ascii")


def offered(protocols: str) -> list[str]:
    """The subprotocols in a Sec-WebSocket-Protocol header."""
    return [name.strip() for name in protocols.split(",") if name.strip()]


def _parse(received: bytes, whose: str) -> Head:
    text, _, early = received.partition(b"\r\n\r\n")
    status, *lines = text.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.[01] ([1-5]\d\d)( .*)?", status)
    if found is None or len(text) > LONGEST_HEAD:
        raise DesktopUnreachable(f"what listens in the {whose} does not speak HTTP")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if not _LENGTH.fullmatch(headers.get("content-length", "0")):
        raise DesktopUnreachable(f"the {whose} states a length that is no number")
    return Head(int(found.group(1)), headers, early)
