"""Every page in every state as pictures, light and dark: `python -m tests.pages.shots FOLDER`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, expect

from tests.browser import (
    PHONE,
    WIDE,
    chromium,
    new_context,
    screenshot,
    scrolls_sideways,
    sign_in,
    wait_for_picture,
)
from tests.chromium_in_a_sandbox import inner_chromium, tiny_opensandbox
from tests.oidc.provider_process import ProviderProcess
from tests.pages.content_site import BELOW, ContentSite
from tests.pages.shots_work import take_work, use
from tests.pages.site import PagesSite
from tests.painted_desktop import PaintedDesktop
from tests.relay_process import PUBLISH_ADDRESS, running_relay, running_xvnc
from viewer.deliveries.store import NewEndpoint
from viewer.fleet_store import DeclaredDesktop
from viewer.frontend.hatch_build import build_pages
from viewer.model import EventType, HostStatus, LeaseKind, Principal, Role, Session, Status
from viewer.settings_sections import SECTIONS
from viewer.store import NewSession

Colours = Literal["light", "dark"]
COLOURS: tuple[Colours, ...] = ("light", "dark")
SIZES = ((WIDE, "wide"), (PHONE, "phone"))
Shoot = Callable[[str], None]


def main() -> None:
    folder = Path(sys.argv[1])
    build_pages()
    with (
        tempfile.TemporaryDirectory() as scratch,
        PaintedDesktop() as desktop,
        PagesSite(folder=Path(scratch), vnc_port=desktop.port) as site,
        chromium() as browser,
    ):
        (Path(scratch) / "content").mkdir()
        take_frames(browser, Path(scratch) / "content", folder)
        (Path(scratch) / "devtools").mkdir()
        take_devtools(browser, Path(scratch) / "devtools", folder)
        (Path(scratch) / "provider").mkdir()
        take_provider(browser, Path(scratch) / "provider", folder)
        for colours in COLOURS:
            for size, name in SIZES:
                site.begin_test()
                take_all(browser, site, folder, size, f"{name}-{colours}", colours)
                site.begin_test()
                take_more(browser, site, folder, size, f"{name}-{colours}", colours)


def take_frames(browser: Browser, scratch: Path, folder: Path) -> None:
    """Desktops with a page of their own, and the ways to services, on the real Caddy."""
    with ContentSite(scratch, BELOW) as site:
        for colours in COLOURS:
            for size, name in SIZES:
                take_content(browser, site, folder, size, f"{name}-{colours}", colours)


def take_content(
    browser: Browser, site: ContentSite, folder: Path, size: tuple[int, int], suffix: str, colours: Colours
) -> None:
    context = new_context(browser, size=size, colours=colours)
    page = context.new_page()
    shoot = shooter(page, folder, suffix)
    sign_in(page, site.origin, site.key(Role.OPERATOR))
    studio = site.desktop("studio")
    page.goto(f"{site.origin}/sandboxes/{studio.id}")
    expect(page.locator(".viewer-cover")).to_be_hidden()
    shoot("kasmvnc")
    page.goto(f"{site.origin}/view/{studio.id}")
    expect(page.locator(".viewer-cover")).to_be_hidden()
    shoot("kasmvnc-view")
    page.goto(f"{site.origin}/sandboxes")
    page.locator("#services-menu summary").click()
    shoot("services")
    page.goto(f"{site.origin}/services/wiki")
    page.wait_for_url(f"{site.service_origin}/")
    page.goto(f"{site.origin}/services/wiki")
    page.get_by_role("button", name="Open").wait_for()
    shoot("service-again")
    page.goto(f"{site.content_origin(site.desktop('annex'))}/")
    shoot("closed")
    context.close()


def take_devtools(browser: Browser, scratch: Path, folder: Path) -> None:
    """A desktop's browser, taken apart: a real one, behind a real relay."""
    for name in ("xvnc", "relay", "site"):
        (scratch / name).mkdir()
    with (
        inner_chromium() as inner,
        tiny_opensandbox() as opensandbox,
        running_xvnc(scratch / "xvnc", pattern=True) as xvnc,
        running_relay(
            scratch / "relay", opensandbox_url=opensandbox.url, publish_address=PUBLISH_ADDRESS
        ) as relay,
    ):
        site = ContentSite(scratch / "site", BELOW, relay=relay)
        site.more["images"] = [
            {"name": "desktop", "uri": "deskfleet/desktop"},
            {"name": "chrome", "uri": "deskfleet/chrome", "devtools": True, "devtools_port": inner.port},
        ]
        with site:
            wanted = NewSession(image="chrome", resolution="640x480", ttl_seconds=3600, created_by="tests")
            made = site.store.tenant("acme").create(wanted).session
            session = site.store.fleet.transition(
                made.id, Status.RUNNING, host="here", sandbox_id="box-1", vnc_port=xvnc.port
            )
            for colours in COLOURS:
                for size, name in SIZES:
                    context = new_context(browser, size=size, colours=colours)
                    page = context.new_page()
                    sign_in(page, site.origin, site.key(Role.OPERATOR))
                    page.goto(f"{site.origin}/sandboxes/{session.id}")
                    expect(page.locator(".viewer-cover")).to_be_hidden()
                    page.get_by_role("tab", name="DevTools").click()
                    frame = page.frame_locator(".devtools-stage iframe")
                    # Of its own tabs a phone has no room for.
                    expect(frame.get_by_role("tab", name="Styles").first).to_be_visible(timeout=30_000)
                    page.wait_for_timeout(3000)  # what it shows comes bit by bit
                    shooter(page, folder, f"{name}-{colours}")("devtools")
                    context.close()


