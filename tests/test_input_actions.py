"""Actions, keysyms, and the messages that they become: parts that need neither relay nor desktop."""

from __future__ import annotations

import ctypes
import ctypes.util
from contextlib import suppress
from itertools import chain, islice
from struct import pack, unpack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from viewer.input_actions import LONGEST_TEXT, MOST_ACTIONS, Drag, Gesture, Point
from viewer.problems import from_validation
from viewer.rfb.acting_client import Counterpart, act, act_blindly, offer_text
from viewer.rfb.conversation import Conversation, ProtocolError
from viewer.rfb.hands import Clip, Hands, Message, NoPointer, Sleep, kasm_pointer
from viewer.rfb.keysyms import KEYSYMS, UnknownKey, chord, is_typable, keysym_of_character, keysym_of_name

SHIFT, CONTROL = KEYSYMS["Shift_L"], KEYSYMS["Control_L"]


def gesture(*actions: object) -> Gesture:
    return Gesture.model_validate({"actions": list(actions)})


def refusal(body: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Gesture.model_validate(body)
    return from_validation(caught.value, Gesture).document.detail


def sent(*actions: object, hands: Hands | None = None) -> list[tuple[int, ...]]:
    """The messages as tuples: keys as (4, down, keysym), the pointer as (5, mask, x, y)."""
    hands = hands or Hands()
    data = b"".join(
        step.data
        for action in gesture(*actions).actions
        for step in hands.moves(action)
        if isinstance(step, Message)
    )
    return cut(data)


def cut(data: bytes) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    while data:
        if data[0] == 4:
            found.append(unpack(">BBxxI", data[:8]))
            data = data[8:]
        else:
            found.append(unpack(">BBHH", data[:6]))
            data = data[6:]
    return found


# --- names


def test_a_key_has_x11s_name_and_what_else_people_call_it() -> None:
    assert keysym_of_name("Return") == keysym_of_name("enter") == keysym_of_name("ENTER") == 0xFF0D
    assert keysym_of_name("f5") == KEYSYMS["F5"]
    assert keysym_of_name("é") == KEYSYMS["eacute"] == 0xE9
    assert keysym_of_name("€") == KEYSYMS["EuroSign"]
    assert keysym_of_name("😀") == 0x0101F600


def test_a_name_that_differs_in_its_capitals_alone_is_not_guessed_at() -> None:
    assert KEYSYMS["Adiaeresis"] != KEYSYMS["adiaeresis"]
    with pytest.raises(UnknownKey):
        keysym_of_name("ADIAERESIS")


def test_an_unknown_key_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownKey, match="no key 'Retrun'; near are Return"):
        chord("ctrl+Retrun")


@pytest.mark.parametrize(
    ("text", "keysyms"),
    [
        ("ctrl+c", (CONTROL, ord("c"))),
        # With Shift held, TigerVNC would let go of it to type a small letter.
        ("ctrl+shift+t", (CONTROL, SHIFT, ord("T"))),
        # Without Shift, it would press Caps Lock to type a capital, and leave that on.
        ("A", (SHIFT, ord("A"))),
        ("ctrl+Ä", (CONTROL, SHIFT, ord("Ä"))),
        ("+", (ord("+"),)),
        ("ctrl++", (CONTROL, ord("+"))),
        ("ctrl+plus", (CONTROL, ord("+"))),
        ("shift+ß", (SHIFT, ord("ß"))),
    ],
)
def test_a_chord_is_keys_with_plus_between(text: str, keysyms: tuple[int, ...]) -> None:
    assert chord(text) == keysyms


@pytest.mark.parametrize("text", ["ctrl+", "+a", "a++b", "", "ctrl+tab +c", "\x1b"])
def test_a_chord_with_a_plus_too_many_is_refused(text: str) -> None:
    with pytest.raises(UnknownKey):
        chord(text)


@given(st.text(max_size=30))
def test_any_text_is_a_chord_or_refused_with_a_sentence(text: str) -> None:
    with suppress(UnknownKey):
        keysyms = chord(text)
        assert keysyms
        assert all(0 < keysym < 1 << 29 for keysym in keysyms)


