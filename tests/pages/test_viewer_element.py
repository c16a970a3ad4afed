"""<sandbox-viewer>: the picture of a real Xtigervnc, its controls, and what it says when something breaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from struct import pack
from typing import cast

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser import Complaints, canvas_colours, wait_for_picture
from tests.pages.site import PagesSite
from tests.painted_desktop import PaintedDesktop
from tests.test_relay import rfb_server
from viewer.fleet_store import DeclaredDesktop
from viewer.model import Session, Status

pytestmark = [pytest.mark.browser, pytest.mark.real]

COVER = ".viewer-cover"


@pytest.fixture
def session(site: PagesSite) -> Session:
    return site.running()


@pytest.fixture
def shown(page: Page, site: PagesSite, session: Session) -> Page:
    """The session's page with its picture on it."""
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    wait_for_picture(page)
    expect(page.locator(COVER)).to_be_hidden()
    return page


@pytest.fixture
def controlled(shown: Page) -> Page:
    """The same, with keyboard and mouse of the desktop."""
    shown.get_by_role("button", name="Take control").click()
    expect(shown.locator(".lease-state")).to_have_text("You have control")
    return shown


def test_the_canvas_follows_the_desktop(shown: Page, desktop: PaintedDesktop, complaints: Complaints) -> None:
    desktop.paint(Image.new("RGB", desktop.size, "#0b7285"))
    assert soon(shown, lambda: canvas_colours(shown) <= 4)
    pixel = shown.locator(".viewer-stage canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(9, 9, 1, 1).data].slice(0, 3)"
    )
    assert pixel == pytest.approx([0x0B, 0x72, 0x85], abs=6)
    desktop.repaint()
    wait_for_picture(shown)
    assert complaints.heard == []


def test_what_a_click_needs_waits_for_a_picture_that_is_slow(
    page: Page, site: PagesSite, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    may_paint = threading.Event()
    with rfb_server(lambda client: paint_once(client, may_paint), address="127.0.0.1") as port:
        monkeypatch.setattr(site.edge, "vnc_port", port)
        page.clock.install()
        page.goto(f"{site.origin}/view/{session.id}")
        expect(page.locator("sandbox-viewer[data-link=connected]")).to_be_visible()
        page.clock.fast_forward(5000)
        page.evaluate("new Promise(requestAnimationFrame)")
        assert not [address for address in asked if "/extras-" in address]
        may_paint.set()
        wait_for_picture(page)
        with page.expect_request("**/extras-*"):
            page.clock.fast_forward(5000)


def paint_once(client: socket.socket, may_paint: threading.Event) -> None:
    """An RFB server's one picture of many colours, as soon as it may, until the browser goes."""
    may_paint.wait(60)
    width, height = 8, 8
    pixels = b"".join(pack("<I", number * 0x030507) for number in range(width * height))
    client.sendall(pack(">BxHHHHHi", 0, 1, 0, 0, width, height, 0) + pixels)
    while client.recv(4096):
        pass


def test_refresh_opens_another_stream_and_leaves_the_sandbox_alone(
    shown: Page, site: PagesSite, session: Session
) -> None:
    before = site.store.fleet.get(session.id)
    opened = site.edge.opened
    shown.get_by_role("button", name="Reconnect").click()
    wait_for_picture(shown)
    assert site.edge.opened == opened + 1
    assert site.store.fleet.get(session.id) == before


def test_a_cut_stream_keeps_the_last_frame_grey_and_comes_back(
    shown: Page, site: PagesSite, complaints: Complaints
) -> None:
    wait_for_picture(shown, colours=5)  # all of it: it comes in pieces
    site.edge.refuse_streams = 502
    site.edge.cut()
    expect(shown.locator(COVER)).to_contain_text("Connection lost")
    expect(shown.locator(".cover-clock")).to_contain_text("Reconnecting")
    expect(shown.locator(".viewer-last-frame")).to_be_visible()
    assert canvas_colours(shown, ".viewer-last-frame") > 4
    site.edge.refuse_streams = None
    wait_for_picture(shown)
    expect(shown.locator(COVER)).to_be_hidden()
    expect(shown.locator(".viewer-last-frame")).to_be_hidden()
    assert complaints.but("WebSocket connection to") == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (4404, "The desktop closed its screen"),
        (4408, "This stream reached its time limit"),
        (4410, "The desktop has ended"),
        (4503, "control plane has been silent"),
        (4502, "screen does not answer"),
        (1012, "The relay is restarting"),
    ],
)
def test_the_reason_of_a_closed_stream_is_shown(shown: Page, site: PagesSite, code: int, words: str) -> None:
    site.edge.refuse_streams = 502
    site.edge.cut(code, "")
    expect(shown.locator(COVER)).to_contain_text(words)


