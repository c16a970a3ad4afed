"""Browsers that are slow, deaf, gone, or very many: none costs the relay more than its share."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import pack
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.caddy_fleet import TinyUpstream, running_upstreams
from tests.relay_process import RelayProcess, free_port, running_relay
from tests.soaking import is_soaking
from tests.test_relay import Viewer, cut_text, hold, open_viewer, rfb_server, with_http
from viewer.grants import SandboxPort
from viewer.relay.answers import CloseCode
from viewer.relay.stream import Standstill


def test_only_time_without_any_progress_counts_as_standing_still() -> None:
    still = Standstill()
    assert still.seconds(10, taken=0, waits=False) == 0
    assert still.seconds(20, taken=0, waits=True) == 10
    assert still.seconds(21, taken=1, waits=True) == 0
    assert still.seconds(30, taken=1, waits=True) == 9
    assert still.seconds(31, taken=1, waits=False) == 0
    assert still.seconds(33, taken=1, waits=True) == 2


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(
        tmp_path_factory.mktemp("browsers"),
        slow_browser_seconds=2,
        ping_seconds=0.3,
        silent_browser_seconds=1,
        max_streams=600,
        max_tenant_share=1.0,
        max_streams_per_session=600,
    ) as process:
        yield process
    assert "Traceback" not in process.log.read_text()


def pour(client: socket.socket) -> None:
    block = bytes(1 << 20)
    while True:
        client.sendall(block)


def closing_line(relay: RelayProcess, session_id: str) -> str:
    lines = relay.log.read_text().splitlines()
    return next((line for line in lines if f" closed session={session_id} " in line), "")


async def closed(relay: RelayProcess, session_id: str) -> str:
    async with asyncio.timeout(10):
        while not (line := closing_line(relay, session_id)):
            await asyncio.sleep(0.05)
    return line


@pytest.mark.real
def test_a_browser_that_takes_nothing_is_given_up(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(pour) as port:
            viewer = await open_viewer(http, relay, target=port, session_id="deaf")
            await viewer.shake_hands()
            viewer.socket._reader._protocol.pause_reading()
            line = await closed(relay, "deaf")
            assert f"code={CloseCode.TIMED_OUT}" in line
            assert re.search("the browser took nothing for [23] s", line)

    with_http(body)


@pytest.mark.real
def test_a_browser_that_is_slow_but_takes_something_keeps_its_stream(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(pour) as port:
            viewer = await open_viewer(http, relay, target=port, session_id="slow")
            await viewer.shake_hands()
            began = time.monotonic()
            while time.monotonic() - began < 3:
                viewer.socket._reader._protocol.resume_reading()
                await viewer.read(1 << 19)
                viewer.socket._reader._protocol.pause_reading()
                await asyncio.sleep(0.2)
            assert not closing_line(relay, "slow")

    with_http(body)


@pytest.mark.real
def test_an_idle_stream_lives_on_pongs_and_one_without_them_is_noticed(relay: RelayProcess) -> None:
    """A browser that vanished from the net sends no word of farewell."""

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(hold) as port:
            there = await open_viewer(http, relay, target=port, session_id="there")
            await there.shake_hands()
            gone = await http.ws_connect(
                f"{relay.url}/stream/gone",
                headers=relay.grant(target=port, session_id="gone"),
                protocols=["binary"],
                autoping=False,
            )
            await Viewer(gone).shake_hands()
            reading = asyncio.create_task(there.socket.receive())
            line = await closed(relay, "gone")
            assert f"code={CloseCode.TIMED_OUT}" in line
            assert "does not answer any more" in line
            await asyncio.sleep(1)
            assert not closing_line(relay, "there")
            assert not reading.done()
            reading.cancel()

    with_http(body)


@pytest.mark.real
def test_a_desktop_that_takes_nothing_is_not_held_against_its_browser(relay: RelayProcess) -> None:
    """A paused desktop: what its browser sends waits, pongs behind it."""
    go_on = threading.Event()

    def serve(client: socket.socket) -> None:
        go_on.wait(20)
        while client.recv(1 << 20):
            pass

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(serve) as port:
            viewer = await open_viewer(http, relay, target=port, session_id="paused")
            await viewer.shake_hands()
            pouring = asyncio.create_task(_pour_up(viewer))
            reading = asyncio.create_task(viewer.socket.receive())
            await asyncio.sleep(2.5)
            assert not pouring.done()
            assert not closing_line(relay, "paused")
            go_on.set()
            await pouring
            reading.cancel()

    with_http(body)


async def _pour_up(viewer: Viewer) -> None:
    for _ in range(400):
        await viewer.socket.send_bytes(cut_text(60_000))


class Pouring(TinyUpstream):
    """A sandbox's port whose WebSocket sends and sends."""

    async def _echo(self, request: web.Request, seen: dict[str, Any]) -> web.StreamResponse:
        channel = web.WebSocketResponse()
        await channel.prepare(request)
        with suppress(ConnectionError):
            while True:
                await channel.send_bytes(bytes(1 << 16))
        return channel


