"""Desktop to browser: the hot path.

aiohttp parses what a browser sends; what it is sent goes past aiohttp, straight between two sockets. One
large `recv_into` and one gathering `sendmsg` of header and payload per wake-up, no copy and no task in
between: about 0.3 ms of CPU per MB where aiohttp's `send_bytes` took 0.6 and websockify 0.7.

Back-pressure: what the browser's socket does not take stays where it is, and the desktop is not read until
it is gone. So a slow browser costs one buffer, however long it is slow.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from viewer.relay.framing import binary_header, ping, pong
from viewer.rfb.conversation import ProtocolError
from viewer.rfb.server_filter import ServerFilter

BUFFER_BYTES = 1 << 18
"""Larger reads cost a slow browser more memory and save no more CPU (128 KiB cost a tenth more per MB)."""
_SPARE_BUFFERS = 4


class BufferPool:
    """Buffers shared by all streams: a stream holds one only while its browser is behind."""

    def __init__(self) -> None:
        self._spare: list[memoryview] = []

    def borrow(self) -> memoryview:
        return self._spare.pop() if self._spare else memoryview(bytearray(BUFFER_BYTES))

    def give_back(self, buffer: memoryview) -> None:
        if len(self._spare) < _SPARE_BUFFERS:
            self._spare.append(buffer)


class Downstream:
    """Everything that goes to one browser, in whole frames. Owns `browser`, not the desktop's socket.

    `on_desktop_gone` and `on_browser_gone` are called at most once each, with a sentence."""

    def __init__(
        self,
        browser: socket.socket,
        pool: BufferPool,
        *,
        on_desktop_gone: Callable[[str], None],
        on_browser_gone: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._browser = browser
        self._desktop: socket.socket | None = None
        self._pool = pool
        self._sift: ServerFilter | None = None
        self._on_desktop_gone = on_desktop_gone
        self._on_browser_gone = on_browser_gone
        self._held: memoryview | None = None
        self._pending: list[bytes | memoryview] = []
        self._pong = b""
        self._drained = asyncio.Event()
        self._drained.set()
        self.bytes_sent = 0
        """Payload bytes taken from the desktop for this browser."""
        self.bytes_taken = 0
        """By the browser's kernel or the edge's, headers included."""

    def send(self, message: bytes) -> None:
        """Queue one binary message that does not come from the joined desktop (the handshake)."""
        if message:
            self._queue([binary_header(len(message)), message])

    def answer_ping(self, payload: bytes) -> None:
        """Only the last ping is answered while the browser is behind, as RFC 6455 (5.5.3) allows."""
        if self._pending:
            self._pong = pong(payload)
        else:
            self._queue([pong(payload)])

    def ping(self) -> None:
        """Unless the browser is behind: what waits for it already shows whether it is there."""
        if not self._pending:
            self._queue([ping()])

    def join(self, desktop: socket.socket, sift: ServerFilter | None = None) -> None:
        """From now on pass on whatever the desktop sends, or what of it passes `sift`."""
        self._desktop = desktop
        self._sift = sift
        if not self._pending:
            self._loop.add_reader(desktop, self._desktop_readable)

    def part(self) -> None:
        """Stop reading the desktop; what is queued still goes out."""
        if self._desktop is not None:
            self._loop.remove_reader(self._desktop)
            self._desktop = None

    async def drain(self) -> None:
        """Return when every queued frame is with the kernel."""
        await self._drained.wait()

    @property
    def between_frames(self) -> bool:
        """Whether a close frame may be written now: nothing waits."""
        return not self._pending

    def close(self) -> None:
        self.part()
        self._loop.remove_writer(self._browser)
        self._browser.close()
        self._pending.clear()
        self._drained.set()

    def _desktop_readable(self) -> None:
        desktop = self._desktop
        if desktop is None:
            return
        buffer = self._pool.borrow()
        try:
            count = desktop.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            self._pool.give_back(buffer)
            return
        except OSError as error:
            count = 0
            reason = f"the desktop has gone ({error.strerror})"
        else:
            reason = "the desktop has gone"
        if not count:
            self._pool.give_back(buffer)
            self.part()
            self._on_desktop_gone(reason)
            return
        if self._sift is not None:
            self._pass_sifted(buffer[:count])
            self._pool.give_back(buffer)
            return
        self.bytes_sent += count
        self._queue([binary_header(count), buffer[:count]])
        if self._pending:
            self._held = buffer
        else:
            self._pool.give_back(buffer)

    def _pass_sifted(self, data: memoryview | bytes) -> None:
        """In portions: a desktop chooses how short its messages are, and meanwhile all others wait."""
        sift, desktop = self._sift, self._desktop
        if sift is None or desktop is None:
            return
        try:
            passed = sift.feed(data)
        except ProtocolError as error:
            self.part()
            self._on_desktop_gone(str(error))
            return
        if sift.behind:
            self._loop.remove_reader(desktop)
            self._loop.call_soon(self._go_on_sifting)
        if passed:
            self.bytes_sent += len(passed)
            self._queue([binary_header(len(passed)), passed])

    def _go_on_sifting(self) -> None:
        if self._pending:
            # The browser is behind; `_browser_writable` comes back to it.
            return
        self._pass_sifted(b"")
        desktop, sift = self._desktop, self._sift
        if desktop is not None and sift is not None and not sift.behind and not self._pending:
            self._loop.add_reader(desktop, self._desktop_readable)

    def _queue(self, frame: list[bytes | memoryview]) -> None:
        behind = bool(self._pending)
        self._pending += frame
        if behind:
            return
        self._write()
        if self._pending:
            self._drained.clear()
            if self._desktop is not None:
                self._loop.remove_reader(self._desktop)
            self._loop.add_writer(self._browser, self._browser_writable)

    def _browser_writable(self) -> None:
        self._write()
        if self._pending:
            return
        if self._pong:
            # After the frame that was under way, never inside it.
            self._pending, self._pong = [self._pong], b""
            self._write()
            if self._pending:
                return
        self._loop.remove_writer(self._browser)
        if self._held is not None:
            self._pool.give_back(self._held)
            self._held = None
        self._drained.set()
        if self._sift is not None and self._sift.behind:
            self._loop.call_soon(self._go_on_sifting)
        elif self._desktop is not None:
            self._loop.add_reader(self._desktop, self._desktop_readable)

    def _write(self) -> None:
        """Hand to the kernel what it takes now; the rest stays in `_pending`."""
        try:
            taken = self._browser.sendmsg(self._pending)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._pending.clear()
            self.part()
            self._on_browser_gone(f"the browser has gone ({error.strerror})")
            return
        self.bytes_taken += taken
        pending = self._pending
        while pending and taken >= len(pending[0]):
            taken -= len(pending[0])
            del pending[0]
        if taken:
            pending[0] = memoryview(pending[0])[taken:]
