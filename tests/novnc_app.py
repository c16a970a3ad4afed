"""noVNC's whole app (`vnc.html`), as Debian ships it: unpacked below the user's cache, never installed."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.hosts.own_docker import CACHE

PACKAGE = "novnc"
_APP = Path("usr/share/novnc")


class NoNovncApp(Exception):
    """The app cannot be had here; the message is the reason, for whoever reads the bench."""


def novnc_app() -> Path:
    """The folder that websockify serves with `--web`; raises NoNovncApp."""
    kept = CACHE / "novnc-app"
    if not (kept / _APP / "vnc.html").is_file():
        with tempfile.TemporaryDirectory(prefix="novnc-app-") as scratch:
            _run(scratch, "apt-get", "download", PACKAGE)
            for package in Path(scratch).glob("*.deb"):
                _run(scratch, "dpkg", "-x", str(package), str(kept))
    return kept / _APP


def _run(folder: str, *command: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise NoNovncApp(f"Debian's package {PACKAGE} cannot be had: {said[-1]}") from error
