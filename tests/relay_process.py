"""A relay as its own process, as it runs on a host, and desktops for it to reach."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from cryptography.fernet import Fernet
from pydantic import SecretStr

from tests.hosts.own_docker import OwnDocker
from viewer.grants import GRANT_HEADER, AnyTarget, Grant, PublishedPort, seal_grant
from viewer.model import Lease, LeaseHolder, LeaseKind, utcnow
from viewer.relay_client import RelayClient

PUBLISH_ADDRESS = "127.0.66.1"


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on. Below those that sites give to sandboxes and that the kernel gives to
    outgoing connections: one of another test would take it before it is used."""
    while True:
        port = 20000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind((address, port))
            return port


def wait_for_listener(address: str, port: int, *, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on {address}:{port}")
        time.sleep(0.05)


def wait_until_answers(url: str, process: subprocess.Popen[bytes], *, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            with urlopen(url, timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.05)
    raise TimeoutError(f"{url} does not answer")


def held_by(
    holder: str | None,
    number: int,
    *,
    kind: LeaseKind = LeaseKind.PERSON,
    session_id: str = "s1",
) -> Lease:
    """The lease of a session, held by somebody of that id (`Principal.holder`), or by nobody."""
    who = LeaseHolder(kind=kind, id=holder, name=holder.title()) if holder else None
    return Lease(session_id=session_id, number=number, holder=who)


@dataclass
class RelayProcess:
    """A running relay and the key its control plane would have."""

    process: subprocess.Popen[bytes]
    address: str
    desktops_dir: Path
    log: Path
    key: bytes = field(repr=False)
    run: Callable[[], subprocess.Popen[bytes]] = field(repr=False)
    """Starts one more process of the same settings."""

    def kill(self) -> None:
        """Nothing is said to anybody."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """After `kill`, at the same address."""
        self.process = self.run()
        wait_until_answers(f"{self.url}/healthz", self.process)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def grant(
        self,
        purpose: str = "stream",
        *,
        session_id: str = "s1",
        tenant_id: str = "t1",
        target: AnyTarget | int | None = None,
        password: str | None = None,
        seconds: float = 60,
        may_control: bool = True,
        key: bytes | None = None,
        **more: Any,
    ) -> dict[str, str]:
        """Return the header that carries such a grant; an int target is a published port."""
        grant = Grant.model_validate(
            {
                "purpose": purpose,
                "session_id": session_id,
                "tenant_id": tenant_id,
                "principal": "key:test",
                "may_control": may_control,
                "target": PublishedPort(port=target) if isinstance(target, int) else target,
                "vnc_password": SecretStr(password) if password is not None else None,
                "expires_at": utcnow() + timedelta(seconds=seconds),
                **more,
            }
        )
        return {GRANT_HEADER: seal_grant(grant, key or self.key)}

    def client(self) -> RelayClient:
        """As the control plane has it."""
        return RelayClient("here", url=self.url, key=self.key)

    def give(self, desktop: str, *, tenant: str = "t1") -> None:
        """As the deploy does: from now on that desktop is this tenant's, and TigerVNC's."""
        file = self.desktops_dir.parent / "secrets" / f"{desktop}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"backend": "tigervnc", "tenant": tenant}))

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_relay(
    directory: Path,
    *,
    soft_open_files: int | None = None,
    inside: OwnDocker | None = None,
    program: str = "viewer.relay.main",
    key: bytes | None = None,
    **settings: float | str,
) -> Iterator[RelayProcess]:
    """Start a relay with these settings beside the usual ones; it gets SIGTERM at the end. `inside`: in that
    daemon's network, behind its cable."""
    key = key or Fernet.generate_key()
    (directory / "relay.key").write_bytes(key)
    address = f"{inside.address if inside else '127.0.0.1'}:{free_port()}"
    values: dict[str, str | float] = {
        "listen": address,
        "key_file": str(directory / "relay.key"),
        "publish_address": PUBLISH_ADDRESS,
        "desktops_dir": str(directory / "desktops"),
        "desktop_secrets_dir": str(directory / "secrets"),
        # Hardly any test has a control plane that the relay would hear of.
        "supervision_seconds": 3600.0,
        **settings,
    }
    path = directory / "relay.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    log = directory / "relay.log"
    limit = ["prlimit", f"--nofile={soft_open_files}:"] if soft_open_files else []
    command = [*limit, sys.executable, "-W", "error", "-m", program]
    log.write_bytes(b"")

    def run() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                inside.enter(*command) if inside else command,
                env={**os.environ, "DESKFLEET_RELAY_SETTINGS": str(path)},
                stderr=output,
            )

    running = RelayProcess(run(), address, directory / "desktops", log, key, run)
    try:
        wait_until_answers(f"http://{address}/healthz", running.process)
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        try:
            running.process.wait(5)
        except subprocess.TimeoutExpired:
            running.kill()


@dataclass
class Xvnc:
    process: subprocess.Popen[bytes]
    display: str
    port: int
    socket_path: Path | None


@contextmanager
def running_xvnc(
    directory: Path,
    *,
    password: str | None = None,
    unix: Path | None = None,
    geometry: str = "640x480",
    pattern: bool = False,
    flags: Sequence[str] = (),
) -> Iterator[Xvnc]:
    """A real Xtigervnc on the publish address or on a unix socket, its screen black or (`pattern`) the old
    stipple of two colours. Nothing draws on it by itself. flags: further ones of its own."""
    port = 0 if unix else free_port(PUBLISH_ADDRESS)
    security = ["-SecurityTypes", "None"]
    if password is not None:
        file = directory / "xvnc.passwd"
        file.write_bytes(
            subprocess.run(
                ["tigervncpasswd", "-f"], input=password.encode(), capture_output=True, check=True
            ).stdout
        )
        security = ["-SecurityTypes", "VncAuth", "-PasswordFile", str(file)]
    where = ["-rfbunixpath", str(unix), "-rfbport", "-1"] if unix else ["-rfbport", str(port)]
    if not unix:
        where += ["-interface", PUBLISH_ADDRESS]
    reading, writing = os.pipe()
    with (directory / "xvnc.log").open("wb") as output:
        process = subprocess.Popen(
            ["Xtigervnc", "-displayfd", str(writing), "-geometry", geometry, "-depth", "24", "-ac",
             "-nocursor", "-retro" if pattern else "-br", "-AlwaysShared", "-UseBlacklist=0",
             *security, *where, *flags],
            stdout=output, stderr=output, pass_fds=[writing],
        )  # fmt: skip
    os.close(writing)
    try:
        with os.fdopen(reading) as answer:
            number = answer.readline().strip()
        if not number:
            raise RuntimeError((directory / "xvnc.log").read_text())
        yield Xvnc(process, f":{number}", port, unix)
    finally:
        process.kill()
        process.wait()
