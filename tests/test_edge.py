"""What a client may speak with the edge, through a real Caddy with TLS: HTTP/2 for pages, HTTP/1.1 for
WebSockets, and nothing else; what every answer says; and the edge behind another proxy.

Stand-ins, by name: a `SilentUpstream` where viewer, relay and the operator's own service would be.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector, web
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, SettingsAcknowledged, StreamEnded, StreamReset
from h2.settings import SettingCodes

from inventory.models import OwnService
from roles.caddyfile import OWN_CERTIFICATE, OWN_KEY
from tests.caddy_fleet import (
    Answer,
    TinyUpstream,
    _Everywhere,
    caddy_binary,
    connected,
    echoes,
    exchange,
    first_words,
    running_upstreams,
)
from tests.relay_process import free_port, wait_for_listener
from tests.self_signed import self_signed
from tests.sites import host_config
from tests.test_caddy_local import running_caddy

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

DOMAIN = "deskfleet.localhost"
CONTENT, NOTEBOOK, OPENSANDBOX = f"0b9c.content.{DOMAIN}", f"notebook.{DOMAIN}", f"opensandbox.{DOMAIN}"
NAMES = (DOMAIN, "localhost", CONTENT, NOTEBOOK, OPENSANDBOX)
STREAMS = {
    DOMAIN: "/stream/abc",
    CONTENT: "/websockify",
    NOTEBOOK: "/ws",
    OPENSANDBOX: "/v1/sandboxes/abc/proxy/8000/ws",
}
ALLOWED = (200, {"X-Df-Upstream": "here", "X-Df-Grant": "grant", "X-Df-Framers": "https://a.example"})


class SilentUpstream(TinyUpstream):
    """SilentUpstream: a TinyUpstream that says nothing of security, and something of itself; keeps what
    reached it."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(name, "127.0.0.1", port)
        self.reached: list[str] = []
        self.adds = {"Server": "silent/1.0"}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not request.path.startswith("/authz/"):
            self.reached.append(f"{request.method} {request.raw_path}")
        return await super()._answer(request)


