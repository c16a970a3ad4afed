"""Desktops with a page of their own: real Chromium, real Caddy, both modes of the content domain."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Frame, Page, expect

from tests.browser import Complaints, new_context, sign_in, wait_for_picture
from tests.pages.content_site import APART, BELOW, ContentSite
from viewer.access import ENTRY_COOKIE
from viewer.model import Role, Session, Status

pytestmark = [pytest.mark.browser, pytest.mark.real]

COVER = ".viewer-cover"
FRAME = ".viewer-stage iframe"
HOSTILE = """<!doctype html><title>hostile</title><p id="out">waiting</p><script>
async function attempt(what) {
  try { return String(await what()); } catch (error) { return "refused: " + error.name; }
}
const forged = "__Host-deskfleet=stolen; Secure; Path=/";
const withCookies = {credentials: "include"};
const create = {...withCookies, method: "POST", mode: "no-cors", body: "{}"};
(async () => {
  const found = {
    cookies: document.cookie,
    toss: await attempt(() => (document.cookie = forged + "; Domain=DOMAIN", document.cookie)),
    parent: await attempt(() => parent.document.title),
    location: await attempt(() => parent.location.href),
    read: await attempt(async () => (await fetch("VIEWER/api/v1/me", withCookies)).status),
    blind: await attempt(async () => (await fetch("VIEWER/api/v1/sessions", create)).type),
    worker: await attempt(async () => (await navigator.serviceWorker.register("/dist/client.js")).scope),
    sibling: await attempt(async () => (await fetch("SIBLING/", withCookies)).status),
    open: await attempt(() => window.open("VIEWER/sandboxes")),
    top: await attempt(() => (top.location.href = "VIEWER/nowhere")),
  };
  document.querySelector("#out").textContent = JSON.stringify(found);
})();
</script>"""


@pytest.fixture(scope="module", params=[BELOW, APART], ids=["below", "apart"])
def content_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, built_pages: None
) -> Iterator[ContentSite]:
    with ContentSite(tmp_path_factory.mktemp("site"), request.param) as running:
        yield running


@pytest.fixture
def context(browser: Browser, content_site: ContentSite) -> Iterator[BrowserContext]:
    opened = new_context(browser)
    yield opened
    opened.close()
    content_site.relay.headers.clear()


@pytest.fixture
def tab(context: BrowserContext, content_site: ContentSite) -> Page:
    """An operator is signed in, nothing is opened yet."""
    page = context.new_page()
    sign_in(page, content_site.origin, content_site.key(Role.OPERATOR))
    return page


@pytest.mark.parametrize(("role", "shared"), [(Role.WATCHER, False), (Role.OPERATOR, True)])
def test_desktops_page_is_offered_the_clipboard_of_those_who_control_it(
    context: BrowserContext, content_site: ContentSite, role: Role, shared: bool
) -> None:
    page = context.new_page()
    sign_in(page, content_site.origin, content_site.key(role))
    shown(page, content_site, content_site.desktop("studio"))
    offered = page.locator(FRAME).get_attribute("allow") or ""
    assert f"fullscreen {content_site.content_origin(content_site.desktop('studio'))}" in offered
    assert ("clipboard-read" in offered, "clipboard-write" in offered) == (shared, shared)


def shown(page: Page, site: ContentSite, session: Session) -> Frame:
    """The desktop's own page, once it has loaded in its frame."""
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    page.wait_for_selector(FRAME, state="attached")
    handle = page.query_selector(FRAME)
    frame = handle.content_frame() if handle else None
    assert frame is not None
    frame.wait_for_url(f"{site.content_origin(session)}/**")
    return frame


def test_desktops_own_page_shows_in_a_frame_and_tells_its_state(tab: Page, content_site: ContentSite) -> None:
    complaints = Complaints(tab)
    session = content_site.desktop("studio")
    frame = shown(tab, content_site, session)
    expect(tab.locator(COVER)).to_be_hidden()
    expect(frame.locator("#status")).to_have_text("connected")
    expect(tab.locator(".viewer-badge")).to_have_text("RunningKasmVNC")
    expect(tab.locator(f"[data-session='{session.id}'] .tag")).to_have_text("KasmVNC")
    assert content_site.relay.grants[-1].may_control
    assert complaints.heard == []


