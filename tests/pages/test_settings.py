"""Settings, in a real browser: each thing that is done there counts outside, and stands in the audit log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import PHONE, WIDE, Complaints, new_context, scrolls_sideways, sign_in
from tests.pages.axe import assert_accessible
from tests.pages.site import PagesSite
from viewer.model import Principal, Role

pytestmark = [pytest.mark.browser, pytest.mark.real]

PASSWORD = "correct horse battery"
_FOCUSED = "(document.activeElement.ariaLabel ?? document.activeElement.innerText).trim()"
SECTIONS = ("keys", "people", "shares", "webhooks", "audit", "appearance")


@pytest.fixture
def stranger(browser: Browser, site: PagesSite) -> Iterator[Page]:
    context = new_context(browser)
    yield context.new_page()
    context.close()


def status_with(site: PagesSite, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}", "Host": site.origin.removeprefix("http://")}
    port = site.origin.rpartition(":")[2]
    return httpx.get(f"http://127.0.0.1:{port}/api/v1/me", headers=headers).status_code


def row(page: Page, name: str) -> Locator:
    return page.locator("tbody tr", has_text=name)


def expect_gone(page: Page, secret: str) -> None:
    """From the whole page. It goes when the browser tells of the closed dialog, in a turn of its own."""
    page.wait_for_function(
        "key => !document.documentElement.outerHTML.includes(key)", arg=secret, timeout=2000
    )


def test_key_works_until_it_is_revoked_and_is_shown_once(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    page.goto(f"{site.origin}/settings/keys")
    expect(page).to_have_title("API keys · Settings · Deskfleet")
    page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Name")).to_be_focused()
    dialog.get_by_label("Name").fill("night shift")
    dialog.get_by_label("Role").select_option("watcher")
    dialog.get_by_label("Good for").select_option("7")
    dialog.get_by_label(re.compile("^Manage")).uncheck()
    page.keyboard.press("Enter")
    key = dialog.get_by_label("The key", exact=True).input_value()
    assert_accessible(page)
    assert status_with(site, key) == 200
    dialog.get_by_role("button", name="Done").click()
    expect_gone(page, key)
    made = row(page, "night shift")
    expect(made).to_contain_text("events, sessions, streams")
    expect(made).to_contain_text(re.compile("in [67] d"))
    made.get_by_role("button", name="Revoke").click()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    assert status_with(site, key) == 200
    made.get_by_role("button", name="Revoke").click()
    dialog.get_by_role("button", name="Revoke key").click()
    expect(made).to_contain_text("Revoked")
    expect(page.get_by_role("status").filter(has_text="is revoked")).to_be_visible()
    assert status_with(site, key) == 401
    page.goto(f"{site.origin}/settings/audit?action=key")
    expect(page.locator("tbody tr").first).to_contain_text("key.revoke")
    expect(page.locator("tbody tr").nth(1)).to_contain_text("key.create")
    assert complaints.heard == []


def test_persons_link_signs_in_and_shutting_out_ends_it(
    page: Page, stranger: Page, site: PagesSite, complaints: Complaints
) -> None:
    page.goto(f"{site.origin}/settings/people")
    expect(page.locator(".empty")).to_contain_text("Nobody signs in by name yet")
    page.get_by_role("button", name="Add a person").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Login")
    expect(dialog.get_by_label("Login")).to_be_focused()
    login = f"mara.{site.tenant}"
    dialog.get_by_label("Login").fill(login)
    dialog.get_by_label("Name").fill("Mara")
    dialog.get_by_role("button", name="Add").click()
    link = dialog.get_by_label("The link", exact=True).input_value()
    dialog.get_by_role("button", name="Done").click()
    expect(row(page, "Mara")).to_contain_text("Invited")

    stranger.goto(link)
    stranger.get_by_label("New password").fill(PASSWORD)
    stranger.get_by_label("Once more").fill(PASSWORD)
    stranger.keyboard.press("Enter")
    expect(stranger).to_have_url(f"{site.origin}/sandboxes")

    page.reload()
    expect(row(page, "Mara")).to_contain_text("May sign in")
    row(page, "Mara").get_by_role("button", name="Manage").click()
    expect(dialog.get_by_role("listitem")).to_contain_text("Chrome on Linux")
    assert_accessible(page)
    dialog.get_by_label("Role").select_option("watcher")
    dialog.get_by_role("button", name="Save").click()
    expect(row(page, "Mara")).to_contain_text("watcher")
    row(page, "Mara").get_by_role("button", name="Manage").click()
    dialog.get_by_role("button", name="End: Chrome").click()
    expect(dialog.get_by_role("listitem")).to_have_text("Nowhere.")
    stranger.goto(f"{site.origin}/account")
    expect(stranger).to_have_url(f"{site.origin}/signin?next=/account")
    dialog.get_by_role("button", name="Shut out").click()
    expect(row(page, "Mara")).to_contain_text("Shut out")
    stranger.get_by_label("Login").fill(login)
    stranger.get_by_label("Password").fill(PASSWORD)
    stranger.keyboard.press("Enter")
    expect(stranger.get_by_role("alert")).to_be_visible()
    row(page, "Mara").get_by_role("button", name="Manage").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete person").click()
    expect(page.locator(".empty")).to_be_visible()
    # The refused form, whose answer the browser notes.
    assert complaints.but("422 (") == []


def test_share_links_of_all_desktops_are_seen_and_revoked(
    page: Page, stranger: Page, site: PagesSite, complaints: Complaints
) -> None:
    session = site.running()
    maker = Principal(id=f"key:{site.key.split('_')[1]}", tenant=site.tenant, role=Role.ADMIN, via="key")
    share = site.store.shares.create(
        session, maker, label="for Bo", life=timedelta(hours=1), is_single_use=False
    )
    stranger.goto(f"{site.origin}/s#{share.token}")
    expect(stranger).to_have_url(f"{site.origin}/shared/{session.id}")
    page.goto(f"{site.origin}/settings/shares")
    link = row(page, "for Bo")
    expect(link).to_contain_text("Open")
    expect(link).to_contain_text("Chrome on Linux")
    expect(link.get_by_role("link")).to_have_attribute("href", f"/sandboxes/{session.id}")
    link.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke link").click()
    expect(link).to_contain_text("Revoked")
    stranger.reload()
    expect(stranger.locator("h1")).not_to_have_text("")
    assert stranger.locator("sandbox-viewer").count() == 0
    assert complaints.heard == []


def test_address_for_events_is_added_tried_changed_and_deleted(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    page.goto(f"{site.origin}/settings/webhooks")
    out = page.locator(".card", has=page.get_by_role("heading", name="Events out"))
    expect(out.locator(".empty")).to_contain_text("Nothing is sent anywhere")
    page.get_by_role("button", name="Add an address").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Address")).to_be_focused()
    dialog.get_by_label("Address").fill("https://127.0.0.1/hook")
    dialog.get_by_role("button", name="Add address").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Address: ")
    dialog.get_by_label("Address").fill("https://example.com/hook")
    dialog.get_by_label("Name").fill("alarm")
    for box in dialog.get_by_role("checkbox").all():
        box.uncheck()
    dialog.get_by_role("button", name="Add address").click()
    expect(dialog.get_by_role("alert")).to_have_text("Choose at least one kind of event.")
    dialog.get_by_label(re.compile("^session.error")).check()
    dialog.get_by_role("button", name="Add address").click()
    secret = dialog.get_by_label("The secret", exact=True).input_value()
    assert secret.startswith("whsec_")
    assert_accessible(page)
    dialog.get_by_role("button", name="Done").click()
    expect_gone(page, secret)
    alarm = row(page, "alarm")
    expect(alarm).to_contain_text("https://example.com/hook")
    expect(alarm).to_contain_text("session.error")
    [endpoint] = site.store.webhooks(site.tenant).list()
    assert (endpoint.label, endpoint.types) == ("alarm", ("session.error",))

    alarm.get_by_role("button", name="Manage").click()
    expect(dialog.get_by_role("list", name="Last messages")).to_have_text("None yet.")
    dialog.get_by_role("button", name="Send a trial").click()
    # Nobody sends here.
    expect(dialog.get_by_role("listitem")).to_contain_text(re.compile("webhook.test.*Under way"))
    assert_accessible(page)
    dialog.get_by_role("button", name="Disable").click()
    expect(alarm).to_contain_text("Disabled")
    alarm.get_by_role("button", name="Manage").click()
    expect(dialog.get_by_role("listitem")).to_contain_text("Cancelled")
    expect(dialog.get_by_role("button", name="Send a trial")).to_be_disabled()
    dialog.get_by_role("button", name="Enable").click()
    expect(alarm).to_contain_text("Enabled")
    alarm.get_by_role("button", name="Manage").click()
    dialog.get_by_role("button", name="Send again").click()
    expect(dialog.get_by_role("listitem")).to_contain_text("Under way")
    for box in dialog.get_by_role("checkbox").all():
        box.set_checked("session.lease" not in (box.get_attribute("value") or ""))
    dialog.get_by_role("button", name="Save").click()
    expect(alarm).to_contain_text("all but session.lease")
    alarm.get_by_role("button", name="Manage").click()
    dialog.get_by_role("button", name="New secret").click()
    page.get_by_role("button", name="Make secret").click()
    assert dialog.get_by_label("The secret", exact=True).input_value() != secret
    dialog.get_by_role("button", name="Done").click()
    alarm.get_by_role("button", name="Manage").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete address").click()
    expect(out.locator(".empty")).to_be_visible()
    assert site.store.webhooks(site.tenant).list() == []
    # The refused address, which the browser notes.
    assert complaints.but("422 (") == []


def test_sender_of_events_gets_a_secret_once_that_is_replaced_and_revoked(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    page.goto(f"{site.origin}/settings/webhooks")
    page.get_by_role("button", name="Add a sender").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("box7")
    page.keyboard.press("Enter")
    secret = dialog.get_by_label("The secret", exact=True).input_value()
    [made] = site.store.webhook_secrets.list(site.tenant)
    address = dialog.get_by_label("The address for events", exact=True)
    expect(address).to_have_value(f"{site.origin}/webhooks/openclaw?source={made.id}")
    dialog.get_by_role("button", name="Done").click()
    expect_gone(page, secret)
    expect(row(page, "box7")).to_contain_text("Good")
    row(page, "box7").get_by_role("button", name="New secret").click()
    dialog.get_by_role("button", name="Make secret").click()
    assert dialog.get_by_label("The secret", exact=True).input_value() != secret
    dialog.get_by_role("button", name="Done").click()
    former = row(page, made.id)
    expect(former).to_contain_text("Replaced")
    former.get_by_role("button", name="Revoke").click()
    dialog.get_by_role("button", name="Revoke secret").click()
    expect(former).to_contain_text("Revoked")
    expect(former.get_by_role("button")).to_have_count(0)
    assert complaints.heard == []


def test_audit_log_is_narrowed_passed_on_exported_and_checked(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    session = site.running(task="t")
    for number in range(60):
        site.store.accounts.add_key(site.tenant, Role.WATCHER, f"key {number}", by="tests")
    page.goto(f"{site.origin}/settings/audit")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show older").click()
    expect(rows).not_to_have_count(50)
    page.get_by_label("Action").select_option("session.create")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?action=session.create$"))
    rows.get_by_role("button", name=f"session {session.id[:8]}").click()
    expect(page).to_have_url(re.compile(rf"target=session%3A{session.id}$"))
    page.reload()
    expect(rows).to_have_count(1)
    expect(page.get_by_label("To what")).to_have_value(f"session:{session.id}")
    assert_accessible(page)
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Export CSV").click()
    assert "session.create" in downloading.value.path().read_text()
    page.get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Check the chain").click()
    expect(page.locator(".settings-chain")).to_contain_text(re.compile(r"All \d+ entries are as they were"))
    page.get_by_label("To what").fill("nothing")
    page.keyboard.press("Enter")
    expect(page.locator(".empty")).to_contain_text("No entries")
    assert complaints.heard == []


def test_each_sees_what_his_role_may(browser: Browser, site: PagesSite) -> None:
    for role, seen in (
        (Role.WATCHER, ["Appearance"]),
        (Role.OPERATOR, ["Share links", "Appearance"]),
        (Role.ADMIN, ["API keys", "People", "Share links", "Webhooks", "Audit log", "Appearance"]),
    ):
        context = new_context(browser)
        page = context.new_page()
        sign_in(page, site.origin, site.new_key(role))
        page.goto(f"{site.origin}/settings")
        expect(page.locator(".settings-nav li")).to_have_text([*seen, "Your account"])
        expect(page.locator("#settings-title")).to_have_text(seen[0])
        page.goto(f"{site.origin}/settings/people")
        expect(page.locator("h1")).to_have_text(
            "People" if role is Role.ADMIN else "Your role does not cover this"
        )
        context.close()


def test_density_is_chosen_and_holds(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/settings/appearance")
    page.get_by_label("Compact").check()
    before = page.locator(".top").bounding_box()
    page.goto(f"{site.origin}/hosts")
    expect(page.locator("html")).to_have_attribute("data-density", "compact")
    after = page.locator(".top").bounding_box()
    assert before is not None
    assert after is not None
    assert before["height"] == after["height"] < 56


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_parts_fit_and_have_no_violations(
    browser: Browser, site: PagesSite, size: tuple[int, int], colours: Literal["light", "dark"]
) -> None:
    site.store.accounts.add_key(site.tenant, Role.OPERATOR, "x" * 200)
    site.new_person(f"jonas.{site.tenant}")
    context = new_context(browser, size=size, colours=colours)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    page.goto(f"{site.origin}/settings")
    assert_accessible(page)
    for name in SECTIONS:
        if size == PHONE:
            page.goto(f"{site.origin}/settings")
        page.locator(f".settings-nav [data-section={name}]").click()
        expect(page).to_have_url(f"{site.origin}/settings/{name}")
        if name != "appearance":
            expect(page.locator("tbody tr, .empty").first).to_be_visible()
        assert not scrolls_sideways(page), name
        assert_accessible(page)
    context.close()


def test_a_key_is_made_and_revoked_by_keyboard_alone(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/settings/people")
    dialog = page.get_by_role("dialog")

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(_FOCUSED) == name:
                return
        raise AssertionError(f"Tab does not lead to {name!r}")

    tab_to("API keys")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("API keys")
    expect(page.locator("tbody tr")).to_have_count(1)
    tab_to("New key")
    page.keyboard.press("Enter")
    page.keyboard.type("by hand")
    page.keyboard.press("Enter")
    expect(dialog.get_by_label("The key", exact=True)).to_be_visible()
    expect(dialog.get_by_role("button", name="Copy: The key")).to_be_focused()
    tab_to("Done")
    page.keyboard.press("Enter")
    tab_to("Revoke: by hand")
    page.keyboard.press("Enter")
    tab_to("Revoke key")
    page.keyboard.press("Enter")
    expect(row(page, "by hand")).to_contain_text("Revoked")
