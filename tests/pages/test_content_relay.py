"""The whole way to a KasmVNC desktop: browser, Caddy, viewer, relay are real, the desktop is FakeKasmVNC."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import Complaints, new_context, sign_in
from tests.pages.content_site import ContentSite
from tests.relay_process import RelayProcess
from tests.test_relay import rfb_server
from tests.test_relay_content import Studio, relay_at, studio_at
from viewer.credentials import key_id_of
from viewer.model import Role
from viewer.relay.answers import CloseCode
from viewer.relay_client import RelayClient
from viewer.stream_watch import StreamWatch

pytestmark = [pytest.mark.browser, pytest.mark.real]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def studio(directory: Path) -> Iterator[Studio]:
    with studio_at(directory, tenant="acme") as running:
        yield running


@pytest.fixture(scope="module")
def relay(directory: Path, studio: Studio) -> Iterator[RelayProcess]:
    with relay_at(directory) as process:
        yield process


@pytest.fixture(scope="module")
def content_site(relayed_site: ContentSite) -> ContentSite:
    return relayed_site


def opened(browser: Browser, site: ContentSite, role: Role) -> Page:
    page = new_context(browser).new_page()
    sign_in(page, site.origin, site.key(role))
    page.goto(f"{site.origin}/sandboxes/{site.desktop('studio').id}")
    return page


def until_writing(studio: Studio) -> None:
    deadline = time.monotonic() + 10
    while not [user for user in studio.stream_users().values() if user.write]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("role", "may_write"), [(Role.WATCHER, False), (Role.OPERATOR, True)])
def test_each_person_is_a_user_of_the_desktop_while_he_watches(
    browser: Browser, content_site: ContentSite, studio: Studio, role: Role, may_write: bool
) -> None:
    page = opened(browser, content_site, role)
    complaints = Complaints(page)
    expect(page.locator(".viewer-cover")).to_be_hidden(timeout=15_000)
    [user] = studio.stream_users().values()
    # Nobody has control yet.
    assert (user.read, user.write, user.owner) == (True, False, False)
    if may_write:
        page.get_by_role("button", name="Take control").click()
        expect(page.get_by_role("button", name="Give back")).to_be_visible()
        until_writing(studio)
    assert complaints.heard == []
    page.context.close()
    studio.wait_until(0)


def test_page_says_why_the_relay_ended_a_stream_and_does_not_come_back(
    browser: Browser, content_site: ContentSite, studio: Studio, relay: RelayProcess
) -> None:
    page = opened(browser, content_site, Role.OPERATOR)
    cover = page.locator(".viewer-cover")
    expect(cover).to_be_hidden(timeout=15_000)
    steps = page.evaluate("history.length")
    with closing(RelayClient("here", url=relay.url, key=relay.key)) as worker:
        [stream] = worker.streams()
        worker.close_stream(stream, CloseCode.REVOKED, "it was closed")
    expect(cover).to_contain_text("Your access to this desktop was withdrawn")
    expect(cover.get_by_role("button")).to_have_text("Try again")
    page.wait_for_timeout(1500)
    assert studio.stream_users() == {}
    assert page.evaluate("history.length") == steps
    cover.get_by_role("button").click()
    expect(cover).to_be_hidden(timeout=15_000)
    page.context.close()
    studio.wait_until(0)


def test_two_people_share_the_desktop_and_one_leaves_alone(
    browser: Browser, content_site: ContentSite, studio: Studio
) -> None:
    first, second = (opened(browser, content_site, Role.OPERATOR) for _ in range(2))
    for page in (first, second):
        expect(page.locator(".viewer-cover")).to_be_hidden(timeout=15_000)
    assert len(studio.stream_users()) == 2
    first.context.close()
    studio.wait_until(1)
    expect(second.locator(".viewer-cover")).to_be_hidden()
    second.context.close()
    studio.wait_until(0)


def drain(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def test_signing_out_elsewhere_ends_the_stream_and_the_page_says_why(
    browser: Browser, content_site: ContentSite, relay: RelayProcess
) -> None:
    """The whole way: the browser's stream goes through Caddy and the relay, which the worker watches."""
    store = content_site.store
    client, stop = RelayClient("here", url=relay.url, key=relay.key), threading.Event()
    watching = threading.Thread(target=StreamWatch("here", client, store).run, args=(stop,))
    with rfb_server(drain) as port, closing(client):
        session = content_site.running(port)
        page = new_context(browser).new_page()
        key = content_site.key(Role.OPERATOR)
        sign_in(page, content_site.origin, key)
        page.goto(f"{content_site.origin}/sandboxes/{session.id}")
        cover = page.locator(".viewer-cover")
        expect(cover).to_be_hidden(timeout=15_000)
        watching.start()
        try:
            expect(page.locator(".viewer-watchers")).to_have_text("1 watching", timeout=5000)
            store.accounts.end_sign_ins(f"key:{key_id_of(key)}")
            expect(cover).to_contain_text("This browser is no longer signed in", timeout=2500)
            expect(cover).to_contain_text("Sign in again to go on.")
        finally:
            stop.set()
            watching.join()
            page.context.close()
