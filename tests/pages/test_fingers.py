"""Every page on the narrowest phone that is common: it fits, and a finger hits each of its controls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import PHONE, new_context, scrolls_sideways, sign_in, wait_for_picture
from tests.pages.documents import one_of_each
from tests.pages.site import PagesSite
from tests.pages.test_hosts import FLEET, fleet_of
from viewer.deliveries.store import NewEndpoint
from viewer.model import DocumentType, Principal, Role
from viewer.settings_sections import SECTIONS

pytestmark = [pytest.mark.browser, pytest.mark.real]

NARROW = (360, 740)
TALL_ENOUGH = 44
# Links within a text or a row are as tall as its words; what is pressed is a button, a tab, a field, a place.
SMALL = """tallEnough => [...document.querySelectorAll(
    "button, summary, select, textarea, input:not([type=checkbox], [type=radio], [type=hidden]), "
    + "[role=tab], a.button, a.icon-button, nav a, label.check"
  )]
  .filter(one => one.checkVisibility({visibilityProperty: true}))
  .filter(one => !one.closest("[inert], .visually-hidden, .link-button"))
  .map(one => ({one, box: one.getBoundingClientRect()}))
  .filter(({box}) => box.width > 1 && Math.round(box.height) < tallEnough)
  .map(({one, box}) => `${one.tagName} ${one.className} "${(one.ariaLabel ?? one.innerText).trim()}"`
    + ` ${Math.round(box.width)}x${Math.round(box.height)}`)
"""
LOADED = "() => ![...document.querySelectorAll('.skeleton')].some(one => one.checkVisibility())"


@pytest.fixture
def phone(browser: Browser, site: PagesSite) -> Iterator[Page]:
    context = new_context(browser, size=NARROW, still=True)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    yield page
    context.close()


def test_every_page_fits_and_every_control_is_large_enough(phone: Page, site: PagesSite) -> None:
    session = site.running(task="checkout-flow", agent="an-agent-with-quite-a-long-name")
    who = Principal(id="key:robot", tenant=site.tenant, role=Role.OPERATOR, via="key")
    site.store.help(site.tenant).ask(session.id, "Which of the two accounts is to pay?", who)
    made = one_of_each(site, "checkout-flow")
    site.store.webhooks(site.tenant).create(
        NewEndpoint(
            url="https://example.com/a", label="alarm", types=(), secret_sealed="-", created_by=who.id
        )
    )
    site.store.webhook_secrets.add(site.tenant, "openclaw on box7", "-", by=who.id)
    fleet_of(phone, FLEET)
    paths = [
        "/sandboxes", f"/sandboxes/{session.id}", f"/view/{session.id}", f"/diagnosis/{session.id}", "/wall",
        "/tasks", "/tasks/checkout-flow", "/tasks/checkout-flow/panel", "/documents",
        f"/documents/{made[DocumentType.MARKDOWN].id}", f"/documents/{made[DocumentType.CODE].id}",
        "/hosts", "/account", "/settings", *(f"/settings/{section.name}" for section in SECTIONS),
    ]  # fmt: skip
    found = {}
    for path in paths:
        phone.goto(site.origin + path)
        if "/view/" in path or path == f"/sandboxes/{session.id}":
            wait_for_picture(phone)
        phone.wait_for_function(LOADED)
        small = phone.evaluate(SMALL, TALL_ENOUGH)
        for width in (NARROW[0], PHONE[0]):
            phone.set_viewport_size({"width": width, "height": NARROW[1]})
            if scrolls_sideways(phone):
                small.append(f"scrolls sideways at {width}")
        phone.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
        if small:
            found[path] = sorted(set(small))
    assert found == {}
