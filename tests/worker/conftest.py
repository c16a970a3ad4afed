"""Real parts that the tests of this folder share: one Docker, one opensandbox-server, one relay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.built import built_pages
from tests.hosts.own_docker import OwnDocker, own_dockerd
from tests.real_opensandbox import RealOpenSandbox, real_opensandbox
from tests.relay_process import RelayProcess, running_relay
from tests.worker.edge import Edge, running_edge
from tests.worker.fleet import Fleet
from tests.worker.test_mcp import IMAGES


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


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, server: RealOpenSandbox, relay: RelayProcess
) -> Iterator[Edge]:
    """With images whose desktops are canned; files that need others have an edge of their own."""
    built_pages()
    folder = tmp_path_factory.mktemp("edge")
    with running_edge(folder, server, relay, images=IMAGES, default_image="desktop") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def fleet(tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess) -> Iterator[Fleet]:
    with Fleet(tmp_path, server, relay) as ready:
        yield ready
