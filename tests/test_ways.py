"""The ways to a host, on real sshds: another user with sudo, a jump host, pinned keys, and what is seen of
an upload."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest
import yaml

from inventory.transport import Way, through
from tests.hosts.bare_host import BareHost, Variant, bare_hosts
from tests.hosts.lan import SUDOER, Lan, Machine, known_hosts, make_ssh_key, start_machines
from tests.hosts.network import inside

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parent.parent
SUBNET = ipaddress.IPv4Network("10.78.0.0/24")
GATE, INNER = SUBNET[11], SUBNET[12]
SECRET = "hunter2-" * 700_000
DEPLOY = """
from pydantic import SecretStr
from pyinfra.context import host
from roles.files import place
place(name="Write a key", path="/root/key", content=SecretStr("hunter2-" * 700_000), mode="600")
"""
WAIT = """
from pyinfra.operations import server
server.shell(name="Wait", commands=["touch /tmp/waits; sleep 300"])
"""


@dataclass(frozen=True)
class Ways:
    """`gate` answers to the operator; `inner` answers to `gate` alone."""

    lan: Lan
    gate: BareHost
    inner: BareHost
    folder: Path

    def pin(self, *, gate: BareHost, inner: BareHost) -> None:
        """Let known_hosts give the addresses of the two these hosts' keys."""
        keys = dict(line.split(" ", 1) for line in known_hosts([self.gate, self.inner]).splitlines())
        lines = [f"{self.gate.address} {keys[gate.address]}", f"{self.inner.address} {keys[inner.address]}"]
        (self.folder / "acme.known_hosts").write_text("\n".join(lines) + "\n")

    def site(self) -> None:
        jump = {"address": str(GATE), "user": SUDOER, "key": "ssh.key"}
        inner = {"address": str(INNER), "user": SUDOER, "key": "ssh.key", "jump": jump}
        hosts = {
            "gate": {
                "groups": ["edge", "control"],
                "connect": {"address": str(GATE), "user": SUDOER, "key": "ssh.key"},
            },
            "inner": {"groups": ["sandboxes", "desktops"], "connect": inner},
        }
        identity = self.folder / "identity.txt"
        subprocess.run(
            [sys.executable, "-m", "inventory.operator"],
            cwd=self.folder, env={**os.environ, "DESKFLEET_AGE_IDENTITY": str(identity)}, check=True,
            capture_output=True,
        )  # fmt: skip
        key = identity.read_text().split("public key: ")[1].split()[0]
        (self.folder / "acme.yml").write_text(yaml.safe_dump({"hosts": hosts, "operators": [key]}))

    def pyinfra(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        running = self.start(*arguments)
        out, said = running.communicate(timeout=120)
        return subprocess.CompletedProcess(running.args, running.returncode, out, said)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DESKFLEET")}
        return subprocess.Popen(
            self.lan.operator(str(Path(sys.executable).parent / "pyinfra"), *arguments),
            cwd=self.folder,
            env={**kept, "DESKFLEET_AGE_IDENTITY": str(self.folder / "identity.txt")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("config.py", "inventory", "roles", "templates"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "try.py").write_text(DEPLOY)
    (folder / "wait.py").write_text(WAIT)
    with bare_hosts() as hosts:
        lan = Lan(hosts.daemon, SUBNET)
        started = start_machines(
            hosts,
            lan,
            [Machine("ways-gate", Variant.PLAIN, GATE), Machine("ways-inner", Variant.PLAIN, INNER)],
            public_key=make_ssh_key(folder / "ssh.key"),
            names={},
        )
        lan.close(INNER)
        found = Ways(lan, started["ways-gate"], started["ways-inner"], folder)
        found.site()
        yield found
        lan.open(INNER)
        for host in started.values():
            host.destroy()


@pytest.fixture(autouse=True)
def pinned(ways: Ways) -> None:
    ways.pin(gate=ways.gate, inner=ways.inner)
    for host in (ways.gate, ways.inner):
        host.run("rm -rf /root/key /tmp/seen")


def test_user_with_sudo_deploys_directly_and_through_a_jump_host(ways: Ways) -> None:
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        inside(ways.lan.operator_pid, lambda: socket.create_connection((str(INNER), 22), timeout=3))
    done = ways.pyinfra("acme.yml", "try.py", "-y", "-vvv", "--diff", "--debug")
    assert done.returncode == 0, done.stderr[-3000:]
    for host in (ways.gate, ways.inner):
        assert host.run("stat -c '%a %U' /root/key").out == "600 root\n"
        assert host.run("wc -c < /root/key").out.strip() == str(len(SECRET) + 1)
        assert host.run("ls /tmp").out == ""
    assert "hunter2" not in done.stdout + done.stderr
    again = json.loads(ways.pyinfra("acme.yml", "try.py", "-y", "--json").stdout)
    totals = again["results"]["totals"]
    assert (totals["hosts"], totals["success"], totals["no_change"]) == (2, 0, 2)


def test_nobody_else_reads_a_secret_on_its_way(ways: Ways) -> None:
    """Somebody on the host tries all the time, as fast as a shell can."""
    for host in (ways.gate, ways.inner):
        watch = "while :; do head -qc 7 /tmp/pyinfra-* /tmp/tmp.*/* 2>/dev/null; done >> /var/tmp/seen"
        host.run("rm -f /var/tmp/seen")
        host.daemon.docker(
            "exec", "--detach", "--user=nobody", host.name, "timeout", "60", "bash", "-c", watch
        )
    done = ways.pyinfra("acme.yml", "try.py", "-y")
    assert done.returncode == 0, done.stderr[-3000:]
    for host in (ways.gate, ways.inner):
        assert host.run("cat /var/tmp/seen").out == ""
        assert host.run("wc -c < /root/key").out.strip() == str(len(SECRET) + 1)


def test_host_with_another_key_than_the_pinned_is_left_alone(ways: Ways) -> None:
    ways.pin(gate=ways.gate, inner=ways.gate)
    done = ways.pyinfra("acme.yml", "try.py", "-y")
    assert done.returncode == 1
    assert "does not match" in done.stderr
    assert ways.inner.run("test -e /root/key", check=False).code == 1
    assert ways.gate.run("test -e /root/key", check=False).code == 0


def test_jump_host_with_another_key_than_the_pinned_is_not_passed_through(ways: Ways) -> None:
    ways.pin(gate=ways.inner, inner=ways.inner)
    done = ways.pyinfra("acme.yml", "try.py", "-y")
    assert done.returncode == 1
    assert f"on the way through {SUDOER}@{GATE}:22" in done.stderr
    assert ways.inner.run("test -e /root/key", check=False).code == 1


def test_host_that_goes_silent_ends_the_run(ways: Ways) -> None:
    """No packet leaves or reaches it any more; it is the way to the other one, too."""
    running = ways.start("acme.yml", "wait.py", "-y")
    for host in (ways.gate, ways.inner):
        host.run("for i in $(seq 300); do [ -e /tmp/waits ] && exit 0; sleep 0.1; done; exit 1")
        host.run("rm /tmp/waits")
    route = ways.gate.run("ip route show default").out.strip()
    ways.gate.run("ip link set eth0 down")
    try:
        _, said = running.communicate(timeout=90)
    finally:
        running.kill()
        ways.gate.run(f"ip link set eth0 up && ip route add {route}")
        for host in (ways.gate, ways.inner):
            host.run("pkill -x sleep", check=False)
    assert running.returncode == 1
    for name in ("gate", "inner"):
        assert "failed at 'Wait' after no changes" in next(
            line for line in said.splitlines() if line.split()[:1] == [name]
        )


def test_way_through_a_jump_host_sends_at_once_and_ends_whole(ways: Ways) -> None:
    pins, key = str(ways.folder / "acme.known_hosts"), str(ways.folder / "ssh.key")
    way = Way(str(INNER), 22, str(GATE), 22, SUDOER, key, pins)

    def sees() -> tuple[int, bytes]:
        client = paramiko.SSHClient()
        client.load_host_keys(pins)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(str(INNER), username=SUDOER, key_filename=key, **through(way))
        transport = client.get_transport()
        outer = transport._client.get_transport().sock  # type: ignore[union-attr]
        _, out, _ = client.exec_command("hostname")
        answer = out.read()
        option = outer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()
        assert outer.fileno() == -1 or not transport._client.get_transport()  # type: ignore[union-attr]
        return option, answer

    option, answer = inside(ways.lan.operator_pid, sees)
    assert answer == b"ways-inner\n"
    assert option != 0
