"""A real X client that records what it is sent, and one that asks the server what is pressed."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack, unpack_from
from typing import NamedTuple

from tests.x_painter import Painter

_BLOCK = re.compile(
    r"^(?P<kind>KeyPress|KeyRelease|ButtonPress|ButtonRelease|MotionNotify) event.*?(?=\n\n|\n?\Z)",
    re.M | re.S,
)
_STATE = re.compile(r"state (0x[0-9a-f]+)")
_WHERE = re.compile(r"root:\((\d+),(\d+)\)")
_KEY = re.compile(r"keysym 0x[0-9a-f]+, (\w+)\)")
_TEXT = re.compile(r"XmbLookupString gives \d+ bytes: \(([0-9a-f ]+)\)")
_TIME = re.compile(r"\btime (\d+)")
_BUTTON = re.compile(r"button (\d+)")
_CREATE_WINDOW, _INTERN_ATOM, _GET_PROPERTY, _CONVERT_SELECTION, _QUERY_POINTER, _QUERY_KEYMAP = (
    1, 16, 20, 24, 38, 44,
)  # fmt: skip
_PATIENCE = 10.0


class Recorded(NamedTuple):
    """kind: xev's name. what: a key's name, or a button's number. time: the server's, in milliseconds."""

    kind: str
    what: str
    x: int
    y: int
    state: int
    text: str = ""
    time: int = 0


class Recorder:
    """xev in a window as large as the screen."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def events(self) -> list[Recorded]:
        return list(_events(self._log.read_text(errors="replace")))

    def until(self, reached: Callable[[list[Recorded]], bool]) -> list[Recorded]:
        """What was recorded by then."""
        deadline = time.monotonic() + _PATIENCE
        while not reached(found := self.events()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {found} were recorded")
            time.sleep(0.01)
        return found

    def forget(self) -> None:
        """What was recorded so far; xev appends."""
        os.truncate(self._log, 0)


@contextmanager
def recording(display: str, directory: Path, geometry: str) -> Iterator[Recorder]:
    """Once its window is there."""
    log = directory / "xev.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["xev", "-display", display, "-geometry", f"{geometry}+0+0"],
            stdout=output,
            stderr=output,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while "Expose event" not in log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise TimeoutError(log.read_text(errors="replace"))
            time.sleep(0.02)
        yield Recorder(log)
    finally:
        process.kill()
        process.wait()


def _events(log: str) -> Iterator[Recorded]:
    for block in _BLOCK.finditer(log):
        found = block[0]
        what = _KEY.search(found) or _BUTTON.search(found)
        where, state, text = _WHERE.search(found), _STATE.search(found), _TEXT.search(found)
        at = _TIME.search(found)
        x, y = (int(where[1]), int(where[2])) if where else (0, 0)
        yield Recorded(
            block["kind"],
            what[1] if what else "",
            x,
            y,
            int(state[1], 16) if state else 0,
            bytes.fromhex(text[1].replace(" ", "")).decode() if text else "",
            int(at[1]) if at else 0,
        )


class Looker(Painter):
    """Asks the server itself."""

    def keys_down(self) -> int:
        self._socket.sendall(pack("<BxH", _QUERY_KEYMAP, 1))
        return sum(byte.bit_count() for byte in self._reply()[8:])

    def buttons_down(self) -> int:
        """As a mask: 1 for the left one."""
        self._socket.sendall(pack("<BxHI", _QUERY_POINTER, 2, self._root))
        return int(unpack_from("<H", self._reply(), 24)[0]) >> 8 & 0x1F

    def clipboard(self) -> str:
        """What a program that pastes is given."""
        window = self._gc + 1
        self._socket.sendall(
            pack("<BBHIIhhHHHHII", _CREATE_WINDOW, 0, 8, window, self._root, 0, 0, 1, 1, 0, 2, 0, 0)
        )
        clipboard, utf8 = self._atom("CLIPBOARD"), self._atom("UTF8_STRING")
        self._socket.sendall(pack("<BxHIIIII", _CONVERT_SELECTION, 6, window, clipboard, utf8, utf8, 0))
        while (event := self._receive(32))[0] & 0x7F != 31:
            pass
        if not unpack_from("<I", event, 20)[0]:
            raise LookupError("nobody offers text on the clipboard")
        self._socket.sendall(pack("<BBHIIIII", _GET_PROPERTY, 1, 6, window, utf8, 0, 0, 1 << 18))
        reply = self._reply()
        return reply[32 : 32 + unpack_from("<I", reply, 16)[0]].decode()

    def _atom(self, name: str) -> int:
        padded = name.encode() + bytes(-len(name) % 4)
        self._socket.sendall(pack("<BxHHxx", _INTERN_ATOM, 2 + len(padded) // 4, len(name)) + padded)
        return int(unpack_from("<I", self._reply(), 8)[0])
