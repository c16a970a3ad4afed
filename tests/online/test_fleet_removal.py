"""`deskfleet_state=absent` over SSH: the five hosts are what they were before the first roll-out."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.hosts.bare_host import BareHost
from tests.hosts.network import inside
from tests.online.spread import SpreadFleet, changes_between

pytestmark = [pytest.mark.host, pytest.mark.last]

OURS = "deskfleet"
_NOISE = re.compile(
    r": [+-] processes sshd"  # a connection that lingers
    r"|/run/sudo|/var/lib/sudo"  # of the host that is entered with sudo
    # The resolver of the Docker that these machines themselves run in; one inside takes its rules away.
    r"|- firewall .*(127\.0\.0\.11|DOCKER_(OUTPUT|POSTROUTING))"
)


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


# nftables' own program is one of the packages that go, so the kernel itself is asked.
_ASK_FOR_TABLES = (10 << 8) | 1
_TABLE = 10 << 8
_REQUEST_ALL = 0x301
_DONE = 3
_NAME = 1
_NETFILTER = 12
_HEADER = struct.Struct("=IHHII")


def tables_of(host: BareHost) -> set[str]:
    """Names of nftables' tables in a host's network."""

    def ask() -> set[str]:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
            kernel.settimeout(5)
            kernel.send(_HEADER.pack(_HEADER.size + 4, _ASK_FOR_TABLES, _REQUEST_ALL, 1, 0) + bytes(4))
            found: set[str] = set()
            while True:
                for kind, body in _messages(kernel.recv(65536)):
                    if kind == _DONE:
                        return found
                    if kind == _TABLE:
                        found |= {text for number, text in _attributes(body[4:]) if number == _NAME}

    return inside(host.pid, ask)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, str]]:
    while data:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length].rstrip(b"\0").decode(errors="replace")
        data = data[(length + 3) & ~3 :]