class Edge:
    """One host with TLS by files of its own, for all that its edge answers at."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port, ports = free_port(), {"viewer": free_port(), "relay": free_port()}
        self.plain_port = free_port()
        certificate, key = self_signed(folder, DOMAIN, "localhost", f"*.{DOMAIN}", f"*.content.{DOMAIN}")
        own = {"cert": str(certificate), "key": str(key)}
        config = host_config(edge_port=self.port, ports=ports, tls=own, **settings)
        notebook = OwnService(name="notebook", host="here", port=free_port(), websocket=True)
        site = config.site.model_copy(update={"services": (notebook,)})
        self.config = config.model_copy(update={"site": site})
        self.viewer = SilentUpstream("viewer", ports["viewer"])
        self.viewer.says = ALLOWED
        self.relay = SilentUpstream("relay", ports["relay"])
        self.notebook = SilentUpstream("notebook", notebook.port)
        self.upstreams = (self.viewer, self.relay, self.notebook)
        self.places = {OWN_CERTIFICATE: str(certificate), OWN_KEY: str(key)}
        self.trusting = ssl.create_default_context(cafile=str(certificate))

    @contextmanager
    def running(self) -> Iterator[Edge]:
        more = f"\thttp_port {self.plain_port}\n"
        with (
            running_upstreams(*self.upstreams),
            running_caddy(self.config, port=self.port, more=more, places=self.places) as log,
        ):
            self.folder = log.parent
            yield self

    def reached(self) -> list[str]:
        return [request for upstream in self.upstreams for request in upstream.reached]

    def get(
        self,
        path: str,
        *,
        name: str = DOMAIN,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        source: str = "127.0.0.1",
    ) -> Answer:
        plain = connected(("127.0.0.1", self.port), source)
        with closing(plain), self.trusting.wrap_socket(plain, server_hostname=name) as channel:
            return exchange(channel, method, path, f"{name}:{self.port}", headers or {})

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[ClientSession]:
        connector = TCPConnector(resolver=_Everywhere(), ssl=self.trusting, limit=0)
        async with ClientSession(connector=connector) as session:
            yield session
        # TLS says good-bye a little later than the session is closed.
        await asyncio.sleep(0.1)


class OverTwo:
    """OverTwo: a raw client of HTTP/2 that sends whatever it is told to."""

    def __init__(self, edge: Edge, name: str) -> None:
        self._authority = f"{name}:{edge.port}"
        context = ssl.create_default_context()
        context.load_verify_locations(edge.places[OWN_CERTIFICATE])
        context.set_alpn_protocols(["h2"])
        self._plain = connected(("127.0.0.1", edge.port))
        self._channel = context.wrap_socket(self._plain, server_hostname=name)
        assert self._channel.selected_alpn_protocol() == "h2"
        self._h2 = H2Connection(
            H2Configuration(
                header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self._h2.initiate_connection()
        self._send()
        self.settings: dict[int, int] = {}

    def __enter__(self) -> OverTwo:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._plain.close()

    def ask(self, *headers: tuple[str, str], ends: bool = True) -> tuple[int | str, dict[str, str]]:
        """Its status and headers; `reset`, or `closed`, where it gets none."""
        stream = self._h2.get_next_available_stream_id()
        names = {name for name, _ in headers}
        whole = [*headers, *([(":authority", self._authority)] if ":authority" not in names else [])]
        self._h2.send_headers(stream, sorted(whole, key=lambda one: one[0][0] != ":"), ends)
        self._send()
        found: tuple[int | str, dict[str, str]] | None = None
        while True:
            data = self._channel.recv(65536)
            if not data:
                return found or ("closed", {})
            for event in self._h2.receive_data(data):
                if isinstance(event, ResponseReceived):
                    told = {str(name): str(value) for name, value in event.headers or ()}
                    found = int(told[":status"]), told
                    if not ends:
                        return found
                if isinstance(event, StreamReset):
                    return found or ("reset", {})
                if isinstance(event, DataReceived):
                    self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                if isinstance(event, StreamEnded) and found is not None:
                    return found
                if isinstance(event, SettingsAcknowledged):
                    continue
            self._send()

    def offers_extended_connect(self) -> bool:
        return bool(self._h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL, 0))

    def _send(self) -> None:
        self._channel.sendall(self._h2.data_to_send())


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with Edge(tmp_path_factory.mktemp("edge")).running() as running:
        yield running


# What may be spoken


@pytest.mark.parametrize("name", NAMES)
def test_pages_come_over_http_2(edge: Edge, name: str) -> None:
    with OverTwo(edge, name) as client:
        status, headers = client.ask((":method", "GET"), (":scheme", "https"), (":path", "/page"))
    assert status == 200
    assert "alt-svc" not in headers


@pytest.mark.parametrize("name", NAMES)
def test_extended_connect_is_neither_offered_nor_taken(edge: Edge, name: str) -> None:
    before = edge.reached()
    path = STREAMS.get(name, "/stream/abc")
    with OverTwo(edge, name) as client:
        assert client.ask((":method", "GET"), (":scheme", "https"), (":path", "/page"))[0] == 200
        assert not client.offers_extended_connect()
        before = edge.reached()
        status, _ = client.ask(
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", path),
            ("sec-websocket-version", "13"), ("sec-websocket-protocol", "binary"),
            ("origin", f"https://{name}:{edge.port}"),
            ends=False,
        )  # fmt: skip
    assert status in ("reset", "closed") or (isinstance(status, int) and status >= 400)
    assert edge.reached() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("authority", ["127.0.0.1:22", "relay:8070"])
def test_plain_connect_leads_nowhere(edge: Edge, name: str, authority: str) -> None:
    before = [request for request in edge.reached() if "CONNECT" in request]
    with OverTwo(edge, name) as client:
        over_two, _ = client.ask((":method", "CONNECT"), (":authority", authority), ends=False)
    over_one = edge.get(authority, name=name, method="CONNECT").status
    for status in (over_two, over_one):
        assert status in ("reset", "closed") or (isinstance(status, int) and not 200 <= status < 300)
    assert [request for request in edge.reached() if "CONNECT" in request] == before


def test_nothing_of_the_edge_listens_for_http_3(edge: Edge) -> None:
    ports = [
        int(line.split()[1].rpartition(":")[2], 16)
        for table in ("/proc/net/udp", "/proc/net/udp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    assert edge.port not in ports


@pytest.mark.parametrize("name", STREAMS)
def test_websockets_go_over_http_1_with_tls(edge: Edge, name: str) -> None:
    async def scenario() -> None:
        url = f"wss://{name}:{edge.port}{STREAMS[name]}"
        async with edge.browser() as browser, browser.ws_connect(url, protocols=("binary",)) as stream:
            assert (await first_words(stream))["upstream"] == ("notebook" if name == NOTEBOOK else "relay")
            assert await echoes(stream, b"\x01\x02")

    asyncio.run(scenario())


# What every answer says

EVERYWHERE = {
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
}
OWN_WORDS = {
    **EVERYWHERE,
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of what Caddy answers by itself, and of what viewer and relay answer that say nothing of it."""
CONTENT_WORDS = {
    **EVERYWHERE,
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
SERVICE_WORDS = {
    **EVERYWHERE,
    "referrer-policy": "strict-origin-when-cross-origin",
    "content-security-policy": "frame-ancestors 'self'",
}
MAKERS = ("server", "via", "x-powered-by", "alt-svc")


def check_words(answer: Answer, words: Mapping[str, str]) -> None:
    said = {name: answer.all(name) for name in words}
    assert said == {name: [value] for name, value in words.items()}
    assert [name for name in MAKERS if answer.all(name)] == []


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        (DOMAIN, "/page", OWN_WORDS),
        ("localhost", "/api/v1/me", OWN_WORDS),
        (DOMAIN, "/static/build/app.js", OWN_WORDS),
        (DOMAIN, "/stream/abc", OWN_WORDS),
        (OPENSANDBOX, "/v1/sandboxes", OWN_WORDS),
        (CONTENT, "/", CONTENT_WORDS),
        (CONTENT, "/.deskfleet/enter", CONTENT_WORDS),
        (NOTEBOOK, "/", SERVICE_WORDS),
    ],
)
def test_answers_that_say_nothing_of_security_get_it_at_the_edge(
    edge: Edge, name: str, path: str, words: dict[str, str]
) -> None:
    answer = edge.get(path, name=name)
    assert answer.status == 200
    check_words(answer, words)


