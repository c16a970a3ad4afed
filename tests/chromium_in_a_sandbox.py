"""A browser as the image `chrome` runs it, and the way to it: what a session's DevTools are of.

The Chromium is real, the machine's own. Stand-in, by name: a `TinyOpenSandbox` where the host's OpenSandbox
server would be; it passes on what that one does, the Origin of a WebSocket among it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

from aiohttp import ClientSession, WSMsgType, web

from tests.browser import CHROMIUM, FLAGS
from tests.relay_process import free_port

PAGE = "data:text/html,<title>shop</title><h1>In the desktop</h1>"


@dataclass(frozen=True)
class InnerChromium:
    """port: where its DevTools answer, on loopback alone."""

    port: int

    def targets(self) -> list[dict[str, str]]:
        with urlopen(f"http://127.0.0.1:{self.port}/json/list", timeout=10) as answer:
            found: list[dict[str, str]] = json.load(answer)
        return found

    def page(self) -> dict[str, str]:
        return next(one for one in self.targets() if one["type"] == "page")

    def open(self, url: str) -> None:
        with urlopen(Request(f"http://127.0.0.1:{self.port}/json/new?{url}", method="PUT"), timeout=10):
            pass

    def wait_for_title(self, title: str, *, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while title not in [one["title"] for one in self.targets()]:
            if time.monotonic() > deadline:
                raise AssertionError(f"no page is called {title!r}: {self.targets()}")
            time.sleep(0.1)


@contextmanager
def inner_chromium(*, enter: tuple[str, ...] = (), port: int | None = None) -> Iterator[InnerChromium]:
    """enter: a command that runs another one in a sandbox's network; then it is not waited for."""
    found = InnerChromium(port or free_port())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *enter, CHROMIUM, *FLAGS, "--headless=new", f"--user-data-dir={profile}",
                "--remote-debugging-address=127.0.0.1", f"--remote-debugging-port={found.port}", PAGE,
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if not enter:
                _wait(found)
            yield found
        finally:
            process.terminate()
            process.wait()


def _wait(browser: InnerChromium) -> None:
    deadline = time.monotonic() + 30
    while True:
        with suppress(OSError, StopIteration):
            browser.page()
            return
        if time.monotonic() > deadline:
            raise RuntimeError("Chromium did not start")
        time.sleep(0.1)


class TinyOpenSandbox:
    """TinyOpenSandbox: `/v1/sandboxes/<id>/proxy/<port>/…` leads to that port of this machine."""

    def __init__(self) -> None:
        self.port = free_port()
        self.seen: list[tuple[str, dict[str, str]]] = []
        """Path in the sandbox and headers, in lower case, of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        port, tail = (
            request.match_info["port"],
            request.raw_path.split(f"/proxy/{request.match_info['port']}", 1)[1],
        )
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((tail, headers))
        if headers.get("upgrade", "").lower() == "websocket":
            return await self._socket(request, f"ws://127.0.0.1:{port}{tail}", headers)
        passed = {name: value for name, value in headers.items() if name not in ("host", "connection")}
        async with (
            ClientSession(auto_decompress=False) as http,
            http.get(f"http://127.0.0.1:{port}{tail}", headers=passed) as answer,
        ):
            kind = {"Content-Type": answer.headers.get("Content-Type", "")}
            return web.Response(status=answer.status, body=await answer.read(), headers=kind)

    async def _socket(self, request: web.Request, url: str, headers: dict[str, str]) -> web.StreamResponse:
        browser = web.WebSocketResponse(max_msg_size=0)
        origin = {"Origin": headers["origin"]} if "origin" in headers else {}
        async with ClientSession() as http, http.ws_connect(url, headers=origin, max_msg_size=0) as inner:
            await browser.prepare(request)
            back = asyncio.create_task(_pass_on(inner, browser))
            await _pass_on(browser, inner)
            back.cancel()
        return browser


async def _pass_on(source: Any, sink: Any) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)
    await sink.close()


@contextmanager
def tiny_opensandbox() -> Iterator[TinyOpenSandbox]:
    server, loop = TinyOpenSandbox(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/v1/sandboxes/{id}/proxy/{port:[0-9]+}{tail:.*}", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", server.port).start()
        return runner

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=15)

    runner = call(start())
    try:
        yield server
    finally:
        call(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
