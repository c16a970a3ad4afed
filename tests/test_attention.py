"""Which session a person should look at first: `attention.js` itself, run by node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_session_words import RUNNING, node

NOW = "2026-11-30T12:00:00Z"
AGES = {
    "now": "2026-11-30T11:59:50Z",
    "two minutes": "2026-11-30T11:58:00Z",
    "an hour": "2026-11-30T11:00:00Z",
}
HELP = {"reason": "Which of the two accounts?", "asked_at": NOW, "asked_by": "key:k"}


def session(name: str = "", **changed: Any) -> dict[str, Any]:
    base = {"id": name, "host": "h1", "help": None, "error_message": None, "terminated_at": None}
    times = {"created_at": AGES["now"], "updated_at": AGES["now"], "last_used_at": AGES["now"]}
    return {**RUNNING, **base, **times, **changed}


def attention(one: dict[str, Any], **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = node(
        "s.attentionOf(v[0], Date.parse(v[1]), v[2])", one, NOW, options, module="attention.js"
    )
    return found


IN_ORDER = [
    session("help", help=HELP),
    session("error", status="error", terminated_at=AGES["two minutes"], error_message="No such image."),
    session("unreachable", host_status="unreachable"),
    session("slow", status="creating", created_at=AGES["two minutes"]),
    session("running"),
    session("idle", last_used_at=AGES["an hour"]),
    session("paused", status="paused"),
    session("ended", status="terminated", terminated_at=AGES["now"]),
]


def test_what_needs_somebody_comes_first_and_what_is_over_last() -> None:
    names = [one["id"] for one in IN_ORDER]
    expression = "v[0].sort(s.byAttention(Date.parse(v[1]))).map((one) => one.id)"
    assert node(expression, IN_ORDER[::-1], NOW, module="attention.js") == names


def test_those_of_one_kind_come_newest_first() -> None:
    old, new = session("a", created_at=AGES["two minutes"]), session("b")
    twin = session("c")
    expression = "v[0].sort(s.byAttention(Date.parse(v[1]))).map((one) => one.id)"
    assert node(expression, [old, new, twin], NOW, module="attention.js") == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("changed", "tone", "label", "why"),
    [
        ({"help": HELP}, "warn", "Needs a person", HELP["reason"]),
        ({"help": HELP, "host_status": "unreachable"}, "warn", "Needs a person", HELP["reason"]),
        ({"host_status": "unreachable"}, "warn", "Host unreachable", "Host h1 does not answer"),
        (
            {"status": "creating", "created_at": AGES["two minutes"]},
            "busy",
            "Creating",
            "Being made for 2 min",
        ),
        (
            {"status": "creating", "status_reason": "queued", "created_at": AGES["an hour"]},
            "busy",
            "Queued",
            "Waiting in line for 1 h",
        ),
        ({"status": "creating"}, "busy", "Creating", ""),
        ({}, "good", "Running", ""),
        ({"last_used_at": None, "created_at": AGES["an hour"]}, "good", "Running", "Not used for 1 h"),
        ({"status": "error", "error_message": "No such image."}, "bad", "Error", "No such image."),
        ({"status": "terminated"}, "quiet", "Terminated", ""),
    ],
)
def test_it_says_what_and_why(changed: dict[str, Any], tone: str, label: str, why: str) -> None:
    found = attention(session(**changed))
    assert (found["tone"], found["label"], found["why"]) == (tone, label, why)


def test_an_error_is_news_for_ten_minutes_or_until_somebody_saw_it() -> None:
    old = session(status="error", terminated_at=AGES["an hour"])
    fresh = session(status="error", terminated_at=AGES["two minutes"])
    ranks = node("s.RANK", module="attention.js")
    assert attention(fresh)["rank"] == ranks["error"]
    assert attention(old)["rank"] == ranks["ended"]
    assert attention(old, unseen=True)["rank"] == ranks["error"]


def test_what_has_ended_needs_nobody_any_more() -> None:
    assert attention(session(status="terminated", help=HELP))["label"] == "Terminated"


def test_what_is_ending_does_not_stand_between_the_running_ones() -> None:
    ending = attention(session(status_reason="terminating", host_status="unreachable"))
    assert (ending["rank"], ending["label"]) == (
        node("s.RANK.paused", module="attention.js"),
        "Terminating",
    )
