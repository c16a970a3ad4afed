"""A stream that carries RFB. The relay logs in for the browser, and lets pass what role and lease allow."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial

from aiohttp import WSMsgType, web

from viewer.grants import Grant, GrantRefused, Target
from viewer.model import utcnow
from viewer.relay.acting import Seats
from viewer.relay.answers import CloseCode
from viewer.relay.desktop_access import check_tenant
from viewer.relay.desktops import DesktopUnreachable, connect, converse
from viewer.relay.downstream import BufferPool, Downstream
from viewer.relay.framing import close_reason
from viewer.relay.leases import LeaseNews
from viewer.relay.settings import Settings
from viewer.relay.stream import CLOSING_SECONDS, Ending, Stream, log, own_handle
from viewer.relay.upstream import Upstream
from viewer.rfb.client_filter import ClientFilter
from viewer.rfb.conversation import Conversation, ProtocolError, Refused
from viewer.rfb.handshake import CLIENT_INIT_SHARED, client_handshake, server_handshake
from viewer.rfb.server_filter import ServerFilter

ADMIT_BYTES = 4096
"""Of a browser's messages at once: a thousand of the shortest, then the other streams have a turn."""


class RfbStream(Stream):
    """Both handshakes are the relay's own; then the browser's messages are parsed, and what acts on the
    desktop passes only from whoever may."""

    kind = "rfb"
    is_the_keyboard = True

    def __init__(
        self,
        grant: Grant,
        target: Target,
        settings: Settings,
        pool: BufferPool,
        seats: Seats | None = None,
    ) -> None:
        """seats: of what else acts on the same desktops."""
        super().__init__(grant, settings)
        self._seats = seats
        self._target = target
        self._pool = pool
        self._downstream: Downstream | None = None
        self._desktop: socket.socket | None = None
        self._upstream: Upstream | None = None
        # Kept here, not in the page: what a watcher sends to act never reaches the desktop.
        self._heard_at = self._pinged_at = asyncio.get_running_loop().time()
        self._filter = ClientFilter(
            may_act=self.may_act,
            may_ever_act=grant.may_control,
            clipboard_to_desktop=grant.clipboard.to_desktop,
            clipboard_from_desktop=grant.clipboard.from_desktop,
        )
        self._way_back = None if grant.clipboard.from_desktop else ServerFilter()

    @property
    def bytes_to_browser(self) -> int:
        return self._downstream.bytes_sent if self._downstream else 0

    @property
    def bytes_to_desktop(self) -> int:
        return self._upstream.bytes_sent if self._upstream else 0

    def hear(self, news: LeaseNews) -> None:
        super().hear(news)
        if not self.may_act:
            self._let_go()

    def look(self, now: float) -> None:
        downstream, upstream, settings = self._downstream, self._upstream, self._settings
        if downstream is None or upstream is None:
            return
        self._end_if_stuck(now, taken=downstream.bytes_taken, waits=not downstream.between_frames)
        if upstream.is_waiting or not downstream.between_frames:
            # The desktop takes nothing, so the browser is not read, and its pongs wait with the rest; or the
            # browser is behind, and has not been asked.
            self._heard_at = now
        elif now - self._heard_at >= settings.silent_browser_seconds:
            self.end(CloseCode.TIMED_OUT, "the browser does not answer any more")
        elif now - self._pinged_at >= settings.ping_seconds:
            self._pinged_at = now
            downstream.ping()

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
            await self._hang_up()

    async def _join(self, browser: web.WebSocketResponse, downstream: Downstream) -> None:
        """Both handshakes, then browser to desktop until one of them ends; raises nothing."""
        try:
            self._desktop = await self._log_in()
            early = await self._greet(browser, downstream)
            self._upstream = Upstream(self._desktop, on_desktop_gone=partial(self.end, CloseCode.GONE))
            self._upstream.send(CLIENT_INIT_SHARED)
            await self.admit(early, self._upstream)
            downstream.join(self._desktop, self._way_back)
            while True:
                await self.admit(await self._next_bytes(browser, downstream), self._upstream)
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
                    downstream.send(conversation.feed(await self._next_bytes(browser, downstream)))
        except TimeoutError:
            self.end(CloseCode.TIMED_OUT, "the viewer did not finish its handshake in time")
            raise _BrowserLeft from None
        return conversation.leftover

    async def _next_bytes(self, browser: web.WebSocketResponse, downstream: Downstream) -> bytes:
        """The browser's next binary message; raises _BrowserLeft or ProtocolError."""
        while True:
            message = await browser.receive()
            self._heard_at = asyncio.get_running_loop().time()
            if message.type is WSMsgType.BINARY:
                return bytes(message.data)
            if message.type is WSMsgType.PING:
                downstream.answer_ping(bytes(message.data))
            elif message.type is WSMsgType.TEXT:
                raise ProtocolError("the viewer sent text; a stream takes binary messages")
            elif message.type is not WSMsgType.PONG:
                raise _BrowserLeft

    async def admit(self, received: bytes, upstream: Upstream) -> None:
        """Send on what of the browser's bytes may reach the desktop. Returns when the kernel has taken it:
        until then aiohttp stops reading the browser."""
        for at in range(0, len(received), ADMIT_BYTES):
            if at:
                await asyncio.sleep(0)
            self._filter.may_act = self.may_act
            pointer = self._filter.held.at
            passed = self._filter.feed(received[at : at + ADMIT_BYTES])
            if self._way_back is not None and self._filter.pixel_format is not None:
                self._way_back.use_pixel_format(self._filter.pixel_format)
            # Sent before anything else may happen: a lease that is lost must find it among what is held.
            if self._filter.has_acted:
                passed = await self._in_turn(passed)
                self._note_pointer(pointer)
                self.last_input_at = utcnow()
            upstream.send(passed)
            await upstream.room()

    async def _in_turn(self, passed: bytes) -> bytes:
        """What may still be sent once no gesture of the API is under way."""
        if self._seats is None:
            return passed
        turn = self._seats.taken(self.grant.session_id)
        if turn is not None:
            async with turn:
                pass
            if not self.may_act:
                # What is let go of has been let go of meanwhile, and must not be pressed afterwards.
                passed = ClientFilter(may_act=False, may_ever_act=False).feed(passed)
        return passed

    def _note_pointer(self, before: tuple[int, int] | None) -> None:
        at = self._filter.held.at
        # Another object: the pointer was put somewhere just now, be it to the same place.
        if self._seats is not None and at is not None and at is not before:
            self._seats.note_pointer(self.grant.session_id, at)

    def _let_go(self) -> None:
        """No key and no button stays down because of somebody who can't lift it any more."""
        if self._upstream is not None:
            self._upstream.send(self._filter.held.release())

    async def _hang_up(self) -> None:
        """Let go of everything before the desktop sees the connection end."""
        upstream, desktop = self._upstream, self._desktop
        self._let_go()
        try:
            if upstream is not None:
                async with asyncio.timeout(CLOSING_SECONDS):
                    await upstream.room()
        except TimeoutError:
            log.info("stream %s: the desktop takes nothing any more", self.stream_id)
        finally:
            if upstream is not None:
                upstream.close()
            if desktop is not None:
                desktop.close()

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


async def _flushed_transport(request: web.Request) -> asyncio.Transport:
    """The browser's transport, once the 101 is with the kernel: what we write beside it must come after."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the browser left during the upgrade")
    while transport.get_write_buffer_size() and not transport.is_closing():
        await asyncio.sleep(0)
    return transport
