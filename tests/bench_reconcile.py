"""Bench group "reconcile": the worker's processor time for each 100 sandboxes that run on one real host while
nothing happens, beside a look that asks the host for each sandbox by itself."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.bench_row import BenchRow
from tests.bench_tiny_host import tiny_host
from tests.process_figures import cpu_seconds
from tests.worker.fleet import Fleet
from viewer.model import Status
from viewer.worker import POLL_SECONDS

SANDBOXES = 30
"""Told for 100: the host of the benches takes minutes to make so many."""
CREATES_AT_ONCE = 3
SETTLING_SECONDS = 10
MEASURED_SECONDS = 20
LOOKS = 4


def rows() -> list[BenchRow]:
    server, relay = tiny_host()
    with (
        tempfile.TemporaryDirectory(prefix="deskfleet-bench-") as directory,
        Fleet(
            Path(directory), server, relay, max_desktops=SANDBOXES, max_creates=CREATES_AT_ONCE,
            queue_seconds=900,
        ) as fleet,
    ):  # fmt: skip
        worker = fleet.start()
        # Its own start is no look.
        time.sleep(SETTLING_SECONDS)
        empty = _share_of_a_core(worker.pid)
        sandboxes = _fill(fleet)
        time.sleep(SETTLING_SECONDS)
        full = _share_of_a_core(worker.pid)
        one_by_one = _one_by_one(fleet, sandboxes)
    ours = (full - empty) * 100 / SANDBOXES
    return [
        BenchRow(
            name="worker's CPU for 100 sandboxes at rest", value=ours, unit="% of a core",
            against=f"a GET for each, every {POLL_SECONDS:g} s {one_by_one:.1f} %", ratio=ours / one_by_one,
            goal="<= 1.00", met=ours <= one_by_one,
        ),
        BenchRow(
            name="worker's CPU without any", value=empty, unit="% of a core", against="", ratio=None, goal="",
            met=None,
        ),
    ]  # fmt: skip


def _fill(fleet: Fleet) -> list[str]:
    """Ids of SANDBOXES that run. The host may give the same port to two that it makes at once; one of them
    fails, and another one takes its place."""
    running: list[str] = []
    while len(running) < SANDBOXES:
        made = [fleet.create("shell") for _ in range(SANDBOXES - len(running))]
        ended = [
            fleet.wait_until(one, lambda row: row.status is not Status.CREATING, seconds=600) for one in made
        ]
        running += [row.sandbox_id for row in ended if row.status is Status.RUNNING and row.sandbox_id]
    return running


def _share_of_a_core(process: int) -> float:
    """Percent, over MEASURED_SECONDS."""
    before, began = cpu_seconds(process), time.monotonic()
    time.sleep(MEASURED_SECONDS)
    return 100 * (cpu_seconds(process) - before) / (time.monotonic() - began)


def _one_by_one(fleet: Fleet, sandboxes: list[str]) -> float:
    """Percent of a core that such looks at 100 would take: the worker's own client, and nothing compared."""
    began = time.process_time()
    for _ in range(LOOKS):
        for sandbox in sandboxes:
            if fleet.link.sandboxes.get(sandbox) is None:
                raise RuntimeError(f"sandbox {sandbox} is gone")
    return 100 * (time.process_time() - began) / LOOKS / POLL_SECONDS * 100 / SANDBOXES
