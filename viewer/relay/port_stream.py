"""A WebSocket to a port of a sandbox, through its host's OpenSandbox server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import ClassVar
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from viewer.grants import Grant
from viewer.relay.answers import CloseCode, SandboxProblem, StreamKind
from viewer.relay.desktops import DesktopUnreachable, connect_server
from viewer.relay.downstream import BufferPool
from viewer.relay.http_head import accept_of, exchange_heads, offered, switching
from viewer.relay.port_messages import request_headers
from viewer.relay.settings import Settings
from viewer.relay.spliced_stream import SplicedStream
from viewer.relay.stream import Ending

_STATUSES = {
    CloseCode.REVOKED: "403 Forbidden",
    CloseCode.LEASE_LOST: "423 Locked",
    CloseCode.UNREACHABLE: "502 Bad Gateway",
    CloseCode.RESTARTING: "503 Service Unavailable",
    CloseCode.TIMED_OUT: "504 Gateway Timeout",
}


class PortStream(SplicedStream):
    """The sandbox chooses the subprotocol, so the upgrade is answered when it has; until then a client that
    is turned away gets an answer in HTTP. `server`: of OpenSandbox; `way`: path and query there."""

    kind: ClassVar[StreamKind] = "port"
    far_end = "sandbox"

    def __init__(self, grant: Grant, settings: Settings, pool: BufferPool, *, server: str, way: str) -> None:
        super().__init__(grant, settings, pool)
        self._server = server
        self._way = way
        self._is_open = False

    async def _reach(self, browser: socket.socket, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                return await self._open(browser, request)
        except TimeoutError as error:
            raise DesktopUnreachable("the sandbox did not answer in time") from error

    async def _open(self, browser: socket.socket, request: web.Request) -> bytes:
        key = request.headers[hdrs.SEC_WEBSOCKET_KEY]
        wanted = offered(request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, ""))
        self._far = await connect_server(self._server)
        head = await exchange_heads(self._far, self._upgrade(request), whose="sandbox")
        protocol = head.headers.get("sec-websocket-protocol")
        if head.status != 101 or head.headers.get("sec-websocket-accept") != accept_of(key):
            raise DesktopUnreachable(f"the sandbox opens no WebSocket there (HTTP {head.status})")
        if protocol not in (None, *wanted):
            raise DesktopUnreachable("the sandbox speaks a protocol that was not offered to it")
        self._is_open = True
        await asyncio.get_running_loop().sock_sendall(browser, switching(key, protocol))
        return head.early

    def _upgrade(self, request: web.Request) -> bytes:
        lines = [f"GET {self._way} HTTP/1.1", f"Host: {urlsplit(self._server).netloc}"]
        lines += [f"{name}: {value}" for name, value in self._passed(request)]
        return "\r\n".join([*lines, "Connection: Upgrade", "Upgrade: websocket", "", ""]).encode()

    def _passed(self, request: web.Request) -> Iterable[tuple[str, str]]:
        """The headers of the client that are for the sandbox."""
        return request_headers(request).items()

    def _last_words(self, ending: Ending) -> bytes:
        if self._is_open:
            return super()._last_words(ending)
        status = _STATUSES.get(ending.code, "502 Bad Gateway")
        code = "LEASE_HELD" if ending.code == CloseCode.LEASE_LOST else "PORT_UNREACHABLE"
        problem = SandboxProblem(code=f"DESKFLEET::{code}", message=ending.reason)
        body = problem.model_dump_json().encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode("ascii") + body
