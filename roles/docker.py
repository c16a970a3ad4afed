"""Docker: the engine of the machine, or Debian's; and a network in which sandboxes do not reach each
other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pyinfra.api.command import StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

from roles.facts import STATE, HasSystemd, Paths
from roles.files import Commands, Directory, directories, place, sha256, tell
from roles.packages import packages
from roles.units import Unit, no_unit, run

NETWORK = "deskfleet"
BRIDGE = "df-sandboxes"
PACKAGE = "docker.io"
DAEMON_JSON = "/etc/docker/daemon.json"
SANDBOX_LABEL = "opensandbox.io/id"
OURS = f"{STATE}/docker.ours"
BEFORE = f"{STATE}/docker.before"
"""What the network was like before the first engine that we started."""
STARTED = f"{STATE}/docker.started"
"""Names the units of the machine's own engine that were inactive when we had systemd start it."""

_DAEMON_JSON_BEFORE = f"{DAEMON_JSON}.before-deskfleet"
_UNITS = "docker.socket docker containerd"

# A network of ours, not `icc: false` in the engine's own configuration: that would change how the machine's
# other containers see each other, and needs a restart of an engine that is not ours.
_NETWORK_OPTIONS = {
    "com.docker.network.bridge.enable_icc": "false",
    "com.docker.network.bridge.name": BRIDGE,
}

# The OpenSandbox server cannot ask for log options per container, so a sandbox's log is bounded by the
# engine's defaults; those are ours to set only where the engine is. Live restore: sandboxes outlive a crash
# of dockerd.
_DAEMON = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}, "live-restore": True}

