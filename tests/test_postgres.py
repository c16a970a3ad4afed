"""What is PostgreSQL's alone: a server that goes away and comes back, news of changes, one worker acting."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from tests.postgres import PostgresServer, running_server
from tests.viewer_fixtures import ORIGIN, settings_values
from viewer.accounts import DeclaredKey
from viewer.acting import LOCK_LOST, SessionLock
from viewer.app import create_app
from viewer.credentials import hash_of, new_key
from viewer.database import DatabaseAway
from viewer.database_address import PostgresAddress
from viewer.model import Role, utcnow
from viewer.settings import Settings
from viewer.store import NewSession, Store
from viewer.tables import TenantRow

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

ROOT = Path(__file__).parent.parent
NEW = NewSession(image="desktop", resolution="1280x800", ttl_seconds=60, created_by="test")


@pytest.fixture
def address(postgres_server: PostgresServer) -> PostgresAddress:
    return postgres_server.migrated()


@pytest.fixture
def acme(address: PostgresAddress) -> Iterator[Store]:
    opened = Store(address)
    opened.accounts.add_tenant("acme")
    yield opened
    opened.close()


def end_connections(address: PostgresAddress, which: str) -> int:
    """As an operator of the server would; `which`: a condition on pg_stat_activity. How many there were."""
    with psycopg.connect(address.url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}"
        )
        return len(ended.fetchall())


# --- news of changes --------------------------------------------------------------------------------


def follow(store: Store, wanted: int, found: list[int]) -> None:
    """As the event hub does; every wait ends by a change, or it is a wake-up that was lost."""
    seen = 0
    while len(found) < wanted:
        mark = store.mark()
        events = store.fleet.events_after(seen, 100)
        if not events:
            assert store.wait_for_change(20, since=mark), f"woken by nobody after {len(found)}"
            continue
        found += [event.id for event in events]
        seen = found[-1]


def test_no_change_is_missed_and_ids_come_in_their_order_whoever_writes_and_whatever_connection_ends(
    acme: Store, address: PostgresAddress
) -> None:
    writers = [Store(address) for _ in range(3)]
    found: list[int] = []
    follower = threading.Thread(target=follow, args=(acme, 150, found))
    follower.start()

    def write(store: Store) -> None:
        for _ in range(50):
            store.tenant("acme").create(NEW)

    threads = [threading.Thread(target=write, args=(store,)) for store in writers]
    for thread in threads:
        thread.start()
    lost = 0
    while any(thread.is_alive() for thread in threads):
        lost += end_connections(address, "query LIKE 'LISTEN%'")
        time.sleep(0.1)
    follower.join(timeout=60)
    assert not follower.is_alive()
    assert found == [event.id for event in acme.fleet.events_after(0, 1000)]
    assert lost
    for store in writers:
        store.close()


def test_a_lost_connection_counts_as_a_change(acme: Store, address: PostgresAddress) -> None:
    mark = acme.mark()
    assert not acme.wait_for_change(0.05, since=mark)
    assert end_connections(address, "query LIKE 'LISTEN%'") == 1
    assert acme.wait_for_change(20, since=mark)


def test_what_others_wrote_is_heard_of_in_milliseconds(acme: Store, address: PostgresAddress) -> None:
    other, delays = Store(address), []
    for _ in range(20):
        mark = acme.mark()
        written: list[float] = []

        def write(written: list[float] = written) -> None:
            other.tenant("acme").create(NEW)
            written.append(time.monotonic())

        thread = threading.Thread(target=write)
        thread.start()
        assert acme.wait_for_change(20, since=mark)
        heard = time.monotonic()
        thread.join()
        delays.append(max(0.0, heard - written[0]))
    other.close()
    print(f"heard of after {sorted(delays)[10] * 1000:.1f} ms (median), {max(delays) * 1000:.1f} ms at most")


# --- a server that is away --------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


def test_server_that_is_restarted_is_told_as_away_and_found_again(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    address = own_server.migrated()
    values = {**settings_values(tmp_path), "database": address.url, "state_directory": str(tmp_path)}
    store, key = Store(address), new_key()
    declared = DeclaredKey(id=key.id, tenant="acme", role=Role.OPERATOR, sha256=hash_of(key.text), label="")
    store.accounts.sync_declared(["acme"], [declared])
    app = create_app(Settings.model_validate(values), store)
    client, headers = app.test_client(), {"Authorization": f"Bearer {key.text}"}
    mark = store.mark()
    own_server.stop()
    for method, body in (("GET", None), ("POST", {"wait": False})):
        answer = client.open("/api/v1/sessions", base_url=ORIGIN, method=method, json=body, headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert (answer.json or {})["type"].endswith("database-away")
    with pytest.raises(DatabaseAway):
        store.tenant("acme").create(NEW)
    own_server.start()
    assert client.get("/api/v1/sessions", base_url=ORIGIN, headers=headers).status_code == 200
    assert store.wait_for_change(20, since=mark)
    store.tenant("acme").create(NEW)
    app.extensions["deskfleet"].close()
    store.close()


def test_connection_that_ends_in_the_middle_leaves_nothing_half_done(
    acme: Store, address: PostgresAddress
) -> None:
    def write() -> None:
        with acme._database.writing() as orm:
            orm.add(TenantRow(id="half", created_at=utcnow()))
            orm.flush()
            assert end_connections(address, "state = 'idle in transaction'") == 1
            orm.execute(text("SELECT 1"))

    with pytest.raises(DatabaseAway):
        write()
    acme.accounts.add_tenant("whole")
    assert acme.accounts.tenants() == ["acme", "whole"]


# --- one worker -------------------------------------------------------------------------------------

WORKER = """
import logging, sys, threading, time
from viewer.acting import acting_alone
from viewer.database_address import address_of
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
with acting_alone(address_of(sys.argv[1]), stop) as acting:
    print(f"acting {acting} {time.monotonic()}", flush=True)
    stop.wait()
