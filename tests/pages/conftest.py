"""One browser and one viewer for all, a desktop per module, a tenant per test; the pages are built first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from tests.browser import Complaints, add_sign_in, launched, new_context
from tests.built import built_pages
from tests.pages.content_site import BELOW, ContentSite
from tests.pages.site import PagesSite
from tests.painted_desktop import PaintedDesktop
from tests.relay_process import RelayProcess, Xvnc, running_relay, running_xvnc


@pytest.fixture(scope="session", name="built_pages")
def _built_pages() -> None:
    built_pages()


# Not for the whole run: while Playwright is open the main thread counts as inside an event loop, and tests
# elsewhere that use asyncio.run would fail.
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with launched(playwright) as started:
        yield started


@pytest.fixture(scope="module")
def desktop() -> Iterator[PaintedDesktop]:
    with PaintedDesktop() as painted:
        yield painted


@pytest.fixture(scope="package")
def pages_site(tmp_path_factory: pytest.TempPathFactory, built_pages: None) -> Iterator[PagesSite]:
    with PagesSite(folder=tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def module_site(pages_site: PagesSite, desktop: PaintedDesktop) -> PagesSite:
    pages_site.edge.vnc_port = desktop.port
    return pages_site


@pytest.fixture
def site(module_site: PagesSite) -> PagesSite:
    module_site.begin_test()
    return module_site


@pytest.fixture(scope="module")
def xvnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path_factory.mktemp("xvnc"), pattern=True) as running:
        yield running


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with running_relay(tmp_path_factory.mktemp("relay")) as running:
        yield running
    assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def relayed_site(
    relay: RelayProcess, tmp_path_factory: pytest.TempPathFactory, built_pages: None
) -> Iterator[ContentSite]:
    """Behind the real Caddy, and with the module's relay."""
    with ContentSite(tmp_path_factory.mktemp("site"), BELOW, relay=relay) as running:
        yield running


@pytest.fixture(scope="package")
def kept_context(browser: Browser) -> Iterator[BrowserContext]:
    """Kept for its cache: files of the pages, which have names of their own for each content."""
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def page(kept_context: BrowserContext, site: PagesSite) -> Iterator[Page]:
    """Signed in, nothing opened yet. Of earlier tests the browser has the pages' files, and nothing else."""
    page = kept_context.new_page()
    kept_context.new_cdp_session(page).send(
        "Storage.clearDataForOrigin", {"origin": site.origin, "storageTypes": "local_storage"}
    )
    add_sign_in(kept_context, site.origin, str(site.store.accounts.sign_in_with_key(site.key)))
    yield page
    for opened in kept_context.pages:
        opened.close()
    kept_context.clear_cookies()
    kept_context.clear_permissions()
    kept_context.set_offline(False)


@pytest.fixture
def complaints(page: Page) -> Complaints:
    return Complaints(page)
