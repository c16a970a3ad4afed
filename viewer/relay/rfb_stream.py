"""A stream that carries RFB: parsed by the relay, which logs in for the browser and keeps view-only."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from aiohttp import WSMsgType, web

from viewer.grants import Grant, GrantRefused, Target
from viewer.relay.answers import CloseCode
from viewer.relay.desktop_access import check_tenant
from viewer.relay.desktops import DesktopUnreachable, connect, converse
from viewer.relay.downstream import BufferPool, Downstream
from viewer.relay.framing import close_reason
from viewer.relay.settings import Settings
from viewer.relay.stream import CLOSING_SECONDS, Ending, Stream, log, own_handle
from viewer.rfb.client_messages import ViewOnlyFilter
from viewer.rfb.conversation import Conversation, ProtocolError, Refused
from viewer.rfb.handshake import CLIENT_INIT_SHARED, client_handshake, server_handshake

ADMIT_BYTES = 4096
"""Of a watcher's messages at once: a thousand of the shortest, then the other streams have a turn."""


class RfbStream(Stream):
    """Both handshakes are the relay's own; then a watcher's messages are parsed, and dropped if they act."""

    kind = "rfb"

    def __init__(self, grant: Grant, target: Target, settings: Settings, pool: BufferPool) -> None:
        super().__init__(grant, settings)
        self._target = target
        self._pool = pool
        self._downstream: Downstream | None = None
        self._bytes_to_desktop = 0
        # View-only is kept here, not in the page: what a watcher sends to act never reaches the desktop.
        self._view_only = None if grant.may_control else ViewOnlyFilter()

    @property
    def bytes_to_browser(self) -> int:
        return self._downstream.bytes_sent if self._downstream else 0

    @property
    def bytes_to_desktop(self) -> int:
        return self._bytes_to_desktop

    async def run(self, request: web.Request) -> web.WebSocketResponse:
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
            own_handle(transport),
            self._pool,
            on_desktop_gone=lambda reason: self.end(CloseCode.GONE, reason),
            on_browser_gone=lambda reason: self.end(CloseCode.OK, reason),
        )
        self._log_opening()
        ending = Ending(CloseCode.INTERNAL, "the relay failed")
        try:
            ending = await self._carry(browser, self._downstream)
        finally:
            await self._close(browser, transport, self._downstream, ending)
        return browser

    async def _carry(self, browser: web.WebSocketResponse, downstream: Downstream) -> Ending:
        work = asyncio.create_task(self._join(browser, downstream))
        try:
            return await self._until_ended()
        finally:
            downstream.part()
            work.cancel()
            await asyncio.wait([work])

    async def _join(self, browser: web.WebSocketResponse, downstream: Downstream) -> None:
        """Both handshakes, then browser to desktop until one of them ends; raises nothing."""
        desktop: socket.socket | None = None
        try:
            desktop = await self._log_in()
            early = await self._greet(browser, downstream)
            await self._to_desktop(desktop, CLIENT_INIT_SHARED + await self.admit(early))
            downstream.join(desktop)
            while True:
                await self._to_desktop(desktop, await self.admit(await _next_bytes(browser, downstream)))
        except (DesktopUnreachable, Refused) as error:
            self.end(CloseCode.UNREACHABLE, str(error))
        except GrantRefused as error:
            self.end(CloseCode.REVOKED, str(error))
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
                # Once more: it may have been given away just now, and then this is the new tenant's already.
                check_tenant(self.grant, self._settings)
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

    async def admit(self, received: bytes) -> bytes:
        """What of the browser's bytes may reach the desktop."""
        if self._view_only is None:
            return received
        passed = self._view_only.feed(received[:ADMIT_BYTES])
        for at in range(ADMIT_BYTES, len(received), ADMIT_BYTES):
            await asyncio.sleep(0)
            passed += self._view_only.feed(received[at : at + ADMIT_BYTES])
        return passed

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
        self._log_closing(ending)


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
