"""The real viewer, as its own process on its real store; only what lies behind it is stood in for."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx
from cryptography.fernet import Fernet

from tests.pages.edge import PagesEdge
from viewer.model import Role, Session, Status
from viewer.passwords import Passwords
from viewer.people import NewPerson
from viewer.rows import QUEUED
from viewer.store import NewSession, Store
from viewer.transitions import IllegalTransition

SETTINGS = """
fleet_id = "f-tests"
origins = ["{origin}"]
listen = "{listen}"
database = "{folder}/deskfleet.db"
secret_key_file = "{folder}/viewer.key"
default_image = "desktop"
default_resolution = "1280x800"
default_ttl_seconds = 3600
max_ttl_seconds = 43200
max_lifetime_seconds = 86400
create_deadline_seconds = 120
[[hosts]]
name = "here"
groups = ["sandboxes", "desktops"]
opensandbox_url = "http://127.0.0.1:9"
opensandbox_key_file = "{folder}/opensandbox.key"
relay_url = "http://127.0.0.1:9"
relay_key_file = "{folder}/relay.key"
max_desktops = 8
[[images]]
name = "desktop"
uri = "deskfleet/desktop"
[[images]]
name = "chrome"
uri = "deskfleet/chrome"
"""


class PretendWorker:
    """Makes new sessions running and asked-for ends true, as the worker does, without any host."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pretend-worker")
        self.creates = True
        """False: a new session stays `creating` until the test says otherwise."""
        self.ends = True
        """False: the host is silent, ends stay asked for."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            for session in self._store.fleet.live_sessions():
                try:
                    self._advance(session)
                except IllegalTransition:
                    continue  # the test moved it meanwhile

    def _advance(self, session: Session) -> None:
        if session.terminate_requested_at is not None:
            if self.ends:
                self._store.fleet.transition(session.id, Status.TERMINATED, reason="on request")
        elif session.status is Status.CREATING and self.creates:
            self._store.fleet.transition(session.id, Status.RUNNING, host="here", vnc_port=40000)


class PagesSite:
    """A viewer behind a `PagesEdge` while the `with` block runs. Each test has a tenant of its own in it."""

    def __init__(self, *, folder: Path, vnc_port: int = 0) -> None:
        """vnc_port: of the desktop that all streams are joined to; 0 until `edge.vnc_port` says another."""
        self._folder = folder
        self.edge = PagesEdge(vnc_port=vnc_port)
        self._numbers = itertools.count(1)
        self.tenant = ""
        self.key = ""
        """An admin's key of the present test's tenant."""

    def __enter__(self) -> PagesSite:
        self.edge.__enter__()
        listen = f"127.0.0.1:{_free_port()}"
        self.edge.viewer = f"http://{listen}"
        self._write_settings(listen)
        self.start_viewer()
        self.store = Store(self._folder / "deskfleet.db")
        self.worker = PretendWorker(self.store)
        self.worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.stop()
        self.store.close()
        self.stop_viewer()
        self.edge.__exit__(kind, error, trace)

    @property
    def origin(self) -> str:
        return self.edge.origin

    def begin_test(self) -> None:
        """A fresh tenant, an unknown address, nothing of an earlier test goes on, and everything behind the
        viewer works again."""
        for session in self.store.fleet.live_sessions():
            with suppress(IllegalTransition):  # the pretend worker was first
                self.store.fleet.transition(session.id, Status.TERMINATED, reason="its test is over")
        number = next(self._numbers)
        self.tenant = f"tenant-{number}"
        self.store.accounts.add_tenant(self.tenant)
        self.key = self.new_key(Role.ADMIN)
        self.worker.creates = self.worker.ends = True
        self.edge.silent, self.edge.refuse_streams, self.edge.refuse_events = False, None, False
        self.edge.streams_told = []
        self.edge.client_address = f"198.18.{number // 250}.{number % 250 + 1}"

    def new_key(self, role: Role) -> str:
        return self.store.accounts.add_key(self.tenant, role, "tests").text

    def new_person(self, login: str, password: str | None = None) -> str:
        """An operator of the present tenant; the link by which he sets a password, unless he has one."""
        people = self.store.people(self.tenant)
        person = people.add(NewPerson(login=login, name=login.title(), role=Role.OPERATOR), by="tests")
        link = people.new_link(person.id)
        if password is not None:
            self.store.accounts.set_password_by_link(link, Passwords().hash(password))
            self.store.accounts.end_sign_ins(person.principal_id)
        return f"{self.origin}/set-password#token={link}"

    def sign_in_link(self) -> str:
        return f"{self.origin}/signin#token={self.store.accounts.new_link(self.tenant, Role.ADMIN)}"

    def sessions(self) -> list[Session]:
        """The tenant's sessions, newest first."""
        return list(self.store.tenant(self.tenant).list().items)

    def creating(
        self,
        *,
        image: str = "desktop",
        task: str | None = None,
        agent: str | None = None,
        idle_seconds: int | None = None,
        lifetime_seconds: int | None = None,
    ) -> Session:
        """A new session; the pretend worker brings it up at once unless its `creates` is False."""
        return (
            self.store.tenant(self.tenant)
            .create(
                NewSession(
                    image=image,
                    resolution="1280x800",
                    task_id=task,
                    agent_id=agent,
                    ttl_seconds=3600,
                    idle_seconds=idle_seconds,
                    lifetime_seconds=lifetime_seconds,
                    created_by="tests",
                )
            )
            .session
        )

    def queued(self) -> Session:
        """One that waits for a host; the pretend worker's `creates` must be False."""
        return self.store.fleet.update(self.creating().id, status_reason=QUEUED)

    def running(
        self,
        *,
        task: str | None = None,
        agent: str | None = None,
        idle_seconds: int | None = None,
        lifetime_seconds: int | None = None,
    ) -> Session:
        session = self.creating(
            task=task, agent=agent, idle_seconds=idle_seconds, lifetime_seconds=lifetime_seconds
        )
        while self.store.fleet.get(session.id).status is Status.CREATING:
            self.store.wait_for_change(1)
        return self.store.fleet.get(session.id)

    def stop_viewer(self) -> None:
        self._viewer.terminate()
        self._viewer.wait(timeout=15)

    def start_viewer(self) -> None:
        """Also again, with the keys and the database of the one before."""
        environment = os.environ | {"DESKFLEET_SETTINGS": str(self._folder / "viewer.toml")}
        self._viewer = subprocess.Popen([sys.executable, "-m", "viewer.serve"], env=environment)
        deadline = time.monotonic() + 90
        while not _answers(f"{self.edge.viewer}/healthz"):
            if time.monotonic() > deadline or self._viewer.poll() is not None:
                raise RuntimeError("the viewer did not start; its output says why")
            time.sleep(0.1)

    def _write_settings(self, listen: str) -> None:
        for name in ("viewer.key", "relay.key", "opensandbox.key"):
            (self._folder / name).write_text(Fernet.generate_key().decode())
        settings = self._folder / "viewer.toml"
        settings.write_text(SETTINGS.format(origin=self.origin, listen=listen, folder=self._folder))


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
