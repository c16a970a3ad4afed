"""One description of a program, rendered for both supervisors; and when it is restarted, reloaded, or left
alone."""

from __future__ import annotations

import configparser
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from roles.facts import HasSystemd, Paths, StoppedUnits, UnitState
from roles.facts import Unit as UnitFact
from roles.units import Unit, keep_running, no_unit, run, supervisor_program, systemd_unit
from tests.role_runner import RunRole

EDGE = Unit(
    name="deskfleet-edge",
    description="Edge",
    command=("/opt/edge", "run", "--say", 'a "50 %" $HOME'),
    user="deskfleet-edge",
    environment={"HOME": "/var/lib/edge", "NOTE": 'one "two" 100%'},
    capabilities=("net_bind_service",),
    after=("docker.service",),
    reload="/opt/edge reload",
    ready="[ -S /run/edge.sock ]",
    ready_seconds=3,
)
PLAIN = Unit(name="deskfleet-plain", description="Plain", command=("/opt/plain",), user="deskfleet-plain")

SYSTEMD = """\
[Unit]
Description=Edge
After=network-online.target docker.service
StartLimitIntervalSec=0

[Service]
ExecStart="/opt/edge" "run" "--say" "a \\"50 %%\\" $$HOME"
ExecReload=/bin/sh -c "/opt/edge reload"
User=deskfleet-edge
AmbientCapabilities=CAP_NET_BIND_SERVICE
WorkingDirectory=/
Environment="HOME=/var/lib/edge"
Environment="NOTE=one \\"two\\" 100%%"
# Changes with everything that the program reads at its start.
Environment=DESKFLEET_STAMP=s1
Restart=always
RestartSec=1
TimeoutStopSec=10

[Install]
WantedBy=multi-user.target
"""


def conf_of(unit: Unit, *, systemd: bool) -> str:
    return (
        f"/etc/systemd/system/{unit.name}.service"
        if systemd
        else f"/etc/deskfleet/supervisor/{unit.name}.conf"
    )


def host_that(
    *, systemd: bool, config: str = "", started: str = "", loaded: str = "", exists: bool = True
) -> dict[Any, Any]:
    def paths(paths: list[str]) -> dict[str, object]:
        return {}

    return {HasSystemd: systemd, UnitFact: UnitState(config, started, loaded), Paths: paths}


def text_hash(unit: Unit, stamp: str, *, systemd: bool) -> str:
    text = systemd_unit(unit, stamp) if systemd else supervisor_program(unit, stamp)
    return hashlib.sha256(text.encode()).hexdigest()


def test_systemd_unit_as_a_whole() -> None:
    assert systemd_unit(EDGE, "s1") == SYSTEMD


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_accepts_its_unit(tmp_path: Path) -> None:
    unit = PLAIN.model_copy(update={"command": ("/bin/true", "a $b %"), "user": "root"})
    file = tmp_path / "deskfleet-plain.service"
    file.write_text(systemd_unit(unit, "s1"))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert str(file) not in done.stderr, done.stderr


def test_supervisor_program_carries_the_same() -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=None)
    parser.read_string(supervisor_program(PLAIN, "s1"))
    program = dict(parser["program:deskfleet-plain"])
    assert program["command"] == '"/opt/plain"'
    assert program["user"] == "deskfleet-plain"
    assert program["environment"] == 'DESKFLEET_STAMP="s1"'
    assert (program["autostart"], program["autorestart"], program["killasgroup"]) == ("true",) * 3


def test_supervisor_hands_capabilities_over_through_setpriv() -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(supervisor_program(EDGE, "s1"))
    program = parser["program:deskfleet-edge"]
    assert program["user"] == "root"
    assert program["command"].startswith(
        '"/usr/bin/setpriv" "--reuid=deskfleet-edge" "--regid=deskfleet-edge"'
    )
    assert program["command"].endswith('"a \\"50 %%\\" $HOME"')


@pytest.mark.parametrize("systemd", [True, False])
def test_new_unit_is_written_started_and_remembered(run_role: RunRole, systemd: bool) -> None:
    ((_, commands),) = run_role(
        run, unit=PLAIN, restart_on="s1", facts=host_that(systemd=systemd), name="Run plain"
    )
    path, stamp = conf_of(PLAIN, systemd=systemd), text_hash(PLAIN, "s1", systemd=systemd)
    start = (
        "systemctl daemon-reload && systemctl enable --quiet deskfleet-plain"
        " && systemctl restart deskfleet-plain"
        if systemd
        else "supervisorctl -c /etc/deskfleet/supervisord.conf reread >/dev/null"
        " && supervisorctl -c /etc/deskfleet/supervisord.conf update deskfleet-plain"
    )
    remembered = "/var/lib/deskfleet/stamps/deskfleet-plain"
    assert commands == [
        f"install -m 600 /dev/null {path}.new",
        ("put", f"{path}.new", (systemd_unit if systemd else supervisor_program)(PLAIN, "s1")),
        f"chown root:root {path}.new && chmod 644 {path}.new && mv -fT {path}.new {path}",
        f"rm -f {remembered}.started {remembered}.loaded && {start}",
        f"echo {stamp} > {remembered}.started; echo '' > {remembered}.loaded",
    ]


