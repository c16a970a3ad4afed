"""Many clients of one viewer's event streams, held by one loop in a thread of its own."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import uvloop

_FRAME = re.compile(rb"id: (\d+)\nevent: (\w+)\n")


class EventClients:
    """`count` streams on 127.0.0.1:`port`, shared out over the keys; open while the `with` block runs.

    `arrivals`: event id -> the times (monotonic seconds) at which it reached a client, one a client.
    """

    def __init__(self, port: int, keys: Sequence[str], count: int) -> None:
        self.count = count
        self.arrivals: dict[int, list[float]] = {}
        self.ready = 0
        self.lost = 0
        self._news = threading.Condition()
        self._address, self._keys = ("127.0.0.1", port), keys
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._loop = self._runner.get_loop()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="event clients", daemon=True)

    def __enter__(self) -> EventClients:
        self._thread.start()
        self.wait_for(lambda: self.ready == self.count, "streams to open")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()

    def wait_until_all_have(self, event_id: int, timeout_s: float = 30) -> list[float]:
        """The times at which each client got that event."""
        self.wait_for(lambda: len(self.arrivals.get(event_id, ())) >= self.count, "the event", timeout_s)
        return self.arrivals[event_id]

    def wait_for(self, happened: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        with self._news:
            if not self._news.wait_for(happened, timeout_s):
                raise AssertionError(f"waited {timeout_s} s for {what}: {self.ready} ready, {self.lost} lost")

    def note(self, kind: bytes, event_id: int, at: float) -> None:
        with self._news:
            if kind == b"ready":
                self.ready += 1
            elif kind == b"session":
                self.arrivals.setdefault(event_id, []).append(at)
            self._news.notify_all()

    def lose(self) -> None:
        with self._news:
            self.lost += 1
            self._news.notify_all()

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._hold())

    async def _hold(self) -> None:
        opening = asyncio.Semaphore(20)

        async def open_one(key: str) -> asyncio.BaseTransport:
            async with opening:
                transport, _ = await self._loop.create_connection(lambda: _Client(self, key), *self._address)
                return transport

        keys = [self._keys[number % len(self._keys)] for number in range(self.count)]
        transports = await asyncio.gather(*map(open_one, keys))
        await self._done.wait()
        for transport in transports:
            transport.close()
        await asyncio.sleep(0.05)


class _Client(asyncio.Protocol):
    def __init__(self, all_of_them: EventClients, key: str) -> None:
        self._all = all_of_them
        self._key = key
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        head = f"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n\r\n"
        transport.write(head.encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        at = time.monotonic()
        whole, end, self._rest = (self._rest + data).rpartition(b"\n\n")
        for found in _FRAME.finditer(whole + end):
            self._all.note(found[2], int(found[1]), at)

    def connection_lost(self, _error: Exception | None) -> None:
        self._all.lose()
