"""A small stand-in for edge and relay, for tests of the pages alone.

Everything goes to the viewer except `/stream/<session>`, which is joined to one VNC server over TCP. Unlike
the real parts it lets a test cut streams with any close code, refuse new ones, and be offline. The real edge
and relay have their own tests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any

from aiohttp import ClientSession, ClientTimeout, WSMsgType, web

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


class PagesEdge:
    """Listens on a free port of 127.0.0.1 (`port`) in a thread of its own while the `with` block runs."""

    def __init__(self, *, vnc_port: int, viewer: str = "") -> None:
        self.viewer = viewer
        self.vnc_port = vnc_port
        self.port = 0
        self.streams: dict[str, list[web.WebSocketResponse]] = {}
        self.opened = 0
        """How many streams were ever opened."""
        self.refuse_streams: int | None = None
        """HTTP status that new streams get instead of a connection."""
        self.refuse_events = False
        """True: event streams get 503, everything else works."""
        self.streams_told: list[dict[str, object]] = []
        """What is answered to whoever asks who has a session open: the relay is not there to be asked."""
        self.silent = False
        """True: the viewer behind the edge is gone, every request gets 502."""
        self.client_address = "127.0.0.1"
        """Where requests seem to come from."""
        self._events: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pages-edge", daemon=True)

    def __enter__(self) -> PagesEdge:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def origin(self) -> str:
        return f"http://deskfleet.localhost:{self.port}"

    def cut(self, code: int = 1006, reason: str = "") -> None:
        """Close every open stream; 1006 drops the connection without a closing frame."""
        self._call(self._cut(code, reason))

    def go_silent(self) -> None:
        """The viewer is gone: its event streams break, and every new request gets 502."""
        self.silent = True
        self._call(self._break_events())

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=15)

    async def _start(self) -> None:
        self._client = ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False)
        app = web.Application()
        app.router.add_get("/stream/{session}", self._stream)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._break_events()
        await self._cut(1001, "")
        await self._client.close()
        await self._runner.cleanup()

    async def _break_events(self) -> None:
        for task in list(self._events):
            task.cancel()

    async def _cut(self, code: int, reason: str) -> None:
        for open_streams in list(self.streams.values()):
            for stream in list(open_streams):
                if code == 1006 and stream._req is not None and stream._req.transport is not None:
                    stream._req.transport.abort()
                else:
                    await stream.close(code=code, message=reason.encode())

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self.silent:
            return web.Response(status=502, text="the viewer is gone")
        if request.method == "GET" and request.path.endswith("/streams"):
            return web.json_response({"items": self.streams_told})
        if self.refuse_events and request.path == "/api/v1/events":
            return web.Response(status=503)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        headers |= {
            "Host": request.host,
            "X-Forwarded-Host": request.host,
            "X-Forwarded-Proto": "http",
            "X-Forwarded-For": self.client_address,
        }
        body = await request.read()
        async with self._client.request(
            request.method,
            self.viewer + request.raw_path,
            headers=headers,
            data=body,
            allow_redirects=False,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
            task = asyncio.current_task()
            if answer.content_type == "text/event-stream" and task is not None:
                self._events.add(task)
                task.add_done_callback(self._events.discard)
            with suppress(ConnectionResetError):  # the page went away
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_streams is not None:
            return web.Response(status=self.refuse_streams)
        session = request.match_info["session"]
        socket = web.WebSocketResponse(protocols=["binary"], compress=False)
        await socket.prepare(request)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.vnc_port)
        self.opened += 1
        self.streams.setdefault(session, []).append(socket)
        upward = asyncio.ensure_future(self._to_browser(reader, socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    writer.write(message.data)
        finally:
            upward.cancel()
            writer.close()
            self.streams[session].remove(socket)
        return socket

    async def _to_browser(self, reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
        while data := await reader.read(65536):
            await socket.send_bytes(data)
        await socket.close(code=4404, message=b"the desktop has gone")
