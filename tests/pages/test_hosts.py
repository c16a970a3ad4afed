"""The Hosts page in Chromium.

Stand-in, by name: `fleet_of` answers for the API where a whole fleet is to be shown.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import PHONE, Complaints, new_context, scrolls_sideways, sign_in
from tests.pages.site import PagesSite
from viewer.model import HostStatus
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
        "last_seen_at": "2026-11-23T12:00:00Z", "used_desktops": 0, "max_desktops": 0, "used_cpu": "0m",
        "max_cpu": None, "used_memory": "0Mi", "max_memory": None, "draining": False, "labels": {},
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