def take_provider(browser: Browser, scratch: Path, folder: Path) -> None:
    """What is ours of a sign-in through an OpenID provider."""
    site = ContentSite(scratch, BELOW)
    with ProviderProcess(scratch, site.origin) as provider:
        site.more = {"oidc": provider.settings(), "tenants": [{"name": "acme"}]}
        with site:
            for colours in COLOURS:
                for size, name in SIZES:
                    page = new_context(browser, size=size, colours=colours).new_page()
                    shoot = shooter(page, folder, f"{name}-{colours}")
                    page.goto(f"{site.origin}/signin")
                    shoot("signin-provider")
                    page.get_by_role("link", name="Sign in with Acme Login").click()
                    page.locator("[name=login]").fill("mallory")
                    page.locator("[name=password]").fill("any")
                    page.locator("button[type=submit]").click()
                    page.wait_for_url(f"{site.origin}/oidc/failed")
                    shoot("provider-failed")
                    page.goto(f"{site.origin}/oidc/signed-out")
                    shoot("provider-signed-out")
                    page.context.close()


def take_all(
    browser: Browser, site: PagesSite, folder: Path, size: tuple[int, int], suffix: str, colours: Colours
) -> None:
    context = new_context(browser, size=size, colours=colours)
    page = context.new_page()
    shoot = shooter(page, folder, suffix)
    take_sign_in(page, site, shoot)
    sign_in(page, site.origin, site.key)
    page.goto(f"{site.origin}/sandboxes")
    expect(page.locator("[data-for=empty]")).to_be_attached()
    shoot("empty")
    sessions = make_sessions(site)
    for name, session in sessions.items():
        page.goto(f"{site.origin}/sandboxes/{session.id}")
        expect(page.locator(".viewer-title")).not_to_be_empty()
        if session.status is Status.RUNNING:
            wait_for_picture(page)
        shoot(name)
    page.goto(f"{site.origin}/sandboxes")
    shoot("list")
    take_dialogs(page, site, sessions["running"], shoot)
    take_trouble(page, site, sessions["running"], shoot)
    take_settings(page, site, sessions["running"], shoot)
    page.goto(f"{site.origin}/nowhere")
    shoot("error-page")
    context.close()


def take_more(
    browser: Browser, site: PagesSite, folder: Path, size: tuple[int, int], suffix: str, colours: Colours
) -> None:
    context = new_context(browser, size=size, colours=colours)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    take_work(page, site, lambda of, name: shooter(of, folder, suffix)(name))
    context.close()


