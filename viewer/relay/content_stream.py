"""A stream of a desktop's own web client: KasmVNC's protocol, which is no RFB, passed on as it is.

KasmVNC itself keeps view-only: the stream comes as a user of its own, made with the grant's permission and
removed at its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from viewer.grants import DesktopSocket, Grant, GrantRefused
from viewer.relay.answers import CloseCode
from viewer.relay.desktop_access import check_tenant
from viewer.relay.desktops import READ_BYTES, DesktopUnreachable
from viewer.relay.downstream import BufferPool
from viewer.relay.endings import Endings
from viewer.relay.framing import close_frame
from viewer.relay.kasmvnc import accept_of, open_stream
from viewer.relay.settings import Settings
from viewer.relay.splicing import FrameEdges, Pipe
from viewer.relay.stream import CLOSING_SECONDS, Ending, Stream, log, own_handle
from viewer.relay.stream_users import StreamUsers


class ContentStream(Stream):
    """Owns both sockets. Until the desktop is joined, what the browser sends waits in the kernel."""

    kind = "content"

    def __init__(
        self,
        grant: Grant,
        target: DesktopSocket,
        settings: Settings,
        pool: BufferPool,
        users: StreamUsers,
        endings: Endings,
    ) -> None:
        super().__init__(grant, settings)
        self._target = target
        self._pool = pool
        self._users = users
        self._endings = endings
        self._has_user = False
        self._desktop: socket.socket | None = None
        self._edges = FrameEdges()
        """Of what the browser gets."""
        self._to_browser: Pipe | None = None
        self._to_desktop: Pipe | None = None

    @property
    def bytes_to_browser(self) -> int:
        return self._to_browser.bytes_passed if self._to_browser else 0

    @property
    def bytes_to_desktop(self) -> int:
        return self._to_desktop.bytes_passed if self._to_desktop else 0

    async def run(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the browser left during the upgrade")
        # From here on its bytes are read by us; before the 101 it may send none.
        transport.pause_reading()
        browser = own_handle(transport)
        self._log_opening()
        ending = Ending(CloseCode.INTERNAL, "the relay failed")
        try:
            ending = await self._carry(browser, request.headers)
        finally:
            browser.close()
            transport.abort()
            self._log_closing(ending)
        return _Answered()

    async def _carry(self, browser: socket.socket, headers: Mapping[str, str]) -> Ending:
        joining = asyncio.create_task(self._join(browser, _switching(headers)))
        try:
            ending = await self._until_ended()
            joining.cancel()
            await asyncio.wait([joining])
            if ending.code != CloseCode.OK:
                # Before the browser hears of it and asks.
                self._endings.remember(self.grant, ending.code)
            await self._close(browser, ending)
        finally:
            self._let_go()
        return ending

    async def _join(self, browser: socket.socket, switching: bytes) -> None:
        """Answer the upgrade, make the stream's user, reach the desktop as him; raises nothing."""
        name = self._target.name
        try:
            await asyncio.get_running_loop().sock_sendall(browser, switching)
            user = await self._users.make(name, self.stream_id, may_write=self.grant.may_control)
            self._has_user = True
            self._desktop, early = await open_stream(name, user, self._settings)
            # Once more: it may have been given away just now, and then this is the new tenant's already.
            check_tenant(self.grant, self._settings)
        except DesktopUnreachable as error:
            self.end(CloseCode.UNREACHABLE, str(error))
        except GrantRefused as error:
            self.end(CloseCode.REVOKED, str(error))
        except OSError as error:
            self.end(CloseCode.OK, f"the browser has gone ({error.strerror})")
        except Exception:
            log.exception("stream %s failed", self.stream_id)
            self.end(CloseCode.INTERNAL, "the relay failed")
        else:
            self._splice(browser, self._desktop, early)

    def _splice(self, browser: socket.socket, desktop: socket.socket, early: bytes) -> None:
        self._to_browser = Pipe(
            desktop,
            browser,
            self._pool,
            edges=self._edges,
            on_source_gone=self._desktop_gone,
            on_sink_gone=self._browser_gone,
        )
        self._to_desktop = Pipe(
            browser,
            desktop,
            self._pool,
            on_source_gone=self._browser_gone,
            on_sink_gone=self._desktop_gone,
        )
        self._to_browser.start(early)
        self._to_desktop.start(b"")

    def _desktop_gone(self, why: str | None) -> None:
        if self._edges.closed:
            self.end(CloseCode.OK, "the desktop closed the stream")
        else:
            self.end(CloseCode.GONE, f"the desktop has gone ({why})" if why else "the desktop has gone")

    def _browser_gone(self, why: str | None) -> None:
        self.end(CloseCode.OK, f"the browser has gone ({why})" if why else "the browser closed the stream")

    async def _close(self, browser: socket.socket, ending: Ending) -> None:
        """Tell the browser why, if what it got so far ends with a whole frame."""
        if self._to_desktop is not None:
            self._to_desktop.close()
        if self._to_browser is not None and not await _to_end_of_frame(self._to_browser):
            return
        with suppress(OSError):
            if not self._edges.closed:
                browser.send(close_frame(ending.code, ending.reason))
            browser.shutdown(socket.SHUT_WR)
            # What it still sends must be read, or the kernel throws the close frame away with a reset.
            async with asyncio.timeout(CLOSING_SECONDS):
                while await asyncio.get_running_loop().sock_recv(browser, READ_BYTES):
                    pass

    def _let_go(self) -> None:
        for pipe in (self._to_browser, self._to_desktop):
            if pipe is not None:
                pipe.close()
        if self._desktop is not None:
            self._desktop.close()
        if self._has_user:
            self._users.remove(self._target.name, self.stream_id)


class _Answered(web.StreamResponse):
    """What aiohttp is told after a stream: everything was said on the connection itself."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return


async def _to_end_of_frame(pipe: Pipe) -> bool:
    """Whether the browser has whole frames only, after at most CLOSING_SECONDS."""
    pipe.stop()
    with suppress(OSError):
        async with asyncio.timeout(CLOSING_SECONDS):
            return await pipe.finish_frame()
    return False


def _switching(headers: Mapping[str, str]) -> bytes:
    """The 101 to a browser's upgrade, which was found to be one."""
    offered = [name.strip() for name in headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    protocol = "Sec-WebSocket-Protocol: binary\r\n" if "binary" in offered else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_of(headers[hdrs.SEC_WEBSOCKET_KEY])}\r\n{protocol}\r\n"
    ).encode("ascii")
