"""What a person sees while parts of the fleet die under the page, and after they are back.

Caddy, viewer, worker, relay, opensandbox-server and container are real; the picture is that of a Xtigervnc
beside the container. The page is never reloaded.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import Complaints, canvas_colours, new_context, sign_in, wait_for_picture
from tests.hosts.own_docker import OwnDocker
from tests.painted_desktop import PaintedDesktop
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import RelayProcess, running_relay
from tests.soaking import is_soaking
from tests.worker.edge import KEY, Edge
from viewer.model import Role, Session, Status

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.timeout(180)]

LAST_FRAME = ".viewer-last-frame"
BANNER = "#banner"
SOON, LATE = 15_000, 40_000
"""Milliseconds in which a page has heard of it by itself; and in which the worker and then the page have."""
CUT_MS = 60_000 if is_soaking() else 4000


@pytest.fixture(scope="module")
def relay(
    daemon: OwnDocker, server: RealOpenSandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayProcess]:
    """One of this file's own: it is killed here."""
    folder = tmp_path_factory.mktemp("relay")
    with running_relay(
        folder, publish_address=daemon.address, probe_seconds=3, opensandbox_url=server.url
    ) as running:
        yield running


@pytest.fixture(scope="module")
def painted(daemon: OwnDocker) -> Iterator[PaintedDesktop]:
    with PaintedDesktop(enter=daemon.enter()) as desktop:
        yield desktop


@pytest.fixture(scope="module")
def session(edge: Edge, painted: PaintedDesktop) -> Session:
    """A sandbox in whose place the painted desktop shows a screen."""
    made = edge.fleet.wait_for(edge.fleet.create("desktop"), Status.RUNNING)
    return edge.fleet.store.fleet.update(made.id, vnc_port=painted.port, vnc_password_sealed=None)


@contextmanager
def shown(browser: Browser, edge: Edge, session: Session, key: str = KEY.text) -> Iterator[Page]:
    """The page of that desktop, with its picture."""
    origin = f"http://deskfleet.localhost:{edge.port}"
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, origin, key)
    page.goto(f"{origin}/sandboxes/{session.id}")
    wait_for_picture(page)
    expect(page.locator(".viewer-cover")).to_be_hidden()
    page.evaluate("window.neverReloaded = true")
    yield page
    assert page.evaluate("window.neverReloaded") is True
    context.close()


@pytest.fixture
def page(browser: Browser, edge: Edge, session: Session) -> Iterator[Page]:
    with shown(browser, edge, session) as page:
        yield page


def row_of(page: Page, session: Session) -> Locator:
    return page.locator(f"[data-session='{session.id}']")


def has_its_picture_again(page: Page) -> None:
    expect(page.locator(".viewer-cover")).to_be_hidden(timeout=LATE)
    wait_for_picture(page)
    expect(page.locator(LAST_FRAME)).to_be_hidden()


def keeps_its_last_frame(page: Page) -> None:
    expect(page.locator(LAST_FRAME)).to_be_visible()
    assert canvas_colours(page, LAST_FRAME) > 4


def test_viewer_dies_and_the_picture_goes_on_while_the_page_says_so(
    page: Page, edge: Edge, session: Session
) -> None:
    edge.viewer.kill()
    try:
        expect(page.locator(BANNER)).to_contain_text("Connection to the server lost", timeout=SOON)
        expect(page.locator(".viewer-cover")).to_be_hidden()
        assert canvas_colours(page) > 4
        new = edge.fleet.create("desktop")
    finally:
        edge.viewer.start()
    expect(page.locator(BANNER)).to_be_hidden(timeout=SOON)
    expect(row_of(page, new)).to_be_visible()
    expect(page.locator(".viewer-cover")).to_be_hidden()
    edge.fleet.store.fleet.request_termination(new.id)