def test_what_an_upstream_says_itself_stands(edge: Edge) -> None:
    own = {
        "Content-Security-Policy": "script-src 'self'", "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff", "Strict-Transport-Security": "max-age=1; includeSubDomains",
    }  # fmt: skip
    edge.viewer.adds = edge.notebook.adds = own
    try:
        for name in (DOMAIN, NOTEBOOK):
            answer = edge.get("/page", name=name)
            assert answer.all("content-security-policy") == ["script-src 'self'"]
            assert answer.all("referrer-policy") == ["no-referrer"]
            assert answer.all("strict-transport-security") == ["max-age=31536000"]
    finally:
        edge.viewer.adds = edge.notebook.adds = {"Server": "silent/1.0"}


@pytest.mark.parametrize(
    ("name", "method", "path", "headers", "status"),
    [
        (DOMAIN, "GET", "/authz/stream", {}, 404),
        (OPENSANDBOX, "GET", "/authz/stream", {}, 404),
        (CONTENT, "GET", "/.deskfleet/authz/content", {}, 404),
        (NOTEBOOK, "GET", "/.deskfleet/authz/service", {}, 404),
        (CONTENT, "GET", "/../streams", {}, 404),
        (CONTENT, "GET", "/sw.js", {"Service-Worker": "script"}, 403),
    ],
)
def test_what_the_edge_answers_by_itself_says_it_too(
    edge: Edge, name: str, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = edge.get(path, name=name, method=method, headers=headers)
    assert answer.status == status
    # `respond` is said as by the site, `error` as by the edge.
    by_site = {CONTENT: CONTENT_WORDS, NOTEBOOK: SERVICE_WORDS}.get(name, OWN_WORDS)
    is_problem = answer.all("content-type") == ["application/problem+json"]
    check_words(answer, OWN_WORDS if is_problem else by_site)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_too_large_is_refused_with_all_of_it(edge: Edge, name: str) -> None:
    plain = connected(("127.0.0.1", edge.port))
    with closing(plain), edge.trusting.wrap_socket(plain, server_hostname=name) as channel:
        head = f"POST /.deskfleet/x HTTP/1.1\r\nHost: {name}:{edge.port}\r\nContent-Length: 1000100\r\n\r\n"
        # Just above the limit: what is far above it may be cut off before its answer was read.
        channel.sendall(head.encode() + bytes(1_000_100))
        with closing(http.client.HTTPResponse(channel, method="POST")) as response:
            response.begin()
            answer = Answer(response.status, response.getheaders(), b"")
    assert answer.status == 413
    check_words(answer, OWN_WORDS)


@pytest.mark.parametrize("host", ["evil.example", "a.b.content.deskfleet.localhost", "127.0.0.1"])
def test_name_that_is_not_ours_is_misdirected(edge: Edge, host: str) -> None:
    plain = connected(("127.0.0.1", edge.port))
    with closing(plain), edge.trusting.wrap_socket(plain, server_hostname=DOMAIN) as channel:
        answer = exchange(channel, "GET", "/page", f"{host}:{edge.port}", {})
    assert answer.status == 421
    check_words(answer, OWN_WORDS)


def test_dead_upstream_is_a_502_with_all_of_it(tmp_path: Path) -> None:
    dead = Edge(tmp_path)
    dead.upstreams = ()  # type: ignore[assignment]
    with dead.running():
        for name in NAMES:
            answer = dead.get("/page", name=name)
            assert answer.status == 502
            check_words(answer, OWN_WORDS)


def test_refusal_of_the_viewer_arrives_with_all_of_it(edge: Edge) -> None:
    edge.viewer.says = (403, {})
    try:
        for name, path in STREAMS.items():
            answer = edge.get(path, name=name)
            assert answer.status == 403
            assert answer.all("x-content-type-options") == ["nosniff"]
            assert answer.all("strict-transport-security") == ["max-age=31536000"]
            assert answer.all("server") == []
    finally:
        edge.viewer.says = ALLOWED


def test_way_to_tls_names_nobody(edge: Edge) -> None:
    with closing(connected(("127.0.0.1", edge.plain_port))) as channel:
        answer = exchange(channel, "GET", "/page", DOMAIN, {})
    assert (answer.status, answer.all("location")) == (308, [f"https://{DOMAIN}:{edge.port}/page"])
    assert (answer.all("server"), answer.all("strict-transport-security")) == ([], [])
    assert answer.all("x-content-type-options") == ["nosniff"]


# Behind another proxy


CLIENT, STRANGER = "127.0.0.7", "127.0.0.9"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, int]]:
    """An edge that trusts 127.0.0.1, and the port of a Caddy there that passes everything on to it."""
    edge = Edge(tmp_path_factory.mktemp("behind"), trusted_proxies=["127.0.0.1"])
    front = free_port()
    with ExitStack() as stack:
        stack.enter_context(edge.running())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="df-")))
        # As most proxies are set up: TLS on both sides, the name kept, the address added.
        (folder / "Caddyfile").write_text(
            f"""{{
    admin off
    auto_https off
    persist_config off
    storage file_system {folder}/data
}}
https://{DOMAIN}:{front}, https://{CONTENT}:{front} {{
    tls {edge.places[OWN_CERTIFICATE]} {edge.places[OWN_KEY]}
    reverse_proxy https://127.0.0.1:{edge.port} {{
        header_up Host {{hostport}}
        transport http {{
            versions 1.1
            tls_server_name {DOMAIN}
            tls_trust_pool file {edge.places[OWN_CERTIFICATE]}
        }}
    }}
}}
"""
        )
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [caddy_binary(), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")],
            env={"HOME": str(folder)}, stdout=log, stderr=log,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        try:
            wait_for_listener("127.0.0.1", front)
        except TimeoutError:
            raise RuntimeError((folder / "log").read_text()[-2000:]) from None
        yield edge, front


def through(behind: tuple[Edge, int], path: str, headers: Mapping[str, str], *, name: str = DOMAIN) -> Answer:
    edge, front = behind
    plain = connected(("127.0.0.1", front), CLIENT)
    with closing(plain), edge.trusting.wrap_socket(plain, server_hostname=name) as channel:
        return exchange(channel, "GET", path, f"{name}:{edge.port}", headers)


FORGED = {
    "X-Forwarded-For": "198.51.100.1",
    "X-Forwarded-Host": CONTENT,
    "X-Forwarded-Proto": "http",
    "X-Real-Ip": "198.51.100.1",
}


@pytest.mark.parametrize("headers", [{}, FORGED])
def test_viewer_behind_another_proxy_knows_the_client(
    behind: tuple[Edge, int], headers: dict[str, str]
) -> None:
    seen = through(behind, "/page", headers).seen["headers"]
    assert seen["x-forwarded-for"] == CLIENT
    assert seen["x-forwarded-host"] == seen["host"] == f"{DOMAIN}:{behind[0].port}"
    assert seen["x-forwarded-proto"] == "https"


def test_authoriser_behind_another_proxy_knows_the_client_too(behind: tuple[Edge, int]) -> None:
    edge, _ = behind
    edge.viewer.asked.clear()
    assert through(behind, "/stream/abc", FORGED).status == 200
    (asked,) = edge.viewer.asked
    told = {name: asked["headers"][f"x-forwarded-{name}"] for name in ("for", "host", "proto", "uri")}
    assert told == {"for": CLIENT, "host": f"{DOMAIN}:{edge.port}", "proto": "https", "uri": "/stream/abc"}


def test_of_what_a_trusted_proxy_says_the_address_alone_counts(behind: tuple[Edge, int]) -> None:
    """One that passes on what clients claim, as many do."""
    edge, _ = behind
    claimed = {**FORGED, "X-Forwarded-For": f"198.51.100.1, {CLIENT}"}
    seen = edge.get("/page", headers=claimed, source="127.0.0.1").seen["headers"]
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == (CLIENT, "https")
    assert seen["x-forwarded-host"] == f"{DOMAIN}:{edge.port}"


def test_who_is_no_trusted_proxy_speaks_for_himself_alone(behind: tuple[Edge, int], edge: Edge) -> None:
    for one in (behind[0], edge):
        seen = one.get("/page", headers=FORGED, source=STRANGER).seen["headers"]
        assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == (STRANGER, "https")
        assert seen["x-forwarded-host"] == f"{DOMAIN}:{one.port}"


def test_websocket_goes_through_both(behind: tuple[Edge, int]) -> None:
    edge, front = behind

    async def scenario() -> None:
        url = f"wss://{DOMAIN}:{front}/stream/abc"
        headers = {"Host": f"{DOMAIN}:{edge.port}"}
        async with (
            edge.browser() as browser,
            browser.ws_connect(url, headers=headers, protocols=("binary",)) as stream,
        ):
            assert (await first_words(stream))["upstream"] == "relay"
            assert await echoes(stream, b"\x01\x02")

    asyncio.run(scenario())
