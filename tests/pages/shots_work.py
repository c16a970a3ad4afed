"""The pages of work as pictures, for tests/pages/shots.py: lists, the viewer's panels, wall, tasks,
documents, hosts, diagnosis, and what strangers see by a share link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from playwright.sync_api import Page, expect

from tests.browser import PHONE, new_context, sign_in, wait_for_picture
from tests.pages.documents import one_of_each
from tests.pages.site import PagesSite
from tests.pages.test_diagnosis import answer_with, outcome
from tests.pages.test_hosts import FLEET, LOADED, fleet_of
from tests.pages.test_wall import TILE, Pictures
from viewer.diagnosis_answers import StepState
from viewer.model import HostStatus, Principal, Role, Scope, Session, Status

Shoot = Callable[[str], None]
ShootIn = Callable[[Page, str], None]
BLACK = (StepState.FAILED, "The picture is of one colour (black).", "Press a key; a screen saver may be on.")
CALL = "Which of the two accounts is to pay for invoice 4411? Both are called Acme."


def take_work(page: Page, site: PagesSite, shoot_in: ShootIn) -> None:
    """The page is signed in as an admin of a tenant of its own."""

    def shoot(name: str) -> None:
        shoot_in(page, name)

    take_empty(page, site, shoot)
    site.store.fleet.record_host_status("here", HostStatus.OK)
    running = [
        site.running(task=task, agent=agent)
        for task, agent in (
            ("checkout-flow", "atlas"),
            ("checkout-flow", "openclaw"),
            ("invoice-4411", "an-agent-with-quite-a-long-name"),
        )
    ]
    who = Principal(id="key:robot", tenant=site.tenant, role=Role.OPERATOR, via="key")
    site.store.help(site.tenant).ask(running[1].id, CALL, who)
    take_lists(page, site, shoot)
    take_help(page, site, running[1], shoot)
    take_panels(page, site, running[0], shoot)
    take_watcher(page, site, running[0], shoot_in)
    take_tasks(page, site, shoot)
    take_wall(page, site, running, shoot)
    take_documents(page, site, shoot)
    take_diagnosis(page, site, running[0], shoot)
    take_shared(page, site, running[0], shoot_in)
    take_hosts(page, site, shoot)
    take_fleet(page, site, shoot_in)


def take_empty(page: Page, site: PagesSite, shoot: Shoot) -> None:
    for name in ("wall", "tasks", "documents"):
        page.goto(f"{site.origin}/{name}")
        expect(page.locator("[data-for=empty], document-list .empty").first).to_be_visible()
        shoot(f"{name}-empty")
    page.goto(f"{site.origin}/tasks/nothing-yet")
    shoot("task-unknown")


def take_lists(page: Page, site: PagesSite, shoot: Shoot) -> None:
    """The list by itself: its filters, several chosen, and what it says when nothing can be read."""
    page.goto(f"{site.origin}/sandboxes?agent_id=atlas")
    expect(page.locator(".session-list [data-session]").first).to_be_visible()
    shoot("list-filtered")
    page.goto(f"{site.origin}/sandboxes?q=nothing-has-this")
    expect(page.get_by_text("Nothing matches")).to_be_visible()
    shoot("list-no-match")
    page.goto(f"{site.origin}/sandboxes")
    if page.viewport_size and page.viewport_size["width"] > PHONE[0]:
        wait_for_picture(page)
    page.locator("#filter-menu summary").click()
    expect(page.locator(".filter-panel select").first).to_be_visible()
    shoot("list-filter-menu")
    page.keyboard.press("Escape")
    page.locator("#choose").click()
    page.locator("#bulk [data-all]").click()
    shoot("list-chosen")
    page.locator("#bulk [data-act=terminate]").click()
    shoot("list-chosen-terminate")
    page.keyboard.press("Escape")
    take_list_states(page, site, shoot)


def take_list_states(page: Page, site: PagesSite, shoot: Shoot) -> None:
    api = "**/api/v1/sessions?*"
    page.route(api, lambda _: None)
    page.route("**/api/v1/events*", lambda _: None)
    page.goto(f"{site.origin}/sandboxes")
    shoot("list-loading")
    page.unroute_all(behavior="ignoreErrors")
    problem = '{"status": 500, "title": "Internal error", "detail": "The database does not answer."}'
    page.route(
        api, lambda route: route.fulfill(status=500, content_type="application/problem+json", body=problem)
    )
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator("[data-for=error]")).to_be_visible()
    shoot("list-error")
    page.unroute_all(behavior="ignoreErrors")


def take_help(page: Page, site: PagesSite, session: Session, shoot: Shoot) -> None:
    page.goto(f"{site.origin}/sandboxes?help=true")
    expect(page.locator(f"[data-session='{session.id}']")).to_be_visible()
    shoot("help-list")
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    wait_for_picture(page)
    expect(page.get_by_role("region", name="Needs a person")).to_be_visible()
    shoot("help")


def take_panels(page: Page, site: PagesSite, session: Session, shoot: Shoot) -> None:
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    wait_for_picture(page)
    more = page.locator("[data-control=more]")
    more.click()
    shoot("menu-more")
    page.locator("[data-item=figures]").click()
    page.get_by_role("region", name="Connection").wait_for()
    page.wait_for_timeout(1500)  # the first figures
    shoot("figures")
    page.get_by_role("region", name="Connection").get_by_role("button", name="Close").click()
    more.click()
    page.locator("[data-item=renew]").click()
    page.get_by_role("dialog", name="Renew this desktop").wait_for()
    shoot("renew")
    page.keyboard.press("Escape")
    more.click()
    page.locator("[data-item=actual]").click()
    shoot("actual-size")
    page.get_by_role("button", name="Take control").click()
    expect(page.locator(".lease-state")).to_have_text("You have control")
    page.locator("[data-control=keys]").click()
    page.get_by_role("button", name="F1–F12").click()
    shoot("keys")
    page.get_by_role("button", name="Keyboard", exact=True).click()
    expect(page.get_by_label("Keyboard of the desktop")).to_be_focused()
    shoot("keys-typing")
    page.get_by_role("button", name="Give back").click()
    expect(page.locator(".lease-state")).to_have_text("Nobody has control")
    use(page, "share")
    page.get_by_role("dialog", name="Share this desktop").wait_for()
    shoot("share")
    page.get_by_role("dialog").locator("button.primary").click()
    page.wait_for_timeout(500)
    shoot("share-made")
    page.keyboard.press("Escape")


def use(page: Page, control: str) -> None:
    """One of the viewer's controls: where there is no room for it, it is in the menu."""
    if (button := page.locator(f"[data-control={control}]")).is_visible():
        button.click()
    else:
        page.locator("[data-control=more]").click()
        page.locator(f"[data-item={control}]").click()