"""


class LoneWorker:
    def __init__(self, address: PostgresAddress) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", WORKER, str(address)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def acts_at(self) -> float:
        """When it began to act, by the clock of all processes; until then it may say that it waits."""
        while not (said := self.says()).startswith("acting True"):
            assert "away" in said or "another worker" in said, said
        return float(said.split()[-1])

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def test_worker_that_loses_its_lock_is_gone_before_the_next_one_acts(address: PostgresAddress) -> None:
    first, second = LoneWorker(address), None
    try:
        first.acts_at()
        second = LoneWorker(address)
        assert second.says() == "another worker is acting; waiting for its end"
        assert end_connections(address, "query LIKE 'SELECT pg_try_advisory_lock%' OR query = 'SELECT 1'")
        assert first.says().startswith("the lock of the acting worker is lost, so this one ends")
        assert first.process.wait(timeout=20) == LOCK_LOST
        gone_at = time.monotonic()
        acted_at = second.acts_at()
        assert acted_at > gone_at
        print(f"the next one acts {acted_at - gone_at:.2f} s after the first is gone")
    finally:
        first.stop()
        assert second is None or second.stop() == 0


def test_worker_that_ends_by_itself_gives_the_lock_to_the_next(address: PostgresAddress) -> None:
    first = LoneWorker(address)
    first.acts_at()
    lock = SessionLock(address)
    assert not lock.take()
    assert first.stop() == 0
    deadline = time.monotonic() + 20
    while not lock.take():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lock.release()


def test_worker_waits_for_a_server_that_is_away(own_server: PostgresServer) -> None:
    address = own_server.migrated()
    own_server.stop()
    worker = LoneWorker(address)
    assert worker.says().startswith("the database is away; trying again")
    own_server.start()
    worker.acts_at()
    assert worker.stop() == 0
