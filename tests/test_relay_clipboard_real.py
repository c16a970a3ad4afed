"""The desktop's clipboard on its way out, from a real Xtigervnc in whose screen somebody copies a text."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from struct import pack
from typing import Any

import aiohttp
import pytest

from tests.relay_process import PUBLISH_ADDRESS, RelayProcess, Xvnc, running_relay, running_xvnc
from tests.test_relay import Viewer, open_viewer, with_http
from tests.x_recorder import Recorder

pytestmark = pytest.mark.real

SECRET = b"a secret that was copied"
OF_NOVNC = (1, 7, -260, 16, 21, 5, 2, 6, 0, -26, -254, -223, -224, -258, -261, -308, -309, -312, -313, -307)
EXTENDED = (-1063131698, -316, 0x574D5664, -239)
TRUE_COLOUR = pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay")) as process:
        yield process
    assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def xvnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path_factory.mktemp("xvnc"), geometry="400x300") as server:
        yield server


@contextmanager
def overheard(port: int) -> Iterator[tuple[int, bytearray]]:
    """A way to that port, and what came back on it."""
    heard = bytearray()
    listener = socket.create_server((PUBLISH_ADDRESS, 0))

    def carry(source: socket.socket, sink: socket.socket, note: bytearray | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if note is not None:
                    note += data
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            near, _ = listener.accept()
            far = socket.create_connection((PUBLISH_ADDRESS, port))
            back = threading.Thread(target=carry, args=[far, near, heard], daemon=True)
            back.start()
            carry(near, far, None)
            back.join()
            near.close()
            far.close()

    waiting = threading.Thread(target=accept, daemon=True)
    waiting.start()
    yield listener.getsockname()[1], heard
    listener.close()
    waiting.join(5)


async def watch(viewer: Viewer, screen: Recorder, encodings: tuple[int, ...]) -> bytes:
    """Watch somebody paint, copy a text, and paint again; return all that arrived, to a last fence."""
    init = await viewer.shake_hands()
    reading = asyncio.create_task(_take_all(viewer))
    await viewer.socket.send_bytes(b"\0\0\0\0" + TRUE_COLOUR)
    await viewer.socket.send_bytes(pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings))
    await viewer.socket.send_bytes(pack(">BBHHHH", 3, 0, 0, 0, 400, 300))
    for turn in range(4):
        await _until_quiet(viewer)
        screen.paint_noise(10 * turn, 20, 90, 60)
        screen.paint(200, 10 * turn, 150, 100, b"\0\x40\x80\0" * 15000)
        screen.paint(20, 200, 2, 1, b"\1\2\3\0" * 2)
        if turn == 1:
            screen.copy(SECRET)
            await asyncio.to_thread(screen.hand_out, seconds=0.5)
        screen.look()
        await viewer.socket.send_bytes(pack(">BBHHHH", 3, 1, 0, 0, 400, 300))
    await _until_quiet(viewer)
    await viewer.socket.send_bytes(pack(">B3xIB", 248, 1 << 31, 8) + b"the last")
    async with asyncio.timeout(5):
        while not viewer.received.endswith(b"the last"):
            await asyncio.sleep(0.02)
    reading.cancel()
    return init + bytes(viewer.received)


async def _take_all(viewer: Viewer) -> None:
    while True:
        viewer.received += await viewer.socket.receive_bytes()


async def _until_quiet(viewer: Viewer) -> None:
    size = -1
    while size < len(viewer.received):
        size = len(viewer.received)
        await asyncio.sleep(0.1)


def seen(relay: RelayProcess, xvnc: Xvnc, encodings: tuple[int, ...], **grant: Any) -> tuple[bytes, bytes]:
    """What arrived, and what the desktop had sent."""
    arrived: list[bytes] = []

    with overheard(xvnc.port) as (port, sent), closing(Recorder(xvnc.display)) as screen:

        async def body(http: aiohttp.ClientSession) -> None:
            viewer = await open_viewer(http, relay, target=port, **grant)
            arrived.append(await watch(viewer, screen, encodings))
            await viewer.socket.close()

        with_http(body)
        return arrived[0], bytes(sent)


CUT = pack(">B3xI", 3, len(SECRET)) + SECRET


@pytest.mark.parametrize("may_control", [True, False])
@pytest.mark.parametrize(
    "encodings",
    [
        pytest.param(OF_NOVNC + EXTENDED, id="of noVNC"),
        pytest.param((16, -223, -308, -312), id="ZRLE"),
        pytest.param((7, -224, -250, -312), id="Tight without loss"),
        pytest.param((5, 2, 0, -312, -239), id="Raw, because nothing else is left"),
    ],
)
def test_nothing_but_the_clipboard_is_taken_out(
    relay: RelayProcess, xvnc: Xvnc, encodings: tuple[int, ...], may_control: bool
) -> None:
    arrived, sent = seen(relay, xvnc, encodings, clipboard={"from_desktop": False}, may_control=may_control)
    assert sent.count(CUT) == 1
    assert sent.replace(CUT, b"").endswith(arrived)
    assert SECRET not in arrived


def test_where_the_policy_allows_it_the_clipboard_comes_out(relay: RelayProcess, xvnc: Xvnc) -> None:
    """To a watcher as well: it has been on the screen."""
    arrived, sent = seen(relay, xvnc, OF_NOVNC + EXTENDED, may_control=False)
    assert CUT in arrived
    assert sent.endswith(arrived)