def test_a_withdrawn_stream_does_not_come_back_by_itself(shown: Page, site: PagesSite) -> None:
    opened = site.edge.opened
    site.edge.cut(4403, "revoked")
    expect(shown.locator(COVER)).to_contain_text("Your access to this desktop was withdrawn")
    shown.wait_for_timeout(2500)
    assert site.edge.opened == opened
    shown.get_by_role("button", name="Try again").click()
    wait_for_picture(shown)


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (4401, "this browser is no longer signed in", "This browser is no longer signed in"),
        (4403, "closed by Ada", "Closed by Ada"),
        (4403, "the role that this was opened in is watcher now", "Your role has changed"),
    ],
)
def test_who_has_lost_his_right_is_told_why_and_does_not_come_back_by_himself(
    shown: Page, site: PagesSite, code: int, reason: str, words: str
) -> None:
    opened = site.edge.opened
    site.edge.cut(code, reason)
    expect(shown.locator(COVER)).to_contain_text(words)
    shown.wait_for_timeout(1500)
    assert site.edge.opened == opened
    expect(shown.locator(COVER)).to_contain_text(words)


def test_page_says_who_watches_beside_it(page: Page, site: PagesSite, session: Session) -> None:
    """The relay's list is the test's own; that and when it is asked for is the page's."""
    there = [("Ada", "control"), ("Bob", "watch")]
    site.edge.streams_told = [_stream(name, role) for name, role in there]
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    wait_for_picture(page)
    line = page.locator(".viewer-watchers")
    expect(line).to_have_text("2 watching")
    expect(line).to_have_attribute("title", "Ada, Bob (view only)")
    site.edge.streams_told = site.edge.streams_told[:1]
    site.store.fleet.tell_of_watchers({session.id: 1})
    expect(line).to_have_text("1 watching", timeout=2000)
    site.edge.streams_told = []
    site.store.fleet.tell_of_watchers({session.id: 0})
    expect(line).to_be_hidden(timeout=2000)


def _stream(name: str, role: str) -> dict[str, object]:
    return {
        "stream_id": name, "kind": "rfb", "principal": f"person:{name}", "name": name, "role": role,
        "via": "cookie", "opened_at": "2026-11-30T08:00:00Z", "last_input_at": None,
    }  # fmt: skip


def test_try_now_does_not_wait(shown: Page, site: PagesSite) -> None:
    site.edge.refuse_streams = 502
    site.edge.cut()
    expect(shown.locator(".cover-clock")).to_contain_text("Reconnecting in 3 s", timeout=15_000)
    site.edge.refuse_streams = None
    shown.get_by_role("button", name="Try now").click()
    wait_for_picture(shown, seconds=2)


def test_an_ended_session_is_told_from_a_broken_stream(
    shown: Page, site: PagesSite, session: Session
) -> None:
    site.store.fleet.transition(session.id, Status.TERMINATED, reason="expired")
    site.edge.cut(4404, "")
    expect(shown.locator(COVER)).to_contain_text("The desktop has ended")
    expect(shown.locator(COVER)).to_contain_text("Expired")
    expect(shown.locator("[data-control=terminate]")).to_be_disabled()


def test_a_failed_session_shows_its_message(shown: Page, site: PagesSite, session: Session) -> None:
    site.store.fleet.transition(session.id, Status.ERROR, error_message="Image gone; run the deploy.")
    expect(shown.locator(COVER)).to_contain_text("Image gone; run the deploy.")
    expect(shown.locator(".viewer-bar .badge")).to_have_text("Error")


def test_a_blank_desktop_says_so(shown: Page, site: PagesSite, session: Session) -> None:
    site.store.fleet.update(session.id, status_reason="blank")
    expect(shown.locator(".viewer-bar .badge")).to_have_text("Running, blank")
    expect(shown.locator(".viewer-notice")).to_contain_text("drawn nothing")


def test_terminate_asks_first_and_keeping_changes_nothing(
    shown: Page, site: PagesSite, session: Session
) -> None:
    shown.locator("[data-control=terminate]").click()
    expect(shown.get_by_role("dialog")).to_contain_text("Terminate this desktop?")
    expect(shown.get_by_role("button", name="Keep it")).to_be_focused()
    shown.keyboard.press("Enter")
    assert site.store.fleet.get(session.id).terminate_requested_at is None
    shown.locator("[data-control=terminate]").click()
    shown.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    expect(shown.locator(COVER)).to_contain_text("The desktop has ended")
    assert site.store.fleet.get(session.id).status is Status.TERMINATED


def test_terminate_shows_that_it_is_pending_and_why_it_failed(shown: Page, site: PagesSite) -> None:
    site.worker.ends = False
    shown.locator("[data-control=terminate]").click()
    shown.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    expect(shown.get_by_role("button", name="Terminating…")).to_be_disabled()
    expect(shown.locator(".viewer-bar .badge")).to_have_text("Terminating")
    shown.keyboard.press("Escape")
    expect(shown.locator(".viewer-notice")).to_contain_text("is being ended")
    site.worker.ends = True
    expect(shown.locator(COVER)).to_contain_text("The desktop has ended")


