"""What a page weighs over the wire until its first picture, through the real edge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, WebSocket, expect

from tests.browser import PHONE, new_context, sign_in, wait_for_picture
from tests.page_weight import KB, Weight
from tests.pages.content_site import ContentSite
from tests.relay_process import Xvnc
from viewer.model import Role, Session

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def site(relayed_site: ContentSite) -> ContentSite:
    return relayed_site


@pytest.fixture(scope="module")
def session(site: ContentSite, xvnc: Xvnc) -> Session:
    return site.running(xvnc.port)


@pytest.fixture
def page(browser: Browser, site: ContentSite) -> Iterator[Page]:
    """Signed in, with nothing in its cache."""
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, site.origin, site.key(Role.OPERATOR))
    yield page
    context.close()


def test_a_desktop_shows_after_six_files_and_85_kilobytes(
    page: Page, site: ContentSite, session: Session
) -> None:
    weight = Weight(page)
    page.goto(f"{site.origin}/view/{session.id}")
    wait_for_picture(page, colours=2)
    assert any("/stream-" in address for address in weight.files)
    assert len(weight.files) <= 6, weight.files
    assert weight.of_files <= 85 * KB, weight.bytes


@pytest.mark.parametrize("page_name", ["view", "sandboxes"])
def test_stream_is_asked_for_before_the_script_of_the_page_runs(
    page: Page, site: ContentSite, session: Session, page_name: str
) -> None:
    """And by that only once."""
    streams: list[WebSocket] = []
    page.on("websocket", lambda socket: streams.append(socket))
    held: list[Route] = []
    page.route(f"**/static/build/{page_name}-*", lambda route: held.append(route))
    address = f"{site.origin}/{page_name}/{session.id}"
    with page.expect_websocket(lambda socket: f"/stream/{session.id}" in socket.url) as opened:
        page.goto(address, wait_until="commit")
    with opened.value.expect_event("framereceived"):
        pass
    assert held
    held[0].continue_()
    wait_for_picture(page, colours=2)
    assert len(streams) == 1


def test_what_is_needed_after_a_click_comes_after_the_picture(
    page: Page, site: ContentSite, session: Session
) -> None:
    weight = Weight(page)
    page.goto(f"{site.origin}/view/{session.id}")
    wait_for_picture(page, colours=2)
    assert not [address for address in weight.files if "/extras-" in address]
    page.locator("[data-control=more]").click()
    page.locator("[data-item=figures]").wait_for()
    [extras] = [address for address in weight.files if "/extras-" in address]
    assert weight.bytes[extras] <= 15 * KB


@pytest.mark.parametrize("path", ["/sandboxes", "/sandboxes/{id}"])
def test_list_and_desktop_come_in_six_files(
    page: Page, site: ContentSite, session: Session, path: str
) -> None:
    weight = Weight(page)
    page.goto(site.origin + path.replace("{id}", session.id))
    wait_for_picture(page, colours=2)
    assert len(weight.files) <= 6, weight.files
    assert weight.of_files <= 95 * KB, weight.bytes


def test_list_alone_loads_30_kilobytes_and_no_desktop(
    page: Page, site: ContentSite, session: Session
) -> None:
    """As on a phone, where it stands alone."""
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    weight = Weight(page)
    page.goto(f"{site.origin}/sandboxes")
    page.locator("#session-list a.row").first.wait_for()
    expect(page.locator("#list-count")).to_have_text("1 active")
    assert not [address for address in weight.files if "/stream-" in address or "/sandbox-viewer-" in address]
    assert len(weight.files) <= 6, weight.files
    assert weight.of_files <= 30 * KB, weight.bytes
    # They come with the first desktop that somebody opens.
    page.locator(f"[data-session='{session.id}'] a.row").click()
    wait_for_picture(page, colours=2)
    assert [address for address in weight.files if "/stream-" in address]


def test_list_without_desktops_is_as_light_on_a_wide_window(
    page: Page, site: ContentSite, session: Session
) -> None:
    weight = Weight(page)
    page.goto(f"{site.origin}/sandboxes?q=no-such-desktop")
    expect(page.locator("[data-for=filtered]")).to_be_visible()
    expect(page.locator("sandbox-viewer")).to_contain_text("No desktop selected")
    expect(page.locator("#list-count")).to_have_text("1 active")
    assert len(weight.files) <= 6, weight.files
    assert weight.of_files <= 30 * KB, weight.bytes
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert [address for address in weight.files if "/extras-" in address]
