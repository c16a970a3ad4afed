"""Receivers of webhooks for tests: real HTTP(S) servers in threads, good ones and traps."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    headers: Mapping[str, str]
    body: bytes
    path: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        return Webhook(secret).verify(self.body, dict(self.headers))


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


class Receiver:
    """Takes what comes. `answers`: what it says to the next ones; after those 204."""

    def __init__(self, address: str = "127.0.0.1", certificate: tuple[Path, Path] | None = None) -> None:
        self.received: list[Received] = []
        self.answers: list[Answer] = []
        self.always: Answer = status(204)
        self._news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                wanted = int(self.headers["Content-Length"])
                body = self.rfile.read(wanted)
                if len(body) < wanted:
                    self.close_connection = True  # whoever sent it has died over it
                    return
                receiver._take(self, Received(dict(self.headers), body, self.path))

            def log_message(self, *_arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_arguments: object) -> None:
                pass  # whoever sends may hang up

        self._server = Server((address, 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self.url = f"{'https' if certificate else 'http'}://{address}:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, fits: Callable[[Sequence[Received]], bool], timeout_s: float = 30) -> list[Received]:
        """All that has come, as soon as it fits."""
        with self._news:
            if not self._news.wait_for(lambda: fits(self.received), timeout_s):
                raise AssertionError(f"only {len(self.received)} came: {[one.body for one in self.received]}")
            return list(self.received)

    def wait_for_count(self, count: int) -> list[Received]:
        return self.wait_for(lambda received: len(received) >= count)

    def _take(self, handler: BaseHTTPRequestHandler, received: Received) -> None:
        with self._news:
            self.received.append(received)
            answer = self.answers.pop(0) if self.answers else self.always
            self._news.notify_all()
        answer(handler)


@contextmanager
def receiving(*arguments: Any) -> Iterator[Receiver]:
    made = Receiver(*arguments)
    yield made
    made.close()


class Trap:
    """A raw socket that accepts, reads, and then does as told. `visits`: who has connected."""

    def __init__(self, do: Callable[[socket.socket], None], address: str = "127.0.0.1") -> None:
        self.visits = 0
        self._do = do
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{address}:{self.port}/hook"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                request = b""
                while not request.endswith(b"}") and (more := client.recv(65536)):
                    request += more
                self._do(client)
            except OSError:
                pass  # it hung up, as it should
