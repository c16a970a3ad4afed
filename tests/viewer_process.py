"""The real viewer, gunicorn with our options, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

import httpx

from tests.process_figures import children_of
from tests.relay_process import free_port
from tests.viewer_fixtures import settings_values, write_settings
from viewer.credentials import hash_of, new_key

ROOT = Path(__file__).parent.parent


def start(
    settings_file: Path,
    program: str = "viewer.serve",
    stderr: TextIO | int = subprocess.PIPE,
    *,
    own_group: bool = False,
) -> subprocess.Popen[str]:
    """own_group: so that all its processes can be killed at once."""
    return subprocess.Popen(
        [sys.executable, "-m", program],
        cwd=ROOT,
        env={**os.environ, "DESKFLEET_SETTINGS": str(settings_file)},
        stderr=stderr,
        text=True,
        start_new_session=own_group,
    )


class ViewerProcess:
    """A viewer on a free port, with its database and settings in `directory`; its host is nowhere.

    `key`: an operator's, of the tenant `main`. `more`: further settings, or other values of them.
    """

    def __init__(self, directory: Path, **more: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = new_key().text
        declared = {"id": self.key.split("_")[1], "role": "operator", "sha256": hash_of(self.key)}
        values: dict[str, Any] = {
            **settings_values(directory),
            "listen": f"127.0.0.1:{self.port}",
            "tenants": [{"name": "main", "keys": [declared]}],
            "content_domain": "content.deskfleet.localhost",
            **more,
        }
        for url in ("relay_url", "opensandbox_url"):
            values["hosts"][0][url] = f"http://127.0.0.1:{free_port()}"  # nobody there
        self.database = directory / "deskfleet.db"
        self.settings_file = write_settings(values, directory / "viewer.toml")
        self.log = directory / "viewer.log"
        self.start()

    def start(self) -> None:
        """Also again, after `stop`."""
        # A file and no pipe: nobody reads on, and a full pipe would hold the viewer up.
        with self.log.open("a") as log:
            self.process = start(self.settings_file, stderr=log)
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=20
        )
        self._wait_until_it_answers()

    @property
    def worker(self) -> int:
        """The process that answers; the one that was started only watches it."""
        return children_of(self.process.pid)[0]

    def _wait_until_it_answers(self) -> None:
        for _ in range(400):
            try:
                assert self.client.get("/healthz").json() == {"status": "ok"}
                return
            except httpx.TransportError:
                time.sleep(0.025)
        self.process.kill()
        self.process.wait()
        raise AssertionError(self.log.read_text())

    @classmethod
    @contextmanager
    def running(cls, directory: Path) -> Iterator[Self]:
        started = cls(directory)
        yield started
        if started.process.poll() is None:
            started.stop()

    def stop(self) -> str:
        """SIGTERM, and what it had to say."""
        self.client.close()
        self.process.terminate()
        self.process.wait(timeout=10)
        return self.log.read_text()
