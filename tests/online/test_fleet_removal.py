"""`deskfleet_state=absent` over SSH: the five hosts are what they were before the first roll-out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.hosts.nftables import tables_of
from tests.online.spread import SpreadFleet, changes_between

pytestmark = [pytest.mark.host, pytest.mark.last]

OURS = "inet deskfleet"
_ALL_LOGS = (
    "cat /var/log/deskfleet/* 2>/dev/null;"
    " if [ -d /run/systemd/system ]; then journalctl --no-pager -o json; fi;"
    " for one in $(docker ps -aq 2>/dev/null); do docker logs $one 2>&1; done"
)
_NOISE = re.compile(
    r": [+-] processes sshd"  # a connection that lingers
    r"|/run/sudo|/var/lib/sudo"  # of the host that is entered with sudo
    # The resolver of the Docker that these machines themselves run in; one inside takes its rules away.
    r"|- firewall .*(127\.0\.0\.11|DOCKER_(OUTPUT|POSTROUTING))"
)


def test_no_log_of_any_host_holds_a_secret_of_the_site(spread: SpreadFleet) -> None:
    """After all that the other tests have done: our logs, the journal, Docker's of our containers."""
    words = spread.secret_words()
    found = []
    for name, host in spread.machines.items():
        text = host.run(_ALL_LOGS, check=False).out
        assert "deskfleet" in text
        found += [name for word in words if word in text]
    assert found == []


def test_removal_over_ssh_leaves_every_host_as_it_was(
    spread: SpreadFleet, figure: Callable[[str, float], None]
) -> None:
    assert all(OURS in tables_of(host) for host in spread.machines.values())
    done = spread.checkout.roll_out("--data", "deskfleet_state=absent")
    figure(f"removal from {len(spread.machines)} hosts", done.seconds)
    assert done.results.failed_hosts == ()
    assert not any(OURS in tables_of(host) for host in spread.machines.values())
    if not spread.before:
        pytest.skip("nobody looked at these hosts while they were bare")
    left = changes_between(spread.before, spread.listings())
    assert "\n".join(line for line in left if not _NOISE.search(line)) == ""
