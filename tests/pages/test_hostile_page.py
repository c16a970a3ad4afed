"""A page that is up to no good, in real Chromium: in a desktop's own origin, and on a site of others.

Both modes of the content domain: below the viewer's (plain HTTP, as the local site has it), and another
registrable domain (HTTPS by Caddy's own authority). What a shared site cannot prevent is listed in
docs/security.md; here the other mode shows it prevented.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Page, Playwright, expect

from tests.browser import launched, new_context, sign_in
from tests.pages.content_site import BELOW, ContentSite
from tests.relay_process import PUBLISH_ADDRESS, free_port
from viewer.access import COOKIE, ENTRY_COOKIE
from viewer.grants import DesktopSocket
from viewer.model import Role, Session

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(180)]

EVIL = "evil.example"
MODES = ("below", "apart")
FRAME, COVER = ".viewer-stage iframe", ".viewer-cover"
# What each page runs: `attempts` are tried one after the other, and all that came of them is shown as JSON.
PAGE = """<!doctype html><title>hostile</title><body><p id="out">waiting</p><script>
const viewer = VIEWER, viewerSocket = viewer.replace("http", "ws"), stream = STREAM, sibling = SIBLING;
const siblingSocket = sibling.replace("http", "ws"), local = LOCAL;
const withCookies = {credentials: "include"}, blindly = {credentials: "include", mode: "no-cors"};
const soon = () => new Promise((resolve) => setTimeout(resolve, 700));
function opens(make) {
  return new Promise((resolve) => {
    const opening = make();
    opening.onopen = () => resolve("open");
    opening.onmessage = () => resolve("message");
    opening.onerror = () => resolve("refused");
    setTimeout(() => resolve("silent"), 4000);
  });
}
async function framed(address) {
  const frame = document.createElement("iframe");
  document.body.append(frame);
  const loaded = new Promise((resolve) => { frame.onload = resolve; setTimeout(resolve, 3000); });
  frame.src = address;
  await loaded;
  try { return frame.contentDocument ? "its own" : "foreign"; } catch { return "foreign"; }
}
async function posted(address, fields) {
  const frame = document.createElement("iframe");
  frame.name = "f" + Math.random();
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: address, target: frame.name});
  for (const [name, value] of Object.entries(fields)) {
    const field = document.createElement("input");
    Object.assign(field, {name, value, type: "hidden"});
    form.append(field);
  }
  document.body.append(frame, form);
  form.submit();
  await soon();
  return "posted";
}
const attempts = {ATTEMPTS};
(async () => {
  const found = {};
  for (const [name, attempt] of Object.entries(attempts)) {
    try { found[name] = String(await attempt()); } catch (error) { found[name] = "refused"; }
  }
  document.querySelector("#out").textContent = JSON.stringify(found);
})();
</script>"""
# Of whoever is on another origin, wherever that is.
FROM_ELSEWHERE = """
  cookies: () => document.cookie,
  me: async () => (await fetch(viewer + "/api/v1/me", withCookies)).status,
  list: async () => (await fetch(viewer + "/api/v1/sessions", withCookies)).text(),
  page: async () => (await fetch(viewer + "/sandboxes", withCookies)).text(),
  events: () => opens(() => new EventSource(viewer + "/api/v1/events", {withCredentials: true})),
  stream: () => opens(() => new WebSocket(viewerSocket + stream, "binary")),
  sibling: async () => (await fetch(sibling + "/", withCookies)).status,
  siblingsSocket: () => opens(() => new WebSocket(siblingSocket + "/websockify", "binary")),
  end: async () => (await fetch(viewer + "/api/v1/sessions/terminate",
    {...withCookies, method: "POST", body: "{}"})).status,
  put: async () => (await fetch(viewer + "/api/v1/me/password",
    {...withCookies, method: "PUT", headers: {"Content-Type": "application/json"}, body: "{}"})).status,
  blindGet: async () => (await fetch(viewer + "/api/v1/events", blindly)).type,
  blindSibling: async () => (await fetch(sibling + "/", blindly)).type,
  endBlindly: async () => (await fetch(viewer + "/api/v1/sessions/terminate",
    {...blindly, method: "POST", body: '{"task_id": "t"}'})).type,
  signOutBlindly: async () => (await fetch(viewer + "/signout", {...blindly, method: "POST"})).type,
  beacon: () => navigator.sendBeacon(viewer + "/signout", "x"),
  framedViewer: () => framed(viewer + "/sandboxes"),
  framedSignIn: () => framed(viewer + "/signin"),
  framedSibling: () => framed(sibling + "/"),
  formSignOut: () => posted(viewer + "/signout", {}),
  formCreate: () => posted(viewer + "/api/v1/sessions", {wait: "false"}),
  formSignIn: () => posted(viewer + "/signin", {key: "df_aaaaaaaa_" + "x".repeat(43)}),
  formEntry: () => posted(sibling + "/.deskfleet/enter", {ticket: "x".repeat(43)}),
  script: () => new Promise((resolve, reject) => {
    const tag = document.createElement("script");
    tag.onload = () => resolve("loaded"); tag.onerror = reject;
    tag.src = viewer + "/api/v1/me"; document.head.append(tag);
  }),
