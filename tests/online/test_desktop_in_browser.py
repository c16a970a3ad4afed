"""The whole chain in Chromium: sign in, make a desktop, use it, share it, end it; nothing is simulated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import new_context, wait_for_picture
from tests.online.fleet import CANONICAL, Fleet, SessionView, eventually

pytestmark = [pytest.mark.host, pytest.mark.browser]

# The terminal's launcher: third from the left in the panel at the bottom, and in the middle of its height.
TERMINAL_FROM_LEFT, TERMINAL_FROM_BOTTOM = 103, 19


@pytest.fixture(scope="module")
def fleet(plain_fleet: Fleet) -> Fleet:
    return plain_fleet


@pytest.fixture(scope="module")
def page(fleet: Fleet, browser: Browser) -> Iterator[Page]:
    """A person's page, signed in once by the one-time link."""
    yield from signed_in_page(fleet, browser)


@pytest.fixture(scope="module")
def second_page(fleet: Fleet, browser: Browser) -> Iterator[Page]:
    """Another browser (its own cookies), on the list."""
    yield from signed_in_page(fleet, browser)


@pytest.fixture
def live(fleet: Fleet, page: Page) -> Iterator[SessionView]:
    """A desktop made through the page, and the page shows it."""
    session = make_desktop(fleet, page)
    wait_for_picture(page, seconds=30)
    yield session
    fleet.api.end(session.id)


def signed_in_page(fleet: Fleet, browser: Browser) -> Iterator[Page]:
    context = new_context(browser)
    page = context.new_page()
    page.goto(fleet.sign_in_link())
    page.wait_for_url(re.compile(rf"^{re.escape(CANONICAL)}/sandboxes"))
    yield page
    context.close()


def make_desktop(fleet: Fleet, page: Page) -> SessionView:
    page.goto(f"{CANONICAL}/sandboxes")
    page.locator("[data-opens=new-desktop]").first.click()
    page.get_by_role("button", name="Create desktop").click()
    page.wait_for_url(re.compile(r"/sandboxes/[0-9a-f-]{36}$"), timeout=60_000)
    session_id = page.url.rpartition("/")[2]
    eventually(lambda: fleet.api.get(session_id).status == "running", within=60, what="the desktop runs")
    return fleet.api.get(session_id)


def viewer_is(page: Page, link: str, *, seconds: float = 30) -> None:
    """Wait until the viewer's stream is `connected`, `waiting`, …"""
    page.wait_for_selector(f'sandbox-viewer[data-link="{link}"]', timeout=seconds * 1000)


def click_on_desktop(page: Page, x: float, y: float) -> None:
    """Click at pixel x, y of the desktop's own screen; negative counts from the right or the bottom."""
    canvas = page.locator(".viewer-stage canvas")
    box = canvas.bounding_box()
    assert box
    width, height = cast("list[int]", canvas.evaluate("canvas => [canvas.width, canvas.height]"))
    scale = box["width"] / width
    page.mouse.click(box["x"] + (x % width) * scale, box["y"] + (y % height) * scale)


def in_sandbox(fleet: Fleet, session: SessionView, line: str) -> str:
    return fleet.docker("exec", fleet.container_of(session), "sh", "-c", line, check=False).out.strip()


def open_terminal(fleet: Fleet, page: Page, session: SessionView) -> None:
    """Press the terminal's button in the panel, as a person would, until there is a shell."""

    def shell_runs() -> bool:
        if in_sandbox(fleet, session, "pgrep -x bash"):
            return True
        click_on_desktop(page, TERMINAL_FROM_LEFT, -TERMINAL_FROM_BOTTOM)
        page.wait_for_timeout(3000)
        return False

    page.get_by_role("button", name="Take control").click()
    expect(page.locator(".lease-state")).to_have_text("You have control")
    eventually(shell_runs, within=40, what="the terminal's button in the panel opens a shell")
    page.wait_for_timeout(1000)  # the window takes the keyboard a moment after its shell has started


def test_sign_in_link_works_once(fleet: Fleet, browser: Browser) -> None:
    link = fleet.sign_in_link()
    first, second = new_context(browser), new_context(browser)
    try:
        page = first.new_page()
        page.goto(link)
        page.wait_for_url(f"{CANONICAL}/sandboxes")
        again = second.new_page()
        again.goto(link)
        expect(again.get_by_role("alert")).to_contain_text("used already")
    finally:
        first.close()
        second.close()


