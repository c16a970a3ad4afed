"""The real viewer behind the real Caddy, with the Caddyfile that the deploy renders for a site of one host.

Stand-ins, by name: a `StubRelay` that opens the real grants and serves the page that a test gave a desktop,
and a `TinyService` where the operator's own service would be.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import WSMsgType, web

from inventory.models import HostConfig, Site
from roles.caddyfile import caddyfile
from tests.caddy_fleet import caddy_binary
from tests.fake_kasmvnc import CLIENT, EXTRA_HEADERS, GREETING, INDEX
from tests.relay_process import RelayProcess, free_port, wait_for_listener
from tests.sites import secrets
from tests.viewer_fixtures import settings_values, write_settings
from viewer.fleet_store import DeclaredDesktop
from viewer.grants import GRANT_HEADER, DesktopSocket, Grant, open_grant
from viewer.migrations import upgrade
from viewer.model import Display, Role, Session, Status, utcnow
from viewer.relay.answers import StreamList
from viewer.store import NewSession, Store

DOMAIN = "deskfleet.localhost"
BELOW, APART = f"content.{DOMAIN}", "usercontent.localhost"
"""The two modes: below the viewer's domain, and another registrable one."""
PUBLIC_DOMAIN, PUBLIC_APART = "desks.example.com", "usercontent.net"
"""The second one as on the internet: no browser knows these names by itself, and TLS is from the edge's own
authority (`tls: internal`)."""

Page = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


class StubRelay:
    """StubRelay: `/content/…` of a desktop is what `pages` says for its name, else FakeKasmVNC's client."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.pages: dict[str, str] = {}
        """Desktop's name -> the HTML that it serves at its root."""
        self.headers: dict[str, str] = {}
        """What every answer carries besides."""
        self.grants: list[Grant] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        """Path and headers of each request."""
        self.sockets: list[web.WebSocketResponse] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/streams":
            open_grant(request.headers[GRANT_HEADER], self._key, purpose="manage", now=utcnow())
            return web.Response(
                text=StreamList(streams=[]).model_dump_json(), content_type="application/json"
            )
        grant = open_grant(request.headers[GRANT_HEADER], self._key, purpose="content", now=utcnow())
        self.grants.append(grant)
        self.seen.append((request.raw_path, dict(request.headers)))
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._socket(request)
        name = grant.target.name if isinstance(grant.target, DesktopSocket) else ""
        body, kind = self._file(request.path.removeprefix("/content"), name)
        return web.Response(body=body, content_type=kind, headers={**_own_headers(), **self.headers})

    def _file(self, path: str, name: str) -> tuple[bytes, str]:
        if path == "/dist/client.js":
            return CLIENT, "application/javascript"
        if path == "/":
            return self.pages.get(name, INDEX.decode()).encode(), "text/html"
        raise web.HTTPNotFound

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("binary",))
        await socket.prepare(request)
        self.sockets.append(socket)
        await socket.send_bytes(GREETING)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket


