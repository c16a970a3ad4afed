"""A fleet for the worker's tests: a real database, the real worker as a process, real hosts behind it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.fernet import Fernet

from tests.real_opensandbox import (
    CANNED_BLANK,
    CANNED_DESKTOP,
    TINY_IMAGE,
    RealOpenSandbox,
    rfb_greeting,
    rfb_screen,
)
from tests.relay_process import RelayProcess
from viewer.bootstrap import prepare_database
from viewer.credentials import open_secret
from viewer.host_links import links_of
from viewer.model import Display, Session, Status
from viewer.relay_client import relays_of
from viewer.settings import load_settings
from viewer.store import NewSession, Store, TenantStore

Toml = dict[str, object]
Others = Mapping[str, tuple[RealOpenSandbox, RelayProcess]]


class Fleet:
    """One database with its settings. `start` starts a worker; all else goes through the real store.

    others: further sandbox hosts by name, each with a server and a relay of its own.
    """

    def __init__(
        self,
        folder: Path,
        server: RealOpenSandbox,
        relay: RelayProcess,
        *,
        url: str = "",
        others: Others | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.server = server
        self.fleet_id = f"f-{secrets.token_hex(4)}"
        self.settings_file = folder / "viewer.toml"
        self.log = folder / "worker.log"
        self._workers: list[subprocess.Popen[bytes]] = []
        (folder / "viewer.key").write_bytes(Fernet.generate_key())
        self._values = self._toml(settings)
        self._here = self._host("here", url or server.url, server.key, relay)
        self.have(others or {})
        self.settings = load_settings(self.settings_file)
        prepare_database(self.settings)
        self.store = Store(self.settings.database)
        self.main: TenantStore = self.store.tenant("main")
        self._relays = relays_of(self.settings)
        self.link = next(links_of(self.settings, self._relays))
        """The test's own way to the host, beside the worker's."""

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self.link.close()
        for one in self._relays.values():
            one.close()
        self.store.close()
        self.server.remove_all()

    # --- the worker --------------------------------------------------------------------------------

    def start(self, log: Path | None = None) -> subprocess.Popen[bytes]:
        """`log`: where it writes; None: where the others do."""
        with (log or self.log).open("ab") as output:
            worker = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "viewer.worker"],
                env={**os.environ, "DESKFLEET_SETTINGS": str(self.settings_file)},
                stderr=output,
            )
        self._workers.append(worker)
        return worker

    def kill(self) -> None:
        """kill -9 of the newest worker."""
        self._workers[-1].kill()
        self._workers[-1].wait()

    def stop(self) -> int:
        """SIGTERM to the newest worker; its exit code."""
        self._workers[-1].send_signal(signal.SIGTERM)
        return self._workers[-1].wait(timeout=15)

    # --- the table ---------------------------------------------------------------------------------

    def create(self, image: str = "tiny", *, ttl: int = 3600, tenant: str = "main", **more: Any) -> Session:
        return self.store.tenant(tenant).create(self.new(image, ttl=ttl, **more)).session

    def new(self, image: str = "tiny", *, ttl: int = 3600, **more: Any) -> NewSession:
        """A create of this image; it reserves nothing but a desktop's place unless it says so."""
        found = self.settings.image(image)
        display = found.display if found else Display.RFB
        values = {"resolution": "1280x800", "created_by": "key", **more}
        return NewSession(image=image, display=display, ttl_seconds=ttl, **values)

    def get(self, session: Session) -> Session:
        return self.main.get(session.id)

    def wait_for(self, session: Session, *statuses: Status, seconds: float = 20) -> Session:
        """Return the row as soon as it has one of these statuses."""
        row = self.wait_until(
            session, lambda row: row.status in statuses or row.status.is_terminal, seconds=seconds
        )
        assert row.status in statuses, f"{row.status}: {row.error_message}\n{self.last_log()}"
        return row

    def wait_until(
        self, session: Session, fits: Callable[[Session], bool], *, seconds: float = 20
    ) -> Session:
        deadline = time.monotonic() + seconds
        while not fits(row := self.get(session)):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{row.status} ({row.status_reason}) after {seconds} s\n{self.last_log()}"
                )
            self.store.wait_for_change(0.1)
        return row

    def vnc_password_of(self, session: Session) -> str:
        sealed = self.get(session).vnc_password_sealed
        return open_secret(sealed or "", self.settings.secret_key)

    def containers(self) -> list[str]:
        """Sandbox ids of this fleet's containers, in any state."""
        listed = self.server.daemon.docker(
            "ps", "-a", "--filter", f"label=deskfleet.fleet={self.fleet_id}",
            "--format", '{{.Label "opensandbox.io/id"}}',
        )  # fmt: skip
        return listed.stdout.split()

    def wait_for_containers(self, wanted: list[str], *, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while sorted(found := self.containers()) != sorted(wanted):
            if time.monotonic() > deadline:
                raise AssertionError(f"containers {found}, wanted {wanted}\n{self.last_log()}")
            time.sleep(0.1)

    def last_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    # --- its settings ------------------------------------------------------------------------------

    def have(self, others: Others) -> None:
        """Write settings that name `here` and these other hosts; a worker that runs does not notice."""
        hosts = [
            self._here,
            *(self._host(name, one.url, one.key, its) for name, (one, its) in others.items()),
        ]
        self._write_settings({**self._values, "hosts": hosts})

    def set(self, **changed: object) -> None:
        """Other settings for the next worker."""
        self._values = {**self._values, **changed}
        self.have({})

    def have_external(self, name: str, server: RealOpenSandbox) -> None:
        """Write settings that name `here` and this server as one that is not ours."""
        key_file = self.folder / f"opensandbox-{name}.key"
        key_file.write_text(server.key)
        host = {
            "name": name, "groups": ["sandboxes"], "external": True, "opensandbox_url": server.url,
            "opensandbox_key_file": str(key_file), "max_desktops": 8,
        }  # fmt: skip
        self._write_settings({**self._values, "hosts": [self._here, host]})

    def _host(self, name: str, url: str, key: str, relay: RelayProcess) -> Toml:
        """Its entry in the settings; its keys as files. `here` has the plain names."""
        suffix = "" if name == "here" else f"-{name}"
        (self.folder / f"opensandbox{suffix}.key").write_text(key)
        (self.folder / f"relay{suffix}.key").write_bytes(relay.key)
        return {
            "name": name, "groups": ["sandboxes", "desktops"], "opensandbox_url": url,
            "opensandbox_key_file": str(self.folder / f"opensandbox{suffix}.key"),
            "relay_url": relay.url,
            "relay_key_file": str(self.folder / f"relay{suffix}.key"), "max_desktops": self._max_desktops,
            "max_creates": self._max_creates,
            **({"hostwatch_url": self._hostwatch_url} if self._hostwatch_url and not suffix else {}),
            **({"adopt": self._adopt} if self._adopt and not suffix else {}),
        }  # fmt: skip

    def _toml(self, changed: Toml) -> Toml:
        self._max_desktops = changed.pop("max_desktops", 8)
        self._max_creates = changed.pop("max_creates", 3)
        self._hostwatch_url = changed.pop("hostwatch_url", None)
        self._adopt = changed.pop("adopt", None)
        return {
            "fleet_id": self.fleet_id,
            "origins": ["http://localhost:8088"],
            "listen": "127.0.0.1:8060",
            "database": str(self.folder / "deskfleet.db"),
            "secret_key_file": str(self.folder / "viewer.key"),
            "default_image": "tiny",
            "default_resolution": "1280x800",
            "default_ttl_seconds": 3600,
            "max_ttl_seconds": 43200,
            "max_lifetime_seconds": 86400,
            "create_deadline_seconds": 30,
            "tenants": [{"name": "main"}],
            "images": [
                _image("tiny", CANNED_DESKTOP),
                _image("blank", CANNED_BLANK),
                _image("shell", "sleep 1000", display="none"),
                _image("broken", "echo the screen is on fire; exit 3"),
                _image("missing", "true", uri="deskfleet-test/missing:1"),
                _image("greedy", "true", cpu="9999"),
            ],
            **changed,
        }

    def _write_settings(self, values: Toml) -> None:
        self.settings_file.write_text(
            "".join(f"{key} = {_toml_value(value)}\n" for key, value in values.items())
        )


def _image(name: str, script: str, **more: str) -> Toml:
    return {
        "name": name, "uri": TINY_IMAGE, "entrypoint": ["/bin/sh", "-c", script],
        "cpu": "500m", "memory": "64Mi", **more,
    }  # fmt: skip


def _toml_value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value)


class LossyWire:
    """A stretch of network before a real server: it loses the answers to the next `lose` creates.

    The requests arrive and are carried out; that is what makes a lost answer hard.
    """

    def __init__(self, port: int) -> None:
        self.lose = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()
            while data := _received(client):
                if data.startswith(b"POST /v1/sandboxes ") and self.lose:
                    self.lose -= 1
                    server.sendall(data)
                    time.sleep(0.1)
                    return  # hang up on the worker while the server is still at work
                server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        while data := _received(server):
            try:
                client.sendall(data)
            except OSError:
                return


def _received(one: socket.socket) -> bytes:
    try:
        return one.recv(65536)
    except OSError:
        return b""


class CannedSocketDesktop:
    """A stand-in for a persistent desktop's Xtigervnc: canned RFB on a unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener: socket.socket | None = None

    def on(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen()
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def off(self) -> None:
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._show, args=(client,), daemon=True).start()

    def _show(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.sendall(rfb_greeting(asks_password=False))
            # Version, chosen security type, ClientInit: no server shows its screen before these.
            client.recv(12 + 1 + 1, socket.MSG_WAITALL)
            client.sendall(rfb_screen(colours=2))
            while _received(client):
                pass
