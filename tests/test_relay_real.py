"""The relay in front of a real Xtigervnc."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from struct import unpack

import aiohttp
import pytest

from tests.relay_process import RelayProcess, Xvnc, running_relay, running_xvnc
from tests.test_relay import Viewer, open_viewer, probed, with_http
from tests.x_painter import Painter
from viewer.grants import DesktopSocket
from viewer.relay.answers import CloseCode, ProbeOutcome
from viewer.rfb.client_parts import SET_PIXEL_FORMAT, set_encodings
from viewer.rfb.watching_client import PLAIN

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay"), probe_seconds=2) as process:
        yield process


@pytest.fixture
def xvnc(tmp_path: Path) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path, password="secret12") as server:
        yield server


async def first_frame(viewer: Viewer) -> tuple[int, int, set[bytes]]:
    """Shake hands and ask for the whole screen; return its width, height and colours."""
    width, height = unpack(">HH", (await viewer.shake_hands())[:4])
    await viewer.socket.send_bytes(SET_PIXEL_FORMAT + set_encodings(PLAIN))
    await viewer.socket.send_bytes(
        b"\x03\x00" + bytes(4) + width.to_bytes(2, "big") + height.to_bytes(2, "big")
    )
    kind, rectangles = unpack(">BxH", await viewer.read(4))
    assert kind == 0
    colours: set[bytes] = set()
    area = 0
    for _ in range(rectangles):
        _x, _y, w, h, encoding = unpack(">HHHHi", await viewer.read(12))
        if encoding == 0:
            pixels = await viewer.read(4 * w * h)
            colours |= {pixels[i : i + 3] for i in range(0, len(pixels), 4)}
            area += w * h
        elif encoding == -224:
            break
    assert area == width * height
    return width, height, colours


def test_a_viewer_sees_the_screen_without_ever_being_asked_for_the_password(
    relay: RelayProcess, xvnc: Xvnc
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await open_viewer(http, relay, target=xvnc.port, password="secret12")
        assert await first_frame(viewer) == (640, 480, {b"\0\0\0"})
        await viewer.socket.close()

    with_http(body)


def test_a_wrong_password_closes_with_4502_and_probes_as_refused(relay: RelayProcess, xvnc: Xvnc) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        code, reason = await (await open_viewer(http, relay, target=xvnc.port, password="wrong")).ending()
        assert code == CloseCode.UNREACHABLE
        assert "refused the login" in reason

    with_http(body)
    result = probed(relay, xvnc.port, password="wrong")
    assert result.result is ProbeOutcome.REFUSED
    assert "refused the login" in result.detail


def test_a_desktop_without_a_password_is_not_taken_for_a_session_that_has_one(
    relay: RelayProcess, tmp_path: Path
) -> None:
    with running_xvnc(tmp_path) as open_to_all:
        result = probed(relay, open_to_all.port, password="secret12")
    assert result.result is ProbeOutcome.REFUSED


def test_a_screen_of_one_colour_is_blank_at_the_deadline(relay: RelayProcess, xvnc: Xvnc) -> None:
    result = probed(relay, xvnc.port, password="secret12")
    assert result.result is ProbeOutcome.BLANK
    assert (result.width, result.height, result.colours) == (640, 480, 1)
    assert 1900 < result.elapsed_ms < 3000


def test_a_screen_with_a_picture_is_a_frame_at_once(relay: RelayProcess, tmp_path: Path) -> None:
    with running_xvnc(tmp_path, pattern=True, geometry="1280x800") as xvnc:
        result = probed(relay, xvnc.port)
    assert result.result is ProbeOutcome.FRAME
    assert (result.width, result.height, result.colours) == (1280, 800, 2)
    assert result.elapsed_ms < 1000


def test_a_probe_that_waits_sees_the_first_thing_that_is_drawn(relay: RelayProcess, xvnc: Xvnc) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        probing = asyncio.create_task(asyncio.to_thread(probed, relay, xvnc.port, "secret12"))
        await asyncio.sleep(0.5)
        painter = Painter(xvnc.display)
        drawn = time.monotonic()
        painter.paint(10, 10, 20, 20, b"\0\0\xff\0" * 400)
        result = await probing
        assert result.result is ProbeOutcome.FRAME
        assert time.monotonic() - drawn < 0.5
        painter.close()

    with_http(body)


def test_a_persistent_desktop_is_reached_on_its_unix_socket(relay: RelayProcess, tmp_path: Path) -> None:
    place = relay.desktops_dir / "studio"
    place.mkdir(parents=True)
    relay.give("studio")

    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await open_viewer(http, relay, target=DesktopSocket(name="studio"))
        _width, _height, colours = await first_frame(viewer)
        assert len(colours) == 2
        await viewer.socket.close()

    with running_xvnc(tmp_path, unix=place / "rfb.sock", pattern=True):
        with_http(body)


def test_a_desktop_cannot_lead_the_relay_to_another_ones_socket(relay: RelayProcess, tmp_path: Path) -> None:
    """Its folder is its user's, so he may put a link there; the relay could follow where he cannot."""
    owned, other = relay.desktops_dir / "owned", relay.desktops_dir / "other"
    for place in (owned, other):
        place.mkdir(parents=True)
    (owned / "rfb.sock").symlink_to(other / "rfb.sock")
    os.chown(owned, 65534, 65534)
    relay.give("owned")

    async def body(http: aiohttp.ClientSession) -> None:
        code, reason = await (await open_viewer(http, relay, target=DesktopSocket(name="owned"))).ending()
        assert (code, "another user" in reason) == (CloseCode.UNREACHABLE, True)

    with running_xvnc(tmp_path, unix=other / "rfb.sock", pattern=True):
        with_http(body)


def test_a_killed_desktop_ends_its_streams_within_a_second(relay: RelayProcess, xvnc: Xvnc) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        viewers = [await open_viewer(http, relay, target=xvnc.port, password="secret12") for _ in range(3)]
        for viewer in viewers:
            await first_frame(viewer)
        xvnc.process.kill()
        killed = time.monotonic()
        for viewer in viewers:
            assert (await viewer.ending())[0] == CloseCode.GONE
        assert time.monotonic() - killed < 1

    with_http(body)


def test_twenty_viewers_in_a_row_lock_nobody_out(relay: RelayProcess, xvnc: Xvnc) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        for _ in range(20):
            viewer = await open_viewer(http, relay, target=xvnc.port, password="secret12")
            await viewer.shake_hands()
            await viewer.socket.close()

    with_http(body)
