"""Two viewer processes on one database: whoever is asked, the answer is the same."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.keys import KEYS, TENANTS
from tests.faults.viewer_process import running_viewer
from tests.postgres import PostgresServer
from tests.relay_process import free_port
from tests.test_leases import check_one_holder_at_each_moment
from tests.viewer_fixtures import ORIGIN, settings_values, write_settings
from viewer.access import COOKIE
from viewer.model import Role, Status
from viewer.people import NewPerson
from viewer.settings import load_settings
from viewer.store import Store

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SESSIONS = "/api/v1/sessions"
QUOTA = 7
Pair = tuple[httpx.Client, httpx.Client]


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Clients of the two, with a key of the tenant `main`; each viewer with a state directory of its own."""
    values: dict[str, Any] = {**settings_values(tmp_path), "tenants": [dict(one) for one in TENANTS]}
    values["tenants"][1]["quota"] = {"desktops": QUOTA}
    for url in ("relay_url", "opensandbox_url"):
        values["hosts"][0][url] = f"http://127.0.0.1:{free_port()}"  # nobody there
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        values["database"] = server.new().url
    with ExitStack() as stack:
        clients = []
        for number in range(2):
            state, port = tmp_path / f"state-{number}", free_port()
            state.mkdir()
            own = {**values, "listen": f"127.0.0.1:{port}", "state_directory": str(state)}
            file = write_settings(own, tmp_path / f"viewer-{number}.toml")
            viewer = stack.enter_context(running_viewer(file, f"http://127.0.0.1:{port}"))
            clients.append(stack.enter_context(viewer.client(KEYS["main"].text)))
        yield clients[0], clients[1]


def test_change_through_one_is_heard_at_the_other(pair: Pair) -> None:
    one, other = pair
    arrived: dict[str, float] = {}
    is_open, all_there = threading.Event(), threading.Event()

    def listen() -> None:
        with other.stream("GET", "/api/v1/events") as answer:
            for line in answer.iter_lines():
                if line == "event: ready":
                    is_open.set()
                if line.startswith("data: {") and "id" in (data := json.loads(line.removeprefix("data: "))):
                    arrived.setdefault(data["id"], time.monotonic())
                if len(arrived) == 20:
                    all_there.set()
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    assert is_open.wait(20)
    answered = {}
    for _ in range(20):
        made = one.post(SESSIONS, json={"image": "desktop", "wait": False})
        answered[made.json()["id"]] = time.monotonic()
    assert all_there.wait(20)
    listener.join()
    assert set(arrived) == set(answered)
    late = [max(0.0, arrived[ident] - at) * 1000 for ident, at in answered.items()]
    print(f"after the create's answer: {statistics.median(late):.1f} ms (median), {max(late):.1f} ms at most")
    listed = other.get(SESSIONS, params={"limit": 50}).json()["items"]
    assert {row["id"] for row in listed} == set(answered)


def test_sign_in_and_sign_out_count_at_both(pair: Pair) -> None:
    one, other = pair
    headers = {"Origin": ORIGIN, "Host": ORIGIN.removeprefix("http://")}
    with httpx.Client(base_url=one.base_url, trust_env=False) as browser:
        answer = browser.post("/signin", json={"key": KEYS["main"].text}, headers=headers)
    assert answer.status_code == 204
    cookie = {"Cookie": f"{COOKIE}={answer.cookies[COOKIE]}", **headers}

    def me(viewer: httpx.Client) -> int:
        with httpx.Client(base_url=viewer.base_url, trust_env=False) as browser:
            return browser.get("/api/v1/me", headers=cookie).status_code

    assert (me(one), me(other)) == (200, 200)
    with httpx.Client(base_url=one.base_url, trust_env=False) as browser:
        assert browser.post("/signout", headers=cookie).status_code == 303
    assert (me(one), me(other)) == (401, 401)


def test_a_create_that_is_sent_to_both_is_made_once(pair: Pair) -> None:
    def create(viewer: httpx.Client, key: str) -> httpx.Response:
        headers = {"Idempotency-Key": key}
        return viewer.post(SESSIONS, json={"image": "desktop", "wait": False}, headers=headers)

    keys = [f"k-{number}" for number in range(10)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(create, pair * len(keys), [key for key in keys for _ in pair]))
    assert all(answer.is_success for answer in answers), [answer.text for answer in answers]
    made = {(key, answers[2 * at].json()["id"]) for at, key in enumerate(keys)}
    assert made == {(key, answers[2 * at + 1].json()["id"]) for at, key in enumerate(keys)}
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == len(keys)
    assert len(pair[0].get(SESSIONS, params={"limit": 50}).json()["items"]) == len(keys)


def test_fifty_who_want_a_desktop_through_both_are_one_holder_at_each_moment(
    pair: Pair, tmp_path: Path
) -> None:
    """25 agents with keys of their own and 25 browsers, all at once; each change is in the event log."""
    settings = load_settings(tmp_path / "viewer-0.toml")
    store = Store(settings.database)
    ident = pair[0].post(SESSIONS, json={"image": "desktop", "wait": False}).json()["id"]
    store.fleet.transition(ident, Status.RUNNING, host="here", sandbox_id="box-1")
    tenant = store.fleet.get(ident).tenant_id
    agents = [store.accounts.add_key(tenant, Role.OPERATOR, f"a{n}").text for n in range(25)]
    everybody = [{"Authorization": f"Bearer {key}"} for key in agents]
    for number in range(25):
        person = store.people(tenant).add(NewPerson(login=f"p{number}", role=Role.OPERATOR), by="test")
        cookie = store.accounts.sign_in_person(person.id, address=None, user_agent=None)
        headers = {"Origin": ORIGIN, "Host": ORIGIN.removeprefix("http://")}
        everybody.append({"Cookie": f"{COOKIE}={cookie}", **headers})
    start = threading.Barrier(len(everybody))

    def take(number: int) -> int:
        with httpx.Client(base_url=pair[number % 2].base_url, trust_env=False, timeout=60) as client:
            start.wait()
            way = f"{SESSIONS}/{ident}/lease/take"
            return client.post(way, json={}, headers=everybody[number]).status_code

    with ThreadPoolExecutor(len(everybody)) as pool:
        answers = list(pool.map(take, range(len(everybody))))
    events = [one for one in store.tenant(tenant).events_after(0, 1000) if one.type == "session.lease"]
    store.close()
    check_one_holder_at_each_moment(events)
    assert answers.count(200) == len(events)
    assert answers.count(423) == len(everybody) - len(events)
    # Of the people, the first one has it, and nobody takes it from him.
    assert answers[25:].count(200) == 1


def test_quota_holds_over_both(pair: Pair) -> None:
    headers = {"Authorization": f"Bearer {KEYS['other'].text}"}

    def create(viewer: httpx.Client) -> int:
        body = {"image": "desktop", "wait": False}
        return viewer.post(SESSIONS, json=body, headers=headers).status_code

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(create, pair * 10))
    assert sorted(answers) == [202] * QUOTA + [429] * (20 - QUOTA)