def test_a_refused_terminate_is_shown_in_the_dialog(shown: Page, site: PagesSite) -> None:
    shown.locator("[data-control=terminate]").click()
    site.edge.silent = True
    shown.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    expect(shown.get_by_role("dialog").get_by_role("alert")).to_contain_text("not ready right now")


def test_desktop_with_a_page_of_its_own_says_that_there_is_no_place_for_it(
    page: Page, site: PagesSite
) -> None:
    declared = DeclaredDesktop(
        name="studio", tenant=site.tenant, host="here", backend="kasmvnc", resolution="1280x800"
    )
    desktop = site.store.fleet.upsert_desktop(declared)
    site.store.fleet.transition(desktop.id, Status.RUNNING, backend="kasmvnc")
    page.goto(f"{site.origin}/sandboxes/{desktop.id}")
    expect(page.locator(COVER)).to_contain_text("This desktop's page cannot be shown")
    expect(page.locator(COVER)).to_contain_text("set content_domain in the site file")
    expect(page.get_by_role("link", name="Open in a tab")).to_be_hidden()


def test_fullscreen_is_entered_and_left(shown: Page) -> None:
    shown.get_by_role("button", name="Full screen").click()
    shown.wait_for_function("() => document.fullscreenElement?.localName === 'sandbox-viewer'")
    shown.get_by_role("button", name="Leave full screen").click()
    shown.wait_for_function("() => document.fullscreenElement === null")


def test_new_tab_holds_only_the_viewer(shown: Page, site: PagesSite, session: Session) -> None:
    with shown.context.expect_page() as opening:
        shown.get_by_role("link", name="Open in a new tab").click()
    tab = opening.value
    complaints = Complaints(tab)
    expect(tab).to_have_url(f"{site.origin}/view/{session.id}")
    wait_for_picture(tab)
    box = tab.locator("sandbox-viewer").bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (1440, 900)
    expect(tab.locator(".top")).to_have_count(0)
    site.store.fleet.transition(session.id, Status.TERMINATED)
    expect(tab.locator(COVER)).to_contain_text("The desktop has ended")
    assert complaints.heard == []


def test_a_picture_stays_while_the_viewer_restarts(page: Page, site: PagesSite, session: Session) -> None:
    page.goto(f"{site.origin}/view/{session.id}")
    wait_for_picture(page)
    opened = site.edge.opened
    site.edge.go_silent()
    page.wait_for_timeout(3500)
    assert canvas_colours(page) > 4
    expect(page.locator(COVER)).to_be_hidden()
    site.edge.silent = False
    site.store.fleet.transition(session.id, Status.TERMINATED)
    expect(page.locator(COVER)).to_contain_text("The desktop has ended", timeout=15_000)
    assert site.edge.opened == opened


def test_the_bare_page_takes_nothing_but_the_session_from_its_address(
    page: Page, site: PagesSite, session: Session
) -> None:
    dialled: list[str] = []
    page.on("websocket", lambda socket: dialled.append(socket.url))
    page.goto(f"{site.origin}/view/{session.id}?host=evil.example&path=x&password=y#port=1")
    wait_for_picture(page)
    assert dialled == [f"{site.origin.replace('http', 'ws')}/stream/{session.id}"]


def test_keys_and_pointer_reach_the_desktop_and_no_key_stays_held(
    controlled: Page, desktop: PaintedDesktop
) -> None:
    canvas = controlled.locator(".viewer-stage canvas")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] / 2, "y": box["height"] / 4})
    assert soon(controlled, lambda: desktop.pointer() == pytest.approx((640, 200), abs=2))
    controlled.keyboard.down("a")
    assert soon(controlled, lambda: desktop.keys_held() == 1)
    controlled.locator(".viewer-controls [data-control=refresh]").focus()
    assert soon(controlled, lambda: desktop.keys_held() == 0)
    controlled.keyboard.up("a")


def test_the_keyboard_can_leave_the_desktop(controlled: Page) -> None:
    controlled.locator(".viewer-stage canvas").focus()
    controlled.keyboard.press("Tab")
    assert focused(controlled) == "CANVAS"
    controlled.keyboard.press("Control+Alt+Home")
    assert focused(controlled) == "BUTTON"


def test_text_goes_to_the_desktops_clipboard(controlled: Page, desktop: PaintedDesktop) -> None:
    assert not desktop.clipboard_is_owned()
    controlled.get_by_role("button", name="Clipboard").click()
    controlled.get_by_label("Text on the desktop's clipboard").fill("from the page")
    controlled.get_by_role("button", name="Send to desktop").click()
    expect(controlled.locator(".viewer-clipboard")).to_be_hidden()
    assert soon(controlled, desktop.clipboard_is_owned)


def soon(page: Page, true: Callable[[], bool], *, seconds: float = 4) -> bool:
    """Whether it becomes true; the page goes on working meanwhile."""
    for _ in range(int(seconds * 20)):
        if true():
            return True
        page.wait_for_timeout(50)
    return False


def focused(page: Page) -> str:
    return cast(str, page.evaluate("document.activeElement.tagName"))
