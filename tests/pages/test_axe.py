"""The helper finds what is wrong; every page that stands for itself, or in the header, has nothing of it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import PHONE, new_context, sign_in
from tests.pages.axe import assert_accessible, violations
from tests.pages.site import PagesSite

pytestmark = [pytest.mark.browser, pytest.mark.real]

OPEN = ("/signin", "/set-password", "/s")
SIGNED_IN = ("/account", "/nowhere")


def test_what_is_wrong_is_found_in_spite_of_the_policy(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/account")
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    [found] = violations(page)
    assert found.rule == "button-name"
    with pytest.raises(AssertionError, match="button-name"):
        assert_accessible(page)
    assert_accessible(page, but=("button-name",))


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), PHONE], ids=["wide", "phone"])
def test_pages_have_no_violations(
    browser: Browser, site: PagesSite, size: tuple[int, int], colours: str
) -> None:
    context = new_context(browser, size=size, colours="dark" if colours == "dark" else "light")
    page = context.new_page()
    for path in OPEN:
        page.goto(f"{site.origin}{path}")
        assert_accessible(page)
    sign_in(page, site.origin, site.key)
    site.running(task="checkout", agent="atlas")
    page.goto(f"{site.origin}/account")
    places = page.locator(".top-nav a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert "/sandboxes" in places
    for path in (*SIGNED_IN, *places):
        page.goto(f"{site.origin}{path}")
        # What the page asks for first is there, or it says why not.
        expect(page.locator(".skeleton:visible")).to_have_count(0)
        assert_accessible(page)
    context.close()
