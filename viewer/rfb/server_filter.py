"""Desktop to browser without the clipboard, for tenants whose policy keeps it inside.

Server messages must be followed to their ends to find the next one, so the desktop is offered only encodings
whose lengths tell themselves (`encodings.can_be_followed`). Nothing is decoded and nothing is kept: pixels
pass as they come. Streams that may have the clipboard are not looked at.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple, TypeVar

from viewer.rfb import encodings
from viewer.rfb.conversation import STEPS_AT_ONCE, ProtocolError

LONGEST_NAME = 1 << 16
_INIT = Struct(">HH16sI")
_RECTANGLE = Struct(">HHHHi")
_PIXEL_FORMAT = Struct(">BBBBHHHBBB3x")
_UNTIL_LAST = 0xFFFF


class ServerMessage(IntEnum):
    UPDATE = 0
    COLOUR_MAP = 1
    BELL = 2
    CUT_TEXT = 3
    END_OF_CONTINUOUS_UPDATES = 150
    FENCE = 248


class _Hold(NamedTuple):
    """So many bytes are sent into the script, and not passed on."""

    size: int


class _Pass(NamedTuple):
    size: int


class _Drop(NamedTuple):
    size: int


class _Emit(NamedTuple):
    """What was held."""

    data: bytes


_Step = _Hold | _Pass | _Drop | _Emit
_T = TypeVar("_T")
_Script = Generator[_Step, bytes, _T]


class PixelFormat(NamedTuple):
    """Bytes of a pixel, and of one in Tight, which leaves out an unused fourth."""

    pixel: int
    tight_pixel: int

    @classmethod
    def of(cls, wire: bytes) -> PixelFormat:
        """wire: 16 bytes, as in ServerInit and SetPixelFormat. Raises ProtocolError."""
        bits, depth, _big, is_true, *most = _PIXEL_FORMAT.unpack(wire)[:7]
        if bits not in (8, 16, 32):
            raise ProtocolError(f"a pixel of {bits} bits is none that RFB knows")
        packs = bool(is_true) and bits == 32 and depth == 24 and most == [255, 255, 255]
        return cls(bits // 8, 3 if packs else bits // 8)


class ServerFilter:
    """Of one stream, from ServerInit on."""

    def __init__(self) -> None:
        self._native: PixelFormat | None = None
        self._chosen: PixelFormat | None = None
        self._buffer = bytearray()
        self._script = self._messages()
        self._step: _Step = next(self._script)

    def use_pixel_format(self, wire: bytes) -> None:
        """The client has chosen this one, of 16 bytes. Raises ProtocolError."""
        self._chosen = PixelFormat.of(wire)

    @property
    def behind(self) -> bool:
        """Whether `feed` would go on with what is there already; call it with b"" after a pause."""
        step, left = self._step, len(self._buffer)
        if isinstance(step, _Emit):
            return True
        return left >= step.size if isinstance(step, _Hold) else left > 0 or step.size == 0

    def feed(self, data: bytes | memoryview) -> bytes:
        """Return what of `data` passes; raises ProtocolError."""
        self._buffer += data
        passed, at = bytearray(), 0
        for _ in range(STEPS_AT_ONCE):
            step, left = self._step, len(self._buffer) - at
            if isinstance(step, _Emit):
                passed += step.data
                self._step = self._script.send(b"")
                continue
            if isinstance(step, _Hold):
                if left < step.size:
                    break
                held = bytes(self._buffer[at : at + step.size])
                at += step.size
                self._step = self._script.send(held)
                continue
            size = min(step.size, left)
            if isinstance(step, _Pass):
                passed += memoryview(self._buffer)[at : at + size]
            at += size
            if size < step.size:
                self._step = step._replace(size=step.size - size)
                break
            self._step = self._script.send(b"")
        del self._buffer[:at]
        return bytes(passed)

    def _messages(self) -> _Script[None]:
        init = yield from _look(_INIT.size)
        *_size, pixel_format, name_bytes = _INIT.unpack(init)
        if name_bytes > LONGEST_NAME:
            raise ProtocolError("the desktop has a name of impossible length")
        self._native = PixelFormat.of(pixel_format)
        yield _Pass(name_bytes)
        while True:
            kind = yield _Hold(1)
            if kind[0] == ServerMessage.CUT_TEXT:
                length = (yield _Hold(7))[3:]
                yield _Drop(abs(int.from_bytes(length, "big", signed=True)))
                continue
            yield _Emit(kind)
            yield from self._message(kind[0])

    def _message(self, kind: int) -> _Script[None]:
        if kind == ServerMessage.UPDATE:
            yield from self._update()
        elif kind == ServerMessage.COLOUR_MAP:
            head = yield from _look(5)
            yield _Pass(6 * int.from_bytes(head[3:], "big"))
        elif kind == ServerMessage.FENCE:
            head = yield from _look(8)
            yield _Pass(head[7])
        elif kind not in (ServerMessage.BELL, ServerMessage.END_OF_CONTINUOUS_UPDATES):
            raise ProtocolError(f"the desktop sent a message of unknown type {kind}")

    def _update(self) -> _Script[None]:
        head = yield from _look(3)
        left = int.from_bytes(head[1:], "big")
        is_open = left == _UNTIL_LAST
        while left or is_open:
            left -= 1
            _x, _y, width, height, encoding = _RECTANGLE.unpack((yield from _look(_RECTANGLE.size)))
            if encoding == encodings.LAST_RECT:
                return
            yield from self._rectangle(width, height, encoding)

    @property
    def _format(self) -> PixelFormat:
        wanted = self._chosen or self._native
        if wanted is None:
            raise ProtocolError("the desktop sent a picture before it said of what form")
        return wanted

    def _rectangle(self, width: int, height: int, encoding: int) -> _Script[None]:
        pixel = self._format.pixel
        if encoding == encodings.RAW:
            yield _Pass(width * height * pixel)
        elif encoding == encodings.COPY_RECT:
            yield _Pass(4)
        elif encoding in (encodings.ZRLE, encodings.ZLIB, encodings.DESKTOP_NAME):
            yield _Pass(int.from_bytes((yield from _look(4)), "big"))
        elif encoding == encodings.TIGHT:
            yield from self._tight(width, height)
        elif encoding == encodings.CURSOR:
            yield _Pass(width * height * pixel + (width + 7) // 8 * height)
        elif encoding == encodings.EXTENDED_DESKTOP_SIZE:
            yield _Pass(16 * (yield from _look(4))[0])
        elif encoding == encodings.LED_STATE:
            yield _Pass(1)
        elif encoding not in (encodings.DESKTOP_SIZE, encodings.QEMU_KEYS):
            raise ProtocolError(f"the desktop sent encoding {encoding}, which was not offered to it")

    def _tight(self, width: int, height: int) -> _Script[None]:
        pixel = self._format.tight_pixel
        control = (yield from _look(1))[0] >> 4
        if control == encodings.TIGHT_FILL:
            yield _Pass(pixel)
        elif control == encodings.TIGHT_JPEG:
            yield _Pass((yield from _compact_length()))
        elif control > encodings.TIGHT_JPEG:
            raise ProtocolError(f"the desktop sent a Tight rectangle of unknown kind {control}")
        else:
            chosen = (yield from _look(1))[0] if control & encodings.TIGHT_EXPLICIT_FILTER else 0
            row = width * pixel
            if chosen == encodings.TIGHT_PALETTE:
                colours = (yield from _look(1))[0] + 1
                yield _Pass(colours * pixel)
                row = (width + 7) // 8 if colours <= 2 else width
            elif chosen > encodings.TIGHT_GRADIENT:
                raise ProtocolError(f"the desktop sent a Tight rectangle with unknown filter {chosen}")
            size = row * height
            yield _Pass(size if size < encodings.TIGHT_SHORTEST_ZIPPED else (yield from _compact_length()))


def _look(size: int) -> _Script[bytes]:
    """Read what passes all the same."""
    data = yield _Hold(size)
    yield _Emit(data)
    return data


def _compact_length() -> _Script[int]:
    """One to three bytes, seven bits in each of the first two."""
    length = 0
    for shift in (0, 7, 14):
        byte = (yield from _look(1))[0]
        length |= (byte if shift == 14 else byte & 0x7F) << shift
        if shift == 14 or byte < 0x80:
            break
    return length
