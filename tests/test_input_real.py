"""Gestures of the input API through a relay of its own, at a real Xtigervnc, recorded by a real X client."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from struct import pack
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

import viewer.relay_client
from tests.relay_process import RelayProcess, Xvnc, running_relay, running_xvnc
from tests.test_relay import open_viewer, with_http
from tests.xev_recorder import Looker, Recorded, Recorder, recording
from viewer.grants import Grant, PublishedPort
from viewer.input_actions import Gesture
from viewer.model import ClipboardPolicy, Lease, LeaseHolder, LeaseKind, utcnow
from viewer.relay.answers import CloseCode, InputOutcome, InputResult
from viewer.relay.gesture import NEW_KEYBOARD_SECONDS
from viewer.relay_client import RelayClient, RelayUnreachable

pytestmark = pytest.mark.real

SIZE = "800x600"
SHIFT, CONTROL = 1, 4


class Hand:
    """An agent's: `do` sends one gesture."""

    def __init__(self, relay: RelayProcess, xvnc: Xvnc, recorder: Recorder) -> None:
        self.relay = relay
        self.xvnc = xvnc
        self.recorder = recorder
        self.client = RelayClient("here", url=relay.url, key=relay.key)

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def grant(self, **changes: Any) -> Grant:
        usual = {
            "purpose": "input",
            "session_id": "s1",
            "tenant_id": "t1",
            "principal": "key:a",
            "may_control": True,
            "target": PublishedPort(port=self.xvnc.port),
            "vnc_password": SecretStr("secret12"),
            "expires_at": utcnow() + timedelta(seconds=30),
        }
        return Grant.model_validate({**usual, **changes})

    def do(self, *actions: dict[str, Any], **changes: Any) -> InputResult:
        return self.client.send_input(
            self.grant(**changes), Gesture.model_validate({"actions": list(actions)})
        )

    def done(self, *actions: dict[str, Any]) -> list[Recorded]:
        """What the client in the desktop got of it, until it got a last key."""
        self.recorder.forget()
        result = self.do(*actions, {"type": "key", "keys": "F12"})
        assert result.result is InputOutcome.DONE, result
        events = self.recorder.until(lambda found: ("KeyRelease", "F12") in [one[:2] for one in found])
        return [one for one in events if one.what != "F12"]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay")) as process:
        yield process
    assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def xvnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path_factory.mktemp("xvnc"), password="secret12", geometry=SIZE) as server:
        yield server


