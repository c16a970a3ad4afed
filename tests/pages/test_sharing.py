"""Share links in a real browser, on real parts: Caddy, viewer, worker, relay and Xtigervnc."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import Complaints, new_context, sign_in, wait_for_picture
from tests.pages.content_site import BELOW, ContentSite
from tests.painted_desktop import PaintedDesktop
from tests.relay_process import running_relay
from tests.viewer_fixtures import settings_values
from viewer.model import Role, Session, Status

pytestmark = [pytest.mark.browser, pytest.mark.real]

HEADING = "main h1"
Person = tuple[Page, Complaints]


class SharingSite:
    """A `ContentSite` whose relay and worker are real, and a running desktop in it."""

    def __init__(self, site: ContentSite, vnc_port: int) -> None:
        self.site = site
        self._vnc_port = vnc_port

    def desktop(self) -> Session:
        return self.site.running(self._vnc_port, resolution="1280x800")


@pytest.fixture(scope="module")
def sharing(
    tmp_path_factory: pytest.TempPathFactory, desktop: PaintedDesktop, built_pages: None
) -> Iterator[SharingSite]:
    folder = tmp_path_factory.mktemp("sharing")
    for name in ("relay", "site"):
        (folder / name).mkdir()
    with running_relay(folder / "relay", publish_address="127.0.0.1") as relay:
        site = ContentSite(folder / "site", BELOW, relay=relay)
        host = settings_values(folder / "site")["hosts"][0]
        site.more["tenants"] = [{"name": "acme"}]
        site.more["hosts"] = [{**host, "relay_url": relay.url, "opensandbox_url": "http://127.0.0.1:9"}]
        with site, _running_worker(folder / "site"):
            yield SharingSite(site, desktop.port)


class _running_worker:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        environment = os.environ | {"DESKFLEET_SETTINGS": str(self._folder / "viewer.toml")}
        self._log = (self._folder / "worker.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "viewer.worker"], env=environment, stdout=self._log, stderr=self._log
        )

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=15)
        self._log.close()


@pytest.fixture
def operator(browser: Browser, sharing: SharingSite) -> Iterator[Page]:
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, sharing.site.origin, sharing.site.key(Role.OPERATOR))
    yield page
    context.close()


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Person]:
    """A browser without an account."""
    context = new_context(browser)
    page = context.new_page()
    yield page, Complaints(page)
    context.close()


def link_to(sharing: SharingSite, session: Session, *, single_use: bool = False) -> tuple[str, str]:
    """A link's address and id, made by a key."""
    store = sharing.site.store
    who = store.accounts.principal_of_key(sharing.site.key(Role.OPERATOR))
    assert who is not None
    made = store.shares.create(session, who, label="", life=timedelta(hours=1), is_single_use=single_use)
    return f"{sharing.site.origin}/s#{made.token}", made.share.id


def watch(page: Page, url: str) -> None:
    """Come by the link, until the desktop is seen."""
    page.goto(url)
    page.wait_for_url("**/shared/*")
    wait_for_picture(page)


def test_visitor_watches_and_has_nothing_to_act_with(sharing: SharingSite, visitor: Person) -> None:
    page, complaints = visitor
    session = sharing.desktop()
    url, _ = link_to(sharing, session)
    watch(page, url)
    assert page.url == f"{sharing.site.origin}/shared/{session.id}"
    assert page.evaluate("document.referrer") == ""
    expect(page.locator(".viewer-subtitle")).to_contain_text("view only · shared with you until")
    # The host of this test answers nobody but the relay, as the worker finds out by and by.
    expect(page.locator(".viewer-badge")).to_contain_text(re.compile("Running|Host unreachable"))
    for control in ("terminate", "share", "clipboard", "tab"):
        expect(page.locator(f"[data-control={control}]")).to_be_hidden()
    page.go_back()
    assert "#" not in page.url
    assert complaints.heard == []


def test_visitor_who_is_thrown_out_is_told_so_at_once(sharing: SharingSite, visitor: Person) -> None:
    page, complaints = visitor
    session = sharing.desktop()
    url, share = link_to(sharing, session)
    watch(page, url)
    sharing.site.store.shares.revoke(session, share)
    expect(page.locator(HEADING)).to_have_text("This link was withdrawn")
    expect(page.locator("canvas")).to_have_count(0)
    page.reload()
    expect(page.locator(HEADING)).to_have_text("This link was withdrawn")
    assert complaints.but("410", "WebSocket connection to") == []


