"""Machines as one rents them: sshd, an address, a pinned key, and one that only its neighbours reach."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts.bare_host import BareHost, Variant, bare_hosts
from tests.hosts.lan import SUDOER, Lan, Machine, known_hosts, make_ssh_key, start_machines
from tests.hosts.own_docker import name_servers

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]

NAME = "desks.example.com"


@dataclass(frozen=True)
class Rented:
    """Two machines, the plain one closed to the operator, who keeps his files in `folder`."""

    lan: Lan
    folder: Path
    systemd: BareHost
    plain: BareHost

    def ssh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Nothing but the pinned keys is trusted; a jump host is entered by the same options."""
        options = [
            f"IdentityFile {self.folder}/ssh.key",
            f"UserKnownHostsFile {self.folder}/known_hosts",
            "StrictHostKeyChecking yes",
            "BatchMode yes",
            "ConnectTimeout 5",
        ]
        (self.folder / "config").write_text("\n".join(options))
        command = self.lan.operator("ssh", "-F", str(self.folder / "config"), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    folder = tmp_path_factory.mktemp("operator")
    with bare_hosts() as hosts:
        lan = Lan(hosts.daemon, ipaddress.IPv4Network("10.79.0.0/24"), "rented")
        first, second = lan.subnet[11], lan.subnet[12]
        wanted = [Machine("rented-1", Variant.SYSTEMD, first), Machine("rented-2", Variant.PLAIN, second)]
        key = make_ssh_key(folder / "ssh.key")
        running = start_machines(hosts, lan, wanted, public_key=key, names={NAME: first})
        (folder / "known_hosts").write_text(known_hosts(running.values()))
        lan.close(second)
        yield Rented(lan, folder, running["rented-1"], running["rented-2"])
        lan.open(second)
        for host in running.values():
            host.destroy()
        lan.remove()


def test_operator_becomes_root_with_sudo(rented: Rented) -> None:
    assert rented.ssh(f"{SUDOER}@{rented.systemd.address}", "sudo", "id", "-u").stdout == "0\n"


def test_key_that_is_not_pinned_is_refused(rented: Rented) -> None:
    pinned = rented.folder / "known_hosts"
    right = pinned.read_text()
    lines = right.splitlines()
    swapped = [
        f"{line.split()[0]} {other.split(None, 1)[1]}" for line, other in zip(lines, lines[::-1], strict=True)
    ]
    pinned.write_text("\n".join(swapped) + "\n")
    try:
        done = rented.ssh(f"root@{rented.systemd.address}", "true")
    finally:
        pinned.write_text(right)
    assert done.returncode == 255
    assert "HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_closed_host_is_entered_through_another_one_only(rented: Rented) -> None:
    straight = rented.ssh(f"root@{rented.plain.address}", "hostname")
    assert straight.returncode == 255
    around = rented.ssh("-J", f"root@{rented.systemd.address}", f"root@{rented.plain.address}", "hostname")
    assert around.stdout == "rented-2\n", around.stderr


def test_hosts_resolve_names_as_this_machine_does(rented: Rented) -> None:
    """And not by Docker's own resolver, which a Docker inside would replace by public ones."""
    for host in (rented.systemd, rented.plain):
        found = [line.split()[1] for line in host.read("/etc/resolv.conf").splitlines()]
        assert found == name_servers()
        assert host.run(["getent", "hosts", NAME]).out.split()[0] == rented.systemd.address


def test_this_machines_own_network_has_no_way_to_the_hosts(rented: Rented) -> None:
    """So that several fleets with the same addresses can be up."""
    routes = subprocess.run(["ip", "-j", "route"], capture_output=True, text=True, check=True).stdout
    assert not any(str(route["dst"]) == str(rented.lan.subnet) for route in json.loads(routes))
