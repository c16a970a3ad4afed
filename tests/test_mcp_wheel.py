"""What the wheel brings to an agent's machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.built import built_wheel
from tests.test_mcp import PAGE
from viewer.mcp.skill import skill


@pytest.mark.real
def test_command_of_the_page_installs_the_program(tmp_path: Path) -> None:
    """Into an environment that has what the wheel needs already, so that no registry is asked."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    [packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    pip = tmp_path / "venv" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {pip.parent}/python -m pip "$@"\n')
    pip.chmod(0o755)
    shutil.copy(built_wheel(), tmp_path)
    [command] = [line for line in PAGE.read_text().splitlines() if line.startswith("pip install")]
    assert command.endswith('[mcp]"')
    environment = {"PATH": f"{pip.parent}:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "HOME": str(tmp_path)}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True, capture_output=True)
    printed = subprocess.run(
        ["deskfleet-mcp", "--skill"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert printed.stdout == skill()
