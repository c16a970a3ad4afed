"""Two sandbox hosts: each with a real opensandbox-server and relay of its own, both on the tests' one Docker.

So each server lists the other's sandboxes too, which real hosts do not: all this must hold even then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.own_docker import OwnDocker
from tests.real_opensandbox import RealOpenSandbox, real_opensandbox
from tests.relay_process import RelayProcess, running_relay
from tests.worker.fleet import Fleet, Others
from viewer.model import HostStatus, Status

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def others(daemon: OwnDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Others]:
    """The second host."""
    folders = [tmp_path_factory.mktemp(name) for name in ("opensandbox", "relay")]
    with (
        real_opensandbox(daemon, folders[0]) as server,
        running_relay(folders[1], publish_address=daemon.address, probe_seconds=3) as relay,
    ):
        yield {"there": (server, relay)}


@pytest.fixture
def fleet(tmp_path: Path, server: RealOpenSandbox, relay: RelayProcess, others: Others) -> Iterator[Fleet]:
    with Fleet(tmp_path, server, relay, others=others) as ready:
        yield ready


def wait_for_status(fleet: Fleet, name: str, status: HostStatus, *, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while {host.name: host.status for host in fleet.store.fleet.hosts()}.get(name) is not status:
        assert time.monotonic() < deadline, fleet.last_log()
        time.sleep(0.1)


def test_desktops_spread_over_both_hosts_and_stay(fleet: Fleet) -> None:
    fleet.start()
    sessions = [fleet.create() for _ in range(4)]
    hosts = Counter(fleet.wait_for(session, Status.RUNNING, seconds=40).host for session in sessions)
    assert hosts == {"here": 2, "there": 2}
    time.sleep(8)  # two looks at each host, which shows the other's sandboxes as well
    assert [fleet.get(session).status for session in sessions] == [Status.RUNNING] * 4
    assert len(fleet.containers()) == 4


def test_host_that_went_silent_is_passed_over_and_has_its_sessions_back(fleet: Fleet, others: Others) -> None:
    server = others["there"][0]
    fleet.start()
    first = [fleet.create() for _ in range(2)]
    [lost] = [row for session in first if (row := fleet.wait_for(session, Status.RUNNING)).host == "there"]
    server.stop()
    try:
        # At once, before anybody has noticed: the create finds out by itself.
        late = [fleet.wait_for(fleet.create(), Status.RUNNING) for _ in range(2)]
        assert {row.host for row in late} == {"here"}
        wait_for_status(fleet, "there", HostStatus.UNREACHABLE)
        assert fleet.get(lost).status is Status.RUNNING
    finally:
        server.start()
    wait_for_status(fleet, "there", HostStatus.OK)
    assert fleet.get(lost).status is Status.RUNNING
    assert fleet.wait_for(fleet.create(), Status.RUNNING).host == "there"


def test_new_host_joins_and_a_host_that_left_ends_only_its_own(fleet: Fleet, others: Others) -> None:
    fleet.have({})
    fleet.start()
    old = [fleet.wait_for(fleet.create(), Status.RUNNING) for _ in range(2)]
    assert {row.host for row in old} == {"here"}
    fleet.stop()
    fleet.have(others)
    fleet.start()
    new = fleet.wait_for(fleet.create(), Status.RUNNING)
    assert new.host == "there"
    assert [fleet.get(row) for row in old] == old
    fleet.stop()
    fleet.have({})
    fleet.start()
    ended = fleet.wait_for(new, Status.ERROR)
    assert ended.error_message == "sandbox host there is no longer part of this fleet"
    assert [fleet.get(row) for row in old] == old


def test_server_beside_the_fleet_takes_what_has_no_screen(fleet: Fleet, others: Others) -> None:
    """A stand-in for OpenSandbox on Kubernetes: a server that is reached by URL and key alone."""
    fleet.have_external("cluster", others["there"][0])
    fleet.start()
    wait_for_status(fleet, "cluster", HostStatus.OK)
    session = fleet.wait_for(fleet.create("shell", wanted_host="cluster"), Status.RUNNING)
    assert len(fleet.containers()) == 1
    refused = fleet.wait_for(fleet.create(wanted_host="cluster"), Status.ERROR)
    assert "cluster has no relay, so a desktop could not be watched there" in (refused.error_message or "")
    fleet.main.request_termination(session.id)
    fleet.wait_for(session, Status.TERMINATED)
    assert fleet.containers() == []
