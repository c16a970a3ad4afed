"""Bench group "fleet": what the whole stack's roll-out costs over SSH to the example's hosts when nothing
changed, against one bare command sent to all of them the same way."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from roles.choice import ROLES
from tests.bench_host import bench_hosts
from tests.bench_row import BenchRow
from tests.fleet.roll_out import RollOut, RollOutFailed
from tests.online.spread import SpreadFleet, bring_up_spread

ROUNDS = 3
WITHOUT_THE_CHECK = ("--data", f"deskfleet_roles={','.join(role for role in ROLES if role != 'check')}")
"""The self-check at the end makes desktops and waits for their first frames: no cost of the deploy's own."""


def rows() -> list[BenchRow]:
    """The first roll-out takes minutes; then each way in turns, medians in seconds."""
    hosts = bench_hosts()
    spread = bring_up_spread(hosts)
    try:
        first = spread.roll_out()
        return _measure(spread, first)
    finally:
        if not hosts.keeping:
            for machine in spread.machines.values():
                machine.destroy()


def _measure(spread: SpreadFleet, first: RollOut) -> list[BenchRow]:
    checked, noop, bare = [], [], []
    for _ in range(ROUNDS):
        checked.append(_unchanged(spread))
        noop.append(_unchanged(spread, *WITHOUT_THE_CHECK))
        bare.append(_bare(spread))
    where = f"{len(spread.machines)} hosts over SSH"
    operations = len(noop[0].results.operations)
    seconds, least = _median(noop), _median(bare)
    against = f"pyinfra exec true {least:.2f} s"
    return [
        BenchRow(
            name=f"no-op deploy, {where}, each of {operations} operations", value=1000 * seconds / operations,
            unit="ms", against=against, ratio=seconds / operations / least, goal="", met=None,
        ),
        BenchRow(
            name=f"no-op deploy, {where}", value=seconds, unit="s", against=against, ratio=seconds / least,
            goal="", met=None,
        ),
        BenchRow(
            name=f"no-op deploy, {where}, self-check included", value=_median(checked), unit="s",
            against=against, ratio=_median(checked) / least, goal="<= 90 s", met=_median(checked) <= 90,
        ),
        *_first_row(spread, first, where),
    ]  # fmt: skip


def _first_row(spread: SpreadFleet, first: RollOut, where: str) -> list[BenchRow]:
    """None where the hosts were kept from an earlier run."""
    if not spread.was_bare:
        return []
    return [
        BenchRow(
            name=f"first deploy, {where}", value=first.seconds, unit="s", against="", ratio=None, goal="",
            met=None,
        )
    ]  # fmt: skip


def _unchanged(spread: SpreadFleet, *more: str) -> RollOut:
    done = spread.checkout.roll_out(*more, show=False)
    if done.changes:
        raise RollOutFailed(f"not a no-op, it changed {done.changes}")
    return done


def _bare(spread: SpreadFleet) -> RollOut:
    """The least any roll-out with pyinfra can take: imports, inventory, connections, one command."""
    done = spread.checkout.start("inventory", "exec", "-y", "--", "true").finish(show=False)
    if done.code:
        raise RollOutFailed(f"the bare command ended with {done.code}:\n{done.said[-3000:]}")
    return done


def _median(runs: Sequence[RollOut]) -> float:
    return median(run.seconds for run in runs)
