"""An RFB client that looks and does nothing else: it keeps a framebuffer of what it is sent.

It asks for nothing by itself: whoever drives it writes `update_request` when a picture is wanted. The pointer
is drawn by the server: pictures show it where people who watch see it, and where it covers something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

from viewer.rfb import encodings
from viewer.rfb.conversation import ProtocolError, Read, Script, Write
from viewer.rfb.framebuffer import Framebuffer
from viewer.rfb.handshake import CLIENT_INIT_SHARED, client_handshake
from viewer.rfb.probe import BYTES_PER_PIXEL, SET_PIXEL_FORMAT, skip_message, skip_text
from viewer.rfb.tight import TightStreams, read_tight
from viewer.rfb.unzipping import Unzipped
from viewer.rfb.zrle import read_zrle

_ALWAYS = (encodings.DESKTOP_SIZE, encodings.LAST_RECT)
"""Not the extended size of the screen: TigerVNC would answer each `ask_for_now` with that, and no pixel."""
RAW = (encodings.COPY_RECT, encodings.RAW, *_ALWAYS)
"""Beside the desktop bytes cost next to nothing, and packing them costs both sides a multiple."""
PACKED = (encodings.COPY_RECT, encodings.TIGHT, encodings.ZRLE, encodings.RAW, *_ALWAYS)
"""Without a wish for a quality of JPEGs, which leaves every pixel as it is."""
STRIP_BYTES = 1 << 18
"""Of raw pixels, taken at once: a whole screen of them need not be in memory beside its picture."""

_SERVER_INIT = Struct(">HH16xI")
_RECTANGLE = Struct(">HHHHi")
_UPDATE_REQUEST = Struct(">BBHHHH")
_UNCOUNTED_RECTANGLES = 0xFFFF


MOST_SCREENS = 2
"""So often the server may send the whole screen for one question; more would only keep the relay busy."""
MOST_SIZES = 4
"""The same, of other sizes of the screen."""
SMALLEST_PIXELS = 64
"""What a rectangle costs at least, counted in pixels."""


@dataclass
class Watched:
    """What is known of the server. answers: updates that came whole; `updates`: those of them with pixels;
    `in_update`: another one has begun, so the framebuffer may be half of one picture and half of another."""

    framebuffer: Framebuffer = field(default_factory=Framebuffer)
    answers: int = 0
    updates: int = 0
    in_update: bool = False
    is_ready: bool = False
    """Logged in: updates may be asked for."""
    knows_all: bool = False
    """Whether every pixel of the screen, as large as it is now, was asked for."""
    shows_all: bool = False
    """Whether they have come."""
    _sizes_allowed: int = 0
    _allowed: int = 0
    """Pixels."""
    tight: TightStreams = field(default_factory=TightStreams)
    zrle: Unzipped = field(default_factory=Unzipped)

    def ask_for_changes(self) -> bytes:
        """The server answers as soon as something changes; at once if the whole is not known yet."""
        screen = self.framebuffer
        self._sizes_allowed = MOST_SIZES
        self._allowed = MOST_SCREENS * screen.width * screen.height + STRIP_BYTES
        knows_all, self.knows_all = self.knows_all, True
        return _UPDATE_REQUEST.pack(3, knows_all, 0, 0, screen.width, screen.height)

    def ask_for_now(self) -> bytes:
        """The server answers at once, with what has changed and at least one pixel: then the framebuffer is
        as the screen is."""
        return self.ask_for_changes() + _UPDATE_REQUEST.pack(3, False, 0, 0, 1, 1)

    def resize(self, width: int, height: int) -> None:
        """Raises ProtocolError."""
        if (width, height) == (self.framebuffer.width, self.framebuffer.height):
            return
        self._sizes_allowed -= 1
        if self._sizes_allowed < 0:
            raise ProtocolError("the desktop changes its size again and again")
        self.knows_all = self.shows_all = False
        self.framebuffer.resize(width, height)

    def spend(self, pixels: int) -> None:
        """Raises ProtocolError."""
        self._allowed -= max(pixels, SMALLEST_PIXELS)
        if self._allowed < 0:
            raise ProtocolError("the desktop sends far more than it was asked for")


def watch(password: str | None, server: Watched, offered: tuple[int, ...] = RAW) -> Script[None]:
    """Log in and take what comes, for ever. Raises Refused or ProtocolError."""
    yield from client_handshake(password)
    yield Write(CLIENT_INIT_SHARED)
    width, height, name_length = _SERVER_INIT.unpack((yield Read(_SERVER_INIT.size)))
    server.framebuffer.resize(width, height)
    yield from skip_text(name_length)
    yield Write(SET_PIXEL_FORMAT + _set_encodings(offered))
    server.is_ready = True
    while True:
        yield from _one_message(server)


def _set_encodings(wanted: tuple[int, ...]) -> bytes:
    return Struct(f">BxH{len(wanted)}i").pack(2, len(wanted), *wanted)


def _one_message(server: Watched) -> Script[None]:
    kind = (yield Read(1))[0]
    if kind == 0:
        server.in_update = True
        has_pixels = yield from _update(server)
        server.in_update = False
        if has_pixels:
            server.updates += 1
            server.shows_all = server.knows_all
        server.answers += 1
    else:
        yield from skip_message(kind)


def _update(server: Watched) -> Script[bool]:
    """Whether it brought pixels, and not only news of the screen's size."""
    has_pixels = False
    count = int.from_bytes((yield Read(3))[1:], "big")
    while count:
        x, y, width, height, encoding = _RECTANGLE.unpack((yield Read(_RECTANGLE.size)))
        if encoding == encodings.LAST_RECT:
            break
        has_pixels = has_pixels or encoding >= 0
        yield from _rectangle(server, x, y, width, height, encoding)
        if count != _UNCOUNTED_RECTANGLES:
            count -= 1
    return has_pixels


