"""An RFB client that looks and does nothing else: it keeps a framebuffer of what it is sent.

It asks for nothing by itself: whoever drives it writes `update_request` when a picture is wanted. The pointer
is drawn by the server: pictures show it where people who watch see it, and where it covers something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct

from PIL import Image

from viewer.rfb import encodings
from viewer.rfb.client_parts import (
    BYTES_PER_PIXEL,
    SET_PIXEL_FORMAT,
    Rectangle,
    initialise,
    read_update,
    set_encodings,
    skip_message,
)
from viewer.rfb.colours import Colours
from viewer.rfb.conversation import ProtocolError, Read, Script, Write
from viewer.rfb.framebuffer import Framebuffer
from viewer.rfb.handshake import client_handshake
from viewer.rfb.tight import TightStreams, read_tight
from viewer.rfb.unzipping import Unzipped
from viewer.rfb.zrle import read_zrle

_ALWAYS = (encodings.DESKTOP_SIZE, encodings.LAST_RECT)
"""Not the extended size of the screen: TigerVNC would answer each `ask_for_now` with that, and no pixel."""
RAW = (encodings.COPY_RECT, encodings.RAW, *_ALWAYS)
"""Beside the desktop bytes cost next to nothing, and packing them costs both sides a multiple."""
PACKED = (encodings.COPY_RECT, encodings.TIGHT, encodings.ZRLE, encodings.RAW, *_ALWAYS)
"""Without a wish for a quality of JPEGs, which leaves every pixel as it is."""
PLAIN = (encodings.RAW, *_ALWAYS)
"""For who keeps no pixels: every update tells its colours by itself."""
STRIP_BYTES = 1 << 18
"""Of raw pixels, taken at once: a whole screen of them need not be in memory beside its picture."""
FIRST_STRIP_BYTES = 1 << 14
"""The same, while it is waited for a second colour: that is told before the rest has come."""

_UPDATE_REQUEST = Struct(">BBHHHH")

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
    on_colours: Callable[[], None] = lambda: None
    """Called when it is known that they are enough; what has come of the picture is still to be put in."""
    _looks_for_colours: bool = False
    _colours_so_far: Colours = field(default_factory=Colours)
    _colours_of_last: Colours = field(default_factory=Colours)
    _looks_at_all: bool = False
    """Whether the last question for colours was for the whole screen."""
    offered: tuple[int, ...] = RAW
    _missing: int = 0
    """Pixels of the screen that are still to come, since its picture is kept."""
    _sizes_allowed: int = 0
    _allowed: int = 0
    """Pixels."""
    tight: TightStreams = field(default_factory=TightStreams)
    zrle: Unzipped = field(default_factory=Unzipped)

    def begin(self, width: int, height: int) -> None:
        """Logged in. Some servers paint before they are asked to. Raises ProtocolError."""
        self.framebuffer.resize(width, height)
        self._allow()
        self.is_ready = True

    def _allow(self) -> None:
        self._sizes_allowed = MOST_SIZES
        self._allowed = MOST_SCREENS * self.framebuffer.width * self.framebuffer.height + STRIP_BYTES

    def ask_for_changes(self) -> bytes:
        """The server answers as soon as something changes; at once if the whole is not known yet."""
        screen = self.framebuffer
        self._allow()
        knows_all, self.knows_all = self.knows_all, True
        return _UPDATE_REQUEST.pack(3, knows_all, 0, 0, screen.width, screen.height)

    def ask_for_now(self) -> bytes:
        """The server answers at once, with what has changed and at least one pixel: then the framebuffer is
        as the screen is."""
        return self.ask_for_changes() + _UPDATE_REQUEST.pack(3, False, 0, 0, 1, 1)

    @property
    def colours(self) -> Colours:
        """Of the last update, or of what has come of the next one if those are enough."""
        return self._colours_so_far if self._colours_so_far.are_enough else self._colours_of_last

    @property
    def wants_more_colours(self) -> bool:
        return self._looks_for_colours and not self._colours_so_far.are_enough

    def look_for_colours(self) -> None:
        """Afresh: what was seen before does not count."""
        self._colours_so_far, self._colours_of_last = Colours(), Colours()
        self._looks_for_colours, self._looks_at_all = True, False

    def look_no_more_for_colours(self) -> None:
        self._looks_for_colours = False

    def ask_for_colours(self) -> bytes:
        """By turns for the whole screen, which is answered at once, and for a change of it: one that covers a
        part with one other colour says nothing of the rest."""
        self._looks_at_all = not (self._looks_at_all and self.knows_all)
        self.knows_all = not self._looks_at_all
        return self.ask_for_changes()

    def begin_update(self) -> None:
        self.in_update = True
        self._colours_so_far = Colours()

    def end_update(self, *, has_pixels: bool) -> None:
        self.in_update = False
        self._colours_of_last = self._colours_so_far
        if has_pixels:
            self.updates += 1
            self.shows_all = self.knows_all and self._missing <= 0
        self.answers += 1

    def keep_pixels(self, framebuffer: Framebuffer, offered: tuple[int, ...]) -> bytes:
        """From now on in that one, which is empty. The whole is to be asked for next; until it has come, what
        was asked for before may come. Raises ProtocolError."""
        width, height = self.framebuffer.width, self.framebuffer.height
        framebuffer.resize(width, height)
        self.framebuffer, self.offered, self._missing = framebuffer, offered, width * height
        self.knows_all = self.shows_all = False
        return set_encodings(offered)

    def put(self, x: int, y: int, part: Image.Image) -> None:
        """part: RGB; all of it on the screen."""
        if self.wants_more_colours:
            self._count_colours(part.tobytes("raw", "BGRX"))
        self.framebuffer.put(x, y, part)

    def put_pixels(self, x: int, y: int, width: int, height: int, pixels: bytes) -> None:
        """The same, as they come on the wire."""
        if self.wants_more_colours:
            self._count_colours(pixels)
        self.framebuffer.put_pixels(x, y, width, height, pixels)

    def _count_colours(self, pixels: bytes) -> None:
        self._colours_so_far.add(pixels)
        if self._colours_so_far.are_enough:
            self.on_colours()

    def resize(self, width: int, height: int) -> None:
        """Raises ProtocolError."""
        if (width, height) == (self.framebuffer.width, self.framebuffer.height):
            return
        self._sizes_allowed -= 1
        if self._sizes_allowed < 0:
            raise ProtocolError("the desktop changes its size again and again")
        self.knows_all = self.shows_all = False
        self._missing = 0
        self.framebuffer.resize(width, height)

    def spend(self, pixels: int) -> None:
        """Raises ProtocolError."""
        self._missing -= pixels
        self._allowed -= max(pixels, SMALLEST_PIXELS)
        if self._allowed < 0:
            raise ProtocolError("the desktop sends far more than it was asked for")


def watch(password: str | None, server: Watched, offered: tuple[int, ...] = RAW) -> Script[None]:
    """Log in and take what comes, for ever. Raises Refused or ProtocolError."""
    yield from _log_in(password, server, offered)
    while True:
        yield from _one_message(server)


def watch_for_colours(password: str | None, server: Watched) -> Script[None]:
    """The same, and ask: until `server.colours` are enough, which the caller looks at."""
    server.look_for_colours()
    yield from _log_in(password, server, PLAIN)
    while True:
        yield Write(server.ask_for_colours())
        answers = server.answers
        while server.answers == answers:
            yield from _one_message(server)


def _log_in(password: str | None, server: Watched, offered: tuple[int, ...]) -> Script[None]:
    yield from client_handshake(password)
    width, height = yield from initialise()
    server.offered = offered
    yield Write(SET_PIXEL_FORMAT + set_encodings(offered))
    server.begin(width, height)


def _one_message(server: Watched) -> Script[None]:
    kind = (yield Read(1))[0]
    if kind == 0:
        server.begin_update()
        server.end_update(has_pixels=(yield from _update(server)))
    else:
        yield from skip_message(kind)


def _update(server: Watched) -> Script[bool]:
    """Whether it brought pixels, and not only news of the screen's size."""
    has_pixels = False

    def take(rectangle: Rectangle) -> Script[None]:
        nonlocal has_pixels
        has_pixels = has_pixels or rectangle.encoding >= 0
        yield from _rectangle(server, *rectangle)

    yield from read_update(take)
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
    if encoding not in server.offered:
        raise ProtocolError(f"the desktop sent encoding {encoding}, which was not offered to it")
    screen = server.framebuffer
    screen.check(x, y, width, height)
    server.spend(width * height)
    if encoding == encodings.RAW:
        yield from _raw(server, x, y, width, height)
    elif not width or not height:
        raise ProtocolError("the desktop sent a rectangle of no pixels")
    elif encoding == encodings.TIGHT:
        server.put(x, y, (yield from read_tight(server.tight, width, height)))
    elif encoding == encodings.ZRLE:
        yield from read_zrle(
            server.zrle, width, height, lambda tile_x, tile_y, tile: server.put(x + tile_x, y + tile_y, tile)
        )
    elif encoding == encodings.COPY_RECT:
        place = yield Read(4)
        source_x, source_y = int.from_bytes(place[:2], "big"), int.from_bytes(place[2:], "big")
        screen.check(source_x, source_y, width, height)
        server.put(x, y, screen.cut_out(source_x, source_y, width, height))


def _raw(server: Watched, x: int, y: int, width: int, height: int) -> Script[None]:
    if not width or not height:
        return
    top = 0
    while top < height:
        strip = FIRST_STRIP_BYTES if server.wants_more_colours else STRIP_BYTES
        count = min(max(1, strip // (BYTES_PER_PIXEL * width)), height - top)
        pixels = yield Read(BYTES_PER_PIXEL * width * count)
        server.put_pixels(x, y + top, width, count, pixels)
        top += count
