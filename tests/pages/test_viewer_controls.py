"""The controls of <sandbox-viewer> on real parts: Chromium, Caddy, viewer, relay, and an Xvnc in which a real
X client writes down what it is sent. Stand-in: nobody makes the session; the test puts its row there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import (
    PHONE,
    Complaints,
    canvas_colours,
    new_context,
    scrolls_sideways,
    sign_in,
    wait_for_picture,
)
from tests.pages.axe import assert_accessible
from tests.pages.content_site import ContentSite
from tests.relay_process import Xvnc, running_xvnc
from tests.xev_recorder import Looker, Recorded, Recorder, recording
from viewer.model import Role, Session

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(90)]

SIZE = "800x600"
SHIFTED, CONTROLLED = 1, 4
"""Bits of an X event's state."""
CANVAS = ".viewer-stage canvas"
STATE = ".lease-state"


@pytest.fixture(scope="module")
def xvnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Xvnc]:
    with running_xvnc(tmp_path_factory.mktemp("xvnc"), geometry=SIZE, pattern=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(xvnc: Xvnc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    with recording(xvnc.display, tmp_path_factory.mktemp("xev"), SIZE) as recorder:
        yield recorder


@pytest.fixture
def recorder(client: Recorder) -> Recorder:
    client.forget()
    return client


@pytest.fixture(scope="module")
def looker(xvnc: Xvnc) -> Iterator[Looker]:
    connected = Looker(xvnc.display)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def site(relayed_site: ContentSite) -> ContentSite:
    return relayed_site


@pytest.fixture
def session(site: ContentSite, xvnc: Xvnc) -> Session:
    return running(site, xvnc)


def running(site: ContentSite, xvnc: Xvnc) -> Session:
    return site.running(xvnc.port, resolution=SIZE, ttl_seconds=600)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = new_context(browser)
    yield opened
    opened.close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[BrowserContext]:
    opened = new_context(browser, size=PHONE)
    yield opened
    opened.close()


def shown(context: BrowserContext, site: ContentSite, session: Session, role: Role = Role.OPERATOR) -> Page:
    page = context.new_page()
    sign_in(page, site.origin, site.key(role))
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    wait_for_picture(page, colours=2)
    expect(page.locator(".viewer-cover")).to_be_hidden()
    return page


@pytest.fixture
def page(context: BrowserContext, site: ContentSite, session: Session) -> Page:
    return shown(context, site, session)


@pytest.fixture
def controlled(page: Page) -> Page:
    return taken(page)


def taken(page: Page) -> Page:
    page.get_by_role("button", name="Take control").click()
    expect(page.locator(STATE)).to_have_text("You have control")
    return page


def choose(page: Page, item: str) -> None:
    page.locator("[data-control=more]").click()
    page.locator(f"[data-item={item}]").click()


def pressed(events: list[Recorded]) -> list[str]:
    return [event.what for event in events if event.kind == "KeyPress"]


def test_keys_that_a_browser_keeps_are_sent_one_by_one(controlled: Page, recorder: Recorder) -> None:
    controlled.locator("[data-control=keys]").click()
    keys = controlled.get_by_role("toolbar", name="Keys")
    for name in ("Esc", "Tab"):
        keys.get_by_role("button", name=name, exact=True).click()
    keys.get_by_role("button", name="F1–F12").click()
    keys.get_by_role("button", name="F5", exact=True).click()
    keys.get_by_role("button", name="Ctrl Alt Del").click()
    wanted = ["Escape", "Tab", "F5", "Control_L", "Alt_L", "Delete"]
    recorder.until(lambda events: pressed(events) == wanted)


def test_a_held_key_holds_until_it_is_let_go_or_control_is(
    controlled: Page, recorder: Recorder, looker: Looker
) -> None:
    controlled.locator("[data-control=keys]").click()
    keys = controlled.get_by_role("toolbar", name="Keys")
    hold = keys.get_by_role("button", name="Ctrl", exact=True)
    hold.click()
    expect(hold).to_have_attribute("aria-pressed", "true")
    controlled.locator(CANVAS).focus()
    controlled.keyboard.press("c")
    [c] = [one for one in recorder.until(lambda all_: "c" in pressed(all_)) if one[:2] == ("KeyPress", "c")]
    assert c.state & CONTROLLED
    hold.click()
    recorder.until(lambda events: ("KeyRelease", "Control_L") in [event[:2] for event in events])
    keys.get_by_role("button", name="Super").click()
    recorder.until(lambda events: "Super_L" in pressed(events))
    assert looker.keys_down() == 1
    controlled.get_by_role("button", name="Give back").click()
    recorder.until(lambda events: ("KeyRelease", "Super_L") in [event[:2] for event in events])
    expect(keys).to_be_hidden()
    assert looker.keys_down() == 0


def test_a_phones_keyboard_writes_on_the_desktop(
    phone: BrowserContext, site: ContentSite, session: Session, recorder: Recorder
) -> None:
    page = taken(shown(phone, site, session))
    page.locator("[data-control=keys]").tap()
    page.get_by_role("button", name="Keyboard", exact=True).tap()
    field = page.get_by_label("Keyboard of the desktop")
    expect(field).to_be_focused()
    # As phones write: no keys, only text, in part composed, and taken back in between.
    page.keyboard.insert_text("hé")
    page.keyboard.insert_text("日")
    recorder.until(lambda events: text_of(events) == "hé日")
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    recorder.until(lambda events: pressed(events)[-2:] == ["BackSpace", "Return"])
    composed(page, "ni", "你")
    recorder.until(lambda events: text_of(events[-40:]).endswith("你"))
    assert pressed(recorder.events()).count("BackSpace") == 3
    assert not scrolls_sideways(page)


def text_of(events: list[Recorded]) -> str:
    return "".join(event.text for event in events if event.kind == "KeyPress" and event.text.isprintable())


def composed(page: Page, first: str, then: str) -> None:
    """What an input method does: writes something, and puts something else in its place."""
    cdp = page.context.new_cdp_session(page)
    cdp.send(
        "Input.imeSetComposition", {"text": first, "selectionStart": len(first), "selectionEnd": len(first)}
    )
    cdp.send("Input.insertText", {"text": then})


def size_of(page: Page) -> tuple[int, int]:
    found = page.locator(CANVAS).evaluate("canvas => [canvas.width, canvas.height]")
    return found[0], found[1]


def until(page: Page, true: Callable[[], bool], *, seconds: float = 6) -> None:
    for _ in range(int(seconds * 20)):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come true")


def test_desktop_takes_the_size_of_its_place(controlled: Page) -> None:
    choose(controlled, "match")
    stage = controlled.locator(".viewer-stage").evaluate("stage => [stage.clientWidth, stage.clientHeight]")
    until(controlled, lambda: size_of(controlled) == pytest.approx(stage, abs=1))


def test_desktop_that_takes_no_other_size_is_said_to_and_fitted(
    context: BrowserContext, site: ContentSite, tmp_path: Path
) -> None:
    with running_xvnc(tmp_path, geometry=SIZE, pattern=True, flags=["-AcceptSetDesktopSize=0"]) as stubborn:
        page = taken(shown(context, site, running(site, stubborn)))
        choose(page, "match")
        expect(page.locator(".viewer-news")).to_contain_text("does not take another size")
        assert size_of(page) == (800, 600)
        expect(page.locator(".viewer-stage")).to_have_attribute("data-mode", "fit")


def test_a_watcher_is_told_that_he_cannot_resize_and_moves_a_large_picture_by_dragging_it(
    page: Page, recorder: Recorder
) -> None:
    page.set_viewport_size({"width": 1000, "height": 560})
    page.locator("[data-control=more]").click()
    expect(page.locator("[data-item=match]")).to_contain_text("Take control first.")
    page.locator("[data-item=actual]").click()
    canvas = page.locator(CANVAS)
    box, place = canvas.bounding_box(), page.locator(".viewer-stage").bounding_box()
    assert box is not None
    assert place is not None
    assert (box["width"], box["height"]) == size_of(page)
    assert box["height"] > place["height"]
    page.mouse.move(place["x"] + 200, place["y"] + 200)
    page.mouse.down()
    page.mouse.move(place["x"] + 200, place["y"] + 120, steps=4)
    page.mouse.up()
    moved = canvas.bounding_box()
    assert moved is not None
    assert moved["y"] == pytest.approx(box["y"] - 80, abs=2)
    # Nobody had control of it, and nobody has now: it was not a click on the desktop.
    assert not [event for event in recorder.events() if event.kind.startswith("Button")]


def test_a_screenshot_is_the_whole_picture_named_after_session_and_time(page: Page, session: Session) -> None:
    page.locator("[data-control=more]").click()
    with page.expect_download() as saving:
        page.locator("[data-item=screenshot]").click()
    name = saving.value.suggested_filename
    assert name.startswith(f"{session.id[:8]}-20")
    assert name.endswith(".png")
    picture = Image.open(io.BytesIO(Path(saving.value.path()).read_bytes()))
    assert picture.size == size_of(page)
    colours = picture.convert("RGB").getcolors(1 << 16)
    assert colours is not None
    assert len(colours) >= 2


def test_figures_of_the_connection_are_measured_on_demand(page: Page, xvnc: Xvnc) -> None:
    choose(page, "figures")
    figures = page.get_by_role("region", name="Connection")
    expect(figures.locator("[data-figure='Round trip'] dd")).to_have_text(pattern(r"\d+ ms"))
    expect(figures.locator("[data-figure=Pictures] dd")).to_have_text("0 a second")
    expect(figures.locator("[data-figure=Connected] dd")).to_have_text(pattern(r"for \d+ s"))
    figures.get_by_role("button", name="Close").click()
    expect(figures).to_be_hidden()


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def test_a_renewal_shows_the_new_end(page: Page, site: ContentSite, session: Session) -> None:
    expect(page.locator("[data-end=Ends]")).to_contain_text("in 9 min")
    choose(page, "renew")
    dialog = page.get_by_role("dialog", name="Renew this desktop")
    expect(dialog).to_contain_text("it ends in 9 min")
    dialog.get_by_label("From now it lives for").select_option("4 hours")
    dialog.get_by_role("button", name="Renew").click()
    expect(page.locator(".viewer-news")).to_contain_text(re.compile("It ends in [34] h, at"))
    expect(page.locator("[data-end=Ends]")).to_contain_text(re.compile("in [34] h"))
    before = site.store.fleet.get(session.id).expires_at
    choose(page, "renew")
    dialog.get_by_label("From now it lives for").select_option("1 day")
    dialog.get_by_role("button", name="Renew").click()
    expect(dialog.get_by_role("alert")).to_be_visible()
    assert site.store.fleet.get(session.id).expires_at == before


def test_who_watches_is_named_on_demand(
    page: Page, context: BrowserContext, site: ContentSite, session: Session
) -> None:
    line = page.locator(".viewer-watchers")
    expect(line).to_have_text("1 watching")
    line.click()
    names = page.get_by_role("dialog", name="Who is watching")
    expect(names.locator("li")).to_have_count(1)
    expect(names).to_contain_text("tests")
    page.keyboard.press("Escape")
    expect(names).to_be_hidden()
    expect(line).to_be_focused()


def test_a_call_for_a_person_is_shown_with_its_reason_and_answered(
    page: Page, site: ContentSite, session: Session
) -> None:
    complaints = Complaints(page)
    reason = "Sign in at the bank <img src=x onerror=alert(1)>"
    ask = """([id, reason]) => fetch(`/api/v1/sessions/${id}/help`, {
        method: "PUT", headers: {"Content-Type": "application/json"}, body: JSON.stringify({reason}),
    }).then(answer => answer.status)"""
    assert page.evaluate(ask, [session.id, reason]) == 200
    help_ = page.get_by_role("region", name="Needs a person")
    expect(help_).to_contain_text(reason)
    help_.get_by_role("button", name="Done").click()
    expect(help_).to_be_hidden()
    assert site.store.fleet.get(session.id).help_reason is None
    assert complaints.heard == []


def test_compact_has_all_of_it_in_its_menu_and_fills_the_screen_from_there(page: Page) -> None:
    page.evaluate(
        "() => { const viewer = document.querySelector('sandbox-viewer');"
        " viewer.removeAttribute('fill'); viewer.setAttribute('compact', '');"
        " viewer.style.maxInlineSize = '420px'; }"
    )
    viewer = page.locator("sandbox-viewer")
    box = viewer.bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (420, 300)
    visible = [one for one in page.locator(".viewer-controls > *").all() if one.is_visible()]
    assert [one.get_attribute("data-control") for one in visible] == ["fullscreen", "more"]
    page.locator("[data-control=more]").click()
    page.locator("[data-item=fit]").wait_for()
    items = [one.get_attribute("data-item") for one in page.locator(".viewer-menu [data-item]").all()]
    assert items == [
        "fit", "actual", "match", "screenshot", "figures", "diagnosis", "renew",
        "clipboard", "keys", "refresh", "tab", "share", "terminate",
    ]  # fmt: skip
    assert_accessible(page)
    page.locator("[data-item=share]").click()
    expect(page.get_by_role("dialog", name="Share this desktop")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("[data-control=fullscreen]").click()
    page.wait_for_function("() => document.fullscreenElement?.localName === 'sandbox-viewer'")
    page.wait_for_function("() => document.querySelector('sandbox-viewer').clientWidth === innerWidth")
    expect(page.locator("[data-control=refresh]")).to_be_visible()
    page.evaluate("document.exitFullscreen()")
    page.wait_for_function("() => document.querySelector('sandbox-viewer').clientWidth <= 420")


def test_menu_and_panels_work_by_keyboard_alone(controlled: Page) -> None:
    controlled.locator("[data-control=more]").focus()
    controlled.keyboard.press("Enter")
    expect(controlled.locator("[data-item=fit]")).to_be_focused()
    controlled.keyboard.press("ArrowDown")
    controlled.keyboard.press("Enter")
    expect(controlled.locator(".viewer-stage")).to_have_attribute("data-mode", "actual")
    controlled.keyboard.press("Control+Alt+Home")
    controlled.locator("[data-control=more]").focus()
    controlled.keyboard.press("Enter")
    expect(controlled.locator("[data-item=actual]")).to_have_attribute("aria-checked", "true")
    controlled.keyboard.press("Escape")
    expect(controlled.locator("[data-control=more]")).to_be_focused()
    controlled.locator("[data-control=keys]").focus()
    controlled.keyboard.press("Enter")
    expect(controlled.get_by_role("button", name="Ctrl", exact=True)).to_be_focused()
    controlled.keyboard.press("Escape")
    expect(controlled.locator("[data-control=keys]")).to_be_focused()


def test_on_a_phone_every_target_is_large_enough_and_nothing_scrolls_sideways(
    phone: BrowserContext, site: ContentSite, session: Session
) -> None:
    page = taken(shown(phone, site, session))
    page.locator("[data-control=keys]").tap()
    page.locator("[data-control=more]").tap()
    small = page.evaluate(
        """() => [...document.querySelectorAll("sandbox-viewer :is(button, a, select)")]
            .filter(one => one.getClientRects().length)
            .map(one => [one.getBoundingClientRect(), one.outerHTML.slice(0, 120)])
            .filter(([box]) => box.height < 44 || box.width < 44).map(([, html]) => html)"""
    )
    assert small == []
    assert not scrolls_sideways(page)
    assert canvas_colours(page) >= 2


def test_who_may_only_watch_is_offered_nothing_that_acts(
    context: BrowserContext, site: ContentSite, session: Session
) -> None:
    page = shown(context, site, session, Role.WATCHER)
    for control in ("clipboard", "keys", "share", "terminate"):
        expect(page.locator(f"[data-control={control}]")).to_be_hidden()
    page.locator("[data-control=more]").click()
    expect(page.locator("[data-item=screenshot]")).to_be_visible()
    expect(page.locator("[data-item=renew]")).to_have_count(0)
