"""Who has control, as pages show it and take it: two browsers, keyboard alone, a phone, a loser's page.

Stand-in: `tests.pages.edge`, which joins streams as the relay does, but lets every input pass: what
reaches the desktop, the page sent because it takes itself to be in control.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import (
    PHONE,
    Complaints,
    add_sign_in,
    canvas_colours,
    new_context,
    scrolls_sideways,
    wait_for_picture,
)
from tests.pages.site import PagesSite
from tests.pages.test_viewer_element import soon
from tests.painted_desktop import PaintedDesktop
from viewer.leases import kind_of
from viewer.model import LeaseKind, Principal, Role, Session, Status
from viewer.people import NewPerson

pytestmark = [pytest.mark.browser, pytest.mark.real]

STATE = ".lease-state"


@pytest.fixture
def session(site: PagesSite) -> Session:
    return site.running()


@pytest.fixture
def worked_on(site: PagesSite) -> Session:
    """A desktop on which an agent may be at work."""
    return site.running(agent="a-1")


def robot(site: PagesSite) -> Principal:
    key = site.store.accounts.principal_of_key(site.new_key(Role.OPERATOR))
    assert key is not None
    return key


def agent_takes(site: PagesSite, session: Session, reason: str | None = None) -> Principal:
    who = robot(site)
    site.store.leases.take(session, who, name="openclaw", kind=kind_of(who), reason=reason, seconds=60)
    return who


@pytest.fixture
def browsers(browser: Browser, site: PagesSite) -> Iterator[_Browsers]:
    opened = _Browsers(browser, site)
    yield opened
    opened.close()


class _Browsers:
    """Browsers in each of which somebody is signed in."""

    def __init__(self, browser: Browser, site: PagesSite) -> None:
        self._browser, self._site = browser, site
        self._contexts = [new_context(browser)]

    def of(
        self, name: str, session: Session, role: Role = Role.OPERATOR, size: tuple[int, int] = (1280, 800)
    ) -> Page:
        """His page of the desktop, with its picture on it."""
        person = self._site.store.people(self._site.tenant).add(
            NewPerson(login=f"{name.lower()}.{self._site.tenant}", name=name, role=role), by="tests"
        )
        cookie = self._site.store.accounts.sign_in_person(person.id, address=None, user_agent=None)
        context = new_context(self._browser, size=size)
        self._contexts.append(context)
        add_sign_in(context, self._site.origin, str(cookie))
        page = context.new_page()
        page.goto(f"{self._site.origin}/sandboxes/{session.id}")
        wait_for_picture(page)
        expect(page.locator(".viewer-cover")).to_be_hidden()
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def test_a_long_name_ends_in_an_ellipsis(browsers: _Browsers, site: PagesSite, worked_on: Session) -> None:
    who, name = robot(site), "openclaw" * 12
    site.store.leases.take(worked_on, who, name=name, kind=kind_of(who), reason=None, seconds=60)
    label = browsers.of("Bob", worked_on).locator(f"{STATE} .badge > :last-child")
    expect(label).to_have_text(f"Agent {name} works")
    assert label.evaluate("label => label.scrollWidth > label.clientWidth")
    assert label.evaluate("label => getComputedStyle(label).textOverflow") == "ellipsis"


def test_all_see_at_once_who_has_control_and_a_person_takes_it_from_the_agent(
    browsers: _Browsers, site: PagesSite, worked_on: Session
) -> None:
    bob = browsers.of("Bob", worked_on)
    wanda = browsers.of("Wanda", worked_on, Role.WATCHER)
    expect(wanda.locator(STATE)).to_have_text("Nobody has control")
    agent_takes(site, worked_on, "fills in a form")
    for page in (bob, wanda):
        expect(page.locator(STATE)).to_have_text("Agent openclaw works")
        expect(page.locator(".lease-reason")).to_have_text("fills in a form")
    expect(wanda.locator(".lease button")).to_have_count(0)
    bob.get_by_role("button", name="Take control").click()
    expect(bob.locator(STATE)).to_have_text("You have control")
    expect(wanda.locator(STATE)).to_have_text("Bob has control")
    bob.get_by_role("button", name="Give back").click()
    for page in (bob, wanda):
        expect(page.locator(STATE)).to_have_text("Nobody has control")


def test_one_asks_and_the_other_gives(browsers: _Browsers, worked_on: Session) -> None:
    bob, mara = browsers.of("Bob", worked_on), browsers.of("Mara", worked_on)
    bob.get_by_role("button", name="Take control").click()
    expect(mara.locator(STATE)).to_have_text("Bob has control")
    mara.get_by_role("button", name="Ask for control").click()
    expect(mara.get_by_role("button", name="Stop asking")).to_be_visible()
    bob.get_by_role("button", name="Give to Mara").click()
    expect(mara.locator(STATE)).to_have_text("You have control")
    expect(bob.locator(STATE)).to_have_text("Mara has control")
    expect(bob.locator(".lease-news")).to_have_text("Mara has taken control.")


def test_a_click_takes_a_desktop_that_nobody_controls_but_not_an_agents(
    browsers: _Browsers, site: PagesSite, session: Session, worked_on: Session
) -> None:
    bob = browsers.of("Bob", session)
    bob.locator(".viewer-stage canvas").click()
    expect(bob.locator(STATE)).to_have_text("You have control")
    bob.goto(f"{site.origin}/sandboxes/{worked_on.id}")
    wait_for_picture(bob)
    expect(bob.locator(STATE)).to_have_text("Nobody has control")
    bob.locator(".viewer-stage canvas").click()
    bob.keyboard.press("a")
    assert site.store.leases.of(worked_on.id).number == 0


def test_without_control_nothing_that_is_typed_goes_to_the_desktop(
    browsers: _Browsers, desktop: PaintedDesktop, worked_on: Session
) -> None:
    bob = browsers.of("Bob", worked_on)
    canvas = bob.locator(".viewer-stage canvas")
    canvas.click(position={"x": 30, "y": 30})
    bob.keyboard.down("a")
    assert not soon(bob, lambda: desktop.keys_held() > 0, seconds=0.5)
    bob.keyboard.up("a")
    bob.get_by_role("button", name="Take control").click()
    expect(bob.locator(STATE)).to_have_text("You have control")
    bob.keyboard.down("b")
    assert soon(bob, lambda: desktop.keys_held() == 1)
    # What he holds down is let go when he gives it back.
    bob.get_by_role("button", name="Give back").click()
    assert soon(bob, lambda: desktop.keys_held() == 0)


def test_who_loses_control_goes_on_watching_at_once_over_his_last_picture(
    browsers: _Browsers, site: PagesSite, session: Session
) -> None:
    bob = browsers.of("Bob", session)
    bob.get_by_role("button", name="Take control").click()
    expect(bob.locator(STATE)).to_have_text("You have control")
    mara = Principal(id="person:mara", tenant=site.tenant, role=Role.ADMIN, via="cookie", sign_in="b1")
    site.store.leases.take(
        session, mara, name="Mara", kind=LeaseKind.PERSON, reason=None, seconds=60, force=True
    )
    opened = site.edge.opened
    bob.evaluate(
        "() => { const frame = document.querySelector('.viewer-last-frame');"
        " const look = () => { window.keptFrame ||= !frame.hidden; };"
        " new MutationObserver(look).observe(frame, {attributes: true}); }"
    )
    site.edge.cut(4423, "Mara has taken control")
    expect(bob.locator(STATE)).to_have_text("Mara has control")
    expect(bob.locator(".lease-news")).to_have_text("Mara has taken control.")
    expect(bob.locator(".viewer-cover")).to_be_hidden()
    bob.wait_for_function("() => window.keptFrame")
    wait_for_picture(bob)
    assert site.edge.opened == opened + 1
    assert canvas_colours(bob) > 4
    expect(bob.locator("[data-control=clipboard]")).to_be_disabled()


def test_an_admin_may_insist_and_an_operator_is_not_offered_to(browsers: _Browsers, session: Session) -> None:
    bob = browsers.of("Bob", session)
    bob.get_by_role("button", name="Take control").click()
    mara = browsers.of("Mara", session)
    expect(mara.locator(".lease button")).to_have_text(["Ask for control"])
    ada = browsers.of("Ada", session, Role.ADMIN)
    ada.get_by_role("button", name="Take anyway").click()
    expect(ada.locator(STATE)).to_have_text("You have control")
    expect(bob.locator(STATE)).to_have_text("Ada has control")


def test_all_of_it_works_by_keyboard_alone(browsers: _Browsers, worked_on: Session) -> None:
    bob = browsers.of("Bob", worked_on)
    take = bob.get_by_role("button", name="Take control")
    take.focus()
    bob.keyboard.press("Enter")
    expect(bob.locator(STATE)).to_have_text("You have control")
    # The desktop has the keyboard now; the way back to the page is the usual one.
    expect(bob.locator(".viewer-stage canvas")).to_be_focused()
    bob.keyboard.press("Control+Alt+Home")
    give_back = bob.get_by_role("button", name="Give back")
    for _ in range(12):
        if give_back.evaluate("button => button === document.activeElement"):
            break
        bob.keyboard.press(
            "Shift+Tab" if bob.evaluate("document.activeElement.tagName") == "CANVAS" else "Tab"
        )
    expect(give_back).to_be_focused()
    bob.keyboard.press("Enter")
    expect(bob.locator(STATE)).to_have_text("Nobody has control")


def test_it_fits_on_a_phone(browsers: _Browsers, site: PagesSite, session: Session) -> None:
    phone = browsers.of("Bob", session, size=PHONE)
    agent_takes(site, session, "a reason that is a good deal longer than a phone is wide, all in all")
    expect(phone.locator(STATE)).to_have_text("Agent openclaw works")
    assert not scrolls_sideways(phone)
    phone.get_by_role("button", name="Take control").click()
    expect(phone.locator(STATE)).to_have_text("You have control")


def test_what_is_refused_is_said_beside_the_buttons(
    browsers: _Browsers, site: PagesSite, session: Session
) -> None:
    bob = browsers.of("Bob", session)
    site.edge.silent = True
    bob.get_by_role("button", name="Take control").click()
    expect(bob.locator(".lease-error")).not_to_be_empty()
    site.edge.silent = False
    bob.get_by_role("button", name="Take control").click()
    expect(bob.locator(STATE)).to_have_text("You have control")
    expect(bob.locator(".lease-error")).to_be_empty()


def test_a_visitor_by_a_link_sees_it_without_a_name_and_stays_on_his_page(
    browsers: _Browsers, browser: Browser, site: PagesSite, session: Session
) -> None:
    make = """way => fetch(way, {
        method: "POST", headers: {"Content-Type": "application/json"}, body: "{}",
    }).then(answer => answer.json())"""
    made = browsers.of("Bob", session).evaluate(make, f"/api/v1/sessions/{session.id}/shares")
    context = new_context(browser)
    page = context.new_page()
    page.goto(made["url"])
    page.wait_for_url("**/shared/*")
    wait_for_picture(page)
    expect(page.locator(STATE)).to_have_text("Nobody has control")
    agent_takes(site, session)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.locator(STATE)).to_have_text("An agent works")
    expect(page.locator(".lease button")).to_have_count(0)
    assert "/shared/" in page.url
    context.close()


def test_a_desktop_that_has_ended_has_no_such_row(
    browsers: _Browsers, site: PagesSite, session: Session
) -> None:
    bob = browsers.of("Bob", session)
    complaints = Complaints(bob)
    site.store.fleet.transition(session.id, Status.TERMINATED, reason="expired")
    expect(bob.locator(".lease")).to_be_hidden()
    assert complaints.heard == []


def test_desktop_that_is_opened_while_it_is_made_can_be_taken_once_it_runs(
    browsers: _Browsers, site: PagesSite, session: Session
) -> None:
    """After another one was shown, as on a page where somebody asks for a new desktop."""
    bob = browsers.of("Bob", session)
    expect(bob.get_by_role("button", name="Take control")).to_be_visible()
    site.worker.creates = False
    made = site.creating()
    bob.locator(f"[data-session='{made.id}'] a").first.click()
    expect(bob.locator(".viewer-cover")).to_contain_text("Creating your desktop")
    site.worker.creates = True
    wait_for_picture(bob)
    expect(bob.get_by_role("button", name="Take control")).to_be_visible()
