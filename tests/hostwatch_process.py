"""A hostwatch as its own process, as it runs beside an OpenSandbox server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.relay_process import free_port, wait_for_listener
from viewer.hostwatch_client import HostwatchClient


@dataclass
class HostwatchProcess:
    """A running hostwatch and the key its control plane would have."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    key: bytes = field(repr=False)

    @contextmanager
    def client(self, *, key: bytes | None = None) -> Iterator[HostwatchClient]:
        client = HostwatchClient("here", url=self.url, key=key or self.key)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def running_hostwatch(
    directory: Path, *, socket: Path, fleet_id: str, key: bytes, port: int | None = None, **settings: float
) -> Iterator[HostwatchProcess]:
    """Start one on this Docker socket; it gets SIGTERM at the end, and must end by itself."""
    (directory / "hostwatch.key").write_bytes(key)
    port = port or free_port()
    values: dict[str, str | float] = {
        "listen": f"127.0.0.1:{port}",
        "key_file": str(directory / "hostwatch.key"),
        "fleet_id": fleet_id,
        "docker_socket": str(socket),
        **settings,
    }
    path = directory / "hostwatch.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    log = directory / "hostwatch.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "viewer.hostwatch.main"],
            env={**os.environ, "DESKFLEET_HOSTWATCH_SETTINGS": str(path)},
            stderr=output,
        )
    try:
        wait_for_listener("127.0.0.1", port)
        yield HostwatchProcess(process, f"http://127.0.0.1:{port}", log, key)
        process.send_signal(signal.SIGTERM)
        assert process.wait(8) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
        assert "Exception ignored" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()
