"""A gate before a real OpenSandbox server: it stops a session's call at a named moment until it is let go.

So a fault can strike when a create or a delete is not yet sent, under way, or done and not yet heard of.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from pydantic import BaseModel, Field
from typing_extensions import override

SANDBOX = re.compile(r"/v1/sandboxes/([^/?]+)")


class Moment(Enum):
    NOT_SENT = "not sent"
    UNDER_WAY = "under way"
    NOT_HEARD = "done, its answer not heard"


@dataclass
class Stop:
    """method: of the session's next call; wanted there until it is let go."""

    session_id: str
    method: str
    moment: Moment
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    is_dropped: bool = False


class _Order(BaseModel):
    class Metadata(BaseModel):
        session: str = Field(alias="deskfleet.session")

    metadata: Metadata


class _Made(BaseModel):
    id: str


class Gate:
    """`with Gate(server.address, server.port) as gate`: workers reach the server at `gate.url`."""

    def __init__(self, address: str, port: int) -> None:
        self.target = (address, port)
        self._stops: list[Stop] = []
        self._lock = threading.RLock()
        self._session_of: dict[str, str] = {}
        self._server = _GateServer(self)

    def __enter__(self) -> Gate:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.let_go()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self, session_id: str, method: str, moment: Moment) -> None:
        with self._lock:
            self._stops.append(Stop(session_id, method, moment))

    @contextmanager
    def all_wait(self) -> Iterator[None]:
        """No call goes on meanwhile, so that one can be stopped whose session is only being made."""
        with self._lock:
            yield

    def wait_until_all_stand(self, *, seconds: float = 20) -> None:
        """Until each call that is to be stopped has come; one that is to be under way stands before that."""
        deadline = time.monotonic() + seconds
        for stop in list(self._stops):
            if not stop.reached.wait(max(0.0, deadline - time.monotonic())):
                raise AssertionError(
                    f"no {stop.method} of session {stop.session_id} came to be {stop.moment.value}"
                )

    def send(self) -> None:
        """Send on what is to be under way."""
        for stop in self._stops:
            if stop.moment is Moment.UNDER_WAY:
                stop.go_on.set()

    def let_go(self, *, dropped: bool = False) -> None:
        """Let all go on. `dropped`: who made the calls is dead; what was not sent never is."""
        with self._lock:
            stops, self._stops = self._stops, []
        for stop in stops:
            stop.is_dropped = dropped
            stop.go_on.set()

    def passes(self, method: str, session_id: str | None, *moments: Moment) -> bool:
        """Called by whoever carries a call, at these moments of it; False: it is dropped."""
        with self._lock:
            found = [
                stop
                for stop in self._stops
                if (stop.session_id, stop.method) == (session_id, method) and stop.moment in moments
            ]
        for stop in found:
            stop.reached.set()
            stop.go_on.wait()
        return not any(stop.is_dropped for stop in found)

    def session_of(self, path: str, body: bytes) -> str | None:
        if body and path == "/v1/sandboxes":
            return _Order.model_validate_json(body).metadata.session
        named = SANDBOX.match(path)
        return self._session_of.get(named[1]) if named else None

    def note_made(self, answer: bytes, session_id: str) -> None:
        self._session_of[_Made.model_validate_json(answer).id] = session_id


class _GateServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        super().__init__(("127.0.0.1", 0), _Carrier)

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """A worker that was killed does not hear its answer; that is what these tests are about."""


class _Carrier(BaseHTTPRequestHandler):
    """Carries the calls of one connection to the server, over one connection of its own."""

    protocol_version = "HTTP/1.1"
    server: _GateServer
    upstream: http.client.HTTPConnection | None = None

    @override
    def handle(self) -> None:
        try:
            super().handle()
        finally:
            if self.upstream is not None:
                self.upstream.close()

    def do_GET(self) -> None:
        gate = self.server.gate
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        session = gate.session_of(self.path, body)
        try:
            if not gate.passes(self.command, session, Moment.NOT_SENT, Moment.UNDER_WAY):
                raise ConnectionAbortedError
            answer = self._sent(body)
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the caller gets no answer
            return
        if self.command == "POST" and session is not None and answer.status == 202:
            gate.note_made(content, session)
        gate.passes(self.command, session, Moment.NOT_HEARD)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_DELETE = do_GET

    def _sent(self, body: bytes) -> http.client.HTTPResponse:
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(*self.server.gate.target, timeout=2)
            self.upstream.connect()
            # As long as any caller has patience; only the connecting is over sooner.
            self.upstream.sock.settimeout(90)
        self.upstream.request(self.command, self.path, body or None, dict(self.headers.items()))
        return self.upstream.getresponse()

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass
