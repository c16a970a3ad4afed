"""Opt-in: OpenSandbox's own execd in place of our stand-in.

No registry answers everywhere, so its image is brought as a file, made with `docker save` of execd's image:
`DESKFLEET_EXECD=FILE make test`. Reports itself skipped without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.hosts.own_docker import own_dockerd
from tests.real_opensandbox import EXECD_IMAGE, TINY_IMAGE, RealOpenSandbox, real_opensandbox

FILE = os.environ.get("DESKFLEET_EXECD")

pytestmark = [
    pytest.mark.real,
    pytest.mark.optin,
    pytest.mark.skipif(
        not FILE, reason="set DESKFLEET_EXECD to a file made with `docker save` of execd's image"
    ),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealOpenSandbox]:
    with own_dockerd("execd") as daemon, real_opensandbox(daemon, tmp_path) as running:
        loaded = daemon.docker("load", "--quiet", "--input", str(FILE)).stdout.split(": ", 1)[1].strip()
        daemon.docker("tag", loaded, EXECD_IMAGE)
        yield running


def test_a_sandbox_with_the_real_execd_comes_up_and_execd_answers(server: RealOpenSandbox) -> None:
    body = {
        "image": {"uri": TINY_IMAGE},
        "entrypoint": ["sleep", "600"],
        "resourceLimits": {},
        "timeout": 300,
    }
    headers = {"OPEN-SANDBOX-API-KEY": server.key}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client:
        made = client.post("/v1/sandboxes", json=body).raise_for_status().json()
        ping = client.get(f"/v1/sandboxes/{made['id']}/proxy/44772/ping")
    assert ping.status_code == 200, ping.text
