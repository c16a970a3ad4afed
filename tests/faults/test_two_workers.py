"""Two control processes of each kind on one database: one worker acts, another takes over when it dies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.apart import HostApart
from tests.faults.keys import KEYS, TENANTS
from tests.faults.viewer_process import ViewerProcess, running_viewer
from tests.postgres import PostgresServer
from tests.relay_process import free_port
from tests.worker.fleet import Fleet
from viewer.model import Session, Status, utcnow
from viewer.public import PublicSession

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

TAKEN_OVER_WITHIN_SECONDS = 30


@dataclass
class Workers:
    """Each with a log of its own."""

    fleet: Fleet
    logs: list[Path] = field(default_factory=list)

    def start(self) -> None:
        self.logs.append(self.fleet.folder / f"worker-{len(self.logs)}.log")
        self.fleet.start(self.logs[-1])

    def wait_until_says(self, number: int, words: str, *, seconds: float = 30) -> datetime:
        """When that worker first said so."""
        deadline = time.monotonic() + seconds
        while True:
            for when, message in self.said(number):
                if words in message:
                    return when
            assert time.monotonic() < deadline, self.said(number)
            time.sleep(0.05)

    def said(self, number: int) -> list[tuple[datetime, str]]:
        # The last line may be half written.
        text = self.logs[number].read_text()
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [(datetime.fromisoformat(line["time"]), line["message"]) for line in lines]


@dataclass(frozen=True)
class Control:
    fleet: Fleet
    workers: Workers
    viewers: tuple[ViewerProcess, ViewerProcess]

    def create(self, viewer: int) -> Session:
        with self.viewers[viewer].client(KEYS["main"].text) as client:
            answer = client.post("/api/v1/sessions", json={"image": "tiny", "wait": False})
        made = PublicSession.model_validate_json(answer.content)
        return self.fleet.main.get(made.id)

    def end(self, viewer: int, session: Session) -> None:
        with self.viewers[viewer].client(KEYS["main"].text) as client:
            assert client.delete(f"/api/v1/sessions/{session.id}").status_code == 204


@contextmanager
def control(folder: Path, host: HostApart, database: dict[str, Any]) -> Iterator[Control]:
    """database: the settings that say where it is."""
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    listens = [url.removeprefix("http://") for url in urls]
    with Fleet(folder, host.server, host.relay, tenants=TENANTS, listen=listens[0], **database) as fleet:
        other = folder / "other.toml"
        other.write_text(fleet.settings_file.read_text().replace(listens[0], listens[1]))
        with running_viewer(fleet.settings_file, urls[0]) as one, running_viewer(other, urls[1]) as two:
            yield Control(fleet, Workers(fleet), (one, two))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "sqlite":
        return {}
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return {"database": server.new().url, "state_directory": str(tmp_path)}


def test_worker_takes_over_from_one_that_was_killed_and_only_one_acts(
    tmp_path: Path, first: HostApart, database: dict[str, str]
) -> None:
    with control(tmp_path, first, database) as running:
        fleet, workers = running.fleet, running.workers
        workers.start()
        workers.wait_until_says(0, "acting for fleet")
        workers.start()
        workers.wait_until_says(1, "another worker is acting")
        sessions = [running.create(number % 2) for number in range(6)]
        workers.wait_until_says(0, "created sandbox")
        fleet._workers[0].kill()
        killed_at = utcnow()
        acting_at = workers.wait_until_says(1, "acting for fleet", seconds=TAKEN_OVER_WITHIN_SECONDS)
        rows = [fleet.wait_for(session, Status.RUNNING, seconds=60) for session in sessions]
        fleet.wait_for_containers([row.sandbox_id or "" for row in rows])
        assert [message for when, message in workers.said(1) if when < killed_at] == [
            "another worker is acting; waiting for its end"
        ]
        running.viewers[0].kill()
        for row in rows[:2]:
            running.end(1, row)
        fleet.wait_for_containers([row.sandbox_id or "" for row in rows[2:]])
        print(f"taken over after {(acting_at - killed_at).total_seconds():.2f} s")
