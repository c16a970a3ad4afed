"""Where client-to-server messages begin and end: their types and lengths, and nothing of their meaning.

Client messages carry no length of their own, so an unknown type cannot be skipped: it raises, and the
stream must end.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from viewer.rfb.conversation import ProtocolError

LONGEST_MESSAGE = 1 << 20
"""Bytes; above it only a clipboard could be, and Xvnc itself stops at 256 KiB."""


class ClientMessage(IntEnum):
    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY_EVENT = 4
    POINTER_EVENT = 5
    CUT_TEXT = 6
    CONTINUOUS_UPDATES = 150
    FENCE = 248
    XVP = 250
    SET_DESKTOP_SIZE = 251
    QEMU = 255


ACTING = frozenset(
    {
        ClientMessage.KEY_EVENT,
        ClientMessage.POINTER_EVENT,
        ClientMessage.CUT_TEXT,
        ClientMessage.XVP,
        ClientMessage.SET_DESKTOP_SIZE,
        ClientMessage.QEMU,
    }
)
"""What does something on the desktop. The rest asks for pictures and must pass, or the picture stalls."""

_FIXED = {
    ClientMessage.SET_PIXEL_FORMAT: 20,
    ClientMessage.UPDATE_REQUEST: 10,
    ClientMessage.KEY_EVENT: 8,
    ClientMessage.CONTINUOUS_UPDATES: 10,
    ClientMessage.XVP: 4,
}
_HEADER = {
    ClientMessage.SET_ENCODINGS: 4,
    ClientMessage.POINTER_EVENT: 2,
    ClientMessage.CUT_TEXT: 8,
    ClientMessage.FENCE: 9,
    ClientMessage.SET_DESKTOP_SIZE: 8,
    ClientMessage.QEMU: 2,
}
_EXTENDED_BUTTONS = 0x80
_QEMU_KEY_BYTES = 12


def message_length(start: bytes) -> int | None:
    """Length in bytes of the message that begins with `start`; None while too little is there to say."""
    if not start:
        return None
    try:
        kind = ClientMessage(start[0])
    except ValueError:
        raise ProtocolError(f"unknown client message type {start[0]}") from None
    if kind in _FIXED:
        return _FIXED[kind]
    if len(start) < _HEADER[kind]:
        return None
    length = _length_from_header(kind, start)
    if length > LONGEST_MESSAGE:
        raise ProtocolError(f"a client message of {length} bytes is above the limit of {LONGEST_MESSAGE}")
    return length


def _length_from_header(kind: ClientMessage, start: bytes) -> int:
    if kind is ClientMessage.SET_ENCODINGS:
        return 4 + 4 * int.from_bytes(start[2:4], "big")
    if kind is ClientMessage.POINTER_EVENT:
        return 7 if start[1] & _EXTENDED_BUTTONS else 6
    if kind is ClientMessage.CUT_TEXT:
        # A negative length marks the extended clipboard.
        return 8 + abs(int.from_bytes(start[4:8], "big", signed=True))
    if kind is ClientMessage.FENCE:
        return 9 + start[8]
    if kind is ClientMessage.SET_DESKTOP_SIZE:
        return 8 + 16 * start[6]
    if start[1] != 0:
        raise ProtocolError(f"unknown QEMU client message {start[1]}")
    return _QEMU_KEY_BYTES


class ClientMessageParser:
    """Cuts a byte stream, however chunked, into whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every message completed by `data`; raises ProtocolError."""
        self._buffer += data
        start = 0
        try:
            while (length := message_length(bytes(self._buffer[start : start + 9]))) is not None:
                if len(self._buffer) - start < length:
                    return
                yield bytes(self._buffer[start : start + length])
                start += length
        finally:
            del self._buffer[:start]


class ViewOnlyFilter:
    """Lets a watcher's messages pass as far as they only ask for pictures."""

    def __init__(self) -> None:
        self._parser = ClientMessageParser()

    def feed(self, data: bytes) -> bytes:
        """Return the whole messages of `data` that may pass; raises ProtocolError."""
        return b"".join(message for message in self._parser.feed(data) if message[0] not in ACTING)
