"""Hostile text in every field that others fill, on every page: it is shown as text, and breaks nothing.

One tenant whose rows hold all of it, and one load of each page, looked at wide and as on a phone. A page that
comes later is found by its route.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from struct import pack
from urllib.parse import urlsplit

import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect

from tests.browser import PHONE, WIDE, Complaints, new_context, screenshot, scrolls_sideways, sign_in
from tests.hostile_strings import MARK, MARKUP, STRINGS, WORST
from tests.pages.site import PagesSite
from tests.test_relay import rfb_server
from viewer.deliveries.store import NewEndpoint
from viewer.documents import NewDocument
from viewer.model import DocumentType, LeaseKind, Principal, Role, Session, Status
from viewer.pages import pages as pages_of_the_viewer
from viewer.people import NewPerson
from viewer.settings_sections import SECTIONS
from viewer.task_addresses import segment_of
from viewer.work import NewAgent, NewTask

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(240)]

# Leads on to another origin, or away: they show nothing that others have written.
NOT_PAGES = {"/", "/open/<session_id>", "/services/<name>", "/signin", "/set-password"}
LISTS = {"/sandboxes", "/sandboxes/<session_id>"}
DOCUMENT_TYPES = (DocumentType.TEXT, DocumentType.CODE, DocumentType.MARKDOWN, DocumentType.FILE)
TALL = 6000
"""A window in which each row of a list is an element."""
SHOWN = """strings => {
    const text = document.body.textContent;
    return strings.filter(one => text.includes(one)).length > strings.length * 0.9;
}"""
CANARY = "window.canary = () => { window.canaryRan = true; };"
FOUND = f"""() => ({{
    ran: window.canaryRan === true,
    made: [...document.querySelectorAll(".{MARK}, script:not([src]), [onerror], [onload], [onmouseover]")]
        .map(one => one.outerHTML.slice(0, 120)),
    links: [...document.querySelectorAll("a[href], form[action], base[href]")]
        .map(one => one.href ?? one.action)
        .filter(address => !address.startsWith(location.origin) && !address.startsWith("blob:")),
}})"""


@dataclass(frozen=True)
class Ground:
    site: PagesSite
    key: str
    """Of whoever looks; its label, which is his name, is as bad as all the rest."""
    session: Session
    document: str

    def path(self, rule: str) -> str:
        """That page's address, about the worst of what there is."""
        path = rule.replace("<session_id>", self.session.id).replace("<document_id>", self.document)
        return path.replace("<task_id>", segment_of(str(self.session.task_id)))


def rules() -> list[str]:
    app = Flask("rules")
    app.register_blueprint(pages_of_the_viewer)
    found = {rule.rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or set())}
    sections = {f"/settings/{section.name}" for section in SECTIONS}
    return sorted((found | sections) - NOT_PAGES - {"/static/<path:filename>", "/settings/<section>"})


@pytest.fixture(scope="module")
def ground(module_site: PagesSite) -> Ground:
    site = module_site
    site.begin_test()
    person = site.store.people(site.tenant).add(
        NewPerson(login=f"mara.{site.tenant}", name=WORST, role=Role.ADMIN), by="tests"
    )
    who = Principal(id=person.principal_id, tenant=site.tenant, role=Role.ADMIN, via="cookie")
    site.store.accounts.sign_in_person(person.id, address=None, user_agent=WORST)
    key = site.store.accounts.add_key(site.tenant, Role.ADMIN, WORST)
    for text in (WORST, *STRINGS[:8]):
        site.store.webhooks(site.tenant).create(
            NewEndpoint(url=f"https://{text}/", label=text, types=(), secret_sealed="-", created_by=text)
        )
        site.store.webhook_secrets.add(site.tenant, text, "-", by=text)
    # Less than a page of the list, with one of each for every other string.
    for number, text in enumerate(STRINGS):
        _fill(site, who, text, fails=number % 2 == 1)
    session = _fill(site, who, WORST, fails=False)
    site.edge.streams_told = [
        {
            "id": "s",
            "name": WORST,
            "role": "watch",
            "kind": "stream",
            "opened_at": session.created_at.isoformat(),
        }
    ]
    return Ground(site, key.text, session, _documents(site, session))


def _fill(site: PagesSite, who: Principal, text: str, *, fails: bool) -> Session:
    """A session whose every field says that: one that runs and calls for help, or one that failed."""
    site.store.work(site.tenant).put_task(NewTask(id=text, title=text, external_run_id=text))
    site.store.work(site.tenant).put_agent(NewAgent(id=text, name=text))
    session = site.running(task=text, agent=text)
    if fails:
        return site.store.fleet.transition(session.id, Status.ERROR, reason=text, error_message=text)
    agent = Principal(id="key:agent", tenant=site.tenant, role=Role.OPERATOR, via="key")
    site.store.help(site.tenant).ask(session.id, text, agent)
    site.store.leases.take(session, who, name=text, kind=LeaseKind.PERSON, reason=text, seconds=3600)
    site.store.shares.create(session, who, label=text, life=timedelta(hours=1), is_single_use=False)
    return session


