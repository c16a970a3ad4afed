"""The relay in front of a KasmVNC desktop, which is a stand-in behind a real forwarder."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from tests.desktops.as_the_relay import PUMP, brought_here, check_streams_have_users_of_their_own
from tests.fake_kasmvnc import FakeKasmVNC, User, hash_password, read_users, running_fake_kasmvnc, write_users
from tests.relay_process import RelayProcess, held_by, running_relay
from tests.test_relay import Viewer, with_http
from tests.unix_forwarder import running_forwarder
from viewer.grants import DesktopSocket
from viewer.model import Lease
from viewer.relay.answers import CloseCode, ProbeOutcome, ProbeResult, StreamInfo, StreamList
from viewer.relay.content_paths import content_path
from viewer.relay.desktop_access import Credentials
from viewer.relay.desktops import WEB_SOCKET
from viewer.relay.endings import ENDED
from viewer.relay.http_head import accept_of

pytestmark = pytest.mark.real

OWNER_PASSWORD = "owner-secret-of-the-desktop"
BIG = bytes(range(256)) * (1 << 14)


@dataclass
class Studio:
    """A desktop named `studio`, and what it has seen."""

    fake: FakeKasmVNC
    users_file: Path
    port: int

    def users(self) -> dict[str, User]:
        return read_users(self.users_file)

    def stream_users(self) -> dict[str, User]:
        return {name: user for name, user in self.users().items() if name.startswith("s-")}

    def wait_until(self, count: int, *, seconds: float = 5) -> None:
        """Until so many users of streams are left."""
        deadline = time.monotonic() + seconds
        while len(self.stream_users()) != count:
            assert time.monotonic() < deadline, self.stream_users()
            time.sleep(0.02)

    def wait_until_quiet(self) -> None:
        """Until it has been asked something, and nothing more for a while."""
        seen = 0
        while not seen or seen != len(self.fake.seen.requests):
            seen = len(self.fake.seen.requests)
            time.sleep(0.3)


def access_of(password: str, *, tenant: str = "t1") -> str:
    """The relay's file about a KasmVNC desktop."""
    return json.dumps({"backend": "kasmvnc", "tenant": tenant, "owner": "owner", "password": password})


@contextmanager
def studio_at(
    directory: Path, *, name: str = "studio", tenant: str = "t1", **settings: Any
) -> Iterator[Studio]:
    """A KasmVNC desktop of that name below `directory`, where a relay of the same directory finds it."""
    users_file = directory / f"{name}.kasmpasswd"
    write_users(
        users_file,
        {
            "owner": User("owner", hash_password(OWNER_PASSWORD), True, True, True),
            "alice": User("alice", hash_password("alice-secret"), True, True),
        },
    )
    place, secrets = directory / "desktops" / name, directory / "secrets"
    for folder in (place, secrets):
        folder.mkdir(parents=True, exist_ok=True)
    (secrets / f"{name}.json").write_text(access_of(OWNER_PASSWORD, tenant=tenant))
    usual: dict[str, Any] = {"screen_after": 0, "files": {"/dist/big.bin": BIG}}
    fake = FakeKasmVNC(users_file, **usual | settings)
    with running_fake_kasmvnc(fake) as port, running_forwarder(place / "web.sock", port):
        yield Studio(fake, users_file, port)


def relay_at(directory: Path, **settings: Any) -> AbstractContextManager[RelayProcess]:
    usual: dict[str, Any] = {
        "handshake_seconds": 3,
        "probe_seconds": 2,
    }
    return running_relay(directory, **usual | settings)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("content")


@pytest.fixture(scope="module")
def studio(directory: Path) -> Iterator[Studio]:
    with studio_at(directory) as desktop:
        yield desktop
        # Of all that happened in this module, nothing counted against the relay.
        assert desktop.fake.blacklist.failures == {}
        assert desktop.fake.seen.refused == 0


@pytest.fixture(scope="module")
def relay(directory: Path, studio: Studio) -> Iterator[RelayProcess]:
    with relay_at(directory, max_streams_per_session=60) as process:
        # It begins by looking for strays, which no test is to take for its own doing.
        studio.wait_until_quiet()
        yield process
    log = process.log.read_text()
    assert "Traceback" not in log
    assert OWNER_PASSWORD not in log
    assert "Basic" not in log


