"""Deskfleet's images as the role makes them on a host, on a dockerd of the tests' own.

The daemon's data is kept between runs: an image is made again only when what it is made from has changed.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from roles.images import SOURCES, UPSTREAM_EXECD, archive
from tests.framebuffer import Picture, first_frame
from tests.hosts.own_docker import OwnDocker

PASSWORD = "secretpw"
# What opensandbox-server adds to every sandbox (its own defaults), so that no check passes with more rights.
HARDENING = (
    *(f"--cap-drop={name}" for name in (
        "AUDIT_WRITE", "MKNOD", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_TIME",
        "SYS_TTY_CONFIG",
    )),
    "--security-opt=no-new-privileges", "--pids-limit=4096", "--cpus=2", "--memory=2g",
)  # fmt: skip


def lay_out(store: Path, *, sources: Path = SOURCES) -> Path:
    """The files as the role puts them below `store`; returns where make-images lies."""
    unpacked = store / "sources"
    unpacked.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive(upstream_execd=UPSTREAM_EXECD, sources=sources))) as packed:
        packed.extractall(unpacked, filter="fully_trusted")
    return unpacked / "make-images"


def make_images(
    daemon: OwnDocker, program: Path, *arguments: str, registry: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        daemon.enter(str(program), *arguments),
        env={**daemon.env, "REGISTRY": registry, "EXECD": ""}, text=True, capture_output=True, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Desktop:
    """A running container of one of the images, hardened as a sandbox is."""

    daemon: OwnDocker
    container: str

    @classmethod
    def start(cls, daemon: OwnDocker, image: str, *environment: str) -> Desktop:
        settings = (f"--env={setting}" for setting in (f"VNC_PASSWORD={PASSWORD}", *environment))
        return cls(daemon, daemon.docker("run", "--detach", *HARDENING, *settings, image).stdout.strip())

    def remove(self) -> None:
        self.daemon.docker("rm", "--force", self.container, check=False)

    def inspect(self, template: str) -> str:
        return self.daemon.docker("inspect", "--format", template, self.container).stdout.strip()

    @property
    def address(self) -> str:
        return self.inspect("{{.NetworkSettings.IPAddress}}")

    def run(self, script: str) -> str:
        """Output of a shell script run inside, as the desktop's user and on its display."""
        session = "export DISPLAY=:1 DBUS_SESSION_BUS_ADDRESS=unix:path=$(echo /tmp/desktop.*)/bus\n"
        return self.daemon.docker("exec", self.container, "sh", "-c", session + script).stdout.strip()

    def picture(self) -> Picture:
        return first_frame(self.address, 8080, PASSWORD)


def eventually(holds: Callable[[], bool], *, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
