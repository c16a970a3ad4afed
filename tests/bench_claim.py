"""Bench group "claim": a create that the warm pool answers, over HTTP as an agent gets it; and the claim
alone beside the naive one, SELECT-then-UPDATE without an index, in a table with a long history."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from tests.bench_figures import percentile
from tests.bench_list import TENANT, fill
from tests.bench_row import BenchRow
from tests.viewer_process import ViewerProcess
from viewer.fleet_store import WarmOrder
from viewer.model import POOL_TENANT, Display, HostStatus, Status
from viewer.resources import Resources
from viewer.settings import Settings, load_settings
from viewer.store import NewSession, Store

HISTORY = 100_000
ENDED_WARM = 20_000
"""What the pool itself has left in the table: each that nobody took."""
CLAIMS = 400
WARMING_UP = 20
ROUNDS = 25


def rows() -> list[BenchRow]:
    with tempfile.TemporaryDirectory(prefix="deskfleet-bench-") as directory:
        database = Path(directory) / "deskfleet.db"
        fill(database, HISTORY)
        viewer = ViewerProcess(Path(directory))
        store = Store(database)
        try:
            settings = load_settings(viewer.settings_file)
            _fill_pool(store, settings, ready=CLAIMS + WARMING_UP + 2 * ROUNDS)
            over_http = _over_http(viewer)
            viewer.stop()
            ours, naive = _in_turns(store, settings)
        finally:
            store.close()
            viewer.stop()
    return [*_http_rows(over_http), _naive_row(ours, naive)]


def _fill_pool(store: Store, settings: Settings, ready: int) -> None:
    """So many that run, and ENDED_WARM that have; all are copies of one that went the usual way."""
    store.fleet.record_host_status("here", HostStatus.OK)
    image = settings.image_for(settings.default_image)
    session = store.fleet.add_warm(
        WarmOrder(
            host="here", image=image.name, display=Display.RFB, resolution=settings.default_resolution,
            cpu_millis=_wanted(settings).cpu_millis, memory_mib=_wanted(settings).memory_mib,
            max_age_seconds=86_400,
        )
    )  # fmt: skip
    store.fleet.transition(session.id, Status.RUNNING, host="here", sandbox_id="warm", vnc_port=40001)
    with sqlite3.connect(str(store._database.address)) as connection:
        connection.row_factory = sqlite3.Row
        [found] = connection.execute("SELECT * FROM sandbox_sessions WHERE id = ?", (session.id,))
        one = dict(found)
        ended = {"status": "terminated", "terminated_at": one["created_at"]}
        for count, changes in ((ready - 1, {}), (ENDED_WARM, ended)):
            copies = [one | changes | _new_names() for _ in range(count)]
            names = ", ".join(one)
            values = ", ".join(f":{name}" for name in one)
            connection.executemany(f"INSERT INTO sandbox_sessions ({names}) VALUES ({values})", copies)
    connection.close()


def _new_names() -> dict[str, str]:
    return {name: str(uuid.uuid4()) for name in ("id", "request_id", "sandbox_id")}


def _wanted(settings: Settings) -> NewSession:
    """What a create without a word of its own asks for."""
    image = settings.image_for(settings.default_image)
    reserved = Resources.of(image.cpu, image.memory)
    return NewSession(
        image=image.name, resolution=settings.default_resolution, cpu_millis=reserved.cpu_millis,
        memory_mib=reserved.memory_mib, ttl_seconds=3600, created_by="bench",
    )  # fmt: skip


# --- over HTTP --------------------------------------------------------------------------------------


def _over_http(viewer: ViewerProcess) -> list[float]:
    """Milliseconds of each create; each has to come out of the pool."""
    connection = HTTPConnection("127.0.0.1", viewer.port)
    headers = {"Authorization": f"Bearer {viewer.key}", "Content-Type": "application/json"}
    taken = []
    for number in range(CLAIMS + WARMING_UP):
        began = time.perf_counter()
        connection.request("POST", "/api/v1/sessions", body=b'{"ttl_seconds": 3600}', headers=headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        if number >= WARMING_UP:
            taken.append(1000 * (time.perf_counter() - began))
        if (answer.status, body.get("status")) != (201, "running"):
            raise RuntimeError(f"no warm desktop: {answer.status} {body}")
    connection.close()
    return taken


def _http_rows(taken: list[float]) -> list[BenchRow]:
    return [
        BenchRow(
            name=f"warm claim over HTTP, p{part}", value=percentile(taken, part), unit="ms", against="",
            ratio=None, goal=f"<= {most} ms", met=percentile(taken, part) <= most,
        )
        for part, most in ((50, 25), (99, 80))
    ]  # fmt: skip


# --- beside the naive way ---------------------------------------------------------------------------


def _in_turns(store: Store, settings: Settings) -> tuple[list[float], list[float]]:
    new = _wanted(settings)

    def ours() -> None:
        if not store.tenant(TENANT).create(new, may_be_warm=True).session.is_warm:
            raise RuntimeError("the pool is empty")

    naive = sqlite3.connect(str(store._database.address), isolation_level=None)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for times, way in zip(taken, (ours, lambda: _claim_naively(naive, new)), strict=True):
            times.append(_timed(way))
    naive.close()
    return taken


def _timed(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return 1000 * (time.perf_counter() - began)


def _claim_naively(connection: sqlite3.Connection, new: NewSession) -> None:
    """Without quota, history and event, which ours has on top: find one, try to have it, else look again."""
    while True:
        [found] = connection.execute(
            "SELECT id FROM sandbox_sessions NOT INDEXED WHERE tenant_id = ? AND status = 'running'"
            " AND image = ? ORDER BY created_at LIMIT 1",
            (POOL_TENANT, new.image),
        ).fetchone()
        changed = connection.execute(
            "UPDATE sandbox_sessions SET tenant_id = ? WHERE id = ? AND tenant_id = ?",
            (TENANT, found, POOL_TENANT),
        )
        if changed.rowcount == 1:
            return


def _naive_row(ours: list[float], naive: list[float]) -> BenchRow:
    ratio = median(ours) / median(naive)
    return BenchRow(
        name=f"warm claim, store, {HISTORY + ENDED_WARM:,} rows", value=median(ours), unit="ms",
        against=f"SELECT-then-UPDATE, no index {median(naive):.3g} ms", ratio=ratio, goal="<= 1.00",
        met=ratio <= 1,
    )  # fmt: skip