def test_keys_typed_in_the_frame_reach_the_desktop(tab: Page, content_site: ContentSite) -> None:
    frame = shown(tab, content_site, content_site.desktop("studio"))
    expect(tab.locator(COVER)).to_be_hidden()
    # Nobody controls this desktop, so that the first click takes it.
    tab.locator(".viewer-screen").click()
    expect(tab.locator(".lease-state")).to_have_text("You have control")
    frame.locator("#screen").click()
    tab.keyboard.type("hi")
    expect(frame.locator("#echo")).to_have_text("h\ni\n")


def test_neither_cookies_nor_credentials_reach_the_desktop(tab: Page, content_site: ContentSite) -> None:
    content_site.relay.seen.clear()
    shown(tab, content_site, content_site.desktop("studio"))
    expect(tab.locator(COVER)).to_be_hidden()
    assert content_site.relay.seen
    for _, headers in content_site.relay.seen:
        assert not {"cookie", "authorization", "referer"} & {name.lower() for name in headers}


def test_watchers_frame_is_for_looking_only(context: BrowserContext, content_site: ContentSite) -> None:
    page = context.new_page()
    sign_in(page, content_site.origin, content_site.key(Role.WATCHER))
    frame = shown(page, content_site, content_site.desktop("studio"))
    expect(page.locator(COVER)).to_be_hidden()
    assert "view_only=true" in frame.url
    assert not content_site.relay.grants[-1].may_control


def test_cut_connection_is_said_and_mended_with_another_ticket(tab: Page, content_site: ContentSite) -> None:
    frame = shown(tab, content_site, content_site.desktop("studio"))
    expect(tab.locator(COVER)).to_be_hidden()
    content_site.cut()
    expect(tab.locator(COVER)).to_contain_text("The desktop closed the connection")
    expect(tab.locator(COVER)).to_be_hidden(timeout=15_000)
    assert frame.is_detached()
    tab.get_by_role("button", name="Reconnect").click()
    expect(tab.locator(COVER)).to_be_visible()
    expect(tab.locator(COVER)).to_be_hidden()


def test_what_cannot_be_done_from_here_is_said(tab: Page, content_site: ContentSite) -> None:
    # One that no other test has taken control of.
    shown(tab, content_site, content_site.desktop("untaken"))
    expect(tab.locator(COVER)).to_be_hidden()
    tab.get_by_role("button", name="Take control").click()
    expect(tab.locator(".lease-state")).to_have_text("You have control")
    tab.locator("[data-control=clipboard]").click()
    expect(tab.get_by_role("region", name="Clipboard")).to_contain_text("alike by itself")
    tab.keyboard.press("Escape")
    tab.locator("[data-control=keys]").click()
    expect(tab.get_by_role("toolbar", name="Keys")).to_contain_text("cannot be sent to it from here")
    choose(tab, "figures")
    expect(tab.get_by_role("region", name="Connection")).to_contain_text("keeps its frames and round trips")


def choose(tab: Page, item: str) -> None:
    tab.locator("[data-control=more]").click()
    tab.locator(f"[data-item={item}]").click()


def test_how_its_picture_is_shown_is_asked_of_its_own_client(tab: Page, content_site: ContentSite) -> None:
    assert "resize=scale" in shown(tab, content_site, content_site.desktop("studio")).url
    expect(tab.locator(COVER)).to_be_hidden()
    choose(tab, "actual")
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.viewer-stage iframe')].length === 1"
        " && document.querySelector('sandbox-viewer').dataset.link === 'connected'"
    )
    assert any("resize=off" in frame.url for frame in tab.frames)


