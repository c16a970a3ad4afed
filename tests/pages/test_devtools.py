"""DevTools the whole way: a real Chromium behind a real relay, viewer and Caddy, and another in front.

Both modes of the content domain, the second with names and TLS as on the internet. Stand-in, by name: a
`TinyOpenSandbox`; the real server's part is in `tests/worker/test_devtools.py`.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Page, Playwright, expect

from tests.browser import Complaints, launched, new_context, sign_in
from tests.chromium_in_a_sandbox import InnerChromium, TinyOpenSandbox, inner_chromium, tiny_opensandbox
from tests.pages.content_site import BELOW, DOMAIN, PUBLIC_APART, PUBLIC_DOMAIN, ContentSite
from tests.pages.test_viewer_element import soon
from tests.relay_process import PUBLISH_ADDRESS, RelayProcess, Xvnc, running_relay
from viewer.model import Role, Session
from viewer.relay.answers import CloseCode, StreamInfo
from viewer.relay_client import RelayClient

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(120)]

FRAME = ".devtools-stage iframe"
NAMES = ", ".join(f"MAP *.{name} 127.0.0.1" for name in (PUBLIC_DOMAIN, "example.com", PUBLIC_APART))


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with launched(playwright, f"--host-resolver-rules={NAMES}") as started:
        yield started


@pytest.fixture(scope="module")
def inner() -> Iterator[InnerChromium]:
    with inner_chromium() as running:
        yield running


@pytest.fixture(scope="module")
def opensandbox() -> Iterator[TinyOpenSandbox]:
    with tiny_opensandbox() as running:
        yield running


@pytest.fixture(scope="module")
def relay(opensandbox: TinyOpenSandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("relay")
    with running_relay(folder, opensandbox_url=opensandbox.url, publish_address=PUBLISH_ADDRESS) as running:
        yield running
    assert "Traceback" not in running.log.read_text()


@pytest.fixture(
    scope="module", params=[(DOMAIN, BELOW), (PUBLIC_DOMAIN, PUBLIC_APART)], ids=["below", "apart"]
)
def site(
    request: pytest.FixtureRequest,
    inner: InnerChromium,
    relay: RelayProcess,
    tmp_path_factory: pytest.TempPathFactory,
    built_pages: None,
) -> Iterator[ContentSite]:
    domain, content = request.param
    made = ContentSite(
        tmp_path_factory.mktemp("site"), content, relay=relay, domain=domain, tls=domain != DOMAIN
    )
    made.more["images"] = [
        {"name": "desktop", "uri": "deskfleet/desktop"},
        {"name": "chrome", "uri": "deskfleet/chrome", "devtools": True, "devtools_port": inner.port},
    ]
    with made as running:
        yield running


@pytest.fixture(scope="module")
def session(site: ContentSite, xvnc: Xvnc) -> Session:
    return site.running(xvnc.port, image="chrome")


@pytest.fixture
def context(browser: Browser, site: ContentSite) -> Iterator[BrowserContext]:
    # Wide: in a narrow one the front-end folds its tabs away.
    opened = new_context(browser, trusting=True, size=(2400, 1000))
    yield opened
    opened.close()


@pytest.fixture
def tab(context: BrowserContext, site: ContentSite, session: Session) -> Page:
    """An operator looks at the desktop."""
    page = context.new_page()
    sign_in(page, site.origin, site.key(Role.OPERATOR))
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    expect(page.locator(".viewer-cover")).to_be_hidden()
    return page


def opened(tab: Page, site: ContentSite, session: Session) -> Frame:
    tab.get_by_role("tab", name="DevTools").click()
    tab.wait_for_selector(FRAME, state="attached")
    handle = tab.query_selector(FRAME)
    frame = handle.content_frame() if handle else None
    assert frame is not None
    frame.wait_for_url(f"{site.content_origin(session)}/devtools/inspector.html?**")
    return frame


def evaluated(devtools: Frame | Page, expression: str) -> None:
    """Typed into the console of the front-end."""
    # Where it lays itself out narrowly, the tab of the console is folded away.
    devtools.get_by_role("tab", name="Elements").first.wait_for()
    devtools.locator("body").press("Control+Backquote")
    prompt = devtools.get_by_role("textbox", name=re.compile("Console prompt")).first
    prompt.click()
    page = devtools.page if isinstance(devtools, Frame) else devtools
    page.keyboard.type(expression)
    page.keyboard.press("Enter")


def in_a_tab(tab: Page, site: ContentSite, session: Session) -> Page:
    tab.get_by_role("tab", name="DevTools").click()
    with tab.context.expect_page() as opening:
        tab.get_by_role("link", name="Open in a tab").click()
    alone = opening.value
    alone.wait_for_url(f"{site.content_origin(session)}/devtools/inspector.html?**")
    return alone


def shown(tab: Page, site: ContentSite, session: Session) -> Frame | Page:
    """Wherever this browser lets them keep what they must: in a frame of the same site, else in a tab."""
    return opened(tab, site, session) if site.content_domain == BELOW else in_a_tab(tab, site, session)


def test_front_end_drives_the_browser_in_the_desktop(
    tab: Page, site: ContentSite, session: Session, inner: InnerChromium, opensandbox: TinyOpenSandbox
) -> None:
    complaints = Complaints(tab)
    opensandbox.seen.clear()
    title = f"by hand, {site.content_domain}"
    evaluated(shown(tab, site, session), f"document.title = '{title}'")
    inner.wait_for_title(title)
    assert complaints.but("Blocked autofocusing", "Failed to read the 'localStorage'") == []
    # The desktop has stayed connected meanwhile.
    assert tab.locator("sandbox-viewer").get_attribute("data-link") == "connected"
    both_stay_alive(tab, site, title)
    for path, headers in opensandbox.seen:
        assert path == "/json/list" or path.startswith("/devtools/")
        assert not {"cookie", "authorization", "referer", "origin", "x-df-grant"} & set(headers)


def both_stay_alive(tab: Page, site: ContentSite, title: str) -> None:
    """What was typed into the console is still there after a look at the desktop."""
    tab.get_by_role("tab", name="Desktop").click()
    expect(tab.locator(".viewer-stage canvas")).to_be_visible()
    expect(tab.locator(FRAME)).to_be_hidden()
    if site.content_domain != BELOW:
        return
    expect(tab.locator(FRAME)).to_have_count(1)
    tab.get_by_role("tab", name="Desktop").press("ArrowRight")
    expect(tab.get_by_role("tab", name="DevTools")).to_be_focused()
    expect(tab.frame_locator(FRAME).get_by_text(title).first).to_be_visible()
    tab.get_by_role("tab", name="Desktop").click()


def test_frame_in_which_they_would_stay_blank_says_so(tab: Page, site: ContentSite, session: Session) -> None:
    if site.content_domain == BELOW:
        opened(tab, site, session)
        expect(tab.locator(".devtools-note")).to_be_hidden()
    else:
        tab.get_by_role("tab", name="DevTools").click()
        expect(tab.locator(".devtools-note")).to_contain_text("In a tab of its own they work.")
        expect(tab.locator(FRAME)).to_have_count(0)


def test_frame_is_kept_in_its_place_and_shown_to_nobody_else(
    tab: Page, site: ContentSite, session: Session
) -> None:
    with tab.expect_response(re.compile("/devtools/")) as answering:
        tab.get_by_role("tab", name="DevTools").click()
    headers = answering.value.all_headers()
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.split("frame-ancestors ")[1] == " ".join(origins(site))
    assert (headers["referrer-policy"], headers["origin-agent-cluster"]) == ("no-referrer", "?1")
    assert "set-cookie" not in headers


def origins(site: ContentSite) -> list[str]:
    return [site.origin, *([f"http://localhost:{site.port}"] if site.domain == DOMAIN else [])]


def test_who_may_only_watch_is_offered_none(
    context: BrowserContext, site: ContentSite, session: Session
) -> None:
    page = context.new_page()
    sign_in(page, site.origin, site.key(Role.WATCHER))
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    expect(page.locator(".viewer-cover")).to_be_hidden()
    expect(page.locator(".viewer-tabs")).to_be_hidden()
    page.goto(f"{site.origin}/open/{session.id}?page=devtools")
    expect(page.locator("#enter-detail")).to_contain_text("operator")


def test_open_ones_can_be_cut_and_whoever_is_signed_out_sees_it(
    context: BrowserContext, site: ContentSite, session: Session, relay: RelayProcess
) -> None:
    page = context.new_page()
    key = site.store.accounts.add_key("acme", Role.OPERATOR, "leaves")
    sign_in(page, site.origin, key.text)
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    devtools = shown(page, site, session)
    devtools.get_by_role("tab", name="Console").first.wait_for()
    with closing(RelayClient("here", url=relay.url, key=relay.key)) as worker:
        [stream] = until_attached(worker)
        assert (stream.may_control, stream.under_lease, stream.session_id) == (True, True, session.id)
        worker.close_stream(stream, CloseCode.REVOKED, "somebody closed it")
        expect(devtools.get_by_text("Debugging connection was closed")).to_be_visible()
        assert soon(page, lambda: not devtools_streams(worker))
    if site.content_domain == BELOW:
        site.store.accounts.revoke_key(key.id)
        page.wait_for_url(f"{site.origin}/signin**")


def until_attached(worker: RelayClient) -> list[StreamInfo]:
    """The WebSockets of DevTools, as soon as there is one."""
    for _ in range(100):
        found = devtools_streams(worker)
        if found:
            break
        time.sleep(0.1)
    return found


def devtools_streams(worker: RelayClient) -> list[StreamInfo]:
    return [one for one in worker.streams() if one.kind == "devtools"]


COOKIE = re.compile(r"(__Host-deskfleet-entry=[^;]+)")


def test_nothing_but_the_front_end_and_the_targets_is_given_out(
    site: ContentSite, session: Session, inner: InnerChromium, opensandbox: TinyOpenSandbox
) -> None:
    """By hand, because browsers and clients of libraries mend such paths."""
    if site.domain != DOMAIN:
        pytest.skip("the same edge and viewer; plain http is easier written by hand")
    target = inner.page()["id"]
    host = site.content_origin(session).removeprefix("http://")
    cookie = entered(site, session, Role.OPERATOR)
    opensandbox.seen.clear()
    for path in (
        "/json", "/json/list", "/json/version", "/json/new?x", f"/json/close/{target}", "/devtools/browser/1",
        "/devtools/../json/list", "/devtools/%2e%2e/json/list", "/devtools//json/list", "/devtools/%6ason",
        "//devtools/inspector.html", "/DevTools/inspector.html", f"/devtools/page/{target}", "/",
    ):  # fmt: skip
        assert raw(site, host, path, cookie) in (401, 404), path
    for path in ("/devtools/browser/1", f"/devtools/page/{target}/", f"/devtools/Page/{target}"):
        assert raw(site, host, path, cookie, *upgrade(f"http://{host}")) in (401, 404), path
    assert opensandbox.seen == []
    for origin in (site.origin, "http://evil.example", "null", f"http://x.{site.content_domain}:{site.port}"):
        assert raw(site, host, f"/devtools/page/{target}", cookie, *upgrade(origin)) == 403
    assert raw(site, host, "/devtools/inspector.html", "X: y") == 401
    watcher = site.store.accounts.sign_in_with_key(site.key(Role.WATCHER))
    assert raw(site, host, "/devtools/inspector.html", f"Cookie: __Host-deskfleet={watcher}") == 401
    assert opensandbox.seen == []
    assert raw(site, host, f"/devtools/page/{target}", cookie, *upgrade(f"http://{host}")) == 101
    assert raw(site, host, "/devtools/inspector.html", cookie, "Service-Worker: script") == 403
    assert raw(site, host, "/devtools/inspector.html", cookie) == 200


def entered(site: ContentSite, session: Session, role: Role) -> str:
    with httpx.Client(trust_env=False) as http:
        base, key = f"http://127.0.0.1:{site.port}", {"Authorization": f"Bearer {site.key(role)}"}
        way = f"{base}/api/v1/sessions/{session.id}/entries"
        host = site.origin.removeprefix("http://")
        made = http.post(way, json={"page": "devtools"}, headers={**key, "Host": host}).json()
        door = {"Host": site.content_origin(session).removeprefix("http://")}
        answer = http.post(f"{base}/.deskfleet/enter", data={"ticket": made["ticket"]}, headers=door)
    found = COOKIE.match(answer.headers["Set-Cookie"])
    assert found is not None
    return f"Cookie: {found[1]}"


def raw(site: ContentSite, host: str, path: str, *lines: str) -> int:
    """The status of the answer."""
    request = "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as edge:
        edge.sendall(request.encode())
        return int(edge.makefile("rb").readline().split()[1])


def upgrade(origin: str) -> tuple[str, ...]:
    return (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Origin: {origin}",
    )
