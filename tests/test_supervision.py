"""A relay that the control plane has left alone lets nobody watch any more, until it hears of it again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.caddy_fleet import running_upstreams
from tests.relay_process import RelayProcess, free_port, running_relay
from tests.test_relay import Viewer, hold, rfb_server
from tests.test_relay_ports import BOX, Server
from viewer.relay.answers import CloseCode
from viewer.relay.settings import Settings

LEFT_ALONE_SECONDS = 0.8


def test_it_is_two_minutes_unless_somebody_says_otherwise() -> None:
    assert Settings.model_fields["supervision_seconds"].default == 120


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    server = Server("opensandbox", "127.0.0.1", free_port())
    with (
        running_upstreams(server),
        running_relay(
            tmp_path,
            supervision_seconds=LEFT_ALONE_SECONDS,
            opensandbox_url=f"http://127.0.0.1:{server.port}",
        ) as process,
    ):
        yield process


async def hear(http: aiohttp.ClientSession, relay: RelayProcess) -> None:
    async with http.get(f"{relay.url}/streams", headers=relay.grant("manage")) as answer:
        assert answer.status == 200


async def hear_all_the_time(http: aiohttp.ClientSession, relay: RelayProcess) -> None:
    while True:
        await hear(http, relay)
        await asyncio.sleep(LEFT_ALONE_SECONDS / 8)


async def opened(http: aiohttp.ClientSession, relay: RelayProcess, port: int) -> Viewer:
    return Viewer(
        await http.ws_connect(
            f"{relay.url}/stream/s1", headers=relay.grant(target=port), protocols=["binary"]
        )
    )


@pytest.mark.real
def test_streams_go_on_while_the_control_plane_lives_and_end_when_it_is_silent(relay: RelayProcess) -> None:
    async def body() -> None:
        with rfb_server(hold) as port:
            async with aiohttp.ClientSession() as http:
                await hear(http, relay)
                hearing = asyncio.create_task(hear_all_the_time(http, relay))
                viewer = await opened(http, relay, port)
                await viewer.shake_hands()
                ending = asyncio.create_task(viewer.ending(seconds=10))
                done, _ = await asyncio.wait([ending], timeout=3 * LEFT_ALONE_SECONDS)
                assert not done, "it ended although the control plane lives"
                hearing.cancel()
                code, reason = await ending
                assert code == CloseCode.UNSUPERVISED
                assert "control plane" in reason

    asyncio.run(body())


@pytest.mark.real
def test_nothing_begins_while_it_is_silent_and_everything_when_it_is_back(relay: RelayProcess) -> None:
    async def body() -> None:
        with rfb_server(hold) as port:
            async with aiohttp.ClientSession() as http:
                await asyncio.sleep(LEFT_ALONE_SECONDS * 1.2)
                viewer = await opened(http, relay, port)
                assert (await viewer.ending())[0] == CloseCode.UNSUPERVISED
                asks = relay.grant("port", target=BOX)
                async with http.get(f"{relay.url}/port/s1/x", headers=asks) as answer:
                    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
                # Whoever does not know the key is no sign of life.
                forged = relay.grant("manage", key=b"x" * 43 + b"=")
                async with http.get(f"{relay.url}/streams", headers=forged) as answer:
                    assert answer.status == 403
                assert (await (await opened(http, relay, port)).ending())[0] == CloseCode.UNSUPERVISED
                await hear(http, relay)
                again = await opened(http, relay, port)
                await again.shake_hands()
                await again.socket.close()

    asyncio.run(body())


@pytest.mark.real
@pytest.mark.parametrize("code", ["4399", "4600", "x", "-1", "\u0664\u0664\u0660\u0661", "1000"])
def test_a_close_code_that_is_not_ours_to_give_is_refused(relay: RelayProcess, code: str) -> None:
    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            for path in ("/streams/s1", "/streams/s1/st"):
                asks = http.delete(relay.url + path, params={"code": code}, headers=relay.grant("manage"))
                async with asks as answer:
                    assert answer.status == 400

    asyncio.run(body())


@pytest.mark.real
def test_whoever_closes_a_stream_says_why(relay: RelayProcess) -> None:
    async def body() -> None:
        with rfb_server(hold) as port:
            async with aiohttp.ClientSession() as http:
                await hear(http, relay)
                viewer = await opened(http, relay, port)
                await viewer.shake_hands()
                told = {"code": "4410", "reason": "\u00e9" * 100}
                async with http.delete(
                    f"{relay.url}/streams/s1", params=told, headers=relay.grant("manage")
                ) as answer:
                    assert answer.status == 204
                assert await viewer.ending() == (CloseCode.ENDED, "\u00e9" * 60)

    asyncio.run(body())
