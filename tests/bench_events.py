"""Bench group "events": a change of one session on its way to the event streams of 1 000 clients, from the
commit to each client, and what the streams cost the viewer; beside a server with a thread for each client."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx

from tests.bench_figures import percentile
from tests.bench_row import BenchRow
from tests.event_clients import EventClients
from tests.process_figures import children_of, cpu_seconds, rss_mib
from tests.relay_process import free_port
from tests.viewer_process import ROOT, ViewerProcess
from viewer.model import Role
from viewer.store import NewSession, Store

CLIENTS = 1000
KEYS = 4
EVENTS = 40
ROUNDS = 2
PAUSE_SECONDS = 0.15
OPEN_FILES = 4096


class Measured(NamedTuple):
    """late: milliseconds from the commit to each client, of every event. memory: MiB that the server grew by.
    cpu: milliseconds of its processor time for each event."""

    late: list[float]
    memory: float
    cpu: float


def rows() -> list[BenchRow]:
    """Both servers in turns, each with clients of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    ours, threads = list[Measured](), list[Measured]()
    for _ in range(ROUNDS):
        ours.append(_ours())
        threads.append(_thread_each())
    return _rows(ours, threads)


def _ours() -> Measured:
    with tempfile.TemporaryDirectory(prefix="deskfleet-bench-") as directory:
        viewer = ViewerProcess(Path(directory))
        store = Store(viewer.database)
        keys = [store.accounts.add_key("main", Role.WATCHER).text for _ in range(KEYS)]
        try:
            return _measure(store, viewer.worker, viewer.port, keys)
        finally:
            store.close()
            viewer.stop()


def _thread_each() -> Measured:
    with tempfile.TemporaryDirectory(prefix="deskfleet-bench-") as directory:
        viewer = ViewerProcess(Path(directory))  # makes the database, no more
        viewer.stop()
        store = Store(viewer.database)
        try:
            with _naive_server(viewer.database) as (server, port):
                return _measure(store, children_of(server)[0], port, ["nobody looks at it"])
        finally:
            store.close()


@contextmanager
def _naive_server(database: Path) -> Iterator[tuple[int, int]]:
    """Its process and its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.naive_events", str(database), str(port), str(CLIENTS)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_until_it_answers(port)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).raise_for_status()
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _measure(store: Store, server: int, port: int, keys: Sequence[str]) -> Measured:
    new = NewSession(image="desktop", resolution="1280x800", ttl_seconds=3600, created_by="bench")
    session = store.tenant("main").create(new).session
    memory = rss_mib(server)
    late: list[float] = []
    with EventClients(port, keys, CLIENTS) as clients:
        cpu = cpu_seconds(server)
        for number in range(EVENTS):
            store.fleet.update(session.id, status_reason=f"step {number}")
            committed = time.monotonic()
            arrived = clients.wait_until_all_have(store.fleet.last_event_id())
            late += [1000 * (at - committed) for at in arrived]
            time.sleep(PAUSE_SECONDS)
        return Measured(late, rss_mib(server) - memory, 1000 * (cpu_seconds(server) - cpu) / EVENTS)


def _rows(ours: list[Measured], threads: list[Measured]) -> list[BenchRow]:
    late = [each for one in ours for each in one.late]
    late_threads = [each for one in threads for each in one.late]
    what = f"event to {CLIENTS} clients"
    return [
        _row(f"{what}, p50", "ms", percentile(late, 50), percentile(late_threads, 50), None),
        _row(f"{what}, p99", "ms", percentile(late, 99), percentile(late_threads, 99), 150),
        _row(
            f"memory for {CLIENTS} event streams", "MiB", max(one.memory for one in ours),
            max(one.memory for one in threads), 60,
        ),
        _row(
            f"{what}, CPU", "ms", median(one.cpu for one in ours), median(one.cpu for one in threads), None
        ),
    ]  # fmt: skip


def _row(name: str, unit: str, value: float, other: float, most: float | None) -> BenchRow:
    return BenchRow(
        name=name, value=value, unit=unit, against=f"a thread each {other:.3g} {unit}", ratio=value / other,
        goal="" if most is None else f"<= {most:g} {unit}", met=None if most is None else value <= most,
    )  # fmt: skip
