"""What `make` types again by sudo, and whose the files are afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import as_root, bench, run
from tests.fleet import __main__ as make_fleet

PERSON, GROUP = 12_345, 12_346


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a person who isn't root has typed for him."""
    found: list[list[str]] = []

    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        found.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(os, "geteuid", lambda: PERSON)
    monkeypatch.setattr(subprocess, "run", answer)
    return found


def test_bench_is_typed_again_by_sudo_with_its_groups(typed: list[list[str]]) -> None:
    assert bench.main(["stream"]) == 3
    assert [command[0] for command in typed] == ["sudo"]
    assert typed[0][-3:] == ["-m", "tests.bench", "stream"]


def test_tests_are_typed_again_by_sudo(typed: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tests.run", "-x"])
    assert run.main() == 3
    assert typed[0][-3:] == ["-m", "tests.run", "-x"]


def test_wheel_is_built_as_the_person_who_typed_make_fleet(
    typed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_fleet, "wheel", lambda: typed.append(["wheel"]))
    assert make_fleet.main(["up"]) == make_fleet.main(["down"]) == 3
    assert [command[0] for command in typed] == ["wheel", "sudo", "sudo"]
    assert [command[-1] for command in typed[1:]] == ["up", "down"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_what_root_left_in_the_checkout_is_the_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    for folder in (checkout, elsewhere):
        folder.mkdir()
    os.chown(checkout, PERSON, GROUP)
    monkeypatch.setenv("SUDO_UID", str(PERSON))
    monkeypatch.setenv("SUDO_GID", str(GROUP))
    with as_root.given_back(checkout):
        (checkout / ".local" / "fleet").mkdir(parents=True)
        (checkout / ".local" / "fleet" / "ssh.key").touch(0o600)
        (checkout / "other").touch()
        os.chown(checkout / "other", 54_321, 54_321)
        (elsewhere / "root.s").touch()
        (checkout / "way").symlink_to(elsewhere)
    assert owner(checkout / ".local" / "fleet" / "ssh.key") == (PERSON, GROUP)
    assert owner(checkout / ".local") == owner(checkout / "way") == (PERSON, GROUP)
    assert owner(checkout / "other") == (54_321, 54_321)
    assert owner(elsewhere) == owner(elsewhere / "root.s") == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_checkout_of_somebody_else_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", str(PERSON))
    monkeypatch.setenv("SUDO_GID", str(GROUP))
    with as_root.given_back(tmp_path):
        (tmp_path / "file").touch()
    assert owner(tmp_path / "file") == (0, 0)


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid
