"""Where the adversary's tests happen: everything between a browser and a desktop is real, and of two tenants.

Caddy with the rendered Caddyfile, viewer, relay, and an Xtigervnc with a password. Stand-ins, by name:
`FakeKasmVNC` for the desktops with a page of their own, `Sandboxes` for the host's OpenSandbox server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from aiohttp import web

from tests.adversary.callers import OURS, THEIRS, Callers, Four, all_callers, take_away
from tests.caddy_fleet import TinyUpstream, running_upstreams
from tests.pages.content_site import BELOW, ContentSite
from tests.relay_process import RelayProcess, free_port, running_xvnc
from tests.test_relay_content import Studio, relay_at, studio_at
from viewer.credentials import seal_secret
from viewer.fleet_store import DeclaredDesktop
from viewer.model import Display, Status
from viewer.store import NewSession

VNC_PASSWORD = "kept4her"
DASHBOARD = "https://dashboard.example"
"""Whose pages may show the desktops of OURS."""
PORT = 8000
"""Of a sandbox, where something of the agent's own listens."""


class Sandboxes(TinyUpstream):
    """Sandboxes: the host's OpenSandbox server as far as its proxy goes; keeps what reached it."""

    def __init__(self) -> None:
        super().__init__("opensandbox", "127.0.0.1", free_port())
        self.seen: list[str] = []
        """Paths."""
        self.headers: list[dict[str, str]] = []

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.raw_path)
        self.headers.append(dict(request.headers))
        return await super()._answer(request)


@dataclass
class Ground:
    site: ContentSite
    relay: RelayProcess
    desktops: tuple[Studio, ...]
    sandboxes: Sandboxes
    screens: Four
    """Sandboxes whose screen is a stream."""
    pages: Four
    """Desktops with a page of their own."""
    browsers: Four
    """Sandboxes with a browser that has DevTools."""
    callers: Callers

    def heard(self) -> int:
        """How many requests have reached anything of a tenant's; the relay's own are left out."""
        of_pages = [request for one in self.desktops for request in one.fake.seen.requests]
        return len(self.sandboxes.seen) + sum("/api/" not in request.target for request in of_pages)


@contextmanager
def running_ground(folder: Path) -> Iterator[Ground]:
    for name in ("relay", "site"):
        (folder / name).mkdir()
    sandboxes = Sandboxes()
    with (
        running_upstreams(sandboxes),
        running_xvnc(folder, password=VNC_PASSWORD) as screen,
        studio_at(folder / "relay", name="studio", tenant=OURS) as studio,
        studio_at(folder / "relay", name="annex", tenant=THEIRS) as annex,
        relay_at(folder / "relay", opensandbox_url=f"http://127.0.0.1:{sandboxes.port}") as relay,
        _site(folder / "site", relay) as site,
    ):
        # The relay begins by looking for strays there, which is no visit.
        for desktop in (studio, annex):
            desktop.wait_until_quiet()
        screens = Four(
            own=_sandbox(site, OURS, screen.port),
            ended=_sandbox(site, OURS, screen.port),
            foreign=_sandbox(site, THEIRS, screen.port),
            never=str(uuid4()),
        )
        pages = Four(
            own=_desktop(site, OURS, "studio"),
            ended=_desktop(site, OURS, "gone"),
            foreign=_desktop(site, THEIRS, "annex"),
            never=str(uuid4()),
        )
        browsers = Four(
            own=_sandbox(site, OURS, screen.port, image="chrome"),
            ended=_sandbox(site, OURS, screen.port, image="chrome"),
            foreign=_sandbox(site, THEIRS, screen.port, image="chrome"),
            never=str(uuid4()),
        )
        callers = all_callers(site, screens, pages, browsers)
        for ended in (screens.ended, pages.ended, browsers.ended):
            site.store.fleet.transition(ended, Status.TERMINATED)
        take_away(site, callers)
        yield Ground(site, relay, (studio, annex), sandboxes, screens, pages, browsers, callers)


def _site(folder: Path, relay: RelayProcess) -> ContentSite:
    site = ContentSite(folder, BELOW, relay=relay)
    site.more["tenants"] = [{"name": OURS, "embed_origins": [DASHBOARD]}, {"name": THEIRS}]
    return site


def _sandbox(site: ContentSite, tenant: str, vnc_port: int, *, image: str = "desktop") -> str:
    """As the worker leaves it when it has seen the first frame."""
    new = NewSession(image=image, ttl_seconds=3600, created_by="tests")
    row = site.store.tenant(tenant).create(new).session
    key = (site.folder / "viewer.key").read_bytes().strip()
    site.store.fleet.update(row.id, vnc_password_sealed=seal_secret(VNC_PASSWORD, key))
    return site.store.fleet.transition(
        row.id, Status.RUNNING, host="here", sandbox_id=f"box-{row.id[:8]}", vnc_port=vnc_port
    ).id


def _desktop(site: ContentSite, tenant: str, name: str) -> str:
    declared = DeclaredDesktop(
        name=name, tenant=tenant, host="here", backend="kasmvnc", resolution="1280x800"
    )
    row = site.store.fleet.upsert_desktop(declared)
    return site.store.fleet.transition(row.id, Status.RUNNING, display=Display.KASMVNC, backend="kasmvnc").id