def content_grant(relay: RelayProcess, *, name: str = "studio", **grant: Any) -> dict[str, str]:
    return relay.grant("content", target=DesktopSocket(name=name), **grant)


async def open_stream(http: aiohttp.ClientSession, relay: RelayProcess, **grant: Any) -> Viewer:
    """A browser's end of a stream that the desktop has greeted."""
    viewer = await open_ungreeted(http, relay, **grant)
    assert await viewer.read(12) == b"RFB 003.008\n"
    return viewer


async def open_ungreeted(http: aiohttp.ClientSession, relay: RelayProcess, **grant: Any) -> Viewer:
    return Viewer(
        await http.ws_connect(
            f"{relay.url}/content/websockify",
            headers=content_grant(relay, **grant),
            protocols=["binary"],
            max_msg_size=0,
        )
    )


async def say(viewer: Viewer, text: bytes) -> bytes:
    await viewer.socket.send_bytes(text)
    return await viewer.socket.receive_bytes(timeout=5)


async def listed(http: aiohttp.ClientSession, relay: RelayProcess) -> list[StreamInfo]:
    manage = relay.grant("manage", session_id="")
    async with http.get(relay.url + "/streams", headers=manage) as answer:
        return StreamList.model_validate_json(await answer.text()).streams


# --- files


def test_files_come_as_they_are_with_the_headers_that_matter(relay: RelayProcess, studio: Studio) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        for path, kind, lasts in (
            ("", "text/html", "no-cache"),
            ("index.html?resize=scale#x", "text/html", "no-cache"),
            ("dist/client.js", "application/javascript", "private, max-age=300"),
            ("dist/style.css", "text/css", "private, max-age=300"),
        ):
            async with http.get(f"{relay.url}/content/{path}", headers=content_grant(relay)) as answer:
                assert answer.status == 200, path
                name = "/" + (path.partition("?")[0] or "index.html")
                assert await answer.read() == studio.fake.files[name]
                assert answer.content_type == kind
                assert answer.headers["Cache-Control"] == lasts
                assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        asked = studio.fake.seen.requests[-1]
        assert asked.target == "/dist/style.css"

    with_http(body)


def test_nothing_of_the_browsers_request_reaches_the_desktop(relay: RelayProcess, studio: Studio) -> None:
    told = {
        "Cookie": "a=../secret", "Referer": "https://x/../y", "X-Forwarded-For": "203.0.113.9",
        "Authorization": "Basic Zm9yZ2VkOmZvcmdlZA==", "User-Agent": "Browser/1", "Range": "bytes=0-1",
    }  # fmt: skip

    async def body(http: aiohttp.ClientSession) -> None:
        url = f"{relay.url}/content/dist/client.js?token=secret"
        async with http.get(url, headers=content_grant(relay) | told) as answer:
            assert answer.status == 200
            assert "Server" not in answer.headers or "KasmVNC" not in answer.headers["Server"]

    with_http(body)
    asked = studio.fake.seen.requests[-1].text
    for value in (*told.values(), "token", "X-Df-Grant"):
        assert value not in asked
    assert re.search(r"\r\nX-Forwarded-For: fd[0-9a-f]{2}(:[0-9a-f]{4}){7}\r\n", asked)


def test_a_large_file_comes_whole_and_in_portions(relay: RelayProcess, studio: Studio) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        async with http.get(f"{relay.url}/content/dist/big.bin", headers=content_grant(relay)) as answer:
            assert await answer.read() == BIG

    with_http(body)
    assert relay.resident_bytes() < 200 << 20


