"""Machines on a network of their own, as one rents them: fixed private addresses, sshd, pinned host keys.

The network is a Docker network of the tests' own dockerd, so it exists only in that daemon's network
namespace. The operator is at its first address: `Lan.operator(…)` is a command there. A host may be closed
to the operator: then its sshd answers only to the other hosts, and the way to it is a jump host.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.bare_host import BareHost, BareHosts, HostCommandFailed, Variant, ensure_image
from tests.hosts.own_docker import OwnDocker, name_servers, outside_mtu

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
SUDOER = "op"
"""A person on every host who may do all with sudo, without a password."""
SSHD_SECONDS = 20


@dataclass(frozen=True)
class Machine:
    """A host that is wanted. docker_data: what its /var/lib/docker holds from the start; users: who may log
    in with the operator's key."""

    name: str
    variant: Variant
    address: ipaddress.IPv4Address
    docker_data: Path | None = None
    users: tuple[str, ...] = ("root", SUDOER)


@dataclass(frozen=True)
class Lan:
    daemon: OwnDocker
    subnet: ipaddress.IPv4Network
    name: str = "fleet"

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """Where the operator's connections come from."""
        return self.subnet[1]

    def operator(self, *argv: str) -> list[str]:
        """`argv` as a command of the operator's machine, which reaches the hosts by their addresses."""
        return self.daemon.enter(*argv)

    @property
    def operator_pid(self) -> int:
        """A process in the operator's network, for `tests.hosts.network.inside`."""
        return int((self.daemon.run_dir / "dockerd.pid").read_text())

    def make(self) -> None:
        """Idempotent."""
        if self.daemon.docker("network", "inspect", self.name, check=False).returncode:
            self.daemon.docker(
                "network", "create", f"--subnet={self.subnet}", f"--gateway={self.gateway}",
                # The daemon's own --mtu holds for its default bridge only.
                f"--opt=com.docker.network.driver.mtu={outside_mtu()}", self.name,
            )  # fmt: skip

    def remove(self) -> None:
        """Once its machines are gone."""
        self.daemon.docker("network", "rm", self.name)

    def close(self, address: ipaddress.IPv4Address) -> None:
        """Whoever isn't on the network itself gets no answer from the sshd at `address`. Idempotent."""
        for rule in _closing(address):
            if subprocess.run(self.operator("iptables", "-C", *rule), capture_output=True).returncode:
                subprocess.run(self.operator("iptables", "-I", *rule), check=True)

    def open(self, address: ipaddress.IPv4Address) -> None:
        """Take back `close`."""
        for rule in _closing(address):
            subprocess.run(self.operator("iptables", "-D", *rule), check=True)


def _closing(address: ipaddress.IPv4Address) -> list[tuple[str, ...]]:
    ssh = ("-d", str(address), "-p", "tcp", "--dport", "22", "-j", "REJECT")
    return [("OUTPUT", *ssh), ("DOCKER-USER", "-i", "dfe", *ssh)]


def start_machines(
    hosts: BareHosts,
    lan: Lan,
    wanted: Sequence[Machine],
    *,
    public_key: str,
    names: Mapping[str, ipaddress.IPv4Address],
) -> dict[str, BareHost]:
    """Name → host, all at once. Kept hosts are taken over as they are.

    public_key: a line of authorized_keys. names: what a name server would tell the hosts.
    """
    lan.make()
    for variant in {machine.variant for machine in wanted}:
        ensure_image(hosts.daemon, variant, ssh=True)  # not twice at the same time
    with ThreadPoolExecutor(len(wanted)) as pool:
        started = pool.map(lambda machine: _start(hosts, lan, machine, public_key, names), wanted)
        return {host.name: host for host in started}


def _start(
    hosts: BareHosts, lan: Lan, machine: Machine, public_key: str, names: Mapping[str, ipaddress.IPv4Address]
) -> BareHost:
    host, is_new = hosts.start(
        machine.variant, machine.name,
        f"--network={lan.name}", f"--ip={machine.address}",
        *(f"--add-host={name}:{address}" for name, address in names.items()),
        # Docker's own would say 127.0.0.11, which a Docker inside replaces by public resolvers.
        f"--volume={_resolver(lan.daemon)}:/etc/resolv.conf:ro",
        ssh=True,
    )  # fmt: skip
    if is_new and machine.docker_data:
        _fill_docker(host, machine.docker_data)
    for user in machine.users:
        home = "/root" if user == "root" else f"/home/{user}"
        host.run(f"install -d -m 700 -o {user} {home}/.ssh")
        host.write(f"{home}/.ssh/authorized_keys", public_key + "\n")
    _wait_for_sshd(host)
    return host


def _resolver(daemon: OwnDocker) -> Path:
    path = daemon.run_dir / "resolv.conf"
    path.write_text("".join(f"nameserver {server}\n" for server in name_servers()))
    return path


def _fill_docker(host: BareHost, data: Path) -> None:
    """Copy `data` into the volume that the host has for its Docker."""
    template = '--format={{range .Mounts}}{{if eq .Destination "/var/lib/docker"}}{{.Source}}{{end}}{{end}}'
    volume = host.daemon.docker("inspect", template, host.name).stdout.strip()
    subprocess.run(["cp", "-a", f"{data}/.", volume], check=True)


def _wait_for_sshd(host: BareHost) -> None:
    deadline = time.monotonic() + SSHD_SECONDS
    while host.run("ss -Hlnt 'sport = 22' | grep -q .", check=False).code:
        if time.monotonic() > deadline:
            raise HostCommandFailed(f"{host.name}: no sshd within {SSHD_SECONDS} s")
        time.sleep(0.1)


def known_hosts(hosts: Iterable[BareHost]) -> str:
    """The hosts' keys as a known_hosts file has them, read on the hosts themselves: nothing is trusted at
    first sight."""
    keys = ((host.address, host.read(HOST_KEY).split()[:2]) for host in hosts)
    return "".join(f"{address} {kind} {key}\n" for address, (kind, key) in sorted(keys))


def make_ssh_key(path: Path) -> str:
    """Make an SSH key at `path` unless there is one; return its public line."""
    if not path.exists():
        if shutil.which("ssh-keygen") is None:
            raise HostCommandFailed("ssh-keygen is missing; install openssh-client")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "deskfleet-tests", "-f", str(path)],
            check=True,
        )
    return path.with_name(f"{path.name}.pub").read_text().strip()