def shooter(page: Page, folder: Path, suffix: str) -> Shoot:
    def shoot(name: str) -> None:
        page.wait_for_timeout(300)
        if scrolls_sideways(page):
            print(f"{name}-{suffix}: is wider than its window")
        screenshot(page, folder, f"{name}-{suffix}")

    return shoot


def take_sign_in(page: Page, site: PagesSite, shoot: Shoot) -> None:
    page.goto(f"{site.origin}/signin")
    shoot("signin")
    page.get_by_role("button", name="Use an API key").click()
    page.get_by_label("API key").fill("df_aaaaaaaa_wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    shoot("signin-refused")
    page.goto(site.new_person(f"mara-{site.tenant}"))
    shoot("set-password")
    site.new_person(login := f"nina-{site.tenant}", "correct horse battery")
    page.goto(f"{site.origin}/signin?next=/account")
    for label, value in (("Login", login), ("Password", "correct horse battery")):
        page.get_by_label(label).fill(value)
    page.keyboard.press("Enter")
    page.locator("#sign-ins li").first.wait_for()
    shoot("account")
    page.context.clear_cookies()


def make_sessions(site: PagesSite) -> dict[str, Session]:
    """One session in each state, by the name of the state."""
    fleet = site.store.fleet
    site.worker.creates = False
    ended, failed, lost, paused = (site.creating(agent="atlas") for _ in range(4))
    fleet.transition(ended.id, Status.TERMINATED, reason="expired")
    message = "Image deskfleet/chrome:latest is not on host here; run `make up` there to build it."
    fleet.transition(failed.id, Status.ERROR, error_message=message)
    fleet.record_host_status("here", HostStatus.OK)
    fleet.record_host_status("berlin-2", HostStatus.UNREACHABLE)
    lost = fleet.transition(lost.id, Status.RUNNING, host="berlin-2", vnc_port=40000)
    fleet.transition(paused.id, Status.RUNNING, host="here", vnc_port=40001)
    fleet.transition(paused.id, Status.PAUSED, reason="paused by its agent")
    studio = fleet.upsert_desktop(
        DeclaredDesktop(
            name=f"studio-{site.tenant[-1]}",
            tenant=site.tenant,
            host="here",
            backend="tigervnc",
            resolution="1280x800",
        )
    )
    studio = fleet.transition(studio.id, Status.RUNNING, reason="blank", host="here")
    site.queued()
    queued = site.queued()
    running = site.creating(task="checkout-flow", agent="atlas", idle_seconds=540, lifetime_seconds=86400)
    running = fleet.transition(running.id, Status.RUNNING, host="here", vnc_port=40002)
    creating = site.creating(image="chrome", task="invoice-4411", agent="an-agent-with-quite-a-long-name")
    creating = fleet.update(creating.id, host="here", status_reason="waiting for the first frame")
    return {
        "running": running,
        "creating": creating,
        "queued": queued,
        "blank": studio,
        "unreachable": lost,
        "paused": fleet.get(paused.id),
        "error": fleet.get(failed.id),
        "terminated": fleet.get(ended.id),
    }


def take_dialogs(page: Page, site: PagesSite, session: Session, shoot: Shoot) -> None:
    page.locator("[data-opens=new-desktop]:visible").first.click()
    shoot("new-desktop")
    page.locator("[name=image] option").first.evaluate("option => option.value = 'dekstop'")
    page.get_by_role("button", name="Create desktop").click()
    page.locator("#new-desktop [data-field=image]").wait_for()
    shoot("new-desktop-refused")
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    wait_for_picture(page)
    take_control(page, site, session, shoot)
    use(page, "clipboard")
    shoot("clipboard")
    page.keyboard.press("Escape")
    use(page, "terminate")
    shoot("terminate")
    page.keyboard.press("Escape")


def take_control(page: Page, site: PagesSite, session: Session, shoot: Shoot) -> None:
    """Each state of the row that says who has control; the page's person has it in the end."""
    state, leases = page.locator(".lease-state"), site.store.leases
    robot = Principal(id="key:robot", tenant=site.tenant, role=Role.OPERATOR, via="key")
    leases.take(session, robot, name="openclaw", kind=LeaseKind.AGENT, reason="fills in a form", seconds=60)
    expect(state).to_have_text("Agent openclaw works")
    shoot("control-agent")
    mara = Principal(id="person:mara", tenant=site.tenant, role=Role.OPERATOR, via="cookie", sign_in="b")
    leases.take(session, mara, name="Mara", kind=LeaseKind.PERSON, reason=None, seconds=60)
    expect(state).to_have_text("Mara has control")
    page.get_by_role("button", name="Ask for control").click()
    expect(page.get_by_role("button", name="Stop asking")).to_be_visible()
    shoot("control-asked")
    page.get_by_role("button", name="Take anyway").click()
    expect(state).to_have_text("You have control")
    leases.request(session, mara, name="Mara", kind=LeaseKind.PERSON, reason="my turn", seconds=60)
    expect(page.get_by_role("button", name="Give to Mara")).to_be_visible()
    shoot("control-mine")
    leases.withdraw(session, mara)


def take_settings(page: Page, site: PagesSite, session: Session, shoot: Shoot) -> None:
    site.store.accounts.add_key(
        site.tenant, Role.OPERATOR, "night shift", life=timedelta(days=30), by="tests"
    )
    maker = Principal(id=f"key:{site.key.split('_')[1]}", tenant=site.tenant, role=Role.ADMIN, via="key")
    hour = timedelta(hours=1)
    site.store.shares.create(session, maker, label="for Bo", life=hour, is_single_use=False)
    endpoints: tuple[tuple[str, tuple[EventType, ...]], ...] = (
        ("alarm", ("session.error",)),
        ("dashboard", ()),
    )
    for label, types in endpoints:
        url = f"https://example.com/{label}"
        new = NewEndpoint(url=url, label=label, types=types, secret_sealed="-", created_by=maker.id)
        site.store.webhooks(site.tenant).create(new)
    site.store.webhook_secrets.add(site.tenant, "openclaw on box7", "-", by=maker.id)
    page.goto(f"{site.origin}/settings")
    shoot("settings")
    for name in (section.name for section in SECTIONS):
        page.goto(f"{site.origin}/settings/{name}")
        expect(page.locator(".settings .skeleton")).to_have_count(0)
        shoot(f"settings-{name}")
    page.goto(f"{site.origin}/settings/keys")
    page.get_by_role("button", name="New key").click()
    shoot("settings-new-key")
    page.keyboard.press("Enter")
    page.get_by_label("The key", exact=True).wait_for()
    shoot("settings-key-once")
    page.goto(f"{site.origin}/settings/people")
    page.get_by_role("button", name="Manage").first.click()
    shoot("settings-person")
    page.goto(f"{site.origin}/settings/webhooks")
    page.get_by_role("button", name="Manage: alarm").click()
    page.get_by_role("button", name="Send a trial").click()
    expect(page.get_by_text("webhook.test")).to_be_visible()
    shoot("settings-webhook")
    page.goto(f"{site.origin}/settings")
    page.locator("#account-menu summary").click()
    shoot("account-menu")


def take_trouble(page: Page, site: PagesSite, session: Session, shoot: Shoot) -> None:
    page.goto(f"{site.origin}/view/{session.id}")
    wait_for_picture(page)
    shoot("view")
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    wait_for_picture(page)
    site.edge.refuse_streams = 502
    site.edge.cut()
    expect(page.locator(".cover-clock")).to_contain_text("in 2 s", timeout=15_000)
    shoot("reconnecting")
    site.edge.go_silent()
    expect(page.locator("#banner")).not_to_have_attribute("hidden", "", timeout=8000)
    shoot("offline")
    site.edge.silent, site.edge.refuse_streams = False, None


if __name__ == "__main__":
    main()
