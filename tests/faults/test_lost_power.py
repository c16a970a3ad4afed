"""A host that lost its power in the middle of a create and of an end: nobody tells the worker that the
connections on which it waits are dead."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.apart import HostApart
from tests.faults.truth import wait_until_right
from tests.worker.fleet import Fleet
from viewer.model import Status

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@contextmanager
def connections_die_in_silence(host: HostApart) -> Iterator[None]:
    """The kernel of a machine without power sends no good-bye; this one gives up on it almost at once."""

    def orphan_retries(number: int) -> None:
        command = ["sysctl", "-q", "-w", f"net.ipv4.tcp_orphan_retries={number}"]
        subprocess.run(host.daemon.enter(*command), check=True)

    orphan_retries(1)
    try:
        yield
    finally:
        orphan_retries(0)


def test_host_that_lost_power_within_a_create_and_an_end(tmp_path: Path, first: HostApart) -> None:
    server = first.server
    with Fleet(tmp_path, server, first.relay, create_deadline_seconds=90) as fleet:
        fleet.start()
        lost, ending = (fleet.wait_for(fleet.create(), Status.RUNNING) for _ in range(2))
        server.pause()
        coming = fleet.create()
        fleet.main.request_termination(ending.id)
        time.sleep(1)  # both are sent, and no answer will come
        with connections_die_in_silence(first):
            first.cut()
            server.kill()
            for one in first.containers(fleet.fleet_id):
                first.daemon.docker("kill", server.container_of(one.sandbox_id), check=False)
            time.sleep(5)
            first.join()
            server.start()
        took = wait_until_right(fleet, [first])
        assert fleet.get(ending).status is Status.TERMINATED
        assert fleet.get(lost).status is Status.ERROR
        assert fleet.get(coming).status is Status.RUNNING
        print(f"right after {took:.1f} s")
