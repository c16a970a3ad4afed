"""The relay as a process of its own, against servers that speak exactly the RFB the test needs."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from struct import pack
from typing import Any

import aiohttp
import pytest
from cryptography.fernet import Fernet

from tests.relay_process import PUBLISH_ADDRESS, RelayProcess, free_port, running_relay, wait_for_listener
from tests.stream_client import StreamClient
from viewer import __version__
from viewer.grants import GRANT_HEADER, DesktopSocket, Grant, PublishedPort
from viewer.model import utcnow
from viewer.relay.answers import CloseCode, ProbeOutcome, ProbeResult, StreamList
from viewer.relay.framing import binary_header, close_reason

pytestmark = pytest.mark.real

VERSION = b"RFB 003.008\n"
TRUE_COLOUR = b"\x20\x18\0\1\0\xff\0\xff\0\xff\x10\x08\0\0\0\0"
SERVER_INIT = pack(">HH16sI", 8, 8, TRUE_COLOUR, 4) + b"desk"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(
        tmp_path_factory.mktemp("relay"),
        handshake_seconds=1,
        probe_seconds=1,
        max_streams_per_session=3,
        max_message_bytes=131072,
    ) as process:
        yield process
    # Whatever browsers and desktops did in this module, nothing of it was a surprise.
    assert "Traceback" not in process.log.read_text()


@contextmanager
def rfb_server(
    serve: Callable[[socket.socket], None], *, login: bool = True, address: str = PUBLISH_ADDRESS
) -> Iterator[int]:
    """A server without security: logs each client in, sends ServerInit, then does what `serve` says."""

    def handle(client: socket.socket) -> None:
        with closing(client):
            try:
                if login:
                    client.sendall(VERSION)
                    client.recv(12, socket.MSG_WAITALL)
                    client.sendall(b"\x01\x01")
                    client.recv(1)
                    client.sendall(bytes(4))
                    client.recv(1)
                    client.sendall(SERVER_INIT)
                serve(client)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=[client], daemon=True).start()

    with socket.create_server((address, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def hold(client: socket.socket) -> None:
    client.recv(1)


def echo(client: socket.socket) -> None:
    while data := client.recv(65536):
        client.sendall(data)


def harmless(size: int) -> bytes:
    """So many bytes, 9 at least, of messages that anybody may send."""
    fence = 9 + (size - 9) % 10
    requests = (b"\x03\x01" + bytes(8)) * ((size - fence) // 10)
    return requests + pack(">B3xIB", 248, 0, fence - 9) + b"f" * (fence - 9)


def cut_text(size: int) -> bytes:
    """One message of so many bytes, which only whoever controls may send."""
    return pack(">B3xi", 6, size - 8) + bytes(size - 8)


class Viewer:
    """The browser's end of a stream: an unmodified WebSocket client that speaks RFB."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.received = bytearray()

    async def read(self, count: int) -> bytes:
        while len(self.received) < count:
            self.received += await self.socket.receive_bytes(timeout=5)
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    async def shake_hands(self) -> bytes:
        """Return ServerInit."""
        assert await self.read(12) == VERSION
        await self.socket.send_bytes(VERSION)
        assert await self.read(2) == b"\x01\x01"
        await self.socket.send_bytes(b"\x01")
        assert await self.read(4) == bytes(4)
        await self.socket.send_bytes(b"\x00")
        server_init = await self.read(24)
        return server_init + await self.read(int.from_bytes(server_init[20:], "big"))

    async def ending(self, *, seconds: float = 5) -> tuple[int | None, str]:
        """Read to the end; return close code and reason."""
        while True:
            message = await self.socket.receive(timeout=seconds)
            if message.type is aiohttp.WSMsgType.CLOSE:
                return message.data, message.extra or ""
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return self.socket.close_code, ""


async def open_viewer(http: aiohttp.ClientSession, relay: RelayProcess, **grant: Any) -> Viewer:
    session_id = grant.get("session_id", "s1")
    socket = await http.ws_connect(
        f"{relay.url}/stream/{session_id}", headers=relay.grant(**grant), protocols=["binary"], max_msg_size=0
    )
    return Viewer(socket)


