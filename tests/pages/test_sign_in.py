"""Coming in and going out, in a real browser against the real viewer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import PHONE, Complaints, new_context, scrolls_sideways, sign_in, sign_out
from tests.pages.site import PagesSite

PASSWORD = "correct horse battery"

pytestmark = [pytest.mark.browser, pytest.mark.real]


@pytest.fixture
def stranger(browser: Browser) -> Iterator[Page]:
    context = new_context(browser)
    yield context.new_page()
    context.close()


def use_a_key(page: Page) -> None:
    page.get_by_role("button", name="Use an API key").click()


def fill(page: Page, **fields: str) -> None:
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(value)
    page.keyboard.press("Enter")


def test_a_person_sets_his_password_by_a_link_and_signs_in_with_it(stranger: Page, site: PagesSite) -> None:
    link = site.new_person("mara")
    stranger.goto(link)
    assert "token" not in stranger.url
    fill(stranger, New_password="short", Once_more="short")
    expect(stranger.get_by_role("alert")).to_contain_text("give at least 12")
    fill(stranger, New_password=PASSWORD, Once_more="something else")
    expect(stranger.get_by_role("alert")).to_have_text("The two are not the same.")
    fill(stranger, New_password=PASSWORD, Once_more=PASSWORD)
    expect(stranger).to_have_url(f"{site.origin}/sandboxes")
    expect(stranger.locator(".who")).to_contain_text("Mara")
    sign_out(stranger)
    expect(stranger).to_have_url(f"{site.origin}/signin")
    fill(stranger, Login="mara", Password="not hers at all")
    expect(stranger.get_by_role("alert")).to_contain_text("Login or password is wrong")
    expect(stranger.get_by_label("Password")).to_be_focused()
    complaints = Complaints(stranger)
    fill(stranger, Login=" MARA", Password=PASSWORD)
    expect(stranger).to_have_url(f"{site.origin}/sandboxes")
    assert complaints.heard == []
    stranger.goto("about:blank")
    stranger.goto(link)
    fill(stranger, New_password=PASSWORD, Once_more=PASSWORD)
    expect(stranger.get_by_role("alert")).to_contain_text("used already or is too old")


def test_account_shows_where_one_is_signed_in_and_ends_it(
    stranger: Page, browser: Browser, site: PagesSite
) -> None:
    site.new_person("nina", PASSWORD)
    elsewhere = new_context(browser)
    there = elsewhere.new_page()
    for page in (there, stranger):
        page.goto(f"{site.origin}/signin?next=/account")
        fill(page, Login="nina", Password=PASSWORD)
        expect(page).to_have_url(f"{site.origin}/account")
    stranger.reload()
    rows = stranger.locator("#sign-ins li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("this browser")
    expect(rows.last).to_contain_text("Chrome on Linux")
    rows.last.get_by_role("button").click()
    expect(rows).to_have_count(1)
    expect(stranger.get_by_role("button", name="Sign out everywhere else")).to_be_hidden()
    there.reload()
    expect(there).to_have_url(f"{site.origin}/signin?next=/account")
    elsewhere.close()


def test_account_changes_the_password(stranger: Page, site: PagesSite) -> None:
    site.new_person("olga", PASSWORD)
    stranger.goto(f"{site.origin}/signin?next=/account")
    fill(stranger, Login="olga", Password=PASSWORD)
    new = {"New_password": "another long password", "Once_more": "another long password"}
    fill(stranger, Your_password_now="wrong", **new)
    expect(stranger.get_by_role("alert")).to_have_text("That is not your password.")
    fill(stranger, Your_password_now=PASSWORD, **new)
    expect(stranger.locator("#password-done")).to_contain_text("is changed")
    assert not scrolls_sideways(stranger)


def test_a_key_signs_in_and_the_header_says_who_it_is(stranger: Page, site: PagesSite) -> None:
    complaints = Complaints(stranger)
    stranger.goto(site.origin)
    expect(stranger).to_have_title("Sign in · Deskfleet")
    use_a_key(stranger)
    stranger.get_by_label("API key").fill(f"  {site.key}\n")
    stranger.get_by_role("button", name="Sign in").click()
    expect(stranger).to_have_url(f"{site.origin}/sandboxes")
    expect(stranger.locator(".tenant")).to_have_text(site.tenant)
    expect(stranger.locator(".who-role")).to_have_text("admin")
    assert complaints.heard == []


def test_a_link_signs_in_once_and_its_token_leaves_the_address(stranger: Page, site: PagesSite) -> None:
    link = site.sign_in_link()
    stranger.goto(link)
    expect(stranger).to_have_url(f"{site.origin}/sandboxes")
    sign_out(stranger)
    expect(stranger).to_have_url(f"{site.origin}/signin")
    stranger.goto("about:blank")
    stranger.goto(link)
    expect(stranger.get_by_role("alert")).to_contain_text("used already or is too old")
    assert "token" not in stranger.url


def test_a_wrong_key_is_refused_in_words(stranger: Page, site: PagesSite) -> None:
    stranger.goto(f"{site.origin}/signin")
    use_a_key(stranger)
    stranger.get_by_role("button", name="Sign in").click()
    expect(stranger.get_by_role("alert")).to_have_text("Enter an API key.")
    stranger.get_by_label("API key").fill("df_aaaaaaaa_wrong")
    stranger.keyboard.press("Enter")
    expect(stranger.get_by_role("alert")).to_contain_text("not known here")
    expect(stranger.get_by_label("API key")).to_be_focused()


def test_too_many_wrong_keys_say_when_to_come_back(stranger: Page, site: PagesSite) -> None:
    stranger.goto(f"{site.origin}/signin")
    stranger.evaluate(
        """async () => {
            const headers = {"Content-Type": "application/json"};
            const wrong = {method: "POST", headers, body: '{"key": "x"}'};
            for (let n = 0; n < 10; n++) await fetch("/signin", wrong);
        }"""
    )
    use_a_key(stranger)
    stranger.get_by_label("API key").fill(site.key)
    stranger.keyboard.press("Enter")
    expect(stranger.get_by_role("alert")).to_contain_text("Too many attempts. Try again in")


def test_a_deep_link_comes_back_after_sign_in(stranger: Page, site: PagesSite) -> None:
    session = site.running()
    stranger.goto(f"{site.origin}/sandboxes/{session.id}")
    use_a_key(stranger)
    stranger.get_by_label("API key").fill(site.key)
    stranger.keyboard.press("Enter")
    expect(stranger).to_have_url(f"{site.origin}/sandboxes/{session.id}")


@pytest.mark.parametrize(
    "elsewhere", ["https://example.org", "//example.org", "/sandboxes/../signout", "javascript:1"]
)
def test_sign_in_never_leads_to_a_foreign_page(stranger: Page, site: PagesSite, elsewhere: str) -> None:
    stranger.goto(f"{site.origin}/signin?next={elsewhere}")
    use_a_key(stranger)
    stranger.get_by_label("API key").fill(site.key)
    stranger.keyboard.press("Enter")
    expect(stranger).to_have_url(f"{site.origin}/sandboxes")


def test_an_ended_sign_in_sends_an_open_page_to_sign_in(page: Page, site: PagesSite) -> None:
    session = site.running()
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    expect(page.locator("li[data-session]")).to_have_count(1)
    page.context.clear_cookies()
    page.get_by_role("button", name="Reconnect").click()
    expect(page).to_have_url(f"{site.origin}/signin?next=%2Fsandboxes%2F{session.id}")


def test_sign_in_fits_a_phone(browser: Browser, site: PagesSite) -> None:
    context = new_context(browser, size=PHONE)
    phone = context.new_page()
    phone.goto(f"{site.origin}/signin")
    assert not scrolls_sideways(phone)
    phone.goto(f"{site.origin}/set-password")
    assert not scrolls_sideways(phone)
    sign_in(phone, site.origin, site.key)
    phone.goto(f"{site.origin}/sandboxes")
    phone.locator(".who").click()
    phone.get_by_role("link", name="Account").click()
    expect(phone).to_have_url(f"{site.origin}/account")
    assert not scrolls_sideways(phone)
    phone.locator("main").get_by_role("button", name="Sign out", exact=True).click()
    expect(phone).to_have_url(f"{site.origin}/signin")
    context.close()
