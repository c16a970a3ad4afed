"""Our own wheel: built on the operator's machine when its sources changed, installed where viewer, relay
or hostwatch run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

from pyinfra.api.deploy import deploy
from pyinfra.api.exceptions import PyinfraError

from roles.files import absent, sha256
from roles.python import environment, environment_of

HOME = "/opt/deskfleet/viewer"
PYTHON = f"{HOME}/current/bin/python"

_ROOT = Path(__file__).resolve().parent.parent
_BUILT = _ROOT / ".local" / "dist"
_REQUIREMENTS = _ROOT / "templates" / "viewer" / "requirements.txt"
_NOT_SOURCES = {"node_modules", "__pycache__", "build"}


class WheelNotBuilt(PyinfraError):
    """The build failed; the text is the end of what it said."""


@cache
def sources() -> str:
    """A hash over all that the wheel is made from."""
    files = sorted(
        path
        for path in (_ROOT / "viewer").rglob("*")
        if path.is_file() and not _NOT_SOURCES & set(path.relative_to(_ROOT).parts)
    )
    parts = [part for path in files for part in (str(path.relative_to(_ROOT)), path.read_bytes())]
    return sha256((_ROOT / "pyproject.toml").read_bytes(), *parts)


def identity() -> str:
    """Changes with everything that is installed."""
    return environment_of(_REQUIREMENTS.read_text(), sources())


# pyinfra prepares all hosts at once, in threads of its own kind.
_turn = threading.Lock()


def wheel() -> Path:
    """The wheel of these sources, built once."""
    with _turn:
        return _built()


@cache
def _built() -> Path:
    directory = _BUILT / sources()[:12]
    if not (directory / "complete").exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(directory),
            str(_ROOT),
        ]
        # npm brings its own list of authorities; a network may have one more, which the machine knows.
        variables = {
            "NODE_EXTRA_CA_CERTS": "/etc/ssl/certs/ca-certificates.crt",
            "NODE_DISABLE_COMPILE_CACHE": "1",
            "npm_config_cache": str(_BUILT.parent / "npm"),
            **os.environ,
        }
        print("  Building the viewer and its pages, with npm's packages …", file=sys.stderr, flush=True)
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WheelNotBuilt(f"building the viewer failed:\n{(done.stdout + done.stderr)[-3000:]}")
        (directory / "complete").touch()
    return next(directory.glob("*.whl"))


@deploy("Viewer wheel")
def viewer_wheel() -> None:
    requirements = _REQUIREMENTS.read_text()
    environment(
        name="Install viewer and relay",
        home=HOME,
        requirements=requirements,
        wheel=wheel(),
        sources=sources(),
    )


@deploy("Viewer wheel away")
def no_viewer_wheel() -> None:
    absent(name="Remove viewer and relay", paths=(HOME,))
