"""A minimal X11 client: paints on the root window of a test's own X server, so that no toolkit is needed."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from contextlib import closing, suppress
from struct import pack, unpack

_PUT_IMAGE = 72
_CREATE_GC = 55
_GET_INPUT_FOCUS = 43
_LARGEST_PUT = 200_000


class Painter:
    """Connected to display ":N" of a server started with `-ac`; 24-bit colour in 32-bit pixels."""

    def __init__(self, display: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(f"/tmp/.X11-unix/X{display.lstrip(':')}")
        self._socket.sendall(pack("<BxHHHH2x", ord("l"), 11, 0, 0, 0))
        status, length = unpack("<B5xH", self._receive(8))
        setup = self._receive(4 * length)
        if status != 1:
            raise ConnectionRefusedError("the X server refused the painter")
        base = unpack("<I", setup[4:8])[0]
        vendor_bytes, screens_at = unpack("<H", setup[16:18])[0], 32 + 8 * setup[21]
        screens_at += (vendor_bytes + 3) // 4 * 4
        self._root, self.width, self.height = unpack("<I16xHH", setup[screens_at : screens_at + 24])
        self._gc = base
        self._socket.sendall(pack("<BxHIII", _CREATE_GC, 4, self._gc, self._root, 0))

    def paint(self, x: int, y: int, width: int, height: int, pixels: bytes) -> None:
        """`pixels`: 4 bytes each (blue, green, red, unused), row by row."""
        rows = max(1, _LARGEST_PUT // (4 * width))
        for first in range(0, height, rows):
            count = min(rows, height - first)
            part = pixels[4 * width * first : 4 * width * (first + count)]
            header = pack(
                "<BBHIIHHhhBB2x", _PUT_IMAGE, 2, 6 + len(part) // 4, self._root, self._gc, width, count,
                x, y + first, 0, 24,
            )  # fmt: skip
            self._socket.sendall(header + part)

    def paint_noise(self, x: int, y: int, width: int, height: int) -> None:
        self.paint(x, y, width, height, os.urandom(4 * width * height))

    def close(self) -> None:
        """Once the server has done all that was sent: of a client that has left it may drop the rest."""
        with closing(self._socket), suppress(ConnectionError):
            self._socket.sendall(pack("<BxH", _GET_INPUT_FOCUS, 1))
            self._reply()

    def _reply(self) -> bytes:
        """The answer to the last request; events are passed over."""
        while (head := self._receive(32))[0] != 1:
            if head[0] == 0:
                raise RuntimeError(f"the X server refused a request with error {head[1]}")
        return head + self._receive(4 * unpack("<I", head[4:8])[0])

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ConnectionResetError("the X server hung up")
            data += more
        return data


def paint_for_ever(display: str, *, side: int, per_second: int) -> None:
    """Noise in a square of `side` pixels that moves over the screen: as a film plays in a window."""
    painter = Painter(display)
    due = time.monotonic()
    for count in itertools.count():
        x = count * 7 % (painter.width - side)
        painter.paint_noise(x, 40, side, side)
        due += 1 / per_second
        time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    paint_for_ever(sys.argv[1], side=int(sys.argv[2]), per_second=int(sys.argv[3]))
