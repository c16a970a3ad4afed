"""What a desktop's screen shows, as a picture in memory that a server's rectangles are put into.

Whether a rectangle changed anything is looked at, not believed: servers send again what is there, when they
are asked for the whole or have lost track, and then nobody is to be told of a change.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageChops

from viewer.rfb.conversation import ProtocolError
from viewer.rfb.probe import check_size

MOST_PIXELS = 1 << 24
"""Of one screen: 64 MB of memory. A screen of 5K has 14.7 million."""


class Framebuffer:
    """Not to be read while another thread puts something in. Pixels everywhere."""

    def __init__(self, reserve: Callable[[int], None] = lambda pixels: None) -> None:
        """reserve: called before there are so many; raises ProtocolError if there is no room for them."""
        self._reserve = reserve
        self._image = Image.new("RGB", (0, 0))
        self.changes = 0
        """Goes up whenever something looks other than before."""

    @property
    def image(self) -> Image.Image:
        """Not to be kept: the next rectangle is put into the same one."""
        return self._image

    @property
    def width(self) -> int:
        return self._image.width

    @property
    def height(self) -> int:
        return self._image.height

    def resize(self, width: int, height: int) -> None:
        """Keeps what is in both; the rest is black until the server sends it. Raises ProtocolError."""
        check_size(width, height)
        if width * height > MOST_PIXELS:
            raise ProtocolError(f"the desktop's screen of {width}x{height} pixels is too large for pictures")
        if (width, height) == self._image.size:
            return
        self._reserve(width * height)
        # Cropping beyond its edges fills up with black.
        self._image = self._image.crop((0, 0, width, height))
        self.changes += 1

    def check(self, x: int, y: int, width: int, height: int) -> None:
        """Raise ProtocolError for a rectangle that is not all on the screen."""
        if x + width > self.width or y + height > self.height:
            raise ProtocolError(f"the desktop sent {width}x{height} pixels at {x},{y}, off its own screen")

    def put_pixels(self, x: int, y: int, width: int, height: int, pixels: bytes) -> None:
        """As they come on the wire, in `probe.PIXEL_FORMAT`, row by row."""
        self.put(x, y, Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", 0, 1))

    def put(self, x: int, y: int, part: Image.Image) -> None:
        """part: RGB; all of it on the screen."""
        place = (x, y, x + part.width, y + part.height)
        if ImageChops.difference(self._image.crop(place), part).getbbox() is not None:
            self._image.paste(part, place)
            self.changes += 1

    def copy(self, source_x: int, source_y: int, x: int, y: int, width: int, height: int) -> None:
        """Both rectangles are on the screen and may overlap."""
        self.put(x, y, self._image.crop((source_x, source_y, source_x + width, source_y + height)))
