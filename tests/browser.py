"""Chromium for tests: start it, hear what it complains about, look at its canvas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    StorageState,
    expect,
    sync_playwright,
)

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = (1440, 900)
PHONE = (390, 844)
DESKTOP = ".viewer-stage canvas"
PATIENCE_MS = 20_000
"""For what a loaded machine takes long for; a deadline that counts is named where it is asserted."""
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium(*more_flags: str) -> Iterator[Browser]:
    """The machine's own Chromium, headless, driven by Playwright, for as long as the `with` block runs."""
    with sync_playwright() as playwright, launched(playwright, *more_flags) as browser:
        yield browser


@contextmanager
def launched(playwright: Playwright, *more_flags: str) -> Iterator[Browser]:
    """One browser more of a Playwright that is there: a thread has at most one of these."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *more_flags])
    try:
        yield browser
    finally:
        browser.close()


def new_context(
    browser: Browser,
    *,
    trusting: bool = False,
    size: tuple[int, int] = WIDE,
    colours: Literal["light", "dark"] = "light",
    still: bool = False,
    state: StorageState | None = None,
) -> BrowserContext:
    """A browser of its own (cookies, storage). `size` in CSS pixels; `still` asks for reduced motion; it
    takes any certificate when it is `trusting`. `state`: the cookies that another one had."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=colours,
        reduced_motion="reduce" if still else "no-preference",
        has_touch=size[0] < 600,
        ignore_https_errors=trusting,
        storage_state=state,
    )
    context.set_default_timeout(PATIENCE_MS)
    return context


def sign_in(page: Page, origin: str, key: str) -> None:
    """Get the page's browser a cookie by posting the key from the sign-in page, without its form."""
    page.goto(f"{origin}/signin")
    script = """async key => {
        const headers = {"Content-Type": "application/json"};
        return (await fetch("/signin", {method: "POST", headers, body: JSON.stringify({key})})).status;
    }"""
    status = page.evaluate(script, key)
    if status != 204:
        raise AssertionError(f"the sign-in was answered with {status}")


def add_sign_in(context: BrowserContext, origin: str, cookie: str) -> None:
    """What `sign_in` brings, where the store itself has made the cookie: no page is opened for it."""
    context.add_cookies(
        [
            {
                "name": "__Host-deskfleet",
                "value": cookie,
                # Secure, also where the site is on loopback.
                "url": origin.replace("http:", "https:"),
                "secure": True,
                "httpOnly": True,
                "sameSite": "Lax",
            }
        ]
    )


def sign_out(page: Page) -> None:
    """By the header's menu of the account."""
    page.locator("#account-menu summary").click()
    page.locator("#account-menu").get_by_role("button", name="Sign out").click()


class Complaints:
    """What a page wrote as an error: exceptions, failed loads, violations of the content security policy."""

    def __init__(self, page: Page) -> None:
        self.heard: list[str] = []
        page.on("pageerror", lambda error: self.heard.append(f"exception: {error}"))
        page.on("console", self._console)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.heard.append(f"{message.text} ({message.location.get('url', '')})")

    def but(self, *expected: str) -> list[str]:
        """What was heard apart from messages that hold one of the `expected` pieces of text."""
        return [line for line in self.heard if not any(piece in line for piece in expected)]


def canvas_colours(page: Page, selector: str = DESKTOP, *, at_most: int = 64) -> int:
    """How many different colours a canvas shows, up to `at_most`; 0 without a canvas."""
    script = """([selector, most]) => {
        const canvas = document.querySelector(selector);
        if (!canvas || !canvas.width || !canvas.height) return 0;
        const pixels = new Uint32Array(
            canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
        const seen = new Set();
        for (let at = 0; at < pixels.length && seen.size < most; at += 7) seen.add(pixels[at]);
        return seen.size;
    }"""
    return cast(int, page.evaluate(script, [selector, at_most]))


def wait_for_picture(page: Page, selector: str = DESKTOP, *, colours: int = 4, seconds: float = 15) -> None:
    """Return once that canvas shows `colours` colours; raise AssertionError if it never does."""
    for _ in range(int(seconds * 10)):
        if (seen := canvas_colours(page, selector)) >= colours:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"after {seconds} s the canvas shows {seen} colours, not {colours}")


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return cast(
        bool, page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    )


def screenshot(page: Page, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    return path
