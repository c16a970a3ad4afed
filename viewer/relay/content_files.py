"""The files of a desktop's own web client, fetched from KasmVNC as its owner and handed to the browser.

What listens in the desktop is its user's to replace, so nothing of an answer passes but what is named here,
and a browser is never asked for a password."""

from __future__ import annotations

import asyncio
import logging
import re
import socket

from aiohttp import web

from viewer.grants import DesktopSocket
from viewer.relay.desktop_access import owner_of, read_access
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.http_head import Head
from viewer.relay.kasmvnc import open_file
from viewer.relay.problems import problem
from viewer.relay.settings import Settings
from viewer.relay.turns import Turns

PASSED = ("Cross-Origin-Embedder-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy")
PAGE_LASTS = "no-cache"
FILE_LASTS = "private, max-age=300"
"""KasmVNC names no version of its files: not long, or a page of the new one runs with scripts of the old."""
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:;"
    " frame-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'"
)
"""The client may do as it likes with what is its own. What has taken its place reaches nobody else from the
browser of whoever looks: no other host of his network, no sibling's origin, not the viewer."""
_READ_BYTES = 1 << 16
_PLAIN = re.compile(r"[A-Za-z0-9!#$&^_.+/;= -]{1,100}")

log = logging.getLogger(__name__)


class ContentFiles:
    """`give` may be called for any number of requests; each desktop serves a few of them at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turns = Turns(settings.max_content_requests)

    async def give(
        self, request: web.Request, session_id: str, target: DesktopSocket, path: str
    ) -> web.StreamResponse:
        try:
            async with asyncio.timeout(self._settings.content_seconds), self._turns.of(session_id):
                return await self._give(request, target, path)
        except DesktopUnreachable as error:
            return problem(502, "The desktop does not answer", str(error))
        except TimeoutError:
            return problem(504, "Too slow", "the desktop or the browser took too long")

    async def _give(self, request: web.Request, target: DesktopSocket, path: str) -> web.StreamResponse:
        if read_access(target.name, self._settings).credentials is None:
            return problem(404, "No page", "this desktop has no page of its own; watch it as a plain stream")
        owner = owner_of(target.name, self._settings)
        sock, head = await open_file(target.name, owner, path, self._settings)
        try:
            if head.status == 200:
                return await self._pass_on(request, sock, head)
        finally:
            sock.close()
        if head.status in (301, 404):
            return problem(404, "No such file", "the desktop's web client has no file of that name")
        return problem(502, "The desktop refuses", f"the desktop answered HTTP {head.status}")

    async def _pass_on(self, request: web.Request, sock: socket.socket, head: Head) -> web.StreamResponse:
        length = int(head.headers["content-length"]) if "content-length" in head.headers else None
        if (length or 0) > self._settings.max_content_bytes:
            return problem(502, "Too large", "the desktop's file is larger than a web client's may be")
        answer = web.StreamResponse(headers=_headers_of(head))
        answer.content_length = length
        whole = False
        try:
            await answer.prepare(request)
            whole = await self._stream(sock, head.early, answer, length)
        except ConnectionError:
            log.debug("the browser left while it was sent a file")
        finally:
            # What has gone out cannot be mended; a connection that is cut tells the browser.
            if not whole and request.transport is not None:
                request.transport.abort()
        return answer

    async def _stream(
        self, sock: socket.socket, early: bytes, answer: web.StreamResponse, length: int | None
    ) -> bool:
        """Whether the browser got all that was announced to it."""
        left = self._settings.max_content_bytes if length is None else length
        part = early
        while left:
            if not part:
                part = await _receive(sock)
                if not part:
                    return length is None
            await answer.write(part[:left])
            left -= min(left, len(part))
            part = b""
        return length is not None


def _headers_of(head: Head) -> dict[str, str]:
    kind = head.headers.get("content-type", "")
    kind = kind if _PLAIN.fullmatch(kind) else "application/octet-stream"
    lasts = PAGE_LASTS if kind.startswith("text/html") else FILE_LASTS
    named = {name: head.headers.get(name.lower(), "") for name in PASSED}
    passed = {name: value for name, value in named.items() if _PLAIN.fullmatch(value)}
    return {"Content-Type": kind, "Cache-Control": lasts, "Content-Security-Policy": POLICY, **passed}


async def _receive(sock: socket.socket) -> bytes:
    """Empty where the desktop ended, in order or not."""
    try:
        return await asyncio.get_running_loop().sock_recv(sock, _READ_BYTES)
    except OSError:
        return b""
