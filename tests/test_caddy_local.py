"""One real Caddy of a site of one host, from its rendered file: plain HTTP, and every hop on loopback.

Stand-ins, by name: a `TinyUpstream` where viewer, relay and the operator's own service would be.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError

from inventory.models import HostConfig, OwnService
from roles.caddyfile import OWN_CERTIFICATE, OWN_KEY, caddyfile
from tests.caddy_fleet import (
    Answer,
    TinyUpstream,
    caddy_binary,
    connected,
    exchange,
    first_words,
    running_upstreams,
    served_certificate,
    wait_until,
)
from tests.canaries import assert_nowhere, new_canaries
from tests.relay_process import free_port, wait_for_listener
from tests.self_signed import self_signed
from tests.sites import host_config

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

DOMAIN = "deskfleet.localhost"


class LocalSite:
    log: Path

    def __init__(self) -> None:
        self.port = free_port()
        ports = {"viewer": free_port(), "relay": free_port()}
        config = host_config(edge_port=self.port, ports=ports)
        notebook = OwnService(name="notebook", host="here", port=free_port())
        site = config.site.model_copy(update={"services": (notebook,)})
        self.config = config.model_copy(update={"site": site})
        self.viewer = TinyUpstream("viewer", "127.0.0.1", ports["viewer"])
        self.viewer.says = (200, {"X-Df-Upstream": "here", "X-Df-Grant": "grant"})
        self.upstreams = (
            self.viewer,
            TinyUpstream("relay", "127.0.0.1", ports["relay"]),
            TinyUpstream("notebook", "127.0.0.1", notebook.port),
        )

    def logged(self, path: str) -> dict[str, Any]:
        """The line of the one request to that path, as soon as there is one."""

        def lines() -> list[dict[str, Any]]:
            told = [json.loads(line) for line in self.log.read_text().splitlines()]
            return [line for line in told if line.get("request", {}).get("uri", "").startswith(path)]

        wait_until(lambda: bool(lines()))
        [line] = lines()
        return line

    def get(self, path: str, *, host: str, headers: dict[str, str] | None = None) -> Answer:
        with closing(connected(("127.0.0.1", self.port))) as channel:
            return exchange(channel, "GET", path, f"{host}:{self.port}", headers or {})


@contextmanager
def running_caddy(
    config: HostConfig, *, port: int, more: str = "", places: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Path]:
    """The rendered file, with paths of this machine (and `places`), hours as seconds, and `more` global
    options; yields Caddy's log."""
    with tempfile.TemporaryDirectory(prefix="df-") as folder:
        text = caddyfile(config, ipv6=False).replace("/run/deskfleet/caddy", folder)
        text = text.replace("/var/lib/deskfleet/caddy", f"{folder}/data").replace("{\n", f"{{\n{more}", 1)
        text = text.replace("stream_timeout 1h", "stream_timeout 1s")
        for path, here in places.items():
            text = text.replace(path, here)
        file, log = Path(folder, "Caddyfile"), Path(folder, "log")
        file.write_text(text)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [caddy_binary(), "run", "--adapter", "caddyfile", "--config", str(file)],
                env={"HOME": folder}, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                try:
                    wait_for_listener("127.0.0.1", port)
                except TimeoutError as error:
                    error.add_note(log.read_text())
                    raise
                yield log
            finally:
                process.terminate()
                process.wait()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalSite]:
    site = LocalSite()
    with ExitStack() as stack:
        stack.enter_context(running_upstreams(*site.upstreams))
        site.log = stack.enter_context(running_caddy(site.config, port=site.port))
        yield site


@pytest.mark.parametrize(
    ("host", "path", "upstream", "arrives"),
    [
        (DOMAIN, "/sandboxes", "viewer", "/sandboxes"),
        ("localhost", "/api/v1/me", "viewer", "/api/v1/me"),
        (DOMAIN, "/stream/abc", "relay", "/stream/abc"),
        (f"0b9c.content.{DOMAIN}", "/ui.js", "relay", "/content/ui.js"),
        (f"0b9c.content.{DOMAIN}", "/.deskfleet/enter", "viewer", "/.deskfleet/enter"),
        (f"notebook.{DOMAIN}", "/lab?x=1", "notebook", "/lab?x=1"),
        (f"opensandbox.{DOMAIN}", "/v1/sandboxes", "viewer", "/v1/sandboxes"),
    ],
)
def test_each_name_leads_to_its_program(
    local: LocalSite, host: str, path: str, upstream: str, arrives: str
) -> None:
    seen = local.get(path, host=host, headers={"X-Df-Upstream": "elsewhere", "X_Df_Grant": "forged"}).seen
    assert (seen["upstream"], seen["path"]) == (upstream, arrives)
    assert "x-df-upstream" not in seen["headers"]
    assert "forged" not in str(seen)
    if upstream != "relay":
        assert seen["headers"]["host"] == f"{host}:{local.port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "another.localhost", f"a.b.content.{DOMAIN}", "evil.example"])