def test_last_picture_of_the_capture_stays_grey_while_it_is_cut(tab: Page, content_site: ContentSite) -> None:
    """Stand-in: the test answers for the capture; a StubRelay has none."""
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((64, 40)).convert("RGB").save(picture, "JPEG")
    item = {"result": "new", "data": base64.b64encode(picture.getvalue()).decode()}
    tab.route("**/api/v1/thumbnails", lambda route: route.fulfill(json={"items": [item]}))
    with tab.expect_response("**/api/v1/thumbnails"):
        shown(tab, content_site, content_site.desktop("studio"))
    expect(tab.locator(COVER)).to_be_hidden()
    tab.route("**/entries", lambda route: route.abort())
    content_site.cut()
    expect(tab.locator(COVER)).to_contain_text("closed the connection")
    expect(tab.locator(".viewer-last-frame")).to_be_visible()
    wait_for_picture(tab, ".viewer-last-frame", colours=9)
    tab.unroute("**/entries")
    expect(tab.locator(COVER)).to_be_hidden(timeout=15_000)
    expect(tab.locator(".viewer-last-frame")).to_be_hidden()


def test_ended_desktop_closes_its_page(tab: Page, content_site: ContentSite) -> None:
    session = content_site.desktop("brief")
    frame = shown(tab, content_site, session)
    expect(tab.locator(COVER)).to_be_hidden()
    address = frame.url
    content_site.store.fleet.transition(session.id, Status.TERMINATED)
    expect(tab.locator(COVER)).to_contain_text("The desktop has ended")
    answer = tab.goto(address)
    assert answer is not None
    assert answer.status == 401
    expect(tab.locator("h1")).to_have_text("This page is closed")


def test_state_is_believed_from_the_frame_at_its_origin_alone(tab: Page, content_site: ContentSite) -> None:
    session = content_site.desktop("silent", page="<!doctype html><title>says nothing</title>")
    tab.clock.install()
    shown(tab, content_site, session)
    tab.evaluate("postMessage({action: 'connection_state', value: 'connected'}, '*')")
    tab.evaluate(
        """() => { const other = document.createElement("iframe"); document.body.append(other);
        other.contentWindow.parent.postMessage({action: "connection_state", value: "connected"}, "*"); }"""
    )
    tab.clock.run_for(500)
    expect(tab.locator(COVER)).to_contain_text("Connecting…")
    tab.clock.fast_forward(20_000)
    expect(tab.locator(COVER)).to_contain_text("does not answer")


def test_desktop_opens_in_a_tab_of_its_own_with_a_ticket_of_its_own(
    tab: Page, context: BrowserContext, content_site: ContentSite
) -> None:
    session = content_site.desktop("studio")
    shown(tab, content_site, session)
    expect(tab.locator(COVER)).to_be_hidden()
    with context.expect_page() as opening:
        tab.get_by_role("link", name="Open in a new tab").click()
    expect(opening.value.locator(COVER)).to_be_hidden()
    alone = context.new_page()
    alone.goto(f"{content_site.origin}/open/{session.id}")
    alone.wait_for_url(f"{content_site.content_origin(session)}/")
    expect(alone.locator("#status")).to_have_text("connected")


def test_address_of_the_frame_alone_opens_nothing(
    browser: Browser, tab: Page, content_site: ContentSite
) -> None:
    address = shown(tab, content_site, content_site.desktop("studio")).url
    stranger = new_context(browser)
    page = stranger.new_page()
    answer = page.goto(address)
    assert answer is not None
    assert answer.status == 401
    expect(page.get_by_role("link", name="Open it from Deskfleet")).to_be_visible()
    stranger.close()


def test_browser_that_keeps_no_cookie_in_frames_is_led_to_a_tab(tab: Page, content_site: ContentSite) -> None:
    session = content_site.desktop("studio")
    # As where third parties may store nothing, partitioned or not.
    tab.route(
        "**/.deskfleet/enter", lambda route: route.fulfill(status=303, headers={"Location": "/"}), times=1
    )
    tab.goto(f"{content_site.origin}/sandboxes/{session.id}")
    expect(tab.locator(COVER)).to_contain_text("keeps no cookie")
    with tab.context.expect_page() as opening:
        tab.get_by_role("link", name="Open in a tab").click()
    opening.value.wait_for_url(f"{content_site.content_origin(session)}/")


