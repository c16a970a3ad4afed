"""Bytes passed on as they are, from one socket to the other.

For streams whose messages are none of the relay's business. The same way as in `downstream`: one large
`recv_into`, one `send`, no copy and no task in between; what the sink does not take stays where it is, and
the source is not read until it is gone. Towards a browser the edges of WebSocket frames are noticed, because
a close frame of our own may stand between two frames and never inside one. Whoever sends the frames chooses
how many there are, and noticing one takes a microsecond: after `FRAMES_AT_ONCE` all others have a turn.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from viewer.relay.downstream import BUFFER_BYTES, BufferPool

FRAMES_AT_ONCE = 1000
_CLOSE = 0x8
_MASKED = 0x80
_LONGEST_HEADER = 14


class FrameEdges:
    """Where WebSocket frames begin and end (RFC 6455, 5.2) in bytes that pass by in any portions."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._payload_left = 0
        self.closed = False
        """Whether a close frame has begun: nothing may follow it."""

    @property
    def missing(self) -> int:
        """Bytes that are surely still to come of the frame under way; 0 between two frames."""
        if self._header:
            return _header_size(self._header) - len(self._header)
        return self._payload_left

    def feed(self, data: memoryview) -> int:
        """Return how many bytes were looked at: all, or those of so many frames that it is time for a pause.
        Feed the rest next."""
        at, end, frames = self._skip_payload(0, len(data)), len(data), 0
        while at < end and frames < FRAMES_AT_ONCE:
            frames += 1
            if self._header or end - at < _LONGEST_HEADER:
                at = self._add_to_header(data, at, end)
            else:
                # Nearly always: whole headers are read where they lie.
                at += self._begin(data[at : at + _LONGEST_HEADER])
            at = self._skip_payload(at, end)
        return at

    def _skip_payload(self, at: int, end: int) -> int:
        step = min(self._payload_left, end - at)
        self._payload_left -= step
        return at + step

    def _add_to_header(self, data: memoryview, at: int, end: int) -> int:
        step = min(_header_size(self._header) - len(self._header), end - at)
        self._header += data[at : at + step]
        if len(self._header) == _header_size(self._header):
            self._begin(self._header)
            self._header = bytearray()
        return at + step

    def _begin(self, header: bytearray | memoryview) -> int:
        """Note the frame that begins so; return the bytes of its header."""
        size = header[1] & 0x7F
        if size == 126:
            size = int.from_bytes(header[2:4], "big")
        elif size == 127:
            size = int.from_bytes(header[2:10], "big")
        self._payload_left = size
        if header[0] & 0xF == _CLOSE:
            self.closed = True
        return _header_size(header)


def _header_size(header: bytearray | memoryview) -> int:
    """Bytes of the whole header that begins so; 2 while that is unknown."""
    if len(header) < 2:
        return 2
    second = header[1]
    size = second & 0x7F
    return (2 if size < 126 else 4 if size == 126 else 10) + (4 if second & _MASKED else 0)


class Pipe:
    """One direction. Owns neither socket. `on_source_gone` and `on_sink_gone` are called at most once each,
    with the reason, or None where the other side ended in order. `edges`: None if nobody asks for them."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        pool: BufferPool,
        *,
        edges: FrameEdges | None = None,
        on_source_gone: Callable[[str | None], None],
        on_sink_gone: Callable[[str | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._pool = pool
        self._edges = edges
        self._on_source_gone = on_source_gone
        self._on_sink_gone = on_sink_gone
        self._reading = False
        self._is_held = False
        self._rest: memoryview | None = None
        self._looked_at = 0
        """Bytes of `_rest` whose edges are known; no others go out."""
        self._held: memoryview | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self.bytes_passed = 0
        """Taken from the source, frame headers included."""
        self.bytes_taken = 0
        """By the sink; what it has not taken waits."""

    @property
    def is_waiting(self) -> bool:
        return self._rest is not None

    def start(self, early: bytes) -> None:
        """Pass on `early`, which was read from the source before, and whatever comes."""
        self._reading = True
        self._loop.add_reader(self._source, self._readable)
        if early:
            self._pass_on(memoryview(early))

    def hold(self) -> None:
        """Let what comes wait in the kernel until `go_on`."""
        if self._reading:
            self._reading, self._is_held = False, True
            self._loop.remove_reader(self._source)

    def go_on(self) -> None:
        if self._is_held:
            self._reading, self._is_held = True, False
            if self._rest is None:
                self._loop.add_reader(self._source, self._readable)

    def stop(self) -> None:
        """Stop reading; what the sink has not taken yet still goes out."""
        self._is_held = False
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._source)

    async def finish_frame(self) -> bool:
        """After `stop`: go on to the end of the frame under way. Whether it came; the caller sets the
        time limit."""
        await self._drained.wait()
        while self._edges is not None and (missing := self._edges.missing):
            data = await self._loop.sock_recv(self._source, min(missing, BUFFER_BYTES))
            if not data:
                return False
            await self._loop.sock_sendall(self._sink, data)
            self._edges.feed(memoryview(data))
            self.bytes_passed += len(data)
        return self._rest is None

    def close(self) -> None:
        self.stop()
        self._let_go()

    def _readable(self) -> None:
        buffer = self._pool.borrow()
        reason: str | None = None
        try:
            count = self._source.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            self._pool.give_back(buffer)
            return
        except OSError as error:
            count, reason = 0, error.strerror
        if not count:
            self._pool.give_back(buffer)
            self.stop()
            self._on_source_gone(reason)
            return
        self._held = buffer
        self._pass_on(buffer[:count])

    def _pass_on(self, data: memoryview) -> None:
        self.bytes_passed += len(data)
        self._rest = data
        self._write()
        if self._rest is not None:
            self._drained.clear()
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._sink_writable)

    def _sink_writable(self) -> None:
        self._write()
        if self._rest is None:
            self._loop.remove_writer(self._sink)
            self._drained.set()
            if self._reading:
                self._loop.add_reader(self._source, self._readable)

    def _write(self) -> None:
        """Hand to the kernel what it takes now, of as many frames as may be looked at; the rest stays."""
        rest = self._rest
        if rest is None:
            return
        if not self._looked_at:
            self._looked_at = self._edges.feed(rest) if self._edges is not None else len(rest)
        try:
            taken = self._sink.send(rest[: self._looked_at])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close()
            self._on_sink_gone(error.strerror)
            return
        self.bytes_taken += taken
        self._looked_at -= taken
        if taken < len(rest):
            self._rest = rest[taken:]
            return
        self._rest = None
        self._give_back()

    def _let_go(self) -> None:
        if self._rest is not None:
            self._loop.remove_writer(self._sink)
            self._rest, self._looked_at = None, 0
        self._drained.set()
        self._give_back()

    def _give_back(self) -> None:
        if self._held is not None:
            self._pool.give_back(self._held)
            self._held = None
