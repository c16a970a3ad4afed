"""Bench group "rollout": the same forty tasks on 1, 3 and 6 hosts over SSH, by our operations and by Ansible.

Both run in the same minute on the same hosts, both with pipelining of their kind, Ansible with at least as
many forks as hosts and without gathering facts. First runs find the package downloaded. All of it again at a
round trip of 50 ms, through userspace proxies.
"""

from __future__ import annotations

import ipaddress
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench_host import bench_hosts
from tests.bench_row import BenchRow
from tests.hosts.bare_host import BareHost, Variant
from tests.hosts.lan import Lan, Machine, known_hosts, make_ssh_key, start_machines
from tests.rollout import work
from tests.rollout.playbook import write_playbook

CHECKOUT = Path(__file__).parent.parent
REQUIREMENTS = CHECKOUT / "tests" / "rollout" / "requirements.txt"
ANSIBLE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deskfleet-tests" / "ansible"
SIZES = (1, 3, 6)
SUBNET = ipaddress.IPv4Network("10.77.0.0/24")
FIRST_ADDRESS = 61
NOOP_ROUNDS = 3
ROUND_TRIP_MS = 50
PROXY_PORT = 2250


@dataclass(frozen=True)
class Took:
    """Wall time and the controller's CPU time, seconds."""

    seconds: float
    cpu: float


@dataclass(frozen=True)
class Address:
    host: str
    port: int = 22


class Controller:
    """Runs both tools on the operator's side of the network, against the hosts of one inventory."""

    def __init__(self, lan: Lan, folder: Path, addresses: Mapping[str, Address]) -> None:
        self._lan = lan
        self._folder = folder
        self._count = len(addresses)
        self._ours = folder / f"ours{self._count}_{next(iter(addresses.values())).port}.py"
        self._ours.write_text(_pyinfra_inventory(folder, addresses))
        self._theirs = folder / f"{self._ours.stem}.ini"
        self._theirs.write_text(_ansible_inventory(folder, addresses))
        self._playbook = write_playbook(folder)

    def ours(self) -> Took:
        return self._run(
            Path(sys.executable).parent / "pyinfra", str(self._ours), "tests/rollout/deploy.py", "-y"
        )

    def bare(self) -> Took:
        """The least a run of pyinfra can take: imports, connections, one command."""
        return self._run(Path(sys.executable).parent / "pyinfra", str(self._ours), "exec", "-y", "--", "true")

    def theirs(self) -> Took:
        program = ANSIBLE / "bin" / "ansible-playbook"
        return self._run(
            program, "-i", str(self._theirs), f"--forks={max(10, self._count)}", str(self._playbook)
        )

    def _run(self, program: Path, *arguments: str) -> Took:
        env = {**os.environ, "ANSIBLE_CONFIG": str(self._folder / "ansible.cfg"), "PYINFRA_PROGRESS": "off"}
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            self._lan.operator(str(program), *arguments),
            cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{program.name} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _pyinfra_inventory(folder: Path, addresses: Mapping[str, Address]) -> str:
    data = {
        name: {
            "ssh_hostname": address.host, "ssh_port": address.port, "ssh_user": "root",
            "ssh_key": str(folder / "key"), "ssh_known_hosts_file": str(folder / "known_hosts"),
            "ssh_strict_host_key_checking": "yes",
        }
        for name, address in addresses.items()
    }  # fmt: skip
    return (
        "from inventory.transport import without_delay as _without_delay\n"
        "_connect = {'ssh_paramiko_connect_kwargs': {'transport_factory': _without_delay}}\n"
        f"bench = [(name, {{**data, **_connect}}) for name, data in {data!r}.items()]\n"
    )


def _ansible_inventory(folder: Path, addresses: Mapping[str, Address]) -> str:
    arguments = f"-o UserKnownHostsFile={folder / 'known_hosts'} -o StrictHostKeyChecking=yes"
    return "".join(
        f"{name} ansible_host={address.host} ansible_port={address.port} ansible_user=root"
        f" ansible_ssh_private_key_file={folder / 'key'} ansible_ssh_common_args='{arguments}'\n"
        for name, address in addresses.items()
    )


def rows() -> list[BenchRow]:
    _install_ansible()
    hosts = bench_hosts()
    with tempfile.TemporaryDirectory(prefix="rollout-", dir="/var/tmp") as temporary:
        folder = Path(temporary)
        lan = Lan(hosts.daemon, SUBNET)
        wanted = [
            Machine(f"bench{number}", Variant.SYSTEMD, SUBNET[FIRST_ADDRESS + number])
            for number in range(max(SIZES))
        ]
        machines = start_machines(hosts, lan, wanted, public_key=make_ssh_key(folder / "key"), names={})
        try:
            return _measure(lan, folder, list(machines.values()))
        finally:
            for machine in machines.values():
                machine.destroy()