@pytest.fixture(scope="module")
def recorder(xvnc: Xvnc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    with recording(xvnc.display, tmp_path_factory.mktemp("xev"), SIZE) as recorder:
        yield recorder


@pytest.fixture
def hand(relay: RelayProcess, xvnc: Xvnc, recorder: Recorder) -> Iterator[Hand]:
    """Its pointer is in the window, where keys go."""
    with Hand(relay, xvnc, recorder) as hand:
        assert hand.do({"type": "move", "x": 400, "y": 300}).result is InputOutcome.DONE
        yield hand


@pytest.fixture
def looker(xvnc: Xvnc) -> Iterator[Looker]:
    looker = Looker(xvnc.display)
    yield looker
    looker.close()


def keys(events: list[Recorded]) -> list[tuple[str, str]]:
    return [(one.kind, one.what) for one in events if one.kind.startswith("Key")]


def text_of(events: list[Recorded]) -> str:
    return "".join(one.text for one in events if one.kind == "KeyPress")


def until(reached: Any) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def test_text_arrives_as_it_is_whatever_the_layout(hand: Hand) -> None:
    text = "Hello, World! 0.5% {a}[b] ~\\|@#^`'\"\n\tÄöüß€ 😀 日本 the END"
    assert text_of(hand.done({"type": "type", "text": text})) == text.replace("\n", "\r")


def test_programs_have_time_to_take_over_a_keyboard_before_characters_are_put_onto_it(hand: Hand) -> None:
    at = {(one.kind, one.what): one.time for one in hand.done({"type": "type", "text": "é"})}
    woken_for = at["KeyPress", "eacute"] - at["KeyRelease", "Shift_L"]
    # Less one, as both are whole milliseconds.
    assert woken_for >= 1000 * NEW_KEYBOARD_SECONDS - 1


def test_a_long_text_arrives_whole(hand: Hand) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 100
    assert text_of(hand.done({"type": "type", "text": text})) == text


def test_a_chord_goes_down_in_order_and_up_in_the_other(hand: Hand) -> None:
    assert keys(hand.done({"type": "key", "keys": "ctrl+shift+t"})) == [
        ("KeyPress", "Control_L"), ("KeyPress", "Shift_L"), ("KeyPress", "T"),
        ("KeyRelease", "T"), ("KeyRelease", "Shift_L"), ("KeyRelease", "Control_L"),
    ]  # fmt: skip


def test_chords_of_a_list_come_one_after_the_other(hand: Hand) -> None:
    events = keys(hand.done({"type": "key", "keys": ["Down", "alt+F4", "enter"]}))
    assert [what for kind, what in events if kind == "KeyPress"] == ["Down", "Alt_L", "F4", "Return"]


def test_a_double_click_is_two_clicks_at_one_place(hand: Hand) -> None:
    events = hand.done({"type": "click", "x": 120, "y": 80, "count": 2, "button": "right"})
    buttons = [(one.kind, one.what, one.x, one.y) for one in events if one.kind.startswith("Button")]
    assert buttons == [("ButtonPress", "3", 120, 80), ("ButtonRelease", "3", 120, 80)] * 2


def test_a_click_without_a_place_is_where_the_pointer_is(hand: Hand) -> None:
    hand.do({"type": "move", "x": 33, "y": 44})
    events = hand.done({"type": "click"})
    assert [(one.x, one.y) for one in events if one.kind == "ButtonPress"] == [(33, 44)]


def test_keys_are_held_during_a_click(hand: Hand) -> None:
    events = hand.done({"type": "click", "x": 5, "y": 6, "keys": "ctrl+shift"})
    (press,) = [one for one in events if one.kind == "ButtonPress"]
    assert press.state == SHIFT | CONTROL


def test_a_drag_follows_its_path_with_the_button_held(hand: Hand) -> None:
    path = [{"x": 10, "y": 10}, {"x": 110, "y": 10}, {"x": 110, "y": 60}]
    events = hand.done({"type": "drag", "path": path, "duration_ms": 160})
    (press,) = [at for at, one in enumerate(events) if one.kind == "ButtonPress"]
    (release,) = [at for at, one in enumerate(events) if one.kind == "ButtonRelease"]
    assert (events[press].x, events[press].y, events[release].x, events[release].y) == (10, 10, 110, 60)
    moves = [(one.x, one.y) for one in events[press:release] if one.kind == "MotionNotify"]
    assert (110, 10) in moves
    assert len(moves) >= 8
    assert all(y == 10 for x, y in moves if x < 110)


def test_each_notch_of_the_wheel_is_a_button_of_its_own(hand: Hand) -> None:
    events = hand.done(
        {"type": "scroll", "x": 50, "y": 50, "dx": -1, "dy": 2}, {"type": "scroll", "dx": 1, "dy": -1}
    )
    assert [one.what for one in events if one.kind == "ButtonPress"] == ["5", "5", "6", "4", "7"]


def test_text_put_onto_the_clipboard_is_there_for_a_program_that_pastes(hand: Hand, looker: Looker) -> None:
    text = "Straße — 日本語\nsecond line 😀"
    assert hand.do({"type": "clipboard", "text": text}).result is InputOutcome.DONE
    assert looker.clipboard() == text


def test_a_tenant_may_keep_the_clipboard_of_its_desktops_to_itself(hand: Hand, looker: Looker) -> None:
    hand.do({"type": "clipboard", "text": "before"})
    hand.recorder.forget()
    result = hand.do(
        {"type": "type", "text": "x"},
        {"type": "clipboard", "text": "smuggled"},
        clipboard=ClipboardPolicy(to_desktop=False),
    )
    assert result.result is InputOutcome.CLIPBOARD_REFUSED
    assert not result.began
    assert looker.clipboard() == "before"
    assert hand.done() == []


def test_of_a_gesture_that_misses_the_screen_nothing_is_done(hand: Hand) -> None:
    hand.recorder.forget()
    result = hand.do({"type": "type", "text": "x"}, {"type": "click", "x": 800, "y": 0})
    assert (result.result, result.began, result.width, result.height) == (
        InputOutcome.OUTSIDE,
        False,
        800,
        600,
    )
    assert "800,0 is not on the screen, which has 800x600 pixels" in result.detail
    assert hand.done() == []


def test_characters_that_no_key_is_left_for_are_refused_and_not_lost(
    relay: RelayProcess, tmp_path: Path
) -> None:
    """The keyboard is given those that it lacks, each on a key of its own."""
    with (
        running_xvnc(tmp_path, password="secret12", geometry=SIZE) as xvnc,
        recording(xvnc.display, tmp_path, SIZE) as recorder,
        Hand(relay, xvnc, recorder) as hand,
    ):
        letters = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 16))
        there = {"type": "move", "x": 400, "y": 300}
        assert text_of(hand.done(there, {"type": "type", "text": letters})) == letters
        result = hand.do({"type": "type", "text": "more: 字"})
        assert (result.result, result.began) == (InputOutcome.KEYBOARD_FULL, False)
        assert "clipboard" in result.detail
        assert text_of(hand.done({"type": "type", "text": letters[::-1] + "!"})) == letters[::-1] + "!"


