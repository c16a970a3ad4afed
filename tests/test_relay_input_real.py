"""What a browser sends, in front of a real Xtigervnc with somebody at the screen who notices everything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from struct import pack
from typing import Any

import aiohttp
import pytest

from tests.relay_process import RelayProcess, Xvnc, held_by, running_relay, running_xvnc
from tests.test_relay import VERSION, Viewer, open_viewer, with_http
from tests.x_recorder import Recorder
from viewer.relay.answers import CloseCode

pytestmark = pytest.mark.real

A, B = (38, 56)
"""X keycodes."""
MESSAGES = [
    pack(">BBxxI", 4, 1, ord("a")),
    pack(">BBxxI", 4, 0, ord("a")),
    pack(">BBHII", 255, 0, 1, ord("b"), 0x30),
    pack(">BBHII", 255, 0, 0, ord("b"), 0x30),
    pack(">BBHH", 5, 0, 100, 100),
    pack(">BBHH", 5, 1, 100, 100),
    pack(">BBHH", 5, 0, 100, 100),
    pack(">B3xi", 6, 5) + b"paste",
    pack(">BxBB", 250, 1, 2),
]
"""One of each, but for the size of the screen and the extended clipboard."""
RESIZE = pack(">BxHHBx", 251, 800, 600, 1) + pack(">IHHHHI", 0, 0, 0, 800, 600, 0)
ALL = b"".join(MESSAGES)
NOTICED = [
    ("key down", A),
    ("key up", A),
    ("key down", B),
    ("key up", B),
    ("button down", 1),
    ("button up", 1),
]
ENCODINGS = pack(">BxH3i", 2, 3, 0, -308, -223)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay")) as process:
        yield process
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
def xvnc(tmp_path: Path) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path) as server:
        yield server


@pytest.fixture
def at_the_screen(xvnc: Xvnc) -> Iterator[Recorder]:
    with closing(Recorder(xvnc.display)) as recorder:
        yield recorder


async def send_in_every_framing(viewer: Viewer) -> int:
    """`ALL` again and again; return how often."""
    for message in MESSAGES:
        await viewer.socket.send_bytes(message)
    for byte in ALL:
        await viewer.socket.send_bytes(bytes([byte]))
    for at in range(len(ALL) + 1):
        await viewer.socket.send_bytes(ALL[:at])
        await viewer.socket.send_bytes(ALL[at:])
    await viewer.socket.send_bytes(ALL * 20)
    return 1 + 1 + len(ALL) + 1 + 20


async def until_the_desktop_has_read_all(viewer: Viewer) -> None:
    """It answers a request for a picture after whatever came before it; the answer is one pixel, Raw."""
    await viewer.socket.send_bytes(pack(">BBHHHH", 3, 0, 0, 0, 1, 1))
    received = await asyncio.wait_for(viewer.socket.receive_bytes(), 5)
    assert received[0] == 0


async def opened_with_all_in_one(http: aiohttp.ClientSession, relay: RelayProcess, **grant: Any) -> Viewer:
    """The browser waits for nothing: its side of the handshake and every kind of input are one message."""
    viewer = await open_viewer(http, relay, **grant)
    await viewer.socket.send_bytes(VERSION + b"\x01" + b"\x01" + ALL)
    await viewer.read(12 + 2 + 4)
    server_init = await viewer.read(24)
    await viewer.read(int.from_bytes(server_init[20:], "big"))
    return viewer


@pytest.mark.parametrize(
    "grant",
    [
        pytest.param({"may_control": False}, id="watcher"),
        pytest.param({"may_control": False, "lease": held_by("me", 1)}, id="watcher with a lease"),
        pytest.param({"lease": held_by("bob", 1)}, id="operator, another one has it"),
        pytest.param({"lease": held_by(None, 0)}, id="operator, nobody has it"),
    ],
)
def test_of_who_may_not_act_nothing_arrives_in_any_framing(
    relay: RelayProcess, xvnc: Xvnc, at_the_screen: Recorder, grant: dict[str, Any]
) -> None:
    session = f"w-{xvnc.port}"
    if "lease" in grant:
        grant = {**grant, "lease": grant["lease"].model_copy(update={"session_id": session})}

    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await opened_with_all_in_one(
            http, relay, target=xvnc.port, session_id=session, principal="me", **grant
        )
        await viewer.socket.send_bytes(ENCODINGS)
        await send_in_every_framing(viewer)
        await viewer.socket.send_bytes(RESIZE)
        await until_the_desktop_has_read_all(viewer)
        assert at_the_screen.look() == []
        # He is still there and sees the picture; what nobody knows the length of ends it.
        await viewer.socket.send_bytes(b"\x07")
        assert (await viewer.ending())[0] == CloseCode.PROTOCOL_ERROR

    with_http(body)
    assert at_the_screen.look() == []


def test_of_who_has_the_lease_all_arrives_in_order(
    relay: RelayProcess, xvnc: Xvnc, at_the_screen: Recorder
) -> None:
    session = f"c-{xvnc.port}"

    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await opened_with_all_in_one(
            http,
            relay,
            target=xvnc.port,
            session_id=session,
            principal="me",
            lease=held_by("me", 1, session_id=session),
        )
        times = 1 + await send_in_every_framing(viewer)
        await until_the_desktop_has_read_all(viewer)
        noticed = at_the_screen.wait_for(times * len(NOTICED) + 1)
        assert [event for event in noticed if event[0] != "clipboard"] == NOTICED * times
        assert ("clipboard", 0) in noticed
        at_the_screen.events.clear()
        await viewer.socket.send_bytes(ENCODINGS + RESIZE)
        assert set(at_the_screen.wait_for(1)) == {("resized", 0)}

    with_http(body)


def test_a_tenant_without_a_clipboard_types_but_does_not_paste(
    relay: RelayProcess, xvnc: Xvnc, at_the_screen: Recorder
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await opened_with_all_in_one(
            http, relay, target=xvnc.port, session_id="nopaste", clipboard={"to_desktop": False}
        )
        await until_the_desktop_has_read_all(viewer)
        assert at_the_screen.wait_for(len(NOTICED)) == NOTICED

    with_http(body)


def test_a_key_held_down_goes_up_when_control_is_taken_and_the_next_one_types(
    relay: RelayProcess, xvnc: Xvnc, at_the_screen: Recorder
) -> None:
    def lease(holder: str, number: int) -> Any:
        return held_by(holder, number, session_id="held")

    async def body(http: aiohttp.ClientSession) -> None:
        about = {"target": xvnc.port, "session_id": "held", "lease": lease("alice", 1)}
        alice = await open_viewer(http, relay, principal="alice", **about)
        bob = await open_viewer(http, relay, principal="bob", **about)
        await alice.shake_hands()
        await bob.shake_hands()
        await alice.socket.send_bytes(MESSAGES[0] + MESSAGES[4] + MESSAGES[5])
        assert len(at_the_screen.wait_for(2)) == 2
        with closing(relay.client()) as control_plane:
            await asyncio.to_thread(control_plane.set_lease, lease("bob", 2))
        await bob.socket.send_bytes(MESSAGES[2] + MESSAGES[3])
        noticed = at_the_screen.wait_for(6)
        assert sorted(noticed[2:4]) == [("button up", 1), ("key up", A)]
        assert noticed[4:] == [("key down", B), ("key up", B)]
        assert await alice.ending() == (CloseCode.LEASE_LOST, "Bob has taken control")

    with_http(body)
