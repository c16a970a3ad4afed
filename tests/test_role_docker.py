"""The docker role: Debian's engine where there is none, the machine's own otherwise, and a network of
ours."""

from __future__ import annotations

import hashlib
from typing import Any

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
    assert steps["Docker | Start Docker"] == [
        "systemctl start docker && touch /var/lib/deskfleet/docker.started"
    ]


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


def test_somebodys_engine_that_we_had_started_is_stopped_again(run_role: RunRole) -> None:
    stated = facts(SOMEBODYS, systemd=True, network=NETWORK, paths=EVERYWHERE)
    steps = dict(run_role(no_docker, facts=stated))
    assert steps["Docker away | Stop Docker if it was stopped before"] == [
        "systemctl stop docker.socket docker containerd"
    ]


def test_our_engine_goes_with_all_it_left(run_role: RunRole) -> None:
    steps = dict(run_role(no_docker, facts=facts(OURS, systemd=False, network=NETWORK, paths=EVERYWHERE)))
    assert "update deskfleet-dockerd" in steps["Docker away | Stop dockerd"][0]
    assert "OURS=yes" in steps["Docker away | Remove what the engine left"][0]


def test_nothing_there_nothing_to_remove(run_role: RunRole) -> None:
    assert changes(run_role(no_docker, facts=facts(BARE, systemd=False))) == []
