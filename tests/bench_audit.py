"""Bench group "audit": what the edge waits for when a stream opens, with the audit log and without it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import timedelta
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from statistics import median
from unittest.mock import patch

from tests.bench_row import BenchRow
from tests.viewer_process import ROOT, ViewerProcess
from viewer import audit
from viewer.credentials import key_id_of
from viewer.model import Status, utcnow
from viewer.store import NewSession, Store

ENTRIES = 100_000
"""What the log has already: of a year, a tenth of it of this desktop and this key."""
OPENINGS = 300
WARMING_UP = 20
_PART = 1000
_WITHOUT = (
    "from viewer.audit_store import AuditStore; AuditStore.opened = lambda *_, **__: None;"
    " from viewer.serve import main; main()"
)


class _WithoutLog(ViewerProcess):
    """The same viewer, which does not note who opens a stream."""

    def start(self) -> None:
        super().start()
        self.process.terminate()
        self.process.wait(timeout=10)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WITHOUT],
                cwd=ROOT,
                env={**os.environ, "DESKFLEET_SETTINGS": str(self.settings_file)},
                stderr=log,
                text=True,
            )
        self._wait_until_it_answers()


def rows() -> list[BenchRow]:
    """In turns, so that whatever else the machine does is spread over all ways alike."""
    with ExitStack() as stack:
        ways = {
            "without": _opener(stack, _WithoutLog, is_new=True),
            "first": _opener(stack, ViewerProcess, is_new=True),
            "again": _opener(stack, ViewerProcess, is_new=False),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(WARMING_UP + OPENINGS):
            for name, way in ways.items():
                took = _timed(way)
                if number >= WARMING_UP:
                    taken[name].append(took)
    without = median(taken["without"])
    return [
        _row("stream opened and noted", taken["first"], without, most=3.0),
        _row("stream opened again, noted lately", taken["again"], without, most=1.2),
    ]


def _row(name: str, taken: list[float], without: float, *, most: float) -> BenchRow:
    ratio = median(taken) / without
    return BenchRow(
        name=f"{name}, {ENTRIES:,} entries", value=median(taken), unit="ms",
        against=f"no audit log {without:.3g} ms", ratio=ratio, goal=f"<= {most:.2f}", met=ratio <= most,
    )  # fmt: skip


def _opener(stack: ExitStack, viewer: type[ViewerProcess], *, is_new: bool) -> Callable[[], None]:
    """Opens a stream at a viewer of its own. is_new: from another address each time, so that it is noted."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="deskfleet-bench-"))
    one = stack.enter_context(viewer.running(Path(folder)))
    with closing(Store(one.database)) as store:
        session = _fill(store, one)
    connection, numbers = HTTPConnection("127.0.0.1", one.port), count()
    stack.callback(connection.close)

    def open_stream() -> None:
        number = next(numbers) if is_new else 0
        headers = {
            "Authorization": f"Bearer {one.key}",
            "X-Forwarded-Uri": f"/stream/{session}",
            "X-Forwarded-Method": "GET",
            "X-Forwarded-For": f"10.0.{number >> 8}.{number & 255}",
        }
        connection.request("GET", "/authz/stream", headers=headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"no stream: {answer.status}")

    return open_stream


def _fill(store: Store, viewer: ViewerProcess) -> str:
    new = NewSession(image="desktop", resolution="1280x800", ttl_seconds=3600, created_by="bench")
    session = store.tenant("main").create(new).session
    store.fleet.transition(session.id, Status.RUNNING, host="here", sandbox_id="one", vnc_port=40001)
    key, begun = f"key:{key_id_of(viewer.key)}", utcnow() - timedelta(days=365)
    for part in range(0, ENTRIES, _PART):
        with (
            patch("viewer.audit.utcnow", lambda part=part: begun + timedelta(minutes=5 * part)),
            store._database.writing() as orm,
        ):
            for number in range(part, part + _PART):
                target = f"session:{session.id if number % 10 == 0 else number}"
                audit.note(orm, "main", "session.control", target, principal=key)
    return session.id


def _timed(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return 1000 * (time.perf_counter() - began)
