"""The real viewer with its real store, served to a browser; only what lies behind it is stood in for."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from cryptography.fernet import Fernet
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.pages.edge import PagesEdge
from viewer.app import create_app
from viewer.bootstrap import prepare_database
from viewer.model import Role, Session, Status
from viewer.services import Services
from viewer.settings import HostSettings, ImageSettings, Settings, TenantSettings
from viewer.store import NewSession, Store
from viewer.transitions import IllegalTransition

TENANT = "main"


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
    """A viewer behind a `PagesEdge`, with an admin's key, while the `with` block runs."""

    def __init__(self, *, folder: Path, vnc_port: int) -> None:
        self._folder = folder
        self.edge = PagesEdge(vnc_port=vnc_port)

    def __enter__(self) -> PagesSite:
        self.edge.__enter__()
        settings = self._settings()
        prepare_database(settings)
        self.store = Store(settings.database)
        self.key = self.store.accounts.add_key(TENANT, Role.ADMIN, "tests").text
        self._app = create_app(settings, self.store)
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, name="viewer")
        self._thread.start()
        self.edge.viewer = f"http://127.0.0.1:{self._server.server_port}"
        self.worker = PretendWorker(self.store)
        self.worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.stop()
        services: Services = self._app.extensions["deskfleet"]
        services.stopping.set()
        self.edge.__exit__(kind, error, trace)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.store.close()

    @property
    def origin(self) -> str:
        return self.edge.origin

    def new_key(self, role: Role) -> str:
        return self.store.accounts.add_key(TENANT, role, "tests").text

    def sign_in_link(self) -> str:
        return f"{self.origin}/signin#token={self.store.accounts.new_link(TENANT, Role.ADMIN)}"

    def creating(
        self, *, image: str = "desktop", task: str | None = None, agent: str | None = None
    ) -> Session:
        """A new session; the pretend worker brings it up at once unless its `creates` is False."""
        return self.store.tenant(TENANT).create(
            NewSession(
                image=image,
                resolution="1280x800",
                task_id=task,
                agent_id=agent,
                ttl_seconds=3600,
                created_by="tests",
            )
        )

    def running(self, *, task: str | None = None, agent: str | None = None) -> Session:
        session = self.creating(task=task, agent=agent)
        while self.store.fleet.get(session.id).status is Status.CREATING:
            self.store.wait_for_change(1)
        return self.store.fleet.get(session.id)

    def _settings(self) -> Settings:
        for name in ("viewer.key", "relay.key", "opensandbox.key"):
            (self._folder / name).write_text(Fernet.generate_key().decode())
        host = HostSettings(
            name="here",
            opensandbox_url="http://127.0.0.1:9",
            opensandbox_key_file=self._folder / "opensandbox.key",
            relay_url="http://127.0.0.1:9",
            relay_upstream="127.0.0.1:9",
            relay_key_file=self._folder / "relay.key",
            max_desktops=8,
        )
        return Settings(
            fleet_id="f-tests",
            origins=(self.edge.origin,),
            listen="127.0.0.1:9",
            database=self._folder / "deskfleet.db",
            secret_key_file=self._folder / "viewer.key",
            default_image="desktop",
            default_resolution="1280x800",
            default_ttl_seconds=3600,
            max_ttl_seconds=43200,
            max_lifetime_seconds=86400,
            create_deadline_seconds=120,
            tenants=(TenantSettings(name=TENANT),),
            hosts=(host,),
            images=tuple(ImageSettings(name=name, uri=f"deskfleet/{name}") for name in ("desktop", "chrome")),
        )


class Quiet(WSGIRequestHandler):
    """Say nothing about each request."""

    def log(self, type: str, message: str, *args: object) -> None:
        return None
