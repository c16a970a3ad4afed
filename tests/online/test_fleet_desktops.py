"""Desktops on several hosts behind one edge: where they are placed, how they are seen, who joins while they
are watched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from inventory.models import Host, Site, Ssh
from tests.browser import new_context, wait_for_picture
from tests.online.conftest import chromium_in
from tests.online.fleet import SessionView, eventually
from tests.online.spread import SpreadFleet, many_streams
from tests.online.streams import stream_answer, watching
from tests.online.test_fleet_roll_out import plain_service

pytestmark = pytest.mark.host

JOINING = "box3"


@pytest.fixture(scope="module")
def on_both_boxes(bare_spread: SpreadFleet) -> Iterator[list[SessionView]]:
    """Four live desktops of the first tenant; both sandbox hosts have some."""
    api = bare_spread.api
    with ExitStack() as stack:
        made = [stack.enter_context(api.desktop(task_id=f"task-{number}")) for number in range(4)]
        assert {session.host for session in made} == {"box1", "box2"}
        yield made


@pytest.fixture(scope="module")
def browser(bare_spread: SpreadFleet) -> Iterator[Browser]:
    """Chromium on the operator's machine; it finds the edge's names as after a line in its resolver."""
    domain, address = bare_spread.site.settings.domain, bare_spread.door.address
    rules = f"--host-resolver-rules=MAP {domain} {address}, MAP *.{domain} {address}"
    # Its own list of authorities can't be added to; that the certificate is right is tested by other clients.
    with chromium_in(bare_spread.lan.operator, rules, "--ignore-certificate-errors") as running:
        yield running


@pytest.fixture(scope="module")
def page(bare_spread: SpreadFleet, browser: Browser) -> Iterator[Page]:
    with signed_in(browser, bare_spread.sign_in_link()) as page:
        yield page


@contextmanager
def signed_in(browser: Browser, link: str) -> Iterator[Page]:
    context = new_context(browser)
    page = context.new_page()
    page.goto(link)
    page.wait_for_url(re.compile(r"/sandboxes"))
    yield page
    context.close()


def test_each_new_desktop_goes_to_the_least_loaded_host(spread: SpreadFleet) -> None:
    room = {name: host.max_desktops for name, host in spread.site.hosts.items() if name.startswith("box")}
    used = dict.fromkeys(room, 0)
    with ExitStack() as stack:
        for _ in range(4):
            expected = min(room, key=lambda name: (used[name] / room[name], name))
            made = stack.enter_context(spread.api.desktop())
            assert made.host == expected
            used[expected] += 1
        for name, count in used.items():
            assert len(spread.on(name).sandbox_containers()) == count


def test_desktops_of_all_hosts_are_live_in_one_page(
    spread: SpreadFleet, on_both_boxes: list[SessionView], page: Page
) -> None:
    """Both sandbox hosts' and the persistent one, chosen one after the other in a page that never reloads."""
    page.evaluate("window.neverReloaded = true")
    for session in by_host(on_both_boxes):
        choose(page, session)
        wait_for_picture(page, seconds=30)
    choose(page, persistent(spread))
    frame = page.frame_locator(".viewer-stage iframe")
    expect(frame.locator("#status")).to_have_text("connected", timeout=30_000)
    expect(page.locator(".viewer-badge")).to_contain_text("KasmVNC")
    assert page.evaluate("window.neverReloaded") is True


def test_persistent_desktop_of_tigervnc_is_seen_by_its_tenant(spread: SpreadFleet, browser: Browser) -> None:
    with signed_in(browser, spread.sign_in_link("acme")) as page:
        choose(page, persistent(spread, "acme"))
        wait_for_picture(page, seconds=30)
        expect(page.locator(".viewer-badge")).to_contain_text("TigerVNC")


def choose(page: Page, session: SessionView) -> None:
    page.locator(f'li[data-session="{session.id}"] a').click()
    page.wait_for_selector(f'sandbox-viewer[session="{session.id}"][data-link="connected"]', timeout=30_000)