def _documents(site: PagesSite, session: Session) -> str:
    """Of each type one that says it in each field; the markdown one's id, which is made into markup."""
    ids = {}
    content = "\n\n".join(STRINGS).encode()
    for kind in DOCUMENT_TYPES:
        new = NewDocument(
            title=WORST, type=kind, content=content, media_type="text/plain", task_id=session.task_id,
            agent_id=WORST, session_id=session.id, path=f"{kind}/{WORST}", created_by="key:agent",
        )  # fmt: skip
        ids[kind] = site.store.documents(site.tenant).put(new).document.id
    return ids[DocumentType.MARKDOWN]


@pytest.fixture(scope="module")
def context(browser: Browser, ground: Ground) -> Iterator[BrowserContext]:
    context = new_context(browser)
    context.add_init_script(CANARY)
    sign_in(context.new_page(), ground.site.origin, ground.key)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    yield page
    page.close()


class Asked:
    """What a page has asked for and not got yet, but for its stream of events, which never ends."""

    def __init__(self, page: Page) -> None:
        self._open: set[Request] = set()
        page.on("request", self._asked)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)

    def _asked(self, request: Request) -> None:
        if not urlsplit(request.url).path.endswith("/events"):
            self._open.add(request)

    def _ended(self, request: Request) -> None:
        self._open.discard(request)

    def until_quiet(self, page: Page, *, seconds: float = 10) -> None:
        """Return once nothing was under way for half a second, as Playwright's networkidle has it."""
        quiet = 0
        for _ in range(int(seconds * 20)):
            page.wait_for_timeout(50)
            quiet = 0 if self._open else quiet + 1
            if quiet == 10:
                return
        raise AssertionError(f"never came: {[request.url for request in self._open]}")


def check(page: Page, complaints: Complaints, what: str, *, has_list: bool = False) -> None:
    for width in (WIDE[0], PHONE[0]):
        page.set_viewport_size({"width": width, "height": TALL})
        page.wait_for_function("() => new Promise(done => requestAnimationFrame(() => done(true)))")
        assert not scrolls_sideways(page), f"{what} scrolls sideways at {width}"
        if has_list and width == WIDE[0]:
            page.wait_for_function(SHOWN, arg=list(STRINGS))
    found = page.evaluate(FOUND)
    assert found == {"ran": False, "made": [], "links": []}, what
    assert [line for line in complaints.heard if "Content Security Policy" in line] == [], what
    assert [line for line in complaints.heard if line.startswith("exception")] == [], what


@pytest.mark.parametrize("rule", rules())
def test_page_shows_hostile_text_as_text(rule: str, page: Page, ground: Ground) -> None:
    complaints, asked = Complaints(page), Asked(page)
    answer = page.goto(ground.site.origin + ground.path(rule))
    assert answer is not None
    assert answer.status == 200, f"{rule} is not shown: does `Ground.path` fill in its address?"
    page.wait_for_load_state("load")
    asked.until_quiet(page)
    check(page, complaints, rule, has_list=rule in LISTS)
    shots = os.environ.get("DESKFLEET_SHOTS")
    if shots:
        name = re.sub(r"\W+", "-", rule).strip("-")
        for size in (WIDE, PHONE):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            screenshot(page, Path(shots), f"{name}-{size[0]}")


def test_what_opens_by_a_click_shows_it_as_text(page: Page, ground: Ground) -> None:
    complaints = Complaints(page)
    page.goto(ground.site.origin + ground.path("/sandboxes/<session_id>"))
    page.locator(".viewer-help").wait_for()
    for name in ("share", "more"):
        page.locator(f"[data-control={name}]:visible").first.click()
        page.wait_for_timeout(300)
        found = page.evaluate(FOUND)
        assert found == {"ran": False, "made": [], "links": []}, name
        assert not scrolls_sideways(page), name
        page.keyboard.press("Escape")
    check(page, complaints, "after clicks")