def test_worker_dies_and_what_waits_for_it_is_done_when_it_is_back(page: Page, edge: Edge) -> None:
    edge.fleet.kill()
    new = edge.fleet.create("desktop")
    expect(row_of(page, new)).to_contain_text("Creating")
    expect(page.locator(".viewer-cover")).to_be_hidden()
    edge.fleet.start()
    expect(row_of(page, new)).to_contain_text("Running", timeout=LATE)
    edge.fleet.store.fleet.request_termination(new.id)
    expect(row_of(page, new)).to_contain_text("Terminated", timeout=LATE)


def test_relay_dies_and_the_last_frame_stays_until_there_is_another(page: Page, relay: RelayProcess) -> None:
    complaints = Complaints(page)
    relay.kill()
    try:
        expect(page.locator(".cover-heading")).to_have_text("Connection lost", timeout=SOON)
        expect(page.locator(".cover-clock")).to_contain_text("Reconnecting")
        keeps_its_last_frame(page)
    finally:
        relay.start_again()
    has_its_picture_again(page)
    assert complaints.but("/stream/", "status of 502") == []


def test_host_is_lost_and_said_to_be_until_it_is_back(
    page: Page, edge: Edge, session: Session, server: RealOpenSandbox, relay: RelayProcess
) -> None:
    server.stop()
    relay.kill()
    try:
        expect(page.locator(".viewer-badge").first).to_contain_text("Host unreachable", timeout=LATE)
        expect(row_of(page, session)).to_contain_text("Host unreachable")
        keeps_its_last_frame(page)
        # Nobody has heard that it ended: it is not said to have.
        assert edge.fleet.get(session).status is Status.RUNNING
    finally:
        server.start()
        relay.start_again()
    expect(page.locator(".viewer-badge").first).to_have_text("Running", timeout=LATE)
    has_its_picture_again(page)


def test_browser_without_network_says_so_and_hears_what_it_missed(
    page: Page, edge: Edge, session: Session
) -> None:
    # Chromium's own switch cuts no connection that is open: the other end has to fall silent, too.
    edge.caddy.send_signal(signal.SIGSTOP)
    try:
        page.context.set_offline(True)
        expect(page.locator(BANNER)).to_contain_text("You are offline")
        new = edge.fleet.create("desktop")
        page.wait_for_timeout(CUT_MS)
        assert canvas_colours(page) > 4 or canvas_colours(page, LAST_FRAME) > 4
        expect(row_of(page, new)).to_have_count(0)
    finally:
        edge.caddy.send_signal(signal.SIGCONT)
        page.context.set_offline(False)
    expect(page.locator(BANNER)).to_be_hidden(timeout=SOON)
    expect(row_of(page, new)).to_be_visible()
    has_its_picture_again(page)
    edge.fleet.store.fleet.request_termination(new.id)


def test_what_one_does_the_other_sees_within_a_second(
    browser: Browser, page: Page, edge: Edge, session: Session
) -> None:
    other_key = edge.fleet.store.accounts.add_key("main", Role.OPERATOR, "mara").text
    took = []
    with shown(browser, edge, session, other_key) as other:
        state = other.locator(".lease-state")
        for button, says in (("Take control", HOLDER), ("Give back", "Nobody has control")) * 2:
            expect(page.get_by_role("button", name=button)).to_be_enabled()
            other.evaluate(WATCH, says)
            pressed = page.evaluate("Date.now()")
            page.get_by_role("button", name=button).click()
            expect(state).to_have_text(re.compile(says))
            took.append(other.evaluate("window.seenAt") - pressed)
    # The best of them: what a busy machine adds is not ours, and nothing that is asked for every second
    # would come so soon time after time.
    print("seen in the other browser after", [f"{one:.0f} ms" for one in took])
    assert min(took) < 1000, took


HOLDER = "^(?!Nobody).* has control$"
WATCH = """says => {
    const state = document.querySelector(".lease-state");
    window.seenAt = 0;
    const watching = new MutationObserver(() => {
        if (!new RegExp(says).test(state.textContent)) return;
        window.seenAt = Date.now();
        watching.disconnect();
    });
    watching.observe(state, {childList: true, characterData: true, subtree: true});
}"""
