"""One HTTP request to a port of a sandbox and its answer, each passed on as it comes.

It is registered like a stream, because it may last as long as one: a download, a log that is followed. Who
loses the right to it loses it in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import ClientError, ClientResponse, ClientSession, web
from yarl import URL

from viewer.grants import Grant, SandboxPort
from viewer.relay.answers import CloseCode
from viewer.relay.port_messages import answer_headers, refused, refused_by_lease, request_headers
from viewer.relay.settings import Settings
from viewer.relay.spliced_stream import Answered
from viewer.relay.stream import Ending, Stream, log

LOOK_SECONDS = 1.0
"""How soon it is noticed that a client has left while the sandbox is silent."""


class PortExchange(Stream):
    """`server` speaks to OpenSandbox; `way`: the whole address there."""

    kind = "port"

    def __init__(
        self, grant: Grant, target: SandboxPort, settings: Settings, *, server: ClientSession, way: URL
    ) -> None:
        super().__init__(grant, settings)
        self._target = target
        self._server = server
        self._way = way
        self._sent = 0
        self._received = 0
        self._is_answered = False

    @property
    def bytes_to_browser(self) -> int:
        return self._sent

    @property
    def bytes_to_desktop(self) -> int:
        return self._received

    async def run(self, request: web.Request) -> web.StreamResponse:
        exchange = asyncio.create_task(self._exchange(request))
        exchange.add_done_callback(lambda _: self.end(CloseCode.OK, "it was answered"))
        looking = asyncio.create_task(self._notice_leaving(request))
        ending = Ending(CloseCode.INTERNAL, "the relay failed")
        try:
            ending = await self._until_ended()
        finally:
            looking.cancel()
            if not exchange.done():
                if not self._can_be_refused(ending):
                    # What has gone out cannot be mended; a connection that is cut tells the client.
                    _cut(request)
                exchange.cancel()
                await asyncio.wait([exchange])
        if not exchange.cancelled():
            return exchange.result()
        return refused_by_lease(ending.reason) if self._can_be_refused(ending) else Answered()

    def _can_be_refused(self, ending: Ending) -> bool:
        return ending.code == CloseCode.LEASE_LOST and not self._is_answered

    def look(self, now: float) -> None:
        """Reading and writing have time limits of their own."""

    async def _notice_leaving(self, request: web.Request) -> None:
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(LOOK_SECONDS)
        self.end(CloseCode.OK, "the client has left")

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        # The server passes on no body of a GET, but the length that it says.
        has_body = request.body_exists and request.method != "GET"
        headers = request_headers(request)
        if not has_body:
            headers.pop("Content-Length", None)
        try:
            async with self._server.request(
                request.method,
                self._way,
                headers=headers,
                data=self._body(request) if has_body else None,
                allow_redirects=False,
            ) as answer:
                return await self._pass_on(request, answer)
        except TimeoutError:
            return refused(504, "PORT_TIMEOUT", "the sandbox did not answer in time")
        except (ClientError, ValueError) as error:
            log.info("request %s %s failed: %s", self.stream_id, self._who(), type(error).__name__)
            return refused(502, "PORT_UNREACHABLE", "this host's OpenSandbox server gives no usable answer")

    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._settings.port_idle_seconds):
                    part = await request.content.readany()
            except TimeoutError:
                self.end(CloseCode.TIMED_OUT, "the client sent nothing for too long")
                raise
            if not part:
                return
            self._received += len(part)
            yield part

    async def _pass_on(self, request: web.Request, upstream: ClientResponse) -> web.StreamResponse:
        answer = web.StreamResponse(
            status=upstream.status,
            reason=upstream.reason,
            headers=answer_headers(upstream.headers, self.grant.session_id, self._target),
        )
        whole = False
        try:
            self._is_answered = True
            await answer.prepare(request)
            with suppress(ClientError, ConnectionError, TimeoutError):
                async for part in upstream.content.iter_any():
                    async with asyncio.timeout(self._settings.port_idle_seconds):
                        await answer.write(part)
                    self._sent += len(part)
                await answer.write_eof()
                whole = True
        finally:
            if not whole:
                _cut(request)
        return answer


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
