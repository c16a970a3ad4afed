"""Own images: what the role tells a host, and what its scripts do with an engine that is a stand-in for
Docker's command line (a registry that asks for a password can't be had)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from inventory.models import HostConfig
from roles import own_images as role
from roles.images import LOGIN, ImageSources, Login, images, server_of
from roles.own_images import Held, HeldImages, Wanted, own_images, own_images_present
from tests.role_runner import RunRole, changes, run_role
from tests.sites import host_config

__all__ = ["run_role"]

CRM, JOBS = "registry.example.com:5000/crm:1", "jobs:2"
PASSWORD = "password-of-crm"
OWN: dict[str, dict[str, Any]] = {
    "crm": {"uri": CRM, "entrypoint": ["/x"], "registry": {"user": "puller", "password": "CRM_PASSWORD"}},
    "jobs": {"uri": JOBS, "entrypoint": ["/x"], "display": "none"},
}


def config(password: str = PASSWORD, own: dict[str, dict[str, Any]] = OWN) -> HostConfig:
    made = host_config(images={"own": own})
    given = {"CRM_PASSWORD": SecretStr(password)}
    return made.model_copy(update={"secrets": made.secrets.model_copy(update={"given": given})})


def commands(run_role: RunRole, held: Held, **arguments: Any) -> list[Any]:
    arguments = arguments or {"config": config()}
    ((_, found),) = run_role(own_images, facts={HeldImages: lambda images: held}, **arguments)
    return list(found)


def test_missing_images_are_pulled_each_with_its_own_credentials(run_role: RunRole) -> None:
    made, emptied, locked, password, with_login, without = commands(run_role, Held())
    assert made == "mkdir -p /var/lib/deskfleet/images"
    assert emptied == f"rm -rf {LOGIN} && install -d -m 700 {LOGIN}"
    assert locked == f"install -m 600 /dev/null {LOGIN}/password"
    assert password == ("put", f"{LOGIN}/password", PASSWORD)
    assert f"IMAGE={CRM} " in with_login
    assert "REGISTRY_USER=puller SERVER=registry.example.com:5000\n" in with_login
    assert f"IMAGE={JOBS} " in without
    assert "REGISTRY_USER='' SERVER=''\n" in without
    assert PASSWORD not in with_login + without


def test_image_that_is_here_is_left_alone_and_one_that_was_tried_until_its_credentials_change(
    run_role: RunRole,
) -> None:
    first = commands(run_role, Held(here=frozenset({JOBS})))
    (stamp,) = {word.partition("=")[2] for word in str(first).split() if word.startswith("STAMP=")}
    tried = Held(here=frozenset({JOBS}), tried={CRM: stamp})
    assert commands(run_role, tried) == []
    assert commands(run_role, tried, config=config("another"))
    moved = {**OWN, "crm": {**OWN["crm"], "uri": "registry.example.com:5000/crm:2"}}
    assert "IMAGE=registry.example.com:5000/crm:2" in str(commands(run_role, tried, config=config(own=moved)))


def test_only_what_was_pulled_and_is_wanted_no_more_is_removed(run_role: RunRole) -> None:
    held = Held(here=frozenset({CRM, JOBS}), pulled=frozenset({CRM, "old:1"}))
    (forget,) = commands(run_role, held)
    assert forget.startswith("NOTES=/var/lib/deskfleet/images/own IMAGES=old:1\n")
    nothing = run_role(role.no_own_images, facts={HeldImages: lambda images: Held()})
    assert changes(nothing) == []


def test_our_own_registry_gets_its_credentials_by_file(run_role: RunRole) -> None:
    login = Login(user="puller", password=SecretStr(PASSWORD))
    arguments: dict[str, Any] = {"registry": "registry.example.com/deskfleet", "login": login}
    ((_, found),) = run_role(images, facts={ImageSources: {}}, **arguments)
    assert ("put", f"{LOGIN}/password", PASSWORD) in found
    assert f"LOGIN={LOGIN} REGISTRY_USER=puller SERVER=registry.example.com " in found[-1]
    assert PASSWORD not in found[-1]
    ((_, built),) = run_role(images, facts={ImageSources: {}}, source="build", **arguments)
    assert PASSWORD not in str(built)  # nothing is pulled


@pytest.mark.parametrize(
    ("reference", "server"),
    [
        (CRM, "registry.example.com:5000"), ("localhost/crm", "localhost"), ("a.example/b", "a.example"),
        ("jobs:2", ""), ("somebody/jobs", ""), ("jobs.v2:1", ""),
    ],
)  # fmt: skip
def test_registry_of_an_image_is_found_as_docker_does(reference: str, server: str) -> None:
    assert server_of(reference) == server


STAND_IN = """#!/bin/sh
echo "$@" >>"$CALLS"
case $1 in
    login) cat >>"$CALLS"; [ -z "$REFUSES" ] || { echo "Error: denied" >&2; exit 1; } ;;
    pull) touch "$HAS/$(echo "$3" | tr /: __)" ;;
    image) case $2 in
        inspect) [ -e "$HAS/$(echo "$3" | tr /: __)" ] ;;
        rm) rm "$HAS/$(echo "$3" | tr /: __)" ;;
    esac ;;