@pytest.mark.real
def test_a_client_of_a_port_that_takes_nothing_is_given_up_too(tmp_path: Path) -> None:
    upstream = Pouring("opensandbox", "127.0.0.1", free_port())

    async def body(http: aiohttp.ClientSession) -> None:
        headers = own.grant("port", target=SandboxPort(sandbox_id="box-1", port=8000))
        channel = await http.ws_connect(f"{own.url}/port/s1/", headers=headers)
        await channel.receive_bytes()
        channel._reader._protocol.pause_reading()
        line = await closed(own, "s1")
        assert f"code={CloseCode.TIMED_OUT}" in line
        assert "the browser took nothing" in line

    server = f"http://127.0.0.1:{upstream.port}"
    with (
        running_upstreams(upstream),
        running_relay(tmp_path, opensandbox_url=server, slow_browser_seconds=1) as own,
    ):
        with_http(body)


@pytest.mark.real
@pytest.mark.soak
def test_twenty_slow_browsers_cost_twenty_buffers_however_long_they_are_slow(tmp_path: Path) -> None:
    """Half of them at desktops whose clipboard stays inside, whose bytes are looked at."""

    def flood(client: socket.socket) -> None:
        update = pack(">BxHHHHHi", 0, 1, 0, 0, 512, 512, 0) + bytes(1 << 20)
        while True:
            client.sendall(update)

    async def sip(viewer: Viewer) -> None:
        protocol = viewer.socket._reader._protocol
        while True:
            protocol.resume_reading()
            await viewer.read(1 << 18)
            protocol.pause_reading()
            await asyncio.sleep(0.2)

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(flood) as port:
            viewers = []
            for number in range(20):
                policy = {"from_desktop": number % 2 == 0}
                viewers.append(
                    await open_viewer(http, own, target=port, session_id=f"s{number % 2}", clipboard=policy)
                )
                await viewers[-1].shake_hands()
            sipping = [asyncio.create_task(sip(viewer)) for viewer in viewers]
            await asyncio.sleep(2)
            settled = own.resident_bytes()
            await asyncio.sleep(600 if is_soaking() else 3)
            assert own.resident_bytes() - settled < 8 << 20
            assert not [task for task in sipping if task.done()]
            for task in sipping:
                task.cancel()

    with running_relay(tmp_path) as own:
        with_http(body)


# --- many


def files_and_tasks(relay: RelayProcess) -> int:
    return len(list(Path(f"/proc/{relay.process.pid}/fd").iterdir()))


@pytest.mark.real
def test_five_hundred_streams_that_open_and_drop_at_once_leave_nothing(relay: RelayProcess) -> None:
    """At every stage: before the handshake, in it, after it, with a message half sent."""

    async def one(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection(*relay.address.split(":"))
        headers = relay.grant(target=port, session_id=f"many{number % 7}", principal=f"p{number}")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(
            f"GET /stream/many{number % 7} HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n".encode()
        )
        stage = number % 5
        if stage:
            await reader.readuntil(b"\r\n\r\n")
        hello = [b"RFB 003.008\n", b"\x01", b"\x01", b"\x04\x01\0\0\0\0\0a\x06"]
        for message in hello[: stage - 1] if stage else []:
            writer.write(bytes([0x82, 0x80 | len(message)]) + bytes(4) + message)
        await writer.drain()
        writer.transport.abort()

    async def body(http: aiohttp.ClientSession) -> None:
        async def count() -> int:
            headers = relay.grant("manage", session_id="")
            async with http.get(f"{relay.url}/streams", headers=headers) as answer:
                return len(
                    [s for s in (await answer.json())["streams"] if s["session_id"].startswith("many")]
                )

        with rfb_server(hold) as port:
            await count()
            await asyncio.gather(*(one(port, number) for number in range(20)))
            async with asyncio.timeout(20):
                while await count():
                    await asyncio.sleep(0.05)
            files, memory = files_and_tasks(relay), relay.resident_bytes()
            for _ in range(20 if is_soaking() else 1):
                await asyncio.gather(*(one(port, number) for number in range(500)))
            async with asyncio.timeout(30):
                while await count() or files_and_tasks(relay) > files:
                    await asyncio.sleep(0.05)
            assert relay.resident_bytes() - memory < 40 << 20
            # And all the room is there again.
            viewers = [await open_viewer(http, relay, target=port, session_id="many0") for _ in range(30)]
            for viewer in viewers:
                await viewer.shake_hands()

    with_http(body)
