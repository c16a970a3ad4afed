"""A host that has left a group: what the group brought ends there, and a second run looks once and does
nothing."""

from __future__ import annotations

from typing import Any

import pytest

from roles import docker as docker_role
from roles import viewer as viewer_role
from roles.choice import Chosen
from roles.facts import HasSystemd, Paths, PathState, User
from roles.files import Directory, directories
from roles.former import former, former_opensandbox, former_viewer, lock
from tests.role_runner import RunRole, changes
from tests.sites import fleet_config, host_config

FILE, FOLDER = PathState("ab", "640", "root", "root"), PathState("", "750", "root", "root")
CONFIGS = ("/etc/deskfleet/viewer.toml", "/etc/deskfleet/opensandbox.toml", "/etc/deskfleet/hostwatch.toml",
           "/etc/deskfleet/relay.toml", "/etc/deskfleet/secrets/lego.env")  # fmt: skip


class Recorder:
    """A host with these files, and which roles `former` would run there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
        self.ran: list[str] = []
        self.looks = 0
        self._files = files
        monkeypatch.setattr("roles.former.host", self)
        for path, name in (
            ("roles.former.former_viewer", "viewer"),
            ("roles.former.former_opensandbox", "opensandbox"),
            ("roles.hostwatch.no_hostwatch", "hostwatch"),
            ("roles.relay.no_relay", "relay"),
            ("roles.lego.no_lego", "lego"),
        ):
            monkeypatch.setattr(path, lambda name=name: self.ran.append(name))

    def get_fact(self, fact: object, *, paths: tuple[str, ...]) -> dict[str, PathState]:
        self.looks += 1
        return {path: FILE for path in paths if path in self._files}


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("edge1", ["viewer", "hostwatch", "opensandbox", "relay"]),
        ("control1", ["hostwatch", "opensandbox", "relay", "lego"]),
        ("box1", ["viewer", "lego"]),
        ("studio1", ["viewer", "hostwatch", "opensandbox", "lego"]),
    ],
)
def test_host_loses_what_its_groups_do_not_bring(
    name: str, gone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Recorder(monkeypatch, *CONFIGS)
    former(config=fleet_config(name), chosen=Chosen(None))
    assert (host.ran, host.looks) == (gone, 1)


def test_host_that_never_had_it_costs_one_look_and_one_of_all_groups_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Recorder(monkeypatch)
    former(config=fleet_config("box1"), chosen=Chosen(None))
    assert (host.ran, host.looks) == ([], 1)
    former(config=host_config(), chosen=Chosen(None))
    assert host.looks == 1


def test_role_that_was_not_asked_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Recorder(monkeypatch, *CONFIGS)
    former(config=fleet_config("edge1"), chosen=Chosen("relay"))
    assert host.ran == ["relay"]


def having(*known: str, network: bool = False) -> dict[Any, Any]:
    """The facts of a host with systemd and these paths."""
    return {
        HasSystemd: True,
        User: None,
        Paths: lambda paths: {path: FOLDER for path in paths if path in known},
        docker_role.DockerNetwork: {} if network else None,
    }


def test_former_control_host_stops_first_keeps_its_database_and_loses_its_keys_last(
    run_role: RunRole,
) -> None:
    units = [f"/etc/systemd/system/deskfleet-{name}.service" for name in ("worker", "viewer")]
    here = (*units, viewer_role.DATA, viewer_role.SECRETS, viewer_role.CONFIG)
    steps = changes(run_role(former_viewer, facts=having(*here)))
    assert [name.partition(" | ")[2] for name, _ in steps] == [
        "Stop the worker", "Stop the viewer", "Keep the database for root", "Remove keys and settings",
    ]  # fmt: skip
    last = str(steps[-1][1])
    assert viewer_role.SECRETS in last
    assert viewer_role.CONFIG in last
    assert not [commands for _, commands in steps if f"rm -rf {viewer_role.DATA}" in str(commands)]


def test_former_sandbox_host_stops_the_server_before_its_sandboxes_are_removed(run_role: RunRole) -> None:
    unit, config = "/etc/systemd/system/deskfleet-opensandbox.service", "/etc/deskfleet/opensandbox.toml"
    steps = changes(run_role(former_opensandbox, facts=having(unit, config, network=True)))
    names = [name.rpartition(" | ")[2] for name, _ in steps]
    assert names[:2] == ["Stop the server", "Remove sandboxes and their network"]
    assert names[-1] == "Remove its files"
    assert "docker rm -fv" in str(steps[1][1])


def test_database_that_changes_hands_does_so_with_all_that_is_in_it(run_role: RunRole) -> None:
    data = viewer_role.DATA
    theirs = {Paths: {data: PathState("", "750", "deskfleet-viewer", "deskfleet-viewer")}}
    ((_, commands),) = run_role(lock, facts=theirs, path=data)
    assert f"chown -R -h root:root {data}" in commands
    moved = {Paths: {data: PathState("", "750", "UNKNOWN", "UNKNOWN")}}
    wanted = (Directory(data, "750", "deskfleet-viewer", "deskfleet-viewer"),)
    ((_, commands),) = run_role(directories, facts=moved, wanted=wanted, whole=(data,))
    assert f"chown -R -h deskfleet-viewer:deskfleet-viewer {data}" in commands
    assert run_role(directories, facts=theirs, wanted=wanted, whole=(data,))[0][1] == []
