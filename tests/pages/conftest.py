"""A browser, a desktop and a viewer per module, a tenant per test; the pages are built first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import Complaints, chromium, new_context, sign_in
from tests.built import built_pages
from tests.pages.site import PagesSite
from tests.painted_desktop import PaintedDesktop


@pytest.fixture(scope="session", name="built_pages")
def _built_pages() -> None:
    built_pages()


# Not for the whole run: while Playwright is open the main thread counts as inside an event loop, and tests
# elsewhere that use asyncio.run would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def desktop() -> Iterator[PaintedDesktop]:
    with PaintedDesktop() as painted:
        yield painted


@pytest.fixture(scope="module")
def module_site(
    tmp_path_factory: pytest.TempPathFactory, desktop: PaintedDesktop, built_pages: None
) -> Iterator[PagesSite]:
    with PagesSite(folder=tmp_path_factory.mktemp("site"), vnc_port=desktop.port) as running:
        yield running


@pytest.fixture
def site(module_site: PagesSite) -> PagesSite:
    module_site.begin_test()
    return module_site


@pytest.fixture
def page(browser: Browser, site: PagesSite) -> Iterator[Page]:
    """Signed in, nothing opened yet."""
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    yield page
    context.close()


@pytest.fixture
def complaints(page: Page) -> Complaints:
    return Complaints(page)