def test_hostile_page_in_the_frame_reaches_nothing_of_the_viewer(
    tab: Page, context: BrowserContext, content_site: ContentSite
) -> None:
    sibling = content_site.desktop("studio")
    shown(tab, content_site, sibling)
    page = HOSTILE.replace("VIEWER", content_site.origin).replace("DOMAIN", "deskfleet.localhost")
    page = page.replace("SIBLING", content_site.content_origin(sibling))
    session = content_site.desktop("hostile", page=page)
    before = [row.id for row in content_site.store.tenant("acme").list().items]
    frame = shown(tab, content_site, session)
    expect(frame.locator("#out")).to_contain_text("{", timeout=15_000)
    found = json.loads(frame.locator("#out").inner_text())
    assert (found["cookies"], found["toss"]) == ("", "")
    refused = {name for name, said in found.items() if said.startswith("refused")}
    assert refused == {"parent", "location", "read", "blind", "worker", "sibling", "top"}
    assert found["open"] == "null"
    assert tab.url == f"{content_site.origin}/sandboxes/{session.id}"
    assert len(context.pages) == 1
    assert [row.id for row in content_site.store.tenant("acme").list().items] == before
    mine = [cookie["name"] for cookie in context.cookies(content_site.origin)]
    assert mine == ["__Host-deskfleet"]


def test_page_that_clears_site_data_signs_nobody_out(
    tab: Page, context: BrowserContext, content_site: ContentSite
) -> None:
    content_site.relay.headers |= {
        "Clear-Site-Data": '"cookies", "storage"',
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "Alt-Svc": 'h3=":1"',
    }
    session = content_site.desktop("hostile", page="<!doctype html><title>clears</title>")
    shown(tab, content_site, session)
    names = {cookie["name"] for cookie in context.cookies()}
    assert names == {"__Host-deskfleet", ENTRY_COOKIE}
    tab.goto(f"{content_site.origin}/sandboxes")
    expect(tab).to_have_url(f"{content_site.origin}/sandboxes")


def test_other_sites_cannot_frame_a_desktops_page(tab: Page, content_site: ContentSite) -> None:
    studio = content_site.desktop("studio")
    shown(tab, content_site, studio)
    page = f"<!doctype html><iframe src='{content_site.content_origin(studio)}/'></iframe>"
    framing = shown(tab, content_site, content_site.desktop("framing", page=page))
    framing.wait_for_timeout(1000)
    [inner] = framing.child_frames
    assert "FakeKasmVNC" not in inner.content()


def test_service_opens_from_the_menu_and_its_own_address(
    tab: Page, context: BrowserContext, content_site: ContentSite
) -> None:
    content_site.service.seen.clear()
    tab.goto(f"{content_site.origin}/sandboxes")
    tab.locator("#services-menu summary").click()
    with context.expect_page() as opening:
        tab.get_by_role("link", name="wiki").click()
    service = opening.value
    service.wait_for_url(f"{content_site.service_origin}/")
    expect(service.get_by_role("heading")).to_have_text("wiki")
    expect(tab.locator("#services-menu .menu-panel")).to_be_hidden()
    assert "Cookie" not in content_site.service.seen[-1]
    context.clear_cookies(name=ENTRY_COOKIE)
    service.evaluate("sessionStorage.clear()")
    other = context.new_page()
    other.goto(f"{content_site.service_origin}/a?b=c")
    other.wait_for_url(f"{content_site.service_origin}/a?b=c")
    expect(other.locator("p")).to_have_text("/a?b=c")


def test_service_without_a_sign_in_leads_to_it_and_then_on(
    browser: Browser, content_site: ContentSite
) -> None:
    context = new_context(browser)
    page = context.new_page()
    page.goto(content_site.service_origin)
    page.wait_for_url(f"{content_site.origin}/signin?next=/services/wiki")
    page.get_by_role("button", name="Use an API key").click()
    page.get_by_label("API key").fill(content_site.key(Role.OPERATOR))
    page.keyboard.press("Enter")
    page.wait_for_url(f"{content_site.service_origin}/")
    context.close()
