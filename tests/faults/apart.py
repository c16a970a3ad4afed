"""Sandbox hosts that stand apart: each a network of its own with Docker, OpenSandbox server and relay in it.

One cable joins it to the control plane's side, and can be cut: what is sent then is lost without a word, as
on a broken link, and connections that were open hang.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.hosts.own_docker import OwnDocker, own_dockerd
from tests.real_opensandbox import RealOpenSandbox, real_opensandbox
from tests.relay_process import RelayProcess, running_relay

_CABLE = (("INPUT", "-i", "dfe"), ("OUTPUT", "-o", "dfe"), ("FORWARD", "-i", "dfe"), ("FORWARD", "-o", "dfe"))


@dataclass(frozen=True)
class Container:
    """A sandbox's container as Docker itself tells of it."""

    session_id: str
    sandbox_id: str
    state: str


@dataclass(frozen=True)
class HostApart:
    name: str
    daemon: OwnDocker
    server: RealOpenSandbox
    relay: RelayProcess

    def cut(self) -> None:
        for rule in _CABLE:
            self._iptables("-I", rule)

    def join(self) -> None:
        """Take the cut away; nothing to do is fine."""
        for rule in _CABLE:
            while self._iptables("-D", rule):
                pass

    def containers(self, fleet_id: str) -> list[Container]:
        """This fleet's, in any state."""
        form = '{{.Label "deskfleet.session"}} {{.Label "opensandbox.io/id"}} {{.State}}'
        listed = self.daemon.docker(
            "ps", "-a", "--filter", f"label=deskfleet.fleet={fleet_id}", "--format", form
        ).stdout
        return [Container(*line.split()) for line in listed.splitlines()]

    def _iptables(self, verb: str, rule: Sequence[str]) -> bool:
        command = self.daemon.enter("iptables", verb, *rule, "-j", "DROP")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def host_apart(name: str, folders: pytest.TempPathFactory) -> Iterator[HostApart]:
    """A running one. Its Docker keeps containers going while dockerd is away, as on hosts of a fleet."""
    with (
        own_dockerd(f"apart-{name}", live_restore=True) as daemon,
        real_opensandbox(daemon, folders.mktemp(f"server-{name}"), address=daemon.address) as server,
        running_relay(
            folders.mktemp(f"relay-{name}"),
            inside=daemon,
            publish_address=daemon.address,
            opensandbox_url=server.url,
            probe_seconds=3,
        ) as relay,
    ):
        host = HostApart(name, daemon, server, relay)
        try:
            yield host
        finally:
            host.join()


class _Attributes(BaseModel):
    session: str = Field(alias="deskfleet.session")
    request: str = Field(alias="deskfleet.request")


class _Actor(BaseModel):
    attributes: _Attributes = Field(alias="Attributes")


class _DockerEvent(BaseModel):
    model_config = ConfigDict(extra="ignore")

    action: str = Field(alias="Action")
    actor: _Actor = Field(alias="Actor")


@dataclass(frozen=True)
class Recorded:
    """What Docker itself saw of a fleet's containers on one host, from `recorded` on."""

    file: Path

    def made(self) -> Counter[str]:
        """Request id -> how many containers were made for it."""
        return Counter(event.actor.attributes.request for event in self._events() if event.action == "create")

    def most_at_once(self) -> int:
        """How many containers there were at the fullest moment."""
        most = there = 0
        for event in self._events():
            there += {"create": 1, "destroy": -1}.get(event.action, 0)
            most = max(most, there)
        return most

    def _events(self) -> Iterator[_DockerEvent]:
        for line in self.file.read_text().splitlines():
            yield _DockerEvent.model_validate_json(line)


@contextmanager
def recorded(host: HostApart, fleet_id: str, folder: Path) -> Iterator[Recorded]:
    """Write down all that Docker tells of that fleet's containers."""
    file = folder / f"docker-events-{host.name}"
    with file.open("wb") as output:
        process = subprocess.Popen(
            ["docker", "events", "--since", str(int(time.time())), "--filter", "type=container",
             "--filter", f"label=deskfleet.fleet={fleet_id}", "--format", "{{json .}}"],
            env=host.daemon.env, stdout=output,
        )  # fmt: skip
    try:
        yield Recorded(file)
    finally:
        process.kill()
        process.wait()