def with_http(body: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as http:
            await body(http)

    asyncio.run(run())


# --- who is let in


@pytest.mark.parametrize(
    ("method", "path", "grant"),
    [
        ("GET", "/stream/s1", None),
        ("GET", "/stream/s1", {"key": Fernet.generate_key()}),
        ("GET", "/stream/s1", {"seconds": -1}),
        ("GET", "/stream/s1", {"purpose": "probe"}),
        ("GET", "/stream/other", {}),
        ("GET", "/probe/s1", {}),
        ("GET", "/probe/other", {"purpose": "probe"}),
        ("GET", "/status", None),
        ("GET", "/status", {"purpose": "manage"}),
        ("GET", "/streams", None),
        ("GET", "/streams", {}),
        ("DELETE", "/streams/s1", {}),
        ("DELETE", "/streams/other", {"purpose": "manage"}),
        ("PUT", "/leases/s1", None),
        ("PUT", "/leases/s1", {}),
        ("PUT", "/leases/s1", {"purpose": "lease"}),
        ("PUT", "/leases/other", {"purpose": "lease", "lease": {"session_id": "s1"}}),
        ("PUT", "/leases/s1", {"purpose": "lease", "lease": {"session_id": "other"}}),
        ("GET", "/stream/s1", {"lease": {"session_id": "other"}}),
        ("DELETE", "/streams/s1/0a1b2c", {}),
        ("DELETE", "/streams/other/0a1b2c", {"purpose": "manage"}),
    ],
)
def test_without_the_right_grant_everything_is_403_and_says_why(
    relay: RelayProcess, method: str, path: str, grant: dict[str, Any] | None
) -> None:
    headers = {} if grant is None else relay.grant(**{"target": 1, **grant})
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="

    async def body(http: aiohttp.ClientSession) -> None:
        async with http.request(method, relay.url + path, headers=headers | upgrade) as answer:
            assert answer.status == 403
            assert answer.content_type == "application/problem+json"
            assert (await answer.json())["detail"]

    with_http(body)


@pytest.mark.parametrize(
    "grant",
    [
        {"purpose": "stream"},
        {"purpose": "picture", "key": Fernet.generate_key()},
        {"purpose": "picture", "seconds": -1},
        {"purpose": "picture", "target": None},
        {"purpose": "picture", "target": {"kind": "port", "sandbox_id": "a", "port": 1}},
    ],
)
def test_pictures_need_a_grant_each_of_their_own(relay: RelayProcess, grant: dict[str, Any]) -> None:
    good = relay.grant("picture", target=1)[GRANT_HEADER]
    bad = relay.grant(**{"target": 1, **grant})[GRANT_HEADER]

    async def body(http: aiohttp.ClientSession) -> None:
        wishes = {"items": [{"grant": good}, {"grant": bad}]}
        async with http.post(relay.url + "/pictures", json=wishes) as answer:
            assert answer.status == 403
            assert "grant" in (await answer.json())["detail"]

    with_http(body)


def test_a_stream_asked_for_without_upgrade_is_426(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        async with http.get(relay.url + "/stream/s1", headers=relay.grant(target=1)) as answer:
            assert answer.status == 426

    with_http(body)


def test_the_relay_listens_only_where_its_settings_say(relay: RelayProcess) -> None:
    port = int(relay.address.rpartition(":")[2])
    for address in ("127.0.0.2", PUBLISH_ADDRESS):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=1)


# --- a stream


def test_bytes_pass_both_ways_and_the_subprotocol_is_echoed(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(echo) as port:
            viewer = await open_viewer(http, relay, target=port)
            assert viewer.socket.protocol == "binary"
            assert not viewer.socket.compress
            assert await viewer.shake_hands() == SERVER_INIT
            for size in (9, 125, 126, 65536):
                sent = harmless(size)
                await viewer.socket.send_bytes(sent)
                assert await viewer.read(size) == sent
            await viewer.socket.close()

    with_http(body)


def test_a_watcher_is_shown_the_desktop_but_cannot_act_on_it(relay: RelayProcess) -> None:
    key_press = b"\x04\x01\0\0\0\0\0a"
    pointer = b"\x05\x01\0\x10\0\x10"
    request = b"\x03\0" + bytes(8)

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(echo) as port:
            viewer = await open_viewer(http, relay, target=port, may_control=False)
            assert await viewer.shake_hands() == SERVER_INIT
            await viewer.socket.send_bytes(key_press + request + pointer)
            await viewer.socket.send_bytes(pointer + request)
            assert await viewer.read(20) == request + request
            await viewer.socket.send_bytes(b"\x07 of unknown length")
            code, _reason = await viewer.ending()
            assert code == CloseCode.PROTOCOL_ERROR

    with_http(body)


def test_without_an_offer_no_subprotocol_is_named(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(hold) as port:
            async with http.ws_connect(f"{relay.url}/stream/s1", headers=relay.grant(target=port)) as browser:
                assert browser.protocol is None

    with_http(body)


def test_a_ping_is_answered_in_the_middle_of_a_stream(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(echo) as port:
            browser = await http.ws_connect(
                f"{relay.url}/stream/s1", headers=relay.grant(target=port), autoping=False
            )
            await browser.receive_bytes()
            await browser.ping(b"still there?")
            answer = await browser.receive(timeout=5)
            assert (answer.type, bytes(answer.data)) == (aiohttp.WSMsgType.PONG, b"still there?")
            await browser.close()

    with_http(body)


def test_the_desktop_is_asked_to_share_even_if_the_viewer_asks_for_itself_alone(relay: RelayProcess) -> None:
    client_init: list[bytes] = []

    def serve(client: socket.socket) -> None:
        client.sendall(VERSION)
        client.recv(12, socket.MSG_WAITALL)
        client.sendall(b"\x01\x01")
        client.recv(1)
        client.sendall(bytes(4))
        client_init.append(client.recv(1))
        client.sendall(SERVER_INIT)
        hold(client)

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(serve, login=False) as port:
            viewer = await open_viewer(http, relay, target=port)
            await viewer.shake_hands()
            await viewer.socket.close()

    with_http(body)
    assert client_init == [b"\x01"]


def test_open_streams_are_listed_with_their_bytes_and_closed_on_demand(relay: RelayProcess) -> None:
    async def listed(http: aiohttp.ClientSession) -> StreamList:
        async with http.get(relay.url + "/streams", headers=relay.grant("manage", session_id="")) as answer:
            return StreamList.model_validate_json(await answer.text())

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(echo) as port:
            mine = await open_viewer(http, relay, target=port, session_id="mine")
            other = await open_viewer(http, relay, target=port, session_id="other")
            await mine.shake_hands()
            await other.shake_hands()
            await mine.socket.send_bytes(harmless(100))
            await mine.read(100)
            info = {stream.session_id: stream for stream in (await listed(http)).streams}
            assert info["mine"].bytes_to_browser == len(SERVER_INIT) + 100
            assert info["mine"].bytes_to_desktop == 101
            assert (info["mine"].tenant_id, info["mine"].principal) == ("t1", "key:test")
            manage = relay.grant("manage", session_id="mine")
            async with http.delete(relay.url + "/streams/mine", headers=manage) as answer:
                assert answer.status == 204
            assert (await mine.ending())[0] == CloseCode.REVOKED
            await other.socket.send_bytes(harmless(9))
            assert await other.read(9) == harmless(9)
            await other.socket.close()

    with_http(body)


def test_one_stream_of_a_session_is_closed_and_the_others_stay(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        manage = relay.grant("manage", session_id="")
        with rfb_server(echo) as port:
            watcher = await open_viewer(http, relay, target=port, session_id="two", may_control=False)
            operator = await open_viewer(http, relay, target=port, session_id="two")
            async with http.get(relay.url + "/streams", headers=manage) as answer:
                listed = StreamList.model_validate_json(await answer.text()).streams
            (controlling,) = [one for one in listed if one.session_id == "two" and one.may_control]
            for path in ("other/" + controlling.stream_id, "two/unknown", "two/" + controlling.stream_id):
                async with http.delete(f"{relay.url}/streams/{path}", headers=manage) as answer:
                    assert answer.status == 204
            assert (await operator.ending())[0] == CloseCode.REVOKED
            await watcher.shake_hands()
            await watcher.socket.close()

    with_http(body)


def test_the_fourth_stream_of_a_session_is_told_that_there_are_enough(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(hold) as port:
            viewers = [await open_viewer(http, relay, target=port, session_id="full") for _ in range(3)]
            for viewer in viewers:
                await viewer.shake_hands()
            code, reason = await (await open_viewer(http, relay, target=port, session_id="full")).ending()
            assert code == CloseCode.BUSY
            assert "3 streams" in reason
            for viewer in viewers:
                await viewer.socket.close()
            again = await open_viewer(http, relay, target=port, session_id="full")
            await again.shake_hands()
            await again.socket.close()

    with_http(body)


def test_one_tenant_cannot_take_the_whole_relay(tmp_path: Path) -> None:
    """Its share is half, over all of its sessions; the other half is there for the next tenant."""
    (tmp_path / "studio.json").write_text('{"backend": "tigervnc", "tenant": "t1"}')
    with running_relay(tmp_path, max_streams=6, desktop_secrets_dir=str(tmp_path)) as relay:

        async def body(http: aiohttp.ClientSession) -> None:
            with rfb_server(hold) as port:
                sessions = [f"s{number}" for number in range(3)]
                viewers = [await open_viewer(http, relay, target=port, session_id=one) for one in sessions]
                for viewer in viewers:
                    await viewer.shake_hands()
                code, reason = await (await open_viewer(http, relay, target=port, session_id="s9")).ending()
                assert (code, reason) == (CloseCode.BUSY, "this tenant has its 3 streams already")
                content = await http.ws_connect(
                    f"{relay.url}/content/websockify",
                    headers=relay.grant("content", session_id="s8", target=DesktopSocket(name="studio")),
                )
                assert await Viewer(content).ending() == (code, reason)
                other = await open_viewer(http, relay, target=port, session_id="s7", tenant_id="t2")
                await other.shake_hands()

        with_http(body)


def test_many_streams_fit_although_the_soft_limit_on_files_is_small(tmp_path: Path) -> None:
    with running_relay(tmp_path, soft_open_files=64, max_streams_per_session=60) as relay:

        async def body(http: aiohttp.ClientSession) -> None:
            with rfb_server(echo) as port:
                viewers = [await open_viewer(http, relay, target=port) for _ in range(60)]
                for viewer in viewers:
                    await viewer.shake_hands()
                for viewer in viewers:
                    await viewer.socket.send_bytes(harmless(20))
                    assert await viewer.read(20) == harmless(20)
                await asyncio.gather(*(viewer.socket.close() for viewer in viewers))

        with_http(body)


# --- how streams end


def hang_up(client: socket.socket) -> None:
    client.sendall(b"last words")


def refuse(client: socket.socket) -> None:
    client.sendall(VERSION)
    client.recv(12, socket.MSG_WAITALL)
    client.sendall(b"\x00" + pack(">I", 8) + b"too many")


def say_hello(client: socket.socket) -> None:
    client.sendall(b"220 mail.example.com ESMTP")
    hold(client)


@pytest.mark.parametrize(
    ("serve", "code", "sentence"),
    [
        (refuse, CloseCode.UNREACHABLE, "too many"),
        (say_hello, CloseCode.UNREACHABLE, "does not speak RFB"),
        (lambda client: None, CloseCode.UNREACHABLE, "hung up"),
        (hold, CloseCode.UNREACHABLE, "did not answer in time"),
    ],
)
def test_a_desktop_that_cannot_be_used_ends_the_stream_with_the_reason(
    relay: RelayProcess, serve: Callable[[socket.socket], None], code: int, sentence: str
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(serve, login=False) as port:
            seen, reason = await (await open_viewer(http, relay, target=port)).ending()
            assert seen == code
            assert sentence in reason

    with_http(body)


def test_a_closed_port_and_a_missing_socket_are_unreachable(relay: RelayProcess) -> None:
    relay.give("silent")

    async def body(http: aiohttp.ClientSession) -> None:
        for target in (free_port(PUBLISH_ADDRESS), DesktopSocket(name="silent")):
            code, reason = await (await open_viewer(http, relay, target=target)).ending()
            assert code == CloseCode.UNREACHABLE
            assert "cannot be reached" in reason

    with_http(body)


def test_a_desktop_that_was_given_away_is_closed_to_its_former_tenant(relay: RelayProcess) -> None:
    """Whatever the control plane still thinks. A desktop that the deploy says nothing of is nobody's."""
    relay.give("given", tenant="t2")

    async def body(http: aiohttp.ClientSession) -> None:
        for name in ("given", "unheard-of"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await open_viewer(http, relay, target=DesktopSocket(name=name))
            assert caught.value.status == 403
        code, _ = await (
            await open_viewer(http, relay, target=DesktopSocket(name="given"), tenant_id="t2")
        ).ending()
        assert code == CloseCode.UNREACHABLE

    with_http(body)


def test_a_desktop_that_is_given_away_while_its_stream_opens_ends_it(relay: RelayProcess) -> None:
    """Its listener is too busy at first; once it answers, the desktop is the new tenant's already."""
    place = relay.desktops_dir / "passing"
    place.mkdir(parents=True)
    relay.give("passing")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as queued:
        listener.bind(str(place / "rfb.sock"))
        listener.listen(0)
        queued.connect(str(place / "rfb.sock"))

        async def body(http: aiohttp.ClientSession) -> None:
            viewer = await open_viewer(http, relay, target=DesktopSocket(name="passing"))
            relay.give("passing", tenant="t2")
            listener.accept()[0].close()
            code, reason = await viewer.ending()
            assert (code, "another tenant" in reason) == (CloseCode.REVOKED, True)

        with_http(body)


def test_what_the_desktop_said_last_arrives_before_it_is_gone(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(hang_up) as port:
            viewer = await open_viewer(http, relay, target=port)
            await viewer.shake_hands()
            assert await viewer.read(10) == b"last words"
            assert (await viewer.ending())[0] == CloseCode.GONE

    with_http(body)


def test_a_viewer_that_does_not_speak_rfb_is_a_protocol_error(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(hold) as port:
            viewer = await open_viewer(http, relay, target=port)
            await viewer.socket.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
            assert (await viewer.ending())[0] == CloseCode.PROTOCOL_ERROR
            viewer = await open_viewer(http, relay, target=port)
            await viewer.socket.send_str("hello")
            assert (await viewer.ending())[0] == CloseCode.PROTOCOL_ERROR

    with_http(body)


def test_a_viewer_that_never_answers_is_timed_out(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(hold) as port:
            assert (await (await open_viewer(http, relay, target=port)).ending())[0] == CloseCode.TIMED_OUT

    with_http(body)


def test_a_message_above_the_limit_ends_the_stream(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(echo) as port:
            viewer = await open_viewer(http, relay, target=port)
            await viewer.shake_hands()
            await viewer.socket.send_bytes(bytes(140000))
            assert (await viewer.ending())[0] == CloseCode.TOO_BIG

    with_http(body)


def test_a_viewer_that_leaves_takes_its_desktop_connection_along(relay: RelayProcess) -> None:
    gone = threading.Event()

    def serve(client: socket.socket) -> None:
        while client.recv(4096):
            pass
        gone.set()

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(serve) as port:
            viewer = await open_viewer(http, relay, target=port)
            await viewer.shake_hands()
            await viewer.socket.close()
            assert viewer.socket.close_code == CloseCode.OK
            assert await asyncio.to_thread(gone.wait, 2)

    with_http(body)


def test_a_stream_ends_at_its_longest_time(tmp_path: Path) -> None:
    with running_relay(tmp_path, max_stream_seconds=0.5) as relay:

        async def body(http: aiohttp.ClientSession) -> None:
            with rfb_server(hold) as port:
                viewer = await open_viewer(http, relay, target=port)
                await viewer.shake_hands()
                assert (await viewer.ending(seconds=2))[0] == CloseCode.TIMED_OUT

        with_http(body)


# --- back-pressure


def test_a_browser_that_does_not_read_costs_one_buffer_and_loses_nothing(relay: RelayProcess) -> None:
    total = 64 << 20
    sent = 0

    def serve(client: socket.socket) -> None:
        nonlocal sent
        block = bytes(range(256)) * 4096
        while sent < total:
            client.sendall(block)
            sent += len(block)
        hold(client)

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(serve) as port:
            viewer = await open_viewer(http, relay, target=port)
            await viewer.shake_hands()
            before = relay.resident_bytes()
            viewer.socket._reader._protocol.pause_reading()
            await asyncio.sleep(1)
            assert sent < total, "the relay took everything although the browser read nothing"
            assert relay.resident_bytes() - before < 8 << 20
            viewer.socket._reader._protocol.resume_reading()
            got = len(viewer.received)
            position = got % 256
            while got < total:
                data = await viewer.socket.receive_bytes(timeout=5)
                expected = bytes(range(256)) * (len(data) // 256 + 2)
                assert data == expected[position : position + len(data)]
                position = (position + len(data)) % 256
                got += len(data)
            assert got == total
            await viewer.socket.close()

    with_http(body)


def test_pings_to_a_stream_that_is_behind_are_answered_between_frames(relay: RelayProcess) -> None:
    total = 24 << 20

    def serve(client: socket.socket) -> None:
        client.sendall(bytes(total))
        hold(client)

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(serve) as port:
            browser = await http.ws_connect(
                f"{relay.url}/stream/s1", headers=relay.grant(target=port), autoping=False, max_msg_size=0
            )
            viewer = Viewer(browser)
            await viewer.shake_hands()
            browser._reader._protocol.pause_reading()
            for number in range(20):
                await browser.ping(b"%d" % number)
                await asyncio.sleep(0.02)
            browser._reader._protocol.resume_reading()
            got = len(viewer.received)
            answers: list[bytes] = []
            while got < total or not answers:
                message = await browser.receive(timeout=5)
                if message.type is aiohttp.WSMsgType.BINARY:
                    got += len(message.data)
                    assert not any(message.data)
                else:
                    assert message.type is aiohttp.WSMsgType.PONG
                    answers.append(bytes(message.data))
            assert answers[-1] == b"19"
            await browser.close()

    with_http(body)


def test_a_desktop_that_does_not_read_stops_the_browser_not_the_relay(relay: RelayProcess) -> None:
    go_on = threading.Event()
    received = 0
    total = 48 << 20

    def serve(client: socket.socket) -> None:
        nonlocal received
        go_on.wait(20)
        while received < total:
            received += len(client.recv(1 << 20))
        client.sendall(b"!")
        hold(client)

    async def body(http: aiohttp.ClientSession) -> None:
        with rfb_server(serve) as port:
            viewer = await open_viewer(http, relay, target=port)
            await viewer.shake_hands()
            before = relay.resident_bytes()

            async def pour() -> None:
                for _ in range(total // 65536):
                    await viewer.socket.send_bytes(cut_text(65536))

            pouring = asyncio.create_task(pour())
            await asyncio.sleep(1)
            assert not pouring.done()
            assert relay.resident_bytes() - before < 8 << 20
            go_on.set()
            await pouring
            assert await viewer.read(1) == b"!"
            await viewer.socket.close()

    with_http(body)


def test_the_client_of_the_bench_counts_what_the_pump_sends(relay: RelayProcess) -> None:
    port = free_port(PUBLISH_ADDRESS)
    pump = subprocess.Popen([sys.executable, "-m", "tests.rfb_pump", PUBLISH_ADDRESS, str(port)])
    try:
        wait_for_listener(PUBLISH_ADDRESS, port)
        relay_port = int(relay.address.rpartition(":")[2])
        client = StreamClient(relay_port, "/stream/s1", relay.grant(target=port), offer_compression=True)
        assert not client.compressed
        for size in ((16, 15), (1024, 1024), (16, 15)):
            client.request(*size)
            assert client.skip_answer_of_pump(*size) == 16 + 4 * size[0] * size[1]
        client.close()
    finally:
        pump.terminate()
        pump.wait()


# --- probe


def probed(relay: RelayProcess, port: int, password: str | None = None) -> ProbeResult:
    result: list[ProbeResult] = []

    async def body(http: aiohttp.ClientSession) -> None:
        grant = relay.grant("probe", target=port, password=password)
        async with http.get(relay.url + "/probe/s1", headers=grant) as answer:
            result.append(ProbeResult.model_validate_json(await answer.text()))

    with_http(body)
    return result[0]


def test_probe_waits_for_a_server_that_is_not_there_yet(relay: RelayProcess) -> None:
    def serve(client: socket.socket) -> None:
        if time.monotonic() < ready:
            return  # As docker-proxy does: accept, find nobody behind, hang up.
        client.sendall(VERSION)
        client.recv(12, socket.MSG_WAITALL)
        client.sendall(b"\x01\x01")
        client.recv(1)
        client.sendall(bytes(4))
        client.recv(1)
        client.sendall(SERVER_INIT)
        client.sendall(pack(">BxHHHHHi", 0, 1, 0, 0, 2, 1, 0) + b"\0\0\0\0\xff\xff\xff\xff")
        hold(client)

    ready = time.monotonic() + 0.5
    with rfb_server(serve, login=False) as port:
        result = probed(relay, port)
    assert result.result is ProbeOutcome.FRAME
    assert result.elapsed_ms < 1000


def test_probe_of_a_closed_port_is_unreachable_at_the_deadline(relay: RelayProcess) -> None:
    result = probed(relay, free_port(PUBLISH_ADDRESS))
    assert result.result is ProbeOutcome.UNREACHABLE
    assert 900 < result.elapsed_ms < 2000
    assert "cannot be reached" in result.detail


def test_probe_tells_a_refusal_at_once(relay: RelayProcess) -> None:
    with rfb_server(refuse, login=False) as port:
        result = probed(relay, port)
    assert result.result is ProbeOutcome.REFUSED
    assert "too many" in result.detail
    assert result.elapsed_ms < 500


def test_probe_ends_when_its_asker_wants_and_names_the_one_colour(relay: RelayProcess) -> None:
    def serve(client: socket.socket) -> None:
        client.sendall(pack(">BxHHHHHi", 0, 1, 0, 0, 2, 1, 0) + b"\x30\x20\x10\0" * 2)
        while client.recv(4096):
            pass

    client = relay.client()
    with rfb_server(serve) as port:
        result = client.probe("s1", PublishedPort(port=port), None, seconds=0.3)
    client.close()
    assert (result.result, result.colour) == (ProbeOutcome.BLANK, "#102030")
    assert result.elapsed_ms < 900


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e3", "x", ""])
def test_probe_refuses_what_is_no_time(relay: RelayProcess, seconds: str) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        grant = relay.grant("probe", target=1)
        async with http.get(f"{relay.url}/probe/s1?seconds={seconds}", headers=grant) as answer:
            assert answer.status == 400

    with_http(body)


def test_status_tells_the_version_and_does_not_count_as_supervision(tmp_path: Path) -> None:
    with running_relay(tmp_path, supervision_seconds=1) as alone:
        client = alone.client()
        assert client.status().is_supervised
        deadline = time.monotonic() + 10
        while client.status().is_supervised:
            assert time.monotonic() < deadline
        status = client.status()
        assert (status.version, status.streams) == (__version__, 0)
        assert status.silent_seconds >= 1
        client.streams()
        assert client.status().is_supervised
        clock = client.clock()
        assert clock is not None
        assert abs(clock - utcnow()) < timedelta(seconds=3)
        client.close()


def test_a_stream_that_is_tried_shows_what_the_desktop_says_first(relay: RelayProcess) -> None:
    client = relay.client()
    grant = Grant(
        purpose="stream",
        session_id="s1",
        tenant_id="t1",
        principal="key:test",
        target=PublishedPort(port=free_port(PUBLISH_ADDRESS)),
        expires_at=utcnow() + timedelta(seconds=30),
    )
    gone = client.try_stream(grant, seconds=5)
    assert (gone.status, gone.has_banner, gone.close_code) == (101, False, CloseCode.UNREACHABLE)
    with rfb_server(echo) as port:
        there = client.try_stream(grant.model_copy(update={"target": PublishedPort(port=port)}), seconds=5)
    assert there.has_banner
    late = grant.model_copy(update={"expires_at": utcnow() - timedelta(seconds=1)})
    refused = client.try_stream(late, seconds=5)
    assert refused.status == 403
    assert "expired" in refused.reason
    client.close()


# --- the process


def test_sigterm_tells_every_browser_and_waits_for_none(tmp_path: Path) -> None:
    with running_relay(tmp_path) as relay:

        async def body(http: aiohttp.ClientSession) -> None:
            with rfb_server(hold) as port:
                polite = await open_viewer(http, relay, target=port)
                deaf = await open_viewer(http, relay, target=port)
                for viewer in (polite, deaf):
                    await viewer.shake_hands()
                relay.process.send_signal(signal.SIGTERM)
                started = time.monotonic()
                assert (await polite.ending())[0] == CloseCode.RESTARTING
                # `deaf` never answers the close frame.
                assert await asyncio.to_thread(relay.process.wait, 5) == 0
                assert time.monotonic() - started < 4
                await deaf.socket.close()

        with_http(body)


def test_the_log_has_one_line_per_opening_and_closing_and_no_secret(tmp_path: Path) -> None:
    with running_relay(tmp_path) as relay:

        async def body(http: aiohttp.ClientSession) -> None:
            with rfb_server(hold) as port:
                http.headers["X-Request-Id"] = "of-the-edge"
                viewer = await open_viewer(http, relay, target=port, password="secret12")
                await viewer.ending()

        with_http(body)
    lines = relay.log.read_text().splitlines()
    about = [
        [line.get(name) for name in ("request_id", "session_id", "tenant")] for line in map(json.loads, lines)
    ]
    assert about.count(["of-the-edge", "s1", "t1"]) == 2
    assert len([line for line in lines if " open session=s1 tenant=t1" in line]) == 1
    assert len([line for line in lines if " closed session=s1 tenant=t1" in line and "4502" in line]) == 1
    assert not [line for line in lines if "secret12" in line or relay.key.decode() in line]
    assert "Traceback" not in relay.log.read_text()


GOOD = {
    "listen": '"127.0.0.1:1"',
    "key_file": '"KEY"',
    "publish_address": '"127.0.66.1"',
    "desktops_dir": '"/run/deskfleet/desktops"',
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"listen": '"localhost:8070"'}, r"listen = 'localhost:8070' is refused.*; write ADDRESS:PORT"),
        ({"listen": None}, "listen is missing; add it"),
        ({"publish_adress": '"127.0.66.1"'}, "publish_adress is not a key of the relay; remove it"),
        ({"publish_address": '"everywhere"'}, "publish_address = 'everywhere' is refused"),
        ({"max_streams": "0"}, "max_streams = 0 is refused"),
        ({"key_file": '"/nonexistent"'}, r"key_file: cannot read /nonexistent \(No such file"),
        ({"key_file": '"BAD"'}, "key_file: .* must hold 32 bytes in URL-safe base64"),
        ({"listen": '"192.0.2.1:8070"'}, r"listen: cannot listen on 192\.0\.2\.1:8070 \(Cannot assign"),
        ({"listen": "["}, "is not TOML"),
    ],
)
def test_a_bad_setting_is_one_sentence_that_names_the_key(
    tmp_path: Path, change: dict[str, str | None], sentence: str
) -> None:
    (tmp_path / "KEY").write_bytes(Fernet.generate_key())
    (tmp_path / "BAD").write_text("secret-but-short")
    values = {name: value for name, value in (GOOD | change).items() if value is not None}
    text = "".join(f"{name} = {value}\n" for name, value in values.items())
    path = tmp_path / "relay.toml"
    path.write_text(text.replace("KEY", f"{tmp_path}/KEY").replace("BAD", f"{tmp_path}/BAD"))
    ended = subprocess.run(
        [sys.executable, "-m", "viewer.relay.main"],
        env={"DESKFLEET_RELAY_SETTINGS": str(path)}, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "secret-but-short" not in ended.stderr
    assert re.search(sentence, ended.stderr), ended.stderr


def test_frame_headers_take_the_shortest_form() -> None:
    assert binary_header(125) == b"\x82\x7d"
    assert binary_header(126) == b"\x82\x7e\x00\x7e"
    assert binary_header(65535) == b"\x82\x7e\xff\xff"
    assert binary_header(65536) == b"\x82\x7f" + pack(">Q", 65536)


def test_a_close_reason_is_cut_at_a_characters_edge() -> None:
    assert close_reason("ä" * 100) == ("ä" * 60).encode()
    assert close_reason("x" + "ä" * 100) == ("x" + "ä" * 59).encode()