def _measure(lan: Lan, folder: Path, machines: Sequence[BareHost]) -> list[BenchRow]:
    slow = [Address("127.0.0.1", PROXY_PORT + number) for number in range(len(machines))]
    (folder / "known_hosts").write_text(_pins(machines, slow))
    for machine in machines:
        machine.run("apt-get update -qq && apt-get install -qq -y python3-apt", timeout=300)
    found: list[BenchRow] = []
    noop_cpu: dict[int, float] = {}
    for size in SIZES:
        some = machines[:size]
        controller = Controller(lan, folder, {one.name: Address(one.address) for one in some})
        more, noop_cpu[size] = _compare(controller, some, _hosts(size))
        found += more
    found.append(_cpu_row(noop_cpu))
    with ExitStack() as links:
        for machine, address in zip(machines, slow, strict=True):
            links.enter_context(_slow_link(lan, address.port, f"{machine.address}:22"))
        for size in SIZES:
            ways = {one.name: way for one, way in zip(machines[:size], slow[:size], strict=True)}
            controller = Controller(lan, folder, ways)
            found += _compare(controller, machines[:size], f"{_hosts(size)} at {ROUND_TRIP_MS} ms")[0]
    return found


def _hosts(size: int) -> str:
    return f"{size} host{'s' if size > 1 else ''}"


def _pins(machines: Sequence[BareHost], slow: Sequence[Address]) -> str:
    """The hosts' keys, under their own addresses and under those of the slow way to them."""
    direct = known_hosts(machines)
    keys = {line.split()[0]: line.split(maxsplit=1)[1] for line in direct.splitlines()}
    ways = zip(machines, slow, strict=True)
    return direct + "".join(f"[{way.host}]:{way.port} {keys[one.address]}\n" for one, way in ways)


def _compare(
    controller: Controller, machines: Sequence[BareHost], where: str
) -> tuple[list[BenchRow], float]:
    """First and no-op runs of both on the same hosts; and the CPU seconds of our no-op."""
    _undo(machines)
    our_first = controller.ours()
    ours = [controller.ours() for _ in range(NOOP_ROUNDS)]
    bare = median(controller.bare().seconds for _ in range(NOOP_ROUNDS))
    _undo(machines)
    their_first = controller.theirs()
    theirs = [controller.theirs() for _ in range(NOOP_ROUNDS - 1)]
    noop, their_noop = median(one.seconds for one in ours), median(one.seconds for one in theirs)
    rows = [
        _row(f"rollout, {where}: first run", our_first.seconds, their_first.seconds, 0.5),
        _row(f"rollout, {where}: no-op", noop, their_noop, 0.15),
        BenchRow(
            name=f"rollout, {where}: no-op against a bare exec true", value=noop, unit="s",
            against=f"{bare:.2f} s", ratio=noop / bare, goal="", met=None,
        ),
    ]  # fmt: skip
    return rows, median(one.cpu for one in ours)


def _row(name: str, ours: float, theirs: float, goal: float) -> BenchRow:
    return BenchRow(
        name=f"{name}, {work.TASKS} tasks", value=ours, unit="s", against=f"Ansible {theirs:.1f} s",
        ratio=ours / theirs, goal=f"<= {goal} x", met=ours <= goal * theirs,
    )  # fmt: skip


def _cpu_row(noop_cpu: Mapping[int, float]) -> BenchRow:
    few, many = min(noop_cpu), max(noop_cpu)
    each = (noop_cpu[many] - noop_cpu[few]) / (many - few)
    return BenchRow(
        name="rollout, no-op: controller CPU per added host", value=each, unit="s", against="", ratio=None,
        goal="<= 0.3 s", met=each <= 0.3,
    )  # fmt: skip


def _undo(machines: Sequence[BareHost]) -> None:
    for machine in machines:
        machine.run(f"({work.UNDO}) >/dev/null 2>&1; true", timeout=120)


def _install_ansible() -> None:
    """Into an environment of its own, by hash; kept between runs."""
    stamp = ANSIBLE / ".complete"
    if stamp.exists() and stamp.read_text() == REQUIREMENTS.read_text():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ANSIBLE)], check=True)
    pip = str(ANSIBLE / "bin" / "pip")
    subprocess.run([pip, "install", "--quiet", "--require-hashes", "-r", str(REQUIREMENTS)], check=True)
    stamp.write_text(REQUIREMENTS.read_text())


@contextmanager
def _slow_link(lan: Lan, port: int, target: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.slow_link", str(port), target, str(ROUND_TRIP_MS)]
    with subprocess.Popen(lan.operator(*command), cwd=CHECKOUT) as proxy:
        time.sleep(1)
        try:
            yield
        finally:
            proxy.terminate()
