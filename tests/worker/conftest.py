"""Real parts that the tests of this folder share: one Docker, one opensandbox-server, one relay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.own_docker import OwnDocker, own_dockerd
from tests.real_opensandbox import RealOpenSandbox, real_opensandbox
from tests.relay_process import RelayProcess, running_relay
from tests.worker.fleet import Fleet


@pytest.fixture(scope="package")
def daemon() -> Iterator[OwnDocker]:
    with own_dockerd("worker") as running:
        yield running


@pytest.fixture(scope="package")
def server(daemon: OwnDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOpenSandbox]:
    with real_opensandbox(daemon, tmp_path_factory.mktemp("opensandbox")) as running:
        yield running


@pytest.fixture(scope="package")
def relay(
    daemon: OwnDocker, server: RealOpenSandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("relay")
    with running_relay(
        folder, publish_address=daemon.address, probe_seconds=3, opensandbox_url=server.url
    ) as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess) -> Iterator[Fleet]:
    with Fleet(tmp_path, server, relay) as ready:
        yield ready
