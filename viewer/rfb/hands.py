"""From actions to RFB client messages, and what is pressed meanwhile. No I/O.

`moves` yields the messages of one action in order, and the pauses between them; what it has yielded counts as
sent, so whoever stops in the middle sends `Hands.let_go` and nothing stays pressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple

from viewer.input_actions import (
    AnyAction,
    Button,
    Click,
    Drag,
    MovePointer,
    Point,
    PressKeys,
    Rest,
    Scroll,
    SetClipboard,
    TypeText,
)
from viewer.rfb.keysyms import KEYSYMS, chord, keysym_of_character, needs_shift

BUTTONS: dict[Button, int] = {"left": 1, "middle": 2, "right": 4}
SCROLL_UP, SCROLL_DOWN, SCROLL_LEFT, SCROLL_RIGHT = 8, 16, 32, 64
"""Bits of a PointerEvent's mask. A notch of the wheel is such a button, pressed and let go."""
LETTERS_AT_ONCE = 32
"""Between two looks at whether the gesture may go on."""

_KEY = Struct(">BBxxI")
_POINTER = Struct(">BBHH")
_KASM_POINTER = Struct(">BHHHhh")
_SHIFT = KEYSYMS["Shift_L"]
_KASM_NOTCH = 120
"""Of the S16 in which KasmVNC takes the wheel."""


WAKE = _KEY.pack(4, 1, _SHIFT) + _KEY.pack(4, 0, _SHIFT)
"""A tap on Shift, before characters that the keyboard may have to be given. Where another keyboard was used
last, such as that of `xdotool`, or none yet, the X server takes over this one's layout as of its first key,
and the character that TigerVNC has put there just before is gone with it."""


class NoPointer(Exception):
    """Where the pointer is, nobody has said yet."""


class Message(NamedTuple):
    data: bytes


class Sleep(NamedTuple):
    seconds: float


class Clip(NamedTuple):
    """This text is to go onto the clipboard: how depends on the server."""

    text: str


Step = Message | Sleep | Clip
PointerMessage = Callable[[int, Point], bytes]
"""From the mask and the position."""


def rfb_pointer(mask: int, at: Point) -> bytes:
    return _POINTER.pack(5, mask, at.x, at.y)


def kasm_pointer(mask: int, at: Point) -> bytes:
    """KasmVNC's dialect: a longer mask, and the wheel as a distance, positive up and to the right."""
    across = bool(mask & SCROLL_RIGHT) - bool(mask & SCROLL_LEFT)
    up = bool(mask & SCROLL_UP) - bool(mask & SCROLL_DOWN)
    return _KASM_POINTER.pack(5, mask & 7, at.x, at.y, _KASM_NOTCH * across, _KASM_NOTCH * up)


@dataclass
class Hands:
    """The keys and buttons of one gesture. at: where the pointer is, as far as anybody has said."""

    pointer_message: PointerMessage = rfb_pointer
    at: Point | None = None
    _keys: list[int] = field(default_factory=list)
    _mask: int = 0

    def moves(self, action: AnyAction) -> Iterator[Step]:
        """Raises NoPointer, and then nothing was yielded."""
        match action:
            case TypeText():
                yield from self._type(action)
            case PressKeys():
                for keys in action.keys:
                    yield from self._press(chord(keys), action.hold_ms / 1000)
            case MovePointer():
                yield self._move(Point(x=action.x, y=action.y))
            case Click():
                yield from self._holding(action.keys, self._click(action))
            case Drag():
                yield from self._holding(action.keys, self._drag(action))
            case Scroll():
                yield from self._holding(action.keys, self._scroll(action))
            case SetClipboard():
                yield Clip(action.text)
            case Rest():
                yield Sleep(action.ms / 1000)

    def let_go(self) -> bytes:
        """The messages that lift all that is down."""
        lifted = b"".join(self._key(keysym, down=False).data for keysym in reversed(list(self._keys)))
        if self._mask and self.at is not None:
            lifted += self._buttons(0).data
        return lifted

    def _type(self, action: TypeText) -> Iterator[Step]:
        together = b""
        for number, character in enumerate(action.text, start=1):
            together += _typed(character)
            if action.delay_ms or number % LETTERS_AT_ONCE == 0:
                yield Message(together)
                together = b""
            if action.delay_ms:
                yield Sleep(action.delay_ms / 1000)
        if together:
            yield Message(together)

    def _press(self, keysyms: tuple[int, ...], seconds: float) -> Iterator[Step]:
        for keysym in keysyms:
            yield self._key(keysym, down=True)
        if seconds:
            yield Sleep(seconds)
        for keysym in reversed(keysyms):
            yield self._key(keysym, down=False)

    def _holding(self, keys: str | None, inner: Iterator[Step]) -> Iterator[Step]:
        held = chord(keys) if keys else ()
        # The inner one refuses before anything is pressed.
        first = next(inner)
        for keysym in held:
            yield self._key(keysym, down=True)
        yield first
        yield from inner
        for keysym in reversed(held):
            yield self._key(keysym, down=False)

    def _click(self, action: Click) -> Iterator[Step]:
        yield self._move(action.point or self._here())
        for _ in range(action.count):
            yield self._buttons(BUTTONS[action.button])
            if action.hold_ms:
                yield Sleep(action.hold_ms / 1000)
            yield self._buttons(0)

    def _drag(self, action: Drag) -> Iterator[Step]:
        first, *others = action.positions()
        yield self._move(first)
        yield self._buttons(BUTTONS[action.button])
        for position in others:
            if action.duration_ms:
                yield Sleep(action.duration_ms / 1000 / len(others))
            yield self._move(position)
        yield self._buttons(0)

    def _scroll(self, action: Scroll) -> Iterator[Step]:
        yield self._move(action.point or self._here())
        for notches, forth, back in (
            (action.dy, SCROLL_DOWN, SCROLL_UP),
            (action.dx, SCROLL_RIGHT, SCROLL_LEFT),
        ):
            for _ in range(abs(notches)):
                yield self._buttons(forth if notches > 0 else back)
                yield self._buttons(0)

    def _key(self, keysym: int, *, down: bool) -> Message:
        if down:
            self._keys.append(keysym)
        elif keysym in self._keys:
            self._keys.remove(keysym)
        return Message(_KEY.pack(4, down, keysym))

    def _move(self, to: Point) -> Message:
        self.at = to
        return Message(self.pointer_message(self._mask, to))

    def _buttons(self, mask: int) -> Message:
        self._mask = mask
        return Message(self.pointer_message(mask, self._here()))

    def _here(self) -> Point:
        if self.at is None:
            raise NoPointer
        return self.at


def _typed(character: str) -> bytes:
    """Down and up, whole: a message that is sent leaves nothing down."""
    keysym = keysym_of_character(character)
    strokes = _KEY.pack(4, 1, keysym) + _KEY.pack(4, 0, keysym)
    if not needs_shift(character):
        return strokes
    return _KEY.pack(4, 1, _SHIFT) + strokes + _KEY.pack(4, 0, _SHIFT)


def outside(action: AnyAction, width: int, height: int) -> Point | None:
    """The first point of the action that the screen does not have."""
    points: tuple[Point | None, ...] = ()
    if isinstance(action, MovePointer):
        points = (Point(x=action.x, y=action.y),)
    elif isinstance(action, Click | Scroll):
        points = (action.point,)
    elif isinstance(action, Drag):
        points = action.points
    return next((one for one in points if one is not None and (one.x >= width or one.y >= height)), None)
