"""A minimal X11 client that writes down what a desktop's user would notice: keys, buttons, a clipboard that
changes hands, a screen of another size. It can copy a text, too."""

from __future__ import annotations

import select
from struct import pack, unpack

from tests.x_painter import Painter

_CREATE_WINDOW, _CHANGE_ATTRIBUTES, _MAP, _INTERN_ATOM = 1, 2, 8, 16
_SET_SELECTION_OWNER, _SET_FOCUS, _GET_FOCUS = 22, 42, 43
_CHANGE_PROPERTY, _SEND_EVENT = 18, 25
_SELECTION_REQUEST, _SELECTION_NOTIFY = 30, 31
_ATOM, _STRING = 4, 31
"""Atoms that every server has."""
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
        self._copied: bytes | None = None
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

    def copy(self, text: bytes) -> None:
        """Put a Latin-1 text into the clipboard; it is handed out by whatever else is called here next."""
        self._copied = text
        self._targets = self._atom(b"TARGETS")
        self.take_clipboard()

    def hand_out(self, *, seconds: float = 2) -> None:
        """Answer who asks for the text, until nobody has for so long."""
        self.look()
        while select.select([self._socket], [], [], seconds)[0]:
            self.look()

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
            if packet[0] & 0x7F == _SELECTION_REQUEST and self._copied is not None:
                self._answer_request(packet)
            name = _NAMES.get(packet[0] & 0x7F)
            if name is not None:
                self.events.append((name, packet[1] if packet[0] & 0x7F < 6 else 0))

    def _answer_request(self, packet: bytes) -> None:
        when, _owner, asker, selection, target, place = unpack("<IIIIII", packet[4:28])
        given = 0
        if target == self._targets:
            given = self._put(asker, place, _ATOM, 32, pack("<II", self._targets, _STRING))
        elif target == _STRING:
            given = self._put(asker, place, _STRING, 8, self._copied or b"")
        answer = pack("<BBHIIIII8x", _SELECTION_NOTIFY, 0, 0, when, asker, selection, target, given)
        self._send(pack("<BBHII", _SEND_EVENT, 0, 11, asker, 0) + answer)

    def _put(self, window: int, place: int, kind: int, bits: int, data: bytes) -> int:
        padded = data + bytes(-len(data) % 4)
        head = pack(
            "<BBHIIIB3xI",
            _CHANGE_PROPERTY,
            0,
            6 + len(padded) // 4,
            window,
            place,
            kind,
            bits,
            len(data) * 8 // bits,
        )
        self._send(head + padded)
        return place
