"""Groups that move between hosts: the whole roll-out, on hosts that answer every command with success."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sites import FLEET as FLEET_HOSTS
from tests.sites import fleet_site
from tests.test_config_cli import FLEET, lay_out, pyinfra

# Each test is a run of pyinfra's own command line.
pytestmark = pytest.mark.real

ANSWERS_OF = """
for _members in (edge, control, sandboxes, desktops):
    for _host, _data in _members:
        _more = {answers}.get(_host.removeprefix("@fake/"), {{}})
        _data["fake_responses"] = {{**_FAKE["fake_responses"], **_more}}
"""
LOOK = ["os debian", "version 12", "architecture x86_64", "uid 0", "free_mb 90000", "addresses 10.77.0.15"]
HAS_DATABASE = {"DATABASE=": ["database yes"]}


def roll_out(
    folder: Path, answers: dict[str, dict[str, list[str]]], *flags: str, **site: Any
) -> subprocess.CompletedProcess[str]:
    """The fleet's roll-out; `answers`: host -> a part of a command -> what it prints there."""
    checkout = lay_out(folder)
    wanted = fleet_site().model_dump(mode="json", exclude_unset=True) | site
    (checkout / "fleet.yml").write_text(yaml.safe_dump(wanted))
    (checkout / "fleet.py").write_text(FLEET + ANSWERS_OF.format(answers=repr(answers)))
    return pyinfra(checkout, "fleet.py", "deploy.py", "-y", *flags)


def test_moved_control_group_is_refused_before_any_change_until_its_database_has_moved(
    tmp_path: Path,
) -> None:
    done = roll_out(tmp_path, {"box1": HAS_DATABASE})
    assert done.returncode == 1
    assert "nothing was changed:\ncontrol1: the control plane's database is on box1, not here" in done.stderr
    assert "Starting operation" not in done.stderr


def test_moved_database_lets_the_roll_out_go_on(tmp_path: Path) -> None:
    done = roll_out(tmp_path, {"box1": HAS_DATABASE, "control1": HAS_DATABASE})
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("flags", "is_refused"), [((), True), (("--data", "deskfleet_drop=box9,former"), False)], ids=["", "drop"]
)
def test_host_with_live_sandboxes_is_left_out_only_when_that_is_said(
    tmp_path: Path, flags: tuple[str, ...], is_refused: bool
) -> None:
    database = {"DATABASE=": ["database yes", "live box1 3", "live former 1"]}
    done = roll_out(tmp_path, {"control1": database}, *flags)
    sentence = "control1: 1 sandbox of former would end, which is no longer a sandbox host of the site file"
    assert (done.returncode == 1) is is_refused
    assert (sentence in done.stderr) is is_refused
    assert ("Starting operation" in done.stderr) is not is_refused


@pytest.mark.parametrize(
    ("limit", "refused"), [((), "control1"), (("--limit", "@fake/box1"), "box1")], ids=["all", "box1"]
)
def test_fleet_never_gets_the_keys_of_another_one(
    tmp_path: Path, limit: tuple[str, ...], refused: str
) -> None:
    """Here because the secrets are made anew in each test, as when their file is missing."""
    look = [*LOOK[:-1], "addresses 10.77.0.12", "fleet_id f-before"]
    done = roll_out(tmp_path, {"control1": {"os-release": look}}, *limit)
    assert done.returncode == 1
    said = f"nothing was changed:\n{refused}: control1 runs the fleet f-before, but .local/secrets-fleet.yml"
    assert said in done.stderr
    assert "Starting operation" not in done.stderr


def test_host_that_leaves_its_sandboxes_is_refused_even_when_it_is_rolled_out_alone(tmp_path: Path) -> None:
    answers = {
        "studio1": {"os-release": [*LOOK, "had_sandboxes yes"]},
        "control1": {"DATABASE=": ["database yes", "live studio1 2", "live former 1"]},
    }
    done = roll_out(tmp_path, answers, "--limit", "@fake/studio1")
    assert done.returncode == 1
    assert "nothing was changed:\nstudio1: 2 sandboxes of studio1 would end" in done.stderr
    assert "of former" not in done.stderr
    assert "Starting operation" not in done.stderr


def test_former_control_host_stops_before_the_new_one_starts(tmp_path: Path) -> None:
    unit = "/etc/systemd/system/deskfleet-worker.service"
    files = [f"644 root root {'ab' * 32} {path}" for path in ("/etc/deskfleet/viewer.toml", unit)]
    done = roll_out(
        tmp_path,
        {
            "box1": {"/etc/deskfleet/viewer.toml": files[:1], unit: files[1:], "run/systemd/system": ["yes"]},
            "control1": HAS_DATABASE,
        },
        "--json",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    operations = json.loads(done.stdout)["results"]["operations"]
    by_name = {operation["name"]: set(operation["success"]) for operation in operations}
    order = list(by_name)
    assert by_name["Former viewer | Stop the worker"] == {"@fake/box1"}
    assert order.index("Former viewer | Stop the worker") < order.index("Viewer | Run the worker")
    assert not [name for name in order if name.startswith("Former OpenSandbox")]


def test_removal_takes_every_role_away_from_every_host_whatever_its_groups(tmp_path: Path) -> None:
    done = roll_out(tmp_path, {}, "--json", "--data", "deskfleet_state=absent")
    assert done.returncode == 0, done.stderr[-3000:]
    operations = json.loads(done.stdout)["results"]["operations"]
    everywhere = {f"@fake/{name}" for name in FLEET_HOSTS}
    reached: dict[str, set[str]] = {}
    for operation in operations:
        role = operation["name"].partition(" | ")[0]
        reached.setdefault(role, set()).update(operation["success"], operation["no_change"])
    roles = {role for role, hosts in reached.items() if hosts == everywhere}
    assert {f"{role} away" for role in ("Caddy", "Certificates", "Viewer", "Relay", "OpenSandbox", "Docker",
                                        "Desktops", "Foundation")} <= roles  # fmt: skip
