"""The header: where one is, who one is, how it looks, by mouse, by keyboard and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import Complaints, new_context, scrolls_sideways, sign_in
from tests.pages.axe import assert_accessible
from tests.pages.site import PagesSite
from viewer.model import Principal, Role

pytestmark = [pytest.mark.browser, pytest.mark.real]

SMALL = (360, 740)


@pytest.fixture
def phone(browser: Browser, site: PagesSite) -> Iterator[Page]:
    context = new_context(browser, size=SMALL)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    yield page
    context.close()


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def theme_in_html(page: Page) -> str:
    """What the server sent, before any script."""
    script = "fetch(location.href).then(answer => answer.text()).then(text => text.match(/<html[^>]*>/)[0])"
    return str(page.evaluate(script))


def test_account_menu_says_who_and_is_closed_by_all_that_closes_menus(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    page.goto(f"{site.origin}/hosts")
    panel, summary = page.locator("#account-menu .menu-panel"), page.locator("#account-menu summary")
    summary.click()
    expect(panel).to_contain_text(f"admin of {site.tenant}")
    assert_accessible(page)
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(summary).to_be_focused()
    page.keyboard.press("Enter")
    expect(panel).to_be_visible()
    page.locator("h1").click()
    expect(panel).to_be_hidden()
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(panel.get_by_label("System")).to_be_focused()
    page.keyboard.press("Tab")
    expect(panel.get_by_role("link", name="Account")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(panel).to_be_hidden()
    assert complaints.heard == []


def test_theme_is_chosen_by_keyboard_and_holds_for_all_pages(page: Page, site: PagesSite) -> None:
    other = page.context.new_page()
    other.goto(f"{site.origin}/account")
    page.goto(f"{site.origin}/hosts")
    light = background(page)
    assert "data-theme" not in theme_in_html(page)
    page.locator("#account-menu summary").focus()
    for key in ("Enter", "Tab", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert background(page) != light
    expect(other.locator("html")).to_have_attribute("data-theme", "dark")
    other.goto(f"{site.origin}/sandboxes")
    assert 'data-theme="dark"' in theme_in_html(other)
    assert background(other) == background(page)
    expect(other.locator("#account-menu [value=dark]")).to_be_checked()
    other.locator("#account-menu summary").click()
    other.locator("#account-menu").get_by_label("System").check()
    expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")
    assert background(page) == light


def test_nothing_moves_for_those_who_asked_for_that(browser: Browser, site: PagesSite) -> None:
    seconds = {}
    for still in (False, True):
        context = new_context(browser, still=still)
        page = context.new_page()
        sign_in(page, site.origin, site.key)
        page.goto(f"{site.origin}/hosts")
        page.locator("#account-menu summary").click()
        script = "one => getComputedStyle(one).animationDuration"
        seconds[still] = page.locator("#account-menu .menu-panel").evaluate(script)
        context.close()
    assert seconds == {False: "0.12s", True: "0.01s"}


def test_skip_link_is_the_first_stop_and_leads_past_the_navigation(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/account")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_phone_has_its_navigation_at_the_bottom_in_reach_of_a_thumb(phone: Page, site: PagesSite) -> None:
    phone.goto(f"{site.origin}/hosts")
    assert not scrolls_sideways(phone)
    links = phone.locator(".top-nav a:visible")
    expect(phone.locator(".top-nav [aria-current=page]")).to_have_text("Hosts")
    for link in links.all():
        box = link.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44
        assert box["y"] + box["height"] <= SMALL[1]
        clipped = "one => one.querySelector('span').scrollWidth > one.clientWidth"
        assert not link.evaluate(clipped)
    phone.locator("#account-menu summary").click()
    assert not scrolls_sideways(phone)
    box = phone.locator("#account-menu .menu-panel").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= SMALL[0]
    assert_accessible(phone)
    links.first.click()
    expect(phone).to_have_url(f"{site.origin}/sandboxes")


def test_tab_and_header_say_how_many_need_a_person(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    sessions = [site.running(), site.running()]
    page.goto(f"{site.origin}/sandboxes")
    icon, count = page.locator("link[rel=icon]"), page.locator(".top-nav .count")
    expect(page.locator("[data-session]").first).to_be_visible()
    own = icon.get_attribute("href")
    helps, robot = (
        site.store.help(site.tenant),
        Principal(id="key:robot", tenant=site.tenant, role=Role.ADMIN, via="key"),
    )
    for session in sessions:
        helps.ask(session.id, "a captcha", robot)
    expect(count).to_have_text("2")
    expect(page).to_have_title(re.compile(r"^\(2\) .*Deskfleet$"))
    expect(icon).to_have_attribute("href", re.compile("^data:image/png"))
    other = page.context.new_page()
    other.goto(f"{site.origin}/hosts")
    expect(other).to_have_title("(2) Hosts · Deskfleet")
    assert_accessible(other)
    for session in sessions:
        helps.end(session.id, robot)
    expect(count).to_be_empty()
    expect(icon).to_have_attribute("href", own or "")
    expect(page).not_to_have_title(re.compile(r"^\("))
    assert complaints.heard == []


def test_tab_says_that_the_server_does_not_answer(page: Page, site: PagesSite) -> None:
    site.running()
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator("[data-session]").first).to_be_visible()
    title = page.title()
    site.edge.go_silent()
    expect(page).to_have_title(f"Offline · {title}")
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("^data:image/png"))
    site.edge.silent = False
    expect(page).to_have_title(title, timeout=20_000)


@pytest.mark.parametrize("place", ["wall", "tasks", "documents"])
def test_every_page_with_events_says_at_once_that_they_broke_off(
    page: Page, site: PagesSite, place: str
) -> None:
    with page.expect_response("**/api/v1/events"):
        page.goto(f"{site.origin}/{place}")
    title = page.title()
    site.edge.go_silent()
    expect(page).to_have_title(f"Offline · {title}")
    site.edge.silent = False
