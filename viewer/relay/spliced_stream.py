"""A stream whose messages are none of the relay's business: passed on as they are, between two sockets."""

from __future__ import annotations

import asyncio
import socket
from abc import abstractmethod
from contextlib import suppress
from typing import ClassVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from viewer.grants import Grant, GrantRefused
from viewer.relay.answers import CloseCode
from viewer.relay.desktops import READ_BYTES, DesktopUnreachable
from viewer.relay.downstream import BufferPool
from viewer.relay.framing import close_frame
from viewer.relay.settings import Settings
from viewer.relay.splicing import FrameEdges, Pipe
from viewer.relay.stream import CLOSING_SECONDS, Ending, Stream, log, own_handle


class SplicedStream(Stream):
    """Owns both sockets. Until the far end is joined, what the browser sends waits in the kernel."""

    far_end: ClassVar[str] = "desktop"
    """What the browser is joined with, in the words of a reason."""

    def __init__(self, grant: Grant, settings: Settings, pool: BufferPool) -> None:
        super().__init__(grant, settings)
        self._pool = pool
        self._far: socket.socket | None = None
        self._edges = FrameEdges()
        """Of what the browser gets."""
        self._to_browser: Pipe | None = None
        self._to_far: Pipe | None = None

    @abstractmethod
    async def _reach(self, browser: socket.socket, request: web.Request) -> bytes:
        """Answer the upgrade and put a connection on which frames follow into `_far`; return the first bytes
        of them. May raise DesktopUnreachable, GrantRefused, OSError where the browser has gone."""

    def _on_ending(self, ending: Ending) -> None:
        """Called before the browser hears of it."""

    def _last_words(self, ending: Ending) -> bytes:
        """What a browser gets that waits for a frame."""
        return close_frame(ending.code, ending.reason)

    @property
    def bytes_to_browser(self) -> int:
        return self._to_browser.bytes_passed if self._to_browser else 0

    @property
    def bytes_to_desktop(self) -> int:
        return self._to_far.bytes_passed if self._to_far else 0

    def look(self, now: float) -> None:
        if self._to_browser is not None:
            self._end_if_stuck(now, taken=self._to_browser.bytes_taken, waits=self._to_browser.is_waiting)

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
            ending = await self._carry(browser, request)
        finally:
            browser.close()
            transport.abort()
            self._log_closing(ending)
        return Answered()

    async def _carry(self, browser: socket.socket, request: web.Request) -> Ending:
        joining = asyncio.create_task(self._join(browser, request))
        try:
            ending = await self._until_ended()
            joining.cancel()
            await asyncio.wait([joining])
            self._on_ending(ending)
            await self._close(browser, ending)
        finally:
            self._let_go()
        return ending

    async def _join(self, browser: socket.socket, request: web.Request) -> None:
        """Reach the far end and join the browser with it; raises nothing."""
        try:
            early = await self._reach(browser, request)
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
            self._splice(browser, early)

    def _splice(self, browser: socket.socket, early: bytes) -> None:
        if self._far is None:
            raise TypeError("_reach has reached nothing")
        self._to_browser = Pipe(
            self._far,
            browser,
            self._pool,
            edges=self._edges,
            on_source_gone=self._far_end_gone,
            on_sink_gone=self._browser_gone,
        )
        self._to_far = Pipe(
            browser,
            self._far,
            self._pool,
            on_source_gone=self._browser_gone,
            on_sink_gone=self._far_end_gone,
        )
        self._to_browser.start(early)
        self._to_far.start(b"")

    def _far_end_gone(self, why: str | None) -> None:
        if self._edges.closed:
            self.end(CloseCode.OK, f"the {self.far_end} closed the stream")
        else:
            reason = f"the {self.far_end} has gone"
            self.end(CloseCode.GONE, f"{reason} ({why})" if why else reason)

    def _browser_gone(self, why: str | None) -> None:
        self.end(CloseCode.OK, f"the browser has gone ({why})" if why else "the browser closed the stream")

    async def _close(self, browser: socket.socket, ending: Ending) -> None:
        """Tell the browser why, if what it got so far ends with a whole frame."""
        if self._to_far is not None:
            self._to_far.close()
        if self._to_browser is not None and not await _to_end_of_frame(self._to_browser):
            return
        with suppress(OSError):
            if not self._edges.closed:
                browser.send(self._last_words(ending))
            browser.shutdown(socket.SHUT_WR)
            # What it still sends must be read, or the kernel throws the close frame away with a reset.
            async with asyncio.timeout(CLOSING_SECONDS):
                while await asyncio.get_running_loop().sock_recv(browser, READ_BYTES):
                    pass

    def _let_go(self) -> None:
        for pipe in (self._to_browser, self._to_far):
            if pipe is not None:
                pipe.close()
        if self._far is not None:
            self._far.close()


class Answered(web.StreamResponse):
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
