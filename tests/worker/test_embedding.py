"""A dashboard at another origin shows a desktop live: docs/examples/dashboard.py, in a real Chromium.

Caddy, viewer, worker, relay, opensandbox-server and container are real; the picture is that of a Xtigervnc
beside the container. The dashboard's policy allows its own script, the viewer's, and what those connect to.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import Complaints, new_context, screenshot
from tests.built import built_pages
from tests.hosts.own_docker import OwnDocker
from tests.painted_desktop import PaintedDesktop
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import RelayProcess, free_port, wait_for_listener
from tests.worker.edge import KEY, Edge, running_edge
from tests.worker.test_mcp import IMAGES
from viewer.model import Principal, Role, Session, Status

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.timeout(180)]

DASHBOARD = Path(__file__).parents[2] / "docs" / "examples" / "dashboard.py"
PORT = free_port()
LISTED, UNLISTED = f"http://127.0.0.1:{PORT}", f"http://dashboard.localhost:{PORT}"
"""One server, and two origins of its pages."""
COLOURS = """canvas => new Set(new Uint32Array(
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, server: RealOpenSandbox, relay: RelayProcess
) -> Iterator[Edge]:
    built_pages()
    folder = tmp_path_factory.mktemp("edge")
    with running_edge(
        folder, server, relay, images=IMAGES, default_image="desktop", embedders=[LISTED]
    ) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = new_context(browser)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def painted(daemon: OwnDocker) -> Iterator[PaintedDesktop]:
    with PaintedDesktop(enter=daemon.enter()) as desktop:
        yield desktop


@pytest.fixture
def session(edge: Edge, painted: PaintedDesktop) -> Iterator[Session]:
    """A sandbox in whose place the painted desktop shows a screen."""
    made = edge.fleet.wait_for(edge.fleet.create("desktop"), Status.RUNNING)
    yield edge.fleet.store.fleet.update(made.id, vnc_port=painted.port, vnc_password_sealed=None)
    edge.fleet.store.fleet.request_termination(made.id)


@contextmanager
def dashboard(edge: Edge, session_id: str) -> Iterator[None]:
    environment = {
        **os.environ, "DESKFLEET_URL": edge.url, "DESKFLEET_KEY": KEY.text, "PORT": str(PORT), "no_proxy": "*"
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, DASHBOARD, session_id], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_listener("127.0.0.1", PORT)
        yield
    finally:
        process.terminate()
        process.wait()


def tickets_made(edge: Edge, session: Session) -> list[str]:
    entries = edge.fleet.store.audit.entries("main")
    made = [one for one in entries if one.action == "ticket.create" and one.target == f"session:{session.id}"]
    return [str((one.detail or {})["ticket"]) for one in made]


def shows_the_screen(page: Page) -> None:
    expect(page.locator(".viewer-cover")).to_be_hidden()
    canvas = page.locator(".viewer-stage canvas").first
    expect(canvas).to_be_visible()
    for _ in range(100):
        if canvas.evaluate(COLOURS) > 4:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the screen stays without a picture")


def test_a_listed_dashboard_shows_a_desktop_live_and_follows_it(
    edge: Edge, session: Session, page: Page, tmp_path: Path
) -> None:
    complaints = Complaints(page)
    with dashboard(edge, session.id):
        page.goto(f"{LISTED}/")
        shows_the_screen(page)
        assert page.title() == "running · Dashboard"
        assert page.locator(".viewer-badge").inner_text().strip() == "Running"
        # Our styles are there, and stay inside.
        viewer = page.locator("deskfleet-viewer")
        assert viewer.evaluate("one => getComputedStyle(one).display") == "flex"
        assert page.locator("h1").evaluate("one => getComputedStyle(one).fontWeight") == "700"
        # What a ticket does not open is not offered.
        for name in ("share", "terminate", "clipboard"):
            expect(page.locator(f"[data-control={name}]")).to_be_hidden()
        expect(page.get_by_role("button", name="Take control")).to_have_count(0)
        assert len(tickets_made(edge, session)) == 1
        agent = Principal(id=f"key:{KEY.id}", tenant="main", role=Role.OPERATOR, via="key")
        edge.fleet.store.help("main").ask(session.id, "solve the captcha", agent)
        expect(page.locator(".viewer-help")).to_contain_text("solve the captcha")
        expect(page.get_by_role("button", name="Done")).to_be_hidden()
        screenshot(page, tmp_path, "dashboard")
    assert complaints.heard == []


def test_a_ticket_that_is_over_is_followed_by_another_one(edge: Edge, session: Session, page: Page) -> None:
    with dashboard(edge, session.id):
        page.goto(f"{LISTED}/")
        shows_the_screen(page)
        before = tickets_made(edge, session)
        who = Principal(id=f"key:{KEY.id}", tenant="main", role=Role.OPERATOR, via="key")
        edge.fleet.store.tickets.revoke("main", session.id, before[-1], who=who)
        # The worker closes what came by it; the page asks its own server again.
        expect(page.locator(".viewer-cover")).to_be_visible()
        shows_the_screen(page)
        assert len(tickets_made(edge, session)) > len(before)


def test_a_page_that_is_not_listed_sees_nothing_and_says_why(
    edge: Edge, session: Session, page: Page
) -> None:
    with dashboard(edge, session.id):
        page.goto(f"{UNLISTED}/")
        expect(page.locator(".cover-text")).to_contain_text(f"Pages of {UNLISTED} may not show this desktop")
        assert page.locator(".viewer-stage canvas").count() == 0
        assert page.title() == "Dashboard"


def test_a_desktop_that_ends_is_said_to_have_ended(edge: Edge, session: Session, page: Page) -> None:
    with dashboard(edge, session.id):
        page.goto(f"{LISTED}/")
        shows_the_screen(page)
        edge.fleet.main.request_termination(session.id)
        expect(page.locator(".viewer-badge")).to_contain_text("Terminated", timeout=20_000)
        assert page.title() == "terminated · Dashboard"