def test_link_for_one_browser_tells_the_second_one(
    sharing: SharingSite, visitor: Person, browser: Browser
) -> None:
    page, _ = visitor
    url, _ = link_to(sharing, sharing.desktop(), single_use=True)
    watch(page, url)
    second = new_context(browser)
    try:
        other = second.new_page()
        other.goto(url)
        expect(other.locator(HEADING)).to_have_text("This link was used already")
        assert other.url == f"{sharing.site.origin}/s"
    finally:
        second.close()
    watch(page, url)


def test_end_of_the_desktop_is_shown(sharing: SharingSite, visitor: Person) -> None:
    page, _ = visitor
    session = sharing.desktop()
    watch(page, link_to(sharing, session)[0])
    sharing.site.store.fleet.transition(session.id, Status.TERMINATED)
    expect(page.locator(".viewer-cover")).to_contain_text("The desktop has ended")


@pytest.mark.parametrize(
    ("fragment", "heading"), [("", "This link is incomplete"), ("#nonsense", "This link leads nowhere")]
)
def test_link_that_is_none_says_so(
    sharing: SharingSite, visitor: Person, fragment: str, heading: str
) -> None:
    page, _ = visitor
    page.goto(f"{sharing.site.origin}/s{fragment}")
    expect(page.locator(HEADING)).to_have_text(heading)
    assert "#" not in page.url


def test_operator_shares_sees_who_watches_and_revokes(
    sharing: SharingSite, operator: Page, visitor: Person
) -> None:
    session = sharing.desktop()
    operator.goto(f"{sharing.site.origin}/sandboxes/{session.id}")
    operator.get_by_role("button", name="Share", exact=True).click()
    dialog = operator.get_by_role("dialog", name="Share this desktop")
    dialog.get_by_label("Name").fill("the auditors")
    dialog.get_by_label("Only the first browser").check()
    dialog.get_by_role("button", name="Make a link").click()
    expect(dialog.get_by_role("status")).to_contain_text("shown this once")
    url = dialog.get_by_label("The link").input_value()
    assert url.startswith(f"{sharing.site.origin}/s#")
    row = dialog.locator(".share-list li")
    expect(row).to_contain_text("the auditors")
    expect(row).to_contain_text("Nobody has opened it yet")
    page, _ = visitor
    watch(page, url)
    expect(row).to_contain_text("watching now")
    dialog.get_by_role("button", name="Revoke the auditors").click()
    expect(row).to_contain_text("revoked")
    expect(page.locator(HEADING)).to_have_text("This link was withdrawn")
    dialog.get_by_role("button", name="Close").click()
    expect(operator.locator("[aria-label='The link']")).to_have_value("")


def test_operator_who_opens_a_link_stays_who_he_is(sharing: SharingSite, operator: Page) -> None:
    session = sharing.desktop()
    watch(operator, link_to(sharing, session)[0])
    expect(operator.locator("[data-control=terminate]")).to_be_hidden()
    operator.goto(f"{sharing.site.origin}/sandboxes/{session.id}")
    wait_for_picture(operator)
    expect(operator.locator("[data-control=terminate]")).to_be_visible()


def test_desktop_with_a_page_of_its_own_is_watched_in_its_frame(
    tmp_path: Path, built_pages: None, visitor: Person
) -> None:
    """Here behind a StubRelay, which keeps the grants that it was shown."""
    page, complaints = visitor
    site = ContentSite(tmp_path, BELOW)
    site.more["tenants"] = [{"name": "acme"}]
    with site:
        desktop = site.desktop("studio")
        who = site.store.accounts.principal_of_key(site.key(Role.OPERATOR))
        assert who is not None
        made = site.store.shares.create(desktop, who, label="", life=timedelta(hours=1), is_single_use=False)
        page.goto(f"{site.origin}/s#{made.token}")
        page.wait_for_url("**/shared/*")
        expect(page.locator(".viewer-cover")).to_be_hidden()
        expect(page.locator(".viewer-stage iframe")).to_be_visible()
        assert site.relay.sockets
        assert {grant.may_control for grant in site.relay.grants} == {False}
        holders = {grant.principal.partition("/")[0] for grant in site.relay.grants}
        assert holders == {f"share:{made.share.id}"}
        site.store.shares.revoke(desktop, made.share.id)
        site.cut()
        expect(page.locator(HEADING)).to_have_text("This link was withdrawn")
    assert complaints.but("410", "WebSocket connection to", "401") == []
