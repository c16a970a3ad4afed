"""Bench group "deploy": what a roll-out costs when nothing changed."""

from __future__ import annotations

from statistics import median

from pydantic import BaseModel

from tests.bench_host import bench_fleet
from tests.bench_row import BenchRow
from tests.hosts.bare_host import CLONE

ROUNDS = 3
NOOP = ".venv/bin/pyinfra inventory deploy.py -y"
COUNT = f"{NOOP} --json 2>/dev/null"
BARE = ".venv/bin/pyinfra inventory exec -y -- true"
"""The least any roll-out with pyinfra can take: imports, inventory, connection, one command."""


class Operation(BaseModel):
    name: str


class Operations(BaseModel):
    operations: tuple[Operation, ...]


class Results(BaseModel):
    """The part of pyinfra's `--json` that tells how many operations there were."""

    results: Operations

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(operation.name for operation in self.results.operations)


def rows() -> list[BenchRow]:
    """The no-op roll-out with its self-check, against one bare command sent the same way."""
    fleet = bench_fleet()
    noop, bare = [], []
    for _ in range(ROUNDS):
        noop.append(fleet.host.run(NOOP, cwd=CLONE, timeout=300).seconds)
        bare.append(fleet.host.run(BARE, cwd=CLONE).seconds)
    seconds = median(noop)
    operations = len(Results.model_validate_json(fleet.host.run(COUNT, cwd=CLONE, timeout=300).out).names)
    figures = [
        BenchRow(
            name=f"no-op deploy, each of {operations} operations",
            value=1000 * seconds / operations,
            unit="ms",
            against=f"pyinfra exec true {1000 * median(bare):.0f} ms",
            ratio=seconds / operations / median(bare),
            goal="",
            met=None,
        ),
        BenchRow(
            name="no-op deploy, self-check included",
            value=seconds,
            unit="s",
            against=f"pyinfra exec true {median(bare):.2f} s",
            ratio=seconds / median(bare),
            goal="<= 90 s",
            met=seconds <= 90,
        ),
    ]
    if fleet.first_up:
        first = fleet.first_up.seconds
        figures.append(
            BenchRow(
                name="make up on the bench's host",
                value=first,
                unit="s",
                against="",
                ratio=None,
                goal="<= 360 s",
                met=first <= 360,
            )
        )
    return figures
