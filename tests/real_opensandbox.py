"""The real opensandbox-server of templates/opensandbox/requirements.txt, on a dockerd of the tests' own.

Installed once below the user's cache, with hashes. The sandboxes are tiny: busybox (2 MB) where a desktop
would be, and a stand-in for execd that does nothing, since the server itself never calls it.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.hosts.own_docker import OwnDocker
from tests.own_environment import own_environment
from tests.relay_process import free_port

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "templates" / "opensandbox" / "requirements.txt"
KEY = "a-key-of-the-tests"
CANNED_DESKTOP = "exec nc -ll -p 8080 -e /desktop.sh"
"""Entrypoint script of the tiny image: a stand-in for Xvnc with one fixed picture."""
CANNED_BLANK = CANNED_DESKTOP.replace("desktop", "blank")
TINY_IMAGE = "deskfleet-test/tiny:latest"
EXECD_IMAGE = "deskfleet-test/execd:latest"
APPLETS = ["sh", "tail", "sleep", "httpd", "head", "nc", "cat", "echo", "true", "false", "mkdir"]
START_SECONDS = 30


@dataclass
class RealOpenSandbox:
    """A server process that a test may kill, stop and start again; it keeps its port, HOME and settings.

    address: where it listens. Its daemon's own: then it runs in the daemon's network, behind its cable.
    """

    daemon: OwnDocker
    folder: Path
    port: int
    key: str = KEY
    address: str = "127.0.0.1"
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def publish_address(self) -> str:
        return self.daemon.address

    @property
    def pid(self) -> int:
        """Of the running server; raises RuntimeError when it is stopped."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        (self.folder / "config.toml").write_text(self._config())
        command = [
            str(own_environment("opensandbox", REQUIREMENTS) / "opensandbox-server"),
            "--config",
            str(self.folder / "config.toml"),
        ]
        is_beside_us = self.address == "127.0.0.1"
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command if is_beside_us else self.daemon.enter(*command),
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "DOCKER_HOST": self.daemon.host},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait_until_it_answers()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def pause(self) -> None:
        """The process stays, and answers nothing: connections are accepted by the kernel and then hang."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def containers(self) -> list[str]:
        """Ids of all sandboxes' containers, in any state."""
        return self.daemon.docker("ps", "-aq", "--filter", "label=opensandbox.io/id").stdout.split()

    def container_of(self, sandbox_id: str) -> str:
        found = self.daemon.docker(
            "ps", "-aq", "--filter", f"label=opensandbox.io/id={sandbox_id}"
        ).stdout.split()
        return found[0] if found else ""

    def remove_all(self) -> None:
        for container in self.containers():
            self.daemon.docker("rm", "--force", container, check=False)

    def _config(self) -> str:
        return f"""
[server]
host = "{self.address}"
port = {self.port}
api_key = "{self.key}"
[runtime]
type = "docker"
execd_image = "{EXECD_IMAGE}"
[store]
type = "sqlite"
path = "{self.folder}/opensandbox.db"
[docker]
network_mode = "bridge"
publish_host = "{self.publish_address}"
port_range_min = 40000
port_range_max = 40400
"""

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", timeout=1, trust_env=False).is_success:
                    return
            if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                raise RuntimeError(f"opensandbox-server did not start:\n{self._end_of_log()}")
            time.sleep(0.05)

    def _end_of_log(self) -> str:
        return "\n".join((self.folder / "server.log").read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def real_opensandbox(
    daemon: OwnDocker, folder: Path, *, address: str = "127.0.0.1"
) -> Iterator[RealOpenSandbox]:
    """A running server with the tiny images on `daemon`; all its sandboxes are removed at the end."""
    import_tiny_images(daemon)
    server = RealOpenSandbox(daemon, folder, port=free_port(), address=address)
    server.remove_all()
    server.start()
    try:
        yield server
    finally:
        server.kill()
        server.remove_all()


def import_tiny_images(daemon: OwnDocker) -> None:
    daemon.docker("image", "rm", "--force", TINY_IMAGE, EXECD_IMAGE, check=False)
    _import(
        daemon,
        TINY_IMAGE,
        {
            "greeting.rfb": rfb_greeting(asks_password=True),
            "desktop.rfb": rfb_screen(colours=2),
            "blank.rfb": rfb_screen(colours=1),
            "desktop.sh": canned_script("/desktop.rfb"),
            "blank.sh": canned_script("/blank.rfb"),
            "www/ping": PONG.encode(),
        },
    )
    # What the server copies out of the execd image; a real execd would serve commands and files as well.
    stand_in = {"execd": b"#!/bin/sh\nexec sleep 1000000\n", "bootstrap.sh": BOOTSTRAP}
    _import(daemon, EXECD_IMAGE, stand_in)


PONG = "pong"
BOOTSTRAP = b"""#!/bin/sh
[ -d /www ] && httpd -p 44772 -h /www
exec "$@"
"""
"""The stock client takes a sandbox for ready once execd answers its /ping; in the tiny image it is this."""


GREETING_ANSWER_BYTES = 12 + 1 + 16 + 1
"""Version, chosen security type, answer to the question, ClientInit: what a client says before the screen."""


def rfb_greeting(*, asks_password: bool) -> bytes:
    """Return what a server says up to the end of the log-in; it takes any password."""
    security = b"\x01\x02" + b"a-fixed-question" if asks_password else b"\x01\x01"
    return b"RFB 003.008\n" + security + bytes(4)


def rfb_screen(*, colours: int, side: int = 16) -> bytes:
    """Return ServerInit and one full update in Raw; a client reads it message by message."""
    pixel_format = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
    server_init = struct.pack(">HH", side, side) + pixel_format + struct.pack(">I", 4) + b"tiny"
    pixels = b"".join(bytes([90 * (number % colours), 40, 40, 0]) for number in range(side * side))
    return server_init + struct.pack(">BxHHHHHi", 0, 1, 0, 0, side, side, 0) + pixels


def canned_script(screen: str) -> bytes:
    return f"""#!/bin/sh
cat /greeting.rfb
head -c {GREETING_ANSWER_BYTES} > /dev/null
cat {screen}
exec cat > /dev/null
""".encode()


def _import(daemon: OwnDocker, image: str, files: dict[str, bytes]) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("busybox is not installed; install Debian's package busybox-static")
    subprocess.run(
        ["docker", "import", "--change", "ENV PATH=/bin", "-", image],
        input=_root_filesystem(Path(busybox), files), env=daemon.env, check=True, capture_output=True,
    )  # fmt: skip


def _root_filesystem(busybox: Path, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add_file(archive, "bin/busybox", busybox.read_bytes())
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, content in files.items():
            _add_file(archive, name, content)
    return buffer.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    archive.addfile(entry, io.BytesIO(content))
