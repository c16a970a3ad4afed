"""What the list of sandboxes shows: `sandboxes/filter.js` itself, run by node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_attention import HELP, session
from tests.test_session_words import node
from viewer.incoming import ListQuery
from viewer.model import Sort, Status

FILTER = "sandboxes/filter.js"


def of(search: str) -> dict[str, Any]:
    found: dict[str, Any] = node("s.filterFrom(v[0])", search, module=FILTER)
    return found


@pytest.mark.parametrize(
    "search",
    [
        "",
        "?status=creating&status=running&status=paused",
        "?host=h1&image=desktop&task_id=a+b&agent_id=%C3%A4&q=two+words&help=true&sort=expires",
    ],
)
def test_address_says_the_filter_and_the_filter_the_address(search: str) -> None:
    assert node("s.searchOf(s.filterFrom(v[0]))", search, module=FILTER) == search


@pytest.mark.parametrize(
    "search",
    ["?status=gone&sort=name&help=yes&x=1", "?sort=constructor", "?q=%00%0A%E2%80%A8", "?task_id=+", "?%"],
)
def test_what_nobody_knows_is_left_out(search: str) -> None:
    assert of(search) == of("")


def test_every_filter_is_one_that_the_api_takes() -> None:
    search = "?status=running&host=h&image=i&task_id=t&agent_id=a&help=true&q=w"
    for sort in node("Object.keys(s.SORTS)", module=FILTER):
        query = node(
            "[...new URLSearchParams(s.queryOf(v[0], {limit: 50, cursor: 'c'}))]",
            {**of(search), "sort": sort},
            module=FILTER,
        )
        asked = ListQuery.model_validate({**dict(query), "status": (Status.RUNNING,)})
        assert asked.sort == (Sort.NEWEST if sort == "attention" else sort)
        assert (asked.q, asked.help, asked.task_id, asked.limit) == ("w", True, "t", 50)


def test_what_is_too_long_for_the_api_is_cut() -> None:
    assert len(of(f"?q={'a' * 500}")["q"]) == 200


@pytest.mark.parametrize(
    ("search", "changed", "is_shown"),
    [
        ("", {"status": "terminated"}, True),
        ("?status=running", {}, True),
        ("?status=running", {"status": "paused"}, False),
        ("?host=h1&task_id=t", {"task_id": "t"}, True),
        ("?host=h1&task_id=t", {"task_id": "t2"}, False),
        ("?help=true", {"help": HELP}, True),
        ("?help=true", {}, False),
        ("?q=NIGHT+h1", {"labels": {"team": "Night shift"}}, True),
        ("?q=which+account", {"help": HELP}, True),
        ("?q=100%25", {"error_message": "100 % full"}, False),
        ("?sort=expires", {"expires_at": None}, False),
        ("?sort=expires", {"expires_at": "2026-11-30T13:00:00Z"}, True),
        ("?sort=expires", {"expires_at": "2026-11-30T13:00:00Z", "status": "error"}, False),
    ],
)
def test_event_changes_the_list_as_the_api_would(
    search: str, changed: dict[str, Any], is_shown: bool
) -> None:
    one: dict[str, Any] = {
        "sandbox_id": None,
        "image": "desktop",
        "task_id": None,
        "agent_id": None,
        "labels": {},
    }
    expression = "s.matches(v[0], s.filterFrom(v[1]))"
    assert node(expression, session("s-1", **one | changed), search, module=FILTER) is is_shown


@pytest.mark.parametrize(
    ("sort", "before"),
    [("attention", True), ("-created", True), ("created", False), ("-updated", False)],
)
def test_what_is_behind_the_last_page_waits_for_the_next_one(sort: str, before: bool) -> None:
    older, newer = "2026-11-30T11:00:00Z", "2026-11-30T11:30:00Z"
    one = session("a", created_at=newer, updated_at=older)
    edge = session("b", created_at=older, updated_at=newer)
    assert node("s.isWithin(v[0], v[1], {sort: v[2]})", one, edge, sort, module=FILTER) is before
    assert node("s.isWithin(v[0], v[0], {sort: v[1]})", edge, sort, module=FILTER) is True
