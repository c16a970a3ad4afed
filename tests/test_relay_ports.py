"""The relay in front of a sandbox's ports. A `TinyUpstream` stands in for the host's OpenSandbox server."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.caddy_fleet import TinyUpstream, echoes, first_words, running_upstreams
from tests.relay_process import RelayProcess, free_port, running_relay
from tests.test_relay import with_http
from viewer.grants import SandboxPort
from viewer.model import utcnow
from viewer.relay.answers import CloseCode, SandboxProblem, StreamList

pytestmark = pytest.mark.real

BOX = SandboxPort(sandbox_id="box-1", port=8000)
ROOT = "/v1/sandboxes/box-1/proxy/8000"


class Server(TinyUpstream):
    """Some paths do what the echo cannot."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        what = request.path.removeprefix(ROOT)
        if what == "/silent":
            await asyncio.sleep(30)
        if what == "/refuses":
            return web.Response(status=403)
        if what == "/hash":
            return web.Response(text=hashlib.sha256(await request.read()).hexdigest())
        if what == "/packed":
            headers = {"Content-Encoding": "gzip", "Location": self.adds["Location"], "X-Twice": "1"}
            answer = web.Response(status=301, body=gzip.compress(b"small"), headers=headers)
            answer.headers.add("X-Twice", "2")
            return answer
        if what == "/endless":
            endless = web.StreamResponse()
            await endless.prepare(request)
            while True:
                await endless.write(b"tick")
                await asyncio.sleep(0.1)
        return await super()._answer(request)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    upstream = Server("opensandbox", "127.0.0.1", free_port())
    with running_upstreams(upstream):
        yield upstream


@pytest.fixture(scope="module")
def relay(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(
        tmp_path_factory.mktemp("ports"),
        opensandbox_url=f"http://127.0.0.1:{server.port}",
        port_idle_seconds=1,
        handshake_seconds=1,
        max_port_requests_per_session=3,
        max_streams_per_session=1,
    ) as process:
        yield process
    log = process.log.read_text()
    assert "Traceback" not in log
    assert "WARNING" not in log


def url(relay: RelayProcess, path: str, *, session: str = "s1") -> URL:
    return URL(f"{relay.url}/port/{session}{path}", encoded=True)


def granted(relay: RelayProcess, **grant: Any) -> dict[str, str]:
    return relay.grant("port", target=grant.pop("target", BOX), **grant)


async def listed(http: aiohttp.ClientSession, relay: RelayProcess) -> StreamList:
    async with http.get(f"{relay.url}/streams", headers=relay.grant("manage")) as answer:
        return StreamList.model_validate_json(await answer.read())


async def until_open(http: aiohttp.ClientSession, relay: RelayProcess, count: int) -> StreamList:
    """The list, as soon as it has so many streams."""
    for _ in range(100):
        found = await listed(http, relay)
        if len(found.streams) == count:
            return found
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{len(found.streams)} are open, not {count}")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_request_reaches_the_sandbox_as_the_client_wrote_it_and_without_what_is_not_its_own(
    relay: RelayProcess, method: str
) -> None:
    theirs = {
        "Cookie": "__Host-deskfleet=secret", "Authorization": "Bearer secret",
        "Open-Sandbox-Api-Key": "secret", "X-Df-Upstream": "secret", "X-Forwarded-Uri": "secret",
        "Forwarded": "for=secret", "Via": "1.1 secret", "Te": "secret", "Connection": "X-Hop",
        "X-Hop": "secret", "Upgrade": "h2c",
    }  # fmt: skip
    own = {"X-Own": "a, b", "Accept": "text/own", "User-Agent": "own/1", "Origin": "https://own.example"}

    async def body(http: aiohttp.ClientSession) -> None:
        for tail in ("", "/", "/a%2Fb%20c/%e4%3Fx;y=1//?q=%2F&q&%zz=1?", "?x"):
            headers = {**theirs, **own, **granted(relay)}
            async with http.request(method, url(relay, tail), headers=headers) as answer:
                seen = await answer.json()
            assert (seen["method"], seen["path"]) == (method, ROOT + tail.replace("%", "%25", 4))
            assert own.items() <= {name.title(): value for name, value in seen["headers"].items()}.items()
            assert "secret" not in json.dumps(seen)
            assert not {"x-df-grant", "accept-encoding", "upgrade", "content-type"} & set(seen["headers"])

    async def bare(_http: aiohttp.ClientSession) -> None:
        skip = ("Accept-Encoding", "Content-Type")
        async with aiohttp.ClientSession(skip_auto_headers=skip) as http:
            await body(http)

    with_http(bare)