def test_what_the_server_refuses_is_said_as_text_in_each_dialog(page: Page, ground: Ground) -> None:
    """Whatever stands in its answer: field, reason, mend. Stand-in: the answers are the test's own."""
    complaints = Complaints(page)
    fields = [{"field": name, "message": WORST, "mend": WORST} for name in ("task_id", "image", WORST)]
    refusal = json.dumps({"title": WORST, "detail": WORST, "errors": fields})

    def refuse(route: Route) -> None:
        if route.request.method == "GET":
            route.fallback()
        else:
            route.fulfill(status=422, content_type="application/problem+json", body=refusal)

    page.goto(ground.site.origin + ground.path("/sandboxes/<session_id>"))
    page.locator(".viewer-help").wait_for()
    page.route("**/api/v1/sessions**", refuse)
    page.route("**/api/v1/sessions/**", refuse)
    page.locator(".viewer-help [data-control=help-done]").click()
    _is_said(page, ".help-error", "help notice")
    page.locator("[data-opens=new-desktop]:visible").first.click()
    page.locator("#new-desktop-tasks option").first.wait_for(state="attached")
    page.locator("#new-desktop button[type=submit]").click()
    _is_said(page, "#new-desktop .field-error:not([hidden])", "New desktop")
    _is_said(page, "#new-desktop .form-error", "New desktop")
    page.keyboard.press("Escape")
    page.locator("[data-control=terminate]:visible").first.click()
    dialog = page.get_by_role("dialog", name="Terminate this desktop")
    dialog.get_by_role("button", name="Terminate", exact=True).click()
    _is_said(page, "dialog[open] .form-error", "terminate")
    page.keyboard.press("Escape")
    page.locator("[data-control=share]:visible").first.click()
    expect(page.locator(".share-list")).to_contain_text(WORST[:60])
    page.get_by_label("Name", exact=True).last.fill(WORST)
    page.get_by_role("button", name="Make a link").click()
    _is_said(page, "dialog[open] .form-error", "share")
    page.keyboard.press("Escape")
    check(page, complaints, "after refusals")


def _is_said(page: Page, selector: str, what: str) -> None:
    expect(page.locator(selector).first).to_contain_text(WORST[:60])
    _is_unharmed(page, what)


def _is_unharmed(page: Page, what: str) -> None:
    assert page.evaluate(FOUND) == {"ran": False, "made": [], "links": []}, what
    assert not scrolls_sideways(page), what


def test_each_document_is_text_in_the_tray(page: Page, ground: Ground) -> None:
    complaints = Complaints(page)
    page.goto(f"{ground.site.origin}/documents")
    rows = page.locator(".document-row")
    expect(rows).to_have_count(len(DOCUMENT_TYPES))
    rows.first.click()
    for number in range(len(DOCUMENT_TYPES)):
        page.locator(".tray-choice").nth(number).click()
        page.locator(".tray-body > :is(.source, .prose, .empty)").wait_for()
        expect(page.locator(".tray-names h2")).to_contain_text(WORST[:60])
        _is_unharmed(page, f"document {number}")
    check(page, complaints, "the tray")


def test_what_was_copied_on_a_desktop_is_text_in_the_panel(
    page: Page, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    # RFC 6143, 7.6.4: it is Latin-1.
    text = "\n".join(one for one in STRINGS if one.isascii() and one.isprintable()) + "\n" + "W" * 5000
    complaints, may_copy = Complaints(page), threading.Event()
    with rfb_server(lambda client: copy_once(client, may_copy, text), address="127.0.0.1") as port:
        monkeypatch.setattr(ground.site.edge, "vnc_port", port)
        page.goto(f"{ground.site.origin}/sandboxes/{ground.site.running(task='copied').id}")
        page.get_by_role("button", name="Take control").click()
        expect(page.locator(".lease-state")).to_have_text("You have control")
        page.locator("[data-control=clipboard]:visible").first.click()
        may_copy.set()
        expect(page.get_by_label("Text on the desktop's clipboard")).to_have_value(text)
        check(page, complaints, "the clipboard")


def copy_once(client: socket.socket, may_copy: threading.Event, text: str) -> None:
    """An RFB server on whose desktop somebody copies that."""
    may_copy.wait(60)
    client.sendall(pack(">BxxxI", 3, len(text)) + text.encode("latin-1"))
    while client.recv(4096):
        pass


def test_visitor_of_a_shared_desktop_sees_it_as_text(browser: Browser, ground: Ground) -> None:
    """Also in the browser's name, which stands in the list of who came."""
    site = ground.site
    who = site.store.accounts.principal_of_key(ground.key)
    assert who is not None
    session = _fill(site, who, WORST, fails=False)
    made = site.store.shares.create(session, who, label=WORST, life=timedelta(hours=1), is_single_use=False)
    context = browser.new_context(user_agent=MARKUP[1], viewport={"width": WIDE[0], "height": WIDE[1]})
    context.add_init_script(CANARY)
    page = context.new_page()
    complaints = Complaints(page)
    page.goto(f"{site.origin}/s#{made.token}")
    page.wait_for_url("**/shared/*")
    expect(page.locator(".viewer-badge")).to_have_text("Running")
    check(page, complaints, "/shared/<session_id>")
    site.store.fleet.transition(session.id, Status.ERROR, reason=WORST, error_message=WORST)
    expect(page.locator(".viewer-badge, main.sorry h1").first).not_to_have_text("Running")
    check(page, complaints, "/shared/<session_id> of one that failed")
    context.close()


def test_the_check_finds_what_it_looks_for(page: Page, ground: Ground) -> None:
    page.goto(f"{ground.site.origin}/account")
    page.evaluate(
        f"document.body.insertAdjacentHTML('beforeend', '<img class={MARK} src=x onerror=canary()>')"
    )
    complaints = Complaints(page)
    with pytest.raises(AssertionError, match="made"):
        check(page, complaints, "one that is broken")
