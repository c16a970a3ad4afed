"""The Sandboxes page in a real browser against the real viewer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import PHONE, Complaints, new_context, scrolls_sideways, sign_in, wait_for_picture
from tests.pages.axe import assert_accessible
from tests.pages.site import PagesSite
from viewer.model import HostStatus, Principal, Role, Session, Status, utcnow

pytestmark = [pytest.mark.browser, pytest.mark.real]

ROW = "li[data-session]"
JSON = "application/json"


def row_of(page: Page, session: Session) -> Locator:
    return page.locator(f"{ROW}[data-session='{session.id}']")


def expect_order(page: Page, *sessions: Session) -> None:
    expect(page.locator(f"{ROW} .row-id")).to_have_text([session.id[:8] for session in sessions])


@pytest.fixture
def second(browser: Browser, site: PagesSite) -> Iterator[Page]:
    """Another browser of the same tenant."""
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    yield page
    context.close()


def test_an_empty_list_says_what_to_do(page: Page, site: PagesSite, complaints: Complaints) -> None:
    page.goto(site.origin)
    expect(page.locator("[data-for=empty]")).to_contain_text("No desktops yet")
    expect(page.locator(".viewer-cover")).to_contain_text("No desktop selected")
    assert complaints.heard == []


def test_a_new_desktop_opens_by_itself_and_shows_its_picture(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    site.worker.creates = False
    page.goto(f"{site.origin}/sandboxes")
    page.get_by_role("button", name="New desktop").first.click()
    page.get_by_label("Image").select_option("chrome")
    page.get_by_label("Resolution").select_option("1440x900")
    page.get_by_label("Lifetime").select_option("2 hours")
    page.get_by_role("button", name="Create desktop").click()
    expect(page.locator(".viewer-cover")).to_contain_text("Creating your desktop")
    expect(page.locator(".cover-clock")).to_have_text("1 s", timeout=4000)
    [session] = site.sessions()
    assert (session.image, session.resolution, session.ttl_seconds) == ("chrome", "1440x900", 7200)
    expect(page).to_have_url(f"{site.origin}/sandboxes/{session.id}")
    site.worker.creates = True
    wait_for_picture(page)
    expect(page.locator(".viewer-bar .badge")).to_have_text("Running")
    expect(page).to_have_title(f"Running · {session.id[:8]} · Deskfleet")
    assert complaints.heard == []


def test_the_list_follows_what_another_browser_does(page: Page, second: Page, site: PagesSite) -> None:
    for each in (page, second):
        each.goto(f"{site.origin}/sandboxes")
        expect(each.locator("[data-for=empty]")).to_be_visible()
    page.get_by_role("button", name="New desktop").first.click()
    page.get_by_role("button", name="Create desktop").click()
    expect(second.locator(ROW)).to_have_count(1, timeout=1000)
    expect(second.locator(f"{ROW} .badge")).to_have_text("Running")
    page.locator("[data-control=terminate]").click()
    page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    expect(page.locator(f"{ROW} .badge")).to_have_text("Terminated")
    expect(second.locator(f"{ROW} .badge")).to_have_text("Terminated", timeout=1000)
    expect(second.locator(".viewer-cover")).to_contain_text("The desktop has ended")


def test_rows_show_status_image_host_and_work(page: Page, site: PagesSite) -> None:
    session = site.running(task="checkout-flow", agent="atlas")
    page.goto(f"{site.origin}/sandboxes")
    row = page.locator(ROW)
    for text in (session.id[:8], "Running", "desktop · here", "Task checkout-flow · Agent atlas", "just now"):
        expect(row).to_contain_text(text)


def test_a_deep_link_opens_its_session_and_back_leads_back(page: Page, site: PagesSite) -> None:
    first, other = site.running(), site.running()
    page.goto(f"{site.origin}/sandboxes/{first.id}")
    expect(page.locator(".viewer-title")).to_have_text(first.id[:8])
    page.locator(f"{ROW}[data-session='{other.id}'] a").click()
    expect(page).to_have_url(f"{site.origin}/sandboxes/{other.id}")
    expect(page.locator(".viewer-title")).to_have_text(other.id[:8])
    expect(page.locator("a[aria-current=true]")).to_contain_text(other.id[:8])
    page.go_back()
    expect(page.locator(".viewer-title")).to_have_text(first.id[:8])
    page.reload()
    expect(page.locator(".viewer-title")).to_have_text(first.id[:8])


def test_the_first_active_session_opens_by_itself_and_so_does_the_next(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/sandboxes")
    first = site.running()
    expect(page.locator(".viewer-title")).to_have_text(first.id[:8])
    site.store.fleet.transition(first.id, Status.TERMINATED)
    expect(page.locator(".viewer-cover")).to_contain_text("The desktop has ended")
    second = site.running()
    expect(page.locator(".viewer-title")).to_have_text(second.id[:8])


def test_the_filter_hides_what_has_ended(page: Page, site: PagesSite) -> None:
    ended, live = site.running(), site.running()
    site.store.fleet.transition(ended.id, Status.ERROR, error_message="The image is missing.")
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator(ROW)).to_have_count(2)
    # What has just failed comes first, with its reason.
    expect(page.locator(ROW).first).to_contain_text("Error")
    expect(page.locator(f"{ROW} .row-why")).to_contain_text(["The image is missing.", ""])
    page.get_by_role("radio", name="Active").check()
    expect(page.locator(ROW)).to_have_count(1)
    expect(page).to_have_url(re.compile("status=creating&status=running&status=paused"))
    expect(page.locator("#list-count")).to_have_text("1 active")
    site.store.fleet.transition(live.id, Status.TERMINATED)
    expect(page.locator("[data-for=filtered]")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(ROW)).to_have_count(2)
    page.go_back()
    expect(page.locator("[data-for=filtered]")).to_be_visible()


def test_a_long_list_comes_in_pages_but_whatever_lives_is_on_the_first(page: Page, site: PagesSite) -> None:
    site.worker.creates = False
    alive = site.creating()
    for _ in range(60):
        site.store.fleet.transition(site.creating().id, Status.TERMINATED)
    page.goto(f"{site.origin}/sandboxes")
    first = page.locator(ROW).first
    expect(first).to_contain_text(alive.id[:8])
    expect(first).to_have_attribute("aria-setsize", "51")
    # Only those near the window are there.
    assert page.locator(ROW).count() < 40
    page.get_by_role("button", name="Show older").click()
    expect(page.locator(ROW).last).to_have_attribute("aria-setsize", "61")
    expect(page.get_by_role("button", name="Show older")).to_be_hidden()
    page.locator(".list-scroll").evaluate("node => node.scrollTo(0, node.scrollHeight)")
    expect(page.locator(f"{ROW}[aria-posinset='61']")).to_be_in_viewport()


def test_arrow_keys_walk_the_list_and_enter_opens(page: Page, site: PagesSite) -> None:
    older, newer = site.running(), site.running()
    page.goto(f"{site.origin}/sandboxes")
    page.locator(f"{ROW}[data-session='{newer.id}'] a").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.origin}/sandboxes/{older.id}")


def test_key_counts_in_the_moment_in_which_a_dialog_closes(page: Page, site: PagesSite) -> None:
    """Until the next frame the focus is on what was in it."""
    only = site.running(task="one")
    page.goto(f"{site.origin}/sandboxes")
    expect(row_of(page, only)).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Next desktop")
    page.evaluate("""() => {
        document.querySelector("dialog[open]").close();
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "j", bubbles: true}));
    }""")
    expect(row_of(page, only).locator("a")).to_be_focused()


def test_the_list_is_worked_by_keys_alone(page: Page, site: PagesSite) -> None:
    older, newer = site.running(task="one"), site.running(task="two")
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator(ROW)).to_have_count(2)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Next desktop")
    page.keyboard.press("Escape")
    for _ in range(2):
        page.keyboard.press("j")
    expect(row_of(page, older).locator("a")).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.origin}/sandboxes/{newer.id}")
    page.keyboard.press("x")
    expect(page.locator("[data-chosen][role=status]")).to_have_text("1 chosen")
    page.keyboard.press("Escape")
    expect(page.locator("#bulk")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("one")
    expect(page.locator(ROW)).to_have_count(1)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.origin}/sandboxes/{older.id}?q=one")


def test_filters_are_in_the_address_and_go_on_holding(page: Page, site: PagesSite) -> None:
    site.worker.creates = False
    one, other = site.creating(task="one", agent="atlas"), site.creating(task="two", image="chrome")
    page.goto(f"{site.origin}/sandboxes?task_id=one&status=creating")
    expect(page.locator(ROW)).to_have_count(1)
    expect(page.locator(".chip")).to_have_text(["Statuscreating", "Taskone"])
    # One that matches now comes, and one that does not any more leaves.
    another = site.creating(task="one")
    expect(page.locator(ROW)).to_have_count(2)
    site.store.fleet.transition(one.id, Status.TERMINATED)
    expect(page.locator(ROW)).to_have_count(1)
    expect(row_of(page, another)).to_be_visible()
    page.get_by_role("button", name="Without status creating").click()
    expect(page.locator(ROW)).to_have_count(2)
    expect(page).to_have_url(f"{site.origin}/sandboxes?task_id=one")
    page.get_by_role("button", name="Without task one").click()
    expect(page.locator(ROW)).to_have_count(3)
    page.go_back()
    expect(page.locator(ROW)).to_have_count(2)
    page.locator("#filter-menu summary").click()
    panel = page.locator(".filter-panel")
    expect(panel.get_by_label("Task")).to_have_value("one")
    panel.get_by_label("Task").fill("")
    panel.get_by_label("Image").select_option("chrome")
    expect(page.locator(ROW)).to_have_count(1)
    expect(row_of(page, other)).to_be_visible()
    page.reload()
    expect(page.locator(ROW)).to_have_count(1)


def test_text_is_looked_for_in_what_has_ended_long_ago_too(page: Page, site: PagesSite) -> None:
    site.worker.creates = False
    wanted = site.creating(task="needle")
    for session in [wanted, *(site.creating() for _ in range(55))]:
        site.store.fleet.transition(session.id, Status.TERMINATED)
    page.goto(f"{site.origin}/sandboxes")
    page.get_by_label("Search").fill("NEED terminated")
    expect(page.locator(ROW)).to_have_count(1)
    expect(row_of(page, wanted)).to_be_visible()
    page.get_by_label("Search").fill("")
    expect(page.locator(ROW).first).to_have_attribute("aria-setsize", "50")
    expect(page).to_have_url(f"{site.origin}/sandboxes")


def test_other_orders_are_kept_while_things_change(page: Page, site: PagesSite) -> None:
    site.worker.creates = False
    first, second, third = (site.creating() for _ in range(3))
    page.goto(f"{site.origin}/sandboxes")
    page.get_by_label("Order").select_option("Changed last")
    expect_order(page, third, second, first)
    site.store.tenant(site.tenant).set_labels(first.id, {"a": "b"})
    expect_order(page, first, third, second)
    page.get_by_label("Order").select_option("Oldest first")
    expect_order(page, first, second, third)
    page.get_by_label("Order").select_option("Ends next")
    until = utcnow() + timedelta(minutes=20)
    site.store.tenant(site.tenant).renew(second.id, until, by="tests")
    expect_order(page, second, first, third)
    site.store.fleet.transition(first.id, Status.TERMINATED)
    expect_order(page, second, third)


def test_what_needs_a_person_comes_first_and_says_why(page: Page, site: PagesSite) -> None:
    calling, running = site.running(task="one"), site.running()
    page.goto(f"{site.origin}/sandboxes")
    expect_order(page, running, calling)
    who = Principal(id="key:agent", tenant=site.tenant, role=Role.OPERATOR, via="key")
    site.store.help(site.tenant).ask(calling.id, "Which of the two accounts?", who)
    expect_order(page, calling, running)
    expect(row_of(page, calling)).to_contain_text("Needs a person")
    expect(row_of(page, calling).locator(".row-why")).to_have_text("Which of the two accounts?")
    expect(page.locator("#list-filter .count")).to_have_text("1")
    page.get_by_role("radio", name="Needs a person").check()
    expect_order(page, calling)
    site.store.help(site.tenant).end(calling.id, who)
    expect(page.locator("[data-for=filtered]")).to_be_visible()


def test_several_are_renewed_and_ended_at_once_each_with_its_outcome(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    sessions = [site.running() for _ in range(5)]
    ends = [session.expires_at for session in sessions]
    page.goto(f"{site.origin}/sandboxes")
    page.get_by_role("button", name="Choose several").click()
    boxes = page.get_by_role("checkbox", name="Choose ")
    boxes.first.check()
    boxes.nth(3).click(modifiers=["Shift"])
    expect(page.locator("#bulk")).to_contain_text("4 chosen")
    page.get_by_role("button", name="Renew").click()
    page.get_by_role("button", name="Renew 4").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    renewed = [site.store.fleet.get(session.id).expires_at for session in sessions]
    assert [was != now for was, now in zip(ends, renewed, strict=True)] == [False, True, True, True, True]
    page.get_by_role("button", name="Choose several").click()
    page.get_by_role("button", name="All", exact=True).click()
    page.locator("[data-act=terminate]").click()
    page.route(f"**/api/v1/sessions/{sessions[2].id}", lambda route: route.fulfill(status=503, body=""))
    page.get_by_role("button", name="Terminate 5").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".bulk-status")).to_have_text("4 desktops terminated. 1 desktop failed:")
    expect(dialog.locator("li")).to_contain_text(sessions[2].id[:8])
    page.unroute_all()
    dialog.get_by_role("button", name="Terminate 1").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(f"{ROW} .badge")).to_have_text(["Terminated"] * 5)
    assert complaints.but("503") == []


def test_ten_thousand_rows_are_walked_through_without_being_there(page: Page, site: PagesSite) -> None:
    """As if somebody had gone on to older ones two hundred times."""
    session = site.running()
    page.goto(f"{site.origin}/sandboxes")
    known = page.evaluate("async id => (await fetch(`/api/v1/sessions/${id}`)).json()", session.id)
    ended = {**known, "status": "terminated", "created_at": "2026-01-01T00:00:00Z"}
    many = [{**ended, "id": f"{number:08}", "task_id": f"t-{number % 7}"} for number in range(10_000)]
    answer = json.dumps({"items": [known, *many], "next_cursor": None})
    page.route("**/api/v1/sessions?limit=50", lambda route: route.fulfill(body=answer, content_type=JSON))
    page.goto(f"{site.origin}/sandboxes")
    # So many take a while to come, on a busy machine.
    expect(page.locator(ROW).first).to_have_attribute("aria-setsize", "10001", timeout=30_000)
    assert page.locator(ROW).count() < 60
    page.locator(".list-scroll").evaluate("node => node.scrollTo(0, node.scrollHeight / 2)")
    expect(page.locator(f"{ROW}[aria-posinset='5001']")).to_be_in_viewport()
    assert page.locator(ROW).count() < 60
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator(f"{ROW}[aria-posinset='3'] a")).to_be_focused()
    expect(page.locator(f"{ROW}[aria-posinset='3']")).to_be_in_viewport()


def test_a_silent_host_is_named_as_such(page: Page, site: PagesSite) -> None:
    session = site.running()
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    site.store.fleet.record_host_status("here", HostStatus.UNREACHABLE)
    expect(page.locator(f"{ROW} .badge")).to_have_text("Host unreachable")
    expect(page.locator(".viewer-notice")).to_contain_text("Host here does not answer")
    site.store.fleet.record_host_status("here", HostStatus.OK)
    expect(page.locator(f"{ROW} .badge")).to_have_text("Running")


def test_a_queued_session_shows_its_place_and_how_it_moves_up(page: Page, site: PagesSite) -> None:
    site.worker.creates = False
    first, second = site.queued(), site.queued()
    page.goto(f"{site.origin}/sandboxes/{second.id}")
    cover = page.locator(".viewer-cover")
    expect(cover).to_contain_text("Waiting in line")
    expect(cover).to_contain_text("Place 2 in line.")
    expect(page.locator(f"{ROW}[data-session='{second.id}'] .badge")).to_have_text("Queued")
    # An event, which does not know the place.
    site.store.tenant(site.tenant).set_labels(second.id, {"team": "red"})
    page.wait_for_timeout(500)
    expect(cover).to_contain_text("Place 2 in line.", timeout=1)
    site.store.fleet.transition(first.id, Status.TERMINATED)
    expect(cover).to_contain_text("It is the next in line.")
    site.store.fleet.update(second.id, host="here", status_reason="waiting for the first frame")
    expect(cover).to_contain_text("Waiting for the first frame")
    expect(cover).to_contain_text("Creating your desktop")


def test_every_end_of_a_desktop_is_shown_and_counts_down(page: Page, site: PagesSite) -> None:
    session = site.running(idle_seconds=63, lifetime_seconds=5400)
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    unused = page.locator("[data-end='Ends if unused']")
    expect(unused).to_contain_text("in 1 min 0")
    expect(unused).to_have_attribute("data-soon", "false")
    expect(page.locator("[data-end='Ends']")).to_contain_text("in 59 min")
    expect(page.locator("[data-end='At the latest']")).to_contain_text("in 1 h")
    expect(unused).to_contain_text("in 58 s", timeout=10_000)
    expect(unused).to_have_attribute("data-soon", "true")
    expect(page.locator(f"{ROW} .row-end")).to_contain_text("unused, ends in 5")
    site.store.fleet.transition(session.id, Status.PAUSED)
    expect(unused).to_have_count(0)
    expect(page.locator(f"{ROW} .row-end")).to_be_empty()


def test_what_the_server_refuses_is_said_in_the_dialog(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/sandboxes")
    page.get_by_role("button", name="New desktop").first.click()
    page.locator("[name=image] option").first.evaluate("option => option.value = 'nonsense'")
    page.get_by_role("button", name="Create desktop").click()
    expect(page.locator("#new-desktop [data-field=image]")).to_contain_text("'nonsense' is not known")
    expect(page.get_by_label("Image")).to_be_focused()
    expect(page.locator("#new-desktop .form-error")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#new-desktop")).to_be_hidden()


def test_a_lost_server_shows_a_banner_and_the_list_catches_up(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator("[data-for=empty]")).to_be_visible()
    site.edge.go_silent()
    expect(page.locator("#banner")).to_contain_text("Reconnecting", timeout=8000)
    session = site.running()
    site.edge.silent = False
    expect(page.locator(ROW)).to_have_count(1, timeout=12_000)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator(".viewer-title")).to_have_text(session.id[:8])


def test_a_viewer_that_is_started_again_is_found_again_with_the_filter(page: Page, site: PagesSite) -> None:
    session = site.running(task="one")
    site.running(task="two")
    page.goto(f"{site.origin}/sandboxes?task_id=one")
    expect(page.locator(ROW)).to_have_count(1)
    site.stop_viewer()
    expect(page.locator("#banner")).to_contain_text("Reconnecting", timeout=8000)
    expect(row_of(page, session)).to_contain_text("Running")
    site.store.fleet.transition(session.id, Status.TERMINATED)
    other = site.creating(task="one")
    site.start_viewer()
    expect(page.locator("#banner")).to_be_hidden(timeout=15_000)
    expect_order(page, other, session)
    expect(row_of(page, session)).to_contain_text("Terminated")


def test_the_list_comes_at_once_even_when_the_event_stream_is_refused(page: Page, site: PagesSite) -> None:
    session = site.running()
    site.edge.refuse_events = True
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator(ROW)).to_contain_text(session.id[:8])
    expect(page.locator("#banner")).to_contain_text("Reconnecting")
    site.edge.refuse_events = False
    expect(page.locator("#banner")).to_be_hidden(timeout=12_000)


def test_a_browser_without_network_says_so(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator("[data-for=empty]")).to_be_visible()
    page.context.set_offline(True)
    expect(page.locator("#banner")).to_contain_text("You are offline")
    page.context.set_offline(False)
    expect(page.locator("#banner")).to_be_hidden()


def test_names_from_agents_stay_text(page: Page, site: PagesSite, complaints: Complaints) -> None:
    hostile = "<img src=x onerror=alert(1)>\u202e&lt;"
    session = site.running(task=hostile, agent=hostile)
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    expect(page.locator(".row-work")).to_have_text(f"Task {hostile} · Agent {hostile}")
    expect(page.locator("[data-fact=task] dd")).to_have_text(hostile)
    assert complaints.heard == []


@pytest.mark.parametrize(
    ("size", "colours"), [((1440, 900), "light"), (PHONE, "dark")], ids=["wide", "phone"]
)
def test_every_state_of_the_list_can_be_read_by_everybody(
    browser: Browser, site: PagesSite, size: tuple[int, int], colours: Literal["light", "dark"]
) -> None:
    failed, calling = site.running(task="a"), site.running(task="b" * 200, agent="c" * 200)
    site.store.fleet.transition(failed.id, Status.ERROR, error_message="x" * 500)
    who = Principal(id="key:agent", tenant=site.tenant, role=Role.OPERATOR, via="key")
    site.store.help(site.tenant).ask(calling.id, "y" * 200, who)
    context = new_context(browser, size=size, colours=colours)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    page.goto(f"{site.origin}/sandboxes?status=running&status=error&host=here")
    expect_order(page, calling, failed)
    assert_accessible(page)
    assert not scrolls_sideways(page)
    page.locator("#filter-menu summary").click()
    expect(page.locator(".filter-panel").get_by_label("Agent")).to_be_visible()
    assert_accessible(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Choose several").click()
    page.get_by_role("button", name="All", exact=True).click()
    page.locator("[data-act=terminate]").click()
    expect(page.get_by_role("dialog")).to_contain_text("Terminate 1 desktop?")
    assert_accessible(page)
    page.keyboard.press("Escape")
    page.goto(f"{site.origin}/sandboxes?q=nowhere")
    expect(page.locator("[data-for=filtered]")).to_be_visible()
    assert_accessible(page)
    context.close()


def test_a_watcher_is_offered_nothing_that_would_be_refused(browser: Browser, site: PagesSite) -> None:
    session = site.running()
    context = new_context(browser)
    watcher = context.new_page()
    sign_in(watcher, site.origin, site.new_key(Role.WATCHER))
    watcher.goto(f"{site.origin}/sandboxes/{session.id}")
    expect(watcher.locator(".viewer-bar .badge")).to_have_text("Running")
    expect(watcher.get_by_role("button", name="New desktop")).to_have_count(0)
    expect(watcher.locator("[data-control=terminate]")).to_be_hidden()
    expect(watcher.locator("[data-control=clipboard]")).to_be_hidden()
    expect(watcher.locator(".viewer-bar")).to_contain_text("view only")
    context.close()


def test_on_a_phone_the_list_leads_to_the_viewer_and_back(browser: Browser, site: PagesSite) -> None:
    session = site.running(task="a-task-with-a-name-much-longer-than-any-phone-is-wide", agent="atlas")
    context = new_context(browser, size=PHONE)
    phone = context.new_page()
    sign_in(phone, site.origin, site.key)
    phone.goto(f"{site.origin}/sandboxes")
    expect(phone.locator(ROW)).to_be_visible()
    expect(phone.locator("sandbox-viewer")).to_be_hidden()
    assert not scrolls_sideways(phone)
    phone.locator(f"{ROW} a").tap()
    expect(phone).to_have_url(f"{site.origin}/sandboxes/{session.id}")
    expect(phone.locator(ROW)).to_be_hidden()
    wait_for_picture(phone)
    assert not scrolls_sideways(phone)
    phone.get_by_role("link", name="All sandboxes").tap()
    expect(phone.locator(ROW)).to_be_visible()
    phone.go_back()
    expect(phone.locator("sandbox-viewer")).to_be_visible()
    context.close()