def test_bodies_pass_as_they_are_packed(relay: RelayProcess) -> None:
    packed = gzip.compress(b"0" * 100_000)

    async def pieces() -> Any:
        for at in range(0, len(packed), 7):
            yield packed[at : at + 7]

    async def body(http: aiohttp.ClientSession) -> None:
        headers = {**granted(relay), "Content-Encoding": "gzip"}
        for data in (packed, pieces()):
            async with http.post(url(relay, "/hash"), headers=headers, data=data) as answer:
                # What the stand-in unpacks was passed on packed.
                assert await answer.text() == hashlib.sha256(b"0" * 100_000).hexdigest()

    with_http(body)


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        (f"{ROOT}/login?a=%2F", "/v1/sandboxes/s1/proxy/8000/login?a=%2F"),
        (ROOT, "/v1/sandboxes/s1/proxy/8000"),
        (f"{ROOT}1/x", f"{ROOT}1/x"),
        ("https://elsewhere.example/", "https://elsewhere.example/"),
        ("next", "next"),
    ],
)
def test_answer_passes_as_it_is_but_for_the_sandboxs_other_name(
    relay: RelayProcess, server: Server, said: str, passed: str
) -> None:
    async def body(_http: aiohttp.ClientSession) -> None:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as http,
            http.get(url(relay, "/packed"), headers=granted(relay), allow_redirects=False) as answer,
        ):
            assert (answer.status, answer.headers["Location"]) == (301, passed)
            assert answer.headers.getall("X-Twice") == ["1", "2"]
            assert gzip.decompress(await answer.read()) == b"small"

    server.adds = {"Location": said}
    try:
        with_http(body)
    finally:
        server.adds = {}


@pytest.mark.parametrize(
    "grant",
    [
        None,
        {"session_id": "other"},
        {"target": 8000},
        {"target": None},
        {"seconds": -1},
    ],
)
def test_without_a_grant_for_that_port_nothing_passes(
    relay: RelayProcess, grant: dict[str, Any] | None
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        headers = {} if grant is None else granted(relay, **grant)
        for shown in (headers, relay.grant("stream", target=BOX), relay.grant("content", target=BOX)):
            async with http.get(url(relay, "/"), headers=shown) as answer:
                assert answer.status == 403
        async with http.get(f"{relay.url}/stream/s1", headers=relay.grant(target=BOX)) as answer:
            assert answer.status == 403, "a port is no desktop"

    with_http(body)


def test_what_cannot_pass_is_refused_in_opensandboxs_words(relay: RelayProcess, tmp_path: Path) -> None:
    async def refusal(relay: RelayProcess, method: str, tail: str, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, url(relay, tail), headers={**granted(relay), **headers}) as answer,
        ):
            text = await answer.read()
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, SandboxProblem.model_validate_json(text).code if text else ""

    async def body(_http: aiohttp.ClientSession) -> None:
        assert await refusal(relay, "OPTIONS", "/") == (405, "DESKFLEET::WRONG_METHOD")
        assert (await refusal(relay, "HEAD", "/"))[0] == 405
        assert await refusal(relay, "GET", "/a/../b") == (400, "DESKFLEET::WRONG_PATH")
        assert await refusal(relay, "GET", "/silent") == (504, "DESKFLEET::PORT_TIMEOUT")
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "9"}
        assert await refusal(relay, "GET", "/", **upgrade) == (426, "DESKFLEET::NOT_A_WEBSOCKET")
        nobody = f"http://127.0.0.1:{free_port()}"
        without: list[dict[str, Any]] = [{}, {"opensandbox_url": nobody}]
        for number, settings in enumerate(without):
            folder = tmp_path / str(number)
            folder.mkdir()
            with running_relay(folder, **settings) as other:
                assert await refusal(other, "GET", "/") == (502, "DESKFLEET::PORT_UNREACHABLE")

    with_http(body)


