"""Gestures of the input API at a KasmVNC desktop, which is a stand-in: its dialect, its users, its turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.relay_process import RelayProcess
from tests.test_relay import with_http
from tests.test_relay_content import Studio, open_stream, relay_at, studio_at
from viewer.grants import DesktopSocket, Grant
from viewer.input_actions import Gesture
from viewer.model import utcnow
from viewer.relay.answers import InputOutcome, InputResult
from viewer.relay_client import RelayClient
from viewer.rfb.keysyms import KEYSYMS

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kasmvnc")


@pytest.fixture(scope="module")
def studio(directory: Path) -> Iterator[Studio]:
    with studio_at(directory) as desktop:
        yield desktop
        assert desktop.fake.blacklist.failures == {}


@pytest.fixture(scope="module")
def relay(directory: Path, studio: Studio) -> Iterator[RelayProcess]:
    with relay_at(directory) as process:
        yield process
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
def client(relay: RelayProcess) -> Iterator[RelayClient]:
    client = RelayClient("here", url=relay.url, key=relay.key)
    yield client
    client.close()


def do(client: RelayClient, *actions: dict[str, Any], tenant: str = "t1") -> InputResult:
    grant = Grant(
        purpose="input",
        session_id="s1",
        tenant_id=tenant,
        principal="key:a",
        may_control=True,
        target=DesktopSocket(name="studio"),
        expires_at=utcnow() + timedelta(seconds=30),
    )
    return client.send_input(grant, Gesture.model_validate({"actions": list(actions)}))


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def test_keys_and_pointer_arrive_in_its_dialect(client: RelayClient, studio: Studio) -> None:
    studio.fake.pressed.clear()
    result = do(
        client,
        {"type": "type", "text": "aB"},
        {"type": "click", "x": 30, "y": 40, "button": "right"},
        {"type": "scroll", "dy": 1},
        {"type": "key", "keys": "Return"},
    )
    assert (result.result, result.width, result.height) == (InputOutcome.DONE, 1280, 800)
    shift = KEYSYMS["Shift_L"]
    wanted = [
        (4, 1, ord("a")), (4, 0, ord("a")),
        (4, 1, shift), (4, 1, ord("B")), (4, 0, ord("B")), (4, 0, shift),
        (5, 0, 30, 40, 0, 0), (5, 4, 30, 40, 0, 0), (5, 0, 30, 40, 0, 0),
        (5, 0, 30, 40, 0, 0), (5, 0, 30, 40, 0, -120), (5, 0, 30, 40, 0, 0),
        (4, 1, 0xFF0D), (4, 0, 0xFF0D),
    ]  # fmt: skip
    until(lambda: len(studio.fake.pressed) >= len(wanted))
    assert studio.fake.pressed == wanted


def test_the_relay_comes_as_a_user_of_its_own_who_may_write(client: RelayClient, studio: Studio) -> None:
    do(client, {"type": "move", "x": 1, "y": 1})
    (user,) = studio.stream_users().values()
    assert (user.write, user.owner) == (True, False)
    # One connection does for all gestures of a session.
    do(client, {"type": "move", "x": 2, "y": 2})
    assert studio.stream_users() == {user.name: user}


def test_its_clipboard_is_not_reached(client: RelayClient) -> None:
    assert do(client, {"type": "clipboard", "text": "a"}).result is InputOutcome.WRONG_CLIPBOARD


def test_a_desktop_that_was_given_to_another_tenant_takes_nothing(
    client: RelayClient, studio: Studio
) -> None:
    studio.fake.pressed.clear()
    with pytest.raises(Exception, match="another tenant"):
        do(client, {"type": "key", "keys": "a"}, tenant="t2")
    assert studio.fake.pressed == []


def test_what_a_page_sends_waits_for_the_end_of_a_gesture(
    client: RelayClient, relay: RelayProcess, studio: Studio
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        page = await open_stream(http, relay, may_control=True)
        studio.fake.pressed.clear()
        gesture = asyncio.create_task(
            asyncio.to_thread(do, client, {"type": "key", "keys": "a"}, {"type": "wait", "ms": 600})
        )
        await asyncio.to_thread(until, lambda: len(studio.fake.pressed) == 2)
        await page.socket.send_bytes(b"hello")
        with pytest.raises(TimeoutError):
            await page.socket.receive(timeout=0.3)
        assert (await gesture).result is InputOutcome.DONE
        assert b"wrote hello" in await page.read(len(b"wrote hello"))
        await page.socket.close()

    with_http(body)


def test_the_user_goes_with_the_connection(tmp_path: Path) -> None:
    with studio_at(tmp_path) as studio:
        with relay_at(tmp_path) as relay:
            client = RelayClient("here", url=relay.url, key=relay.key)
            do(client, {"type": "move", "x": 1, "y": 1})
            client.close()
            assert len(studio.stream_users()) == 1
        studio.wait_until(0)
