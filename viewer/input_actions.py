"""What a hand does at a desktop, as the input API takes it and the relay does it: keys, pointer, clipboard.

A list of actions is one gesture: it is done whole and by itself, or cut, and then nothing stays pressed.
"""

from __future__ import annotations

from itertools import pairwise
from math import hypot
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from viewer.model import Frozen
from viewer.rfb.keysyms import chord, is_beyond_ascii, is_typable, keysym_of_character

MOST_ACTIONS = 100
LONGEST_TEXT = 10_000
"""Characters, of all texts of a gesture together."""
LONGEST_GESTURE_MS = 20_000
"""Of all its pauses together: the session's other input waits for its end."""
MOST_CHORDS = 100
MOST_POINTS = 200
MOST_NOTCHES = 100
LARGEST_COORDINATE = 32_767
"""Of any X screen; the relay knows the one at hand."""
DRAG_STEP_MS = 16
"""Between two positions of a drag that takes time: as often as a mouse on a usual screen is seen to move."""

Button = Literal["left", "middle", "right"]
_COORDINATE = "a whole number of pixels from the screen's left, or upper, edge"
_KEYS = "a chord such as ctrl+shift+t, or a list of chords that come one after the other"
_HELD = "the keys that are held meanwhile, as a chord such as ctrl+shift"


def _checked_chord(text: str) -> str:
    chord(text)
    return text


def _as_list(keys: object) -> object:
    return (keys,) if isinstance(keys, str) else keys


def _checked_text(text: str) -> str:
    text = text.replace("\r\n", "\n")
    wrong = next((character for character in text if not is_typable(character)), None)
    if wrong is not None:
        raise ValueError(f"has the character U+{ord(wrong):04X}, which no key types")
    return text


def _checked_clipboard(text: str) -> str:
    if "\0" in text or any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise ValueError("has a NUL or half a surrogate")
    return text


Chord = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_checked_chord)]
Coordinate = Annotated[int, Field(ge=0, le=LARGEST_COORDINATE)]
Pause = Annotated[int, Field(ge=0, le=LONGEST_GESTURE_MS)]
"""Milliseconds."""


class Action(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @property
    def pauses_ms(self) -> int:
        return 0


class Point(Action):
    x: Coordinate = Field(description=_COORDINATE)
    y: Coordinate = Field(description=_COORDINATE)


class TypeText(Action):
    """Types a text, whatever the keyboard's layout; a new line is Return, a tab is Tab."""

    type: Literal["type"]
    text: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_checked_text)] = Field(
        repr=False, description=f"1 to {LONGEST_TEXT} characters, a new line and a tab among them"
    )
    delay_ms: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="a whole number of milliseconds after each character, from 0 to 1000"
    )

    @property
    def pauses_ms(self) -> int:
        return len(self.text) * self.delay_ms


class PressKeys(Action):
    """Presses keys and lets them go."""

    type: Literal["key"]
    keys: Annotated[
        tuple[Chord, ...],
        Field(strict=False, min_length=1, max_length=MOST_CHORDS),
        BeforeValidator(_as_list, json_schema_input_type=str | tuple[str, ...]),
    ] = Field(repr=False, description=_KEYS)
    hold_ms: Pause = Field(0, description="how many milliseconds each chord is held")

    @property
    def pauses_ms(self) -> int:
        return len(self.keys) * self.hold_ms


class MovePointer(Action):
    """Moves the pointer there at once."""

    type: Literal["move"]
    x: Coordinate = Field(description=_COORDINATE)
    y: Coordinate = Field(description=_COORDINATE)


class _Somewhere(Action):
    """There, or where the pointer is."""

    x: Coordinate | None = Field(None, description=_COORDINATE)
    y: Coordinate | None = Field(None, description=_COORDINATE)
    keys: Chord | None = Field(None, description=_HELD)

    @model_validator(mode="after")
    def _both_or_none(self) -> _Somewhere:
        if (self.x is None) != (self.y is None):
            raise ValueError("x and y belong together; give both, or none for where the pointer is")
        return self

    @property
    def point(self) -> Point | None:
        return None if self.x is None or self.y is None else Point(x=self.x, y=self.y)


class Click(_Somewhere):
    """Clicks once or several times."""

    type: Literal["click"]
    button: Button = Field("left", description="one of left, middle, right")
    count: Annotated[int, Field(ge=1, le=5)] = Field(1, description="from 1 to 5; 2 is a double click")
    hold_ms: Pause = Field(0, description="how many milliseconds the button is held each time")

    @property
    def pauses_ms(self) -> int:
        return self.count * self.hold_ms


