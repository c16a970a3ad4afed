"""Bench group "list": one page of a tenant's sessions out of tables of 10 000 to 1 000 000 rows: over HTTP as
a client gets it, and in the store beside the naive ways, OFFSET paging and no index."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from sqlalchemy import select

from tests.bench_figures import percentile
from tests.bench_row import BenchRow
from tests.viewer_process import ViewerProcess
from viewer.listing import Position, SessionFilter
from viewer.migrations import upgrade
from viewer.model import Session
from viewer.rows import session_of
from viewer.store import Store
from viewer.tables import SessionRow

SIZES = (10_000, 100_000, 1_000_000)
REQUESTS = 400
ROUNDS = 15
SLOW_ROUNDS = 3
"""Of the ways that read the whole table."""
TENANT = "main"
NEWEST = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = 50

_FILL = """
WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :rows)
INSERT INTO sandbox_sessions (
    id, tenant_id, kind, display, status, host, sandbox_id, image, resolution, task_id, agent_id, request_id,
    ttl_seconds, created_by, created_at, updated_at, expires_at, terminated_at
)
SELECT
    printf('%08x-0000-4000-8000-%012x', n * 2654435761 % 4294967296, n),
    CASE n % 10 WHEN 9 THEN 'other' ELSE 'main' END,
    'sandbox', 'rfb',
    CASE WHEN n < 200 THEN 'running' WHEN n % 50 = 0 THEN 'error' ELSE 'terminated' END,
    'here', printf('box-%d', n), 'desktop', '1280x800', printf('task-%d', n % 1000),
    printf('agent-%d', n % 100), printf('request-%d', n), 3600, 'key:bench', at, at, at,
    CASE WHEN n < 200 THEN NULL ELSE at END
FROM (
    SELECT n, strftime('%Y-%m-%d %H:%M:%S.000000', '2026-01-01', printf('-%d seconds', n)) AS at FROM number
)
"""
"""One session a second back from NEWEST; nine of ten are the tenant's, 200 live."""


def fill(database: Path, rows: int) -> None:
    """A migrated database with so many sessions of two tenants. A million take half a minute."""
    upgrade(database)
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        at = NEWEST.isoformat(sep=" ").removesuffix("+00:00") + ".000000"
        connection.executemany(
            "INSERT INTO tenants (id, created_at) VALUES (?, ?)", [(TENANT, at), ("other", at)]
        )
        # Sorted once at the end instead of at each row.
        made = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'sandbox_sessions'"
            " AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in made:
            connection.execute(f"DROP INDEX {name}")
        connection.execute(_FILL, {"rows": rows})
        for _, sql in made:
            connection.execute(sql)
    connection.close()


def rows() -> list[BenchRow]:
    found: list[BenchRow] = []
    by_size: dict[int, float] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory(prefix="deskfleet-bench-") as directory:
            database = Path(directory) / "deskfleet.db"
            began = time.perf_counter()
            fill(database, size)
            print(f"{size} rows made in {time.perf_counter() - began:.1f} s", flush=True)
            taken = _over_http(Path(directory), size)
            by_size[size] = percentile(taken, 50)
            found += _http_rows(size, taken)
            found += _store_rows(database, size)
    return [*found, _flatness(by_size)]


# --- over HTTP --------------------------------------------------------------------------------------


