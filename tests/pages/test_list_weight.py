"""What the Sandboxes page weighs until its first desktop is seen, compressed as the edge compresses it."""

from __future__ import annotations

import gzip
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Response, expect

from tests.browser import wait_for_picture
from tests.pages.site import PagesSite

pytestmark = [pytest.mark.browser, pytest.mark.real]

MOST_FILES = 6
"""The page, its style, its script, what that shares with others, noVNC, the logo."""
MOST_BEFORE_NOVNC = 40_000
MOST_NOVNC = 62_000


def test_sandboxes_page_is_light_and_comes_in_few_files(page: Page, site: PagesSite) -> None:
    site.running()
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(f"{site.origin}/sandboxes")
    wait_for_picture(page)
    files = {
        path: len(gzip.compress(answer.body()))
        for answer in answers
        if not (path := urlsplit(answer.url).path).startswith("/api/")
    }
    assert len(files) <= MOST_FILES, files
    [novnc] = [path for path in files if "/stream-" in path]
    assert files[novnc] <= MOST_NOVNC
    assert sum(files.values()) - files[novnc] <= MOST_BEFORE_NOVNC, files


def test_what_is_needed_after_a_click_is_not_there_before(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator("[data-for=empty]")).to_be_visible()
    loaded = "performance.getEntriesByType('resource').filter(one => one.name.includes('/extras-')).length"
    assert page.evaluate(loaded) == 0
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate(loaded) > 0
