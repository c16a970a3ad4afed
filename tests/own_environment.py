"""Virtual environments apart from ours, for programs whose needs must not meet our own. Kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.hosts.own_docker import CACHE


def own_environment(name: str, requirements: Path) -> Path:
    """The `bin` of one with these requirements; made at the first call (~20 s), by one process at a time."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    venv = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (venv / ".complete").exists():
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            subprocess.run(
                [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
                 "--require-hashes", "-r", requirements],
                check=True, capture_output=True,
            )  # fmt: skip
            (venv / ".complete").touch()
    return venv / "bin"
