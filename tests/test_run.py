"""What `make test` says at its end."""

from __future__ import annotations

from pathlib import Path

from tests.run import counts_of, failed_in, longest_of

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
    assert failed_in(report) == ("tests/test_store.py::b: assert 1 == 2",)


def test_part_that_never_began_is_said(tmp_path: Path) -> None:
    assert counts_of(tmp_path / "none.xml") == "pytest did not run"
    assert longest_of(tmp_path / "none.xml") == ""
    assert failed_in(tmp_path / "none.xml") == ()
