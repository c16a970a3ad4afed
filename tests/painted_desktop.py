"""A real Xtigervnc on a free port with a picture on its root window, painted over the X protocol itself.

No X client needs to be installed: setting up a connection and PutImage are a few fixed structs.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from PIL import Image, ImageDraw

COLOURS = ["#1f6feb", "#12693a", "#e58a13", "#b42318", "#8957e5", "#e6eaf1"]


class PaintedDesktop:
    """`port` speaks RFB without a password while the `with` block runs; its picture has many colours.

    enter: a command before it that leads into a network namespace, on all of whose addresses it answers.
    """

    def __init__(self, *, width: int = 1280, height: int = 800, enter: Sequence[str] = ()) -> None:
        self.size = (width, height)
        self._enter = enter
        self.port = _free_port()

    def __enter__(self) -> PaintedDesktop:
        self._scratch = tempfile.TemporaryDirectory(prefix="painted-desktop-")
        self._log = Path(self._scratch.name, "xvnc.log").open("wb")
        self._server = subprocess.Popen(
            [
                *self._enter,
                "Xtigervnc",
                "-displayfd",
                "1",
                "-rfbport",
                str(self.port),
                f"-localhost={0 if self._enter else 1}",
                "-SecurityTypes",
                "None",
                "-AlwaysShared",
                "-UseBlacklist=0",
                "-ac",
                "-depth",
                "24",
                "-geometry",
                "{}x{}".format(*self.size),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        if self._server.stdout is None:
            raise RuntimeError("Xtigervnc has no standard output")
        display = self._server.stdout.readline().strip().decode()
        if not display:
            raise RuntimeError(f"Xtigervnc did not start: {Path(self._log.name).read_text()[-400:]}")
        self.display = display
        self._x = _connect(display)
        self._root, self._gc = _set_up(self._x)
        self.repaint()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._x.close()
        self._server.terminate()
        self._server.wait(timeout=10)
        if self._server.stdout is not None:
            self._server.stdout.close()
        self._log.close()
        self._scratch.cleanup()

    @property
    def first_picture(self) -> Image.Image:
        return _picture(*self.size)

    def repaint(self) -> None:
        """Put the first picture back."""
        self.paint(self.first_picture)

    def clipboard_is_owned(self) -> bool:
        """Whether somebody offers text on the clipboard: only a viewer can, as no X client runs."""
        self._x.sendall(struct.pack("<BxHI", 16, 5, 9) + b"CLIPBOARD\0\0\0")
        clipboard = struct.unpack_from("<I", self._reply(), 8)[0]
        self._x.sendall(struct.pack("<BxHI", 23, 2, clipboard))
        return bool(struct.unpack_from("<I", self._reply(), 8)[0])

    def keys_held(self) -> int:
        """How many keys the desktop believes are down."""
        self._x.sendall(struct.pack("<BxH", 44, 1))
        return sum(byte.bit_count() for byte in self._reply()[8:])

    def pointer(self) -> tuple[int, int]:
        """Where the desktop's pointer is."""
        self._x.sendall(struct.pack("<BxHI", 38, 2, self._root))
        x, y = struct.unpack_from("<hh", self._reply(), 16)
        return int(x), int(y)

    def _reply(self) -> bytes:
        """The answer to the last request; events, such as a new keyboard layout, are passed over."""
        while True:
            head = _read(self._x, 32)
            if head[0] == 0:
                raise RuntimeError(f"the X server refused a request with error {head[1]}")
            if head[0] == 1:
                return head + _read(self._x, struct.unpack_from("<I", head, 4)[0] * 4)

    def paint(self, picture: Image.Image) -> None:
        """Put `picture` on the root window, in strips that stay below the longest X request."""
        pixels = picture.convert("RGBA").tobytes("raw", "BGRA")
        width, height = picture.size
        rows = 200_000 // (width * 4)
        for top in range(0, height, rows):
            count = min(rows, height - top)
            strip = pixels[top * width * 4 : (top + count) * width * 4]
            head = struct.pack(
                "<BBHIIHHhhBBH",
                72,
                2,
                6 + len(strip) // 4,
                self._root,
                self._gc,
                width,
                count,
                0,
                top,
                0,
                24,
                0,
            )
            self._x.sendall(head + strip)
        # An answer says that all of it is on the screen.
        self.pointer()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connect(display: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + 10
    while True:
        try:
            connection.connect(f"/tmp/.X11-unix/X{display}")
            return connection
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _set_up(connection: socket.socket) -> tuple[int, int]:
    """Do the X handshake and make a graphics context; return the root window and the context."""
    connection.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, 0, 0))
    accepted, length = struct.unpack("<BxxxxxH", _read(connection, 8))
    body = _read(connection, length * 4)
    if accepted != 1:
        raise RuntimeError("the X server refused the connection")
    resource_base = struct.unpack_from("<I", body, 4)[0]
    vendor_length, formats = struct.unpack_from("<H", body, 16)[0], body[21]
    root = struct.unpack_from("<I", body, 32 + (vendor_length + 3) // 4 * 4 + formats * 8)[0]
    connection.sendall(struct.pack("<BxHIII", 55, 4, resource_base, root, 0))
    return root, resource_base


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise RuntimeError("the X server closed the connection")
        data += more
    return data


def _picture(width: int, height: int) -> Image.Image:
    """A wallpaper with a window and a row of colours: something a person recognises as a desktop."""
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for row in range(height):
        shade = row / height
        draw.line(
            [(0, row), (width, row)], fill=(int(18 + 30 * shade), int(42 + 46 * shade), int(82 + 70 * shade))
        )
    draw.rectangle((0, height - 36, width, height), fill="#10161f")
    for index, colour in enumerate(COLOURS):
        draw.rounded_rectangle((14 + index * 40, height - 29, 38 + index * 40, height - 7), 5, fill=colour)
    left, top, right, bottom = width // 7, height // 8, width * 5 // 7, height * 5 // 7
    draw.rounded_rectangle((left, top, right, bottom), 8, fill="#0d1117")
    draw.rounded_rectangle((left, top, right, top + 30), 8, fill="#2a3240")
    lines = [
        "agent@desktop:~$ make test",
        "187 passed in 41.3 s",
        "agent@desktop:~$ git push",
        "agent@desktop:~$ _",
    ]
    for index, line in enumerate(lines):
        draw.text((left + 18, top + 48 + index * 26), line, fill="#8be9a8", font_size=17)
    return picture
