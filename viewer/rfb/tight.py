"""Rectangles in Tight encoding, for a pixel format of which it sends three bytes: red, green, blue.

Registered as encoding 7; described in the community's RFB protocol, 7.7.6.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image, UnidentifiedImageError

from viewer.rfb import encodings
from viewer.rfb.conversation import ProtocolError, Read, Script
from viewer.rfb.unzipping import Unzipped

MOST_PIXELS = 1 << 22
"""Of a rectangle that is packed. Servers cut at 65,536; filled ones may be larger."""
_RGB = 3
_UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError)
"""What Pillow raises for bytes that are no JPEG, half of one, or one of far too many pixels."""


class TightStreams:
    """The four of a connection."""

    def __init__(self) -> None:
        self._streams = [Unzipped() for _ in range(4)]

    def __getitem__(self, number: int) -> Unzipped:
        return self._streams[number]

    def reset(self, bits: int) -> None:
        for number in range(4):
            if bits & 1 << number:
                self._streams[number] = Unzipped()


def read_tight(streams: TightStreams, width: int, height: int) -> Script[Image.Image]:
    """Return the rectangle in RGB. Raises ProtocolError."""
    control = (yield Read(1))[0]
    streams.reset(control & 0xF)
    kind = control >> 4
    if kind == encodings.TIGHT_FILL:
        red, green, blue = yield Read(_RGB)
        return Image.new("RGB", (width, height), (red, green, blue))
    if width * height > MOST_PIXELS:
        raise ProtocolError(f"the desktop sent a Tight rectangle of {width}x{height} pixels")
    if kind == encodings.TIGHT_JPEG:
        length = yield from _compact_length()
        return _opened((yield Read(length)), width, height)
    if kind > encodings.TIGHT_JPEG:
        raise ProtocolError(f"the desktop sent a Tight rectangle of unknown kind {kind}")
    filter_id = (yield Read(1))[0] if kind & encodings.TIGHT_EXPLICIT_FILTER else encodings.TIGHT_COPY
    stream = streams[kind & 3]
    if filter_id == encodings.TIGHT_PALETTE:
        return (yield from _palette(stream, width, height))
    if filter_id > encodings.TIGHT_GRADIENT:
        raise ProtocolError(f"the desktop sent a Tight rectangle with unknown filter {filter_id}")
    pixels = yield from _unpacked(stream, _RGB * width * height)
    if filter_id == encodings.TIGHT_GRADIENT:
        pixels = _from_gradient(pixels, _RGB * width)
    return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)


def _palette(stream: Unzipped, width: int, height: int) -> Script[Image.Image]:
    colours = (yield Read(1))[0] + 1
    palette = yield Read(_RGB * colours)
    row, mode = ((width + 7) // 8, "P;1") if colours <= 2 else (width, "P")
    numbers = yield from _unpacked(stream, row * height)
    picture = Image.frombytes("P", (width, height), numbers, "raw", mode)
    picture.putpalette(palette)
    return picture.convert("RGB")


def _unpacked(stream: Unzipped, size: int) -> Script[bytes]:
    if size < encodings.TIGHT_SHORTEST_ZIPPED:
        return (yield Read(size))
    length = yield from _compact_length()
    return stream.exactly(size, (yield Read(length)))


def _compact_length() -> Script[int]:
    """One to three bytes, seven bits in each of the first two; 4 MiB at most."""
    length = 0
    for shift in (0, 7, 14):
        byte = (yield Read(1))[0]
        length |= (byte if shift == 14 else byte & 0x7F) << shift
        if shift == 14 or byte < 0x80:
            break
    return length


def _opened(jpeg: bytes, width: int, height: int) -> Image.Image:
    try:
        picture = Image.open(BytesIO(jpeg), formats=["JPEG"])
        if picture.size != (width, height):
            raise ProtocolError("the desktop sent a JPEG of another size than its rectangle")
        return picture.convert("RGB")
    except _UNREADABLE as error:
        raise ProtocolError("the desktop sent a JPEG that cannot be opened") from error


def _from_gradient(differences: bytes, row: int) -> bytes:
    """Each byte is what its pixel has more than its left one and its upper one less the one between them."""
    above, pixels = bytes(row), bytearray()
    for start in range(0, len(differences), row):
        line = bytearray(row)
        for at in range(row):
            left, corner = (line[at - _RGB], above[at - _RGB]) if at >= _RGB else (0, 0)
            expected = min(max(left + above[at] - corner, 0), 255)
            line[at] = (expected + differences[start + at]) & 0xFF
        pixels += line
        above = bytes(line)
    return bytes(pixels)
