"""A browser and a desktop per module, a site per test; the pages are built first when they are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import Complaints, chromium, new_context, sign_in
from tests.pages.site import PagesSite
from tests.painted_desktop import PaintedDesktop
from viewer.frontend.hatch_build import build_pages


@pytest.fixture(scope="session", autouse=True)
def built_pages() -> None:
    build_pages(say=lambda _line: None)


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


@pytest.fixture
def site(tmp_path: Path, desktop: PaintedDesktop) -> Iterator[PagesSite]:
    with PagesSite(folder=tmp_path, vnc_port=desktop.port) as running:
        yield running


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
