"""`make bench` without its measuring: what one group's failure costs, and what the groups share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from tests import bench, bench_host, bench_list, bench_pages, bench_rollout, bench_spread
from tests.bench_figures import percentile
from tests.bench_row import BenchRow
from tests.fleet.roll_out import Operation, Report, Results, RollOut, RollOutFailed, Totals
from tests.hosts import bare_host
from tests.hosts.own_docker import OwnDocker
from tests.online.spread import SpreadFleet
from tests.painted_desktop import PaintedDesktop


def rows_of(name: str) -> list[BenchRow]:
    return [BenchRow(name=name, value=1, unit="s", against="2 s", ratio=0.5, goal="<= 1", met=True)]


def failing() -> list[BenchRow]:
    # Written before it is over, so that a long bench that is cut off has left what it measured.
    assert [row["name"] for row in json.loads(bench.RESULTS.read_text())] == ["first"]
    raise RuntimeError("no dockerd")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        bench,
        "GROUPS",
        {"one": lambda: rows_of("first"), "two": failing, "three": lambda: rows_of("last")},
    )


@pytest.mark.usefixtures("groups")
def test_group_that_fails_is_told_and_costs_the_others_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.measure(["one", "two", "three"]) == 1
    said = capsys.readouterr()
    assert "bench group 'two' failed: no dockerd" in said.err
    assert said.err.endswith("not measured, because they failed: two\n")
    assert "first" in said.out
    assert [row["name"] for row in json.loads(bench.RESULTS.read_text())] == ["first", "last"]


@pytest.mark.usefixtures("groups")
def test_bench_whose_groups_all_succeed_ends_well() -> None:
    assert bench.measure(["one", "three"]) == 0


def test_groups_share_one_dockerd(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is locked to whoever opened it, this very process included."""
    opened: list[str] = []

    @contextmanager
    def own_dockerd(name: str, *, keep: bool) -> Iterator[OwnDocker]:
        opened.append(name)
        yield OwnDocker(name, 1)

    bench_host.bench_hosts.cache_clear()
    monkeypatch.setattr(bare_host, "own_dockerd", own_dockerd)
    monkeypatch.setattr(bench_rollout, "_install_ansible", lambda: None)
    monkeypatch.setattr(bench_rollout, "make_ssh_key", lambda path: "")
    monkeypatch.setattr(bench_rollout, "start_machines", lambda *_, **__: {})
    monkeypatch.setattr(bench_rollout, "_measure", lambda *_: rows_of("roll-out"))
    try:
        bench_host.bench_hosts()
        assert bench_rollout.rows() == rows_of("roll-out")
    finally:
        bench_host.bench_hosts.cache_clear()
    assert len(set(opened)) == len(opened)


@dataclass
class NothingToDo:
    """A fleet whose roll-outs take four seconds and a bare command one; `changes` of them all."""

    changes: dict[str, set[str]]
    machines: tuple[str, ...] = ("edge1", "box1")
    was_bare: bool = True

    @property
    def checkout(self) -> NothingToDo:
        return self

    def roll_out(self, *_: str, show: bool = True) -> RollOut:
        changed = tuple(host for hosts in self.changes.values() for host in hosts)
        operation = Operation(name="Caddy | Run Caddy", success=changed, error=(), no_change=())
        results = Results(
            operations=(operation, operation), failed_hosts=(),
            totals=Totals(hosts=2, success=0, error=0, no_change=4),
        )  # fmt: skip
        return RollOut(0, Report(plan=(), results=results), "", 4.0)

    def start(self, *_: str) -> NothingToDo:
        return self

    def finish(self, *, show: bool) -> RollOut:
        return RollOut(0, None, "", 1.0)


def test_whole_stacks_noop_is_told_per_operation_and_against_a_bare_command() -> None:
    fleet = NothingToDo({})
    rows = bench_spread._measure(cast("SpreadFleet", fleet), fleet.roll_out())
    assert [(row.value, row.unit, row.ratio) for row in rows[:3]] == [
        (2000, "ms", 2),
        (4, "s", 4),
        (4, "s", 4),
    ]
    assert (rows[3].name, rows[3].value) == ("first deploy, 2 hosts over SSH", 4)
    assert rows[0].name == "no-op deploy, 2 hosts over SSH, each of 2 operations"


def test_roll_out_that_changes_something_is_not_measured_as_a_noop() -> None:
    fleet = NothingToDo({"Caddy | Run Caddy": {"box1"}})
    with pytest.raises(RollOutFailed, match="not a no-op"):
        bench_spread._measure(cast("SpreadFleet", fleet), fleet.roll_out())


def test_ways_to_a_page_in_the_middle_that_are_compared_lead_to_the_same_one(tmp_path: Path) -> None:
    size = 2000
    bench_list.fill(tmp_path / "deskfleet.db", size)
    with bench_list._opened(tmp_path / "deskfleet.db") as store:
        pages = [
            list(store.tenant(bench_list.TENANT).list(cursor=bench_list._deep(size, 0.5)).items),
            bench_list._by_offset(store, size // 2),
            bench_list._without_index(store, size),
        ]
    assert [len(page) for page in pages] == [bench_list.PAGE] * 3
    # The edge may fall one row further on.
    both = set.intersection(*({session.id for session in page} for page in pages))
    assert len(both) >= bench_list.PAGE - 1


@pytest.mark.parametrize(("part", "wanted"), [(50, 51), (99, 100), (100, 100)])
def test_percentile_is_a_value_that_was_measured(part: int, wanted: float) -> None:
    assert percentile(list(range(100, 0, -1)), part) == wanted
    assert percentile([7], part) == 7


def test_picture_is_known_by_points_amid_one_colour_and_by_many_colours() -> None:
    points = bench_pages.points_of(PaintedDesktop().first_picture)
    assert len(points) > 20
    assert len({point[2:] for point in points}) > 4
    plain = bench_pages.points_of(Image.new("RGB", (1280, 800), "#123456"))
    assert {point[2:] for point in plain} == {(0x12, 0x34, 0x56)}


def test_first_frame_that_has_nothing_to_be_compared_with_says_why() -> None:
    seen = {name: bench_pages.Seen([200.0], [100.0], [150.0]) for name in ("sandboxes", "view")}
    carried = {name: bench_pages.Carried(20.0, 5) for name in ("sandboxes", "view", "list")}
    rows = bench_pages._rows(seen, carried, "no network")
    first = next(row for row in rows if row.name == "first frame of /view/<id>, cold")
    assert (first.value, first.ratio, first.met) == (200, None, None)
    assert first.goal == "<= 0.50 (not measured: no network)"


def test_first_frame_is_told_against_both_ways_of_the_whole_app() -> None:
    seen = {name: bench_pages.Seen([200.0], [100.0], [150.0]) for name in ("sandboxes", "view")}
    seen |= {"seed": bench_pages.Seen([500.0], [150.0]), "direct": bench_pages.Seen([300.0], [90.0])}
    carried = {name: bench_pages.Carried(40.0, 5) for name in ("sandboxes", "view", "list", "seed")}
    rows = {(row.name, row.against.partition(" ")[0]): row for row in bench_pages._rows(seen, carried, "")}
    cold = rows["first frame of /view/<id>, cold", "seed:"]
    warm = rows["first frame of /view/<id>, warm", "seed:"]
    assert (cold.ratio, cold.met, warm.met) == (0.4, True, False)
    assert rows["list page, bytes", "seed:"].met is False
    assert rows["viewer (/view), bytes", "seed:"].met is True
