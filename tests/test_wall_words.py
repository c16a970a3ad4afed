"""What the wall shows, in which order and under which address: its pure modules themselves, run by node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_attention import AGES, HELP, NOW, session
from tests.test_session_words import node

USUAL = {
    "live": [],
    "layout": 1,
    "size": "m",
    "group": "none",
    "host": "",
    "task": "",
    "agent": "",
    "tv": False,
}


def choice(**changed: Any) -> dict[str, Any]:
    return {**USUAL, **changed}


@pytest.mark.parametrize(
    ("address", "chosen"),
    [
        ("/wall", choice()),
        ("/wall?live=a,b", choice(live=["a", "b"], layout=2)),
        ("/wall?live=a&layout=4", choice(live=["a"], layout=4)),
        (
            "/wall?size=s&group=host&task=a%20%26%20b&tv",
            choice(size="s", group="host", task="a & b", tv=True),
        ),
    ],
)
def test_address_says_all_that_is_chosen_and_nothing_else(address: str, chosen: dict[str, Any]) -> None:
    assert node("s.choiceIn(v[0])", address.partition("?")[2], module="wall/choice.js") == chosen
    assert node("s.addressOf(v[0])", chosen, module="wall/choice.js") == address


def test_nonsense_in_the_address_is_what_is_usual() -> None:
    search = "live=<b>,a,a,b,c,d,e&layout=3&size=huge&group=image"
    found = node("s.choiceIn(v[0])", search, module="wall/choice.js")
    assert found == choice(live=["a", "b", "c", "d"], layout=4)


def test_one_more_takes_the_place_of_the_one_that_was_there_first() -> None:
    full = choice(live=["a", "b"], layout=2)
    assert node("s.enlarge(v[0], 'c', ['b', 'a']).live", full, module="wall/choice.js") == ["a", "c"]
    assert node("s.enlarge(v[0], 'a').live", full, module="wall/choice.js") == ["a", "b"]
    room = choice(live=["a", "b"], layout=4)
    assert node("s.enlarge(v[0], 'c').live", room, module="wall/choice.js") == ["a", "b", "c"]


def test_a_place_makes_room_and_two_change_places() -> None:
    two = choice(live=["a", "b"], layout=2)
    assert node("s.putAt(v[0], 'b', 0).live", two, module="wall/choice.js") == ["b", "a"]
    grown = node("s.putAt(v[0], 'c', 3)", two, module="wall/choice.js")
    assert (grown["live"], grown["layout"]) == (["a", "b", "c"], 4)
    assert node("s.withLayout(v[0], 1).live", grown, module="wall/choice.js") == ["a"]


def names(sessions: list[dict[str, Any]], group: str = "none", pinned: tuple[str, ...] = ()) -> Any:
    return node(
        "s.arranged(v[0], {group: v[1]}, new Set(v[2]), Date.parse(v[3]))"
        ".map(({name, sessions}) => [name, sessions.map(({id}) => id)])",
        sessions, group, pinned, NOW, module="wall/order.js",
    )  # fmt: skip


def test_pressing_ones_come_before_pinned_ones_and_idle_ones_last() -> None:
    wall = [
        session("idle", last_used_at=AGES["an hour"]),
        session("plain"),
        session("pinned", last_used_at=AGES["an hour"]),
        session("lost", host_status="unreachable"),
        session("needy", help=HELP),
    ]
    assert names(wall, pinned=("pinned", "gone")) == [["", ["needy", "lost", "pinned", "plain", "idle"]]]


def test_a_group_with_somebody_in_need_comes_first_and_the_nameless_one_last() -> None:
    wall = [
        session("a", task_id=None),
        session("b", task_id="task 2"),
        session("c", task_id="task 10"),
        session("d", task_id="task 11", help=HELP),
    ]
    assert names(wall, "task") == [
        ["task 11", ["d"]],
        ["task 2", ["b"]],
        ["task 10", ["c"]],
        ["Without a task", ["a"]],
    ]


def test_what_has_ended_is_no_longer_shown_unless_it_failed_just_now() -> None:
    over = [
        session("failed", status="error", terminated_at=AGES["two minutes"]),
        session("failed long ago", status="error", terminated_at=AGES["an hour"]),
        session("ended", status="terminated", terminated_at=AGES["now"]),
        session("runs"),
    ]
    those = "v[0].filter(one => s.isOnWall(one, Date.parse(v[1]))).map(({id}) => id)"
    kept = node(those, over, NOW, module="wall/order.js")
    assert kept == ["failed", "runs"]


def test_of_too_many_those_stay_that_somebody_should_look_at_and_the_pinned_ones() -> None:
    many = [session(f"s-{number:03}") for number in range(300)]
    needy, lost = session("needy", help=HELP), session("lost", host_status="unreachable")
    kept = node(
        "s.foremost(v[0], new Set(['s-007', 'gone']), Date.parse(v[1])).map(({id}) => id)",
        [*many, needy, lost], NOW, module="wall/order.js",
    )  # fmt: skip
    assert (len(kept), kept[:3]) == (200, ["needy", "lost", "s-007"])
    few = "s.foremost(v[0], new Set(), Date.parse(v[1])).length"
    assert node(few, many[:200], NOW, module="wall/order.js") == 200


def test_what_has_ended_is_forgotten_once_it_is_no_news() -> None:
    over = [
        session("failed", status="error", terminated_at=AGES["two minutes"]),
        session("failed long ago", status="error", terminated_at=AGES["an hour"]),
        session("ended", status="terminated", terminated_at=AGES["now"]),
        session("ended before", status="terminated", terminated_at=AGES["two minutes"]),
        session("runs"),
    ]
    those = "v[0].filter(one => s.isPast(one, Date.parse(v[1]))).map(({id}) => id)"
    assert node(those, over, NOW, module="wall/order.js") == ["failed long ago", "ended before"]


@pytest.mark.parametrize("chosen", [choice(), choice(host="a b", task="t&1"), choice(agent="x", size="s")])
def test_what_there_is_no_room_for_is_on_a_list_of_the_same(chosen: dict[str, Any]) -> None:
    address = node("s.listOf(v[0])", chosen, module="wall/choice.js")
    filtered = node("s.filterFrom(v[0])", address.partition("?")[2], module="sandboxes/filter.js")
    assert {name: filtered[name] for name in ("host", "task", "agent")} == {
        name: chosen[name] for name in ("host", "task", "agent")
    }


@pytest.mark.parametrize(("width", "height"), [(1880, 1040), (3800, 2100), (1200, 600), (100, 100)])
def test_as_many_as_a_screen_has_room_for_fit_on_it(width: int, height: int) -> None:
    count = node("s.roomFor(...v)", width, height, module="wall/order.js")
    found = node("s.largestTiles(...v)", count, width, height, module="wall/order.js")
    if count > 1:
        assert found["columns"] * found["tile"] + (found["columns"] - 1) * 12 <= width
        rows = -(-count // found["columns"])
        assert rows * (found["tile"] * 10 / 16 + 64) + (rows - 1) * 12 <= height + 1
    assert 1 <= count <= 200


@pytest.mark.parametrize("count", [1, 2, 5, 12, 40, 84])
def test_on_a_screen_that_nobody_scrolls_all_tiles_fit(count: int) -> None:
    found = node("s.largestTiles(v[0], 1880, 1040)", count, module="wall/order.js")
    rows = -(-count // found["columns"])
    assert found["columns"] * found["tile"] + (found["columns"] - 1) * 12 <= 1880
    assert rows * (found["tile"] * 10 / 16 + 64) + (rows - 1) * 12 <= 1041
