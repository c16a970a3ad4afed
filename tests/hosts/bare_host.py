"""Bare Debian 12 machines as containers, with systemd as PID 1 or without.

Everything that installs, uninstalls, kills or takes ports is tested inside them.

A host has what a fresh server has, the README's prerequisites (make, python3-venv), the apt sources and the
CA files of this machine, and a volume for the Docker that `make up` installs inside. Images are made with
mmdebstrap or debootstrap from this machine's own apt sources, and kept by a hash of what they are made from.

By hand: `python -m tests.hosts.bare_host up plain|systemd`, `… run plain COMMAND`, `… down`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.hosts.own_docker import CACHE, OwnDocker, own_dockerd, stop

CHECKOUT = Path(__file__).parents[2]
IMAGE_FILES = Path(__file__).parent / "image"
CLONE = "/root/deskfleet"
DAEMON = os.environ.get("DESKFLEET_TEST_DAEMON", "hosts")  # another name: another run beside this one
BOOT_SECONDS = 60
LABEL = "deskfleet-tests.bare-host"
# What Debian's installer puts on a server, and the two prerequisites the README names.
PACKAGES = (
    *(
        "ca-certificates",
        "ifupdown",
        "iproute2",
        "iputils-ping",
        "kmod",
        "less",
        "netbase",
        "procps",
        "python3",
    ),
    *("sudo", "udev", "make", "python3-venv"),
)


class Variant(StrEnum):
    PLAIN = "plain"
    SYSTEMD = "systemd"


class HostCommandFailed(RuntimeError):
    """A command on a bare host ended with another code than 0; the message ends with what it printed last."""


@dataclass(frozen=True)
class Done:
    """What a command on a host did; `out` holds stdout and stderr as they came."""

    code: int
    out: str
    seconds: float


@dataclass(frozen=True)
class BareHost:
    name: str
    variant: Variant
    daemon: OwnDocker

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        show: bool = False,
        user: str = "root",
        cwd: str = "/root",
    ) -> Done:
        """Run a shell line (str) or an argv on the host. `show` streams its output to ours while it runs.

        Raises HostCommandFailed when `check` and the code isn't 0, TimeoutExpired after `timeout` seconds.
        """
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        variables = [f"--env={key}={value}" for key, value in {"HOME": "/root", **(env or {})}.items()]
        docker = ["docker", "exec", "-i", f"--user={user}", f"--workdir={cwd}", *variables, self.name, *argv]
        started = time.monotonic()
        code, out = _run_showing(docker, self.daemon.env, stdin, timeout, show)
        done = Done(code, out, time.monotonic() - started)
        if check and code:
            raise HostCommandFailed(f"{self.name}: {shlex.join(argv)} ended with {code}:\n{out[-6000:]}")
        return done

    def read(self, path: str) -> str:
        return self.run(["cat", path]).out

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run(f"cat > {shlex.quote(path)} && chmod {mode} {shlex.quote(path)}", stdin=text)

    def put(self, source: Path, destination: str) -> None:
        """Copy a file, or a folder as `destination`, onto the host; owned by root."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "put.tar"
            with tarfile.open(archive, "w") as tar:
                tar.add(source, arcname=destination.lstrip("/"), filter=_owned_by_root)
            with archive.open("rb") as stream:
                subprocess.run(
                    ["docker", "cp", "-", f"{self.name}:/"], env=self.daemon.env, stdin=stream, check=True
                )

    def put_clone(self, destination: str = CLONE, *, uncommitted: bool | None = None) -> None:
        """A fresh git clone of this checkout's HEAD, as a newcomer has it.

        With `uncommitted` (default: DESKFLEET_TEST_DIRTY=1) the working tree's changes are laid over it, so
        that one can try without a commit. A clone that is there already keeps its .venv and .local.
        """
        dirty = os.environ.get("DESKFLEET_TEST_DIRTY") == "1" if uncommitted is None else uncommitted
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "clone"
            clone_checkout(clone, dirty=dirty)
            old = f"find {destination} -mindepth 1 -maxdepth 1 ! -name .venv ! -name .local"
            self.run(f"mkdir -p {destination} && {old} -exec rm -rf {{}} +")
            self.put(clone, destination)

    @property
    def pid(self) -> int:
        """The host's PID 1 as this machine sees it: whose namespaces to enter."""
        return int(self.daemon.docker("inspect", "--format={{.State.Pid}}", self.name).stdout)

    @property
    def address(self) -> str:
        """The host's outside address, reachable from this machine."""
        template = "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.daemon.docker("inspect", template, self.name).stdout.strip()

    def enter(self, *argv: str) -> list[str]:
        """`argv` as a command of this machine inside the host's network: its 127.0.0.1 is the host's."""
        return ["nsenter", "--target", str(self.pid), "--net", "--", *argv]

    def destroy(self) -> None:
        self.daemon.docker("rm", "--force", "--volumes", self.name, check=False)


