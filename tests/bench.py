"""`make bench`: ratios against the alternatives, measured in the same run.

`make bench ONLY=stream` runs one group. Rows are printed as a table and written to `.local/bench.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter

from tests import bench_create, bench_deploy, bench_rollout, bench_stream
from tests.bench_row import BenchRow

GROUPS: dict[str, Callable[[], list[BenchRow]]] = {
    "create": bench_create.rows,
    "deploy": bench_deploy.rows,
    "rollout": bench_rollout.rows,
    "stream": bench_stream.rows,
}
RESULTS = Path(".local/bench.json")
_rows = TypeAdapter(list[BenchRow])


def main(wanted: list[str]) -> int:
    unknown = sorted(set(wanted) - set(GROUPS))
    if unknown:
        print(f"unknown bench group {unknown[0]!r}; there are: {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    rows = [row for name in wanted or GROUPS for row in GROUPS[name]()]
    print(as_table(rows))
    RESULTS.parent.mkdir(mode=0o700, exist_ok=True)
    RESULTS.write_bytes(_rows.dump_json(rows, indent=2))
    return 0


def as_table(rows: list[BenchRow]) -> str:
    head = ("what", "value", "against", "ratio", "goal", "met")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def _cells(row: BenchRow) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return row.name, f"{row.value:.4g} {row.unit}", row.against, ratio, row.goal, met


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