@pytest.mark.parametrize("systemd", [True, False])
def test_unchanged_unit_is_left_alone(run_role: RunRole, systemd: bool) -> None:
    known = text_hash(EDGE, "s1", systemd=systemd)
    facts = host_that(systemd=systemd, config=known, started=known, loaded="r1")
    assert run_role(run, unit=EDGE, restart_on="s1", reload_on="r1", facts=facts, name="Run") == [("Run", [])]


@pytest.mark.parametrize("systemd", [True, False])
def test_changed_configuration_is_reloaded_not_restarted(run_role: RunRole, systemd: bool) -> None:
    known = text_hash(EDGE, "s1", systemd=systemd)
    facts = host_that(systemd=systemd, config=known, started=known, loaded="r1")
    ((_, commands),) = run_role(run, unit=EDGE, restart_on="s1", reload_on="r2", facts=facts, name="Run")
    assert commands[0] == "rm -f /var/lib/deskfleet/stamps/deskfleet-edge.loaded && /opt/edge reload"
    assert commands[1].endswith("echo 'r2' > /var/lib/deskfleet/stamps/deskfleet-edge.loaded")
    assert len(commands) == 2


@pytest.mark.parametrize("systemd", [True, False])
def test_restart_that_a_died_roll_out_owes_is_made_up_for(run_role: RunRole, systemd: bool) -> None:
    written = text_hash(PLAIN, "s2", systemd=systemd)
    facts = host_that(systemd=systemd, config=written, started=text_hash(PLAIN, "s1", systemd=systemd))
    ((_, commands),) = run_role(run, unit=PLAIN, restart_on="s2", facts=facts, name="Run")
    assert len(commands) == 2
    assert ("restart" if systemd else "update") in commands[0]
    assert written in commands[1]


@pytest.mark.parametrize("ends", ["restart", "reload"])
def test_former_value_is_in_force_again_after_a_roll_out_that_died(
    run_role: RunRole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The change was read by the program, then the roll-out died; the operator takes the change back."""
    monkeypatch.setattr("roles.units.STATE", str(tmp_path))
    monkeypatch.setattr("roles.facts.STATE", str(tmp_path))
    unit = EDGE.model_copy(update={"reload": "false"})
    file, stamps = tmp_path / "unit", tmp_path / "stamps"
    stamps.mkdir()
    file.write_text(systemd_unit(unit, "s1"))
    (stamps / f"{unit.name}.started").write_text(text_hash(unit, "s1", systemd=True))
    (stamps / f"{unit.name}.loaded").write_text("r1")

    def owed(restart_on: str, reload_on: str) -> list[str]:
        look = UnitFact().command(path=str(file), unit=unit.name)
        known = UnitFact().process(_sh(look).stdout.splitlines())
        facts = {HasSystemd: True, UnitFact: known, Paths: dict[str, object]()}
        ((_, commands),) = run_role(
            run, unit=unit, restart_on=restart_on, reload_on=reload_on, facts=facts, name="Run"
        )
        what = "systemctl restart" if ends == "restart" else "false"
        return [command for command in commands if what in command]

    (dies,) = owed("s2", "r1") if ends == "restart" else owed("s1", "r2")
    assert _sh(f"systemctl() {{ false; }}; {dies}").returncode
    assert len(owed("s1", "r1")) == 1


def _sh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


def test_start_waits_until_the_program_can_be_used(run_role: RunRole) -> None:
    ((_, commands),) = run_role(run, unit=EDGE, restart_on="s1", facts=host_that(systemd=True), name="Run")
    assert "if [ -S /run/edge.sock ]; then exit 0" in commands[3]


@pytest.mark.parametrize("systemd", [True, False])
def test_stopped_unit_is_started_again(run_role: RunRole, systemd: bool) -> None:
    facts = {HasSystemd: systemd, StoppedUnits: ["deskfleet-plain"]}
    start = "systemctl start" if systemd else "supervisorctl -c /etc/deskfleet/supervisord.conf start"
    steps = run_role(keep_running, units=(PLAIN, EDGE), facts=facts, name="Keep")
    assert steps == [("Keep", [f"{start} deskfleet-plain"])]


def test_running_units_are_left_alone(run_role: RunRole) -> None:
    facts = {HasSystemd: False, StoppedUnits: list[str]()}
    assert run_role(keep_running, units=(PLAIN, EDGE), facts=facts, name="Keep") == [("Keep", [])]


def test_unit_that_was_never_there_needs_no_removal(run_role: RunRole) -> None:
    facts = host_that(systemd=False)
    assert run_role(no_unit, unit="deskfleet-plain", facts=facts, name="Stop") == [("Stop", [])]