@contextlib.contextmanager
def bare_hosts(*, keep: bool | None = None, daemon: str = DAEMON) -> Iterator[BareHosts]:
    """The dockerd that carries the hosts; with `keep` (default: DESKFLEET_TEST_KEEP=1) they stay up."""
    keeping = os.environ.get("DESKFLEET_TEST_KEEP") == "1" if keep is None else keep
    with own_dockerd(daemon, keep=keeping) as running:
        yield BareHosts(running, keeping)


@dataclass(frozen=True)
class BareHosts:
    daemon: OwnDocker
    keeping: bool

    def start(
        self, variant: Variant, name: str | None = None, *options: str, ssh: bool = False
    ) -> tuple[BareHost, bool]:
        """A host and whether it is new: a kept host of the same name and image is taken over as it is.

        `options` go to `docker run`, for example a small tmpfs. `ssh`: with sshd, as a rented machine has it.
        """
        image = ensure_image(self.daemon, variant, ssh=ssh)
        host = BareHost(name or f"bare-{variant}", variant, self.daemon)
        if self.keeping and self._is_running(host, image):
            return host, False
        host.destroy()
        self.daemon.docker("run", "--detach", *_run_options(host), *options, image)
        _wait_for_boot(host)
        return host, True

    def _is_running(self, host: BareHost, image: str) -> bool:
        found = self.daemon.docker(
            "inspect", "--format={{.State.Running}} {{.Config.Image}}", host.name, check=False
        )
        return found.stdout.split() == ["true", image]


def _run_options(host: BareHost) -> list[str]:
    """What lets systemd and a dockerd run inside without --privileged, which needs CAP_SYS_RESOURCE."""
    return [
        f"--name={host.name}",
        f"--hostname={host.name}",
        f"--label={LABEL}",
        "--cap-add=ALL",
        "--cap-drop=SYS_RESOURCE",
        "--security-opt=seccomp=unconfined",
        "--security-opt=systempaths=unconfined",
        "--security-opt=apparmor=unconfined",
        "--cgroupns=private",
        # As on a real machine: the edge binds ::1 too.
        "--sysctl=net.ipv6.conf.all.disable_ipv6=0",
        # As there, too: Docker lets anybody in a container listen below 1024.
        "--sysctl=net.ipv4.ip_unprivileged_port_start=1024",
        "--tmpfs=/run:exec,mode=755",
        "--tmpfs=/run/lock",
        "--volume=/var/lib/docker",  # overlay on overlay does not work
    ]


def _wait_for_boot(host: BareHost) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    question = "true" if host.variant is Variant.PLAIN else "systemctl is-system-running"
    while True:
        answer = host.run(question, check=False)
        if answer.code == 0 or "degraded" in answer.out:
            return
        if time.monotonic() > deadline:
            logs = host.daemon.docker("logs", host.name, check=False)
            raise HostCommandFailed(f"{host.name} did not boot: {answer.out}\n{logs.stdout}{logs.stderr}")
        time.sleep(0.2)


# --- images ---


def ensure_image(daemon: OwnDocker, variant: Variant, *, ssh: bool = False) -> str:
    """The image of a variant, made if what it is made from changed. Takes a minute then; says so."""
    tag = _ingredients_hash()
    image = f"deskfleet-test-host:{variant}{'-ssh' if ssh else ''}-{tag}"
    if not has_image(daemon, image):
        base = ensure_image(daemon, variant) if ssh else _ensure_base(daemon, tag)
        say(f"building the bare Debian host image ({variant}{', with sshd' if ssh else ''})")
        dockerfile = IMAGE_FILES / f"{'ssh' if ssh else variant}.Dockerfile"
        daemon.docker(
            "build",
            "--quiet",
            f"--build-arg=BASE={base}",
            f"--tag={image}",
            f"--file={dockerfile}",
            str(IMAGE_FILES),
        )
    return image


def has_image(daemon: OwnDocker, image: str) -> bool:
    return daemon.docker("image", "inspect", image, check=False).returncode == 0


def _ensure_base(daemon: OwnDocker, tag: str) -> str:
    base = f"deskfleet-test-base:{tag}"
    if has_image(daemon, base):
        return base
    daemon.docker("import", str(_base_archive(tag)), base)
    return base


def _base_archive(tag: str) -> Path:
    """A bare Debian 12 as a tar, made once for all daemons, also for those that ask at the same time."""
    archive = CACHE / f"base-{tag}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "base.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            say("making a bare Debian 12 from this machine's package servers (half a minute)")
            root, made = Path(folder) / "root", Path(folder) / "base.tar"
            _bootstrap(root)
            _lay_network_settings(root)
            subprocess.run(["tar", "--numeric-owner", "-C", str(root), "-cf", str(made), "."], check=True)
            for former in CACHE.glob("base-*.tar"):
                former.unlink()
            made.rename(archive)
    return archive


