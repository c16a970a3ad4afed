"""Nothing is found wrong on any page of work in any of its states, and all of the main ways are gone by
keyboard alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import PHONE, WIDE, new_context, sign_in, wait_for_picture
from tests.pages.axe import violations
from tests.pages.documents import one_of_each
from tests.pages.shots_work import take_work
from tests.pages.site import PagesSite
from tests.pages.test_viewer_element import soon
from tests.pages.test_wall import Pictures
from tests.painted_desktop import PaintedDesktop
from viewer.model import Principal, Role, Session, Status

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(300)]

POINTER = 'canvas[width="0"]'
"""What noVNC draws a desktop's pointer on for fingers: at the end of the body, and without anything on it."""
AWAY = "Control+Alt+Home"
"""From the desktop, which has the keyboard, back to the page."""


@pytest.mark.parametrize(("size", "colours"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide", "phone"])
def test_no_state_of_the_pages_has_violations(
    browser: Browser, site: PagesSite, size: tuple[int, int], colours: str
) -> None:
    """Those that the pictures are of."""
    context = new_context(browser, size=size, colours="dark" if colours == "dark" else "light", still=True)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    found: list[str] = []
    looked_at: list[str] = []

    def look(of: Page, state: str) -> None:
        looked_at.append(state)
        found.extend(f"{state}: {one}" for one in violations(of) if one.target != POINTER)

    take_work(page, site, look)
    context.close()
    assert len(looked_at) > 40
    assert not found, "\n".join(found)


def tab_to(page: Page, wanted: Locator, *, at_most: int = 60) -> None:
    """Press Tab until it has the focus."""
    for _ in range(at_most):
        page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError(f"{wanted} was not reached; {page.evaluate('document.activeElement.outerHTML')}")


def press(page: Page, wanted: Locator, key: str = "Enter") -> None:
    expect(wanted).to_be_visible()
    tab_to(page, wanted)
    page.keyboard.press(key)


def signed_in_by_keys(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/signin")
    press(page, page.get_by_role("button", name="Use an API key"))
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(site.key)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/sandboxes"))


def asked_for_help(site: PagesSite) -> Session:
    session = site.running(task="checkout", agent="atlas")
    who = Principal(id="key:robot", tenant=site.tenant, role=Role.OPERATOR, via="key")
    site.store.help(site.tenant).ask(session.id, "Which of the two accounts?", who)
    return session


def test_who_needs_help_is_found_and_helped_by_keys_alone(
    browser: Browser, site: PagesSite, desktop: PaintedDesktop
) -> None:
    session = asked_for_help(site)
    site.running(task="other")
    context = new_context(browser)
    page = context.new_page()
    signed_in_by_keys(page, site)
    tab_to(page, page.get_by_role("radio", name="All"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-session]")).to_have_count(1)
    press(page, page.locator(f"[data-session='{session.id}'] a").first)
    wait_for_picture(page)
    press(page, page.get_by_role("button", name="Take control"))
    expect(page.locator(".lease-state")).to_have_text("You have control")
    expect(page.locator(".viewer-stage canvas")).to_be_focused()
    page.keyboard.down("a")
    assert soon(page, lambda: desktop.keys_held() == 1)
    page.keyboard.up("a")
    page.keyboard.press(AWAY)
    press(page, page.get_by_role("button", name="Give back"))
    expect(page.locator(".lease-state")).to_have_text("Nobody has control")
    press(page, page.get_by_role("button", name="Done", exact=True))
    expect(page.get_by_role("region", name="Needs a person")).to_be_hidden()
    assert site.store.fleet.get(session.id).help_reason is None
    context.close()


def test_a_desktop_is_made_and_ended_by_keys_alone(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator("[data-for=empty]")).to_be_visible()
    page.keyboard.press("n")
    press(page, page.get_by_role("button", name="Create desktop"))
    wait_for_picture(page)
    [session] = site.sessions()
    press(page, page.locator("[data-control=terminate]"))
    dialog = page.get_by_role("dialog")
    press(page, dialog.get_by_role("button", name="Terminate"))
    expect(page.locator(".viewer-cover")).to_contain_text("The desktop has ended")
    assert site.store.fleet.get(session.id).status is Status.TERMINATED


def test_other_pages_are_gone_through_by_keys_alone(page: Page, site: PagesSite) -> None:
    Pictures(page)
    one_of_each(site, "report")
    [session] = site.sessions()
    page.goto(f"{site.origin}/sandboxes")
    wait_for_picture(page)
    press(page, page.locator(".top-nav").get_by_role("link", name="Wall"))
    press(page, page.locator("sandbox-tile .tile-open"))
    expect(page).to_have_url(f"{site.origin}/wall?live={session.id}")
    page.goto(f"{site.origin}/tasks")
    press(page, page.get_by_role("link", name="report"))
    expect(page).to_have_url(f"{site.origin}/tasks/report")
    expect(page.locator(".document-row")).to_have_count(6)
    press(page, page.locator(".document-row").first)
    expect(page.locator(".tray-names h2")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.tray")).to_be_hidden()
    page.goto(f"{site.origin}/settings")
    press(page, page.get_by_role("link", name="People"))
    expect(page).to_have_url(f"{site.origin}/settings/people")
    press(page, page.get_by_role("button", name="Add a person"))
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
