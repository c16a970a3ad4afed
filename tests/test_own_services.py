"""Whether an operator's own service answers, asked as the roll-out asks."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from roles.own_services import Health, silent_services
from tests.sites import fleet_config


class Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def asked(port: int, path: str, programs: str | None = None) -> str:
    command = Health().command(port=port, path=path)
    env = None if programs is None else {"PATH": programs}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, env=env)
    return Health().process(done.stdout.splitlines())


def test_service_that_answers_is_no_news(port: int) -> None:
    assert asked(port, "/healthz") == "answers"


def test_service_that_fails_says_how(port: int) -> None:
    assert asked(port, "/other") == "HTTP Error 503: Service Unavailable"


def test_service_that_is_not_there_says_so() -> None:
    assert "refused" in asked(1, "/healthz")


def test_service_that_does_not_speak_http_says_so() -> None:
    def greet(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
            client.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, args=(listener,), daemon=True).start()
        assert asked(listener.getsockname()[1], "/healthz") == "it does not speak HTTP, BadStatusLine"


def test_host_without_python3_yet_is_only_not_asked(tmp_path: Path, port: int) -> None:
    assert asked(port, "/healthz", str(tmp_path)) == "it could not be asked, python3 is missing"


@pytest.mark.parametrize(
    ("said", "notes"),
    [
        ("answers", []),
        ("refused", ["service code-server on box2 does not answer at 127.0.0.1:8090/healthz: refused"]),
    ],
)
def test_silent_service_is_named_with_its_host(
    said: str, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fleet_config("box2")
    [own] = [service for service in config.site.services or () if not isinstance(service, str)]
    services = tuple(
        service if isinstance(service, str) else own.model_copy(update={"health": "/healthz"})
        for service in config.site.services or ()
    )
    asked_site = config.site.model_copy(update={"services": services})
    monkeypatch.setattr("roles.own_services.host", type("H", (), {"get_fact": lambda *a, **k: said})())
    assert list(silent_services(config.model_copy(update={"site": asked_site}))) == notes
    elsewhere = fleet_config("box1").model_copy(update={"site": asked_site})
    assert list(silent_services(elsewhere)) == []
