"""One HTTP request as bytes, and what came back: no library tidies up what an adversary writes."""

from __future__ import annotations

import http.client
import os
import re
import socket
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]
"""In this order, the same name more than once if so wanted."""

CUT = 0
"""In place of a status: the connection ended without an answer."""
_ITS_OWN = {"date", "x-request-id"}
"""Of every answer another value."""
_CLOSE = 0x8


@dataclass(frozen=True)
class Answer:
    """What one request got. `greeting`: the first message of a WebSocket, or b"" where none was opened."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    greeting: bytes = b""

    def header(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def without(self, *ids: str) -> Answer:
        """With `*` for each of these ids, and without what is another in every answer: what is left of two of
        them must be the same, where nothing may tell them apart."""
        body, [request_id] = self.body, self.header("X-Request-Id") or [""]
        for one in (*ids, request_id):
            body = body.replace(one.encode(), b"*") if one else body
        headers = sorted(
            (name.lower(), _starred(value, ids))
            for name, value in self.headers
            if name.lower() not in _ITS_OWN
        )
        return Answer(self.status, tuple(headers), body, self.greeting)


def request(
    method: str, target: str, headers: Iterable[tuple[str, str]], *, body: bytes = b"", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def upgrade_headers(protocol: str = "binary") -> Headers:
    """What a browser sends to open a WebSocket, but its Origin."""
    return (
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", b64encode(os.urandom(16)).decode()),
        ("Sec-WebSocket-Protocol", protocol),
    )


def ask(port: int, sent: bytes, *, address: str = "127.0.0.1") -> Answer:
    """Send it from that address of this machine to the edge there, on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=15, source_address=(address, 0)) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection, method=sent.partition(b" ")[0].decode("latin-1"))
        try:
            answer.begin()
            headers = tuple(answer.getheaders())
            if answer.status == 101:
                return Answer(101, headers, greeting=_first_message(answer))
            return Answer(answer.status, headers, body=answer.read())
        except (http.client.HTTPException, ConnectionError):
            return Answer(CUT)
        finally:
            answer.close()


def _first_message(answer: http.client.HTTPResponse) -> bytes:
    """Of the WebSocket; of a close frame its code, as `closed 4403`."""
    first, second = answer.fp.read(2)
    length = second & 0x7F
    if length == 126:
        length = int.from_bytes(answer.fp.read(2), "big")
    elif length == 127:
        length = int.from_bytes(answer.fp.read(8), "big")
    payload = answer.fp.read(length)
    if first & 0xF == _CLOSE:
        return b"closed %d" % int.from_bytes(payload[:2], "big")
    return payload


def _starred(value: str, ids: Iterable[str]) -> str:
    pattern = "|".join(re.escape(one) for one in ids if one)
    return re.sub(pattern, "*", value) if pattern else value
