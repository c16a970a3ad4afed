"""What restarts of the viewer and of the worker do to an open stream: nothing. Real processes, but for the
desktop and its host's OpenSandbox server, which is down."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.relay_process import RelayProcess, free_port, running_relay, wait_until_answers
from tests.test_relay import Viewer, hold, rfb_server
from tests.viewer_fixtures import settings_values, write_settings
from tests.viewer_process import start
from viewer.credentials import hash_of, key_id_of, new_key
from viewer.grants import GRANT_HEADER
from viewer.model import Session, Status
from viewer.store import NewSession, Store

pytestmark = pytest.mark.real

LEFT_ALONE_SECONDS = 12.0
"""Long enough for a worker to end and another one to start on a busy machine."""


@dataclass
class ControlPlane:
    settings_file: Path
    url: str
    key: str
    log: Path

    @contextmanager
    def viewer(self) -> Iterator[None]:
        with self._program("viewer.serve") as process:
            wait_until_answers(f"{self.url}/healthz", process, seconds=30)  # type: ignore[arg-type]
            yield

    @contextmanager
    def worker(self) -> Iterator[None]:
        with self._program("viewer.worker"):
            yield

    @contextmanager
    def _program(self, program: str) -> Iterator[subprocess.Popen[str]]:
        with self.log.open("a") as log:
            process = start(self.settings_file, program, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)

    def grant(self, session: Session) -> dict[str, str]:
        """What the edge would be told."""
        asks = {
            "Authorization": f"Bearer {self.key}",
            "X-Forwarded-Uri": f"/stream/{session.id}",
            "X-Forwarded-Method": "GET",
        }
        answer = httpx.get(f"{self.url}/authz/stream", headers=asks, trust_env=False)
        assert answer.status_code == 200, answer.text
        return {GRANT_HEADER: answer.headers[GRANT_HEADER]}


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    with running_relay(tmp_path, supervision_seconds=LEFT_ALONE_SECONDS) as process:
        yield process


@pytest.fixture
def control(tmp_path: Path, relay: RelayProcess) -> ControlPlane:
    key, port = new_key().text, free_port()
    values = settings_values(tmp_path)
    (tmp_path / "relay.key").write_bytes(relay.key)
    values["hosts"][0] |= {"relay_url": relay.url, "opensandbox_url": f"http://127.0.0.1:{free_port()}"}
    declared = {"id": key_id_of(key), "role": "operator", "sha256": hash_of(key)}
    values |= {"listen": f"127.0.0.1:{port}", "tenants": [{"name": "main", "keys": [declared]}]}
    settings_file = write_settings(values, tmp_path / "viewer.toml")
    return ControlPlane(settings_file, f"http://127.0.0.1:{port}", key, tmp_path / "control.log")


def test_restarts_of_viewer_and_worker_cut_no_stream(
    control: ControlPlane, relay: RelayProcess, tmp_path: Path
) -> None:
    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            with control.worker():
                with control.viewer():
                    session = running(tmp_path, port)
                    viewer = Viewer(
                        await http.ws_connect(
                            f"{relay.url}/stream/{session.id}",
                            headers=control.grant(session),
                            protocols=["binary"],
                        )
                    )
                    await viewer.shake_hands()
                    ending = asyncio.create_task(viewer.ending(seconds=60))
                await stays_open(ending, 1)
                with control.viewer():
                    await stays_open(ending, 1)
            with control.worker():
                # For longer than the relay would do without one.
                await stays_open(ending, LEFT_ALONE_SECONDS * 1.1)
            await viewer.socket.close()

    with rfb_server(hold) as port:
        asyncio.run(body())
    assert "Traceback" not in control.log.read_text()


def running(directory: Path, vnc_port: int) -> Session:
    new = NewSession(image="desktop", resolution="1280x800", ttl_seconds=3600, created_by="tests")
    with closing(Store(directory / "deskfleet.db")) as store:
        session = store.tenant("main").create(new).session
        return store.fleet.transition(
            session.id, Status.RUNNING, host="here", sandbox_id="box", vnc_port=vnc_port
        )


async def stays_open(ending: asyncio.Task[tuple[int | None, str]], seconds: float) -> None:
    done, _ = await asyncio.wait([ending], timeout=seconds)
    assert not done, ending.result()