@given(st.characters())
def test_each_character_that_can_be_typed_has_a_keysym_of_its_own(character: str) -> None:
    if is_typable(character):
        keysym = keysym_of_character(character)
        assert keysym in (0xFF0D, 0xFF09, 0x20AC, ord(character), 0x01000000 + ord(character))


@pytest.mark.real
def test_the_table_is_x11s() -> None:
    library = ctypes.CDLL(ctypes.util.find_library("X11") or "libX11.so.6")
    library.XStringToKeysym.restype = ctypes.c_ulong
    wrong = {name for name, keysym in KEYSYMS.items() if library.XStringToKeysym(name.encode()) != keysym}
    assert wrong == set()


# --- what is taken


def test_one_action_alone_is_a_gesture() -> None:
    assert Gesture.model_validate({"type": "wait", "ms": 5}) == gesture({"type": "wait", "ms": 5})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"type": "clik"}, "actions[0].type: 'clik' is not known; did you mean 'click'? known: type, key"),
        ({"type": "click", "x": 1}, "actions[0]: x and y belong together"),
        ({"type": "click", "x": "1", "y": 2}, "actions[0].x: input should be a valid integer; give a whole"),
        ({"type": "move", "x": 1, "y": -1}, "actions[0].y: input should be greater than or equal to 0"),
        ({"type": "key", "keys": ["a", "Retrun"]}, "actions[0].keys: there is no key 'Retrun'; near are"),
        ({"type": "key"}, "actions[0].keys: field required; give a chord such as ctrl+shift+t"),
        ({"type": "type", "text": "a\x1b"}, "actions[0].text: has the character U+001B, which no key types"),
        ({"type": "type", "text": "\ud800"}, "actions[0].text: "),
        ({"type": "scroll"}, "actions[0]: moves nothing"),
        ({"type": "drag", "from": {"x": 1, "y": 1}}, "actions[0]: needs `path`, or `from` and `to`"),
        ({"type": "drag", "path": [{"x": 1, "y": 1}] * 2, "to": {"x": 1, "y": 1}}, "actions[0]: needs"),
        ({"type": "drag", "path": [{"x": 1, "y": 1}, {"x": 1}]}, "actions[0].path[1].y: field required"),
        ({"actions": [{"type": "wait", "ms": 1}, {"type": "wait", "m": 1}]}, "actions[1].m: unknown field; "),
        ({"actions": []}, "actions: are 0, and must be 1 to 100"),
        ({"actions": [{"type": "wait", "ms": 1}] * (MOST_ACTIONS + 1)}, "actions: are 101, and must be"),
        ({"actions": [{"type": "wait", "ms": 15_000}] * 2}, "actions: take 30000 ms together, more than"),
        ({"type": "type", "text": "ab" * 101, "delay_ms": 100}, "actions: take 20200 ms together"),
        (
            {"actions": [{"type": "type", "text": "a" * LONGEST_TEXT}, {"type": "clipboard", "text": "b"}]},
            "actions: have 10001 characters of text together",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_its_place_and_a_mend(body: Any, sentence: str) -> None:
    assert sentence in refusal(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "actions", "text", "keys", "x", "y", "path", "from", "to", "ms", "dx"])
            | st.text(max_size=4),
            inner | st.sampled_from(["type", "key", "move", "click", "drag", "scroll", "clipboard", "wait"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_body_is_a_gesture_or_refused_with_sentences(body: object) -> None:
    try:
        found = Gesture.model_validate(body)
    except ValidationError as error:
        from_validation(error, Gesture)
    else:
        assert Gesture.model_validate_json(found.model_dump_json(by_alias=True)) == found


def test_what_was_typed_is_in_no_text_of_it() -> None:
    shown = repr(gesture({"type": "type", "text": "hunter2"}, {"type": "clipboard", "text": "hunter2"},
                         {"type": "key", "keys": ["h", "u"]}))  # fmt: skip
    assert "hunter2" not in shown
    assert "'h'" not in shown


# --- what is sent


def test_a_text_is_keys_down_and_up_and_capitals_come_with_shift() -> None:
    assert sent({"type": "type", "text": "aB\n"}) == [
        (4, 1, ord("a")), (4, 0, ord("a")),
        (4, 1, SHIFT), (4, 1, ord("B")), (4, 0, ord("B")), (4, 0, SHIFT),
        (4, 1, 0xFF0D), (4, 0, 0xFF0D),
    ]  # fmt: skip


def test_windows_line_ends_are_one_return() -> None:
    assert len(sent({"type": "type", "text": "a\r\nb"})) == 6


def test_a_click_somewhere_moves_there_first() -> None:
    assert sent({"type": "click", "x": 3, "y": 4, "button": "middle"}) == [
        (5, 0, 3, 4),
        (5, 2, 3, 4),
        (5, 0, 3, 4),
    ]


def test_a_click_nowhere_presses_nothing() -> None:
    hands = Hands()
    with pytest.raises(NoPointer):
        list(hands.moves(gesture({"type": "click", "keys": "ctrl"}).actions[0]))
    assert hands.let_go() == b""


def test_the_wheel_is_buttons_four_to_seven() -> None:
    pressed = [one[1] for one in sent({"type": "scroll", "x": 1, "y": 1, "dx": -1, "dy": -2}) if one[1]]
    assert pressed == [8, 8, 32]


def test_a_drag_goes_evenly_along_its_path() -> None:
    path = [{"x": 0, "y": 0}, {"x": 100, "y": 0}, {"x": 100, "y": 100}]
    (drag,) = gesture({"type": "drag", "path": path, "duration_ms": 160}).actions
    assert isinstance(drag, Drag)
    positions = drag.positions()
    assert (positions[0], positions[-1]) == (Point(x=0, y=0), Point(x=100, y=100))
    assert Point(x=100, y=0) in positions
    assert len(positions) == 11
    steps = list(Hands().moves(drag))
    assert sum(step.seconds for step in steps if isinstance(step, Sleep)) == pytest.approx(0.16)


ACTION = st.one_of(
    st.builds(lambda text: {"type": "type", "text": text}, st.text("aB€\n", min_size=1, max_size=5)),
    st.builds(lambda keys: {"type": "key", "keys": keys}, st.sampled_from(["a", "ctrl+c", "ctrl+shift+F1"])),
    st.builds(lambda x, y: {"type": "move", "x": x, "y": y}, st.integers(0, 999), st.integers(0, 999)),
    st.builds(
        lambda x, count, keys: {"type": "click", "x": x, "y": 1, "count": count, "keys": keys},
        st.integers(0, 999),
        st.integers(1, 3),
        st.sampled_from([None, "shift", "ctrl+alt"]),
    ),
    st.builds(
        lambda x: {"type": "drag", "from": {"x": x, "y": 0}, "to": {"x": 0, "y": x}, "duration_ms": 64},
        st.integers(0, 99),
    ),
    st.builds(lambda dy: {"type": "scroll", "x": 1, "y": 1, "dx": 1, "dy": dy}, st.integers(-3, 3)),
)


@given(st.lists(ACTION, min_size=1, max_size=5), st.data())
def test_wherever_a_gesture_is_cut_nothing_stays_pressed(
    actions: list[dict[str, Any]], data: st.DataObject
) -> None:
    hands = Hands()
    steps = [step for action in gesture(*actions).actions for step in hands.moves(action)]
    whole = cut(b"".join(step.data for step in steps if isinstance(step, Message)))
    assert held_after(whole) == (set(), 0)
    assert hands.let_go() == b""
    end = data.draw(st.integers(0, len(steps)))
    hands, some = Hands(), b""
    moves = chain.from_iterable(map(hands.moves, gesture(*actions).actions))
    for step in islice(moves, end):
        some += step.data if isinstance(step, Message) else b""
    assert held_after(cut(some) + cut(hands.let_go())) == (set(), 0)


def held_after(messages: list[tuple[int, ...]]) -> tuple[set[int], int]:
    keys, mask = set[int](), 0
    for message in messages:
        if message[0] == 5:
            mask = message[1]
        elif message[1]:
            keys.add(message[2])
        else:
            keys.discard(message[2])
    return keys, mask


def test_the_clipboard_is_a_step_of_its_own() -> None:
    (action,) = gesture({"type": "clipboard", "text": "a"}).actions
    assert list(Hands().moves(action)) == [Clip("a")]


def test_kasmvnc_gets_its_longer_pointer_message() -> None:
    """A U16 of buttons, and the wheel as two signed distances: a shorter one would put it out of step."""
    assert kasm_pointer(1, Point(x=2, y=3)) == pack(">BHHHhh", 5, 1, 2, 3, 0, 0)
    hands = Hands(kasm_pointer)
    (action,) = gesture({"type": "scroll", "x": 9, "y": 9, "dy": 1}).actions
    wheel = [step.data for step in hands.moves(action) if isinstance(step, Message)]
    assert {len(one) for one in wheel} == {11}
    assert [unpack(">h", one[9:])[0] for one in wheel] == [0, -120, 0]
    assert all(unpack(">H", one[1:3])[0] == 0 for one in wheel)


# --- the client


LOGGED_IN = b"RFB 003.008\n" + b"\x01\x01" + bytes(4) + pack(">HH16xI", 640, 480, 4) + b"desk"


def logged_in() -> tuple[Counterpart, Conversation[None]]:
    server = Counterpart()
    conversation = Conversation(act(None, server))
    conversation.feed(LOGGED_IN)
    assert (server.width, server.height) == (640, 480)
    return server, conversation


def test_it_asks_for_no_picture() -> None:
    server = Counterpart()
    conversation = Conversation(act(None, server))
    written = conversation.opening() + conversation.feed(LOGGED_IN)
    after_init = written[len(b"RFB 003.008\n") + 2 :]
    assert after_init[0] == 2
    assert len(after_init) == 4 + 4 * unpack(">H", after_init[2:4])[0]


def test_it_follows_the_size_of_the_screen() -> None:
    server, conversation = logged_in()
    conversation.feed(pack(">BxHHHHHi", 0, 1, 0, 0, 1024, 768, -223))
    assert (server.width, server.height) == (1024, 768)


def test_it_answers_fences_and_counts_its_own() -> None:
    server, conversation = logged_in()
    assert (
        conversation.feed(pack(">BxxxIB", 248, 1 << 31 | 7, 2) + b"ab") == pack(">BxxxIB", 248, 3, 2) + b"ab"
    )
    conversation.feed(pack(">BxxxIB", 248, 3, 0))
    assert (server.has_fences, server.fences_back) == (True, 1)


def test_text_beyond_latin_1_is_offered_and_given_when_asked_for() -> None:
    server, conversation = logged_in()
    with pytest.raises(UnicodeEncodeError):
        offer_text(server, "日本")
    assert offer_text(server, "é") == pack(">Bxxxi", 6, 1) + b"\xe9"
    conversation.feed(pack(">Bxxxi", 3, -8) + pack(">II", 1 << 24 | 1 << 28 | 1, 1 << 20))
    assert offer_text(server, "日本") == pack(">BxxxiI", 6, -4, 1 << 27 | 1)
    given_back = conversation.feed(pack(">BxxxiI", 3, -4, 1 << 25 | 1))
    assert unpack(">BxxxiI", given_back[:12])[2] == 1 << 28 | 1
    # The desktop has something else on it now, so ours is not given any more.
    conversation.feed(pack(">BxxxiI", 3, -4, 1 << 27 | 1))
    assert conversation.feed(pack(">BxxxiI", 3, -4, 1 << 25 | 1)) == b""


@pytest.mark.parametrize(
    "message", [b"\x99", pack(">BxHHHHHi", 0, 1, 0, 0, 9, 9, 7), pack(">Bxxxi", 3, 1 << 30)]
)
def test_what_it_does_not_know_ends_it(message: bytes) -> None:
    _, conversation = logged_in()
    with pytest.raises(ProtocolError):
        conversation.feed(message)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_no_bytes_of_a_desktop_break_it(chunks: list[bytes]) -> None:
    _, conversation = logged_in()
    with suppress(ProtocolError):
        for chunk in chunks:
            conversation.feed(chunk)


@pytest.mark.parametrize("security", [b"\x01\x01", b"\x01\x02" + bytes(16), b"\x02\x02\x01"])
def test_it_logs_in_to_kasmvnc_with_an_empty_password_or_none(security: bytes) -> None:
    server = Counterpart()
    conversation = Conversation(act_blindly(server))
    conversation.feed(b"RFB 003.008\n" + security + LOGGED_IN[14:])
    assert conversation.done
    assert server.width == 640