def take_watcher(page: Page, site: PagesSite, session: Session, shoot_in: ShootIn) -> None:
    with stranger(page) as other:
        sign_in(other, site.origin, site.new_key(Role.WATCHER))
        other.goto(f"{site.origin}/sandboxes/{session.id}")
        wait_for_picture(other)
        shoot_in(other, "watcher")


@contextmanager
def stranger(page: Page) -> Iterator[Page]:
    """A page in a browser of its own, of the same size and colours."""
    browser, size = page.context.browser, page.viewport_size
    if browser is None or size is None:
        raise TypeError("a page of a browser that was started here")
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    context = new_context(
        browser, size=(size["width"], size["height"]), colours="dark" if is_dark else "light"
    )
    yield context.new_page()
    context.close()


def take_tasks(page: Page, site: PagesSite, shoot: Shoot) -> None:
    one_of_each(site, "checkout-flow")
    failed = site.running(task="checkout-flow", agent="atlas")
    site.store.fleet.transition(failed.id, Status.ERROR, error_message="Its container ended with code 137.")
    page.goto(f"{site.origin}/tasks")
    expect(page.locator("#tasks-table tbody tr").first).to_be_visible()
    shoot("tasks")
    Pictures(page)
    page.goto(f"{site.origin}/tasks/checkout-flow")
    wait_for_picture(page)
    page.wait_for_timeout(700)
    shoot("task")
    page.locator("document-list").scroll_into_view_if_needed()
    shoot("task-documents")
    page.goto(f"{site.origin}/tasks/checkout-flow/panel")
    wait_for_picture(page)
    page.wait_for_timeout(700)
    shoot("task-panel")
    page.unroute_all(behavior="ignoreErrors")


