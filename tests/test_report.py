"""The words after a roll-out: which host did what, which was left out and why; by the real command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.state import StateStage

from roles.choice import ROLES, Chosen, problem_of_data
from roles.report import Report

# Each test is a run of pyinfra's own command line.
pytestmark = pytest.mark.real

CHECKOUT = Path(__file__).parent.parent

# Port 1 of loopback: nothing listens there, so the second host cannot be reached.
INVENTORY = """
fleet = [
    "@fake/well",
    ("dead", {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_strict_host_key_checking": "no"}),
    "@local",
]
"""
DEPLOY = """
from pyinfra.context import host, state
from pyinfra.operations import server
from roles.files import barrier
from roles.report import REPORT, is_possible

server.shell(name="Shell | Change it", commands=["true"])
barrier(name="Phase: changed")
if host.name == "@local":
    server.shell(name="Shell | Break it", commands=["false"])
    server.shell(name="Shell | Never", commands=["true"])
barrier(name="Phase: broken")
server.shell(name="Check | All", commands=["true"], _if=lambda: is_possible(state, "The check", needs=NEEDS))
REPORT.note("the certificate of dead ends in 12 days")
"""


def roll_out(
    tmp_path: Path, *more: str, needs: str = "[]", more_work: str = ""
) -> subprocess.CompletedProcess[str]:
    (tmp_path / "inventory.py").write_text(INVENTORY)
    deploy = DEPLOY.replace('"false"', '"true"') + more_work if more_work else DEPLOY
    (tmp_path / "deploy.py").write_text(deploy.replace("NEEDS", needs))
    command = [str(Path(sys.executable).parent / "pyinfra"), str(tmp_path / "inventory.py"),
               str(tmp_path / "deploy.py"), "-y", *more]  # fmt: skip
    return subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip


def test_each_host_gets_a_line_and_a_lost_one_fails_the_run(tmp_path: Path) -> None:
    done = roll_out(tmp_path)
    assert done.returncode == 1
    said = done.stderr[done.stderr.index("--> Hosts:") :].splitlines()
    assert said[1].split(maxsplit=1)[0] == "@fake/well"
    assert said[1].endswith("2 changes")
    assert "failed at 'Shell | Break it' after 1 change; the rest of it was left out" in said[2]
    assert said[3].strip().startswith("dead")
    assert "left out: it cannot be reached (" in said[3]
    assert said[3].endswith("the next run mends it")
    assert said[4] == "    Note: the certificate of dead ends in 12 days"


@pytest.mark.parametrize(
    ("only", "line"),
    [("@local", "failed at 'Shell | Break it' after 1 change"), ("dead", "left out: it cannot be reached (")],
)
def test_each_host_gets_a_line_when_none_is_left(tmp_path: Path, only: str, line: str) -> None:
    done = roll_out(tmp_path, "--limit", only)
    assert done.returncode == 1
    said = done.stderr[done.stderr.index("--> Hosts:") :].splitlines()
    assert said[1].startswith(f"    {only}  {line}")


def test_host_that_is_lost_on_the_way_failed_and_its_notes_are_not_true() -> None:
    """The firewall comes in again by a new connection, and none comes about."""
    host = Mock(data={})
    host.name = "box1"
    state: Any = SimpleNamespace(
        current_stage=StateStage.Execute, inventory=[host], failed_hosts={host}, ops={host: {}},
        is_host_in_limit=lambda _: True,
        get_op_meta=lambda _: SimpleNamespace(names={"Firewall | Load the rules"}),
    )  # fmt: skip
    report: Any = Report()
    report.note("desktop a on box1 runs kasmvnc", once_done="box1")
    report.note("desktop b on box2 runs kasmvnc", once_done="box2")
    report.host_connect_error(state, host, ConnectError("timed out"))
    report.operation_host_error(state, host, "1")
    assert report.lines(state)[1:] == [
        "    box1  failed at 'Firewall | Load the rules' after no changes; the rest of it was left out",
        "    Note: desktop b on box2 runs kasmvnc",
    ]


@pytest.mark.parametrize("missing", ["dead", "@local"])
def test_phase_that_needs_a_lost_host_is_left_out_and_named(tmp_path: Path, missing: str) -> None:
    done = roll_out(tmp_path, needs=f"['@fake/well', '{missing}']")
    assert f"Note: The check was left out, because it needs {missing}" in done.stderr
    assert "2 changes" not in done.stderr


def test_operation_that_raises_fails_its_host_alone(tmp_path: Path) -> None:
    """As a fact does whose host has gone."""
    broken = """
from pyinfra.api.operation import operation


@operation()
def raising():
    if host.name == "@local" and state.is_executing:
        raise ConnectionResetError("the host went away")
    return
    yield

raising(name="Ask the host")
server.shell(name="Shell | After it", commands=["true"])
"""
    done = roll_out(tmp_path, "--json", more_work=broken)
    assert done.returncode == 1
    assert "failed at 'Ask the host' after 4 changes; the rest of it was left out" in done.stderr
    assert "Traceback" not in done.stderr
    results = {step["name"]: step for step in json.loads(done.stdout)["results"]["operations"]}
    assert results["Shell | After it"]["success"] == ["@fake/well"]
    assert results["Ask the host"]["error"] == ["@local"]


def test_json_stays_json(tmp_path: Path) -> None:
    done = roll_out(tmp_path, "--json")
    assert json.loads(done.stdout)["results"]["totals"]["hosts"]
    assert "--> Hosts:" in done.stderr


def test_dry_run_reports_no_outcome(tmp_path: Path) -> None:
    (tmp_path / "inventory.py").write_text('fleet = ["@fake/well"]\n')
    (tmp_path / "deploy.py").write_text(DEPLOY.replace("NEEDS", "[]"))
    pyinfra = str(Path(sys.executable).parent / "pyinfra")
    files = [str(tmp_path / "inventory.py"), str(tmp_path / "deploy.py")]
    done = subprocess.run(
        [pyinfra, *files, "--dry"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert "--> Hosts:" not in done.stderr


def test_no_choice_is_all_roles() -> None:
    assert all(role in Chosen(None) for role in ROLES)


def test_chosen_roles_are_the_only_ones() -> None:
    chosen = Chosen("caddy, viewer")
    assert [role for role in ROLES if role in chosen] == ["viewer", "caddy"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, None),
        ({"berlin": "x", "deskfleet_state": "absent", "deskfleet_drop": "box1"}, None),
        ({"deskfleet_replace": "f-1"}, None),
        ({"deskfleet_role": "caddy"}, "deskfleet_role: unknown key; did you mean 'deskfleet_roles'?"),
        ({"deskflet_state": "absent"}, "deskflet_state: unknown key; did you mean 'deskfleet_state'?"),
        ({"deskfleet_state": "abset"}, "deskfleet_state=abset: unknown value; there are: present, absent"),
        (
            {"deskfleet_state": "absent", "deskfleet_roles": "caddy"},
            "deskfleet_state=absent takes everything away; leave out deskfleet_roles",
        ),
    ],
)
def test_misspelt_data_is_refused(data: dict[str, object], problem: str | None) -> None:
    assert problem_of_data(data) == (problem and f"--data {problem}")


def test_all_that_the_roll_out_reads_can_be_said() -> None:
    sources = [CHECKOUT / "deploy.py", *(CHECKOUT / "roles").glob("*.py")]
    read = {
        key for path in sources for key in re.findall(r'data\.get\(\s*"(deskfleet_\w+)"', path.read_text())
    }
    assert read >= {"deskfleet_drop", "deskfleet_replace", "deskfleet_roles"}
    assert {key: problem_of_data({key: "absent"}) for key in read} == dict.fromkeys(read)


def test_misspelt_role_is_refused_with_the_nearest() -> None:
    with pytest.raises(PyinfraError, match=r"unknown role 'cady'; did you mean 'caddy'\?"):
        Chosen("cady")