class Drag(Action):
    """Moves with a button held, along `path`, or from `from` to `to`."""

    type: Literal["drag"]
    path: Annotated[tuple[Point, ...], Field(strict=False, min_length=2, max_length=MOST_POINTS)] | None = (
        Field(None, description=f"2 to {MOST_POINTS} points, each with x and y")
    )
    start: Point | None = Field(None, alias="from", description="a point with x and y")
    end: Point | None = Field(None, alias="to", description="a point with x and y")
    button: Button = Field("left", description="one of left, middle, right")
    duration_ms: Pause = Field(300, description="how many milliseconds the whole movement takes")
    keys: Chord | None = Field(None, description=_HELD)

    @model_validator(mode="after")
    def _one_way(self) -> Drag:
        ends = (self.start is not None, self.end is not None)
        if any(ends) == (self.path is not None) or any(ends) != all(ends):
            raise ValueError("needs `path`, or `from` and `to`; give one of both ways")
        return self

    @property
    def points(self) -> tuple[Point, ...]:
        if self.path is not None:
            return self.path
        return tuple(point for point in (self.start, self.end) if point is not None)

    @property
    def pauses_ms(self) -> int:
        return self.duration_ms

    def positions(self) -> list[Point]:
        """All points, and as many between them as the duration has room for, at even distances."""
        points = self.points
        lengths = [hypot(to.x - here.x, to.y - here.y) for here, to in pairwise(points)]
        most, total = self.duration_ms // DRAG_STEP_MS, sum(lengths)
        found = [points[0]]
        for (here, to), length in zip(pairwise(points), lengths, strict=True):
            steps = max(1, round(most * length / total)) if total else 1
            found += [_between(here, to, step / steps) for step in range(1, steps + 1)]
        return found


def _between(here: Point, to: Point, part: float) -> Point:
    return Point(x=round(here.x + (to.x - here.x) * part), y=round(here.y + (to.y - here.y) * part))


class Scroll(_Somewhere):
    """Turns the wheel."""

    type: Literal["scroll"]
    dx: Annotated[int, Field(ge=-MOST_NOTCHES, le=MOST_NOTCHES)] = Field(
        0, description=f"notches to the right, from -{MOST_NOTCHES} to {MOST_NOTCHES}"
    )
    dy: Annotated[int, Field(ge=-MOST_NOTCHES, le=MOST_NOTCHES)] = Field(
        0, description=f"notches down, from -{MOST_NOTCHES} to {MOST_NOTCHES}"
    )

    @model_validator(mode="after")
    def _somewhere_to(self) -> Scroll:
        if not (self.dx or self.dy):
            raise ValueError("moves nothing; give dx or dy other than 0")
        return self


class SetClipboard(Action):
    """Puts a text onto the desktop's clipboard; ctrl+v then pastes it."""

    type: Literal["clipboard"]
    text: Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_checked_clipboard)] = Field(
        repr=False, description=f"at most {LONGEST_TEXT} characters"
    )


class Rest(Action):
    """Does nothing for a while."""

    type: Literal["wait"]
    ms: Pause = Field(description=f"a whole number of milliseconds from 0 to {LONGEST_GESTURE_MS}")

    @property
    def pauses_ms(self) -> int:
        return self.ms


AnyAction = Annotated[
    TypeText | PressKeys | MovePointer | Click | Drag | Scroll | SetClipboard | Rest,
    Field(discriminator="type"),
]


def _not_too_much(actions: tuple[AnyAction, ...]) -> tuple[AnyAction, ...]:
    if not 0 < len(actions) <= MOST_ACTIONS:
        raise ValueError(f"are {len(actions)}, and must be 1 to {MOST_ACTIONS}")
    letters = sum(len(one.text) for one in actions if isinstance(one, TypeText | SetClipboard))
    if letters > LONGEST_TEXT:
        raise ValueError(
            f"have {letters} characters of text together, more than {LONGEST_TEXT}; send several requests"
        )
    pauses = sum(one.pauses_ms for one in actions)
    if pauses > LONGEST_GESTURE_MS:
        raise ValueError(f"take {pauses} ms together, more than {LONGEST_GESTURE_MS}; send several requests")
    return actions


class Gesture(BaseModel):
    """Actions that belong together. One action alone may stand in its place."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # Their number is looked at last: what is wrong with one of them is to be heard, not that one is missing.
    actions: Annotated[tuple[AnyAction, ...], Field(strict=False), AfterValidator(_not_too_much)] = Field(
        description=f"a list of 1 to {MOST_ACTIONS} actions",
        json_schema_extra={"minItems": 1, "maxItems": MOST_ACTIONS},
    )

    @model_validator(mode="before")
    @classmethod
    def _one_action_alone(cls, value: object) -> object:
        return {"actions": [value]} if isinstance(value, dict) and "type" in value else value

    @property
    def pauses_ms(self) -> int:
        return sum(one.pauses_ms for one in self.actions)

    @property
    def sets_clipboard(self) -> bool:
        return any(isinstance(one, SetClipboard) for one in self.actions)

    def rare_keysyms(self) -> frozenset[int]:
        """Of characters beyond ASCII, which a keyboard may lack."""
        typed = {letter for one in self.actions if isinstance(one, TypeText) for letter in one.text}
        pressed = {keysym for one in self.actions for keys in _chords_of(one) for keysym in chord(keys)}
        found = {keysym_of_character(letter) for letter in typed} | pressed
        return frozenset(keysym for keysym in found if is_beyond_ascii(keysym))


class ScreenSize(Frozen):
    width: int
    height: int


class InputDone(Frozen):
    """The whole gesture was done, and nothing is pressed any more."""

    actions: int = Field(description="How many were done.")
    screen: ScreenSize = Field(description="In pixels; coordinates begin at its upper left with 0,0.")


def _chords_of(action: Action) -> tuple[str, ...]:
    if isinstance(action, PressKeys):
        return action.keys
    held = action.keys if isinstance(action, Click | Drag | Scroll) else None
    return (held,) if held else ()
