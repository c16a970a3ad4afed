"""What a desktop's screen shows, as a picture in memory that a server's rectangles are put into.

Whether a rectangle changed anything is looked at, not believed: servers send again what is there, when they
are asked for the whole or have lost track, and then nobody is to be told of a change.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageChops

from viewer.rfb.client_parts import check_size
from viewer.rfb.conversation import ProtocolError

MOST_PIXELS = 1 << 24
"""Of one screen: 64 MB of memory. A screen of 5K has 14.7 million."""


class NoRoom(ProtocolError):
    """The screen is too large for its pixels to be kept, or others have taken the memory."""


class Framebuffer:
    """Not to be read while another thread puts something in. Pixels everywhere."""

    def __init__(self, reserve: Callable[[int], None] | None = lambda pixels: None) -> None:
        """reserve: called before there are so many; raises NoRoom if there is no room for them. None: none
        are kept, and the size is all that is known."""
        self._reserve = reserve
        self._image = Image.new("RGB", (0, 0))
        self.width = self.height = 0
        self.changes = 0
        """Goes up whenever something looks other than before."""

    @property
    def keeps_pixels(self) -> bool:
        return self._reserve is not None

    @property
    def image(self) -> Image.Image:
        """Not to be kept: the next rectangle is put into the same one."""
        if self._reserve is not None and self._image.size != (self.width, self.height):
            # Cropping beyond its edges fills up with black.
            self._image = self._image.crop((0, 0, self.width, self.height))
        return self._image

    def resize(self, width: int, height: int) -> None:
        """Keeps what is in both; the rest is black until the server sends it. Costs nothing before something
        is put in. Raises ProtocolError."""
        check_size(width, height)
        if self._reserve is not None and (width, height) != (self.width, self.height):
            if width * height > MOST_PIXELS:
                raise NoRoom(f"the desktop's screen of {width}x{height} pixels is too large for pictures")
            self._reserve(width * height)
            self.changes += 1
        self.width, self.height = width, height

    def check(self, x: int, y: int, width: int, height: int) -> None:
        """Raise ProtocolError for a rectangle that is not all on the screen."""
        if x + width > self.width or y + height > self.height:
            raise ProtocolError(f"the desktop sent {width}x{height} pixels at {x},{y}, off its own screen")

    def put_pixels(self, x: int, y: int, width: int, height: int, pixels: bytes) -> None:
        """As they come on the wire, in `PIXEL_FORMAT`, row by row."""
        if self._reserve is not None:
            self.put(x, y, Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", 0, 1))

    def put(self, x: int, y: int, part: Image.Image) -> None:
        """part: RGB; all of it on the screen."""
        if self._reserve is None:
            return
        place = (x, y, x + part.width, y + part.height)
        if ImageChops.difference(self.image.crop(place), part).getbbox() is not None:
            self.image.paste(part, place)
            self.changes += 1

    def cut_out(self, x: int, y: int, width: int, height: int) -> Image.Image:
        """A copy of that rectangle, which is on the screen."""
        return self.image.crop((x, y, x + width, y + height))
