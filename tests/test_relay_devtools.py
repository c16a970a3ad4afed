"""The relay in front of DevTools. Stand-in, by name: a `HostileBrowser` where that of the sandbox would be,
with the OpenSandbox server of its host before it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.caddy_fleet import TinyUpstream, running_upstreams
from tests.relay_process import RelayProcess, free_port, held_by, running_relay
from tests.test_relay import with_http
from viewer.grants import DesktopSocket, DevToolsPort, SandboxPort
from viewer.model import LeaseKind
from viewer.relay.answers import CloseCode, DevToolsTargets
from viewer.relay.devtools import LONGEST_LIST

pytestmark = pytest.mark.real

INNER = DevToolsPort(sandbox_id="box-1", port=9222)
ROOT = "/v1/sandboxes/box-1/proxy/9222"
EVIL = {
    "Set-Cookie": "a=b; Domain=example.com",
    "Clear-Site-Data": '"*"',
    "Content-Security-Policy": "default-src *",
    "Access-Control-Allow-Origin": "*",
    "Service-Worker-Allowed": "/",
    "Refresh": "0; url=https://evil.example/",
    "Link": "<https://evil.example/>; rel=preload",
    "X-Own": "x",
}


class HostileBrowser(TinyUpstream):
    """HostileBrowser: answers at Chromium's port what Chromium never would."""

    def __init__(self) -> None:
        super().__init__("opensandbox", "127.0.0.1", free_port())
        self.listed: bytes | None = b"[]"
        """None: it is silent."""
        self.reached: list[tuple[str, dict[str, str]]] = []

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        what = request.path.removeprefix(ROOT)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.reached.append((what, headers))
        if headers.get("upgrade", "").lower() == "websocket":
            return await super()._answer(request)
        if what == "/json/list":
            if self.listed is None:
                await asyncio.sleep(2)
            return web.Response(body=self.listed, content_type="application/json")
        answers: dict[str, web.Response] = {
            "/devtools/a.js": web.Response(text="1", content_type="text/javascript", headers=EVIL),
            "/devtools/odd.js": web.Response(text="1", headers={"Content-Type": "text/html\x7f; boundary=x"}),
            "/devtools/gone.js": web.Response(
                status=404, text="<script>alert(1)</script>", content_type="text/html"
            ),
            "/devtools/away.js": web.Response(status=302, headers={"Location": "https://evil.example/"}),
            "/devtools/packed.js": web.Response(
                body=gzip.compress(b"1"), headers={"Content-Encoding": "gzip"}
            ),
            "/devtools/large.js": web.Response(body=bytes(200_000)),
        }
        return answers.get(what) or web.Response(status=500)


@pytest.fixture(scope="module")
def inner() -> Iterator[HostileBrowser]:
    upstream = HostileBrowser()
    with running_upstreams(upstream):
        yield upstream