esac
"""


class Engine:
    """A host with the stand-in, on which the role's commands are run as they are."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "has").mkdir()
        (folder / "bin" / "docker").write_text(STAND_IN)
        (folder / "bin" / "docker").chmod(0o755)
        monkeypatch.setattr("roles.own_images.STORE", str(folder / "store"))
        monkeypatch.setattr("roles.own_images.NOTES", str(folder / "store" / "own"))
        for module in ("roles.own_images", "roles.images"):
            monkeypatch.setattr(f"{module}.LOGIN", str(folder / "store" / "login"))

    def shell(self, command: str, refuses: str = "") -> str:
        path = f"{self.folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=True,
            env={
                "PATH": path, "CALLS": f"{self.folder}/calls", "HAS": f"{self.folder}/has",
                "REFUSES": refuses,
            },
        )  # fmt: skip
        return done.stdout

    def held(self, images: list[str]) -> Held:
        fact = HeldImages()
        return fact.process(self.shell(fact.command(images=images)).splitlines())

    def roll_out(self, run_role: RunRole, *wanted: Wanted, refuses: str = "") -> str:
        facts = {HeldImages: lambda images: self.held(images)}
        ((_, found),) = run_role(own_images_present, facts=facts, wanted=wanted)
        said = ""
        for command in found:
            if isinstance(command, tuple):
                Path(command[1]).write_text(command[2])
            else:
                said += self.shell(command, refuses)
        return said


def test_scripts_pull_remember_and_forget(
    run_role: RunRole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tmp_path, monkeypatch)
    login = Login(user="puller", password=SecretStr(PASSWORD))
    crm, jobs = Wanted(uri=CRM, stamp="s1", login=login), Wanted(uri=JOBS, stamp="s2")
    said = engine.roll_out(run_role, crm, jobs, refuses="yes")
    assert f"{CRM} can't be pulled now, the host tries again at its first desktop: Error: denied" in said
    assert engine.held([CRM, JOBS]) == Held(
        here=frozenset({JOBS}), pulled=frozenset({JOBS}), tried={CRM: "s1"}
    )
    assert engine.roll_out(run_role, crm, jobs) == ""
    newer = crm.model_copy(update={"stamp": "s3"})
    engine.roll_out(run_role, newer, jobs)
    assert engine.held([CRM, JOBS]).pulled == {CRM, JOBS}
    calls = (tmp_path / "calls").read_text()
    assert f"login --username puller --password-stdin registry.example.com:5000\n{PASSWORD}" in calls
    assert not (tmp_path / "store" / "login").exists()
    engine.roll_out(run_role, newer)
    assert engine.held([CRM, JOBS]) == Held(here=frozenset({CRM}), pulled=frozenset({CRM}))
