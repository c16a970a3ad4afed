"""What the pages say of a session: `session.js` itself, run by node."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from viewer.frontend.hatch_build import FRONTEND

NOW = "2026-11-30T12:00:00Z"
RUNNING: dict[str, Any] = {
    "status": "running", "status_reason": None, "host_status": "ok", "wanted_status": None,
    "idle_ends_at": None, "expires_at": None, "lifetime_ends_at": None,
}  # fmt: skip


def node(expression: str, *values: Any, module: str = "session.js") -> Any:
    """The value of a JavaScript expression over one of our modules (as `s`) and `values` (as `v`)."""
    program = shutil.which("node", path=str(Path(sys.executable).parent)) or "node"
    script = (
        f"import * as s from {json.dumps((FRONTEND / 'src' / module).as_uri())};"
        f"const v = {json.dumps(values)};"
        f"console.log(JSON.stringify({expression}));"
    )
    done = subprocess.run(
        [program, "--input-type=module", "--eval", script], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_countdown_shows_seconds_only_near_its_end() -> None:
    cases = {
        -1: "now", 0: "now", 1: "in 1 s", 59_000: "in 59 s", 60_000: "in 1 min 00 s",
        247_000: "in 4 min 07 s", 599_999: "in 10 min 00 s", 600_000: "in 10 min", 7_300_000: "in 2 h",
    }  # fmt: skip
    assert node("v[0].map(s.countdown)", list(cases)) == list(cases.values())


def test_place_in_line_is_a_sentence() -> None:
    assert node("[1, 3, null].map(s.placeInLine)") == [
        "It is the next in line. It starts as soon as a host has room for it.",
        "Place 3 in line. It starts as soon as a host has room for it.",
        "It starts as soon as a host has room for it.",
    ]


@pytest.mark.parametrize(
    ("changed", "label"),
    [
        ({}, "Running"),
        ({"status": "creating", "status_reason": "queued"}, "Queued"),
        ({"status": "creating", "status_reason": "starting"}, "Creating"),
        ({"wanted_status": "paused"}, "Pausing"),
        ({"status": "paused", "wanted_status": "running"}, "Resuming"),
        ({"status": "creating", "status_reason": "terminating"}, "Terminating"),
        ({"wanted_status": "paused", "host_status": "unreachable"}, "Host unreachable"),
    ],
)
def test_badge_says_what_a_session_waits_for(changed: dict[str, Any], label: str) -> None:
    assert node("s.badgeOf(v[0]).label", {**RUNNING, **changed}) == label


def test_list_tells_of_the_nearest_end_in_its_last_minutes() -> None:
    far, near, nearer = "2026-11-30T13:00:00Z", "2026-11-30T12:05:00Z", "2026-11-30T12:00:40Z"
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"expires_at": far}, ""),
        ({"expires_at": near}, "ends in 5 min"),
        ({"expires_at": NOW}, "ends now"),
        ({"expires_at": far, "idle_ends_at": near}, "unused, ends in 5 min"),
        ({"expires_at": nearer, "idle_ends_at": near}, "ends in 40 s"),
        ({"expires_at": near, "status": "terminated"}, ""),
    ]
    sessions = [{**RUNNING, **changed} for changed, _ in cases]
    said = node("v[0].map((one) => s.nextEnd(one, Date.parse(v[1])))", sessions, NOW)
    assert said == [text for _, text in cases]


def test_the_last_end_is_said_when_renewals_come_near_to_it() -> None:
    session = {**RUNNING, "expires_at": NOW, "lifetime_ends_at": NOW}
    assert [end["name"] for end in node("s.endsOf(v[0])", session)] == ["At the latest"]
    session["lifetime_ends_at"] = "2026-11-30T13:00:00Z"
    assert [end["name"] for end in node("s.endsOf(v[0])", session)] == ["Ends", "At the latest"]
    session["lifetime_ends_at"] = "2026-11-30T13:00:01Z"
    assert [end["name"] for end in node("s.endsOf(v[0])", session)] == ["Ends"]