def test_request_under_way_is_listed_and_cut_when_the_right_is_lost(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        began = utcnow()
        async with http.get(url(relay, "/endless"), headers=granted(relay)) as answer:
            await answer.content.readexactly(8)
            found = await until_open(http, relay, 1)
            (info,) = found.streams
            assert (info.kind, info.session_id, info.tenant_id) == ("port", "s1", "t1")
            assert info.may_control
            assert info.bytes_to_browser >= 8
            assert began < found.ports_used["s1"] < utcnow()
            address = f"{relay.url}/streams/s1/{info.stream_id}"
            async with http.delete(address, headers=relay.grant("manage")) as done:
                assert done.status == 204
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        after = await until_open(http, relay, 0)
        assert after.ports_used["s1"] > found.ports_used["s1"]

    with_http(body)


def test_client_that_leaves_ends_its_request(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        async with http.get(url(relay, "/endless"), headers=granted(relay)) as answer:
            await answer.content.readexactly(4)
            await until_open(http, relay, 1)
        await until_open(http, relay, 0)

    with_http(body)


def test_client_that_stops_sending_is_cut(relay: RelayProcess) -> None:
    async def pieces() -> Any:
        yield b"some"
        await asyncio.sleep(20)

    async def body(http: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientError):
            async with http.post(url(relay, "/hash"), headers=granted(relay), data=pieces()):
                pass
        await until_open(http, relay, 0)

    with_http(body)


def test_session_has_so_many_requests_at_once_and_others_have_their_own(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        held = [await http.get(url(relay, "/endless"), headers=granted(relay)) for _ in range(3)]
        async with http.get(url(relay, "/"), headers=granted(relay)) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            assert "3 requests to ports" in (await answer.json())["message"]
        other = granted(relay, session_id="s2")
        async with http.get(url(relay, "/", session="s2"), headers=other) as answer:
            assert answer.status == 200
        for answer in held:
            answer.close()
        await until_open(http, relay, 0)

    with_http(body)


def test_websocket_echoes_in_the_sandboxs_protocol_and_is_closed_like_any_stream(
    relay: RelayProcess,
) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        headers = {**granted(relay), "Cookie": "a=secret", "Origin": "https://own.example"}
        wanted = ("other", "binary")
        address = url(relay, "/chat%20room?x=%2F")
        async with http.ws_connect(address, headers=headers, protocols=wanted, compress=15) as stream:
            assert (stream.protocol, stream.compress) == ("binary", 0)
            seen = await first_words(stream)
            assert seen["path"] == f"{ROOT}/chat%2520room?x=%2F"
            assert seen["headers"]["origin"] == "https://own.example"
            assert not {"cookie", "x-df-grant", "sec-websocket-extensions"} & set(seen["headers"])
            assert await echoes(stream, bytes(range(256)) * 1000)
            (info,) = (await listed(http, relay)).streams
            assert (info.kind, info.may_control) == ("port", True)
            assert info.bytes_to_desktop > 256_000
            with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
                await http.ws_connect(address, headers=headers)
            async with http.delete(f"{relay.url}/streams/s1", headers=relay.grant("manage")):
                pass
            message = await stream.receive(timeout=3)
            assert message.data == CloseCode.REVOKED
        await until_open(http, relay, 0)

    with_http(body)


def test_websocket_that_the_sandbox_does_not_open_is_refused_in_http(relay: RelayProcess) -> None:
    async def body(http: aiohttp.ClientSession) -> None:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        for tail, said in (("/refuses", "HTTP 403"), ("/silent", "in time")):
            async with http.get(url(relay, tail), headers={**granted(relay), **upgrade}) as answer:
                assert answer.status == 502
                problem = SandboxProblem.model_validate_json(await answer.read())
                assert said in problem.message

    with_http(body)
