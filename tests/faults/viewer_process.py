"""A viewer as its own process group, as it serves on a control host: gunicorn's master and its one worker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.viewer_process import start


class ViewerProcess:
    """One that a test may kill and start again; it keeps its port."""

    def __init__(self, settings_file: Path, url: str) -> None:
        self.url = url
        self.log = settings_file.with_suffix(".log")
        self._settings_file = settings_file
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("a") as log:
            self._process = start(self._settings_file, stderr=log, own_group=True)
        deadline = time.monotonic() + 90
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(self.log.read_text()[-3000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9 of all its processes; nothing to kill is fine."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self, key: str) -> httpx.Client:
        """Asks with this API key."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False
        )

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False


@contextmanager
def running_viewer(settings_file: Path, url: str) -> Iterator[ViewerProcess]:
    """`url`: where its settings let it listen."""
    viewer = ViewerProcess(settings_file, url)
    try:
        viewer.start()
        yield viewer
    finally:
        viewer.kill()
