"""Through a real OpenID provider and back, in a real browser, behind the real Caddy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Error, Page, Request, expect

from tests.browser import PHONE, Complaints, new_context, scrolls_sideways, sign_out
from tests.oidc.provider_process import CLIENT_SECRET, ProviderProcess
from tests.pages.content_site import BELOW, ContentSite

pytestmark = [pytest.mark.browser, pytest.mark.real]


@dataclass(frozen=True)
class Both:
    """Deskfleet, and the provider that its people come through."""

    site: ContentSite
    provider: ProviderProcess

    @property
    def origin(self) -> str:
        return self.site.origin

    def logs(self) -> str:
        """Of Caddy and viewer."""
        return "\n".join(path.read_text() for path in sorted(self.site.folder.glob("log-*")))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, built_pages: None) -> Iterator[Both]:
    site = ContentSite(tmp_path_factory.mktemp("site"), BELOW)
    with ProviderProcess(tmp_path_factory.mktemp("provider"), site.origin) as provider:
        site.more = {"oidc": provider.settings(), "tenants": [{"name": "acme"}]}
        with site:
            yield Both(site, provider)


@pytest.fixture
def stranger(browser: Browser) -> Iterator[Page]:
    context = new_context(browser)
    yield context.new_page()
    context.close()


def go_to_provider(page: Page, both: Both) -> None:
    page.goto(f"{both.origin}/signin")
    page.get_by_role("link", name="Sign in with Acme Login").click()


def fill_in(page: Page, login: str) -> None:
    """The provider's own page."""
    page.locator("[name=login]").fill(login)
    page.locator("[name=password]").fill("any")
    page.locator("button[type=submit]").click()


def come_in(page: Page, both: Both, login: str) -> None:
    go_to_provider(page, both)
    fill_in(page, login)


def test_there_and_back_and_out_again(stranger: Page, both: Both) -> None:
    complaints = Complaints(stranger)
    stranger.goto(f"{both.origin}/hosts")
    expect(stranger).to_have_url(f"{both.origin}/signin?next=/hosts")
    stranger.get_by_role("link", name="Sign in with Acme Login").click()
    fill_in(stranger, "gwen")
    expect(stranger).to_have_url(f"{both.origin}/hosts")
    expect(stranger.locator(".tenant")).to_have_text("acme")
    expect(stranger.locator(".who")).to_contain_text("Gwen Stacy")
    expect(stranger.locator(".who-role")).to_have_text("admin")
    stranger.goto(f"{both.origin}/sandboxes")
    expect(stranger.get_by_role("button", name="New desktop").first).to_be_visible()

    sign_out(stranger)
    expect(stranger).to_have_url(f"{both.origin}/oidc/signed-out")
    # What the provider's own page lacks is not ours.
    assert [line for line in complaints.heard if both.origin in line] == []
    stranger.goto(f"{both.origin}/sandboxes")
    expect(stranger).to_have_url(f"{both.origin}/signin?next=/sandboxes")
    stranger.goto(f"{both.origin}/oidc/signed-out")
    stranger.get_by_role("link", name="Sign out of Acme Login too").click()
    stranger.locator("button[value=yes]").click()
    expect(stranger).to_have_url(f"{both.origin}/signin")
    # The next one is asked who he is.
    stranger.get_by_role("link", name="Sign in with Acme Login").click()
    expect(stranger.locator("[name=login]")).to_be_visible()


def test_watcher_by_the_rules_gets_the_page_of_one(stranger: Page, both: Both) -> None:
    come_in(stranger, both, "walt")
    expect(stranger).to_have_url(f"{both.origin}/sandboxes")
    expect(stranger.locator(".who-role")).to_have_text("watcher")
    expect(stranger.get_by_role("button", name="New desktop")).to_have_count(0)


def test_code_stays_in_no_address_no_referrer_and_no_log(stranger: Page, both: Both) -> None:
    asked: list[Request] = []
    stranger.on("request", lambda request: asked.append(request))
    come_in(stranger, both, "gwen")
    expect(stranger).to_have_url(f"{both.origin}/sandboxes")
    expect(stranger.locator("[data-for=empty]")).to_be_attached()
    codes = [
        parse_qs(urlsplit(request.url).query)["code"][0]
        for request in asked
        if urlsplit(request.url).path == "/oidc/callback"
    ]
    assert len(codes) == 1
    for request in asked:
        assert codes[0] not in request.headers.get("referer", "")
    assert codes[0] not in stranger.evaluate("JSON.stringify([location.href, document.referrer])")
    logs = both.logs()
    assert "/oidc/callback" in logs
    for secret in (codes[0], CLIENT_SECRET, "eyJ"):
        assert secret not in logs