def take_wall(page: Page, site: PagesSite, running: list[Session], shoot: Shoot) -> None:
    pictures = Pictures(page)
    more = [site.running(task="night-shift", agent=f"robot-{at}") for at in range(6)]
    pictures.none[more[0].id] = "The desktop has not answered yet."
    page.goto(f"{site.origin}/wall")
    expect(page.locator(f"{TILE} img").first).to_be_visible()
    page.wait_for_timeout(700)
    shoot("wall")
    page.goto(f"{site.origin}/wall?live={running[0].id},{running[1].id}")
    wait_for_picture(page)
    shoot("wall-live-2")
    page.goto(f"{site.origin}/wall?group=task&size=s")
    expect(page.locator(f"{TILE} img").first).to_be_visible()
    shoot("wall-grouped")
    if (opens := page.locator(".wall-filters summary")).is_visible():
        opens.click()
        shoot("wall-filters")
    page.goto(f"{site.origin}/wall?task=nothing")
    expect(page.locator("#wall-note [data-for=filtered]")).to_be_visible()
    shoot("wall-no-match")
    page.unroute_all(behavior="ignoreErrors")


def take_documents(page: Page, site: PagesSite, shoot: Shoot) -> None:
    made = one_of_each(site, "report")
    page.goto(f"{site.origin}/documents")
    expect(page.locator(".document-row").first).to_be_visible()
    shoot("documents")
    for type_, document in made.items():
        page.goto(f"{site.origin}/documents/{document.id}")
        expect(page.locator(".tray-names h2")).to_have_text(document.title)
        page.wait_for_timeout(500)
        shoot(f"document-{type_}")
    page.goto(f"{site.origin}/documents/11111111-2222-4333-8444-555555555555")
    page.wait_for_timeout(500)
    shoot("document-unknown")


def take_diagnosis(page: Page, site: PagesSite, session: Session, shoot: Shoot) -> None:
    for name, found in (
        ("diagnosis-bad", outcome(session.id, first_frame=BLACK)),
        ("diagnosis-good", outcome(session.id)),
    ):
        answer_with(page, found)
        page.goto(f"{site.origin}/diagnosis/{session.id}")
        expect(page.locator(".step")).to_have_count(len(found.steps))
        expect(page.locator("#diagnosis-verdict")).to_have_attribute(
            "data-tone", "good" if found.ok else "bad"
        )
        shoot(name)
        page.unroute_all(behavior="ignoreErrors")


def take_shared(page: Page, site: PagesSite, session: Session, shoot_in: ShootIn) -> None:
    key_id = site.key.split("_")[1]
    maker = Principal(id=f"key:{key_id}", tenant=site.tenant, role=Role.ADMIN, via="key")
    made = site.store.shares.create(
        session, maker, label="for Bo", life=timedelta(hours=1), is_single_use=False
    )
    with stranger(page) as other:
        other.goto(f"{site.origin}/s#{made.token}")
        other.wait_for_url("**/shared/*")
        wait_for_picture(other)
        shoot_in(other, "shared")
        other.context.clear_cookies()
        other.goto(f"{site.origin}/s#df_nothing")
        shoot_in(other, "shared-refused")


def take_hosts(page: Page, site: PagesSite, shoot: Shoot) -> None:
    fleet_of(page, FLEET)
    page.goto(f"{site.origin}/hosts")
    expect(page.locator("[data-host=box1]")).to_be_visible()
    shoot("hosts")
    page.locator("[data-host=atelier]").scroll_into_view_if_needed()
    shoot("hosts-below")
    page.unroute_all(behavior="ignoreErrors")


def take_fleet(page: Page, site: PagesSite, shoot_in: ShootIn) -> None:
    """Hosts as an admin of the fleet sees them: with what each machine says of itself."""
    key = site.store.accounts.add_key(site.tenant, Role.ADMIN, "fleet", scopes=list(Scope)).text
    with stranger(page) as other:
        sign_in(other, site.origin, key)
        fleet_of(other, LOADED)
        other.goto(f"{site.origin}/hosts")
        expect(other.get_by_text("Containers:").first).to_be_visible()
        shoot_in(other, "hosts-fleet")