def test_any_other_name_leads_to_the_one_that_cookies_are_for(local: LocalSite, host: str) -> None:
    answer = local.get("/page?x=1", host=host)
    assert answer.status == 302
    assert answer.all("location") == [f"http://{DOMAIN}:{local.port}/page?x=1"]


def test_stream_echoes_on_loopback(local: LocalSite) -> None:
    async def scenario() -> None:
        async with ClientSession() as session:
            url = f"ws://127.0.0.1:{local.port}/stream/abc"
            async with session.ws_connect(url, headers={"Host": DOMAIN}, protocols=("binary",)) as stream:
                assert (await first_words(stream))["headers"]["x-df-grant"] == "grant"
                await stream.send_bytes(b"\x01\x02")
                assert await stream.receive_bytes(timeout=5) == b"\x01\x02"

    asyncio.run(scenario())


def test_websocket_of_a_service_ends_and_is_asked_for_again(local: LocalSite) -> None:
    async def scenario() -> None:
        async with ClientSession() as session:
            url, headers = f"ws://127.0.0.1:{local.port}/ws", {"Host": f"notebook.{DOMAIN}:{local.port}"}
            async with session.ws_connect(url, headers=headers, protocols=("binary",)) as channel:
                assert (await first_words(channel))["upstream"] == "notebook"
                assert (await channel.receive(timeout=5)).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
            local.viewer.says = (403, {})
            with pytest.raises(WSServerHandshakeError):
                await session.ws_connect(url, headers=headers)

    try:
        asyncio.run(scenario())
    finally:
        local.viewer.says = (200, {"X-Df-Upstream": "here", "X-Df-Grant": "grant"})


@pytest.mark.parametrize(
    "host", [DOMAIN, f"0b9c.content.{DOMAIN}", f"notebook.{DOMAIN}", f"opensandbox.{DOMAIN}"]
)
def test_name_of_a_servers_own_variable_ends_at_the_edge(local: LocalSite, host: str) -> None:
    forged = dict.fromkeys(("SCRIPT_NAME", "Script-Name", "PATH_INFO", "Path-Info"), "/forged")
    for path in ("/.deskfleet/enter", "/page"):
        assert "forged" not in str(local.get(path, host=host, headers=forged).seen)
    assert "forged" not in str(local.viewer.asked)


def test_what_caddy_answers_by_itself_is_a_problem_in_words(local: LocalSite) -> None:
    local.viewer.says = (200, {"X-Df-Upstream": "nowhere"})
    try:
        answer = local.get("/stream/abc", host=DOMAIN)
    finally:
        local.viewer.says = (200, {"X-Df-Upstream": "here", "X-Df-Grant": "grant"})
    assert (answer.status, answer.all("content-type")) == (502, ["application/problem+json"])
    assert json.loads(answer.body)["status"] == 502


def test_clients_of_opensandbox_get_that_in_the_shape_that_they_know(local: LocalSite) -> None:
    local.viewer.says = (200, {"X-Df-Upstream": "nowhere"})
    try:
        answers = [
            local.get(f"{prefix}/sandboxes/abc/proxy/8000/", host=host)
            for prefix, host in (
                ("/v1", DOMAIN),
                ("/v1", f"opensandbox.{DOMAIN}"),
                ("", f"opensandbox.{DOMAIN}"),
            )
        ]
    finally:
        local.viewer.says = (200, {"X-Df-Upstream": "here", "X-Df-Grant": "grant"})
    for answer in answers:
        assert (answer.status, answer.all("content-type")) == (502, ["application/json"])
        assert json.loads(answer.body)["code"] == "DESKFLEET::EDGE"


# The log