def _rectangle(server: Watched, x: int, y: int, width: int, height: int, encoding: int) -> Script[None]:
    if encoding == encodings.CURSOR:
        # Its hot spot is at x, y; without a place it cannot be drawn.
        server.spend(width * height)
        yield Read((BYTES_PER_PIXEL * width + (width + 7) // 8) * height)
        return
    if encoding == encodings.EXTENDED_DESKTOP_SIZE:
        # x: why it is sent, y: what became of a wish, which is never ours.
        yield Read(16 * (yield Read(4))[0])
    if encoding in (encodings.DESKTOP_SIZE, encodings.EXTENDED_DESKTOP_SIZE):
        server.resize(width, height)
        return
    screen = server.framebuffer
    screen.check(x, y, width, height)
    server.spend(width * height)
    if encoding == encodings.RAW:
        yield from _raw(screen, x, y, width, height)
    elif not width or not height:
        raise ProtocolError("the desktop sent a rectangle of no pixels")
    elif encoding == encodings.TIGHT:
        screen.put(x, y, (yield from read_tight(server.tight, width, height)))
    elif encoding == encodings.ZRLE:
        yield from read_zrle(
            server.zrle, width, height, lambda tile_x, tile_y, tile: screen.put(x + tile_x, y + tile_y, tile)
        )
    elif encoding == encodings.COPY_RECT:
        place = yield Read(4)
        source_x, source_y = int.from_bytes(place[:2], "big"), int.from_bytes(place[2:], "big")
        screen.check(source_x, source_y, width, height)
        screen.copy(source_x, source_y, x, y, width, height)
    else:
        raise ProtocolError(f"the desktop sent encoding {encoding}, which was not offered to it")


def _raw(screen: Framebuffer, x: int, y: int, width: int, height: int) -> Script[None]:
    if not width or not height:
        return
    rows = max(1, STRIP_BYTES // (BYTES_PER_PIXEL * width))
    for top in range(0, height, rows):
        count = min(rows, height - top)
        pixels = yield Read(BYTES_PER_PIXEL * width * count)
        screen.put_pixels(x, y + top, width, count, pixels)
