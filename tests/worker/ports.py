"""A service on a port of a real sandbox, and how it is asked through the edge."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.worker.edge import KEY, Edge
from viewer.model import Session

PORT = 8000
SHOWN = {"OPEN-SANDBOX-API-KEY": KEY.text}


@contextmanager
def serving_in(
    edge: Edge, row: Session, port: int = PORT, *, module: str = "tests.port_service", ready: str = "/seen"
) -> Iterator[None]:
    """That module as a program in the sandbox's network, where one of its image would be. It serves when
    `ready` is there."""
    daemon, container = edge.fleet.server.daemon, edge.fleet.server.container_of(row.sandbox_id or "")
    pid = daemon.docker("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
    process = subprocess.Popen(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "--", sys.executable, "-m", module, str(port)]
    )
    try:
        deadline = time.monotonic() + 20
        while asked(edge, row, ready, port=port).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        # It would wait for whom it still answers, and those may be gone without a word.
        process.kill()
        process.wait()


def way(row: Session, tail: str, port: int = PORT) -> str:
    return f"/v1/sandboxes/{row.id}/proxy/{port}{tail}"


def asked(
    edge: Edge,
    row: Session,
    tail: str,
    *,
    port: int = PORT,
    method: str = "GET",
    name: str = "localhost",
    shown: dict[str, str] = SHOWN,
    **more: Any,
) -> httpx.Response:
    headers = {"Host": f"{name}:{edge.port}", **shown}
    url = f"http://127.0.0.1:{edge.port}{way(row, tail, port)}"
    with httpx.Client(trust_env=False, timeout=60) as http:
        return http.request(method, url, headers=headers, **more)
