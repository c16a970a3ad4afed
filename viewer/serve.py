"""`deskfleet-viewer`: check the settings, migrate, and serve with gunicorn: one process, 64 threads.

One process, because the limits on streams and failed sign-ins live in it; threads, because a waiting create
only waits.

An event stream waits for an hour, and a thousand of them are no reason for a thousand threads. So the worker
below parts with the connection of a stream once the answer's head is sent, and `viewer.event_hub` holds them
all. A second listener for streams alone would have done as well, but every request would have needed its
access rules, its limits and its route through two Caddys once more; this way all that stays as it is.
"""

from __future__ import annotations

import logging
import signal
import sys
from concurrent.futures import Future
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.http import wsgi  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

from viewer import logs, metrics
from viewer.app import create_app
from viewer.bootstrap import prepare_database
from viewer.event_hub import EventStream
from viewer.events import HANDOVER, PATH, Handover
from viewer.open_files import allow_open_files
from viewer.services import STREAMS_AT_ONCE, Services
from viewer.settings import Settings, SettingsError, load_settings

THREADS = 64
CONNECTIONS = 1000
OTHER_FILES = 512
"""Beside connections: each thread may have the database open, which takes three."""


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with our options and nothing read from files, environment or command line."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Runs in the worker process, after the fork: database connections must not cross one."""
        metrics.set_up("viewer", self._settings.state)
        return create_app(self._settings)


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's, but for event streams, whose connections leave it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._leaving: dict[TConn, tuple[EventStream, bool]] = {}

    def handle_request(self, req: Request, conn: TConn) -> bool:
        """In a thread of the pool. What is not about the handover is as gunicorn does it."""
        if req.path != PATH:
            return bool(super().handle_request(req, conn))
        answer, environ = wsgi.create(req, conn.sock, conn.client, conn.server, self.cfg)
        answer.force_close()
        handover = environ[HANDOVER] = Handover()
        environ["wsgi.multithread"] = True
        body = self.wsgi(environ, answer.start_response)
        try:
            if handover.stream is None:
                for item in body:
                    answer.write(item)
                answer.close()
            else:
                answer.send_headers()
                self._leaving[conn] = handover.stream, answer.chunked
        except BaseException:
            if handover.stream is not None:
                handover.stream.over()
            raise
        finally:
            body.close()
        return False

    def finish_request(self, conn: TConn, done: Future[Any]) -> None:
        """In the main thread, after each request: here gunicorn would close the connection or keep it."""
        leaving = self._leaving.pop(conn, None)
        if leaving is None:
            super().finish_request(conn, done)
            return
        self.nr_conns -= 1
        stream, chunked = leaving
        here: Services = self.wsgi.extensions["deskfleet"]
        here.events.carry(stream, conn.sock, chunked=chunked)


class ServerLog(Logger):  # type: ignore[misc]
    """gunicorn's own lines go where all others go, in the same form and as clean of secrets."""

    def setup(self, cfg: object) -> None:
        self.error_log.setLevel(logging.WARNING)
        self.error_log.propagate = True


def options(settings: Settings) -> dict[str, Any]:
    return {
        "bind": settings.listen,
        "workers": 1,
        "worker_class": Worker,
        "threads": THREADS,
        "worker_connections": CONNECTIONS,
        "keepalive": 75,
        "timeout": 60,
        "graceful_timeout": 3,
        # Paths hold no secrets, but an access log of ours would only repeat Caddy's.
        "accesslog": None,
        "logger_class": ServerLog,
        "proc_name": "deskfleet-viewer",
        "control_socket_disable": True,
        # Caddy is on loopback, which gunicorn would trust to set SCRIPT_NAME, and so the route, with a header
        # that in truth is the client's. What Caddy tells of the client, the viewer reads itself.
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "post_worker_init": end_streams_on_stop,
        "worker_exit": wait_for_last_words,
    }


def end_streams_on_stop(worker: Worker) -> None:
    """Tell waiting threads when the server stops; else each event stream would hold it up to its limit."""
    here: Services = worker.wsgi.extensions["deskfleet"]

    def stop(number: int, frame: FrameType | None) -> None:
        here.stop()
        worker.handle_exit(number, frame)

    signal.signal(signal.SIGTERM, stop)


def wait_for_last_words(_server: object, worker: Worker) -> None:
    """Else the process ends while streams are being told."""
    here: Services = worker.wsgi.extensions["deskfleet"]
    here.close()


def main() -> None:
    logs.set_up("deskfleet-viewer")
    try:
        settings = load_settings()
        prepare_database(settings)
        allow_open_files(CONNECTIONS + STREAMS_AT_ONCE + OTHER_FILES, what=f"{STREAMS_AT_ONCE} event streams")
    except SettingsError as error:
        print(f"deskfleet-viewer: {error}", file=sys.stderr)
        sys.exit(2)
    Server(settings).run()


if __name__ == "__main__":
    main()
