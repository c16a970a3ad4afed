"""A stream as a browser has it: WebSocket at the edge, RFB 3.8 without a password, asking for pixels."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Mapping

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.hosts.network import inside, start_inside
from tests.online.fleet import Api


def stream_answer(api: Api, session_id: str, headers: Mapping[str, str] | None = None) -> int:
    """The HTTP status of an attempt to open the stream; 101 when it opened."""

    async def attempt() -> int:
        async with client_of(api) as client:
            try:
                async with client.ws_connect(_address(api, session_id), headers=_headers(api, headers)):
                    return 101
            except aiohttp.WSServerHandshakeError as error:
                return error.status

    return inside(api.pid, lambda: asyncio.run(attempt()), timeout=60)


@contextlib.asynccontextmanager
async def client_of(api: Api) -> AsyncIterator[aiohttp.ClientSession]:
    """For one event loop; trusts and finds the edge of a fleet whose name no resolver knows."""
    if api.door is None:
        async with aiohttp.ClientSession() as session:
            yield session
        return
    connector = aiohttp.TCPConnector(resolver=_Fixed(api.door.address), ssl=api.door.trust)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield session
    finally:
        await asyncio.sleep(0.25)  # TLS says goodbye after the session has closed; the loop must live so long


class _Fixed(AbstractResolver):
    """Every name is at one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=self._address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass


def _address(api: Api, session_id: str) -> str:
    return f"{api.url}/stream/{session_id}"


def _headers(api: Api, more: Mapping[str, str] | None) -> dict[str, str]:
    credentials = {"Authorization": f"Bearer {api.key}"} if api.key else {}
    return {**credentials, **(more or {})}


class LiveStream:
    """Watches one session in a thread of its own until it is closed; the counters say how it fared."""

    def __init__(self, api: Api, session_id: str) -> None:
        self.updates = 0
        self.size = (0, 0)
        self.close_code: int | None = None
        self._stop = threading.Event()
        self._first_update = threading.Event()
        self._done = start_inside(api.pid, lambda: asyncio.run(self._watch(api, session_id)))

    @property
    def is_open(self) -> bool:
        return not self._done.done()

    def wait_for_frame(self, seconds: float = 30) -> None:
        if not self._first_update.wait(seconds):
            raise AssertionError(f"no frame on the stream within {seconds} s: {self._fate()}")

    def assert_alive(self, seconds: float = 10) -> None:
        """Still open, and answering: more pixels come."""
        count = self.updates
        for _ in range(int(seconds * 20)):
            if self.updates > count:
                return
            if self._stop.wait(0.05):
                break
        raise AssertionError(f"the stream stands still after {count} updates: {self._fate()}")

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(Exception):
            self._done.result(10)

    def _fate(self) -> str:
        if not self._done.done():
            return "open, but silent"
        return f"closed with {self.close_code}: {self._done.exception()!r}"

    async def _watch(self, api: Api, session_id: str) -> None:
        async with (
            client_of(api) as client,
            client.ws_connect(
                _address(api, session_id), headers=_headers(api, None), protocols=["binary"], max_msg_size=0
            ) as socket,
        ):
            assert socket.protocol == "binary", f"the relay chose the subprotocol {socket.protocol!r}"
            reader = _Reader(socket)
            try:
                await self._handshake(reader)
                await self._ask_on_and_on(reader)
            finally:
                self.close_code = socket.close_code

    async def _handshake(self, reader: _Reader) -> None:
        assert await reader.take(12) == b"RFB 003.008\n"
        await reader.send(b"RFB 003.008\n")
        (count,) = await reader.take(1)
        types = await reader.take(count)
        assert 1 in types, f"the relay offers {list(types)}, not None (1)"
        await reader.send(b"\x01")
        assert await reader.take(4) == b"\0\0\0\0"
        await reader.send(b"\x01")  # shared
        width, height, _, name_length = struct.unpack(">HH16sI", await reader.take(24))
        await reader.take(name_length)
        self.size = (width, height)
        await reader.send(struct.pack(">BxHi", 2, 1, 0))  # SetEncodings: Raw

    async def _ask_on_and_on(self, reader: _Reader) -> None:
        while not self._stop.is_set():
            await reader.send(struct.pack(">BBHHHH", 3, 0, 0, 0, 16, 16))  # a full update of 16x16 pixels
            async with asyncio.timeout(20):
                await reader.update()
            self.updates += 1
            self._first_update.set()
            await asyncio.sleep(0.1)


class _Reader:
    """RFB has no message boundaries that follow WebSocket's: bytes are gathered and taken by count."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self._socket.send_bytes(data)

    async def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                raise ConnectionError(f"{message.type.name} {message.data} {message.extra}")
            self._buffer += message.data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def update(self) -> None:
        """Read server messages up to and with the next framebuffer update: Raw, 4 bytes a pixel."""
        while True:
            (kind,) = await self.take(1)
            if kind == 0:
                (count,) = struct.unpack(">xH", await self.take(3))
                for _ in range(count):
                    _, _, width, height, encoding = struct.unpack(">HHHHi", await self.take(12))
                    assert encoding == 0, f"asked for Raw, got encoding {encoding}"
                    await self.take(width * height * 4)
                return
            if kind == 3:  # ServerCutText
                (length,) = struct.unpack(">3xI", await self.take(7))
                await self.take(length)
            elif kind != 2:  # Bell has no body
                raise AssertionError(f"unexpected RFB message {kind}")


@contextlib.contextmanager
def watching(api: Api, session_id: str) -> Iterator[LiveStream]:
    """A stream that has shown its first pixels."""
    stream = LiveStream(api, session_id)
    try:
        stream.wait_for_frame()
        yield stream
    finally:
        stream.close()
