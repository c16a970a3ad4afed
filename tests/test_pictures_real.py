"""Screenshots and thumbnails from the API down to the screen: viewer, Caddy, relay and Xvnc are real.

Stand-in: nobody makes the session; the test puts its row there. Pixels are compared with what a client of the
tests' own is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO

import httpx
import pytest
from PIL import Image, ImageChops

from tests.framebuffer import first_frame
from tests.pages.content_site import BELOW, ContentSite
from tests.relay_process import PUBLISH_ADDRESS, Xvnc, running_relay, running_xvnc
from tests.x_painter import Painter
from viewer.credentials import seal_secret
from viewer.model import Role, Session, Status
from viewer.settings import load_settings
from viewer.store import NewSession

pytestmark = pytest.mark.real

PASSWORD = "secret12"
"""Of the desktop: the picture's way goes through its login."""


@pytest.fixture(scope="module")
def xvnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path_factory.mktemp("xvnc"), geometry="800x600", password=PASSWORD) as running:
        with closing(Painter(running.display)) as painter:
            painter.paint_noise(100, 100, 300, 200)
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContentSite]:
    with (
        running_relay(tmp_path_factory.mktemp("relay")) as relay,
        ContentSite(tmp_path_factory.mktemp("site"), BELOW, relay=relay) as running,
    ):
        yield running
        assert PASSWORD not in relay.log.read_text()


@pytest.fixture(scope="module")
def session(site: ContentSite, xvnc: Xvnc) -> Session:
    key = load_settings(site.folder / "viewer.toml").secret_key
    wanted = NewSession(
        image="desktop",
        resolution="800x600",
        ttl_seconds=600,
        created_by="tests",
        vnc_password_sealed=seal_secret(PASSWORD, key),
    )
    made = site.store.tenant("acme").create(wanted).session
    return site.store.fleet.transition(
        made.id, Status.RUNNING, host="here", sandbox_id="box", vnc_port=xvnc.port
    )


@pytest.fixture(scope="module")
def api(site: ContentSite) -> Iterator[httpx.Client]:
    bearer = {"Authorization": f"Bearer {site.key(Role.WATCHER)}"}
    with httpx.Client(base_url=f"http://localhost:{site.port}/api/v1", headers=bearer, timeout=20) as client:
        yield client


def screen_of(xvnc: Xvnc) -> Image.Image:
    picture = first_frame(PUBLISH_ADDRESS, xvnc.port, PASSWORD)
    size = (picture.width, picture.height)
    return Image.frombytes("RGB", size, picture.bgrx, "raw", "BGRX")


def test_a_screenshot_is_the_screen_to_the_pixel_and_comes_once(
    api: httpx.Client, session: Session, xvnc: Xvnc
) -> None:
    way = f"/sessions/{session.id}/screenshot"
    answer = api.get(way)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png"), answer.text
    shown = Image.open(BytesIO(answer.content)).convert("RGB")
    assert ImageChops.difference(shown, screen_of(xvnc)).getbbox() is None
    again = api.get(way, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    with closing(Painter(xvnc.display)) as painter:
        painter.paint(0, 0, 50, 50, b"\x00\x00\xff\x00" * 2500)
    changed = api.get(way, headers={"If-None-Match": answer.headers["ETag"]})
    assert changed.status_code == 200, changed.text
    shown = Image.open(BytesIO(changed.content)).convert("RGB")
    assert shown.getpixel((10, 10)) == (255, 0, 0)


def test_a_thumbnail_comes_once_too(api: httpx.Client, session: Session) -> None:
    wish = {"width": 320, "items": [{"session_id": session.id}]}
    (item,) = api.post("/thumbnails", json=wish).json()["items"]
    assert item["result"] == "new", item
    wish["items"] = [{"session_id": session.id, "etag": item["etag"]}]
    (again,) = api.post("/thumbnails", json=wish).json()["items"]
    assert (again["result"], again.get("data")) == ("same", None)
    assert again["changed_at"] == item["changed_at"]