@pytest.fixture(scope="module")
def relay(inner: HostileBrowser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(
        tmp_path_factory.mktemp("devtools"),
        opensandbox_url=f"http://127.0.0.1:{inner.port}",
        handshake_seconds=1,
        content_seconds=2,
        max_content_bytes=100_000,
        max_streams_per_session=1,
    ) as process:
        yield process
    log = process.log.read_text()
    assert "Traceback" not in log
    assert "WARNING" not in log


def granted(relay: RelayProcess, **grant: Any) -> dict[str, str]:
    return relay.grant("content", target=grant.pop("target", INNER), under_lease=True, **grant)


def test_of_a_file_its_kind_and_its_bytes_pass_and_nothing_else(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        async with http.get(f"{relay.url}/content/devtools/a.js?x=1", headers=granted(relay)) as answer:
            assert (answer.status, await answer.text()) == (200, "1")
            passed = {name.lower() for name in answer.headers} - {"date", "server", "content-length"}
            assert passed == {
                "content-type",
                "cache-control",
                "content-security-policy",
                "x-content-type-options",
            }
            assert "script-src 'self';" in answer.headers["Content-Security-Policy"]
        for path, status in (("gone", 404), ("away", 404), ("packed", 404), ("large", 502), ("fails", 404)):
            url = f"{relay.url}/content/devtools/{path}.js"
            async with http.get(url, headers=granted(relay), allow_redirects=False) as answer:
                assert (answer.status, answer.content_type) == (status, "application/problem+json"), path

    with_http(body)


def test_nothing_of_the_browsers_request_reaches_the_sandbox(
    relay: RelayProcess, inner: HostileBrowser
) -> None:
    told = {
        "Cookie": "a=b",
        "Authorization": "Bearer x",
        "Referer": "https://x/",
        "Origin": "https://x",
        "X-Own": "y",
    }

    async def body(http: aiohttp.ClientSession) -> None:
        inner.reached.clear()
        async with http.get(f"{relay.url}/content/devtools/a.js", headers={**granted(relay), **told}):
            pass
        socket = await http.ws_connect(
            f"{relay.url}/content/devtools/page/A1", headers={**granted(relay), **told}
        )
        await socket.close()
        (_, file), (path, upgrade) = inner.reached
        assert not {"cookie", "authorization", "referer", "origin", "x-own", "x-df-grant"} & (
            set(file) | set(upgrade)
        )
        assert path == "/devtools/page/A1"
        own = {"host", "connection", "upgrade", "sec-websocket-key", "sec-websocket-version"}
        assert set(upgrade) == own

    with_http(body)


@pytest.mark.parametrize(
    "path",
    [
        "json/list",
        "json",
        "devtools/browser/A1",
        "devtools/page/A1/x",
        "devtools/%2e%2e/json",
        "devtools/page/",
        "",
    ],
)
def test_relay_itself_gives_out_no_more_than_the_viewer_lets_in(
    relay: RelayProcess, inner: HostileBrowser, path: str
) -> None:
    """It looks for itself: two locks on one door."""
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip

    async def body(http: aiohttp.ClientSession) -> None:
        inner.reached.clear()
        for more in ({}, upgrade):
            url = URL(f"{relay.url}/content/{path}", encoded=True)
            async with http.get(url, headers={**granted(relay), **more}) as answer:
                assert answer.status == 404
        assert inner.reached == []

    with_http(body)


@pytest.mark.parametrize("grant", ["none", "list", "port", "desktop", "expired"])
def test_each_way_needs_a_grant_of_its_own(relay: RelayProcess, inner: HostileBrowser, grant: str) -> None:
    headers = {
        "none": {},
        "list": relay.grant("devtools", target=INNER),
        "port": relay.grant("port", target=SandboxPort(sandbox_id="box-1", port=9222)),
        "desktop": relay.grant("content", target=DesktopSocket(name="studio")),
        "expired": granted(relay, seconds=-1),
    }[grant]

    async def body(http: aiohttp.ClientSession) -> None:
        inner.reached.clear()
        async with http.get(f"{relay.url}/content/devtools/a.js", headers=headers) as answer:
            assert answer.status == 403
        wrong = granted(relay) if grant == "list" else headers
        async with http.get(f"{relay.url}/devtools/s1", headers=wrong) as answer:
            assert answer.status == 403
        assert inner.reached == []

    with_http(body)


def test_list_of_targets_is_read_or_said_to_be_none(relay: RelayProcess, inner: HostileBrowser) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        async def said(listed: bytes | None) -> tuple[int, str]:
            inner.listed = listed
            async with http.get(
                f"{relay.url}/devtools/s1", headers=relay.grant("devtools", target=INNER)
            ) as answer:
                return answer.status, await answer.text()

        status, text = await said(b'[{"id": "A1", "type": "page", "title": "<b>", "url": "x"}]')
        assert (status, DevToolsTargets.model_validate_json(text).targets[0].title) == (200, "<b>")
        for listed in (b"<html>", b"[" + b" " * LONGEST_LIST + b"]", None):
            status, text = await said(listed)
            assert status == 404
            assert "<html>" not in text

    with_http(body)


def test_devtools_are_cut_as_soon_as_another_person_has_control(
    relay: RelayProcess, inner: HostileBrowser
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        about = {"session_id": "held", "principal": "alice"}
        url = f"{relay.url}/content/devtools/page/A1"
        free = held_by(None, 0, session_id="held")
        socket = await http.ws_connect(url, headers=granted(relay, lease=free, **about))
        with closing(relay.client()) as control_plane:

            async def told(holder: str, number: int, kind: LeaseKind) -> None:
                lease = held_by(holder, number, kind=kind, session_id="held")
                await asyncio.to_thread(control_plane.set_lease, lease)

            # An agent's control, and his own, cut nobody.
            await told("robot", 1, LeaseKind.AGENT)
            await told("alice", 2, LeaseKind.PERSON)
            assert [stream.kind for stream in await asyncio.to_thread(control_plane.streams)] == ["devtools"]
            await told("bob", 3, LeaseKind.PERSON)
        assert await last_words(socket) == (CloseCode.LEASE_LOST, "Bob has taken control")
        again = await http.ws_connect(url, headers=granted(relay, lease=free, **about))
        assert await last_words(again) == (CloseCode.LEASE_LOST, "Bob has taken control")

    with_http(body)


async def last_words(socket: aiohttp.ClientWebSocketResponse) -> tuple[int | None, str]:
    while True:
        message = await socket.receive(timeout=5)
        if message.type is aiohttp.WSMsgType.CLOSE:
            return message.data, message.extra or ""
        assert message.type is aiohttp.WSMsgType.TEXT, message


def test_one_too_many_is_told_so(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        url = f"{relay.url}/content/devtools/page/A1"
        first = await http.ws_connect(url, headers=granted(relay, session_id="full"))
        second = await http.ws_connect(url, headers=granted(relay, session_id="full"))
        assert (await last_words(second))[0] == CloseCode.BUSY
        await first.close()

    with_http(body)
