"""Where client-to-server messages begin and end: their types and lengths, and nothing of their meaning.

Client messages carry no length of their own, so an unknown type cannot be skipped: it raises, and the
stream must end. Nor may a length depend on what server and client have agreed on, because the relay does not
see the server's side of it: what would change a length is not offered to the server (`client_filter`).
"""

from __future__ import annotations

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
    ClientMessage.POINTER_EVENT: 6,
    ClientMessage.CONTINUOUS_UPDATES: 10,
    ClientMessage.XVP: 4,
}
_HEADER = {
    ClientMessage.SET_ENCODINGS: 4,
    ClientMessage.CUT_TEXT: 8,
    ClientMessage.FENCE: 9,
    ClientMessage.SET_DESKTOP_SIZE: 8,
    ClientMessage.QEMU: 2,
}
HEADER_BYTES = 9
"""So many tell the length of any message."""
_QEMU_KEY_BYTES = 12


def message_length(start: bytes | bytearray) -> int | None:
    """Length in bytes of the message that begins with `start`; None while too little is there to say.
    Raises ProtocolError."""
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


def _length_from_header(kind: ClientMessage, start: bytes | bytearray) -> int:
    if kind is ClientMessage.SET_ENCODINGS:
        return 4 + 4 * int.from_bytes(start[2:4], "big")
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
