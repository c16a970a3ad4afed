"""Deskfleet's images as the role makes them on a host, on a dockerd of the tests' own.

The daemon's data is kept between runs: an image is made again only when what it is made from has changed.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from typing_extensions import override

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
    packed = archive(upstream_execd=UPSTREAM_EXECD, sources=sources)
    # Python's own wants a filter from 3.12 on, and Debian 12's does not know one.
    subprocess.run(["tar", "-x", "-C", str(unpacked)], input=packed, check=True)
    return unpacked / "make-images"


def make_images(
    daemon: OwnDocker, program: Path, *arguments: str, registry: str = "", login: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        daemon.enter(str(program), *arguments),
        env={**daemon.env, "REGISTRY": registry, "EXECD": "", **(login or {})},
        text=True, capture_output=True, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Desktop:
    """A running container of one of the images, hardened as a sandbox is."""

    daemon: OwnDocker
    container: str

    @classmethod
    def start(cls, daemon: OwnDocker, image: str, *environment: str, program: Sequence[str] = ()) -> Desktop:
        """`program`: what the image's entrypoint is given to run beside the desktop."""
        settings = (f"--env={setting}" for setting in (f"VNC_PASSWORD={PASSWORD}", *environment))
        started = daemon.docker("run", "--detach", *HARDENING, *settings, image, *program)
        return cls(daemon, started.stdout.strip())

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

    def log(self) -> list[str]:
        """Lines of the container's own output, both streams."""
        logs = self.daemon.docker("logs", self.container)
        return (logs.stdout + logs.stderr).splitlines()

    def picture(self) -> Picture:
        return first_frame(self.address, 8080, PASSWORD)


@dataclass
class Page:
    """A page on the machine, where containers reach it; `languages`: what each who asked for it accepts."""

    url: str = ""
    languages: list[str] = field(default_factory=list)


@contextmanager
def served_page(daemon: OwnDocker) -> Iterator[Page]:
    page = Page()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/page?a=b&c=%27d%27":
                page.languages.append(self.headers["Accept-Language"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((daemon.gateway, 0), Answer) as server:
        page.url = f"http://{daemon.gateway}:{server.server_port}/page?a=b&c=%27d%27"
        threading.Thread(target=server.serve_forever).start()
        try:
            yield page
        finally:
            server.shutdown()


def eventually(holds: Callable[[], bool], *, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
