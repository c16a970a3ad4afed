"""`make fleet` without its machines: what it leaves for programs and people."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from inventory.site_file import load_site
from roles.up import write_environment
from tests.fleet import __main__ as make_fleet
from tests.fleet.operator import EXAMPLE, Operator
from tests.sites import SECRET_WORDS, fleet_secrets, fleet_site


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """His folder, as it lies in a checkout; the fleet's own example is his site."""
    example = load_site(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    found = Operator(tmp_path / make_fleet.FOLDER)
    found.prepare()
    found.write(found.own(example))
    return found


@pytest.mark.usefixtures("operator")
def test_fleet_env_is_private_and_a_shell_reads_it() -> None:
    write_environment(fleet_site().settings, fleet_secrets(), tenant="main", path=make_fleet.ENVIRONMENT)
    assert stat.S_IMODE(make_fleet.ENVIRONMENT.stat().st_mode) == 0o600
    line = f"set -a; . {make_fleet.ENVIRONMENT}; env"
    out = subprocess.run(["sh", "-ec", line], env={}, capture_output=True, text=True, check=True).stdout
    found = dict(entry.split("=", 1) for entry in out.splitlines())
    assert found["DESKFLEET_URL"] == "https://desks.example.com"
    assert (found["DESKFLEET_ADMIN_KEY"], found["DESKFLEET_KEY"]) == SECRET_WORDS[1:]
    assert found["DESKFLEET_TENANT"] == "main"


def test_operators_files_are_private_and_his_site_loads(operator: Operator) -> None:
    for path in (operator.key, operator.identity):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    site = load_site(operator.site_file)
    assert site.operators == (operator.recipient,)
    assert set(site.hosts) == {"edge1", "control1", "box1", "box2", "studio1"}


def test_summary_names_files_that_a_person_can_use_from_the_checkout(operator: Operator) -> None:
    site = load_site(operator.site_file)
    text = make_fleet.summary(
        site, operator, edge="10.77.0.11", link="https://desks.example.com/signin#token=t"
    )
    for path in (operator.key, operator.site_file, operator.identity):
        assert str(path.relative_to(Path.cwd())) in text
    assert "/signin#token=t" in text
    assert "--resolve desks.example.com:443:10.77.0.11 https://desks.example.com/healthz" in text
    assert f". {make_fleet.ENVIRONMENT};" in text


def test_down_takes_the_operators_files_and_the_environment_away(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    monkeypatch.setattr(make_fleet, "take_down", taken.append)
    make_fleet.ENVIRONMENT.write_text("DESKFLEET_TENANT=main\n")
    assert make_fleet.down() == 0
    assert taken == [make_fleet.DAEMON]
    assert not operator.folder.exists()
    assert not make_fleet.ENVIRONMENT.exists()
