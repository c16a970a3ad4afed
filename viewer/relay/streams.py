"""Streams: one browser joined to one desktop each, and the register of all that are open."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from aiohttp import WSMsgType, web

from viewer.grants import Grant, Target
from viewer.model import utcnow
from viewer.relay.answers import CloseCode, StreamInfo
from viewer.relay.desktops import DesktopUnreachable, connect, converse, use_no_delay
from viewer.relay.downstream import BufferPool, Downstream
from viewer.relay.framing import close_reason
from viewer.relay.settings import Settings
from viewer.rfb.client_messages import ViewOnlyFilter
from viewer.rfb.conversation import Conversation, ProtocolError, Refused
from viewer.rfb.handshake import CLIENT_INIT_SHARED, client_handshake, server_handshake

CLOSING_SECONDS = 0.5
"""For a slow browser to take what is queued, and again for its close frame. Twice this stays below the
2 s in which the relay must be gone after SIGTERM."""

log = logging.getLogger(__name__)


class Ending(NamedTuple):
    code: int
    reason: str


class StreamRefused(Exception):
    """A limit on open streams is reached."""


class Stream:
    """One stream. `run` returns when it is over; `end` may be called at any time, the first call decides."""

    def __init__(self, grant: Grant, target: Target, settings: Settings, pool: BufferPool) -> None:
        self.stream_id = secrets.token_hex(6)
        self.grant = grant
        self.opened_at = utcnow()
        self._target = target
        self._settings = settings
        self._pool = pool
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._downstream: Downstream | None = None
        self._bytes_to_desktop = 0
        # View-only is kept here, not in the page: what a watcher sends to act never reaches the desktop.
        self._view_only = None if grant.may_control else ViewOnlyFilter()

    def end(self, code: int, reason: str) -> None:
        if not self._ending.done():
            self._ending.set_result(Ending(code, reason))

    def info(self) -> StreamInfo:
        return StreamInfo(
            stream_id=self.stream_id,
            session_id=self.grant.session_id,
            tenant_id=self.grant.tenant_id,
            principal=self.grant.principal,
            may_control=self.grant.may_control,
            opened_at=self.opened_at,
            bytes_to_browser=self._downstream.bytes_sent if self._downstream else 0,
            bytes_to_desktop=self._bytes_to_desktop,
        )

    async def run(self, request: web.Request) -> web.WebSocketResponse:
        """Answer the upgrade and carry the stream to its end."""
        browser = web.WebSocketResponse(
            protocols=("binary",),
            compress=False,
            autoclose=False,
            autoping=False,
            timeout=CLOSING_SECONDS,
            max_msg_size=self._settings.max_message_bytes,
        )
        await browser.prepare(request)
        transport = await _flushed_transport(request)
        self._downstream = Downstream(
            _own_handle(transport),
            self._pool,
            on_desktop_gone=lambda reason: self.end(CloseCode.GONE, reason),
            on_browser_gone=lambda reason: self.end(CloseCode.OK, reason),
        )
        log.info("stream %s open %s", self.stream_id, self._who())
        ending = Ending(CloseCode.INTERNAL, "the relay failed")
        try:
            ending = await self._carry(browser, self._downstream)
        finally:
            await self._close(browser, transport, self._downstream, ending)
        return browser

    async def _carry(self, browser: web.WebSocketResponse, downstream: Downstream) -> Ending:
        timer = asyncio.get_running_loop().call_later(
            self._settings.max_stream_seconds,
            self.end,
            CloseCode.TIMED_OUT,
            "the stream reached its longest time",
        )
        work = asyncio.create_task(self._join(browser, downstream))
        try:
            return await self._ending
        finally:
            timer.cancel()
            downstream.part()
            work.cancel()
            await asyncio.wait([work])

    async def _join(self, browser: web.WebSocketResponse, downstream: Downstream) -> None:
        """Both handshakes, then browser to desktop until one of them ends; raises nothing."""
        desktop: socket.socket | None = None
        try:
            desktop = await self._log_in()
            early = await self._greet(browser, downstream)
            await self._to_desktop(desktop, CLIENT_INIT_SHARED + self._admit(early))
            downstream.join(desktop)
            while True:
                await self._to_desktop(desktop, self._admit(await _next_bytes(browser, downstream)))
        except (DesktopUnreachable, Refused) as error:
            self.end(CloseCode.UNREACHABLE, str(error))
        except ProtocolError as error:
            self.end(CloseCode.PROTOCOL_ERROR, str(error))
        except _BrowserLeft:
            self.end(CloseCode.OK, "the browser closed the stream")
        except OSError as error:
            self.end(CloseCode.GONE, f"the desktop has gone ({error.strerror})")
        except Exception:
            log.exception("stream %s failed", self.stream_id)
            self.end(CloseCode.INTERNAL, "the relay failed")
        finally:
            downstream.part()
            if desktop is not None:
                desktop.close()

    async def _log_in(self) -> socket.socket:
        password = self.grant.vnc_password.get_secret_value() if self.grant.vnc_password else None
        desktop: socket.socket | None = None
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                desktop = await connect(self._target, self._settings)
                await converse(desktop, Conversation(client_handshake(password)))
        except BaseException as error:
            if desktop is not None:
                desktop.close()
            if isinstance(error, TimeoutError):
                raise DesktopUnreachable("the desktop did not answer in time") from error
            if isinstance(error, ProtocolError):
                raise DesktopUnreachable(str(error)) from error
            raise
        return desktop

    async def _greet(self, browser: web.WebSocketResponse, downstream: Downstream) -> bytes:
        """Shake hands with the browser; return what it sent beyond."""
        conversation = Conversation(server_handshake())
        downstream.send(conversation.opening())
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                while not conversation.done:
                    downstream.send(conversation.feed(await _next_bytes(browser, downstream)))
        except TimeoutError:
            self.end(CloseCode.TIMED_OUT, "the viewer did not finish its handshake in time")
            raise _BrowserLeft from None
        return conversation.leftover

    def _admit(self, received: bytes) -> bytes:
        """What of the browser's bytes may reach the desktop."""
        return self._view_only.feed(received) if self._view_only else received

    async def _to_desktop(self, desktop: socket.socket, data: bytes) -> None:
        """Returns when the kernel has taken all: until then aiohttp stops reading the browser."""
        self._bytes_to_desktop += len(data)
        try:
            sent = desktop.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            await asyncio.get_running_loop().sock_sendall(desktop, memoryview(data)[sent:])

    async def _close(
        self,
        browser: web.WebSocketResponse,
        transport: asyncio.Transport,
        downstream: Downstream,
        ending: Ending,
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                await downstream.drain()
        whole = downstream.between_frames
        downstream.close()
        if whole and not transport.is_closing():
            await browser.close(code=ending.code, message=close_reason(ending.reason))
            # The close frame may still be queued; a browser that does not read must not keep us.
            asyncio.get_running_loop().call_later(CLOSING_SECONDS, transport.abort)
        else:
            transport.abort()
        log.info(
            "stream %s closed %s code=%d seconds=%.1f to_browser=%d to_desktop=%d: %s",
            self.stream_id,
            self._who(),
            ending.code,
            (utcnow() - self.opened_at).total_seconds(),
            downstream.bytes_sent,
            self._bytes_to_desktop,
            ending.reason,
        )

    def _who(self) -> str:
        return (
            f"session={self.grant.session_id} tenant={self.grant.tenant_id} principal={self.grant.principal}"
        )


class Streams:
    """Every open stream of this relay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = BufferPool()
        self._open: dict[Stream, asyncio.Task[web.WebSocketResponse]] = {}
        self._per_session: Counter[str] = Counter()

    def infos(self) -> list[StreamInfo]:
        return [stream.info() for stream in self._open]

    async def carry(self, request: web.Request, grant: Grant, target: Target) -> web.WebSocketResponse:
        """Run one stream to its end; raises StreamRefused when there are too many."""
        self._refuse_if_full(grant.session_id)
        stream = Stream(grant, target, self._settings, self._pool)
        task = asyncio.ensure_future(stream.run(request))
        self._open[stream] = task
        self._per_session[grant.session_id] += 1
        try:
            return await task
        finally:
            del self._open[stream]
            self._per_session[grant.session_id] -= 1
            if not self._per_session[grant.session_id]:
                del self._per_session[grant.session_id]

    def end_session(self, session_id: str, code: int, reason: str) -> int:
        """Ask all streams of the session to end; return how many there were."""
        of_session = [stream for stream in self._open if stream.grant.session_id == session_id]
        for stream in of_session:
            stream.end(code, reason)
        return len(of_session)

    def end_one(self, session_id: str, stream_id: str, code: int, reason: str) -> None:
        """Ask this stream to end, if the session has it; one that has just ended by itself is no error."""
        for stream in self._open:
            if (stream.grant.session_id, stream.stream_id) == (session_id, stream_id):
                stream.end(code, reason)

    async def end_all(self, code: int, reason: str) -> None:
        """End every stream and return when the browsers have been told, or would not listen."""
        for stream in self._open:
            stream.end(code, reason)
        if self._open:
            await asyncio.wait(list(self._open.values()))

    def _refuse_if_full(self, session_id: str) -> None:
        if len(self._open) >= self._settings.max_streams:
            raise StreamRefused(f"this relay carries its {self._settings.max_streams} streams already")
        if self._per_session[session_id] >= self._settings.max_streams_per_session:
            raise StreamRefused(
                f"this session has its {self._settings.max_streams_per_session} streams already"
            )


class _BrowserLeft(Exception):
    pass


async def _next_bytes(browser: web.WebSocketResponse, downstream: Downstream) -> bytes:
    """The browser's next binary message; raises _BrowserLeft or ProtocolError."""
    while True:
        message = await browser.receive()
        if message.type is WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is WSMsgType.PING:
            downstream.answer_ping(bytes(message.data))
        elif message.type is WSMsgType.TEXT:
            raise ProtocolError("the viewer sent text; a stream takes binary messages")
        elif message.type is not WSMsgType.PONG:
            raise _BrowserLeft


async def _flushed_transport(request: web.Request) -> asyncio.Transport:
    """The browser's transport, once the 101 is with the kernel: what we write beside it must come after."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the browser left during the upgrade")
    while transport.get_write_buffer_size() and not transport.is_closing():
        await asyncio.sleep(0)
    return transport


def _own_handle(transport: asyncio.Transport) -> socket.socket:
    """A second handle on the browser's connection, so that the event loop lets us wait on it ourselves."""
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    sock.setblocking(False)
    use_no_delay(sock)
    return sock