def _over_http(directory: Path, size: int) -> list[float]:
    """Milliseconds of each request: first pages and pages deep in the table, with each kind of filter."""
    viewer = ViewerProcess(directory)
    connection = HTTPConnection("127.0.0.1", viewer.port)
    headers = {"Authorization": f"Bearer {viewer.key}"}
    paths = _paths(size)
    taken = []
    try:
        for number in range(REQUESTS + len(paths)):
            began = time.perf_counter()
            connection.request("GET", paths[number % len(paths)], headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the list answered {answer.status}: {body[:300]!r}")
            if number >= len(paths):
                taken.append(1000 * (time.perf_counter() - began))
    finally:
        connection.close()
        viewer.stop()
    return taken


def _paths(size: int) -> list[str]:
    filters: list[dict[str, str]] = [
        {}, {"status": "terminated"}, {"status": "error"}, {"task_id": "task-7"}, {"agent_id": "agent-7"},
        {"host": "here"}, {"image": "desktop"},
    ]  # fmt: skip
    cursors = [{}, *({"cursor": _deep(size, part)} for part in (0.1, 0.5, 0.9))]
    return [f"/api/v1/sessions?{urlencode({**wanted, **at})}" for wanted in filters for at in cursors]


def _deep(size: int, part: float) -> str:
    """The cursor of a page so far into the table."""
    return Position(at=NEWEST - timedelta(seconds=int(size * part)), id="f").to_cursor()


def _http_rows(size: int, taken: list[float]) -> list[BenchRow]:
    return [
        BenchRow(
            name=f"list over HTTP, {size:,} rows, p{part}", value=percentile(taken, part), unit="ms",
            against="", ratio=None, goal=f"<= {most} ms", met=percentile(taken, part) <= most,
        )
        for part, most in ((50, 4), (99, 15))
    ]  # fmt: skip


def _flatness(by_size: dict[int, float]) -> BenchRow:
    small, large = by_size[SIZES[0]], by_size[SIZES[-1]]
    return BenchRow(
        name=f"list over HTTP, {SIZES[-1]:,} rows, p50", value=large, unit="ms",
        against=f"the same of {SIZES[0]:,} rows {small:.2f} ms", ratio=large / small, goal="<= 1.50 (flat)",
        met=large / small <= 1.5,
    )  # fmt: skip


# --- in the store -----------------------------------------------------------------------------------


def _store_rows(database: Path, size: int) -> list[BenchRow]:
    """A page in the middle of the table, and the same page by the naive ways, in turns."""
    with _opened(database) as store:
        ways: dict[str, tuple[int, Callable[[], list[Session]]]] = {
            "ours": (
                ROUNDS,
                lambda: list(store.tenant(TENANT).list(SessionFilter(), _deep(size, 0.5)).items),
            ),
            "OFFSET": (ROUNDS, lambda: _by_offset(store, size // 2)),
            "no index": (SLOW_ROUNDS, lambda: _without_index(store, size)),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name, (rounds, way) in ways.items():
                if number < rounds:
                    began = time.perf_counter()
                    page = way()
                    taken[name].append(1000 * (time.perf_counter() - began))
                    if len(page) != PAGE:
                        raise RuntimeError(f"{name}: {len(page)} sessions on a page")
    ours = median(taken["ours"])
    # In a small table there is little to pass over, so that the naive ways do as well.
    has_goal = size == SIZES[-1]
    return [
        BenchRow(
            name=f"page in the middle, store, {size:,} rows", value=ours, unit="ms",
            against=f"{name} {median(taken[name]):.3g} ms", ratio=ours / median(taken[name]),
            goal="<= 0.50" if has_goal else "", met=ours / median(taken[name]) <= 0.5 if has_goal else None,
        )
        for name in ("OFFSET", "no index")
    ] + [_search_row(database, size)]  # fmt: skip


def _search_row(database: Path, size: int) -> BenchRow:
    """The worst one: nothing matches, so that a page looks as far as it ever does."""
    taken = []
    with _opened(database) as store:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            store.tenant(TENANT).list(SessionFilter(text="nowhere"), _deep(size, 0.1))
            taken.append(1000 * (time.perf_counter() - began))
    return BenchRow(
        name=f"search that finds nothing, a page, store, {size:,} rows", value=median(taken), unit="ms",
        against="", ratio=None, goal="<= 60 ms", met=median(taken) <= 60,
    )  # fmt: skip


@contextmanager
def _opened(database: Path) -> Iterator[Store]:
    store = Store(database)
    try:
        yield store
    finally:
        store.close()


def _by_offset(store: Store, offset: int) -> list[Session]:
    query = (
        select(SessionRow)
        .where(SessionRow.tenant_id == TENANT)
        .order_by(SessionRow.created_at.desc(), SessionRow.id.desc())
        .limit(PAGE)
        .offset(int(offset * 0.9))
    )
    with store._database.reading() as orm:
        return [session_of(row) for row in orm.scalars(query)]


def _without_index(store: Store, size: int) -> list[Session]:
    """The keyset, but every row is looked at and sorted: what a table without our indexes would do."""
    after = NEWEST - timedelta(seconds=size // 2)
    query = (
        select(SessionRow)
        .where(SessionRow.tenant_id.concat("") == TENANT, SessionRow.created_at < after)
        .order_by(SessionRow.created_at.desc(), SessionRow.id.desc())
        .limit(PAGE)
    )
    with store._database.reading() as orm:
        return [session_of(row) for row in orm.scalars(query)]
