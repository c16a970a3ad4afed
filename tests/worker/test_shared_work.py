"""What a person and a foreign page see of the same work: a task's desktops and its documents.

Caddy, viewer, worker, relay, opensandbox-server and the containers are real; the screens are canned.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import Complaints, canvas_colours, new_context, sign_in
from tests.built import built_pages
from tests.real_opensandbox import GREETING_ANSWER_BYTES, RealOpenSandbox, rfb_screen
from tests.relay_process import RelayProcess, free_port
from tests.worker.edge import KEY, Edge, running_edge
from tests.worker.fleet import _image
from viewer.model import Role

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.timeout(240)]

_INIT, _HEAD = 28, 16
_PICTURE = rfb_screen(colours=2)[_INIT : _INIT + _HEAD] + bytes(
    byte for at in range(16 * 16) for byte in (at, 255 - at, 7 * at % 256, 0)
)
_OCTAL = "".join("\\" + format(byte, "03o") for byte in _PICTURE)
SCREEN = f"""cat > /screen.sh << 'END'
cat /greeting.rfb
head -c {GREETING_ANSWER_BYTES} > /dev/null
head -c {_INIT} /desktop.rfb
exec 3<&0
cat <&3 > /dev/null &
while sleep 1 && printf '{_OCTAL}'; do :; done
END
exec nc -ll -p 8080 -e sh /screen.sh
"""
"""A desktop of 256 colours, sent once a second to whoever looks: it is asked more than once, as a real one
is. noVNC shows nothing of what comes together with ServerInit."""
SOON = 20_000
"""Milliseconds; a desktop is made in them, also on a machine that is busy."""
DASHBOARD = f"http://dash.deskfleet.localhost:{free_port()}"
"""Of the viewer's own site, so that the sign-in is sent into its frames."""
STRANGER = DASHBOARD.replace("dash.", "stranger.")


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory,
    server: RealOpenSandbox,
    relay: RelayProcess,
) -> Iterator[Edge]:
    built_pages()
    images = [
        _image("screen", SCREEN),
        _image("broken", "echo the screen is on fire; exit 3"),
    ]
    with running_edge(
        tmp_path_factory.mktemp("edge"), server, relay,
        images=images, default_image="screen", embedders=[DASHBOARD],
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def agent(edge: Edge) -> Iterator[httpx.Client]:
    """An agent's program, with a key."""
    headers = {"Authorization": f"Bearer {KEY.text}"}
    with httpx.Client(base_url=f"{edge.url}/api/v1", headers=headers, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def page(browser: Browser, edge: Edge) -> Iterator[Page]:
    """Of an operator."""
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, origin(edge), edge.fleet.store.accounts.add_key("main", Role.OPERATOR, "mara").text)
    yield page
    context.close()


def origin(edge: Edge) -> str:
    return f"http://deskfleet.localhost:{edge.port}"


def post(agent: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    answer = agent.post(path, json=fields)
    assert answer.is_success, answer.text
    made: dict[str, Any] = answer.json()
    return made


def shows_its_screen(page: Page, viewer: str, *, seconds: float = 30) -> None:
    for _ in range(int(seconds * 10)):
        if canvas_colours(page, f"{viewer} .viewer-stage canvas") > 4:
            return
        page.wait_for_timeout(100)
    found = page.locator(viewer).first
    colours = canvas_colours(page, f"{viewer} .viewer-stage canvas")
    raise AssertionError(f"{colours} colours are shown by: {found.inner_text()}")


def test_task_shows_its_desktops_and_documents_as_they_come_and_go(
    page: Page, edge: Edge, agent: httpx.Client
) -> None:
    complaints = Complaints(page)
    post(agent, "/tasks", id="t-1", title="Invoices")
    page.goto(f"{origin(edge)}/tasks/t-1")
    expect(page.locator("#task-empty")).to_be_visible()
    page.evaluate("window.neverReloaded = true")
    start = partial(post, agent, "/sessions", task_id="t-1")
    first, second, third = start(), start(), start()
    items = page.locator(".task-live > li")
    expect(items).to_have_count(3, timeout=SOON)
    for made in (first, second):
        viewer = f".task-live > li[data-live=true] sandbox-viewer[compact][session='{made['id']}']"
        shows_its_screen(page, viewer)
        expect(page.locator(f"{viewer} .viewer-badge")).to_have_text("Running")
    still = page.locator(f".task-live > li[data-session='{third['id']}'][data-live=false]")
    expect(still.locator("sandbox-tile img")).to_be_visible(timeout=SOON)
    still.locator("button").first.click()
    shows_its_screen(page, f".task-live > li[data-live=true] sandbox-viewer[session='{third['id']}']")
    failed = start(image="broken", wait=False)
    ended = page.locator(".task-ended > li")
    expect(ended).to_have_count(1, timeout=2 * SOON)
    expect(ended.locator(".badge")).to_have_text("Error")
    expect(ended.locator("a").first).to_have_attribute("href", f"/sandboxes/{failed['id']}")
    assert agent.delete(f"/sessions/{second['id']}").status_code in (202, 204)
    expect(ended).to_have_count(2, timeout=SOON)
    expect(ended.locator(".badge", has_text="Terminated")).to_have_count(1)
    expect(items).to_have_count(2)

    documents = page.locator(".task-documents .document-row")
    post(agent, "/documents", title="The desktop", type="sandbox", session_id=first["id"], task_id="t-1")
    post(agent, "/documents", title="Report", type="text", content="two of three\n", task_id="t-1")
    expect(documents).to_have_count(2)
    documents.filter(has_text="Report").click()
    expect(page.locator(".tray-body .source pre")).to_have_text("two of three\n")
    page.keyboard.press("Escape")
    documents.filter(has_text="The desktop").click()
    shows_its_screen(page, f"dialog.tray sandbox-viewer[session='{first['id']}']")
    expect(page.locator("dialog.tray .viewer-badge")).to_have_text("Running")
    assert page.evaluate("window.neverReloaded") is True
    assert complaints.heard == []


def test_document_of_a_desktop_has_an_address_and_the_real_status(
    page: Page, edge: Edge, agent: httpx.Client
) -> None:
    session = post(agent, "/sessions")
    document = post(agent, "/documents", title="The desktop", type="sandbox", session_id=session["id"])
    page.goto(f"{origin(edge)}/documents/{document['id']}")
    shows_its_screen(page, f"dialog.tray sandbox-viewer[session='{session['id']}']")
    badge = page.locator("dialog.tray .viewer-badge")
    expect(badge).to_have_text("Running")
    # What Docker says, and not what the document said when it was written.
    found = edge.fleet.server.container_of(edge.fleet.main.get(session["id"]).sandbox_id or "")
    edge.fleet.server.daemon.docker("rm", "--force", found)
    expect(badge).to_have_text(re.compile("Error|Terminated"), timeout=2 * SOON)
    page.reload()
    expect(page.locator("dialog.tray .empty-heading")).to_have_text(re.compile("Error|Terminated"))


class Foreign(BaseHTTPRequestHandler):
    """A page of another origin with a frame in it."""

    frame = ""

    def do_GET(self) -> None:
        body = f'<!doctype html><title>Dashboard</title><iframe width=1200 height=700 src="{self.frame}">'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def foreign(edge: Edge) -> Iterator[None]:
    Foreign.frame = f"{origin(edge)}/tasks/t-2/panel"
    server = ThreadingHTTPServer(("127.0.0.1", int(DASHBOARD.rpartition(":")[2])), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("foreign")
def test_panel_of_a_task_lives_in_a_listed_page_and_in_no_other(
    page: Page, edge: Edge, agent: httpx.Client
) -> None:
    post(agent, "/tasks", id="t-2", title="Orders")
    page.goto(f"{DASHBOARD}/")
    panel = page.frame_locator("iframe")
    expect(panel.locator("#task-empty")).to_be_visible()
    session = post(agent, "/sessions", task_id="t-2")
    viewer = panel.locator(f"sandbox-viewer[session='{session['id']}']")
    expect(viewer.locator(".viewer-badge")).to_have_text("Running", timeout=SOON)
    _is_painted(viewer.locator(".viewer-stage canvas").first, page)
    page.goto(f"{STRANGER}/")
    page.wait_for_timeout(1000)
    assert page.frame_locator("iframe").locator("#task-title").count() == 0


def _is_painted(canvas: Locator, page: Page) -> None:
    expect(canvas).to_be_visible(timeout=SOON)
    colours = """canvas => new Set(new Uint32Array(
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
    for _ in range(300):
        if int(canvas.evaluate(colours)) > 4:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the screen stays without a picture")