def test_browsers_that_leave_in_the_middle_of_a_file_are_no_surprise(
    relay: RelayProcess, studio: Studio
) -> None:
    """The module's end looks for tracebacks in the log."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in content_grant(relay).items())
    port = int(relay.address.rpartition(":")[2])
    for pause in (0, 0, 0.001, 0.005, 0.01, 0.05):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(f"GET /content/dist/big.bin HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
            time.sleep(pause)
    # The relay may ask for some of them yet, which the next test is not to take for its own doing.
    studio.wait_until_quiet()


@pytest.mark.parametrize(
    "path",
    [
        "api/get_users", "api/get_screenshot", "API/get_users", "dist/api/get_users", "x/api/get_users?a=1",
        "../api/get_users", "dist/../index.html", "%2e%2e/index.html", "dist%2fclient.js", "dist/%63lient.js",
        "dist/.hidden", "./index.html", "dist//client.js", "dist/", "dist/./client.js", "index.html%00.js",
        "dist\\client.js", "index.html;x", "a" * 600, "~/x/..", "dist/..", "dist/client.js%0d%0aX", "*",
        "a../index.html",
    ],
)  # fmt: skip
def test_what_is_not_plainly_a_file_never_reaches_the_desktop(
    relay: RelayProcess, studio: Studio, path: str
) -> None:
    before = len(studio.fake.seen.requests)
    # By hand, as clients of libraries mend such paths.
    port = int(relay.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        lines = "".join(f"{name}: {value}\r\n" for name, value in content_grant(relay).items())
        request = f"GET /content/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
        client.sendall(request.encode())
        answer = client.makefile("rb").read()
    assert re.match(rb"HTTP/1.[01] (400|403|404) ", answer), answer[:100]
    assert len(studio.fake.seen.requests) == before


def test_no_random_path_leads_anywhere_but_down() -> None:
    """Seeded: whatever passes is a plain path that KasmVNC reads as it is written."""
    dice = random.Random(20261123)
    pieces = [
        "api", "API", "..", ".", "/", "//", "%2e", "%2F", "..%2f", "a", "dist", "client.js", "i-4f.js", "?",
        "&", " ", "\\", "\0", "~", "@", ";", ":", "é", "\r\n",
    ]  # fmt: skip
    passed = 0
    for _ in range(20_000):
        target = "/content/" + "".join(dice.choices(pieces, k=dice.randint(0, 8)))
        path = content_path(target, "/content/")
        if path is None:
            continue
        passed += 1
        assert re.fullmatch(r"/|(/[A-Za-z0-9_@~][A-Za-z0-9_@~.,+=-]*)+", path)
        assert "/api/" not in (path + "/").lower()
        assert "../" not in path + "/"
        assert target.partition("?")[0] == "/content" + path
    assert passed > 100


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_files_are_read_and_nothing_else(relay: RelayProcess, studio: Studio, method: str) -> None:
    before = len(studio.fake.seen.requests)

    async def body(http: aiohttp.ClientSession) -> None:
        async with http.request(method, relay.url + "/content/", headers=content_grant(relay)) as answer:
            assert answer.status == 405

    with_http(body)
    assert len(studio.fake.seen.requests) == before


def test_a_body_is_refused(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        url = relay.url + "/content/"
        async with http.get(url, headers=content_grant(relay), data=b"x") as answer:
            assert answer.status == 413

    with_http(body)


@pytest.mark.parametrize("grant", [None, "stream", "probe", "expired", "sandbox"])
def test_without_a_grant_for_content_there_is_none(relay: RelayProcess, grant: str | None) -> None:
    target = DesktopSocket(name="studio")
    headers = {
        None: {},
        "stream": relay.grant("stream", target=target),
        "probe": relay.grant("probe", target=target),
        "expired": relay.grant("content", target=target, seconds=-1),
        "sandbox": relay.grant("content", target=5900),
    }[grant]
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="

    async def body(http: aiohttp.ClientSession) -> None:
        for more in ({}, upgrade):
            async with http.get(relay.url + "/content/", headers=headers | more) as answer:
                assert answer.status == 403

    with_http(body)


def test_a_desktop_that_was_given_away_shows_its_former_tenant_nothing(
    relay: RelayProcess, directory: Path
) -> None:
    """Whatever the control plane still thinks. Without a file, or with one that names none, nobody's."""
    unowned = json.loads(access_of(OWNER_PASSWORD))
    del unowned["tenant"]
    given = {
        "given": access_of(OWNER_PASSWORD, tenant="t2"),
        "unowned": json.dumps(unowned),
        "fileless": None,
        "kept": access_of(OWNER_PASSWORD),
    }
    for name, text in given.items():
        if text is not None:
            (directory / "secrets" / f"{name}.json").write_text(text)

    async def body(http: aiohttp.ClientSession) -> None:
        for name, refused in (("given", True), ("unowned", True), ("fileless", True), ("kept", False)):
            headers = content_grant(relay, name=name)
            async with http.get(relay.url + "/content/", headers=headers) as answer:
                assert answer.status == (403 if refused else 502)
            if refused:
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await open_ungreeted(http, relay, name=name)
                assert caught.value.status == 403

    with_http(body)


