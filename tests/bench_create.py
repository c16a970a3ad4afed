"""Bench group "create": from the request to the first real frame, by our API, straight from OpenSandbox, and
by `docker run`, in turns on the same host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

import httpx
from pydantic import BaseModel

from tests.bench_host import bench_fleet
from tests.bench_row import BenchRow
from tests.hosts.network import inside
from tests.online.fleet import Fleet
from viewer.grants import PublishedPort
from viewer.relay.answers import ProbeOutcome
from viewer.relay.probing import probe
from viewer.relay.settings import Settings

ROUNDS = 7
PASSWORD = "benchpwd"
IMAGE = "deskfleet/desktop:latest"
ENTRYPOINT = "/usr/local/bin/deskfleet-desktop"
ENVIRONMENT = {"VNC_PASSWORD": PASSWORD, "RESOLUTION": "1280x800"}
OPENSANDBOX = "http://127.0.0.1:8080"
OPENSANDBOX_KEY = "/etc/deskfleet/secrets/viewer/opensandbox-here.key"
PUBLISHED = IPv4Address("127.0.66.1")


class _Created(BaseModel):
    id: str


class _Endpoint(BaseModel):
    endpoint: str


@dataclass
class Routes:
    """The three ways. Each returns its seconds to the first frame and leaves nothing behind."""

    fleet: Fleet
    variables: dict[str, str]
    opensandbox_key: str

    def through_our_api(self) -> float:
        body = {"image": "desktop", "resolution": "1280x800"}
        with httpx.Client(
            base_url=self.variables["DESKFLEET_URL"],
            headers={"Authorization": f"Bearer {self.variables['DESKFLEET_KEY']}"},
            timeout=60,
            trust_env=False,
        ) as client:
            started = time.perf_counter()
            answer = client.post("/api/v1/sessions", json=body).raise_for_status()
            seconds = time.perf_counter() - started
            session = _Created.model_validate_json(answer.text)
            client.delete(f"/api/v1/sessions/{session.id}").raise_for_status()
        return seconds

    def straight_from_opensandbox(self) -> float:
        body = {
            "image": {"uri": IMAGE}, "entrypoint": [ENTRYPOINT], "env": ENVIRONMENT, "timeout": 600,
            "resourceLimits": {"cpu": "2", "memory": "2Gi"},
        }  # fmt: skip
        with httpx.Client(
            base_url=OPENSANDBOX,
            headers={"OPEN-SANDBOX-API-KEY": self.opensandbox_key},
            timeout=60,
            trust_env=False,
        ) as client:
            started = time.perf_counter()
            answer = client.post("/v1/sandboxes", json=body).raise_for_status()
            sandbox = _Created.model_validate_json(answer.text)
            answer = client.get(f"/v1/sandboxes/{sandbox.id}/endpoints/8080").raise_for_status()
            _await_frame(int(_Endpoint.model_validate_json(answer.text).endpoint.rpartition(":")[2]))
            seconds = time.perf_counter() - started
            client.delete(f"/v1/sandboxes/{sandbox.id}").raise_for_status()
        return seconds

    def docker_run(self) -> float:
        environment = [f"--env={name}={value}" for name, value in ENVIRONMENT.items()]
        started = time.perf_counter()
        container = self.fleet.docker(
            "run", "--detach", "--rm", "--network=deskfleet", f"--publish={PUBLISHED}:41999:8080", "--cpus=2",
            "--memory=2g", *environment, IMAGE, ENTRYPOINT,
        ).out.strip()  # fmt: skip
        inside(self.fleet.host.pid, lambda: _await_frame(41999))
        seconds = time.perf_counter() - started
        self.fleet.docker("rm", "--force", container)
        return seconds


def _await_frame(port: int) -> None:
    nowhere = Path("/dev/null")
    settings = Settings(
        listen="127.0.0.1:1", key_file=nowhere, publish_address=PUBLISHED, desktops_dir=nowhere
    )
    answer = asyncio.run(probe(PublishedPort(port=port), PASSWORD, settings))
    if answer.result is not ProbeOutcome.FRAME:
        raise RuntimeError(f"no frame from the desktop on port {port}: {answer}")


def rows() -> list[BenchRow]:
    """Medians of interleaved rounds, seconds; the first round of each warms up and is dropped."""
    fleet = bench_fleet()
    routes = Routes(fleet, fleet.variables, fleet.host.read(OPENSANDBOX_KEY).strip())
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: inside(fleet.host.pid, routes.through_our_api),
        "opensandbox": lambda: inside(fleet.host.pid, routes.straight_from_opensandbox),
        "docker": routes.docker_run,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(ROUNDS + 1):
        for name, way in ways.items():
            took = way()
            if round_number:
                seconds[name].append(took)
    ours, direct, docker = (median(seconds[name]) for name in ways)
    return [
        BenchRow(
            name="create -> first frame",
            value=ours,
            unit="s",
            against=f"straight from OpenSandbox {direct:.2f} s",
            ratio=ours / direct,
            goal="<= 1.10",
            met=ours / direct <= 1.10,
        ),
        BenchRow(
            name="create -> first frame",
            value=ours,
            unit="s",
            against=f"docker run {docker:.2f} s",
            ratio=ours / docker,
            goal="",
            met=None,
        ),
    ]
