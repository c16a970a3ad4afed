"""A hundred creates at once, of two tenants, by the API, over three hosts that stand apart."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.faults.apart import HostApart, recorded
from tests.faults.keys import KEYS, TENANTS
from tests.faults.replay import Replay, changes
from tests.faults.viewer_process import ViewerProcess, running_viewer
from tests.relay_process import free_port
from tests.worker.fleet import Fleet
from viewer.model import HostStatus, Status
from viewer.public import PublicSession, SessionList, Terminated

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

ASKED = {"main": 70, "other": 30}
PLACES = 12
CREATES = 3
NAMES = ("here", "there", "yonder")


def ask(client: httpx.Client) -> PublicSession:
    answer = client.post("/api/v1/sessions", json={"image": "shell", "wait": False})
    assert answer.status_code == 202, answer.text
    return PublicSession.model_validate_json(answer.content)


def ask_for_all(viewer: ViewerProcess) -> list[PublicSession]:
    """At once, those of `main` first: whoever comes later must not have to wait for all of them."""
    tenants = [tenant for tenant, number in ASKED.items() for _ in range(number)]
    with ExitStack() as stack, ThreadPoolExecutor(len(tenants)) as pool:
        clients = {tenant: stack.enter_context(viewer.client(key.text)) for tenant, key in KEYS.items()}
        return list(pool.map(lambda tenant: ask(clients[tenant]), tenants))


def end(viewer: ViewerProcess, tenant: str, **condition: object) -> set[str]:
    with viewer.client(KEYS[tenant].text) as client:
        answer = client.post("/api/v1/sessions/terminate", json=condition)
    assert answer.status_code == 202, answer.text
    return set(Terminated.model_validate_json(answer.content).ids)


def places_in_line(viewer: ViewerProcess) -> list[int]:
    """Of all that wait, of both tenants."""
    found = []
    for key in KEYS.values():
        with viewer.client(key.text) as client:
            answer = client.get("/api/v1/sessions", params={"status": "creating", "limit": 100})
        page = SessionList.model_validate_json(answer.content)
        found += [one.queue_position for one in page.items if one.queue_position is not None]
    return sorted(found)


def wait_until(fits: Callable[[], bool], fleet: Fleet, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not fits():
        assert time.monotonic() < deadline, fleet.last_log()
        fleet.store.wait_for_change(0.2)


def is_settled(fleet: Fleet, running: int) -> bool:
    """So many run, and all others wait in line."""
    rows = fleet.store.fleet.live_sessions()
    there = [row for row in rows if row.status is Status.RUNNING and row.terminate_requested_at is None]
    return len(there) == running and all(row in there or row.host is None for row in rows)


def test_hundred_creates_at_once_are_each_made_once_in_fair_turns_and_never_too_many(
    tmp_path: Path, three: tuple[HostApart, ...]
) -> None:
    here, there, yonder = three
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with (
        Fleet(
            tmp_path, here.server, here.relay,
            others={"there": (there.server, there.relay), "yonder": (yonder.server, yonder.relay)},
            max_desktops=PLACES, max_creates=CREATES, queue_seconds=600, create_deadline_seconds=120,
            tenants=TENANTS, listen=url.removeprefix("http://"),
        ) as fleet,
        running_viewer(fleet.settings_file, url) as viewer,
        ExitStack() as stack,
    ):  # fmt: skip
        seen = [stack.enter_context(recorded(host, fleet.fleet_id, tmp_path)) for host in three]
        fleet.start()
        wait_until(
            lambda: [host.status for host in fleet.store.fleet.hosts()] == [HostStatus.OK] * 3,
            fleet, seconds=20,
        )  # fmt: skip
        asked = ask_for_all(viewer)
        in_all, done = len(asked), 0
        while done < in_all:
            wave = min(PLACES * len(three), in_all - done)
            wait_until(partial(is_settled, fleet, wave), fleet, seconds=200)
            assert places_in_line(viewer) == list(range(1, in_all - done - wave + 1))
            ended = set().union(*(end(viewer, tenant, status=["running"]) for tenant in KEYS))
            assert len(ended) == wave
            done += wave
        wait_until(lambda: not fleet.store.fleet.live_sessions(), fleet, seconds=60)
        assert [host.containers(fleet.fleet_id) for host in three] == [[], [], []]
        seconds = time.monotonic() - began

        replay = Replay(places=PLACES, creates=CREATES)
        states = changes(fleet.store, KEYS)
        for state in states:
            replay.see(state)
        assert replay.wrong == []
        assert Counter(one.tenant_id for one in replay.placed) == ASKED
        assert {one.id for one in replay.placed} == {one.id for one in asked}
        last = {state.id: state for state in states}
        assert Counter(one.status for one in last.values()) == {Status.TERMINATED: in_all}
        assert {state.id for state in states if state.status is Status.RUNNING} == set(last)
        made: Counter[str] = sum((one.made() for one in seen), Counter())
        assert made == Counter(one.request_id for one in last.values())
        assert [one.most_at_once() for one in seen] == [PLACES] * len(three)

        ask_for_all(viewer)
        time.sleep(2)  # some are under way, and many wait
        for tenant, number in ASKED.items():
            assert len(end(viewer, tenant, all=True)) == number
        wait_until(lambda: not fleet.store.fleet.live_sessions(), fleet, seconds=60)
        assert [host.containers(fleet.fleet_id) for host in three] == [[], [], []]
        print(f"{in_all} in {seconds:.0f} s, fullest {dict(replay.most)}")
