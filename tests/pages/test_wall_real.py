"""Screenshots and thumbnails on real parts: Caddy, the viewer, a relay with its captures, Xvnc; the wall that
shows them is in tests/wall.

Stand-in: nobody makes the sessions; the test puts their rows there.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from mcp import Client
from mcp.types import CallToolResult, ImageContent
from PIL import Image
from pydantic import SecretStr

from tests.pages.content_site import ContentSite
from tests.painted_desktop import PaintedDesktop, _picture
from tests.relay_process import RelayProcess, running_relay
from viewer.cli.api import Api
from viewer.cli.connection import Connection
from viewer.mcp.execd import Execd
from viewer.mcp.server import server_for
from viewer.mcp.tools import Desk
from viewer.model import Role, Session, Status

pytestmark = [pytest.mark.browser, pytest.mark.real]

SIZE = (640, 400)


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

    # In a thread: while Playwright is open, this one counts as inside a loop.
    with ThreadPoolExecutor(1) as aside:
        answer = aside.submit(lambda: asyncio.run(look())).result()
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
