"""The pages of documents and tasks in Chromium: the tray, what each type looks like, a task's desktops as
they come and go, and what hostile documents cannot do."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import PHONE, Complaints, new_context, scrolls_sideways, sign_in
from tests.pages.axe import assert_accessible
from tests.pages.documents import one_of_each, post, put
from tests.pages.site import PagesSite
from viewer.model import DocumentType, Role, Status
from viewer.work import NewTask

pytestmark = [pytest.mark.browser, pytest.mark.real]


LONG = "x" * 10_000
BIDI = "\u202egnp.evil\u2066"
HOSTILE = [
    '<img src=x onerror="window.wasHere=1">',
    "<script>window.wasHere=1</script>",
    '<svg onload="window.wasHere=1"><script>window.wasHere=1</script></svg>',
    "[a](javascript:window.wasHere=1) [b](JaVaScRiPt&colon;window.wasHere=1) [c](/signout)",
    '![a](https://foreign.example/pixel.png "a") <iframe src=https://foreign.example></iframe>',
    "[x]: javascript:window.wasHere=1\n\n[x] <javascript:window.wasHere=1>",
    "<style>body{display:none}</style><link rel=stylesheet href=https://foreign.example/a.css>",
    "<base href=https://foreign.example/><meta http-equiv=refresh content='0;url=https://foreign.example'>",
    '```"><script>window.wasHere=1</script>\na\n```',
    f"</textarea></title></pre></dialog><div id=documents-count class=tray>{BIDI}",
    LONG,
    f"{BIDI}{BIDI} مرحبا {LONG[:300]}",
    "> " * 500 + "deep",
    "|a|b|\n|---|---|\n" + f"|{LONG}|1|\n",
]


@pytest.fixture
def foreign(page: Page) -> list[str]:
    """What the page asks of other origins than the viewer's."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


def is_unharmed(page: Page, site: PagesSite, asked: list[str]) -> None:
    assert page.evaluate("typeof window.wasHere") == "undefined"
    assert (
        page.evaluate("document.querySelectorAll('iframe, object, embed, base, .tray-body script').length")
        == 0
    )
    assert page.evaluate("getComputedStyle(document.body).display") != "none"
    kept = (site.origin, "data:", "blob:")
    assert [url for url in asked if not url.startswith(kept)] == []
    assert not scrolls_sideways(page)


def test_tray_opens_from_the_list_and_is_led_by_the_keyboard(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    made = one_of_each(site)
    page.goto(f"{site.origin}/documents")
    rows = page.locator(".document-row")
    expect(rows).to_have_count(6)
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("dialog.tray")).to_be_visible()
    expect(page.locator(".tray-names h2")).to_have_text("Findings")
    expect(page.locator(".tray-names h2")).to_be_focused()
    expect(page).to_have_url(f"{site.origin}/documents/{made[DocumentType.MARKDOWN].id}")
    expect(page).to_have_title(re.compile(r"Findings · Documents"))
    page.locator(".tray-choice[aria-current]").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".tray-names h2")).to_have_text("greet.py")
    expect(page.locator(".tray-choice[aria-current]")).to_be_focused()
    expect(page).to_have_url(f"{site.origin}/documents/{made[DocumentType.CODE].id}")
    page.keyboard.press("Escape")
    expect(page.locator("dialog.tray")).to_be_hidden()
    expect(page).to_have_url(f"{site.origin}/documents")
    expect(rows.first).to_be_focused()
    page.go_back()
    expect(page.locator(".tray-names h2")).to_have_text("greet.py")
    assert complaints.heard == []


def test_each_type_is_shown_as_what_it_is(page: Page, site: PagesSite, complaints: Complaints) -> None:
    made = one_of_each(site)
    at = {kind: f"{site.origin}/documents/{document.id}" for kind, document in made.items()}
    page.goto(at[DocumentType.MARKDOWN])
    prose = page.locator(".tray-body .prose")
    expect(prose.locator("h1")).to_have_text("Findings")
    expect(prose.locator("td.align-right").first).to_have_text("12")
    link = prose.locator("a")
    assert (link.get_attribute("rel"), link.get_attribute("target")) == (
        "noopener noreferrer nofollow",
        "_blank",
    )
    expect(prose.locator("pre .nb")).to_have_text("print")
    page.goto(at[DocumentType.CODE])
    expect(page.locator(".source .k").first).to_have_text("def")
    page.goto(at[DocumentType.TEXT])
    expect(page.locator(".source pre")).to_have_text("one\ntwo\n")
    page.goto(at[DocumentType.IMAGE])
    image = page.locator(".document-image")
    expect(image).to_be_visible()
    page.wait_for_function("() => document.querySelector('.document-image').naturalWidth === 320")
    page.goto(at[DocumentType.FILE])
    with page.expect_download() as download:
        page.locator(".tray-body").get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "archive.zip"
    assert complaints.heard == []


