"""Bench group "overhead": from the request to the first frame of a tiny sandbox, by our API and straight from
one real OpenSandbox server, in turns; and what our API adds to the host's own create."""

from __future__ import annotations

import asyncio
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from tests.bench_row import BenchRow
from tests.bench_tiny_host import tiny_host
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import free_port
from tests.viewer_process import start
from tests.worker.fleet import Fleet
from viewer.grants import PublishedPort
from viewer.model import Role, Scope
from viewer.relay.answers import ProbeOutcome
from viewer.relay.probing import probe
from viewer.relay.settings import Settings as RelaySettings
from viewer.settings import ImageSettings

ROUNDS = 15
PASSWORD = "benchpwd"
_CREATE = "POST /v1/sandboxes"


class _Made(BaseModel):
    id: str


class _Endpoint(BaseModel):
    endpoint: str


class Taken(NamedTuple):
    """Seconds from the request to the first frame. host: of these, the call of the host's own create."""

    all: float
    host: float


class Direct:
    """The host's own way, as a program would go it that knows the host: create, endpoint, first frame."""

    def __init__(self, server: RealOpenSandbox, image: ImageSettings) -> None:
        self._client = httpx.Client(
            base_url=server.url, headers={"OPEN-SANDBOX-API-KEY": server.key}, timeout=60, trust_env=False
        )
        self._publish_address = IPv4Address(server.publish_address)
        self._body = {
            "image": {"uri": image.uri}, "entrypoint": list(image.entrypoint),
            "env": {"VNC_PASSWORD": PASSWORD}, "timeout": 600,
            "resourceLimits": {"cpu": image.cpu, "memory": image.memory},
        }  # fmt: skip

    def create(self) -> Taken:
        """Leaves nothing behind."""
        began = time.perf_counter()
        answer = self._client.post("/v1/sandboxes", json=self._body).raise_for_status()
        host = time.perf_counter() - began
        sandbox = _Made.model_validate_json(answer.text)
        answer = self._client.get(f"/v1/sandboxes/{sandbox.id}/endpoints/8080").raise_for_status()
        port = int(_Endpoint.model_validate_json(answer.text).endpoint.rpartition(":")[2])
        self._await_frame(port)
        seconds = time.perf_counter() - began
        self._client.delete(f"/v1/sandboxes/{sandbox.id}").raise_for_status()
        return Taken(seconds, host)

    def close(self) -> None:
        self._client.close()

    def _await_frame(self, port: int) -> None:
        nowhere = Path("/dev/null")
        settings = RelaySettings(
            listen="127.0.0.1:1",
            key_file=nowhere,
            publish_address=self._publish_address,
            desktops_dir=nowhere,
        )
        seen = asyncio.run(probe(PublishedPort(port=port), PASSWORD, settings))
        if seen.result is not ProbeOutcome.FRAME:
            raise RuntimeError(f"no frame on port {port}: {seen}")


class Ours:
    """One `POST /api/v1/sessions` that waits: viewer, worker and relay, each a process of its own."""

    def __init__(self, fleet: Fleet, port: int) -> None:
        # For the metrics too.
        key = fleet.store.accounts.add_key("main", Role.OPERATOR, scopes=list(Scope)).text
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=60,
            trust_env=False,
        )  # fmt: skip

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                self._client.get("/healthz").raise_for_status()
                return
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def create(self) -> Taken:
        """Leaves nothing behind."""
        before = self._seconds_of_the_host()
        began = time.perf_counter()
        answer = self._client.post("/api/v1/sessions", json={"image": "tiny"}).raise_for_status()
        seconds = time.perf_counter() - began
        if answer.status_code != 201:
            raise RuntimeError(f"the create was answered with {answer.status_code}: {answer.text}")
        session = _Made.model_validate_json(answer.text)
        host = self._seconds_of_the_host() - before
        self._client.delete(f"/api/v1/sessions/{session.id}").raise_for_status()
        return Taken(seconds, host)

    def close(self) -> None:
        self._client.close()

    def _seconds_of_the_host(self) -> float:
        """All that its creates have taken so far, as the worker has timed them."""
        text = self._client.get("/metrics").raise_for_status().text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "deskfleet_host_calls_seconds_sum" and sample.labels["call"] == _CREATE
        )


def rows() -> list[BenchRow]:
    """Medians of the rounds; the first one warms up and is dropped."""
    server, relay = tiny_host()
    with tempfile.TemporaryDirectory(prefix="deskfleet-bench-") as directory:
        port = free_port()
        listen = f"127.0.0.1:{port}"
        with (
            Fleet(Path(directory), server, relay, listen=listen) as fleet,
            (Path(directory) / "viewer.log").open("w") as log,
        ):
            fleet.start()
            viewer = start(fleet.settings_file, stderr=log)
            ours, direct = Ours(fleet, port), Direct(server, fleet.settings.image_for("tiny"))
            try:
                ours.wait_until_it_answers()
                taken = [(ours.create(), direct.create()) for _ in range(ROUNDS + 1)][1:]
            finally:
                ours.close()
                direct.close()
                viewer.terminate()
                viewer.wait(timeout=10)
    return _rows(taken)


def _rows(taken: list[tuple[Taken, Taken]]) -> list[BenchRow]:
    """The host's own create takes longer now and then, by more than all that is ours. So what we add is told
    from all the rest: from what a create takes beside that call, here and there."""
    ours, direct = (1000 * median(side.all for side in sides) for sides in zip(*taken, strict=True))
    beside, beside_direct = (
        1000 * median(side.all - side.host for side in sides) for sides in zip(*taken, strict=True)
    )
    added = beside - beside_direct
    return [
        BenchRow(
            name="tiny create -> first frame, API", value=ours, unit="ms",
            against=f"straight from the host {direct:.0f} ms", ratio=ours / direct, goal="", met=None,
        ),
        BenchRow(
            name="of it, beside the host's own create", value=beside, unit="ms",
            against=f"straight from the host {beside_direct:.0f} ms", ratio=beside / beside_direct, goal="",
            met=None,
        ),
        BenchRow(
            name="what our API adds to the host's create", value=added, unit="ms", against="",
            ratio=added / direct, goal="<= 50 ms", met=added <= 50,
        ),
    ]  # fmt: skip
