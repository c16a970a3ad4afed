"""`deskfleet-viewer`: check the settings, migrate, and serve with gunicorn: one process, 64 threads.

One process, because the limits on streams and failed sign-ins live in it; threads, because an event stream or
a waiting create only waits.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from viewer import logs, metrics
from viewer.app import create_app
from viewer.bootstrap import prepare_database
from viewer.services import Services
from viewer.settings import Settings, SettingsError, load_settings

THREADS = 64


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
        metrics.set_up("viewer", self._settings.database)
        return create_app(self._settings)


class ServerLog(Logger):  # type: ignore[misc]
    """gunicorn's own lines go where all others go, in the same form and as clean of secrets."""

    def setup(self, cfg: object) -> None:
        self.error_log.setLevel(logging.WARNING)
        self.error_log.propagate = True


def options(settings: Settings) -> dict[str, Any]:
    return {
        "bind": settings.listen,
        "workers": 1,
        "worker_class": "gthread",
        "threads": THREADS,
        "worker_connections": 1000,
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
    }


def end_streams_on_stop(worker: ThreadWorker) -> None:
    """Tell waiting threads when the server stops; else each event stream would hold it up to its limit."""
    here: Services = worker.wsgi.extensions["deskfleet"]

    def stop(number: int, frame: FrameType | None) -> None:
        here.stop()
        worker.handle_exit(number, frame)

    signal.signal(signal.SIGTERM, stop)


def main() -> None:
    logs.set_up("deskfleet-viewer")
    try:
        settings = load_settings()
        prepare_database(settings)
    except SettingsError as error:
        print(f"deskfleet-viewer: {error}", file=sys.stderr)
        sys.exit(2)
    Server(settings).run()


if __name__ == "__main__":
    main()