"""
# Of a page that the viewer shows in a frame.
FROM_FRAME = (
    # Else the viewer waits for the desktop's state, and in the end takes the frame away.
    """
  lull: () => { parent.postMessage({action: "connection_state", value: "connected"}, "*"); return "lulled"; },
"""
    + FROM_ELSEWHERE
    + """
  parent: () => parent.document.title,
  location: () => parent.location.href,
  top: () => top.document.cookie,
  opener: () => opener,
  frameElement: () => frameElement,
  worker: async () => (await navigator.serviceWorker.register("/dist/client.js")).scope,
  domain: () => { document.domain = DOMAIN; return parent.document.title; },
  open: () => window.open(viewer + "/sandboxes"),
  openForm: () => { const form = document.createElement("form");
    Object.assign(form, {action: viewer + "/sandboxes", target: "_blank"});
    document.body.append(form); form.submit(); return "asked"; },
  navigate: () => { top.location.href = viewer + "/nowhere"; return "went"; },
  navigateParent: () => { parent.location.replace(viewer + "/nowhere"); return "went"; },
  say: () => { for (const value of ["connected", "<img src=x onerror=alert(1)>", {}, null, 7])
      for (const action of ["connection_state", "navigate", "ticket", "__proto__"])
        parent.postMessage({action, value, href: viewer + "/signout", url: "javascript:alert(1)"}, "*");
    for (let at = 0; at < parent.frames.length; at++) parent.frames[at].postMessage("x", "*");
    return "said"; },
  local: async () => (await fetch(local, blindly)).type,
  toss: () => { for (const path of ["/", "/sandboxes", "/api/v1"]) {
      document.cookie = `__Host-deskfleet=tossed; Secure; Path=${path}; Domain=${DOMAIN}`;
      document.cookie = `__Host-deskfleet-entry=tossed; Secure; Path=${path}; Domain=${DOMAIN}`;
      document.cookie = `__Host-deskfleet=tossed; Secure; Path=${path}`;
      document.cookie = `deskfleet=tossed; Secure; Path=${path}; Domain=${DOMAIN}`; }
    return document.cookie.includes("Host-deskfleet=tossed; D"); },
"""
)


@dataclass
class LocalServer:
    """LocalServer: what a sandbox serves on a port that is published on this machine; keeps the cookies that
    it is sent."""

    port: int = 0
    asked: int = 0
    cookies: list[str] = field(default_factory=list)


@contextmanager
def served(address: str, html: str = "") -> Iterator[LocalServer]:
    told = LocalServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked += 1
            if "Cookie" in self.headers:
                told.cookies.append(self.headers["Cookie"])
            body = html.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, 0), Handler) as server:
        told.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Knows where the example names are, and takes Caddy's own authority for one."""
    names = ("desk.example.com", "*.example.com", "*.example.net", EVIL)
    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in names)
    with launched(playwright, f"--host-resolver-rules={rules}", "--ignore-certificate-errors") as started:
        yield started


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def site(mode: str, tmp_path_factory: pytest.TempPathFactory, built_pages: None) -> Iterator[ContentSite]:
    folder = tmp_path_factory.mktemp("site")
    # The other one is HTTPS by Caddy's own authority, and its names are no names of this machine.
    sites = {
        "below": lambda: ContentSite(folder, BELOW),
        "apart": lambda: ContentSite(folder, "usercontent.example.net", domain="desk.example.com", tls=True),
    }
    with sites[mode]() as running:
        yield running


@pytest.fixture
def context(browser: Browser, site: ContentSite) -> Iterator[BrowserContext]:
    opened = new_context(browser)
    yield opened
    opened.close()
    site.relay.headers.clear()


@pytest.fixture
def tab(context: BrowserContext, site: ContentSite) -> Page:
    """An operator is signed in, nothing is opened yet."""
    page = context.new_page()
    sign_in(page, site.origin, site.key(Role.OPERATOR))
    return page


