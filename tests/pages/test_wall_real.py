"""Screenshots and the wall on real parts: Chromium, Caddy, the viewer, a relay with its captures, Xvnc.

Stand-in: nobody makes the sessions; the test puts their rows there.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
import pytest
from mcp import Client
from mcp.types import CallToolResult, ImageContent
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, CDPSession, expect
from pydantic import SecretStr

from tests.browser import Complaints, new_context, sign_in
from tests.pages.content_site import ContentSite
from tests.painted_desktop import PaintedDesktop, _picture
from tests.process_figures import children_of, cpu_seconds, rss_mib
from tests.relay_process import RelayProcess, running_relay
from tests.soaking import is_soaking
from viewer.cli.api import Api
from viewer.cli.connection import Connection
from viewer.mcp.execd import Execd
from viewer.mcp.server import server_for
from viewer.mcp.tools import Desk
from viewer.model import Role, Session, Status

pytestmark = [pytest.mark.browser, pytest.mark.real]

SIZE = (640, 400)
TILE = "sandbox-tile"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    # The painted desktops listen there.
    with running_relay(tmp_path_factory.mktemp("relay"), publish_address="127.0.0.1") as process:
        yield process
    assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def site(relayed_site: ContentSite) -> ContentSite:
    return relayed_site


def running(site: ContentSite, vnc_port: int) -> Session:
    return site.running(vnc_port, resolution=f"{SIZE[0]}x{SIZE[1]}", ttl_seconds=7200)


def api(site: ContentSite) -> httpx.Client:
    """A watcher's program."""
    host = f"deskfleet.localhost:{site.port}"
    headers = {"Authorization": f"Bearer {site.key(Role.WATCHER)}", "Host": host}
    return httpx.Client(base_url=f"http://127.0.0.1:{site.port}/api/v1", headers=headers, trust_env=False)


def ended(site: ContentSite, *sessions: Session) -> None:
    for session in sessions:
        site.store.fleet.transition(session.id, Status.TERMINATED)


def test_screenshot_is_the_screen_and_travels_once(site: ContentSite, desktop: PaintedDesktop) -> None:
    session = running(site, desktop.port)
    with api(site) as client:
        path = f"/sessions/{session.id}/screenshot"
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        shown = Image.open(io.BytesIO(answer.content))
        assert (shown.format, shown.convert("RGB").tobytes()) == ("PNG", _picture(*desktop.size).tobytes())
        known = {"If-None-Match": answer.headers["ETag"]}
        assert client.get(path, headers=known).status_code == 304
        small = client.get(path, params={"format": "jpeg", "width": 320})
        assert (small.headers["Content-Type"], Image.open(io.BytesIO(small.content)).width) == (
            "image/jpeg",
            320,
        )
        desktop.paint(Image.new("RGB", desktop.size, "#ffffff"))
        assert client.get(path, headers=known).status_code == 200
        desktop.repaint()
        ended(site, session)
        assert client.get(path).status_code == 409


class ToThisMachine(httpx.HTTPTransport):
    """Not every machine's resolver knows names below localhost."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)


def test_agents_model_gets_the_screen_as_a_picture(site: ContentSite, desktop: PaintedDesktop) -> None:
    session = running(site, desktop.port)
    to = Connection(url=f"http://deskfleet.localhost:{site.port}", key=SecretStr(site.key(Role.WATCHER)))

    async def look() -> CallToolResult:
        execd = Execd(to)
        with Api(to, ToThisMachine()) as through:
            async with Client(server_for(Desk(through, execd))) as client:
                answer = await client.call_tool("screenshot", {"sandbox_id": session.id, "width": 320})
        await execd.close()
        return answer

    answer = asyncio.run(look())
    picture = answer.content[0]
    assert isinstance(picture, ImageContent), answer
    shown = Image.open(io.BytesIO(base64.b64decode(picture.data)))
    width, height = desktop.size
    assert (shown.format, shown.size) == ("JPEG", (320, round(height * 320 / width)))
    assert answer.structured_content == {
        "sandbox_id": session.id, "screen_width": width, "screen_height": height, "scale": width / 320
    }  # fmt: skip
    ended(site, session)


def test_thumbnails_of_a_silent_desktop_and_of_a_live_one(site: ContentSite, desktop: PaintedDesktop) -> None:
    # Nobody listens on the discard port.
    live, silent = running(site, desktop.port), running(site, 9)
    with api(site) as client:
        asked = {"items": [{"session_id": silent.id}, {"session_id": live.id}]}
        first, second = client.post("/thumbnails", json=asked).json()["items"]
        assert (first["result"], second["result"]) == ("none", "new")
        assert first["detail"]
        asked["items"][1]["etag"] = second["etag"]
        assert client.post("/thumbnails", json=asked).json()["items"][1]["result"] == "same"
    ended(site, live, silent)


@dataclass
class Figures:
    """One look at what everything takes."""

    heap: float
    """MiB of the page's scripts, after what is no longer needed is thrown away."""
    nodes: float
    viewer: float
    relay: float
    """Resident MiB."""