def test_a_desktop_that_is_given_away_while_its_stream_opens_ends_it(
    relay: RelayProcess, directory: Path
) -> None:
    """Between the grant and the connection it may have become the new tenant's."""
    file = directory / "secrets" / "passing.json"
    file.write_text(access_of("x-secret"))
    (directory / "desktops" / "passing").mkdir()

    def answer(listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            with client:
                asked = client.recv(65536).decode()
                if key := re.search("Sec-WebSocket-Key: (.+)\r\n", asked):
                    file.write_text(access_of("x-secret", tenant="t2"))
                    client.sendall(
                        "HTTP/1.1 101 Switching Protocols\r\n"
                        f"Sec-WebSocket-Accept: {accept_of(key[1])}\r\n\r\n".encode()
                        + b"\x82\x06secret"
                    )
                    client.recv(1)
                    return
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "desktops" / "passing" / "web.sock"))
        listener.listen(8)
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()

        async def body(http: aiohttp.ClientSession) -> None:
            code, reason = await (await open_ungreeted(http, relay, name="passing")).ending()
            assert (code, "another tenant" in reason) == (CloseCode.REVOKED, True)

        with_http(body)
        thread.join(5)


def test_a_grant_for_content_opens_no_other_door(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        for path in ("/stream/s1", "/probe/s1", "/streams"):
            async with http.get(relay.url + path, headers=content_grant(relay)) as answer:
                assert answer.status == 403

    with_http(body)


def test_a_missing_file_and_a_directory_are_not_found(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        for path in ("missing.js", "dist"):
            async with http.get(f"{relay.url}/content/{path}", headers=content_grant(relay)) as answer:
                assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")

    with_http(body)


def test_a_desktop_of_tigervnc_has_no_page_and_says_so(relay: RelayProcess) -> None:
    relay.give("plain")

    async def body(http: aiohttp.ClientSession) -> None:
        grant = content_grant(relay, name="plain")
        async with http.get(relay.url + "/content/", headers=grant) as answer:
            assert answer.status == 404
            assert "no page of its own" in (await answer.json())["detail"]
        code, reason = await (await open_ungreeted(http, relay, name="plain")).ending()
        assert (code, "no page of its own" in reason) == (CloseCode.UNREACHABLE, True)

    with_http(body)


def test_a_wrong_password_is_a_bad_gateway_and_never_asks_the_browser(tmp_path: Path) -> None:
    with ExitStack() as stack:
        studio = stack.enter_context(studio_at(tmp_path))
        write_users(studio.users_file, {"owner": User("owner", hash_password("changed"), True, True, True)})
        relay = stack.enter_context(relay_at(tmp_path))

        async def body(http: aiohttp.ClientSession) -> None:
            for _ in range(7):
                async with http.get(relay.url + "/content/", headers=content_grant(relay)) as answer:
                    assert answer.status == 502
                    assert "WWW-Authenticate" not in answer.headers
                    assert "does not take the relay's user 'owner'" in (await answer.json())["detail"]
            code, _reason = await (await open_ungreeted(http, relay)).ending()
            assert code == CloseCode.UNREACHABLE
            assert (await probed(http, relay)).result is ProbeOutcome.REFUSED
            # Mended without a restart, and nobody was locked out meanwhile.
            (tmp_path / "secrets" / "studio.json").write_text(access_of("changed"))
            async with http.get(relay.url + "/content/", headers=content_grant(relay)) as answer:
                assert answer.status == 200

        with_http(body)
        assert OWNER_PASSWORD not in relay.log.read_text()


# --- streams


def test_a_readers_stream_may_look_and_a_writers_may_act(relay: RelayProcess, studio: Studio) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        reader = await open_stream(http, relay, may_control=False)
        writer = await open_stream(http, relay, may_control=True)
        assert writer.socket.protocol == "binary"
        assert await say(reader, b"key") == b"ignored key"
        assert await say(writer, b"key") == b"wrote key"
        flags = {(user.read, user.write, user.owner) for user in studio.stream_users().values()}
        assert flags == {(True, False, False), (True, True, False)}
        streams = await listed(http, relay)
        assert {f"s-{stream.stream_id}" for stream in streams} == set(studio.stream_users())
        assert {stream.kind for stream in streams} == {"content"}
        assert all(stream.bytes_to_browser > 12 and stream.bytes_to_desktop > 3 for stream in streams)
        for viewer in (reader, writer):
            await viewer.socket.close()
            assert viewer.socket.close_code == 1000
        await asyncio.to_thread(studio.wait_until, 0)
        assert await listed(http, relay) == []

    with_http(body)
    assert set(studio.users()) == {"owner", "alice"}


def test_messages_of_every_size_pass_unchanged(relay: RelayProcess, studio: Studio) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await open_stream(http, relay)
        for size in (1, 119, 120, 126, 65536, 300_000):
            sent = random.Random(size).randbytes(size)
            assert await say(viewer, sent) == b"wrote " + sent
        await viewer.socket.ping(b"there?")
        await viewer.socket.close()

    with_http(body)


async def until_said(viewer: Viewer, text: bytes, wanted: bytes) -> None:
    """The desktop answers by what it lets the stream's user do."""
    for _ in range(100):
        if await say(viewer, text) == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {wanted!r}")


def test_users_permission_follows_the_lease_while_the_stream_goes_on(
    relay: RelayProcess, studio: Studio
) -> None:
    def lease(holder: str | None, number: int) -> Lease:
        return held_by(holder, number, session_id="leased")

    async def body(http: aiohttp.ClientSession) -> None:
        about = {"session_id": "leased", "lease": lease(None, 0)}
        alice = await open_stream(http, relay, principal="alice", **about)
        bob = await open_stream(http, relay, principal="bob", **about)
        watcher = await open_stream(http, relay, principal="wanda", may_control=False, **about)
        # Nobody has control, so nobody writes.
        for viewer in (alice, bob, watcher):
            assert await say(viewer, b"key") == b"ignored key"
        assert not [user for user in studio.stream_users().values() if user.write]
        with closing(relay.client()) as control_plane:

            async def told(holder: str | None, number: int, *, given_back: bool = False) -> None:
                about = lease(holder, number)
                await asyncio.to_thread(control_plane.set_lease, about, given_back=given_back)

            await told("alice", 1)
            await until_said(alice, b"key", b"wrote key")
            assert await say(bob, b"key") == b"ignored key"
            # Given back: the stream stays, and only looks on.
            await told(None, 2, given_back=True)
            await until_said(alice, b"key", b"ignored key")
            # Whoever may only watch writes in no case.
            await told("wanda", 3)
            await told("alice", 4, given_back=True)
            await until_said(alice, b"key", b"wrote key")
            assert await say(watcher, b"key") == b"ignored key"
            # Taken away: he is closed and told by whom, and the next one writes; the others stay.
            await told("bob", 5)
            assert await alice.ending() == (CloseCode.LEASE_LOST, "Bob has taken control")
            await until_said(bob, b"key", b"wrote key")
            assert await say(watcher, b"key") == b"ignored key"
        for viewer in (bob, watcher):
            await viewer.socket.close()
        await asyncio.to_thread(studio.wait_until, 0)

    with_http(body)


def test_stream_ends_where_the_desktop_does_not_learn_of_a_lost_lease(
    relay: RelayProcess, studio: Studio
) -> None:
    """Else he would go on writing who may not."""

    async def body(http: aiohttp.ClientSession) -> None:
        about = {"session_id": "forgotten", "lease": held_by("alice", 1, session_id="forgotten")}
        alice = await open_stream(http, relay, principal="alice", **about)
        assert await say(alice, b"key") == b"wrote key"
        kept = {name: user for name, user in studio.users().items() if not name.startswith("s-")}
        write_users(studio.users_file, kept)
        with closing(relay.client()) as control_plane:
            lost = held_by(None, 2, session_id="forgotten")
            await asyncio.to_thread(control_plane.set_lease, lost, given_back=True)
        code, reason = await alice.ending()
        assert (code, "has lost the user" in reason) == (CloseCode.UNREACHABLE, True)

    with_http(body)


def test_revoking_one_of_two_drops_only_that_one(relay: RelayProcess, studio: Studio) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        stays = await open_stream(http, relay, session_id="two", may_control=False)
        goes = await open_stream(http, relay, session_id="two")
        (revoked,) = [stream for stream in await listed(http, relay) if stream.may_control]
        url = f"{relay.url}/streams/two/{revoked.stream_id}"
        async with http.delete(url, headers=relay.grant("manage", session_id="")) as answer:
            assert answer.status == 204
        assert await goes.ending() == (CloseCode.REVOKED, "access to this session was revoked")
        await asyncio.to_thread(studio.wait_until, 1)
        assert f"s-{revoked.stream_id}" not in studio.users()
        assert await say(stays, b"key") == b"ignored key"
        await stays.socket.close()

    with_http(body)
    studio.wait_until(0)


def test_a_close_frame_waits_for_the_end_of_the_frame_under_way(relay: RelayProcess, studio: Studio) -> None:
    """A stream cut in the middle of the desktop's frame gets no close frame into it."""

    async def body(http: aiohttp.ClientSession) -> None:
        stuck = await open_stream(http, relay, session_id="stuck")
        await stuck.socket.send_bytes(b"half")
        await asyncio.sleep(0.1)
        manage = relay.grant("manage", session_id="")
        async with http.delete(relay.url + "/streams/stuck", headers=manage):
            pass
        code, _ = await stuck.ending()
        assert code in (None, 1006)
        busy = await open_stream(http, relay, session_id="busy")
        await busy.socket.send_bytes(b"pour 33554432")
        await busy.socket.receive_bytes()
        async with http.delete(relay.url + "/streams/busy", headers=manage):
            pass
        assert (await busy.ending())[0] == CloseCode.REVOKED

    with_http(body)
    studio.wait_until(0)


def test_a_desktop_that_closes_says_so_itself(relay: RelayProcess, studio: Studio) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await open_stream(http, relay)
        await viewer.socket.send_bytes(b"bye")
        assert (await viewer.ending())[0] == 1001

    with_http(body)
    studio.wait_until(0)


def test_the_seventeenth_stream_is_told_that_there_are_enough(tmp_path: Path) -> None:
    with studio_at(tmp_path), relay_at(tmp_path, max_streams_per_session=1, max_stream_seconds=1.5) as relay:

        async def body(http: aiohttp.ClientSession) -> None:
            first = await open_stream(http, relay)
            code, reason = await (await open_ungreeted(http, relay)).ending()
            assert (code, "1 streams" in reason) == (CloseCode.BUSY, True)
            assert await told(http, relay) == str(CloseCode.BUSY)
            assert (await first.ending())[0] == CloseCode.TIMED_OUT
            assert await told(http, relay) == str(CloseCode.TIMED_OUT)
            assert await told(http, relay, session_id="s2") == "null"
            again = await open_stream(http, relay)
            assert await told(http, relay) == "null"
            await again.socket.close()

        with_http(body)


async def told(http: aiohttp.ClientSession, relay: RelayProcess, **grant: Any) -> str:
    """What a frame tells the page around it of how its last stream ended."""
    url = f"{relay.url}/content{ENDED}"
    async with http.get(url, headers=content_grant(relay, **grant)) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        [code] = re.findall(r'action: "deskfleet_ended", value: (\w+)}', await answer.text())
        return str(code)


def test_what_the_opt_in_run_asks_of_kasmvnc_itself_holds_here(tmp_path: Path) -> None:
    owner = Credentials("owner", SecretStr(OWNER_PASSWORD))
    there = tmp_path / "desktops" / "studio" / WEB_SOCKET
    with (
        studio_at(tmp_path),
        brought_here(tmp_path / "here", "studio", [sys.executable, "-c", PUMP, str(there)], os.environ),
    ):
        check_streams_have_users_of_their_own(tmp_path / "here", "studio", owner)


def test_a_desktop_that_is_down_is_unreachable(relay: RelayProcess, directory: Path) -> None:
    (directory / "secrets" / "down.json").write_text(access_of("x-secret"))

    async def body(http: aiohttp.ClientSession) -> None:
        code, reason = await (await open_ungreeted(http, relay, name="down")).ending()
        assert (code, "cannot be reached" in reason) == (CloseCode.UNREACHABLE, True)
        assert await told(http, relay, name="down") == str(CloseCode.UNREACHABLE)
        async with http.get(relay.url + "/content/", headers=content_grant(relay, name="down")) as answer:
            assert answer.status == 502

    with_http(body)


def test_a_desktops_file_that_is_not_right_is_named_and_its_password_is_not(
    relay: RelayProcess, directory: Path
) -> None:
    (directory / "secrets" / "odd.json").write_text('{"backend": "kasmvnc", "password": "odd-secret"}')

    async def body(http: aiohttp.ClientSession) -> None:
        async with http.get(relay.url + "/content/", headers=content_grant(relay, name="odd")) as answer:
            text = await answer.text()
        assert answer.status == 403
        assert "odd.json is not right" in text
        assert "odd-secret" not in text

    with_http(body)


def test_a_desktop_cannot_lead_the_relay_to_another_ones_web_client(
    relay: RelayProcess, studio: Studio, directory: Path
) -> None:
    place = directory / "desktops" / "owned"
    place.mkdir()
    (place / "web.sock").symlink_to(directory / "desktops" / "studio" / "web.sock")
    os.chown(place, 65534, 65534)
    (directory / "secrets" / "owned.json").write_text((directory / "secrets" / "studio.json").read_text())
    before = len(studio.fake.seen.requests)

    async def body(http: aiohttp.ClientSession) -> None:
        code, reason = await (await open_ungreeted(http, relay, name="owned")).ending()
        assert (code, "another user" in reason) == (CloseCode.UNREACHABLE, True)
        async with http.get(relay.url + "/content/", headers=content_grant(relay, name="owned")) as answer:
            assert answer.status == 502
        assert (await probed(http, relay, name="owned")).result is ProbeOutcome.UNREACHABLE

    with_http(body)
    assert len(studio.fake.seen.requests) == before


def test_fifty_streams_and_their_pages_lock_nobody_out(relay: RelayProcess, studio: Studio) -> None:
    async def page(http: aiohttp.ClientSession) -> None:
        async with http.get(relay.url + "/content/dist/client.js", headers=content_grant(relay)) as answer:
            assert answer.status == 200

    async def body(http: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(page(http) for _ in range(60)))
        viewers = await asyncio.gather(*(open_stream(http, relay, may_control=n % 2 == 0) for n in range(50)))
        assert len(studio.stream_users()) == 50
        for n, viewer in enumerate(viewers):
            assert await say(viewer, b"%d" % n) == (b"ignored %d" if n % 2 else b"wrote %d") % n
        await asyncio.gather(*(viewer.socket.close() for viewer in viewers))
        await asyncio.to_thread(studio.wait_until, 0)

    with_http(body)
    assert studio.fake.blacklist.failures == {}
    assert set(studio.users()) == {"owner", "alice"}


def test_a_browser_that_does_not_read_costs_one_buffer_and_loses_nothing(
    relay: RelayProcess, studio: Studio
) -> None:
    total = 64 << 20

    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await open_stream(http, relay)
        before = relay.resident_bytes()
        viewer.socket._reader._protocol.pause_reading()
        await viewer.socket.send_bytes(b"pour %d" % total)
        await asyncio.sleep(1)
        (stream,) = await listed(http, relay)
        assert stream.bytes_to_browser < total // 2
        assert relay.resident_bytes() - before < 8 << 20
        viewer.socket._reader._protocol.resume_reading()
        await viewer.read(total)
        assert await say(viewer, b"x") == b"wrote x"
        await viewer.socket.close()

    with_http(body)
    studio.wait_until(0)


def test_a_desktop_that_does_not_read_stops_the_browser_not_the_relay(
    relay: RelayProcess, studio: Studio
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        viewer = await open_stream(http, relay)
        await viewer.socket.send_bytes(b"deaf")
        before = relay.resident_bytes()

        async def pour() -> None:
            for _ in range(512):
                await viewer.socket.send_bytes(bytes(65536))

        pouring = asyncio.create_task(pour())
        await asyncio.sleep(1)
        assert not pouring.done()
        assert relay.resident_bytes() - before < 8 << 20
        manage = relay.grant("manage", session_id="")
        async with http.delete(relay.url + "/streams/s1", headers=manage):
            pass
        with pytest.raises((ConnectionError, aiohttp.ClientError)):
            await pouring
        await viewer.ending()
        await viewer.socket.close()

    with_http(body)
    studio.wait_until(0)


# --- users across the relay's life


def test_a_killed_relay_leaves_users_that_the_next_one_removes_and_nobody_elses(tmp_path: Path) -> None:
    with studio_at(tmp_path) as studio:
        with relay_at(tmp_path) as relay:

            async def body(http: aiohttp.ClientSession) -> None:
                viewers = [await open_stream(http, relay) for _ in range(3)]
                relay.process.kill()
                for viewer in viewers:
                    assert (await viewer.ending())[0] in (None, 1006)
                    await viewer.socket.close()

            with_http(body)
        assert len(studio.stream_users()) == 3
        mine = User("s-of-alice", hash_password("her-secret"), True, True)
        write_users(studio.users_file, studio.users() | {"s-of-alice": mine})
        with relay_at(tmp_path):
            deadline = time.monotonic() + 5
            while set(studio.users()) != {"owner", "alice", "s-of-alice"}:
                assert time.monotonic() < deadline, studio.users()
                time.sleep(0.05)


def test_a_stopped_relay_takes_its_users_along_within_two_seconds(tmp_path: Path) -> None:
    with studio_at(tmp_path) as studio, relay_at(tmp_path) as relay:

        async def body(http: aiohttp.ClientSession) -> None:
            viewers = [await open_stream(http, relay) for _ in range(8)]
            started = time.monotonic()
            relay.process.send_signal(signal.SIGTERM)
            for viewer in viewers:
                assert (await viewer.ending())[0] == CloseCode.RESTARTING
            assert await asyncio.to_thread(relay.process.wait, 5) == 0
            assert time.monotonic() - started < 2

        with_http(body)
        assert studio.stream_users() == {}


def test_strays_of_a_desktop_that_comes_later_go_as_soon_as_it_is_there(tmp_path: Path) -> None:
    with studio_at(tmp_path) as studio:
        stray = User("s-0123456789ab", hash_password("stray-secret"), True, True)
        kept = studio.users() | {stray.name: stray}
    with relay_at(tmp_path):
        time.sleep(0.3)
        with studio_at(tmp_path) as studio:
            write_users(studio.users_file, kept)
            studio.wait_until(0)


# --- probe


async def probed(http: aiohttp.ClientSession, relay: RelayProcess, *, name: str = "studio") -> ProbeResult:
    grant = relay.grant("probe", target=DesktopSocket(name=name))
    async with http.get(relay.url + "/probe/s1", headers=grant) as answer:
        return ProbeResult.model_validate_json(await answer.text())


@pytest.mark.parametrize(
    ("settings", "outcome", "colours", "least_ms"),
    [
        ({}, ProbeOutcome.FRAME, 2, 0),
        ({"screen_after": 0.8}, ProbeOutcome.FRAME, 2, 100),
        ({"uniform": True}, ProbeOutcome.BLANK, 1, 1900),
        ({"screen_after": 60}, ProbeOutcome.UNREACHABLE, 0, 1900),
    ],
)
def test_a_desktop_is_ready_when_its_screenshot_shows_something(
    tmp_path: Path, settings: dict[str, Any], outcome: ProbeOutcome, colours: int, least_ms: float
) -> None:
    with relay_at(tmp_path) as relay, studio_at(tmp_path, size=(1600, 900), **settings) as studio:

        async def body(http: aiohttp.ClientSession) -> None:
            seen = await probed(http, relay)
            assert (seen.result, seen.colours, seen.backend) == (outcome, colours, "kasmvnc")
            assert (seen.width, seen.height) == ((1600, 900) if colours else (0, 0))
            assert least_ms <= seen.elapsed_ms < 3000

        with_http(body)
        assert studio.fake.blacklist.failures == {}


def test_a_desktop_without_a_file_is_probed_as_tigervnc(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        seen = await probed(http, relay, name="unknown")
        assert (seen.result, seen.backend) == (ProbeOutcome.UNREACHABLE, "tigervnc")

    with_http(body)


def test_a_listener_that_is_too_busy_is_waited_for(relay: RelayProcess, directory: Path) -> None:
    """Its backlog is full: the kernel says "again", which is not "under way" as it is with TCP."""
    place = directory / "desktops" / "busy"
    place.mkdir()
    (directory / "secrets" / "busy.json").write_text(access_of("x-secret"))
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(place / "web.sock"))
        listener.listen(0)
        queued = stack.enter_context(socket.socket(socket.AF_UNIX))
        queued.connect(str(place / "web.sock"))

        def answer() -> None:
            time.sleep(0.4)
            listener.accept()[0].close()
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()

        async def body(http: aiohttp.ClientSession) -> None:
            async with http.get(relay.url + "/content/", headers=content_grant(relay, name="busy")) as got:
                assert (got.status, await got.text()) == (200, "ok")

        with_http(body)
        thread.join(5)