@pytest.fixture(scope="module")
def screen(site: ContentSite) -> Session:
    """A sandbox whose screen is a stream; nothing is behind it."""
    return site.running(free_port(), task_id="t")


def written(site: ContentSite, screen: Session, attempts: str, *, local: int = 1) -> str:
    known = {
        "VIEWER": site.origin,
        "STREAM": f"/stream/{screen.id}",
        "SIBLING": site.content_origin(site.desktop("studio")),
        "LOCAL": f"http://{PUBLISH_ADDRESS}:{local}/",
        "DOMAIN": site.domain,
    }
    page = PAGE.replace("{ATTEMPTS}", "{" + attempts + "}")
    for word in ("VIEWER", "STREAM", "SIBLING", "LOCAL"):
        page = page.replace(f"= {word}", f"= {json.dumps(known[word])}")
    return page.replace("<script>\n", f"<script>\nconst DOMAIN = {json.dumps(site.domain)};\n")


def shown(page: Page, site: ContentSite, session: Session) -> Frame:
    """The desktop's own page, in its frame."""
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    page.wait_for_selector(FRAME, state="attached")
    handle = page.query_selector(FRAME)
    frame = handle.content_frame() if handle else None
    assert frame is not None
    frame.wait_for_url(f"{site.content_origin(session)}/**")
    return frame


def outcome(of: Page | Frame) -> dict[str, str]:
    of.wait_for_function("() => document.querySelector('#out').textContent !== 'waiting'", timeout=60_000)
    found: dict[str, str] = json.loads(of.locator("#out").inner_text())
    return found


def state_of(site: ContentSite, context: BrowserContext, screen: Session) -> dict[str, Any]:
    """All that a stranger must not change, and who has been let in where."""
    store = site.store
    return {
        "sessions": [
            (row.id, row.status, row.terminate_requested_at) for row in store.tenant("acme").list().items
        ],
        "cookies": [one["value"] for one in context.cookies(site.origin) if one["name"] == COOKIE],
        "signed out": sum(entry.action == "sign_out" for entry in store.audit.entries("acme")),
        "streams": sum(entry.target == f"session:{screen.id}" for entry in store.audit.entries("acme")),
        # Who frames it has it loaded, and sees nothing of it: `frame-ancestors` is a matter of the answer's.
        "visits of the sibling": [
            path
            for grant, (path, headers) in zip(site.relay.grants, site.relay.seen, strict=True)
            if isinstance(grant.target, DesktopSocket)
            and grant.target.name == "studio"
            and headers.get("Sec-Fetch-Dest") != "iframe"
        ],
    }


def is_signed_in(context: BrowserContext, site: ContentSite) -> bool:
    page = context.new_page()
    answer = page.goto(f"{site.origin}/account")
    found = answer is not None and answer.status == 200 and page.url == f"{site.origin}/account"
    page.close()
    return found


REFUSED = (
    "me", "list", "page", "events", "stream", "sibling", "siblingsSocket", "end", "put", "script", "parent",
    "location", "top", "worker", "domain", "navigate", "navigateParent",
)  # fmt: skip
NOTHING = {"cookies": "", "opener": "null", "frameElement": "null", "open": "null", "toss": "false"}
"""What reads nothing without being told that it may not."""


def check_refused(found: dict[str, str]) -> None:
    assert {name: found[name] for name in REFUSED if name in found} == {
        name: "refused" for name in REFUSED if name in found
    }
    assert {name: found[name] for name in NOTHING if name in found} == {
        name: said for name, said in NOTHING.items() if name in found
    }


def check_frames_show_nothing(of: Page | Frame) -> None:
    """Neither the viewer nor a desktop has let itself be framed."""
    frames = of.child_frames if isinstance(of, Frame) else of.main_frame.child_frames
    assert frames
    for frame in frames:
        content = frame.content()
        assert "FakeKasmVNC" not in content
        assert "Deskfleet" not in content


def visit(tab: Page, site: ContentSite) -> None:
    """So that the browser has an entry to the sibling, as one of somebody who works with both."""
    shown(tab, site, site.desktop("studio"))
    expect(tab.locator(COVER)).to_be_hidden()


