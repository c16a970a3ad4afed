"""What our RFB clients, the one that watches and the one that acts, say and read alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

from viewer.rfb import encodings
from viewer.rfb.conversation import ProtocolError, Read, Script, Write
from viewer.rfb.handshake import CLIENT_INIT_SHARED

LARGEST_SIDE = 16384
"""Pixels; a larger screen is a broken or hostile server."""
LONGEST_TEXT = 1 << 20

BYTES_PER_PIXEL = 4
# 32 bits, depth 24, little endian, true colour; bytes in memory are blue, green, red, unused.
PIXEL_FORMAT = Struct(">BBBBHHHBBB3x").pack(32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
SET_PIXEL_FORMAT = b"\0\0\0\0" + PIXEL_FORMAT

_SERVER_INIT = Struct(">HH16xI")
_RECTANGLE = Struct(">HHHHi")
_UNCOUNTED_RECTANGLES = 0xFFFF


class Rectangle(NamedTuple):
    x: int
    y: int
    width: int
    height: int
    encoding: int


def set_encodings(offered: Sequence[int]) -> bytes:
    return Struct(f">BxH{len(offered)}i").pack(2, len(offered), *offered)


def initialise() -> Script[tuple[int, int]]:
    """From ClientInit on; return width and height of the screen. Raises ProtocolError."""
    yield Write(CLIENT_INIT_SHARED)
    width, height, name_length = _SERVER_INIT.unpack((yield Read(_SERVER_INIT.size)))
    check_size(width, height)
    yield from skip_text(name_length)
    return width, height


def read_update(take: Callable[[Rectangle], Script[None]]) -> Script[None]:
    """The rest of a FramebufferUpdate. take: reads what belongs to one rectangle."""
    count = int.from_bytes((yield Read(3))[1:], "big")
    while count:
        rectangle = Rectangle(*_RECTANGLE.unpack((yield Read(_RECTANGLE.size))))
        if rectangle.encoding == encodings.LAST_RECT:
            return
        yield from take(rectangle)
        if count != _UNCOUNTED_RECTANGLES:
            count -= 1


def check_size(width: int, height: int) -> None:
    """Raise ProtocolError for a screen that is none."""
    if not 0 < width <= LARGEST_SIDE or not 0 < height <= LARGEST_SIDE:
        raise ProtocolError(f"the desktop claims a screen of {width}x{height} pixels")


def skip_message(kind: int) -> Script[None]:
    """The rest of a server's message that is no update: colours, a bell, a text for the clipboard. Raises
    ProtocolError for one that nobody asked for."""
    if kind == 1:
        header = yield Read(5)
        yield from skip_text(6 * int.from_bytes(header[3:5], "big"))
    elif kind == 3:
        header = yield Read(7)
        yield from skip_text(int.from_bytes(header[3:7], "big"))
    elif kind != 2:
        raise ProtocolError(f"the desktop sent an unknown message of type {kind}")


def skip_text(length: int) -> Script[None]:
    if length > LONGEST_TEXT:
        raise ProtocolError(f"the desktop sent a text of {length} bytes")
    yield Read(length)
