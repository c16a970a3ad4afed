"""The docker role: Debian's engine where there is none, the machine's own otherwise, and a network of
ours."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from roles.docker import DOCKERD, DockerEngine, DockerNetwork, Engine, docker, no_docker
from roles.facts import HasSystemd, MissingPackages, Paths, PathState, UnitState
from roles.facts import Unit as UnitFact
from roles.files import sha256
from roles.units import supervisor_program
from tests.role_runner import RunRole, changes

NETWORK = {"com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.name": "df-sandboxes"}
MAKE_NETWORK = (
    "docker network create --driver bridge --opt com.docker.network.bridge.enable_icc=false"
    " --opt com.docker.network.bridge.name=df-sandboxes deskfleet"
)
BARE = Engine(installed=False, running=False, ours=False, supervised=False)
SOMEBODYS = Engine(installed=True, running=True, ours=False, supervised=False)
STOPPED = Engine(installed=True, running=False, ours=False, supervised=False)
OURS = Engine(installed=True, running=True, ours=True, supervised=True)
NOWHERE: Any = lambda paths: {}  # noqa: E731
EVERYWHERE: Any = lambda paths: {path: PathState("", "755", "root", "root") for path in paths}  # noqa: E731


def facts(engine: Engine, *, systemd: bool, network: dict[str, str] | None = None, **more: Any) -> Any:
    return {
        DockerEngine: engine,
        DockerNetwork: network,
        HasSystemd: systemd,
        Paths: more.get("paths", NOWHERE),
        MissingPackages: more.get("missing", []),
        UnitFact: more.get("unit", UnitState("", "", "")),
    }


def names(steps: list[tuple[str, list[Any]]]) -> list[str]:
    return [name.removeprefix("Docker | ") for name, _ in changes(steps)]


def test_bare_machine_without_systemd_gets_an_engine_that_we_supervise(run_role: RunRole) -> None:
    steps = run_role(docker, facts=facts(BARE, systemd=False, missing=["docker.io"]))
    assert names(steps) == [
        "Note that the engine is ours", "Make /etc/docker", "Write daemon.json", "Install Docker",
        "Note the network before", "Run dockerd", "Make the sandboxes' network",
    ]  # fmt: skip
    daemon = dict(steps)["Docker | Write daemon.json"][1][2]
    assert '"max-size": "10m"' in daemon
    assert '"live-restore": true' in daemon


def test_bare_machine_with_systemd_leaves_the_engine_to_it(run_role: RunRole) -> None:
    steps = dict(run_role(docker, facts=facts(BARE, systemd=True, missing=["docker.io"])))
    assert "Docker | Run dockerd" not in steps
    (start,) = steps["Docker | Start Docker"]
    assert start.endswith("&& systemctl start docker")


def test_somebodys_running_engine_only_gets_our_network(run_role: RunRole) -> None:
    for systemd in (True, False):
        steps = run_role(docker, facts=facts(SOMEBODYS, systemd=systemd))
        assert changes(steps) == [("Docker | Make the sandboxes' network", [MAKE_NETWORK])]


def test_somebodys_stopped_engine_is_run_but_not_configured(run_role: RunRole) -> None:
    steps = run_role(docker, facts=facts(STOPPED, systemd=False))
    assert names(steps) == ["Note the network before", "Run dockerd", "Make the sandboxes' network"]


def test_second_run_changes_nothing(run_role: RunRole) -> None:
    assert changes(run_role(docker, facts=facts(SOMEBODYS, systemd=True, network=NETWORK))) == []


def test_second_run_changes_nothing_where_the_engine_is_ours_to_run(run_role: RunRole) -> None:
    known = hashlib.sha256(supervisor_program(DOCKERD, sha256("")).encode()).hexdigest()
    engine = Engine(installed=True, running=True, ours=False, supervised=True)
    stated = facts(engine, systemd=False, network=NETWORK, paths=EVERYWHERE, unit=UnitState(known, known, ""))
    assert changes(run_role(docker, facts=stated)) == []


def test_network_that_lets_sandboxes_talk_is_replaced(run_role: RunRole) -> None:
    steps = run_role(docker, facts=facts(SOMEBODYS, systemd=True, network={}))
    assert dict(steps)["Docker | Make the sandboxes' network"] == [
        "docker network rm deskfleet",
        MAKE_NETWORK,
    ]


def test_somebodys_engine_is_never_stopped(run_role: RunRole) -> None:
    for systemd in (True, False):
        steps = run_role(no_docker, facts=facts(SOMEBODYS, systemd=systemd, network=NETWORK))
        assert [name for name, _ in changes(steps)] == ["Docker away | Remove sandboxes and their network"]


def asked_of(tmp_path: Path, command: str, **tools: str) -> list[str]:
    """Run the command with these tools; each notes what it is asked before its own lines run."""
    for name, lines in tools.items():
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n{lines}\n')
        (tmp_path / name).chmod(0o755)
    moved = command.replace("/var/lib/deskfleet", str(tmp_path))
    (tmp_path / "asked").write_text("")
    subprocess.run(["sh", "-c", moved], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    return (tmp_path / "asked").read_text().splitlines()


def test_units_that_were_inactive_are_noted_once_before_the_start(run_role: RunRole, tmp_path: Path) -> None:
    steps = dict(run_role(docker, facts=facts(STOPPED, systemd=True)))
    (start,) = steps["Docker | Start Docker"]
    asked = asked_of(tmp_path, start, systemctl='[ "$1" = start ] || [ "$3" = containerd ]')
    assert asked[-1] == "systemctl start docker"
    assert (tmp_path / "docker.started").read_text() == "docker.socket\ndocker\n"
    assert asked_of(tmp_path, start, systemctl="") == ["systemctl start docker"]
    assert (tmp_path / "docker.started").read_text() == "docker.socket\ndocker\n"


@pytest.mark.parametrize("running", ["", "c0ffee"])
def test_somebodys_engine_that_we_had_started_is_stopped_unless_in_use(
    run_role: RunRole, tmp_path: Path, running: str
) -> None:
    stated = facts(SOMEBODYS, systemd=True, network=NETWORK, paths=EVERYWHERE)
    (stop,) = dict(run_role(no_docker, facts=stated))["Docker away | Stop Docker if it was stopped before"]
    (tmp_path / "docker.started").write_text("docker.socket\ndocker\n")
    asked = asked_of(tmp_path, stop, docker=f"echo {running}", systemctl="")
    stops = ["systemctl stop docker.socket", "systemctl stop docker"]
    assert asked == ["docker ps -q", *([] if running else stops)]


@pytest.mark.parametrize("recorded", ["docker.io\n", "containerd\ndocker.io\n"])
def test_our_engine_is_stopped_but_not_a_containerd_that_was_there(
    run_role: RunRole, tmp_path: Path, recorded: str
) -> None:
    steps = dict(run_role(no_docker, facts=facts(OURS, systemd=True, network=NETWORK)))
    (stop,) = steps["Docker away | Stop Docker if it was stopped before"]
    (tmp_path / "packages.ours").write_text(recorded)
    asked = asked_of(tmp_path, stop, systemctl="")
    assert ("systemctl stop containerd" in asked) == ("containerd" in recorded)
    assert "systemctl stop docker.socket docker" in asked


def test_only_sandboxes_are_removed_with_their_network(run_role: RunRole, tmp_path: Path) -> None:
    steps = dict(run_role(no_docker, facts=facts(SOMEBODYS, systemd=True, network=NETWORK)))
    (remove,) = steps["Docker away | Remove sandboxes and their network"]
    asked = asked_of(
        tmp_path,
        remove,
        docker='case "$*" in *label=opensandbox.io/id*) echo s1 s2;; *ps*) echo theirs;; esac',
    )
    assert [line for line in asked if " ps " not in line] == [
        "docker rm -fv s1 s2",
        "docker network disconnect -f deskfleet theirs",
        "docker network rm deskfleet",
    ]


def test_our_engine_goes_with_all_it_left(run_role: RunRole) -> None:
    steps = dict(run_role(no_docker, facts=facts(OURS, systemd=False, network=NETWORK, paths=EVERYWHERE)))
    assert "update deskfleet-dockerd" in steps["Docker away | Stop dockerd"][0]
    assert "OURS=yes" in steps["Docker away | Remove what the engine left"][0]


def test_nothing_there_nothing_to_remove(run_role: RunRole) -> None:
    assert changes(run_role(no_docker, facts=facts(BARE, systemd=False))) == []


def on_a_small_host(tmp_path: Path, script: str, **environment: str) -> str:
    """The real script on directories below tmp_path, with tools that only say what they were asked."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for tool in ("iptables", "ip", "umount"):
        (tools / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >> {tmp_path}/asked\n')
        (tools / tool).chmod(0o755)
    text = Path("templates/docker", script).read_text()
    moved = re.sub(r"(?<![\w^$.])/(?=(var/lib|run|opt|etc|proc|sys)/)", f"{tmp_path}/", text)
    assert not re.search(r"(?<![\w^)])/(var|run|opt|etc|proc|sys)/", moved.replace(str(tmp_path), "x"))
    variables = {"PATH": f"{tools}:/usr/bin:/bin", "STATE": str(tmp_path / "state"), **environment}
    done = subprocess.run(["sh", "-c", moved], env=variables, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def small_host(tmp_path: Path) -> Path:
    for folder in ("proc/sys/net/ipv4", "etc/docker", "var/lib/docker", "run/containerd", "state"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/sys/net/ipv4/ip_forward").write_text("1\n")
    (tmp_path / "proc/mounts").write_text("")
    (tmp_path / "etc/docker/daemon.json").write_text("theirs")
    (tmp_path / "run/containerd/containerd.sock").write_text("")
    return tmp_path


def test_what_was_there_before_the_engine_is_there_after_it(small_host: Path) -> None:
    on_a_small_host(small_host, "before.sh")
    assert sorted(path.name for path in (small_host / "state").iterdir()) == ["docker.before"]
    (small_host / "etc/docker/daemon.json").rename(small_host / "etc/docker/daemon.json.before-deskfleet")
    (small_host / "etc/docker/daemon.json").write_text("ours")
    (small_host / "var/lib/containerd/io").mkdir(parents=True)
    (small_host / "var/lib/docker/image").mkdir()
    said = on_a_small_host(small_host, "after.sh", OURS="yes")
    assert f"kept: {small_host}/etc/docker was there before" in said
    assert f"kept: {small_host}/run/containerd was there before" in said
    assert [path.name for path in (small_host / "etc/docker").iterdir()] == ["daemon.json"]
    assert (small_host / "etc/docker/daemon.json").read_text() == "theirs"
    assert (small_host / "run/containerd/containerd.sock").exists()
    assert not (small_host / "var/lib/containerd").exists()
    # It was there, with nothing in it: a volume for the engine.
    assert list((small_host / "var/lib/docker").iterdir()) == []


def test_without_a_list_of_what_was_there_nothing_is_deleted(small_host: Path) -> None:
    assert on_a_small_host(small_host, "after.sh", OURS="yes") == ""
    assert (small_host / "etc/docker/daemon.json").read_text() == "theirs"


def test_list_of_what_was_there_is_made_once(small_host: Path) -> None:
    on_a_small_host(small_host, "before.sh")
    before = (small_host / "state/docker.before").read_text()
    (small_host / "opt/containerd").mkdir(parents=True)
    on_a_small_host(small_host, "before.sh")
    assert (small_host / "state/docker.before").read_text() == before


@pytest.mark.parametrize(
    ("noted", "recorded", "status", "ours"),
    [
        (True, "docker.io\n", "installed", True),
        (True, "docker.io\n", "unpacked", True),
        (True, "docker.io\n", "half-installed", True),
        (True, "docker.io\n", "config-files", False),
        (True, "docker.io\n", "not-installed", False),
        (True, "docker.io\n", "", False),
        (True, "iptables\n", "installed", False),
        (False, "docker.io\n", "installed", False),
    ],
)
def test_engine_is_ours_while_it_is_the_one_that_we_brought(
    tmp_path: Path, noted: bool, recorded: str, status: str, ours: bool
) -> None:
    (tmp_path / "packages.ours").write_text(recorded)
    if noted:
        (tmp_path / "docker.ours").touch()
    for tool, line in (("dpkg-query", f"printf {status}"), ("docker", "exit 1"), ("dockerd", "exit 1")):
        (tmp_path / tool).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / tool).chmod(0o755)
    command = DockerEngine().command().replace("/var/lib/deskfleet", str(tmp_path))
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert DockerEngine().process(done.stdout.splitlines()).ours is ours


def test_engine_put_in_the_place_of_ours_is_left_alone(run_role: RunRole) -> None:
    """docker.ours is still there, but the fact says that the engine is not the one we brought."""
    stated = facts(SOMEBODYS, systemd=False, network=NETWORK, paths=EVERYWHERE)
    assert changes(run_role(docker, facts=stated)) == []
    steps = run_role(no_docker, facts=stated)
    assert [name for name, _ in changes(steps)] == ["Docker away | Remove sandboxes and their network"]


def test_daemon_json_of_somebody_is_kept_aside(run_role: RunRole) -> None:
    steps = dict(run_role(docker, facts=facts(BARE, systemd=True, missing=["docker.io"])))
    _, keep, note = steps["Docker | Note that the engine is ours"]
    assert keep.endswith("cp -pT /etc/docker/daemon.json /etc/docker/daemon.json.before-deskfleet")
    assert note == "touch /var/lib/deskfleet/docker.ours"