def test_document_of_a_session_shows_that_very_session(page: Page, site: PagesSite) -> None:
    document = one_of_each(site)[DocumentType.SANDBOX]
    page.goto(f"{site.origin}/documents/{document.id}")
    viewer = page.locator(".tray-body sandbox-viewer")
    expect(viewer).to_have_attribute("session", document.session_id or "")
    expect(viewer.locator(".badge").first).to_contain_text("Running")
    site.store.fleet.transition(document.session_id or "", Status.TERMINATED, reason="on request")
    expect(viewer.locator(".badge").first).to_contain_text("Terminated")
    page.reload()
    expect(page.locator(".tray-body .empty-heading")).to_contain_text("Terminated")
    gone = put(site, "{}", title="Of one that is gone", type="sandbox")
    page.goto(f"{site.origin}/documents/{gone.id}")
    expect(page.locator(".tray-body .empty-heading")).to_have_text("The session is gone")


def test_list_and_tray_follow_what_happens(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/documents")
    expect(page.locator("document-list .empty-heading")).to_have_text("No documents yet")
    document = put(site, "one", title="Report", task_id="t-1", path="r.txt")
    row = page.locator(".document-row")
    expect(row).to_have_count(1)
    row.click()
    expect(page.locator(".source pre")).to_have_text("one")
    put(site, "two", title="Report", task_id="t-1", path="r.txt")
    expect(page.locator(".source pre")).to_have_text("two")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.locator("dialog.dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(row).to_have_count(0)
    expect(page.locator("dialog.tray")).to_be_hidden()
    assert site.store.tenant(site.tenant).events_after(0)[-1].document is not None
    page.goto(f"{site.origin}/documents/{document.id}")
    expect(page.locator("h1")).to_have_text("Not found")


def test_filters_are_in_the_address(page: Page, site: PagesSite) -> None:
    one_of_each(site)
    put(site, title="Other", task_id="t-2")
    page.goto(f"{site.origin}/documents")
    expect(page.locator(".document-row")).to_have_count(7)
    page.get_by_label("Type").select_option("code")
    expect(page.locator(".document-row")).to_have_count(1)
    expect(page).to_have_url(f"{site.origin}/documents?type=code")
    page.goto(f"{site.origin}/documents?task_id=t-2")
    expect(page.locator(".document-row")).to_have_count(1)
    expect(page.get_by_label("Task")).to_have_value("t-2")


def test_watcher_sees_documents_and_cannot_delete_one(browser: Browser, site: PagesSite) -> None:
    document = put(site)
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, site.origin, site.new_key(Role.WATCHER))
    page.goto(f"{site.origin}/documents/{document.id}")
    expect(page.locator(".source pre")).to_have_text("hello")
    expect(page.get_by_role("button", name="Delete", exact=True)).to_have_count(0)
    context.close()


def test_desktops_of_a_task_appear_go_live_and_end_by_themselves(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    first = site.running(task="t-1")
    page.goto(f"{site.origin}/tasks/t-1")
    viewers = page.locator(".task-live sandbox-viewer")
    expect(viewers).to_have_count(1)
    site.running(task="t-2")
    second, third = site.running(task="t-1"), site.running(task="t-1")
    expect(page.locator(".task-live > li")).to_have_count(3)
    expect(viewers).to_have_count(2)
    tile = page.locator(f'.task-live > [data-session="{third.id}"]')
    expect(tile).to_have_attribute("data-live", "false")
    expect(tile.locator("sandbox-tile .tile-name")).to_have_text(third.id[:8])
    tile.locator("button").first.click()
    expect(viewers).to_have_count(3)
    site.store.fleet.transition(first.id, Status.TERMINATED, reason="idle")
    expect(page.locator(".task-live > li")).to_have_count(2)
    site.store.fleet.transition(second.id, Status.ERROR, reason="lost", error_message="its host lost power")
    expect(page.locator(".task-ended > li")).to_have_count(2)
    expect(page.locator(".task-ended-reason").first).to_have_text("its host lost power")
    expect(page).to_have_title(re.compile(r"1 running · t-1 · Deskfleet"))
    put(site, title="Result", task_id="t-1")
    page.locator(".task-documents .document-row").click()
    expect(page.locator(".tray-names h2")).to_have_text("Result")
    page.keyboard.press("Escape")
    expect(page).to_have_url(f"{site.origin}/tasks/t-1")
    assert complaints.heard == []


def test_page_of_a_task_says_which_desktop_needs_a_person(page: Page, site: PagesSite) -> None:
    session = site.running(task="t-1")
    page.goto(f"{site.origin}/tasks/t-1")
    expect(page.locator(".task-live > li")).to_have_count(1)
    page.evaluate(
        """id => fetch(`/api/v1/sessions/${id}/help`, {
            method: "PUT",
            headers: {"Content-Type": "application/json"},
            body: JSON.stringify({reason: "a captcha"}),
        })""",
        session.id,
    )
    expect(page.locator("#task-attention")).to_contain_text("Needs a person")
    expect(page.locator("#task-attention")).to_contain_text("a captcha")
    expect(page).to_have_title(re.compile(r"Needs a person · t-1 · Deskfleet"))


def test_list_of_tasks_says_how_each_stands(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/tasks")
    expect(page.locator("#tasks-note .empty-heading").first).to_have_text("No tasks yet")
    site.running(task="t-1", agent="coder")
    put(site, task_id="t-1")
    row = page.locator("#tasks-table tbody tr")
    expect(row).to_contain_text("1 running")
    expect(row.locator("td").nth(2)).to_have_text("1")
    row.get_by_role("link").click()
    expect(page).to_have_url(f"{site.origin}/tasks/t-1")


def test_odd_ids_of_tasks_lead_to_their_pages(page: Page, site: PagesSite, complaints: Complaints) -> None:
    odd = ("a/b", "..", "100% #1?", "~x", "a\\b", "größe//")
    for one in odd:
        site.store.work(site.tenant).put_task(NewTask(id=one))
    put(site, title="Result", task_id="größe//")
    for one in odd:
        page.goto(f"{site.origin}/tasks")
        page.get_by_role("link", name=one, exact=True).click()
        expect(page.locator("#task-title")).to_have_text(one)
        expect(page.locator("#task-empty")).to_be_visible()
    page.locator(".task-documents .document-row").click()
    page.get_by_role("link", name="Task größe//").click()
    expect(page.locator("#task-title")).to_have_text("größe//")
    assert complaints.heard == []


def test_panel_is_the_task_and_nothing_around_it(page: Page, site: PagesSite) -> None:
    site.running(task="t-1")
    put(site, task_id="t-1")
    page.goto(f"{site.origin}/tasks/t-1/panel")
    expect(page.locator(".task-live sandbox-viewer")).to_have_count(1)
    expect(page.locator("header.top")).to_have_count(0)
    page.locator(".document-row").click()
    expect(page.locator(".source pre")).to_have_text("hello")


def test_hostile_text_stays_text_in_every_place(
    page: Page, site: PagesSite, complaints: Complaints, foreign: list[str]
) -> None:
    """As titles, paths, names of tasks, and as the content of every type that is text, or says that it is."""
    page.goto(f"{site.origin}/account")
    titles = [re.sub(r"[\x00-\x1f]", " ", text)[:200].strip() for text in HOSTILE]
    for number, text in enumerate(HOSTILE):
        for kind in ("markdown", "code", "text", "file"):
            more = {"encoding": "text", "media_type": "text/html"} if kind == "file" else {"language": "html"}
            path = f"{titles[number][:150]}.{kind}"
            post(page, title=titles[number], type=kind, content=text, task_id="t", path=path, **more)
    site.running(task=titles[1])
    page.goto(f"{site.origin}/documents")
    expect(page.locator(".document-row")).to_have_count(50)
    is_unharmed(page, site, foreign)
    page.get_by_role("button", name="Show older").click()
    everything = 4 * len(HOSTILE)
    expect(page.locator(".document-row")).to_have_count(everything)
    page.locator(".document-row").first.click()
    for number in range(everything):
        expect(page.locator(".tray-names h2")).to_have_text(titles[-1 - number // 4])
        page.locator(".tray-body > :is(.source, .prose, .empty)").wait_for()
        is_unharmed(page, site, foreign)
        for link in page.locator(".tray-body a[href]").all():
            href = link.get_attribute("href") or ""
            assert href.startswith(("https:", "http:", "mailto:", "/api/v1/documents/")), href
        page.locator(".tray-choice[aria-current]").press("ArrowDown")
    page.goto(f"{site.origin}/tasks")
    expect(page.locator("#tasks-table tbody tr")).to_have_count(2)
    is_unharmed(page, site, foreign)
    page.goto(f"{site.origin}/tasks/t")
    expect(page.locator(".document-row")).to_have_count(50)
    is_unharmed(page, site, foreign)
    assert complaints.heard == []


def test_hostile_file_opened_as_a_page_is_kept_as_a_file(page: Page, site: PagesSite) -> None:
    page.goto(f"{site.origin}/account")
    text = "<script>window.wasHere=1</script>"
    for kind, more in (("file", {"encoding": "text", "media_type": "text/html"}), ("text", {})):
        made = post(page, title="a", type=kind, content=text, **more)
        with page.expect_download():
            page.evaluate("url => { location.href = url }", made["content_url"])
        assert page.evaluate("typeof window.wasHere") == "undefined"


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_pages_are_for_everybody_also_on_a_phone(browser: Browser, site: PagesSite, colours: str) -> None:
    made = one_of_each(site)
    site.running(task="t-1")
    context = new_context(browser, size=PHONE, colours="dark" if colours == "dark" else "light", still=True)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    for path, ready in (
        ("/documents", ".document-row"),
        (f"/documents/{made[DocumentType.MARKDOWN].id}", ".prose h1"),
        (f"/documents/{made[DocumentType.CODE].id}", ".source .k"),
        ("/tasks", "#tasks-table tbody tr"),
        ("/tasks/t-1", ".task-live > li"),
    ):
        page.goto(f"{site.origin}{path}")
        page.locator(ready).first.wait_for()
        assert not scrolls_sideways(page), path
        assert_accessible(page)
    context.close()
