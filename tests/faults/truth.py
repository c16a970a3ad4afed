"""Is the session table what the hosts' Dockers show? The one question after every fault."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.faults.apart import HostApart
from tests.worker.fleet import Fleet
from viewer.model import Status

RIGHT_WITHIN_SECONDS = 30


def wait_until_right(fleet: Fleet, hosts: Sequence[HostApart]) -> float:
    """Seconds until nothing was under way any more and each session had one container or was at its end;
    AssertionError with what is wrong after RIGHT_WITHIN_SECONDS."""
    began = time.monotonic()
    while (wrong := what_is_wrong(fleet, hosts)) is not None:
        if time.monotonic() - began > RIGHT_WITHIN_SECONDS:
            raise AssertionError(f"{wrong}\n{fleet.last_log()}")
        time.sleep(0.2)
    return time.monotonic() - began


def what_is_wrong(fleet: Fleet, hosts: Sequence[HostApart]) -> str | None:
    live = fleet.store.fleet.live_sessions()
    for row in live:
        if row.status is Status.CREATING or row.terminate_requested_at is not None:
            return f"{row.id} is {row.status} ({row.status_reason})"
    wanted = sorted((row.id, row.host, row.sandbox_id, "running") for row in live)
    found = sorted(
        (one.session_id, host.name, one.sandbox_id, one.state)
        for host in hosts
        for one in host.containers(fleet.fleet_id)
    )
    return None if wanted == found else f"the table has {wanted}, Docker has {found}"
