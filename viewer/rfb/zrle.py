"""Rectangles in ZRLE encoding (RFC 6143, 7.7.6), for a pixel format of which it sends three bytes: blue,
green, red."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from PIL import Image

from viewer.rfb.conversation import ProtocolError, Read, Script
from viewer.rfb.unzipping import Unzipped

TILE = 64
MOST_PIXELS = 1 << 22
"""Of one rectangle. Servers cut at fewer."""
_BGR = 3
_RAW, _SOLID, _MOST_PACKED, _PLAIN_RLE, _FIRST_PALETTE_RLE = 0, 1, 16, 128, 130
_FULL_RUN = 255
_LONGEST_PALETTE = 127

Put = Callable[[int, int, Image.Image], None]
"""x and y within the rectangle."""


def read_zrle(stream: Unzipped, width: int, height: int, put: Put) -> Script[None]:
    """Hand the rectangle out, tile by tile. Raises ProtocolError."""
    if width * height > MOST_PIXELS:
        raise ProtocolError(f"the desktop sent a ZRLE rectangle of {width}x{height} pixels")
    tiles = -(-width // TILE) * -(-height // TILE)
    # A run of one pixel takes four bytes.
    longest = tiles * (1 + _BGR * _LONGEST_PALETTE) + (_BGR + 1) * width * height
    length = int.from_bytes((yield Read(4)), "big")
    if length > longest + longest // 256 + 64:
        raise ProtocolError("the desktop sent more packed bytes than its rectangle holds")
    data = _Bytes(stream.at_most(longest, (yield Read(length))))
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            put(x, y, _tile(data, min(TILE, width - x), min(TILE, height - y)))
    data.check_end()


class _Bytes:
    """Taken from the front; raises ProtocolError where they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise ProtocolError("the desktop sent a ZRLE tile that ends too soon")
        self._at += count
        return taken

    def check_end(self) -> None:
        if self._at != len(self._data):
            raise ProtocolError("the desktop sent more packed bytes than its rectangle holds")


def _tile(data: _Bytes, width: int, height: int) -> Image.Image:
    kind = data.take(1)[0]
    if kind == _RAW:
        return _of_pixels(data.take(_BGR * width * height), width, height)
    if kind == _SOLID:
        blue, green, red = data.take(_BGR)
        return Image.new("RGB", (width, height), (red, green, blue))
    if kind <= _MOST_PACKED:
        return _packed(data, kind, width, height)
    if kind == _PLAIN_RLE:
        return _of_pixels(_runs(_plain_runs(data), width * height), width, height)
    if kind >= _FIRST_PALETTE_RLE:
        palette = data.take(_BGR * (kind - _PLAIN_RLE))
        return _of_pixels(_runs(_palette_runs(data, palette), width * height), width, height)
    raise ProtocolError(f"the desktop sent a ZRLE tile of unknown kind {kind}")


def _of_pixels(pixels: bytes, width: int, height: int) -> Image.Image:
    return Image.frombuffer("RGB", (width, height), pixels, "raw", "BGR", 0, 1)


def _packed(data: _Bytes, colours: int, width: int, height: int) -> Image.Image:
    palette = data.take(_BGR * colours)
    bits = 1 if colours == 2 else 2 if colours <= 4 else 4
    numbers = data.take((width * bits + 7) // 8 * height)
    picture = Image.frombytes("P", (width, height), numbers, "raw", f"P;{bits}")
    # Pillow's palettes begin with red.
    picture.putpalette(
        bytes(chain.from_iterable(zip(palette[2::3], palette[1::3], palette[::3], strict=True)))
    )
    return picture.convert("RGB")


def _plain_runs(data: _Bytes) -> Iterator[tuple[bytes, int]]:
    while True:
        pixel = data.take(_BGR)
        yield pixel, _run_length(data)


def _palette_runs(data: _Bytes, palette: bytes) -> Iterator[tuple[bytes, int]]:
    while True:
        number = data.take(1)[0]
        at = _BGR * (number & 0x7F)
        pixel = palette[at : at + _BGR]
        if not pixel:
            raise ProtocolError("the desktop sent a colour that is not in its tile's palette")
        yield pixel, _run_length(data) if number & 0x80 else 1


def _run_length(data: _Bytes) -> int:
    length = 1
    while (more := data.take(1)[0]) == _FULL_RUN:
        length += more
        if length > TILE * TILE:
            break
    return length + more


def _runs(runs: Iterator[tuple[bytes, int]], count: int) -> bytes:
    parts, left = [], count
    while left > 0:
        pixel, length = next(runs)
        left -= length
        parts.append(pixel * min(length, count))
    if left:
        raise ProtocolError("the desktop sent a run that is longer than its tile")
    return b"".join(parts)
