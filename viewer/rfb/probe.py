"""First-frame probe: a client that asks for the whole screen in Raw until it shows two colours.

Two colours on a full screen are what tells a desktop from a server that only just listens.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from viewer.rfb.conversation import ProtocolError, Read, Script, Write
from viewer.rfb.handshake import CLIENT_INIT_SHARED, client_handshake

ENOUGH_COLOURS = 2
LARGEST_SIDE = 16384
"""Pixels; a larger screen is a broken or hostile server."""
LONGEST_TEXT = 1 << 20

BYTES_PER_PIXEL = 4
# 32 bits, depth 24, little endian, true colour; bytes in memory are blue, green, red, unused.
PIXEL_FORMAT = Struct(">BBBBHHHBBB3x").pack(32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
SET_PIXEL_FORMAT = b"\0\0\0\0" + PIXEL_FORMAT
ENCODING_RAW = 0
ENCODING_DESKTOP_SIZE = -223
ENCODING_LAST_RECT = -224
OFFERED_ENCODINGS = (ENCODING_RAW, ENCODING_DESKTOP_SIZE, ENCODING_LAST_RECT)
SET_ENCODINGS = Struct(">BxH3i").pack(2, len(OFFERED_ENCODINGS), *OFFERED_ENCODINGS)

_SERVER_INIT = Struct(">HH16sI")
_RECTANGLE = Struct(">HHHHi")
_UPDATE_REQUEST = Struct(">BBHHHH")
_UNCOUNTED_RECTANGLES = 0xFFFF


@dataclass
class Screen:
    """What the probe has learnt so far; readable while the probe still runs. Pixels; 0 while unknown."""

    width: int = 0
    height: int = 0
    colours: int = 0
    """Distinct colours of the last update; counting stops at ENOUGH_COLOURS."""
    colour: str | None = None
    """`#rrggbb`: the first one of the last update."""


def probe_first_frame(password: str | None, screen: Screen) -> Script[None]:
    """Log in and watch until `screen` shows ENOUGH_COLOURS in one update. Raises Refused or ProtocolError.

    On a screen of one colour it waits for a change and then looks at the whole again: an update that covers
    a part with one other colour says nothing of the rest."""
    yield from client_handshake(password)
    yield Write(CLIENT_INIT_SHARED)
    yield from _server_init(screen)
    yield Write(SET_PIXEL_FORMAT + SET_ENCODINGS)
    incremental = False
    while True:
        yield Write(_UPDATE_REQUEST.pack(3, incremental, 0, 0, screen.width, screen.height))
        yield from _next_update(screen)
        if screen.colours >= ENOUGH_COLOURS:
            return
        incremental = not incremental


def _server_init(screen: Screen) -> Script[None]:
    width, height, _format, name_length = _SERVER_INIT.unpack((yield Read(_SERVER_INIT.size)))
    _resize(screen, width, height)
    yield from skip_text(name_length)


def _next_update(screen: Screen) -> Script[None]:
    """Read server messages up to and including one FramebufferUpdate."""
    while True:
        kind = (yield Read(1))[0]
        if kind == 0:
            yield from _framebuffer_update(screen)
            return
        yield from skip_message(kind)


def _framebuffer_update(screen: Screen) -> Script[None]:
    count = int.from_bytes((yield Read(3))[1:], "big")
    colours = ColourCount()
    while count:
        _x, _y, width, height, encoding = _RECTANGLE.unpack((yield Read(_RECTANGLE.size)))
        if encoding == ENCODING_LAST_RECT:
            break
        if encoding == ENCODING_DESKTOP_SIZE:
            _resize(screen, width, height)
        elif encoding == ENCODING_RAW:
            # Rows of no pixels take no bytes, so a desktop could send millions of them in no time.
            for _row in range(height if width else 0):
                colours.add((yield Read(width * BYTES_PER_PIXEL)))
                if colours.seen >= ENOUGH_COLOURS:
                    screen.colours, screen.colour = colours.seen, colours.first
                    return
        else:
            raise ProtocolError(f"the desktop sent encoding {encoding}, which was not offered")
        if count != _UNCOUNTED_RECTANGLES:
            count -= 1
    screen.colours, screen.colour = colours.seen, colours.first


class ColourCount:
    """Counts distinct colours up to ENOUGH_COLOURS, fast on rows of one colour."""

    def __init__(self) -> None:
        self._first = b""
        self.seen = 0

    @property
    def first(self) -> str | None:
        """`#rrggbb`; in memory it is blue, green, red."""
        return f"#{self._first[::-1].hex()}" if self._first else None

    def add(self, pixels: bytes) -> None:
        """`pixels` are whole pixels in PIXEL_FORMAT; the fourth byte of each is undefined and ignored."""
        if self.seen >= ENOUGH_COLOURS or not pixels:
            return
        if not self.seen:
            self._first = pixels[:3]
            self.seen = 1
        count = len(pixels) // BYTES_PER_PIXEL
        for channel in range(3):
            if pixels[channel::BYTES_PER_PIXEL].count(self._first[channel]) != count:
                self.seen = ENOUGH_COLOURS
                return


def _resize(screen: Screen, width: int, height: int) -> None:
    check_size(width, height)
    screen.width, screen.height = width, height


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
