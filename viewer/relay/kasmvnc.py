"""Talking HTTP to a desktop's KasmVNC: files, the owner's API, and the upgrade of a stream.

KasmVNC reads a request in few gulps and looks for a body only in what came with the headers, so each request
goes out in one piece. It answers one request per connection. Five requests without credentials or with wrong
ones lock an address out for as long as it keeps asking; so every request carries credentials, nobody asks
again after a 401, and each request names a fresh address of its own: neither a program in the desktop that
asks its own 127.0.0.1 nor a password that was just changed locks this relay out. The browser's address is not
passed on, as whoever shares it could lock it out.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from viewer.relay.desktop_access import Credentials
from viewer.relay.desktops import DesktopUnreachable, connect_web
from viewer.relay.http_head import Head, accept_of, exchange_heads
from viewer.relay.settings import Settings

STREAM_USER = re.compile(r"s-[0-9a-f]{12}")
"""Names of the users that relays make, and of no others."""
LONGEST_ANSWER = 256 << 10
"""Bytes of the owner API's answers, but for the screenshot; enough for 3,000 users."""
LONGEST_SCREENSHOT = 16 << 20
_READ_BYTES = 1 << 16
_LISTED = re.compile(rf'"user": "({STREAM_USER.pattern})"')


class OwnerRefused(DesktopUnreachable):
    """The desktop does not know the user that the relay came as."""


class BadRequest(Exception):
    """A 400: of a screenshot that nothing was painted yet, of a user that there is no such one."""


class StreamUser(NamedTuple):
    credentials: Credentials
    may_write: bool


async def ask(
    sock: socket.socket,
    credentials: Credentials,
    method: str,
    path: str,
    *,
    more: str = "",
    body: bytes = b"",
) -> Head:
    """Send one request and return the beginning of its answer. `more`: whole header lines. Raises
    DesktopUnreachable, OwnerRefused; the caller sets the time limit."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: desktop\r\nAuthorization: {credentials.header()}\r\n"
        f"X-Forwarded-For: {_fresh_address()}\r\n{length}{more}\r\n"
    )
    head = await exchange_heads(sock, request.encode("ascii") + body)
    if head.status == 401:
        raise OwnerRefused(f"the desktop does not take the relay's user {credentials.user!r}")
    return head


async def open_file(
    desktop: str, owner: Credentials, path: str, settings: Settings
) -> tuple[socket.socket, Head]:
    """A connection that goes on with the file's bytes, and the beginning of the answer. Raises
    DesktopUnreachable."""
    async with _in_time(settings):
        sock = await connect_web(desktop, settings)
        try:
            return sock, await ask(sock, owner, "GET", path, more="Connection: close\r\n")
        except BaseException:
            sock.close()
            raise


async def open_stream(desktop: str, user: Credentials, settings: Settings) -> tuple[socket.socket, bytes]:
    """A connection on which frames follow, and the first bytes of them. Raises DesktopUnreachable."""
    key = b64encode(os.urandom(16)).decode()
    more = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://desktop\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: binary\r\n"
    )
    async with _in_time(settings):
        sock = await connect_web(desktop, settings)
        try:
            head = await ask(sock, user, "GET", "/websockify", more=more)
            if head.status != 101 or head.headers.get("sec-websocket-accept") != accept_of(key):
                raise DesktopUnreachable(f"the desktop opens no stream (HTTP {head.status})")
        except BaseException:
            sock.close()
            raise
    return sock, head.early


class OwnerApi:
    """What the owner of one desktop may do. Every call raises DesktopUnreachable; OwnerRefused on a 401."""

    def __init__(self, desktop: str, owner: Credentials, settings: Settings) -> None:
        self._desktop = desktop
        self._owner = owner
        self._settings = settings

    async def create_user(self, user: StreamUser) -> None:
        """Posted, not in the query: KasmVNC writes the query into its log."""
        name, password = user.credentials
        await self._post(
            "create_user",
            [
                {
                    "user": name,
                    "password": password.get_secret_value(),
                    "read": True,
                    "write": user.may_write,
                    "owner": False,
                }
            ],
        )

    async def let_write(self, name: str, may_write: bool) -> None:
        """Holds for its open connections too, from now on. Raises BadRequest where there is no such user."""
        await self._post("update_user", [{"user": name, "read": True, "write": may_write, "owner": False}])

    async def remove_users(self, names: Collection[str]) -> None:
        """Those that are there no longer are no error."""
        try:
            await self._post("remove_user", [{"user": name} for name in names])
        except BadRequest:
            # One of them is gone, and then KasmVNC removes none.
            for name in names:
                with suppress(BadRequest):
                    await self._post("remove_user", [{"user": name}])

    async def stream_users(self) -> set[str]:
        """Those users that a relay made. The list is searched and not parsed: KasmVNC cuts it off at 80
        characters a user."""
        return set(_LISTED.findall((await self._call("GET", "/api/get_users")).decode(errors="replace")))

    async def screenshot(self) -> bytes:
        """A JPEG of the whole screen; raises BadRequest before anything was painted."""
        return await self._call(
            "GET", "/api/get_screenshot?width=4096&height=4096", longest=LONGEST_SCREENSHOT
        )

    async def _post(self, name: str, users: Sequence[Mapping[str, str | bool]]) -> None:
        await self._call("POST", f"/api/{name}", json.dumps(users).encode())

    async def _call(
        self, method: str, path: str, body: bytes = b"", *, longest: int = LONGEST_ANSWER
    ) -> bytes:
        async with _in_time(self._settings):
            sock = await connect_web(self._desktop, self._settings)
            try:
                head = await ask(sock, self._owner, method, path, body=body)
                if head.status == 400:
                    raise BadRequest(path)
                if head.status != 200:
                    raise DesktopUnreachable(f"the desktop's API answers HTTP {head.status}")
                return await _rest(sock, head, longest)
            finally:
                sock.close()


async def _rest(sock: socket.socket, head: Head, longest: int) -> bytes:
    """The whole body; it ends with the connection or at its stated length. One above `longest` is none."""
    loop = asyncio.get_running_loop()
    length = int(head.headers.get("content-length", str(longest + 1)))
    body = bytearray(head.early)
    try:
        while len(body) < min(length, longest + 1) and (part := await loop.sock_recv(sock, _READ_BYTES)):
            body += part
    except OSError as error:
        raise DesktopUnreachable(f"the desktop hung up ({error.strerror})") from error
    if len(body) > longest:
        raise DesktopUnreachable(f"the desktop's answer is longer than {longest} bytes")
    return bytes(body)


def _fresh_address() -> str:
    """An address of nobody: IPv6, unique local (RFC 4193)."""
    digits = "fd" + secrets.token_hex(15)
    return ":".join(digits[at : at + 4] for at in range(0, 32, 4))


@asynccontextmanager
async def _in_time(settings: Settings) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(settings.handshake_seconds):
            yield
    except TimeoutError as error:
        raise DesktopUnreachable("the desktop did not answer in time") from error