class TinyService:
    """TinyService: says what reached it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(dict(request.headers))
        return web.Response(text=f"<h1>wiki</h1><p>{request.raw_path}</p>", content_type="text/html")


class ContentSite:
    """Runs while the `with` block does. One tenant, `acme`; `key(role)` makes keys of it.

    relay: a real one, in place of the StubRelay. tls: by Caddy's own authority, at `domain`, which then is
    not below localhost: browsers must be told where it is.
    """

    def __init__(
        self,
        folder: Path,
        content_domain: str | None,
        *,
        relay: RelayProcess | None = None,
        domain: str = DOMAIN,
        tls: bool = False,
    ) -> None:
        self.domain = domain
        self.scheme = "https" if tls else "http"
        self.folder = folder
        self._real_relay = relay
        self.content_domain = content_domain
        self.port = free_port()
        self._ports = {name: free_port() for name in ("opensandbox", "relay", "viewer", "node")}
        if relay is not None:
            self._ports["relay"] = int(relay.address.rpartition(":")[2])
        self._service_port = free_port()
        self.more: dict[str, Any] = {}
        """Further settings of the viewer."""
        self.processes: list[subprocess.Popen[bytes]] = []
        """The viewer, then Caddy."""
        self._stack = ExitStack()
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> ContentSite:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.domain}:{self.port}"

    @property
    def service_origin(self) -> str:
        return f"{self.scheme}://wiki.{self.domain}:{self.port}"

    def content_origin(self, session: Session) -> str:
        return self.content_origin_of(session.id)

    def content_origin_of(self, session_id: str) -> str:
        return f"{self.scheme}://{session_id}.{self.content_domain}:{self.port}"

    def key(self, role: Role) -> str:
        return self.store.accounts.add_key("acme", role, "tests").text

    def desktop(self, name: str, *, page: str | None = None) -> Session:
        """A running KasmVNC desktop; `page`: what it serves instead of the client."""
        if page is not None:
            self.relay.pages[name] = page
        declared = DeclaredDesktop(
            name=name, tenant="acme", host="here", backend="kasmvnc", resolution="1280x800"
        )
        row = self.store.fleet.upsert_desktop(declared)
        if row.status is Status.RUNNING:
            return row
        return self.store.fleet.transition(row.id, Status.RUNNING, display=Display.KASMVNC, backend="kasmvnc")

    def running(self, vnc_port: int, **wanted: Any) -> Session:
        """A sandbox of acme's that runs. Nobody has made it: its row is put there."""
        values = {"image": "desktop", "resolution": "640x480", "ttl_seconds": 3600, "created_by": "tests"}
        made = self.store.tenant("acme").create(NewSession.model_validate(values | wanted)).session
        return self.store.fleet.transition(
            made.id, Status.RUNNING, host="here", sandbox_id=f"box-{made.id[:8]}", vnc_port=vnc_port
        )

    def cut(self) -> None:
        """Close every open WebSocket of the desktops."""
        self._call(self._cut())

    async def _cut(self) -> None:
        for socket in self.relay.sockets:
            await socket.close()
        self.relay.sockets.clear()

    def _start(self) -> None:
        values = self._settings()
        self.relay, self.service = StubRelay((self.folder / "relay.key").read_bytes().strip()), TinyService()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self._stack.callback(self._loop.close)
        self._stack.callback(thread.join)
        self._stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        if self._real_relay is None:
            self._serve(self.relay.answer, self._ports["relay"])
        else:
            (self.folder / "relay.key").write_bytes(self._real_relay.key)
        self._serve(self.service.answer, self._service_port)
        upgrade(self.folder / "deskfleet.db")
        self.store = Store(self.folder / "deskfleet.db")
        self._stack.callback(self.store.close)
        self.store.accounts.add_tenant("acme")
        settings = write_settings(values, self.folder / "viewer.toml")
        self._run(
            [sys.executable, "-m", "viewer.serve"],
            {"DESKFLEET_SETTINGS": str(settings)},
            self._ports["viewer"],
        )
        self._run(
            [caddy_binary(), "run", "--adapter", "caddyfile", "--config", str(self._caddyfile())],
            {},
            self.port,
        )

    def _settings(self) -> dict[str, Any]:
        values = settings_values(self.folder)
        values["hosts"][0]["relay_url"] = f"http://127.0.0.1:{self._ports['relay']}"
        service = {"name": "wiki", "host_name": f"wiki.{self.domain}", "role": "operator"}
        local = [f"http://localhost:{self.port}"] if self.scheme == "http" else []
        values |= {
            "origins": [self.origin, *local],
            "listen": f"127.0.0.1:{self._ports['viewer']}",
            "services": [service],
            "tenants": [{"name": "acme"}],
        }
        if self.content_domain is not None:
            values["content_domain"] = self.content_domain
        return values | self.more

    def _caddyfile(self) -> Path:
        site = Site.model_validate(
            {
                "hosts": {
                    "here": {"groups": ["edge", "control", "sandboxes", "desktops"], "connect": "@fake/here"}
                },
                "settings": {
                    "domain": self.domain,
                    "tls": "internal" if self.scheme == "https" else "none",
                    "edge_port": self.port,
                    "content_domain": self.content_domain or "none",
                    "ports": self._ports,
                },
                "services": [{"name": "wiki", "host": "here", "port": self._service_port}],
                "tenants": ["acme"],
            }
        )
        text = caddyfile(HostConfig(name="here", site=site, secrets=secrets()), ipv6=False)
        # A unix socket's path must stay short, so not below pytest's directory.
        short = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="df-"))
        text = text.replace("/run/deskfleet/caddy", short).replace(
            "/var/lib/deskfleet/caddy", f"{short}/data"
        )
        if self.scheme == "https":
            # Names with certificates are for every address; and the port 80 is not ours here.
            own = f"{{\n\tdefault_bind 127.0.0.1\n\thttp_port {free_port()}\n"
            text = text.replace("{\n", own, 1)
        path = self.folder / "Caddyfile"
        path.write_text(text)
        return path

    def _serve(self, answer: Page, port: int) -> None:
        async def start() -> web.AppRunner:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", answer)
            runner = web.AppRunner(app, shutdown_timeout=0.2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            return runner

        runner = self._call(start())
        self._stack.callback(lambda: self._call(runner.cleanup()))

    def _run(self, command: list[str], more: dict[str, str], port: int) -> None:
        log = self._stack.enter_context((self.folder / f"log-{port}").open("wb"))
        environment = os.environ | {"HOME": str(self.folder)} | more
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        self._stack.callback(_end, process)
        try:
            wait_for_listener("127.0.0.1", port)
        except TimeoutError:
            raise RuntimeError((self.folder / f"log-{port}").read_text()[-3000:]) from None

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=15)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Also a Caddy that waits for a browser which still streams."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _own_headers() -> dict[str, str]:
    """Those that KasmVNC puts on every answer."""
    return dict(line.split(": ", 1) for line in EXTRA_HEADERS.strip().split("\r\n"))
