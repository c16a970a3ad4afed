"""Whether a screen shows more than one colour: that tells a desktop from a server that only just listens."""

from __future__ import annotations

from viewer.rfb.client_parts import BYTES_PER_PIXEL

ENOUGH_COLOURS = 2


class Colours:
    """Counts distinct colours up to ENOUGH_COLOURS, fast on pixels of one colour."""

    def __init__(self) -> None:
        self._first = b""
        self.seen = 0

    @property
    def are_enough(self) -> bool:
        return self.seen >= ENOUGH_COLOURS

    @property
    def first(self) -> str | None:
        """`#rrggbb`; in memory it is blue, green, red."""
        return f"#{self._first[::-1].hex()}" if self._first else None

    def add(self, pixels: bytes) -> None:
        """`pixels` are whole pixels in PIXEL_FORMAT; the fourth byte of each is undefined and ignored."""
        if self.are_enough or not pixels:
            return
        if not self.seen:
            self._first = pixels[:3]
            self.seen = 1
        count = len(pixels) // BYTES_PER_PIXEL
        for channel in range(3):
            if pixels[channel::BYTES_PER_PIXEL].count(self._first[channel]) != count:
                self.seen = ENOUGH_COLOURS
                return
