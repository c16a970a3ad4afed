"""A person takes a desktop from the agent that works in it: the whole chain, with a Chromium that is killed.

Caddy, viewer, worker, relay, opensandbox-server and container are real. Stand-ins, by name: a canned RFB
server where a desktop would be, and `tests.execd_stand_in` in the container's network, as in `test_mcp.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser import CHROMIUM, FLAGS, sign_in
from tests.worker.edge import Edge
from tests.worker.ports import SHOWN, asked, serving_in, way
from viewer.access import COOKIE
from viewer.model import Role, Session, Status

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.timeout(180)]

EXECD = 44772
XDOTOOL = {"command": "xdotool key Return", "timeout": 5000}


@pytest.fixture
def session(edge: Edge) -> Iterator[Session]:
    row = edge.fleet.wait_for(edge.fleet.create("coder"), Status.RUNNING)
    with serving_in(edge, row, EXECD, module="tests.execd_stand_in", ready="/ping"):
        yield row


def run_xdotool(edge: Edge, row: Session) -> tuple[int, str]:
    answer = asked(edge, row, "/command", port=EXECD, method="POST", json=XDOTOOL)
    return answer.status_code, answer.text


@contextmanager
def killable_browser(edge: Edge, folder: Path) -> Iterator[tuple[Page, Callable[[], None]]]:
    """A page of a signed-in person, and what kills his whole browser as no page notices."""
    key = edge.fleet.store.accounts.add_key("main", Role.OPERATOR, "bob")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(folder, executable_path=CHROMIUM, args=FLAGS)
        page = context.pages[0]
        sign_in(page, f"http://deskfleet.localhost:{edge.port}", key.text)

        def kill() -> None:
            for process in Path("/proc").glob("[0-9]*"):
                if str(folder).encode() in read(process / "cmdline"):
                    os.kill(int(process.name), signal.SIGKILL)

        yield page, kill


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def holder(edge: Edge, row: Session) -> str | None:
    found = edge.fleet.store.leases.of(row.id).holder
    return found.name if found else None


def test_commands_wait_while_a_person_has_control_and_go_on_when_his_browser_is_killed(
    edge: Edge, session: Session, tmp_path: Path
) -> None:
    assert run_xdotool(edge, session)[0] == 200
    with killable_browser(edge, tmp_path / "browser") as (page, kill):
        page.goto(f"http://deskfleet.localhost:{edge.port}/sandboxes/{session.id}")
        expect(page.locator(".viewer-cover")).to_be_hidden()
        page.get_by_role("button", name="Take control").click()
        expect(page.locator(".lease-state")).to_have_text("You have control")
        status, says = run_xdotool(edge, session)
        assert status == 423
        assert "DESKFLEET::LEASE_HELD" in says
        assert "bob has keyboard and mouse of this desktop" in says
        page.wait_for_timeout(1500)  # the worker has seen his stream
        assert holder(edge, session) == "bob"
        kill()
        deadline = time.monotonic() + 15
        while run_xdotool(edge, session)[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert holder(edge, session) is None


def test_what_is_open_is_cut_when_a_person_takes_control(edge: Edge, session: Session) -> None:
    store = edge.fleet.store
    cookie = store.accounts.sign_in_with_key(store.accounts.add_key("main", Role.OPERATOR, "mara").text)
    host = {"Host": f"localhost:{edge.port}"}
    as_mara = {**host, "Cookie": f"{COOKIE}={cookie}", "Origin": f"http://localhost:{edge.port}"}
    url = f"http://127.0.0.1:{edge.port}"

    async def body() -> None:
        async with aiohttp.ClientSession() as http:
            command = {"command": "sleep 60", "timeout": 60_000}
            running = f"{url}{way(session, '/command', EXECD)}"
            async with http.post(running, json=command, headers={**host, **SHOWN}) as answer:
                assert answer.status == 200
                assert await answer.content.readany()
                take = f"{url}/api/v1/sessions/{session.id}/lease/take"
                async with http.post(take, json={}, headers=as_mara) as taken:
                    assert taken.status == 200
                with suppress(aiohttp.ClientError):
                    await asyncio.wait_for(answer.content.read(), 10)

    asyncio.run(body())
    assert run_xdotool(edge, session)[0] == 423
