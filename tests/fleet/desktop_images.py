"""The desktops' images, made once on this machine and handed to hosts that would otherwise each build them.

They are made by the very program that the images role runs on a host, and carry its stamps; so the role finds
them up to date. That it builds them where they are missing is tested on the hosts of one-host sites.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from roles.images import LAYER_BELOW, source_hash
from tests.hosts.own_docker import CACHE, OwnDocker, own_dockerd
from tests.image_host import lay_out

PARTS = ("overlay2", "image")
DAEMON = "images"
"""The dockerd whose data the tests of the images keep, too."""


class ImagesNotMade(RuntimeError):
    """The build failed; what it said was shown."""


def docker_data() -> Path:
    """A folder with `image` and `overlay2` as in /var/lib/docker of a host that has the images of this
    checkout. Made if need be: minutes the first time, whose progress is shown."""
    wanted = hashlib.sha256("".join(source_hash(name) for name in LAYER_BELOW).encode()).hexdigest()[:12]
    folder = CACHE / f"desktop-images-{wanted}"
    if not folder.exists():
        with own_dockerd(DAEMON) as daemon:
            _make(daemon)
            _copy(daemon.data_root, folder)
    return folder


def _make(daemon: OwnDocker) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as store:
        program = lay_out(Path(store))
        command = daemon.enter(str(program), "build", "desktop", "chrome", "execd")
        env = {**daemon.env, "REGISTRY": "", "EXECD": ""}
        if subprocess.run(command, env=env, check=False).returncode:
            raise ImagesNotMade("the desktops' images could not be built; see above")


def _copy(data_root: Path, folder: Path) -> None:
    for stale in CACHE.glob("desktop-images-*"):
        shutil.rmtree(stale)
    half = folder.with_name(f".{folder.name}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    for part in PARTS:
        subprocess.run(["cp", "-a", str(data_root / part), str(half)], check=True)
    half.rename(folder)