@pytest.mark.parametrize(
    ("host", "path"),
    [
        (DOMAIN, "/of-the-viewer"),
        (DOMAIN, "/stream/of-the-relay"),
        (f"0b9c.content.{DOMAIN}", "/of-a-page"),
        (f"0b9c.content.{DOMAIN}", "/.deskfleet/of-a-page"),
        (f"notebook.{DOMAIN}", "/of-a-service"),
        (f"opensandbox.{DOMAIN}", "/v1/of-the-api"),
    ],
)
def test_request_has_one_id_in_the_log_and_for_every_program(local: LocalSite, host: str, path: str) -> None:
    local.viewer.asked.clear()
    forged = {"X-Request-Id": "forged", "X_Request_Id": "forged"}
    answer = local.get(f"{path}?token=secret", host=host, headers=forged)
    given = answer.seen["headers"]["x-request-id"]
    assert len(given) == 36
    assert [asked["headers"]["x-request-id"] for asked in local.viewer.asked] in ([], [given])
    line = local.logged(path)
    assert (line["request_id"], line["status"], line["request"]["method"]) == (given, 200, "GET")
    assert line["request"]["uri"] == f"{path}?..."
    assert "headers" not in line["request"]


def test_no_secret_is_in_the_log_of_the_edge(local: LocalSite) -> None:
    canaries = new_canaries()
    named = {kind: value for kind, value in canaries.items() if "\n" not in value}
    sent = {
        "Authorization": f"Bearer {named['API key']}",
        "Cookie": f"__Host-deskfleet={named['sign-in token']}; theirs={named['cookie of a service']}",
        "OPEN-SANDBOX-API-KEY": named["key of an OpenSandbox server"],
        "X-Df-Grant": named["sealed value"],
        "X-Df-Anything": named["Fernet key"],
        "Sec-WebSocket-Protocol": f"binary, ticket.{named['ticket']}, {named['VNC password']}",
        "Referer": f"http://{DOMAIN}/signin?token={named['sign-in token']}",
    }
    local.viewer.adds = {
        "Set-Cookie": f"theirs={named['cookie of a service']}",
        "Location": f"/signin?token={named['sign-in token']}",
    }
    local.viewer.says = (200, {"X-Df-Upstream": "nowhere", "X-Df-Grant": named["sealed value"]})
    try:
        for host in (DOMAIN, f"0b9c.content.{DOMAIN}", f"opensandbox.{DOMAIN}", f"notebook.{DOMAIN}"):
            local.get(f"/canary?key={named['API key']}", host=host, headers=sent)
        failed = local.get(f"/stream/canary?key={named['API key']}", host=DOMAIN, headers=sent)
    finally:
        local.viewer.adds = {}
        local.viewer.says = (200, {"X-Df-Upstream": "here", "X-Df-Grant": "grant"})
    assert failed.status == 502
    assert local.logged("/stream/canary")["request_id"] == failed.all("x-request-id")[0]
    assert_nowhere([local.log], canaries)


# Certificates that Caddy gets by itself


def test_caddy_asks_the_authority_of_the_site_for_its_certificates(tmp_path: Path) -> None:
    """Up to the first question: whether an authority then gives one is between it and the DNS."""
    asked: list[str] = []

    class Authority(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, format: str, *args: object) -> None:
            return None

    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Authority)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = free_port()
    config = host_config(
        domain="desk.example.com", tls="acme", edge_port=port, content_domain="none",
        acme={
            "email": "ops@example.com",
            "directory": f"https://127.0.0.1:{server.server_port}/of-the-site",
            "authority": str(certificate),
        },
    )  # fmt: skip
    try:
        with running_caddy(config, port=port, more=f"\thttp_port {free_port()}\n\thttps_port {port}\n"):
            wait_until(lambda: "/of-the-site" in asked)
    finally:
        server.shutdown()
        server.server_close()


def test_own_files_that_were_renewed_are_served_after_a_reload(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, DOMAIN, f"*.{DOMAIN}", f"*.content.{DOMAIN}")
    port = free_port()
    config = host_config(edge_port=port, tls={"cert": str(certificate), "key": str(key)})
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    def served() -> bytes:
        return served_certificate(("127.0.0.1", port), DOMAIN, trusting)

    def on_disk() -> bytes:
        return ssl.PEM_cert_to_DER_cert(certificate.read_text())

    places = {OWN_CERTIFICATE: str(certificate), OWN_KEY: str(key)}
    with running_caddy(config, port=port, more=f"\thttp_port {free_port()}\n", places=places) as log:
        assert served() == on_disk()
        self_signed(tmp_path, DOMAIN, f"*.{DOMAIN}", f"*.content.{DOMAIN}")
        assert served() != on_disk()
        # As the unit does it.
        subprocess.run(
            [caddy_binary(), "reload", "--force", "--adapter", "caddyfile",
             "--config", str(log.parent / "Caddyfile"), "--address", f"unix/{log.parent}/admin.sock"],
            env={"HOME": str(log.parent)}, capture_output=True, check=True,
        )  # fmt: skip
        assert served() == on_disk()
