"""What `make test` says at its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tests.run
from tests.run import Outcome, Part, counts_of, failed_in, longest_of, of_both_runs, print_summary, run_part

REPORT = """<testsuites><testsuite tests="4" failures="1" errors="0" skipped="1">
<testcase classname="tests.worker.test_worker" name="a" time="2.5"/>
<testcase classname="tests.test_store" name="b" time="1.2">
<failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.test_hosts.TestOfAClass" name="c" time="0.2"><skipped/></testcase>
<testcase classname="tests.worker.test_ports" name="d" time="0.6"/>
</testsuite></testsuites>"""


def test_summary_counts_tests_and_says_where_the_time_went(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert counts_of(report) == "2 passed, 1 failed, 1 skipped"
    assert longest_of(report, most=2) == "worker 3 s, test_store.py 1 s"
    assert failed_in(report) == {"tests/test_store.py::b": "assert 1 == 2"}


def test_part_that_never_began_is_said(tmp_path: Path) -> None:
    assert counts_of(tmp_path / "none.xml") == "pytest did not run"
    assert longest_of(tmp_path / "none.xml") == ""
    assert failed_in(tmp_path / "none.xml") == {}


FAILS = "def test_x(): assert False, 'always'"
FAILS_ONCE = """
from pathlib import Path
def test_x():
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        raise OSError("busy")
"""


def outcome_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, runs_again: bool = True, **files: str
) -> Outcome:
    """Of a part that has those tests and a steady one, run for true."""
    (folder / "tests").mkdir()
    for name, text in {**files, "steady": "def test_x(): pass"}.items():
        (folder / "tests" / f"test_{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]")
    monkeypatch.setattr(tests.run, "ROOT", folder)
    # Of the run that this test is a part of; they are not meant for one within it.
    for name in [one for one in os.environ if one.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    return run_part(Part("a part", "", 60, verbose=False, runs_again=runs_again), [], "")


def test_what_failed_once_is_unsteady_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = outcome_of(tmp_path, monkeypatch, once=FAILS_ONCE)
    assert (outcome.code, outcome.failed) == (0, {})
    assert outcome.unsteady == {"tests/test_once.py::test_x": "OSError: busy"}
    print_summary([outcome], 1)
    assert (
        "unsteady, passed when it ran again: tests/test_once.py::test_x: OSError: busy"
        in capsys.readouterr().out
    )


def test_what_fails_twice_has_failed() -> None:
    first, second = {"a": "once", "b": "twice"}, {"b": "twice"}
    assert of_both_runs(first, second, 1) == (second, {"a": "once"})


def test_second_run_that_never_began_says_nothing_of_the_tests() -> None:
    assert of_both_runs({"a": "once"}, {}, 3) == ({"a": "once"}, {})


def test_many_failures_are_no_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests.run, "MOST_RUN_AGAIN", 1)
    outcome = outcome_of(tmp_path, monkeypatch, once=FAILS_ONCE, twice=FAILS)
    assert (outcome.code, len(outcome.failed), outcome.unsteady) == (1, 2, {})


def test_tests_that_need_nothing_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(tmp_path, monkeypatch, runs_again=False, once=FAILS_ONCE)
    assert (outcome.code, list(outcome.failed)) == (1, ["tests/test_once.py::test_x"])