def persistent(spread: SpreadFleet, tenant: str = "main") -> SessionView:
    """The one persistent desktop of a tenant."""
    running = spread.api_of(tenant).sessions(status="running")
    [found] = [session for session in running if session.kind == "desktop"]
    return found


def by_host(sessions: list[SessionView]) -> list[SessionView]:
    """One of each host."""
    return list({session.host: session for session in sessions}.values())


def test_streams_of_all_hosts_pass_the_one_edge(
    spread: SpreadFleet, on_both_boxes: list[SessionView]
) -> None:
    for session in by_host(on_both_boxes):
        with watching(spread.api, session.id) as stream:
            stream.assert_alive()
    plotting = persistent(spread, "acme")
    with watching(spread.api_of("acme"), plotting.id) as stream:
        stream.assert_alive()


def test_desktop_of_another_tenant_does_not_exist(
    spread: SpreadFleet, on_both_boxes: list[SessionView]
) -> None:
    stranger = spread.api_of("acme")
    for session in by_host(on_both_boxes):
        assert stream_answer(stranger, session.id) == 404
        assert stranger.call("GET", f"/api/v1/sessions/{session.id}").status_code == 404


def test_change_at_the_edge_drops_none_of_fifty_streams(
    spread: SpreadFleet, on_both_boxes: list[SessionView]
) -> None:
    with many_streams(spread.api, [session.id for session in on_both_boxes], 50) as streams:
        try:
            spread.operator.change(plain_service)
            done = spread.roll_out()
            assert "edge1" in done.changed_hosts
            assert any(name.startswith("Caddy | ") for name in done.changes)
            for stream in streams:
                stream.assert_alive()
        finally:
            spread.operator.change(plain_service)
            spread.roll_out()
        for stream in streams:
            stream.assert_alive()


def test_new_sandbox_host_joins_and_takes_desktops_while_streams_stay_open(
    spread: SpreadFleet, on_both_boxes: list[SessionView]
) -> None:
    alone = spread.site
    with many_streams(spread.api, [session.id for session in on_both_boxes], 20) as streams:
        try:
            spread.operator.write(with_another_box(alone))
            spread.add(spread.site)
            die_while_docker_is_unpacked(spread)
            done = spread.roll_out()
            assert JOINING in done.changed_hosts
            eventually(lambda: takes_a_desktop(spread), within=60, what="the new host takes a desktop")
            for stream in streams:
                stream.assert_alive()
        finally:
            spread.operator.write(alone)
            if JOINING in spread.machines:
                spread.remove(JOINING)
            spread.roll_out()
        for stream in streams:
            stream.assert_alive()


def die_while_docker_is_unpacked(spread: SpreadFleet) -> None:
    """kill -9 of the roll-out, and of what it had the host do, in the middle of apt's work."""
    running = spread.checkout.start("inventory", "deploy.py", "-y", "--json")
    assert running.follow("Starting operation: Docker | Install Docker")
    status = "dpkg-query -W -f='${db:Status-Status}' docker.io 2>/dev/null"
    machine = spread.machines[JOINING]
    machine.run(
        f"for i in $(seq 2000); do {status} | grep -qx unpacked && break; sleep 0.05; done; "
        "pkill -9 -f '[b]ring[(][)]'; pkill -9 'apt-get|dpkg'"
    )
    running.kill()
    assert machine.run(status).out in ("unpacked", "half-configured")


def with_another_box(site: Site) -> Site:
    box = site.hosts["box1"]
    if not isinstance(box.connect, Ssh):
        raise TypeError("box1 of the example is reached over SSH")
    way = box.connect.model_copy(update={"address": "10.77.0.16"})
    return site.model_copy(update={"hosts": {**site.hosts, JOINING: Host(groups=box.groups, connect=way)}})


def takes_a_desktop(spread: SpreadFleet) -> bool:
    """It is empty, so the next desktop is its; and the desktop can be watched."""
    with spread.api.desktop() as session:
        if session.host != JOINING:
            return False
        with watching(spread.api, session.id) as stream:
            stream.assert_alive()
        return True
