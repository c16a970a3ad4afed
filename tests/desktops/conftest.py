"""Fixtures: a bare host of each variant with a desktop of the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.desktops.desktop_host import DesktopHost
from tests.desktops.stand_in import stand_in_package
from tests.hosts.bare_host import Variant, bare_hosts


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in_package(tmp_path_factory.mktemp("stand-in"))


@pytest.fixture(scope="module", params=[Variant.PLAIN, Variant.SYSTEMD])
def bare(request: pytest.FixtureRequest, stand_in: Path) -> Iterator[DesktopHost]:
    """A host with nothing of ours on it yet."""
    with bare_hosts() as hosts:
        host, is_new = hosts.start(request.param, f"kasm-{request.param}")
        desktops = DesktopHost(host, stand_in)
        if not is_new:
            desktops.roll_out("--data", "deskfleet_state=absent")
        yield desktops
        if not hosts.keeping:
            host.destroy()