def test_page_on_the_other_name_goes_to_the_canonical_one(browser: Browser, fleet: Fleet) -> None:
    context = new_context(browser)
    page = context.new_page()
    page.goto("http://localhost:8088/sandboxes")
    assert page.url.startswith(f"{CANONICAL}/signin")
    context.close()


def test_typed_text_arrives_on_the_desktop_and_refresh_keeps_it(
    fleet: Fleet, page: Page, live: SessionView
) -> None:
    open_terminal(fleet, page, live)
    page.keyboard.type("echo hello > /tmp/hello\n", delay=40)
    eventually(
        lambda: in_sandbox(fleet, live, "cat /tmp/hello") == "hello", within=15, what="the typed line was run"
    )
    page.locator("[data-control=refresh]").click()
    viewer_is(page, "connected")
    page.reload()
    viewer_is(page, "connected")
    wait_for_picture(page)
    assert in_sandbox(fleet, live, "cat /tmp/hello") == "hello"
    assert fleet.api.get(live.id).sandbox_id == live.sandbox_id


def test_desktop_fills_the_screen_and_comes_back(page: Page, live: SessionView) -> None:
    viewer_is(page, "connected")
    page.locator("[data-control=fullscreen]").click()
    page.wait_for_function("() => document.fullscreenElement !== null")
    wait_for_picture(page)
    page.evaluate("document.exitFullscreen()")
    page.wait_for_function("() => document.fullscreenElement === null")
    viewer_is(page, "connected")


def test_open_in_new_tab_shows_the_desktop_alone(page: Page, live: SessionView) -> None:
    viewer_is(page, "connected")
    with page.context.expect_page() as opened:
        page.locator("[data-control=tab]").click()
    tab = opened.value
    assert tab.url == f"{CANONICAL}/view/{live.id}"
    wait_for_picture(tab)
    tab.close()


def test_terminate_asks_first_then_removes_the_container_everywhere(
    fleet: Fleet, page: Page, second_page: Page, live: SessionView
) -> None:
    container = fleet.container_of(live)
    row = second_page.locator(f'li[data-session="{live.id}"]')
    expect(row).to_contain_text("Running")
    page.locator("[data-control=terminate]").click()
    dialog = page.get_by_role("dialog", name="Terminate this desktop")
    dialog.get_by_role("button", name="Keep it").click()
    assert container in fleet.sandbox_containers()
    page.locator("[data-control=terminate]").click()
    dialog.get_by_role("button", name="Terminate", exact=True).click()
    expect(row).to_contain_text("Terminated", timeout=20_000)
    assert container not in fleet.sandbox_containers()
    assert fleet.api.get(live.id).status == "terminated"


def test_list_updates_without_reload_in_a_second_browser(fleet: Fleet, second_page: Page) -> None:
    second_page.goto(f"{CANONICAL}/sandboxes")
    second_page.evaluate("window.neverReloaded = true")
    with fleet.api.desktop(task_id="seen-elsewhere") as session:
        row = second_page.locator(f'li[data-session="{session.id}"]')
        expect(row).to_contain_text("Running", timeout=10_000)
        expect(row).to_contain_text("seen-elsewhere")
    expect(row).to_contain_text("Terminated", timeout=10_000)
    assert second_page.evaluate("window.neverReloaded") is True


@pytest.mark.parametrize("service", ["relay", "caddy", "viewer"])
def test_page_reconnects_by_itself_after_a_kill(
    fleet: Fleet, page: Page, live: SessionView, service: str
) -> None:
    viewer_is(page, "connected")
    page.evaluate("window.neverReloaded = true")
    killed = fleet.kill(service)
    eventually(lambda: set(fleet.pids_of(service)) - set(killed), within=30, what=f"{service} runs again")
    eventually(
        lambda: fleet.api.call("GET", "/healthz").status_code == 200, within=30, what="the API answers"
    )
    if service != "viewer":  # a stream doesn't pass the viewer, so it may not even notice
        page.wait_for_timeout(500)
    viewer_is(page, "connected")
    wait_for_picture(page)
    assert page.evaluate("window.neverReloaded") is True
    with fleet.api.desktop() as another:  # the list is live again, too
        expect(page.locator(f'li[data-session="{another.id}"]')).to_contain_text("Running", timeout=20_000)
