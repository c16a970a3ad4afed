"""A desktop whose web server its user has put there: its answers cost little, and others nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fake_kasmvnc import picture
from tests.test_captures import looking
from viewer.grants import DesktopSocket, Grant
from viewer.model import utcnow
from viewer.relay.answers import ProbeOutcome
from viewer.relay.captures import WantedOf
from viewer.relay.desktop_access import owner_of
from viewer.relay.desktops import DesktopUnreachable
from viewer.relay.kasmvnc import OwnerApi
from viewer.relay.probing import probe
from viewer.relay.settings import Settings
from viewer.relay.stream_users import StreamUsers

Serve = Callable[[str, bytes], bytes]
"""Request line and body -> the whole answer."""
BAD = b"HTTP/1.1 400 Bad Request\r\n\r\n"


def ok(body: bytes, length: str | None = None) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length or len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "studio").mkdir()
    access = {"backend": "kasmvnc", "owner": "owner", "password": "x-secret", "tenant": "t1"}
    (tmp_path / "studio.json").write_text(json.dumps(access))
    return Settings.model_validate(
        {
            "listen": "127.0.0.1:1",
            "key_file": tmp_path / "key",
            "publish_address": "127.0.0.1",
            "desktops_dir": tmp_path,
            "desktop_secrets_dir": tmp_path,
            "handshake_seconds": 5,
            "probe_seconds": 1,
        }
    )


@contextmanager
def hostile(settings: Settings, serve: Serve) -> Iterator[list[str]]:
    """What it was asked, a line for each request."""
    asked: list[str] = []

    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):
            head, _, body = client.recv(1 << 20).partition(b"\r\n\r\n")
            asked.append(head.decode().split("\r\n", 1)[0])
            client.sendall(serve(asked[-1], body))

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=[client], daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(settings.desktops_dir / "studio" / "web.sock"))
        listener.listen(64)
        threading.Thread(target=accept, daemon=True).start()
        yield asked
        listener.shutdown(socket.SHUT_RDWR)


def names(count: int) -> bytes:
    return b"".join(b'{ "user": "s-%012x" },' % number for number in range(count))


def test_a_list_of_users_without_end_is_refused_and_not_searched(settings: Settings) -> None:
    async def body() -> None:
        api = OwnerApi("studio", owner_of("studio", settings), settings)
        with pytest.raises(DesktopUnreachable, match="longer than 262144 bytes"):
            await api.stream_users()

    listed = names(600_000)
    for answer in (ok(listed), ok(listed, "999999999999999"), b"HTTP/1.1 200 OK\r\n\r\n" + listed):
        with hostile(settings, lambda _asked, _body: answer):  # noqa: B023
            started = time.process_time()
            asyncio.run(body())
            assert time.process_time() - started < 0.5
        (settings.desktops_dir / "studio" / "web.sock").unlink()


def test_a_desktop_that_invents_users_is_asked_to_remove_few_of_them_at_a_time(settings: Settings) -> None:
    """It says 400 to all of them together, so that the relay asks for each; and goes on listing them."""

    async def body() -> None:
        users = StreamUsers(settings)
        users.sweep_all()
        await asyncio.sleep(0.4)
        await users.settle(0)

    with hostile(settings, lambda asked, _: ok(names(5000)) if "get_users" in asked else BAD) as asked:
        asyncio.run(body())
    assert sum("get_users" in one for one in asked) == 1
    assert 2 <= len(asked) <= 66


def test_many_strays_of_a_killed_relay_go_nonetheless(settings: Settings) -> None:
    left = {f"s-{number:012x}" for number in range(100)}

    def serve(asked: str, body: bytes) -> bytes:
        if "get_users" in asked:
            return ok("".join(f'{{ "user": "{name}" }},' for name in left).encode())
        left.difference_update(one["user"] for one in json.loads(body))
        return ok(b"")

    async def body() -> None:
        users = StreamUsers(settings)
        users.sweep_all()
        async with asyncio.timeout(5):
            while left:
                await asyncio.sleep(0.02)
        await users.settle(1)

    with hostile(settings, serve):
        asyncio.run(body())


@pytest.mark.parametrize("length", ["9" * 5000, "1" * 16, "٣", "+1", "1_0"])
def test_a_length_that_is_no_number_of_bytes_is_the_desktops_fault(settings: Settings, length: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nx".encode()

    async def body() -> None:
        api = OwnerApi("studio", owner_of("studio", settings), settings)
        with pytest.raises(DesktopUnreachable, match="a length that is no number"):
            await api.stream_users()

    with hostile(settings, lambda _asked, _body: answer):
        asyncio.run(body())


def huge_screenshot() -> bytes:
    """A JPEG that says it has 65535 pixels a side."""
    small = picture(64, 64, uniform=True)
    huge = small.replace(b"\0\x40\0\x40", b"\xff\xff\xff\xff", 1)
    assert huge != small
    return huge


def test_a_screenshot_that_says_it_is_huge_is_no_frame(settings: Settings) -> None:
    async def body() -> None:
        seen = await probe(DesktopSocket(name="studio"), None, settings)
        assert seen.result is ProbeOutcome.UNREACHABLE
        assert seen.detail == "the screenshot is larger than 4096 pixels a side"

    with hostile(settings, lambda _asked, _body: ok(huge_screenshot())):
        started = time.process_time()
        asyncio.run(body())
        assert time.process_time() - started < 0.5


def wanted_of(desktop: str) -> WantedOf:
    target = DesktopSocket(name=desktop)
    grant = Grant(
        purpose="picture",
        session_id=desktop,
        tenant_id="t1",
        target=target,
        expires_at=utcnow() + timedelta(seconds=30),
    )
    return WantedOf(grant, target, None)


def pictures_of(settings: Settings, *desktops: str) -> list[str]:
    """What a wall is told of each."""

    async def body() -> list[str]:
        wanted = [wanted_of(desktop) for desktop in desktops]
        async with looking(settings) as register:
            return [one.detail for one in await register.pictures(wanted, width=16, format="jpeg")]

    return asyncio.run(body())


def test_a_screenshot_that_says_it_is_huge_is_no_picture(settings: Settings) -> None:
    with hostile(settings, lambda _asked, _body: ok(huge_screenshot())):
        assert pictures_of(settings, "studio") == ["the screenshot is larger than 4096 pixels a side"]


def test_a_picture_that_nobody_foresaw_costs_its_wall_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def screenshot(_self: OwnerApi) -> bytes:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(OwnerApi, "screenshot", screenshot)
    seen = pictures_of(settings, "studio", "nobodys")
    assert seen[0] == "its picture cannot be read"
    assert "knows no tenant" in seen[1]
