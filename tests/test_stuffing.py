"""Lists of logins and passwords tried at rate against the real viewer, with real argon2."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.process_figures import rss_mib
from tests.viewer_fixtures import ORIGIN
from tests.viewer_process import ViewerProcess
from viewer.attempts import ADDRESS_ALLOWED, LOGIN_ALLOWED
from viewer.model import Role
from viewer.passwords import AT_ONCE, PARAMETERS, Passwords
from viewer.people import NewPerson
from viewer.store import Store

pytestmark = pytest.mark.real

PASSWORD = "correct horse battery"
AT_RATE = 24


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ViewerProcess]:
    with ViewerProcess.running(tmp_path) as running:
        store, hashed = Store(running.database), Passwords().hash(PASSWORD)
        for n in range(8):
            person = store.people("main").add(NewPerson(login=f"user{n}", role=Role.WATCHER), by="test")
            link = store.people("main").new_link(person.id)
            store.accounts.set_password_by_link(link, hashed)
        store.close()
        yield running


def sign_in(
    server: ViewerProcess, login: str, password: str, address: str, cookie: str = ""
) -> httpx.Response:
    headers = {"Origin": ORIGIN, "X-Forwarded-Host": ORIGIN[7:], "X-Forwarded-Proto": "http"}
    headers |= {"X-Forwarded-For": address, **({"Cookie": cookie} if cookie else {})}
    body = {"login": login, "password": password}
    return httpx.post(f"{server.url}/signin", json=body, headers=headers, timeout=60)


def test_stuffing_at_rate_finds_few_answers_little_memory_and_open_doors_for_the_others(
    server: ViewerProcess,
) -> None:
    first = sign_in(server, "user0", PASSWORD, "192.0.2.200")
    assert first.status_code == 204
    device = "; ".join(
        header.partition(";")[0]
        for header in first.headers.get_list("set-cookie")
        if header.startswith("__Host-deskfleet-device=")
    )
    sign_in(server, "user1", "wrong", "192.0.2.201")  # so that what the first check needs is there
    before = rss_mib(server.worker)
    # From one address, 20 logins; and user0 alone, from a new address each time.
    tries = [(f"user{n % 20}", "192.0.2.1") for n in range(150)]
    tries += [("user0", f"198.51.100.{n}") for n in range(150)]
    with ThreadPoolExecutor(AT_RATE) as pool:
        sent = [
            pool.submit(sign_in, server, login, f"guess number {n}", address)
            for n, (login, address) in enumerate(tries)
        ]
        health = [server.client.get("/healthz").status_code for _ in range(20)]
        own = [server.client.get("/api/v1/me").status_code for _ in range(20)]
        grown = max(rss_mib(server.worker) for _ in range(200)) - before
        got = [one.result().status_code for one in sent]
    statuses = Counter(got)
    assert set(statuses) <= {401, 429, 503}, statuses
    # Each 401 is a password that was looked at.
    assert Counter(got[:150])[401] <= ADDRESS_ALLOWED
    assert Counter(got[150:])[401] <= LOGIN_ALLOWED
    assert statuses[401] >= 1
    assert set(health) == set(own) == {200}
    assert grown < (AT_ONCE + 1) * PARAMETERS.memory_cost / 1024 + 40
    refused = sign_in(server, "user0", PASSWORD, "203.0.113.1")
    assert (refused.status_code, "Retry-After" in refused.headers) == (429, True)
    assert sign_in(server, "user0", PASSWORD, "203.0.113.1", device).status_code == 204
    assert sign_in(server, "user5", PASSWORD, "203.0.113.2").status_code == 204
    assert "guess number" not in server.log.read_text()


def test_login_that_nobody_has_takes_as_long_as_a_wrong_password(server: ViewerProcess) -> None:
    took: dict[str, list[float]] = {"known": [], "unknown": [], "no login at all": []}
    sign_in(server, "user7", PASSWORD, "192.0.2.250")
    for n in range(4):
        for kind, login in (
            ("known", f"user{n}"),
            ("unknown", f"nobody{n}"),
            ("no login at all", f"no login {n}"),
        ):
            began = time.perf_counter()
            assert sign_in(server, login, "wrong", f"192.0.2.{n}").status_code == 401
            took[kind].append(time.perf_counter() - began)
    medians = {kind: statistics.median(values) for kind, values in took.items()}
    # A check costs far more than all the rest, so a check more or less would be a factor of several.
    assert max(medians.values()) < 2.5 * min(medians.values()), medians
