"""The Hosts page in Chromium.

Stand-in, by name: `fleet_of` answers for the API where a whole fleet is to be shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import PHONE, Complaints, new_context, scrolls_sideways, sign_in
from tests.pages.axe import assert_accessible
from tests.pages.site import PagesSite
from viewer.model import HostStatus, Role, Scope
from viewer.public import HostList

pytestmark = [pytest.mark.browser, pytest.mark.real]


def desktop(name: str, **values: Any) -> dict[str, Any]:
    return {
        "name": name, "session_id": "11111111-2222-4333-8444-555555555555", "status": "running",
        "status_reason": None, "wanted_backend": "kasmvnc", "backend": "kasmvnc", **values,
    }  # fmt: skip


def host(name: str, *groups: str, **values: Any) -> dict[str, Any]:
    return {
        "name": name, "groups": groups, "status": "ok", "detail": None,
        "last_seen_at": "2026-11-23T12:00:00Z", "since": "2026-11-23T08:00:00Z", "own_sessions": 0,
        "used_desktops": 0, "max_desktops": 0, "used_cpu": "0m", "max_cpu": None, "used_memory": "0Mi",
        "max_memory": None, "draining": False, "drained_at": None, "certificate_ends": None, "labels": {},
        "report": None, "desktops": [], "warnings": [], "address": None, **values,
    }  # fmt: skip


FALLBACK = "desktop studio runs TigerVNC, because KasmVNC could not be had"
FLEET = [
    host("box1", "sandboxes", used_desktops=5, max_desktops=8, address="10.77.0.13"),
    host("box2", "sandboxes", used_desktops=8, max_desktops=8, address="10.77.0.14",
         warnings=["it is full: new desktops go to other hosts"]),
    host("box3", "sandboxes", "desktops", status="unreachable", max_desktops=8, address="10.77.0.16",
         detail="sandbox host box3 is unreachable: no connection to https://10.77.0.16:8443: timed out",
         last_seen_at="2026-11-23T08:00:00Z"),
    host("atelier", "desktops", address="10.77.0.15", warnings=[FALLBACK], desktops=[
        desktop("drawing"),
        desktop("studio", wanted_backend="kasmvnc-or-tigervnc", backend="tigervnc"),
        desktop("press", wanted_backend="kasmvnc-or-tigervnc"),
        desktop("sketch", wanted_backend="tigervnc"),
        desktop("lab", status="creating", backend=None, session_id=None,
                status_reason="<b>the relay</b> does not answer"),
    ]),
    host("new", "sandboxes", status="unknown", max_desktops=8, last_seen_at=None),
]  # fmt: skip


def fleet_of(page: Page, hosts: list[dict[str, Any]]) -> None:
    """Answer for the API with these hosts, which must be as the API would say them."""
    text = HostList.model_validate({"items": hosts}).model_dump_json()

    def answer(route: Route) -> None:
        route.fulfill(status=200, content_type="application/json", body=text)

    page.route("**/api/v1/hosts", answer)


def test_page_follows_the_real_host(page: Page, site: PagesSite, complaints: Complaints) -> None:
    site.store.fleet.record_host_status("here", HostStatus.OK)
    page.goto(f"{site.origin}/sandboxes")
    page.get_by_role("link", name="Hosts").click()
    row = page.locator("[data-host=here]")
    expect(row).to_contain_text("Answers")
    expect(page.locator("#hosts-summary")).to_contain_text("1 of 1 answers")
    expect(page.locator(".top-nav [aria-current]")).to_have_text("Hosts")
    site.store.fleet.record_host_status("here", HostStatus.UNREACHABLE, "its Docker daemon is down")
    expect(row.locator(".badge")).to_have_text("Unreachable", timeout=8000)
    expect(row).to_contain_text("Its Docker daemon is down")
    site.store.fleet.record_host_status("here", HostStatus.OK)
    expect(row.locator(".badge")).to_have_text("Answers", timeout=8000)
    assert complaints.heard == []


def test_fallback_and_fullness_and_silence_are_seen(page: Page, site: PagesSite) -> None:
    fleet_of(page, FLEET)
    page.goto(f"{site.origin}/hosts")
    expect(page.locator("tbody tr")).to_have_count(5)
    expect(page.locator("#hosts-summary")).to_have_text("3 of 5 answer · 13 of 32 desktops in use")
    expect(page.locator("[data-host=box1] progress")).to_have_attribute("value", "5")
    expect(page.locator("[data-host=box2]")).to_contain_text("It is full")
    expect(page.locator("[data-host=box3] .badge")).to_have_text("Unreachable")
    atelier = page.locator("[data-host=atelier]")
    expect(atelier.locator(".host-backend")).to_have_text(
        [
            "KasmVNC",
            "KasmVNC or TigerVNC → TigerVNC",
            "KasmVNC or TigerVNC → KasmVNC",
            "TigerVNC → KasmVNC",
            "KasmVNC",
        ]
    )
    expect(atelier.locator("[data-differs=true]")).to_have_text(
        ["KasmVNC or TigerVNC → TigerVNC", "TigerVNC → KasmVNC"]
    )
    expect(atelier.get_by_role("link", name="drawing")).to_have_attribute(
        "href", "/sandboxes/11111111-2222-4333-8444-555555555555"
    )
    # What a host says is text, whatever is in it.
    expect(atelier).to_contain_text("<b>the relay</b> does not answer")
    expect(page.locator("[data-host=new]")).to_contain_text("Not seen yet")


def test_host_that_joins_or_leaves_does_not_move_the_focus(page: Page, site: PagesSite) -> None:
    fleet_of(page, FLEET[3:4])
    page.goto(f"{site.origin}/hosts")
    page.get_by_role("link", name="drawing").focus()
    page.unroute("**/api/v1/hosts")
    fleet_of(page, [FLEET[0], {**FLEET[3], "warnings": []}])
    expect(page.locator("tbody tr")).to_have_count(2, timeout=8000)
    expect(page.locator("[data-host=atelier] .badge").first).to_have_text("Answers")
    expect(page.get_by_role("link", name="drawing")).to_be_focused()
    page.unroute("**/api/v1/hosts")
    fleet_of(page, FLEET[:1])
    expect(page.locator("tbody tr")).to_have_count(1, timeout=8000)


def test_silent_server_leaves_what_was_read_and_says_so(page: Page, site: PagesSite) -> None:
    site.store.fleet.record_host_status("here", HostStatus.OK)
    page.goto(f"{site.origin}/hosts")
    expect(page.locator("[data-host=here]")).to_be_visible()
    page.route("**/api/v1/hosts", lambda route: route.abort())
    expect(page.locator("#banner")).to_contain_text("Connection to the server lost", timeout=12_000)
    expect(page.locator("[data-host=here]")).to_be_visible()
    page.unroute("**/api/v1/hosts")
    expect(page.locator("#banner")).to_be_hidden(timeout=8000)


@pytest.mark.parametrize("size", [PHONE, (1024, 700)])
def test_page_fits_its_window_and_the_way_there_is_always_shown(
    browser: Browser, site: PagesSite, size: tuple[int, int]
) -> None:
    context = new_context(browser, size=size)
    page = context.new_page()
    sign_in(page, site.origin, site.key)
    fleet_of(page, FLEET)
    page.goto(f"{site.origin}/sandboxes")
    assert not scrolls_sideways(page)
    page.get_by_role("link", name="Hosts").click()
    expect(page.locator("tbody tr")).to_have_count(5)
    assert not scrolls_sideways(page)
    if size == PHONE:
        # Each value says what it is, because there is no head of a table above it.
        label = page.locator("[data-host=box1] td").first.evaluate(
            "cell => getComputedStyle(cell, '::before').content"
        )
        assert json.loads(label) == "Status"
    context.close()


REPORT = {
    "at": "2026-11-23T12:00:00Z", "load_1m": 3.2, "cpus": 8, "memory_total": 32 << 30,
    "memory_available": 12 << 30, "disk_total": 400 << 30, "disk_free": 100 << 30, "image_tags": [],
    "docker_version": "29.0", "containers": {"running": 5, "ended": 1, "broken": 1},
    "hostwatch_version": "0.1.0", "relay_version": "0.1.0", "opensandbox_version": "1.1.1",
}  # fmt: skip
LOADED = [
    host("box1", "sandboxes", used_desktops=5, max_desktops=8, address="10.77.0.13", own_sessions=2,
         used_cpu="10000m", max_cpu="16000m", used_memory="10240Mi", max_memory="16384Mi", report=REPORT,
         certificate_ends="2027-03-01T00:00:00Z"),
    host("box2", "sandboxes", used_desktops=3, max_desktops=8, address="10.77.0.14", draining=True,
         drained_at="2026-11-23T16:40:00Z", report={**REPORT, "load_1m": 11.0},
         warnings=["it is draining: new desktops go to other hosts, those that run go on"]),
    host("box3", "sandboxes", status="unreachable", used_desktops=1, max_desktops=8, draining=False,
         detail="sandbox host box3 is unreachable: no connection to https://10.77.0.16:8443: timed out"),
]  # fmt: skip


@pytest.fixture
def fleet_page(browser: Browser, site: PagesSite) -> Iterator[Page]:
    """Of an admin of the whole fleet."""
    key = site.store.accounts.add_key(site.tenant, Role.ADMIN, "fleet", scopes=list(Scope)).text
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, site.origin, key)
    yield page
    context.close()


def test_admin_of_the_fleet_sees_load_and_versions(fleet_page: Page, site: PagesSite) -> None:
    fleet_of(fleet_page, LOADED)
    fleet_page.goto(f"{site.origin}/hosts")
    box1 = fleet_page.locator("[data-host=box1]")
    expect(box1.get_by_label("CPU: 10 of 16 cores")).to_have_attribute("value", "10")
    expect(box1.get_by_label("Load: 3.2 of 8 cores")).to_be_visible()
    expect(box1.get_by_label("Memory: 20 of 32 GiB")).to_be_visible()
    expect(box1.get_by_label("Disk: 300 of 400 GiB")).to_be_visible()
    expect(box1).to_contain_text("Containers: 5 running, 1 ended, 1 broken")
    expect(box1.get_by_role("link", name="2 of yours")).to_have_attribute("href", "/sandboxes?host=box1")
    box1.get_by_text("Versions").click()
    expect(box1.locator("dd")).to_have_text(["1.1.1", "0.1.0", "0.1.0", "29.0", re.compile("until .*2027")])
    box2 = fleet_page.locator("[data-host=box2]")
    expect(box2.locator(".host-badges")).to_have_text("AnswersDraining")
    expect(box2).to_contain_text("3 desktops still run; new ones go to other hosts. The last one ends by")
    expect(box2.get_by_label("Load: 11 of 8 cores")).to_have_attribute("data-tone", "busy")
    box3 = fleet_page.locator("[data-host=box3]")
    expect(box3).to_contain_text("1 desktop may go on there; nothing is known of them until it answers.")
    assert_accessible(fleet_page)
    for width in (1440, 1100, 900, PHONE[0]):
        fleet_page.set_viewport_size({"width": width, "height": 900})
        assert not scrolls_sideways(fleet_page), width
        lines = fleet_page.locator(".bar-line").evaluate_all("all => all.map(one => one.offsetHeight)")
        assert max(lines) < 30, f"a figure takes two lines at {width}"


def test_host_is_drained_and_given_desktops_again(fleet_page: Page, site: PagesSite) -> None:
    site.store.fleet.record_host_status("here", HostStatus.OK)
    session = site.running()
    fleet_page.goto(f"{site.origin}/hosts")
    row = fleet_page.locator("[data-host=here]")
    row.get_by_role("button", name="Drain here").click()
    dialog = fleet_page.get_by_role("dialog")
    expect(dialog).to_contain_text("New desktops go to other hosts from now on.")
    dialog.get_by_role("button", name="Cancel").click()
    assert not site.store.fleet.hosts()[0].is_draining
    row.get_by_role("button", name="Drain here").click()
    dialog.get_by_role("button", name="Drain", exact=True).click()
    expect(row).to_contain_text("Draining")
    assert site.store.fleet.hosts()[0].is_draining
    for one in site.store.fleet.live_sessions():
        site.store.fleet.request_termination(one.id)
    expect(row).to_contain_text("Drained", timeout=10_000)
    row.get_by_role("button", name="Stop draining here").click()
    dialog.get_by_role("button", name="Stop draining").click()
    expect(row).not_to_contain_text("Drained")
    assert not site.store.fleet.hosts()[0].is_draining
    assert site.store.fleet.get(session.id).status.is_terminal


def test_admin_of_one_tenant_is_offered_nothing_of_the_fleets(page: Page, site: PagesSite) -> None:
    site.store.fleet.record_host_status("here", HostStatus.OK)
    page.goto(f"{site.origin}/hosts")
    expect(page.locator("[data-host=here]")).to_contain_text("Answers")
    expect(page.get_by_role("button", name="Drain here")).to_have_count(0)
    expect(page.locator("#machine-head")).to_be_hidden()


@pytest.mark.parametrize("size", [PHONE, (1024, 700)])
def test_loaded_fleet_fits_its_window(fleet_page: Page, site: PagesSite, size: tuple[int, int]) -> None:
    fleet_page.set_viewport_size({"width": size[0], "height": size[1]})
    fleet_of(fleet_page, LOADED)
    fleet_page.goto(f"{site.origin}/hosts")
    expect(fleet_page.locator("tbody tr")).to_have_count(3)
    assert not scrolls_sideways(fleet_page)