def _bootstrap(root: Path) -> None:
    """A minimal Debian 12 in the folder `root`, from the first Debian archive this machine's apt knows."""
    packages = ",".join(PACKAGES)
    if shutil.which("mmdebstrap"):
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={packages}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")]
    else:
        command = ["debootstrap", "--variant=minbase", f"--include={packages}"]
    done = subprocess.run(
        [*command, "bookworm", str(root), debian_archive()], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HostCommandFailed(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def debian_archive() -> str:
    """The address of the Debian archive in this machine's apt sources; no file of ours names one."""
    for path in _apt_sources():
        if match := re.search(r"https?://\S+", _without_comments(path)):
            return match.group().rstrip("/")
    raise HostCommandFailed("this machine's apt sources name no http(s) Debian archive")


def _apt_sources() -> list[Path]:
    """This machine's sources of Debian itself: third parties have no component called main."""
    folder = Path("/etc/apt/sources.list.d")
    candidates = [
        Path("/etc/apt/sources.list"),
        *sorted(folder.glob("*.list")),
        *sorted(folder.glob("*.sources")),
    ]
    debian = re.compile(r"\bbookworm\b.*\bmain\b", re.DOTALL)
    return [path for path in candidates if path.is_file() and debian.search(_without_comments(path))]


def _without_comments(path: Path) -> str:
    return "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))


def _apt_settings() -> list[Path]:
    """How this machine's apt reaches its servers: proxy, date checks, what not to fetch."""
    folder = Path("/etc/apt/apt.conf.d")
    reach = re.compile(r"^Acquire::(Check|http|https|Retries|ForceIPv|IndexTargets)", re.MULTILINE)
    return [path for path in sorted(folder.glob("*")) if reach.search(path.read_text())]


def _certificates() -> list[Path]:
    return sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))


def _pip_settings() -> list[Path]:
    """Where this machine's pip finds its index, if that was set for the whole machine."""
    return [path for path in (Path("/etc/pip.conf"),) if path.is_file()]


def _lay_network_settings(root: Path) -> None:
    """Let the host reach packages as this machine does: apt sources and settings, CA files, pip's index."""
    for stale in (root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").glob("*")):
        stale.unlink(missing_ok=True)
    for path in (*_apt_sources(), *_apt_settings(), *_certificates(), *_pip_settings()):
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    subprocess.run(["chroot", str(root), "update-ca-certificates"], check=True, capture_output=True)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


def _ingredients_hash() -> str:
    files = (
        *sorted(IMAGE_FILES.iterdir()),
        *_apt_sources(),
        *_apt_settings(),
        *_certificates(),
        *_pip_settings(),
    )
    digest = hashlib.sha256(json.dumps(PACKAGES).encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


# --- the clone ---


def clone_checkout(destination: Path, *, dirty: bool) -> None:
    # The checkout may belong to another user than the one (root) that runs the tests.
    env = {
        **os.environ,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    subprocess.run(
        ["git", "clone", "--quiet", "--depth=1", f"file://{CHECKOUT}", str(destination)], env=env, check=True
    )
    if not dirty:
        return
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, env=env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listing.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, destination / name)
        else:
            (destination / name).unlink(missing_ok=True)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _run_showing(
    command: Sequence[str], env: Mapping[str, str], stdin: str | None, timeout: float, show: bool
) -> tuple[int, str]:
    """Run `command`; returns its code and what it printed, shown line by line while it runs if `show`."""
    if not show:
        done = subprocess.run(
            command, env=env, input=stdin if stdin is not None else "", text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout
    lines: list[str] = []
    deadline = time.monotonic() + timeout
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            say(line.rstrip())
            if time.monotonic() > deadline:
                process.kill()
                raise subprocess.TimeoutExpired(command, timeout, "".join(lines))
    return process.returncode, "".join(lines)


def say(text: str) -> None:
    """Past sys.stderr: with pytest's --capture=sys a person watching sees that it moves."""
    print(f"  · {text}", file=sys.__stderr__, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Keep a host up, run something on it, or take the hosts down, by hand."""
    match list(arguments):
        case ["up", variant]:
            with bare_hosts(keep=True) as hosts:
                host, fresh = hosts.start(Variant(variant))
                if fresh:
                    host.put_clone()
                print(f"{host.name} at {host.address}, PID 1 is {host.pid}, new: {fresh}")
        case ["run", variant, *command]:
            with bare_hosts(keep=True) as hosts:
                host, _ = hosts.start(Variant(variant))
                return host.run(" ".join(command), check=False, show=True, timeout=3600, cwd=CLONE).code
        case ["down"]:
            with bare_hosts(keep=False) as hosts:
                stop(hosts.daemon)
        case _:
            print(
                "usage: python -m tests.hosts.bare_host up VARIANT | run VARIANT COMMAND… | down",
                file=sys.stderr,
            )
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
