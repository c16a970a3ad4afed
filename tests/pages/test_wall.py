"""The wall and its tiles in Chromium, on the real viewer and its events.

Stand-in, by name: `Pictures` answers for `POST /api/v1/thumbnails`; real ones are in
tests/pages/test_wall_real.py.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import PHONE, WIDE, Complaints, new_context, scrolls_sideways, sign_in
from tests.pages.axe import assert_accessible
from tests.pages.site import PagesSite
from viewer.model import HostStatus, Role, Session, Status, utcnow

pytestmark = [pytest.mark.browser, pytest.mark.real]

COLOURS = ["#1f6feb", "#12693a", "#b42318", "#8957e5"]
TILE = "sandbox-tile"
SCREEN = "canvas:not([aria-hidden])"


def jpeg(colour: str) -> str:
    """A plain picture, in base64."""
    file = io.BytesIO()
    Image.new("RGB", (320, 200), colour).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


class Pictures:
    """Each desktop has a plain picture until the test says otherwise."""

    def __init__(self, page: Page) -> None:
        self.asked: list[dict[str, Any]] = []
        self.version = "1"
        self.none: dict[str, str] = {}
        """Session -> why there is no picture of it."""
        self.fails = False
        self.changed_at = utcnow()
        self._jpeg = jpeg(COLOURS[0])
        page.route("**/api/v1/thumbnails", self._answer)

    def show(self, colour: str, version: str) -> None:
        self._jpeg, self.version = jpeg(colour), version

    def ids_asked(self) -> set[str]:
        """Of the last question."""
        return {item["session_id"] for item in self.asked[-1]["items"]} if self.asked else set()

    def _answer(self, route: Route) -> None:
        if self.fails:
            route.fulfill(status=503, content_type="application/problem+json", body="{}")
            return
        asked = json.loads(route.request.post_data or "{}")
        self.asked.append(asked)
        items = [self._item(one["session_id"], one.get("etag")) for one in asked["items"]]
        route.fulfill(status=200, content_type="application/json", body=json.dumps({"items": items}))

    def _item(self, session_id: str, etag: str | None) -> dict[str, Any]:
        if session_id in self.none:
            return {"session_id": session_id, "result": "none", "detail": self.none[session_id]}
        item = {
            "session_id": session_id, "etag": self.version, "screen_width": 1280, "screen_height": 800,
            "changed_at": self.changed_at.isoformat(),
        }  # fmt: skip
        if etag == self.version:
            return {**item, "result": "same"}
        return {**item, "result": "new", "data": self._jpeg}


@pytest.fixture
def pictures(page: Page) -> Pictures:
    return Pictures(page)


@pytest.fixture
def wall(page: Page, site: PagesSite, pictures: Pictures, complaints: Complaints) -> Iterator[Page]:
    """Not opened yet; nothing on it may be said to be wrong at the end."""
    yield page
    # Without a network the browser looks for the tab's picture, too.
    assert complaints.but("status of 503", "/stream/", "ERR_INTERNET_DISCONNECTED") == []


def tile(page: Page, session: Session) -> Any:
    return page.locator(f"{TILE}[session='{session.id}']")


def order_of(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all(TILE, "tiles => tiles.map(one => one.sessionId)")
    return found


def expect_order(page: Page, *sessions: Session) -> None:
    """Of the tiles, as soon as they have it."""
    script = f"ids => [...document.querySelectorAll('{TILE}')].map(one => one.sessionId).join() === ids"
    page.wait_for_function(script, arg=",".join(session.id for session in sessions))


def test_desktops_appear_change_and_go_by_themselves(wall: Page, site: PagesSite, pictures: Pictures) -> None:
    wall.goto(f"{site.origin}/wall")
    expect(wall.get_by_text("No desktops are running")).to_be_visible()
    session = site.running(task="t-1", agent="robot")
    shown = tile(wall, session)
    expect(shown).to_contain_text(session.id[:8])
    expect(shown).to_contain_text("t-1 · robot")
    expect(shown.locator(".badge")).to_have_text("Running")
    expect(shown.locator("img")).to_be_visible()
    expect(wall.locator("#wall-summary")).to_have_text("1 desktop")
    first = shown.locator("img").get_attribute("src")
    pictures.show(COLOURS[1], "2")
    expect(shown.locator("img")).not_to_have_attribute("src", first or "")
    site.store.fleet.transition(session.id, Status.TERMINATED)
    expect(wall.locator(TILE)).to_have_count(0)
    expect(wall.get_by_text("No desktops are running")).to_be_visible()


def test_a_picture_travels_once_and_the_old_one_is_let_go(
    page: Page, site: PagesSite, pictures: Pictures
) -> None:
    session = site.running()
    page.goto(f"{site.origin}/wall")
    image = tile(page, session).locator("img")
    expect(image).to_be_visible()
    old = image.get_attribute("src") or ""
    while pictures.asked[-1]["items"][0].get("etag") != "1":
        page.wait_for_timeout(100)
    pictures.show(COLOURS[1], "2")
    expect(image).not_to_have_attribute("src", old)
    loads = "url => new Promise(done => { const i = new Image(); i.onload = () => done(true);"
    assert page.evaluate(f"{loads} i.onerror = () => done(false); i.src = url }})", old) is False
    assert page.evaluate(
        f"{loads} i.onerror = () => done(false); i.src = url }})", image.get_attribute("src")
    )


def test_only_what_is_on_the_screen_is_asked_for_and_nothing_of_a_hidden_page(
    wall: Page, site: PagesSite, pictures: Pictures
) -> None:
    sessions = [site.running() for _ in range(60)]
    wall.set_viewport_size({"width": 700, "height": 500})
    wall.goto(f"{site.origin}/wall?size=l")
    expect(wall.locator(TILE)).to_have_count(60)
    newest, oldest = sessions[-1], sessions[0]
    expect(tile(wall, newest).locator("img")).to_be_visible()
    assert 0 < len(pictures.ids_asked()) < 20
    assert oldest.id not in pictures.ids_asked()
    tile(wall, oldest).scroll_into_view_if_needed()
    expect(tile(wall, oldest).locator("img")).to_be_visible()
    wall.wait_for_timeout(1500)
    assert newest.id not in pictures.ids_asked()
    # Chromium has no way to hide a page for a test: what it would say then is said.
    wall.evaluate(
        "Object.defineProperty(document, 'hidden', {configurable: true, get: () => true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    wall.wait_for_timeout(300)
    asked = len(pictures.asked)
    wall.wait_for_timeout(2500)
    assert len(pictures.asked) == asked
    wall.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    wall.wait_for_timeout(1000)
    assert len(pictures.asked) > asked


def test_who_needs_somebody_comes_first_then_the_pinned_ones(wall: Page, site: PagesSite) -> None:
    failed, needy, pinned, plain = (
        site.running(task=name) for name in ("failed", "needy", "pinned", "plain")
    )
    wall.goto(f"{site.origin}/wall")
    expect(wall.locator(TILE)).to_have_count(4)
    tile(wall, pinned).hover()
    tile(wall, pinned).get_by_role("button", name="Pin: keep it in front, in this browser").click()
    site.store.fleet.transition(failed.id, Status.ERROR, error_message="the image is gone")
    site.store.fleet.update(
        needy.id, help_reason="Which account?", help_asked_at=utcnow(), help_asked_by="key:k"
    )
    wall.mouse.move(5, 5)
    expect(wall.locator("#wall-summary")).to_have_text("4 desktops · 2 to look at")
    expect(tile(wall, needy)).to_contain_text("Needs a person")
    expect(tile(wall, needy)).to_contain_text("Which account?")
    expect(tile(wall, failed)).to_contain_text("The image is gone")
    wall.evaluate("document.activeElement.blur()")
    expect_order(wall, needy, failed, pinned, plain)
    expect(wall).to_have_title(re.compile("2 to look at · Wall · Deskfleet$"))
    # Kept by this browser.
    wall.reload()
    expect(tile(wall, pinned).locator(".tile-pin")).to_have_attribute("aria-pressed", "true")
    expect_order(wall, needy, failed, pinned, plain)


def test_nothing_moves_under_a_hand(wall: Page, site: PagesSite) -> None:
    older, newer = site.running(), site.running()
    wall.goto(f"{site.origin}/wall")
    expect(wall.locator(TILE)).to_have_count(2)
    tile(wall, newer).locator("button.tile-open").focus()
    site.store.fleet.update(older.id, help_reason="Here", help_asked_at=utcnow(), help_asked_by="key:k")
    expect(tile(wall, older)).to_contain_text("Needs a person")
    wall.wait_for_timeout(3500)
    assert order_of(wall) == [newer.id, older.id]
    wall.evaluate("document.activeElement.blur()")
    expect_order(wall, older, newer)


def test_large_ones_are_chosen_by_click_and_stand_in_the_address(wall: Page, site: PagesSite) -> None:
    one, two, three = site.running(), site.running(), site.running()
    wall.goto(f"{site.origin}/wall")
    tile(wall, one).locator(".tile-open").click()
    expect(wall.locator("#wall-stage sandbox-viewer")).to_have_count(1)
    expect(wall).to_have_url(f"{site.origin}/wall?live={one.id}")
    tile(wall, two).locator(".tile-open").click()
    expect(wall).to_have_url(f"{site.origin}/wall?live={two.id}")
    wall.get_by_text("4 large").locator("..").click()
    for session in (one, three):
        tile(wall, session).locator(".tile-open").click()
    expect(wall).to_have_url(f"{site.origin}/wall?live={two.id},{one.id},{three.id}")
    expect(tile(wall, three)).to_have_attribute("data-place", "3")
    # A stream that goes on is not cut when another one goes.
    canvas = wall.locator(f".wall-slot[data-session='{three.id}'] {SCREEN}")
    expect(canvas).to_be_visible()
    wall.evaluate(f"window.kept = document.querySelector(\"[data-session='{three.id}'] {SCREEN}\")")
    tile(wall, one).locator(".tile-open").click()
    expect(wall).to_have_url(f"{site.origin}/wall?live={two.id},{three.id}&layout=4")
    assert wall.evaluate("window.kept.isConnected")
    wall.reload()
    expect(wall.locator("#wall-stage sandbox-viewer")).to_have_count(2)
    wall.locator(f".wall-slot[data-session='{two.id}'] .viewer-back").click()
    expect(wall).to_have_url(f"{site.origin}/wall?live={three.id}&layout=4")


def test_all_of_it_by_keyboard(wall: Page, site: PagesSite) -> None:
    sessions = [site.running() for _ in range(6)]
    wall.goto(f"{site.origin}/wall")
    expect(wall.locator(TILE)).to_have_count(6)
    first, second = sessions[-1], sessions[-2]
    tile(wall, first).locator(".tile-open").focus()
    wall.keyboard.press("1")
    wall.keyboard.press("ArrowRight")
    expect(tile(wall, second).locator(".tile-open")).to_be_focused()
    wall.keyboard.press("2")
    wall.keyboard.press("Home")
    expect(tile(wall, first).locator(".tile-open")).to_be_focused()
    expect(wall).to_have_url(f"{site.origin}/wall?live={first.id},{second.id}")
    wall.keyboard.press("p")
    expect(tile(wall, first).locator(".tile-pin")).to_have_attribute("aria-pressed", "true")
    wall.keyboard.press("ArrowDown")
    assert wall.evaluate("document.activeElement.closest('sandbox-tile')?.sessionId") != first.id
    # Of all tiles one is in the order of Tab.
    assert wall.locator(".tile-open[tabindex='0']").count() == 1


def test_a_tile_is_dragged_to_a_place(wall: Page, site: PagesSite) -> None:
    one, two = site.running(), site.running()
    wall.goto(f"{site.origin}/wall?live={one.id}")
    expect(wall.locator(f"#wall-stage {SCREEN}")).to_be_visible()
    tile(wall, two).hover()
    wall.mouse.down()
    wall.mouse.move(600, 500, steps=4)
    place = wall.locator(".wall-place[data-place='0']")
    expect(place).to_be_visible()
    place.hover()
    place.hover()
    wall.mouse.up()
    expect(wall).to_have_url(f"{site.origin}/wall?live={two.id}")


def test_filters_and_groups_stand_in_the_address(wall: Page, site: PagesSite) -> None:
    red, blue = site.running(task="red", agent="a"), site.running(task="blue & co", agent="b")
    lone = site.running()
    wall.goto(f"{site.origin}/wall")
    wall.get_by_label("Task").select_option("blue & co")
    expect(wall.locator(TILE)).to_have_count(1)
    expect(wall).to_have_url(f"{site.origin}/wall?task=blue%20%26%20co")
    wall.reload()
    expect(tile(wall, blue)).to_be_visible()
    expect(wall.locator(TILE)).to_have_count(1)
    wall.get_by_role("button", name="Clear").click()
    expect(wall.locator(TILE)).to_have_count(3)
    wall.get_by_label("Group by").select_option("task")
    expect(wall.locator("h2.wall-group")).to_have_text(["blue & co · 1", "red · 1", "Without a task · 1"])
    assert order_of(wall) == [blue.id, red.id, lone.id]
    wall.goto(f"{site.origin}/wall?task=nothing")
    expect(wall.get_by_text("No desktop matches")).to_be_visible()
    wall.get_by_role("button", name="Show all").click()
    expect(wall.locator(TILE)).to_have_count(3)


def test_a_desktop_that_has_no_picture_says_why(wall: Page, site: PagesSite, pictures: Pictures) -> None:
    site.worker.creates = False
    creating = site.queued()
    site.worker.creates = True
    session = site.running()
    site.store.fleet.update(creating.id, status_reason="fetching the image")
    pictures.none[session.id] = "The relay of host here does not answer."
    wall.goto(f"{site.origin}/wall")
    expect(tile(wall, session)).to_contain_text("The relay of host here does not answer.")
    del pictures.none[session.id]
    expect(tile(wall, session).locator("img")).to_be_visible()
    expect(tile(wall, session).locator(".tile-cover")).to_be_hidden()
    # Its last picture stays while it is paused.
    site.store.fleet.transition(session.id, Status.PAUSED)
    expect(tile(wall, session).locator(".tile-cover")).to_contain_text("Paused")
    expect(tile(wall, session).locator("img")).to_be_visible()
    wall.wait_for_timeout(1500)
    assert session.id not in pictures.ids_asked()


def test_a_screen_that_is_still_says_for_how_long(wall: Page, site: PagesSite, pictures: Pictures) -> None:
    session = site.running()
    pictures.changed_at = utcnow() - timedelta(minutes=12, seconds=5)
    wall.goto(f"{site.origin}/wall")
    expect(tile(wall, session)).to_contain_text("Still for 12 min")


def test_lost_server_and_lost_pictures_are_said_and_come_back(
    wall: Page, site: PagesSite, pictures: Pictures
) -> None:
    session = site.running()
    wall.goto(f"{site.origin}/wall")
    expect(tile(wall, session).locator("img")).to_be_visible()
    pictures.fails = True
    expect(wall.locator("#banner")).to_contain_text("The pictures do not come", timeout=15_000)
    expect(tile(wall, session).locator("img")).to_be_visible()
    pictures.fails = False
    expect(wall.locator("#banner")).to_be_hidden(timeout=15_000)
    wall.context.set_offline(True)
    expect(wall.locator("#banner")).to_contain_text("You are offline")
    wall.context.set_offline(False)
    expect(wall.locator("#banner")).to_be_hidden(timeout=15_000)


def test_mode_for_a_screen_nobody_sits_at_fits_all_tiles(wall: Page, site: PagesSite) -> None:
    for _ in range(12):
        site.running()
    wall.goto(f"{site.origin}/wall?tv")
    expect(wall.locator(TILE)).to_have_count(12)
    expect(wall.locator("header.top")).to_be_hidden()
    expect(wall.locator(".wall-head")).to_be_hidden()
    wall.wait_for_function(
        "([box]) => box.scrollHeight <= box.clientHeight + 1",
        arg=[wall.locator(".wall-scroll").element_handle()],
    )
    wall.keyboard.press("Escape")
    expect(wall.locator("header.top")).to_be_visible()
    expect(wall).to_have_url(f"{site.origin}/wall")
    wall.get_by_role("button", name="Full screen, and nothing but desktops").click()
    wall.wait_for_function("() => document.fullscreenElement === document.documentElement")
    expect(wall).to_have_url(f"{site.origin}/wall?tv")


def test_of_more_than_fit_the_rest_is_counted_and_on_the_list(wall: Page, site: PagesSite) -> None:
    """More than one page of the API; there is nothing behind these desktops."""
    sessions = [site.creating(task="nightly" if number % 2 else None) for number in range(230)]
    oldest = sessions[0]
    wall.goto(f"{site.origin}/wall?size=s")
    expect(wall.locator("#wall-summary")).to_have_text("230 desktops")
    expect(wall.locator(TILE)).to_have_count(200)
    more = wall.get_by_role("link", name="30 more in the list")
    expect(more).to_be_visible()
    expect(tile(wall, oldest)).to_have_count(0)
    # Whoever needs somebody is never among the rest.
    site.store.fleet.update(oldest.id, help_reason="Here", help_asked_at=utcnow(), help_asked_by="key:k")
    expect(tile(wall, oldest)).to_contain_text("Needs a person")
    expect(wall.locator(TILE)).to_have_count(200)
    # Also once the list is read anew.
    wall.reload()
    expect(wall.locator(TILE)).to_have_count(200)
    assert order_of(wall)[0] == oldest.id
    site.store.fleet.transition(oldest.id, Status.TERMINATED)
    expect(wall.get_by_role("link", name="29 more in the list")).to_be_visible()
    # On a screen that nobody scrolls it is what fits, and what does not is said.
    wall.goto(f"{site.origin}/wall?tv")
    expect(wall.locator("#wall-more")).to_be_visible()
    fitting = wall.locator(TILE).count()
    assert 40 < fitting < 200
    expect(wall.locator("#wall-more")).to_have_text(f"{229 - fitting} more in the list")
    box = wall.locator(".wall-scroll")
    assert box.evaluate("one => one.scrollHeight <= one.clientHeight + 1")
    wall.goto(f"{site.origin}/wall?task=nightly&size=s")
    expect(wall.locator(TILE)).to_have_count(115)
    expect(wall.locator("#wall-more")).to_be_hidden()
    wall.goto(f"{site.origin}/wall?size=s")
    wall.get_by_role("link", name="29 more in the list").click()
    expect(wall).to_have_url(f"{site.origin}/sandboxes")


HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.exe" + "W" * 150


def test_hostile_names_stay_text_and_keep_the_layout(wall: Page, site: PagesSite) -> None:
    session = site.running(task=HOSTILE.replace("\u202e", ""), agent=HOSTILE.replace("\u202e", ""))
    site.store.fleet.update(session.id, help_reason=HOSTILE, help_asked_at=utcnow(), help_asked_by="key:k")
    wall.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    wall.goto(f"{site.origin}/wall?group=task")
    expect(tile(wall, session)).to_contain_text("<img src=x")
    assert wall.locator("img[src='x']").count() == 0
    assert not scrolls_sideways(wall)
    box = tile(wall, session).bounding_box()
    assert box is not None
    assert box["width"] < 700


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", ["wide", "phone"])
def test_nothing_is_wrong_for_a_keyboard_or_a_screen_reader(
    browser: Browser, site: PagesSite, colours: Any, width: str
) -> None:
    size = PHONE if width == "phone" else WIDE
    context = new_context(browser, size=size, colours=colours, still=True)
    page = context.new_page()
    Pictures(page)
    sign_in(page, site.origin, site.new_key(Role.WATCHER))
    sessions = [site.running(task="t", agent="a") for _ in range(3)]
    site.store.fleet.update(
        sessions[0].id, help_reason="Which account?", help_asked_at=utcnow(), help_asked_by="key:k"
    )
    site.store.fleet.record_host_status("here", HostStatus.OK)
    page.goto(f"{site.origin}/wall?live={sessions[1].id}&group=host")
    expect(page.locator(f"{TILE} img")).to_have_count(3)
    expect(page.locator(f"#wall-stage {SCREEN}")).to_be_visible()
    assert not scrolls_sideways(page)
    # The viewer element is looked at on its own pages.
    assert_accessible(page)
    context.close()