def test_twenty_gestures_at_once_come_one_after_the_other(hand: Hand) -> None:
    hand.recorder.forget()
    words = [f"{chr(ord('a') + number)}" * 40 for number in range(20)]
    with ThreadPoolExecutor(20) as together:
        results = list(
            together.map(
                lambda word: hand.do(
                    {"type": "type", "text": word[:20]},
                    {"type": "wait", "ms": 10},
                    {"type": "type", "text": word[20:]},
                ),
                words,
            )
        )
    assert {one.result for one in results} == {InputOutcome.DONE}
    events = hand.recorder.until(lambda found: len(text_of(found)) == 800)
    typed = text_of(events)
    assert sorted(typed[at : at + 40] for at in range(0, 800, 40)) == words


HELD = (
    {
        "type": "drag",
        "path": [{"x": 10, "y": 10}, {"x": 300, "y": 300}],
        "duration_ms": 15000,
        "keys": "ctrl+shift",
    },
)
"""A gesture that has two keys and a button down for as long as it takes."""


def in_the_middle(hand: Hand, looker: Looker, results: list[Any], **grant: Any) -> threading.Thread:
    """Begin that gesture in a thread, and return when everything is down."""

    def act() -> None:
        try:
            results.append(hand.do(*HELD, **grant))
        except RelayUnreachable as error:
            results.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    until(lambda: (looker.keys_down(), looker.buttons_down()) == (2, 1))
    return thread


def test_a_gesture_that_is_closed_in_the_middle_lets_everything_go(hand: Hand, looker: Looker) -> None:
    results: list[InputResult] = []
    thread = in_the_middle(hand, looker, results)
    (stream,) = hand.client.streams()
    assert (stream.kind, stream.principal, stream.may_control) == ("input", "key:a", True)
    hand.client.close_stream(stream, CloseCode.REVOKED, "your role does not cover it any more")
    thread.join(10)
    until(lambda: (looker.keys_down(), looker.buttons_down()) == (0, 0))
    assert [(one.result, one.done, one.began) for one in results] == [(InputOutcome.CUT, 0, True)]
    assert "your role" in results[0].detail
    assert hand.client.streams() == []


BOB = LeaseHolder(kind=LeaseKind.PERSON, id="person:bob", name="Bob")
AGENT = LeaseHolder(kind=LeaseKind.AGENT, id="key:a", name="an agent")


def test_a_gesture_ends_when_somebody_takes_control_and_lets_everything_go(
    hand: Hand, looker: Looker
) -> None:
    results: list[InputResult] = []
    lease = Lease(session_id="leased", number=1, holder=AGENT)
    thread = in_the_middle(hand, looker, results, session_id="leased", lease=lease)
    hand.client.set_lease(Lease(session_id="leased", number=2, holder=BOB))
    thread.join(10)
    until(lambda: (looker.keys_down(), looker.buttons_down()) == (0, 0))
    assert [(one.result, one.began) for one in results] == [(InputOutcome.LEASE_LOST, True)]
    assert "Bob has taken control" in results[0].detail
    # What the relay has heard counts, whatever an older grant says.
    again = hand.do({"type": "key", "keys": "a"}, session_id="leased", lease=lease)
    assert (again.result, again.began) == (InputOutcome.LEASE_LOST, False)
    assert "Bob" in again.detail


def test_a_gesture_of_somebody_without_the_lease_does_nothing(hand: Hand) -> None:
    hand.recorder.forget()
    lease = Lease(session_id="bobs", number=1, holder=BOB)
    result = hand.do({"type": "key", "keys": "a"}, session_id="bobs", lease=lease)
    assert (result.result, result.began) == (InputOutcome.LEASE_LOST, False)
    nobodys = Lease(session_id="nobodys", number=4)
    result = hand.do({"type": "key", "keys": "a"}, session_id="nobodys", lease=nobodys)
    assert (result.result, result.detail) == (InputOutcome.LEASE_LOST, "nobody has keyboard and mouse now")
    assert hand.done() == []