@dataclass
class Watch:
    """Looks at page and servers again and again."""

    cdp: CDPSession
    viewer_pid: int
    relay_pid: int
    looks: list[Figures] = field(default_factory=list)

    def look(self) -> None:
        self.cdp.send("HeapProfiler.collectGarbage")
        page = self.metrics()
        self.looks.append(
            Figures(
                heap=page["JSHeapUsedSize"] / 2**20,
                nodes=page["Nodes"],
                viewer=rss_mib(self.viewer_pid),
                relay=rss_mib(self.relay_pid),
            )
        )

    def metrics(self) -> dict[str, float]:
        return {one["name"]: one["value"] for one in self.cdp.send("Performance.getMetrics")["metrics"]}

    def ends(self, name: str) -> tuple[float, float]:
        """Its median in the first third and in the last."""
        values = [float(getattr(one, name)) for one in self.looks]
        third = max(1, len(values) // 3)
        return statistics.median(values[:third]), statistics.median(values[-third:])


class Painters:
    """Four desktops at work: each is painted anew about every second, until the end."""

    def __init__(self, desktops: list[PaintedDesktop]) -> None:
        self._desktops = desktops
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._over.wait(0.7):
            count += 1
            for index, desktop in enumerate(self._desktops):
                picture = _picture(*desktop.size)
                ImageDraw.Draw(picture).text(
                    (40 + 10 * index, 60), f"line {count}", fill="#8be9a8", font_size=40
                )
                desktop.paint(picture)


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_wall_of_twelve_desktops_and_a_hundred_rows_stays_as_it_is(
    browser: Browser, site: ContentSite, relay: RelayProcess, record_property: Callable[[str, object], None]
) -> None:
    """12 real desktops, 8 of them idle, and 100 rows without a picture. 20 s in `make test`, half an hour
    in `make soak`; DESKFLEET_WALL_SECONDS says another time."""
    seconds = float(os.environ.get("DESKFLEET_WALL_SECONDS", 1800 if is_soaking() else 20))
    with ExitStack() as stack:
        desktops = [stack.enter_context(PaintedDesktop(width=SIZE[0], height=SIZE[1])) for _ in range(12)]
        rows = [running(site, 9) for _ in range(100)]
        for row in rows:
            site.store.fleet.transition(row.id, Status.PAUSED)
        shown = [running(site, desktop.port) for desktop in desktops]
        stack.enter_context(Painters(desktops[:4]))
        context = new_context(browser, size=(1920, 1080))
        stack.callback(context.close)
        page = context.new_page()
        complaints = Complaints(page)
        sign_in(page, site.origin, site.key(Role.WATCHER))
        page.goto(f"{site.origin}/wall?size=s")
        expect(page.locator(TILE)).to_have_count(112, timeout=30_000)
        for session in shown:
            expect(page.locator(f"{TILE}[session='{session.id}'] img")).to_be_visible(timeout=30_000)
        at_work = page.locator(f"{TILE}[session='{shown[0].id}'] img")
        before = at_work.get_attribute("src") or ""
        expect(at_work).not_to_have_attribute("src", before, timeout=30_000)
        idle = page.locator(f"{TILE}[session='{shown[-1].id}'] img")
        at_rest = idle.get_attribute("src")
        cdp = context.new_cdp_session(page)
        cdp.send("Performance.enable")
        (viewer_pid,) = children_of(site.processes[0].pid)
        watch = Watch(cdp, viewer_pid, relay.process.pid)
        # What is made once, such as threads and buffers, is there by now.
        page.wait_for_timeout(min(seconds, 30) * 200)
        began = watch.metrics()
        servers = cpu_seconds(viewer_pid), cpu_seconds(relay.process.pid)
        for _ in range(12):
            page.wait_for_timeout(seconds * 1000 / 12)
            watch.look()
        busy = watch.metrics()["TaskDuration"] - began["TaskDuration"]
        used = (cpu_seconds(viewer_pid) - servers[0], cpu_seconds(relay.process.pid) - servers[1])
        figures = {
            "page, % of a core": 100 * busy / seconds,
            "viewer, % of a core": 100 * used[0] / seconds,
            "relay, % of a core": 100 * used[1] / seconds,
            **{name: watch.ends(name) for name in ("heap", "nodes", "viewer", "relay")},
        }
        print(figures)
        for name, figure in figures.items():
            record_property(name, str(figure))
        # Idle desktops cost the page nothing: theirs is the picture of the beginning.
        assert idle.get_attribute("src") == at_rest
        for name, slack in (("heap", 3), ("viewer", 8), ("relay", 8)):
            first, last = watch.ends(name)
            assert last <= first * 1.1 + slack, (name, watch.looks)
        first, last = watch.ends("nodes")
        assert last <= first + 200, watch.looks
        assert complaints.heard == []
        ended(site, *rows, *shown)
