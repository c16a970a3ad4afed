"""A minimal X11 client that writes down what a desktop's user would notice: keys, buttons, a clipboard that
changes hands, a screen of another size."""

from __future__ import annotations

import select
from struct import pack, unpack

from tests.x_painter import Painter

_CREATE_WINDOW, _CHANGE_ATTRIBUTES, _MAP, _INTERN_ATOM = 1, 2, 8, 16
_SET_SELECTION_OWNER, _SET_FOCUS, _GET_FOCUS = 22, 42, 43
_INPUT_OUTPUT, _OVERRIDE_REDIRECT, _EVENT_MASK = 1, 0x200, 0x800
_KEYS_AND_BUTTONS, _STRUCTURE = 0xF, 0x20000
_NAMES = {2: "key down", 3: "key up", 4: "button down", 5: "button up", 22: "resized", 29: "clipboard"}


class Recorder(Painter):
    """Has a window over the whole screen, the focus, and the clipboard."""

    def __init__(self, display: str) -> None:
        super().__init__(display)
        self.events: list[tuple[str, int]] = []
        """Name, and keycode or button where there is one."""
        self._window = self._gc + 1
        self._send(
            pack(
                "<BBHIIhhHHHHIIII", _CREATE_WINDOW, 0, 10, self._window, self._root, 0, 0, self.width,
                self.height, 0, _INPUT_OUTPUT, 0, _OVERRIDE_REDIRECT | _EVENT_MASK, 1, _KEYS_AND_BUTTONS,
            )
        )  # fmt: skip
        self._send(pack("<BxHIII", _CHANGE_ATTRIBUTES, 4, self._root, _EVENT_MASK, _STRUCTURE))
        self._send(pack("<BxHI", _MAP, 2, self._window))
        self._send(pack("<BBHII", _SET_FOCUS, 0, 3, self._window, 0))
        self._clipboard = self._atom(b"CLIPBOARD")
        self.take_clipboard()
        self.look()
        self.events.clear()

    def take_clipboard(self) -> None:
        """The next one who takes it is an event."""
        self._send(pack("<BxHIII", _SET_SELECTION_OWNER, 4, self._window, self._clipboard, 0))

    def look(self) -> list[tuple[str, int]]:
        """All events so far, after a round trip to the server."""
        self._send(pack("<BxH", _GET_FOCUS, 1))
        self._read_to_answer()
        return self.events

    def wait_for(self, count: int, *, seconds: float = 5) -> list[tuple[str, int]]:
        """All events, once there are so many or the time is over."""
        while len(self.look()) < count and select.select([self._socket], [], [], seconds)[0]:
            pass
        return self.events

    def _atom(self, name: bytes) -> int:
        padded = name + bytes(-len(name) % 4)
        self._send(pack("<BBHH2x", _INTERN_ATOM, 0, 2 + len(padded) // 4, len(name)) + padded)
        return int(unpack("<I", self._read_to_answer()[8:12])[0])

    def _send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def _read_to_answer(self) -> bytes:
        while True:
            packet = self._receive(32)
            if packet[0] == 0:
                raise RuntimeError(f"the X server refused a request: error {packet[1]}")
            if packet[0] == 1:
                return packet + self._receive(4 * int(unpack("<I", packet[4:8])[0]))
            name = _NAMES.get(packet[0] & 0x7F)
            if name is not None:
                self.events.append((name, packet[1] if packet[0] & 0x7F < 6 else 0))
