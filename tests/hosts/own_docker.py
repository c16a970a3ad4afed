"""A dockerd of the tests' own, in a network namespace of its own; the machine's Docker is never touched.

Two dockerds in one network namespace wreck each other's iptables chains (each rewrites them at its start), so
every own dockerd gets a namespace, joined to the machine by a veth pair:

    machine ── dft<N>  10.213.N.1/30 ══ dfe 10.213.N.2/30 ── namespace dft-<name> ── bridge 10.213.N.64/26
                                                                                 └─ networks 10.214.N.0/24

Containers reach the outside through two MASQUERADEs and keep the machine's resolver. From the machine,
containers are reached by their own addresses, and published ports at `OwnDocker.address`
(`-p <address>:40000:8080`, or a server's `publish_host = <address>`).

By hand: `python -m tests.hosts.own_docker up NAME`, `… down NAME`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("DESKFLEET_TEST_CACHE", "/var/cache/deskfleet-tests"))
RUN = Path("/run/deskfleet-tests")
START_SECONDS = 40
RULE_COMMENT = "deskfleet-tests"


class OwnDockerError(RuntimeError):
    """The dockerd did not start or did not stop; says why, with the end of its log."""


@dataclass(frozen=True)
class OwnDocker:
    """A running dockerd of the tests' own. Everything about it is derived from its name and its number."""

    name: str
    number: int
    live_restore: bool = False
    """As on hosts of a fleet: containers go on while dockerd is away."""

    @property
    def run_dir(self) -> Path:
        return RUN / "docker" / self.name

    @property
    def data_root(self) -> Path:
        """Kept between runs, so that images need not be built again."""
        return CACHE / "docker" / self.name

    @property
    def socket(self) -> Path:
        return self.run_dir / "docker.sock"

    @property
    def host(self) -> str:
        """What goes into DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def netns(self) -> str:
        return f"dft-{self.name}"

    @property
    def netns_path(self) -> Path:
        return Path("/run/netns") / self.netns

    @property
    def link(self) -> str:
        """The machine's end of the veth pair."""
        return f"dft{self.number}"

    @property
    def gateway(self) -> str:
        """The machine, as the namespace sees it."""
        return f"10.213.{self.number}.1"

    @property
    def address(self) -> str:
        """The namespace, as the machine sees it: ports published here are reached from the tests."""
        return f"10.213.{self.number}.2"

    @property
    def cgroup(self) -> str:
        """Every process of every container is below this cgroup, so that a killed run can be cleaned up."""
        return f"deskfleet-tests-{self.name}"

    @property
    def env(self) -> dict[str, str]:
        # Debian's docker.io has no buildx; the legacy builder needs nothing but the daemon.
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}

    def docker(
        self, *args: str, check: bool = True, stdin: str | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker client against this daemon; with `check`, raises OwnDockerError with its stderr."""
        done = subprocess.run(
            ["docker", *args],
            env=self.env, input=stdin, text=True, capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise OwnDockerError(f"docker {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def enter(self, *argv: str) -> list[str]:
        """`argv` as a command that runs inside the daemon's network namespace.

        nsenter, not `ip netns exec`: that one remounts /sys, and dockerd then finds no cgroups.
        """
        return ["nsenter", f"--net={self.netns_path}", "--", *argv]


@contextlib.contextmanager
def own_dockerd(name: str, *, keep: bool = False, live_restore: bool = False) -> Iterator[OwnDocker]:
    """Start (or, with `keep`, take over) the dockerd `name`; stop it and all it did at the end unless `keep`.

    Raises OwnDockerError if it does not answer, or if another process of ours is using this name.
    """
    daemon = OwnDocker(name, _number_of(name), live_restore)
    with _locked(daemon):
        if not (keep and is_answering(daemon)):
            stop(daemon)
            _start(daemon)
        try:
            yield daemon
        finally:
            if not keep:
                stop(daemon)


def is_answering(daemon: OwnDocker) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return daemon.socket.exists() and daemon.docker("info", check=False, timeout=15).returncode == 0
    return False


def stop(daemon: OwnDocker) -> None:
    """Take away processes, mounts, links, rules and the namespace; idempotent, also after a kill -9."""
    if is_answering(daemon):
        _remove_containers(daemon)
    _end_processes(daemon)
    _unmount_below(daemon.run_dir, daemon.data_root)
    _remove_network(daemon)
    _remove_cgroups(daemon)
    shutil.rmtree(daemon.run_dir, ignore_errors=True)
    # Networks would come back with the addresses of this run's number; images are all that is worth keeping.
    shutil.rmtree(daemon.data_root / "network", ignore_errors=True)
    (RUN / "numbers" / str(daemon.number)).unlink(missing_ok=True)


def take_down(name: str) -> None:
    """Stop a dockerd that was kept, and all it carries; nothing to do is fine."""
    daemon = OwnDocker(name, _number_of(name))
    with _locked(daemon):
        stop(daemon)


def _remove_containers(daemon: OwnDocker) -> None:
    containers = daemon.docker("ps", "--all", "--quiet").stdout.split()
    if containers:
        daemon.docker("rm", "--force", "--volumes", *containers, check=False)


# --- starting ---


def _start(daemon: OwnDocker) -> None:
    daemon.run_dir.mkdir(parents=True, exist_ok=True)
    daemon.data_root.mkdir(parents=True, exist_ok=True)
    # Freed by stop(); claimed again, as the number is still ours to use.
    (RUN / "numbers" / str(daemon.number)).write_text(daemon.name)
    try:
        _make_network(daemon)
        _launch(daemon)
        _remove_containers(daemon)  # those of a run that was killed
    except BaseException:
        stop(daemon)
        raise


def _launch(daemon: OwnDocker) -> None:
    deadline = time.monotonic() + START_SECONDS
    # A containerd of our own too: left alone, dockerd would join one that happens to run on the machine.
    (daemon.run_dir / "containerd.toml").write_text(_containerd_config(daemon))
    containerd = _spawn(daemon, "containerd", f"--config={daemon.run_dir}/containerd.toml")
    _wait_until(lambda: (daemon.run_dir / "containerd.sock").exists(), daemon, containerd, deadline)
    (daemon.run_dir / "daemon.json").write_text(json.dumps({"live-restore": daemon.live_restore}))
    start_dockerd(daemon, deadline)
    # dockerd sets the namespace's FORWARD policy to DROP; the machine's tests come in by the veth pair.
    _run(*daemon.enter("iptables", "-I", "DOCKER-USER", "-i", "dfe", "-j", "ACCEPT"))


def start_dockerd(daemon: OwnDocker, deadline: float | None = None) -> None:
    """Start it, or start it again after `kill_dockerd`; it answers when this returns."""
    dockerd = _spawn(daemon, *_dockerd_command(daemon))
    until = deadline or time.monotonic() + START_SECONDS
    _wait_until(lambda: is_answering(daemon), daemon, dockerd, until)


def kill_dockerd(daemon: OwnDocker) -> None:
    """kill -9 of dockerd alone; containerd and the containers stay."""
    main = [int((daemon.run_dir / "dockerd.pid").read_text())]
    _signal(main, signal.SIGKILL)
    _wait_gone(main, seconds=20)
    for process in _spawned:
        if process.pid in main:
            # Until its last thread is gone it holds the number in its pid file, and a new one won't start.
            process.wait(20)


def _spawn(daemon: OwnDocker, *command: str) -> subprocess.Popen[bytes]:
    with _log(daemon, command[0]).open("ab") as log:
        process = subprocess.Popen(
            daemon.enter(*command),
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    # Held, because it outlives this call: a Popen that is forgotten while its process runs is a warning.
    _spawned.append(process)
    return process


_spawned: list[subprocess.Popen[bytes]] = []


def _log(daemon: OwnDocker, program: str) -> Path:
    return daemon.run_dir / f"{program}.log"


def _wait_until(
    ready: Callable[[], bool], daemon: OwnDocker, process: subprocess.Popen[bytes], deadline: float
) -> None:
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            logs = [_log(daemon, program) for program in ("containerd", "dockerd")]
            lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()[-10:]]
            raise OwnDockerError(f"dockerd {daemon.name} did not come up:\n" + "\n".join(lines))
        time.sleep(0.05)


def _containerd_config(daemon: OwnDocker) -> str:
    return f"""version = 2
root = "{daemon.data_root}/containerd"
state = "{daemon.run_dir}/exec/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{daemon.run_dir}/containerd.sock"
[debug]
  level = "warn"
"""


def _dockerd_command(daemon: OwnDocker) -> list[str]:
    number = daemon.number
    command = [
        "dockerd",
        f"--config-file={daemon.run_dir}/daemon.json",  # not the machine's own /etc/docker/daemon.json
        f"--data-root={daemon.data_root}",
        f"--exec-root={daemon.run_dir}/exec",
        f"--pidfile={daemon.run_dir}/dockerd.pid",
        f"--host={daemon.host}",
        f"--containerd={daemon.run_dir}/containerd.sock",
        f"--bip=10.213.{number}.65/26",
        f"--default-address-pool=base=10.214.{number}.0/24,size=27",
        f"--mtu={outside_mtu()}",
        f"--cgroup-parent=/{daemon.cgroup}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--storage-driver=overlay2",
        "--log-level=warn",
    ]
    return command + [f"--dns={server}" for server in name_servers()]


def name_servers() -> list[str]:
    """Resolvers that a container can reach; a stub on loopback is replaced by what that one asks."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        with contextlib.suppress(OSError):
            lines = [line.split() for line in Path(path).read_text().splitlines()]
            servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
            usable = [server for server in servers if not server.startswith("127.") and server != "::1"]
            if usable:
                return usable
    return []


def outside_mtu() -> int:
    words = _run("ip", "-o", "route", "show", "default", check=False).stdout.split()
    if "dev" not in words:
        return 1500
    device = words[words.index("dev") + 1]
    return int(Path(f"/sys/class/net/{device}/mtu").read_text())


# --- the network ---


def _make_network(daemon: OwnDocker) -> None:
    number, link, mtu = daemon.number, daemon.link, str(outside_mtu())
    inside = daemon.enter
    _run("ip", "netns", "add", daemon.netns)
    _run("ip", "link", "add", link, "mtu", mtu, "type", "veth",
         "peer", "name", "dfe", "mtu", mtu, "netns", daemon.netns)  # fmt: skip
    _run("ip", "addr", "add", f"{daemon.gateway}/30", "dev", link)
    _run("ip", "link", "set", link, "up")
    _run(*inside("ip", "link", "set", "lo", "up"))
    _run(*inside("ip", "addr", "add", f"{daemon.address}/30", "dev", "dfe"))
    _run(*inside("ip", "link", "set", "dfe", "up"))
    _run(*inside("ip", "route", "add", "default", "via", daemon.gateway))
    for network in (f"10.213.{number}.64/26", f"10.214.{number}.0/24"):
        _run("ip", "route", "add", network, "via", daemon.address)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for rule in _machine_rules(daemon):
        _run("iptables", *rule("-I"))


def _machine_rules(daemon: OwnDocker) -> list[Callable[[str], list[str]]]:
    """The rules in the machine's own namespace, each as a function of the verb (-I or -D)."""
    comment = ["-m", "comment", "--comment", f"{RULE_COMMENT}-{daemon.name}"]

    def masquerade(verb: str) -> list[str]:
        source = f"10.213.{daemon.number}.0/24"
        return [
            "-t",
            "nat",
            verb,
            "POSTROUTING",
            "-s",
            source,
            "!",
            "-o",
            daemon.link,
            *comment,
            "-j",
            "MASQUERADE",
        ]

    def let_in(verb: str) -> list[str]:
        return [verb, "FORWARD", "-i", daemon.link, *comment, "-j", "ACCEPT"]

    def let_out(verb: str) -> list[str]:
        return [verb, "FORWARD", "-o", daemon.link, *comment, "-j", "ACCEPT"]

    return [masquerade, let_in, let_out]


def _remove_network(daemon: OwnDocker) -> None:
    for rule in _machine_rules(daemon):
        while _run("iptables", *rule("-D"), check=False).returncode == 0:
            pass  # a killed run may have left the rule more than once
    _run("ip", "link", "del", daemon.link, check=False)  # takes its routes and the other end with it
    _run("ip", "netns", "del", daemon.netns, check=False)


# --- stopping ---


def _end_processes(daemon: OwnDocker) -> None:
    """TERM dockerd and wait for it; then kill what it left: containerd, shims, containers."""
    main = [pid for pid in _pids_naming(str(daemon.run_dir)) if _comm(pid) == "dockerd"]
    _signal(main, signal.SIGTERM)
    _wait_gone(main, seconds=20)
    deadline = time.monotonic() + 15
    while remaining := _all_pids(daemon):
        _signal(remaining, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise OwnDockerError(f"processes of dockerd {daemon.name} do not end: {sorted(remaining)}")
        time.sleep(0.1)


def _all_pids(daemon: OwnDocker) -> set[int]:
    pids = set(_pids_naming(str(daemon.run_dir) + "/")) | _pids_in_cgroup(daemon.cgroup)
    inside = _run("ip", "netns", "pids", daemon.netns, check=False).stdout.split()
    return (pids | {int(pid) for pid in inside}) - {os.getpid()}


def _pids_naming(text: str) -> list[int]:
    """Processes of the container world whose command line names `text`; never an editor or a pager."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            comm = (entry / "comm").read_text().strip()
            if comm.startswith(("dockerd", "containerd")) and text in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _cgroup_roots(cgroup: str) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    return [path for path in (top / cgroup, *(child / cgroup for child in top.iterdir() if child.is_dir()))
            if path.is_dir()]  # fmt: skip


def _pids_in_cgroup(cgroup: str) -> set[int]:
    pids: set[int] = set()
    for root in _cgroup_roots(cgroup):
        for procs in root.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids |= {int(line) for line in procs.read_text().split()}
    return pids - {0}


def _remove_cgroups(daemon: OwnDocker) -> None:
    for root in _cgroup_roots(daemon.cgroup):
        folders = sorted((path for path in root.rglob("*") if path.is_dir()), key=lambda p: -len(p.parts))
        for folder in [*folders, root]:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _signal(pids: Sequence[int] | set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait_gone(pids: Sequence[int], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    """A zombie whose parent is this very process counts as gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _unmount_below(*folders: Path) -> None:
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in sorted(targets, reverse=True):
        if any(target == str(folder) or target.startswith(f"{folder}/") for folder in folders):
            _run("umount", "--lazy", target, check=False)


# --- bookkeeping ---


def _number_of(name: str) -> int:
    """The small number behind this name's addresses: the one it has already, else the first free one."""
    folder = RUN / "numbers"
    folder.mkdir(parents=True, exist_ok=True)
    with (RUN / "numbers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        taken = {int(path.name): path.read_text() for path in folder.iterdir()}
        for number, owner in taken.items():
            if owner == name:
                return number
        number = next(candidate for candidate in range(1, 200) if candidate not in taken)
        (folder / str(number)).write_text(name)
        return number


@contextlib.contextmanager
def _locked(daemon: OwnDocker) -> Iterator[None]:
    """Whoever holds the lock owns the name; a lock that is free means that leftovers belong to a dead run."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / f"docker-{daemon.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OwnDockerError(
                f"another test run is using the dockerd {daemon.name!r}; wait for it"
            ) from None
        yield


def _run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    if check and done.returncode:
        raise OwnDockerError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def main(arguments: Sequence[str]) -> int:
    """Keep a dockerd up, or take it down, by hand."""
    match list(arguments):
        case ["up", name]:
            with own_dockerd(name, keep=True) as daemon:
                print(f"DOCKER_HOST={daemon.host}\naddress={daemon.address} netns={daemon.netns}")
        case ["down", name]:
            take_down(name)
        case _:
            print("usage: python -m tests.hosts.own_docker up|down NAME", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
