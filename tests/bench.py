"""`make bench`: ratios against the alternatives, measured in the same run.

`make bench ONLY=stream` runs one group. Each group's rows are printed when it is done, and all so far are
written to `.local/bench.json`; a group that fails is told, and the others still run. Ends with 0 only if none
failed.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from tests import (
    bench_audit,
    bench_capture,
    bench_claim,
    bench_create,
    bench_deploy,
    bench_events,
    bench_list,
    bench_overhead,
    bench_pages,
    bench_reconcile,
    bench_roles,
    bench_rollout,
    bench_spread,
    bench_stream,
)
from tests.as_root import given_back, typed_by_sudo
from tests.bench_row import BenchRow
from tests.run import NEEDS, install_what_is_missing

GROUPS: dict[str, Callable[[], list[BenchRow]]] = {
    "audit": bench_audit.rows,
    "capture": bench_capture.rows,
    "claim": bench_claim.rows,
    "create": bench_create.rows,
    "deploy": bench_deploy.rows,
    "events": bench_events.rows,
    "fleet": bench_spread.rows,
    "list": bench_list.rows,
    "overhead": bench_overhead.rows,
    "pages": bench_pages.rows,
    "reconcile": bench_reconcile.rows,
    "roles": bench_roles.rows,
    "rollout": bench_rollout.rows,
    "stream": bench_stream.rows,
}
RESULTS = Path(".local/bench.json")
UNUSED = {"chromium"}
_rows = TypeAdapter(list[BenchRow])


def main(wanted: list[str]) -> int:
    unknown = sorted(set(wanted) - set(GROUPS))
    if unknown:
        print(f"unknown bench group {unknown[0]!r}; there are: {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    why = "The bench starts machines of its own, which takes root"
    code = typed_by_sudo("tests.bench", wanted, why=why)
    if code is not None:
        return code
    with given_back():
        install_what_is_missing([need for need in NEEDS if need.program not in UNUSED])
        return measure(wanted or list(GROUPS))


def measure(wanted: Sequence[str]) -> int:
    """Run these groups one after the other; 1 if one of them failed."""
    rows: list[BenchRow] = []
    failed: list[str] = []
    for name in wanted:
        print(f"\n=== {name}", flush=True)
        try:
            found = GROUPS[name]()
        except Exception as error:
            failed.append(name)
            print(
                f"{traceback.format_exc()}bench group {name!r} failed: {error}", file=sys.stderr, flush=True
            )
            continue
        rows += found
        print(as_table(found), flush=True)
        RESULTS.parent.mkdir(mode=0o700, exist_ok=True)
        RESULTS.write_bytes(_rows.dump_json(rows, indent=2))
    if len(wanted) > 1 and rows:
        print(f"\n=== all\n{as_table(rows)}")
    if failed:
        print(f"not measured, because they failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


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