DOCKERD = Unit(
    name="deskfleet-dockerd",
    description="Docker engine (started by Deskfleet)",
    command=("/usr/bin/env", "dockerd"),
    user="root",
    environment={"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    stop_seconds=20,
    ready="docker info >/dev/null 2>&1",
    ready_seconds=60,
)

_SCRIPTS = Path(__file__).resolve().parent.parent / "templates" / "docker"


class Engine(NamedTuple):
    """installed: there is a dockerd; running: it answers; ours: the one that is installed is the one that we
    brought; supervised: we keep it running."""

    installed: bool
    running: bool
    ours: bool
    supervised: bool


class DockerEngine(FactBase[Engine]):
    """The Docker engine of the host."""

    def command(self) -> str:
        return (
            "echo installed $(command -v dockerd >/dev/null && echo yes); "
            "echo running $(docker info >/dev/null 2>&1 && echo yes); "
            # Still ours: its owner may have put another engine in the place of the one that we brought. It is
            # there in whatever state: a roll-out may have died while apt unpacked it.
            f"echo ours $([ -e {OURS} ] && grep -qx {PACKAGE} {STATE}/packages.ours 2>/dev/null && "
            f"dpkg-query -W -f='${{db:Status-Status}}' {PACKAGE} 2>/dev/null "
            "| grep -qvxE 'not-installed|config-files' && echo yes); "
            f"echo supervised $([ -e /etc/deskfleet/supervisor/{DOCKERD.name}.conf ] && echo yes)"
        )

    @staticmethod
    def default() -> Engine:
        return Engine(installed=False, running=False, ours=False, supervised=False)

    def process(self, output: list[str]) -> Engine:
        holds = {line.split()[0] for line in output if line.endswith(" yes")}
        return Engine(*(field in holds for field in Engine._fields))


class DockerNetwork(FactBase[dict[str, str] | None]):
    """The options of a Docker network; None when there is no such network (or no engine)."""

    def command(self, network: str) -> str:
        return f"docker network inspect {network} --format '{{{{json .Options}}}}' 2>/dev/null || true"

    def process(self, output: list[str]) -> dict[str, str] | None:
        text = "".join(output).strip()
        return dict(json.loads(text)) if text else None


@deploy("Docker")
def docker() -> None:
    engine = host.get_fact(DockerEngine)
    systemd = host.get_fact(HasSystemd)
    ours = engine.ours or not engine.installed
    # An engine that is installed but has nobody to start it is ours to run, not to own.
    supervised = not systemd and (ours or engine.supervised or not engine.running)
    if ours:
        remember(name="Note that the engine is ours")
        directories(name="Make /etc/docker", wanted=(Directory("/etc/docker"),))
        place(
            name="Write daemon.json",
            path=DAEMON_JSON,
            content=json.dumps(_DAEMON, indent=2) + "\n",
        )
        packages(name="Install Docker", names=(PACKAGE, "iptables", "ca-certificates"))
    if supervised:
        note_network(name="Note the network before")
        run(name="Run dockerd", unit=DOCKERD, restart_on=sha256(json.dumps(_DAEMON) if ours else ""))
    elif systemd:
        started(name="Start Docker")
    network(name="Make the sandboxes' network")


@operation()
def remember() -> Commands:
    found = host.get_fact(Paths, paths=[OURS, BEFORE, DAEMON_JSON, _DAEMON_JSON_BEFORE])
    if OURS not in found:
        keeps = DAEMON_JSON in found and _DAEMON_JSON_BEFORE not in found
        for path in (
            OURS,
            *(() if BEFORE in found else (BEFORE,)),
            *((_DAEMON_JSON_BEFORE,) if keeps else ()),
        ):
            tell(path, "is made")
        yield _script("before.sh")
        # A daemon.json without an engine is somebody's all the same; after.sh puts it back.
        yield StringCommand(
            f"[ ! -e {DAEMON_JSON} ] || [ -e {_DAEMON_JSON_BEFORE} ] || "
            f"cp -pT {DAEMON_JSON} {_DAEMON_JSON_BEFORE}"
        )
        yield StringCommand(f"touch {OURS}")


@operation()
def note_network() -> Commands:
    if not host.get_fact(Paths, paths=[BEFORE]):
        tell(BEFORE, "is made")
        yield _script("before.sh")


@operation()
def started() -> Commands:
    if not host.get_fact(DockerEngine).running:
        tell(STARTED, "is made, if it is not there")
        # Only the first look counts: a start that failed halfway leaves containerd active.
        yield StringCommand(
            f"[ -e {STARTED} ] || {{ for unit in {_UNITS}; do "
            "systemctl is-active --quiet $unit || echo $unit; "
            f"done > {STARTED}.new && mv -fT {STARTED}.new {STARTED}; }} && systemctl start docker"
        )


@operation()
def network() -> Commands:
    """Our bridge, on which containers do not reach each other."""
    found = host.get_fact(DockerNetwork, network=NETWORK)
    if found == _NETWORK_OPTIONS:
        return
    if found is not None:
        yield StringCommand("docker network rm", NETWORK)
    options = " ".join(f"--opt {key}={value}" for key, value in _NETWORK_OPTIONS.items())
    yield StringCommand(f"docker network create --driver bridge {options} {NETWORK}")


@deploy("Docker away")
def no_docker() -> None:
    no_network(name="Remove sandboxes and their network")
    engine = host.get_fact(DockerEngine)
    if host.get_fact(HasSystemd):
        stopped(name="Stop Docker if it was stopped before", ours=engine.ours)
    if engine.ours or engine.supervised:
        no_unit(name="Stop dockerd", unit=DOCKERD.name)
        no_traces(name="Remove what the engine left", ours=engine.ours)


@operation()
def no_network() -> Commands:
    """Sandboxes go with it; another container that somebody put on it only leaves it."""
    if host.get_fact(DockerNetwork, network=NETWORK) is not None:
        on_it = f"docker ps -aq --filter network={NETWORK}"
        yield StringCommand(
            f"sandboxes=$({on_it} --filter label={SANDBOX_LABEL}); "
            '[ -z "$sandboxes" ] || docker rm -fv $sandboxes >/dev/null; '
            f"for other in $({on_it}); do docker network disconnect -f {NETWORK} $other; done; "
            f"docker network rm {NETWORK}"
        )


@operation()
def stopped(ours: bool) -> Commands:
    if ours:
        # Purged next. containerd may have been there before, and work for others.
        yield StringCommand(
            "systemctl stop docker.socket docker; "
            f"! grep -qx containerd {STATE}/packages.ours || systemctl stop containerd"
        )
    elif host.get_fact(Paths, paths=[STARTED]):
        # Somebody may use by now what we had started. An engine that doesn't answer runs nothing.
        yield StringCommand(
            'if [ -n "$(docker ps -q 2>/dev/null)" ]; then '
            "echo 'kept: Docker runs, as there are containers that are not ours'; "
            f"else for unit in $(cat {STARTED}); do systemctl stop $unit; done; rm -f {STARTED}; fi"
        )


@operation()
def no_traces(ours: bool) -> Commands:
    if host.get_fact(Paths, paths=[BEFORE]):
        if ours:
            tell(DAEMON_JSON, "goes, or becomes what it was before")
        yield _script("after.sh", ours="yes" if ours else "")


def _script(name: str, *, ours: str = "") -> StringCommand:
    return StringCommand(f"STATE={STATE} OURS={ours}; export STATE OURS\n{(_SCRIPTS / name).read_text()}")
