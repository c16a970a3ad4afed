"""Who has keyboard and mouse, as the relay goes by it: what it hears in any order, and whom it closes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.caddy_fleet import TinyUpstream, running_upstreams
from tests.relay_process import RelayProcess, free_port, held_by, running_relay
from tests.test_relay import Viewer, echo, open_viewer, rfb_server, with_http
from viewer.grants import SandboxPort
from viewer.model import Lease, LeaseKind
from viewer.relay.answers import CloseCode, SandboxProblem
from viewer.relay.leases import MOST_REMEMBERED, LeaseNews, Leases
from viewer.relay_client import RelayClient

KEY = b"\x04\x01\0\0\0\0\0a"
KEY_UP = b"\x04\0\0\0\0\0\0a"
BUTTON = b"\x05\x01\0\x10\0\x20"
BUTTON_UP = b"\x05\0\0\x10\0\x20"
REQUEST = b"\x03\x01" + bytes(8)
BOX = SandboxPort(sandbox_id="box-1", port=44772)
ROOT = "/v1/sandboxes/box-1/proxy/44772"

# --- what is heard


@pytest.mark.parametrize(
    ("now", "given_back", "taken_from"),
    [
        (held_by("bob", 2), None, "alice"),
        (held_by("bob", 2), False, "alice"),
        (held_by("bob", 2), True, None),
        (held_by(None, 2), None, None),
        (held_by(None, 2), False, "alice"),
        (held_by(None, 2), True, None),
        (held_by("alice", 2), None, None),
        (held_by("alice", 2), False, None),
    ],
)
def test_it_is_taken_from_whoever_had_it_and_did_not_want_that(
    now: Lease, given_back: bool | None, taken_from: str | None
) -> None:
    leases = Leases()
    assert leases.hear(held_by("alice", 1)) == LeaseNews(held_by("alice", 1), None)
    assert leases.hear(now, given_back=given_back) == LeaseNews(now, taken_from)
    assert leases.of("s1") == now


def test_an_older_number_never_wins_and_the_same_one_is_no_news() -> None:
    leases = Leases()
    leases.hear(held_by("alice", 7))
    for late in (held_by("bob", 6), held_by(None, 0), held_by("alice", 7), held_by("mallory", 7)):
        for given_back in (None, True, False):
            assert leases.hear(late, given_back=given_back) is None
    assert leases.of("s1") == held_by("alice", 7)
    assert leases.numbers() == {"s1": 7}


@pytest.mark.parametrize(("given_back", "taken_from"), [(False, "alice"), (True, None)])
def test_where_a_grant_was_faster_the_push_still_says_whether_it_was_given_back(
    given_back: bool, taken_from: str | None
) -> None:
    leases = Leases()
    leases.hear(held_by("alice", 1))
    assert leases.hear(held_by(None, 2)) == LeaseNews(held_by(None, 2), None)
    told = leases.hear(held_by(None, 2), given_back=given_back)
    assert (told.taken_from if told else None) == taken_from
    assert leases.hear(held_by(None, 2), given_back=False) is None


def test_only_so_many_are_remembered_and_none_of_an_ended_session() -> None:
    leases = Leases()
    for number in range(MOST_REMEMBERED + 5):
        leases.hear(held_by("alice", 1, session_id=f"s{number}"))
    assert len(leases.numbers()) == MOST_REMEMBERED
    assert leases.of("s4") is None
    leases.forget("s5")
    leases.forget("s5")
    assert leases.of("s5") is None


# --- what follows from it


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    upstream = Silent("opensandbox", "127.0.0.1", free_port())
    with (
        running_upstreams(upstream),
        running_relay(
            tmp_path_factory.mktemp("leases"), opensandbox_url=f"http://127.0.0.1:{upstream.port}"
        ) as process,
    ):
        yield process
    assert "Traceback" not in process.log.read_text()


class Silent(TinyUpstream):
    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == f"{ROOT}/silent":
            await asyncio.sleep(30)
        return await super()._answer(request)


@pytest.fixture
def control_plane(relay: RelayProcess) -> Iterator[RelayClient]:
    with closing(relay.client()) as client:
        yield client


def on_an_echo(body: Callable[[aiohttp.ClientSession, int], Awaitable[None]]) -> None:
    """A desktop that sends back what it is sent."""
    with rfb_server(echo) as port:
        with_http(lambda http: body(http, port))


async def opened(http: aiohttp.ClientSession, relay: RelayProcess, **grant: Any) -> Viewer:
    viewer = await open_viewer(http, relay, **grant)
    await viewer.shake_hands()
    return viewer


async def pressed(viewer: Viewer) -> bool:
    """Whether a key of his arrives."""
    await viewer.socket.send_bytes(KEY + KEY_UP + REQUEST)
    if (await viewer.read(10)) == REQUEST:
        return False
    assert (await viewer.read(16))[6:] == REQUEST
    return True


@pytest.mark.real
def test_only_the_holder_acts_and_control_moves_without_a_new_stream(
    relay: RelayProcess, control_plane: RelayClient
) -> None:
    async def body(http: aiohttp.ClientSession, port: int) -> None:
        about = {"target": port, "session_id": "moves", "lease": held_by(None, 1, session_id="moves")}
        alice = await opened(http, relay, principal="alice", **about)
        bob = await opened(http, relay, principal="bob", **about)
        watcher = await opened(http, relay, principal="wat", may_control=False, **about)
        for number, holder in enumerate([None, "alice", "bob", "wat"], start=2):
            lease = held_by(holder, number, session_id="moves")
            await asyncio.to_thread(control_plane.set_lease, lease, given_back=True)
            assert [await pressed(one) for one in (alice, bob, watcher)] == [
                holder == "alice",
                holder == "bob",
                False,
            ]
        seen = await asyncio.to_thread(control_plane.stream_list)
        assert seen.leases["moves"] == 5
        acted = {one.principal: one.last_input_at is not None for one in seen.streams}
        assert acted == {"alice": True, "bob": True, "wat": False}

    on_an_echo(body)


@pytest.mark.real
def test_whoever_loses_control_is_told_by_whom_and_leaves_no_key_down(
    relay: RelayProcess, control_plane: RelayClient
) -> None:
    got = bytearray()
    ended = threading.Event()

    async def body(http: aiohttp.ClientSession) -> None:
        about = {"target": port, "session_id": "taken", "lease": held_by("alice", 1, session_id="taken")}
        alice = await opened(http, relay, principal="alice", **about)
        await alice.socket.send_bytes(KEY + BUTTON)
        while len(got) < len(KEY + BUTTON):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(control_plane.set_lease, held_by("bob", 2, session_id="taken"))
        assert await alice.ending() == (CloseCode.LEASE_LOST, "Bob has taken control")
        assert await asyncio.to_thread(ended.wait, 5)

    def serve(client: Any) -> None:
        while data := client.recv(4096):
            got.extend(data)
        ended.set()

    with rfb_server(serve) as port:
        with_http(body)
    assert bytes(got) == KEY + BUTTON + KEY_UP + BUTTON_UP


@pytest.mark.real
def test_a_browser_that_vanishes_leaves_no_key_down(relay: RelayProcess) -> None:
    got = bytearray()
    ended = threading.Event()

    def serve(client: Any) -> None:
        while data := client.recv(4096):
            got.extend(data)
        ended.set()

    async def body(http: aiohttp.ClientSession) -> None:
        alice = await opened(http, relay, target=port, session_id="vanishes")
        await alice.socket.send_bytes(KEY + BUTTON)
        while len(got) < len(KEY + BUTTON):
            await asyncio.sleep(0.01)
        transport = alice.socket._writer.transport
        assert transport is not None
        transport.abort()
        assert await asyncio.to_thread(ended.wait, 5)

    with rfb_server(serve) as port:
        with_http(body)
    assert bytes(got) == KEY + BUTTON + KEY_UP + BUTTON_UP


@pytest.mark.real
def test_who_gives_it_back_watches_on_and_what_he_held_is_let_go(
    relay: RelayProcess, control_plane: RelayClient
) -> None:
    async def body(http: aiohttp.ClientSession, port: int) -> None:
        about = {"target": port, "session_id": "back", "lease": held_by("alice", 1, session_id="back")}
        alice = await opened(http, relay, principal="alice", **about)
        await alice.socket.send_bytes(KEY)
        assert await alice.read(8) == KEY
        await asyncio.to_thread(control_plane.set_lease, held_by(None, 2, session_id="back"), given_back=True)
        assert await alice.read(8) == KEY_UP
        assert not await pressed(alice)

    on_an_echo(body)


@pytest.mark.real
def test_a_grant_brings_the_lease_along_and_an_old_one_does_not_bring_it_back(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession, port: int) -> None:
        about = {"target": port, "session_id": "grants"}
        first, second = (held_by(who, n, session_id="grants") for n, who in enumerate(["alice", "bob"], 1))
        alice = await opened(http, relay, principal="alice", lease=first, **about)
        assert await pressed(alice)
        bob = await opened(http, relay, principal="bob", lease=second, **about)
        assert (await alice.ending())[0] == CloseCode.LEASE_LOST
        late = await opened(http, relay, principal="alice", lease=first, **about)
        without = await opened(http, relay, principal="alice", **about)
        assert [await pressed(one) for one in (bob, late, without)] == [True, False, False]

    on_an_echo(body)


@pytest.mark.real
def test_a_session_nobody_said_a_lease_of_is_controlled_by_role(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession, port: int) -> None:
        assert await pressed(await opened(http, relay, target=port, session_id="unsaid"))
        watcher = await opened(http, relay, target=port, session_id="unsaid", may_control=False)
        assert not await pressed(watcher)

    on_an_echo(body)


# --- ways around the keyboard


@pytest.mark.real
def test_a_person_at_the_keyboard_shuts_the_agents_ways_around_it(
    relay: RelayProcess, control_plane: RelayClient
) -> None:
    """A WebSocket is closed, a request under way is answered 423, the next ones too; who has it goes on."""

    def lease(holder: str | None, number: int, kind: LeaseKind = LeaseKind.PERSON) -> Lease:
        return held_by(holder, number, kind=kind, session_id="ports")

    async def get(http: aiohttp.ClientSession, path: str, **grant: Any) -> tuple[int, str]:
        headers = relay.grant("port", session_id="ports", target=BOX, under_lease=True, **grant)
        async with http.get(f"{relay.url}/port/ports{path}", headers=headers) as answer:
            text = await answer.text()
            return answer.status, (
                SandboxProblem.model_validate_json(text).message if answer.status == 423 else ""
            )

    async def body(http: aiohttp.ClientSession) -> None:
        headers = relay.grant("port", session_id="ports", target=BOX, under_lease=True, principal="agent")
        socket = await http.ws_connect(f"{relay.url}/port/ports/", headers=headers)
        plain = relay.grant("port", session_id="ports", target=BOX, principal="agent")
        beside = await http.ws_connect(f"{relay.url}/port/ports/", headers=plain)
        under_way = asyncio.create_task(get(http, "/silent", principal="agent"))
        while len((await asyncio.to_thread(control_plane.stream_list)).streams) < 3:
            await asyncio.sleep(0.01)
        for number, kind in enumerate([LeaseKind.AGENT, LeaseKind.PERSON], 1):
            # Another agent is no reason, another person is one.
            await asyncio.to_thread(control_plane.set_lease, lease("bob", number, kind))
            if kind is LeaseKind.AGENT:
                assert (await get(http, "/", principal="agent"))[0] == 200
        assert await Viewer(socket).ending() == (CloseCode.LEASE_LOST, "Bob has taken control")
        told = (423, "Bob has taken control; wait until it is given back")
        assert await under_way == told
        assert await get(http, "/", principal="agent") == told
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await http.ws_connect(f"{relay.url}/port/ports/", headers=headers)
        assert refusal.value.status == 423
        assert (await get(http, "/", principal="bob"))[0] == 200
        await beside.send_str("still there?")
        await beside.receive(timeout=5)
        await asyncio.to_thread(control_plane.set_lease, lease(None, 3), given_back=True)
        assert (await get(http, "/", principal="agent"))[0] == 200
        await beside.close()

    with_http(body)