def test_failed_way_back_leaves_no_code_in_the_address(stranger: Page, both: Both) -> None:
    come_in(stranger, both, "mallory")
    expect(stranger).to_have_url(f"{both.origin}/oidc/failed")
    expect(stranger.get_by_role("heading")).to_have_text("You have no place here")
    stranger.reload()
    expect(stranger.get_by_role("heading")).to_have_text("You have no place here")
    stranger.get_by_role("link", name="Sign in another way").click()
    expect(stranger).to_have_url(f"{both.origin}/signin?next=/sandboxes")


def test_who_says_no_at_the_provider_is_told_so(stranger: Page, both: Both) -> None:
    go_to_provider(stranger, both)
    stranger.get_by_role("link", name="Cancel").click()
    expect(stranger).to_have_url(f"{both.origin}/oidc/failed")
    expect(stranger.get_by_role("heading")).to_have_text("Acme Login did not let you in")


def test_provider_that_is_down_is_told_and_trying_again_works(stranger: Page, both: Both) -> None:
    stranger.goto(f"{both.origin}/signin")
    both.provider.stop()
    # For a few seconds it is taken to be where it was; the browser finds nobody there then.
    for _ in range(100):
        with suppress(Error):
            stranger.goto(f"{both.origin}/oidc/start")
            break
        stranger.wait_for_timeout(100)
    expect(stranger.get_by_role("heading")).to_have_text("Acme Login does not answer")
    both.provider.start()
    stranger.get_by_role("link", name="Try again").click()
    fill_in(stranger, "gwen")
    expect(stranger).to_have_url(f"{both.origin}/sandboxes")


def test_keys_that_were_rotated_are_followed(stranger: Page, both: Both) -> None:
    come_in(stranger, both, "gwen")
    expect(stranger).to_have_url(f"{both.origin}/sandboxes")
    stranger.context.clear_cookies()
    both.provider.rotate()
    come_in(stranger, both, "gwen")
    expect(stranger).to_have_url(f"{both.origin}/sandboxes")


@pytest.mark.parametrize(("seconds", "way"), [(3600, "ahead of"), (-3600, "behind")])
def test_clock_that_is_wrong_is_told_with_its_difference(
    stranger: Page, both: Both, seconds: int, way: str
) -> None:
    both.provider.wrong_clock(seconds)
    come_in(stranger, both, "gwen")
    expect(stranger).to_have_url(f"{both.origin}/oidc/failed")
    both.provider.wrong_clock(0)
    expect(stranger.get_by_role("heading")).to_have_text("The clocks differ")
    expect(stranger.locator("main")).to_contain_text(f"s {way} Deskfleet's, and 60 s are allowed")
    stranger.get_by_role("link", name="Try again").click()
    expect(stranger).to_have_url(f"{both.origin}/sandboxes")


def test_pages_fit_a_phone(browser: Browser, both: Both) -> None:
    context = new_context(browser, size=PHONE)
    phone = context.new_page()
    come_in(phone, both, "mallory")
    expect(phone).to_have_url(f"{both.origin}/oidc/failed")
    assert not scrolls_sideways(phone)
    for path in ("/signin", "/oidc/signed-out"):
        phone.goto(f"{both.origin}{path}")
        assert not scrolls_sideways(phone)
    context.close()


def test_sandbox_cannot_begin_a_sign_in(stranger: Page, both: Both) -> None:
    """Its page is same-site with ours, and could make whoever watches it somebody else."""
    hostile = f"http://11111111-2222-4333-8444-555555555555.{BELOW}:{both.site.port}/"
    page = f"<script>location.href = '{both.origin}/oidc/start?next=/hosts'</script>"
    stranger.route(hostile, lambda route: route.fulfill(content_type="text/html", body=page))
    stranger.goto(hostile)
    expect(stranger).to_have_url(f"{both.origin}/signin?next=/hosts")
    assert stranger.context.cookies(both.origin) == []
