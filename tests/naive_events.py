"""Event streams as one writes them first, for the bench to compare with: a generator and a thread for each
client, each of which waits and reads for itself. `python -m tests.naive_events DATABASE PORT CLIENTS`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from viewer.model import HostStatus
from viewer.public import public_session
from viewer.store import Store

TENANT = "main"
HEARTBEAT_SECONDS = 15.0
SPARE_THREADS = 8


class Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, database: Path, port: int, clients: int) -> None:
        self._database = database
        self._options = {
            "bind": f"127.0.0.1:{port}",
            "worker_class": "gthread",
            "threads": clients + SPARE_THREADS,
            "worker_connections": clients + 100,
            "graceful_timeout": 1,
            "loglevel": "error",
            "control_socket_disable": True,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        store, app = Store(self._database), Flask(__name__)

        @app.get("/healthz")
        def healthz() -> dict[str, Any]:
            return {"status": "ok"}

        @app.get("/api/v1/events")
        def events() -> Response:
            return Response(_frames(store), content_type="text/event-stream")

        return app


def _frames(store: Store) -> Iterator[str]:
    tenant = store.tenant(TENANT)
    last = tenant.last_event_id()
    yield f"id: {last}\nevent: ready\ndata: {{}}\n\n"
    while True:
        mark = store.mark()
        for event in tenant.events_after(last):
            hosts: dict[str, HostStatus] = {host.name: host.status for host in store.fleet.hosts()}
            session = public_session(event.session, origin="http://localhost", hosts=hosts, devtools=())
            yield f"id: {event.id}\nevent: session\ndata: {session.model_dump_json()}\n\n"
            last = event.id
        if not store.wait_for_change(HEARTBEAT_SECONDS, since=mark):
            yield ": still here\n\n"


if __name__ == "__main__":
    Server(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])).run()