def test_what_a_strange_page_tries_works_from_the_viewers_own(
    tab: Page, site: ContentSite, screen: Session
) -> None:
    """Else the refusals below would say nothing."""
    tab.goto(f"{site.origin}/sandboxes")
    before = len(list(site.store.audit.entries("acme")))
    found = tab.evaluate(
        """async (path) => {
            const one = await fetch("/api/v1/me");
            const socket = new WebSocket(location.origin.replace("http", "ws") + path, "binary");
            await new Promise((resolve) => { socket.onerror = socket.onclose = socket.onopen = resolve; });
            const out = await fetch("/api/v1/sessions/terminate",
                {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"task_id": "none"}'});
            return [one.status, out.status];
        }""",
        f"/stream/{screen.id}",
    )
    assert found == [200, 202]
    news = list(site.store.audit.entries("acme"))[before:]
    assert f"session:{screen.id}" in [entry.target for entry in news]


def test_page_in_a_frame_reads_nothing_and_changes_nothing(
    tab: Page, context: BrowserContext, site: ContentSite, screen: Session
) -> None:
    visit(tab, site)
    with served(PUBLISH_ADDRESS) as local:
        session = site.desktop("hostile", page=written(site, screen, FROM_FRAME, local=local.port))
        before = state_of(site, context, screen)
        frame = shown(tab, site, session)
        check_refused(outcome(frame))
        assert local.cookies == []
    assert state_of(site, context, screen) == before
    assert is_signed_in(context, site)
    assert tab.url == f"{site.origin}/sandboxes/{session.id}"
    assert len(context.pages) == 1
    check_frames_show_nothing(frame)


def test_page_on_a_foreign_site_reads_nothing_and_changes_nothing(
    tab: Page, context: BrowserContext, site: ContentSite, screen: Session
) -> None:
    visit(tab, site)
    before = state_of(site, context, screen)
    with served("127.0.0.1", written(site, screen, FROM_ELSEWHERE)) as evil:
        page = context.new_page()
        page.goto(f"http://{EVIL}:{evil.port}/")
        check_refused(outcome(page))
    assert state_of(site, context, screen) == before
    assert is_signed_in(context, site)
    check_frames_show_nothing(page)


FLOODS = {
    "400 cookies": "for (let at = 0; at < 400; at++) toss(`c${at}=1; Secure; Path=/`)",
    "big cookies": "for (let at = 0; at < 120; at++) toss(`b${at}=${'x'.repeat(3900)}; Secure; Path=/`)",
    "deep cookies": "for (const path of ['/sandboxes', '/api/v1', '/stream', '/account'])"
    " for (let at = 0; at < 40; at++) toss(`deskfleet${at}=tossed; Path=${path}`)",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_flood_of_cookies_reads_nothing_and_on_another_domain_does_nothing(
    tab: Page, context: BrowserContext, site: ContentSite, screen: Session, mode: str, flood: str
) -> None:
    """Below the viewer's domain it may sign him out, or have him answered 431: docs/security.md says so."""
    toss = "const toss = (cookie) => { document.cookie = `${cookie}; Domain=${DOMAIN}`; }"
    attempts = f"flood: () => {{ {toss}; {FLOODS[flood]}; return document.cookie.includes('__Host'); }}"
    session = site.desktop(f"flood-{list(FLOODS).index(flood)}", page=written(site, screen, attempts))
    before = state_of(site, context, screen)
    assert outcome(shown(tab, site, session)) == {"flood": "false"}
    after = state_of(site, context, screen)
    if mode == "apart":
        assert after == before
        assert {one["name"] for one in context.cookies(site.origin)} == {COOKIE}
        assert is_signed_in(context, site)
    else:
        assert after | {"cookies": []} == before | {"cookies": []}
        assert set(after["cookies"]) <= set(before["cookies"])
        assert "tossed" not in "".join(after["cookies"])


def test_page_that_clears_site_data_or_pins_the_domain_does_neither(
    tab: Page, context: BrowserContext, site: ContentSite, screen: Session
) -> None:
    site.relay.headers |= {
        "Clear-Site-Data": '"*"',
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "Alt-Svc": 'h3=":1"',
    }
    session = site.desktop("clearing", page=written(site, screen, "done: () => document.cookie"))
    assert outcome(shown(tab, site, session)) == {"done": ""}
    assert {one["name"] for one in context.cookies()} == {COOKIE, ENTRY_COOKIE}
    assert is_signed_in(context, site)


def test_port_of_a_sandbox_on_this_machine_is_sent_no_cookie(
    tab: Page, context: BrowserContext, site: ContentSite
) -> None:
    """Cookies ignore ports, so what a sandbox publishes is on an address that no name of ours leads to."""
    with served(PUBLISH_ADDRESS, "<!doctype html>mine") as local:
        page = context.new_page()
        page.goto(f"http://{PUBLISH_ADDRESS}:{local.port}/")
        tab.goto(f"{site.origin}/sandboxes")
        assert local.asked
        assert local.cookies == []