def test_keys_of_a_stream_wait_for_the_end_of_a_gesture(hand: Hand) -> None:
    """Watching goes on meanwhile, and the pointer's place is known from the stream, too."""

    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await open_viewer(http, hand.relay, target=hand.xvnc.port, password="secret12")
        await viewer.shake_hands()
        await viewer.socket.send_bytes(pack(">BBHH", 5, 0, 77, 88))
        hand.recorder.until(lambda found: any((one.x, one.y) == (77, 88) for one in found))
        hand.recorder.forget()
        gesture = asyncio.create_task(
            asyncio.to_thread(
                hand.do,
                {"type": "type", "text": "aa"},
                {"type": "wait", "ms": 400},
                {"type": "type", "text": "bb"},
                {"type": "click"},
            )
        )
        await asyncio.to_thread(hand.recorder.until, lambda found: text_of(found) == "aa")
        await viewer.socket.send_bytes(pack(">BBxxIBBxxI", 4, 1, ord("z"), 4, 0, ord("z")))
        assert (await gesture).result is InputOutcome.DONE
        found = await asyncio.to_thread(hand.recorder.until, lambda found: "z" in text_of(found))
        assert text_of(found) == "aabbz"
        assert [(one.x, one.y) for one in found if one.kind == "ButtonPress"] == [(77, 88)]
        await viewer.socket.close()

    with_http(body)


def test_a_gesture_that_nobody_waits_for_any_more_lets_everything_go(
    hand: Hand, looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The gesture takes 15 s; its caller waits for one.
    monkeypatch.setattr(viewer.relay_client, "INPUT_READ_SECONDS", -14.0)
    results: list[object] = []
    thread = in_the_middle(hand, looker, results)
    thread.join(10)
    assert isinstance(results[0], RelayUnreachable)
    until(lambda: (looker.keys_down(), looker.buttons_down()) == (0, 0))


def test_a_desktop_that_vanishes_in_the_middle_is_said_to(relay: RelayProcess, tmp_path: Path) -> None:
    results: list[InputResult] = []
    with (
        running_xvnc(tmp_path, password="secret12", geometry=SIZE) as xvnc,
        recording(xvnc.display, tmp_path, SIZE) as recorder,
        Hand(relay, xvnc, recorder) as hand,
    ):
        looker = Looker(xvnc.display)
        thread = in_the_middle(hand, looker, results, session_id="s2")
        looker.close()
        xvnc.process.kill()
        thread.join(10)
    assert [(one.result, one.began) for one in results] == [(InputOutcome.UNREACHABLE, True)]


def test_a_relay_that_is_stopped_in_the_middle_lets_everything_go(
    xvnc: Xvnc, recorder: Recorder, looker: Looker, tmp_path: Path
) -> None:
    results: list[object] = []
    with running_relay(tmp_path) as relay, Hand(relay, xvnc, recorder) as hand:
        thread = in_the_middle(hand, looker, results)
        relay.process.terminate()
        thread.join(10)
        until(lambda: (looker.keys_down(), looker.buttons_down()) == (0, 0))


def test_of_a_relay_that_is_killed_the_keys_go_up_at_once_and_the_button_with_the_next_pointer(
    xvnc: Xvnc, recorder: Recorder, looker: Looker, hand: Hand, tmp_path: Path
) -> None:
    """TigerVNC lets go of the keys of a client that vanishes, but not of its buttons."""
    results: list[object] = []
    with running_relay(tmp_path) as relay, Hand(relay, xvnc, recorder) as killed:
        thread = in_the_middle(killed, looker, results)
        relay.process.kill()
        thread.join(10)
    assert isinstance(results[0], RelayUnreachable)
    until(lambda: looker.keys_down() == 0)
    hand.do({"type": "move", "x": 1, "y": 1})
    until(lambda: looker.buttons_down() == 0)


def test_the_connection_is_kept_between_gestures(hand: Hand, relay: RelayProcess) -> None:
    before = established(hand.xvnc.port)
    for _ in range(5):
        hand.do({"type": "key", "keys": "Shift_L"})
    assert established(hand.xvnc.port) == before


def established(port: int) -> int:
    """Connections to the port, from its own side."""
    wanted = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(wanted) and line[3] == "01" for line in lines)


def test_a_grant_to_watch_does_nothing(hand: Hand) -> None:
    hand.recorder.forget()
    result = hand.do({"type": "type", "text": "x"}, may_control=False)
    assert (result.result, result.began) == (InputOutcome.CUT, False)
    assert hand.done() == []
