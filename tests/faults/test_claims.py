"""Eight that claim warm desktops at once: each is one's own, and who finds none goes cold. A viewer that is
killed at any moment of a create or a claim: the same request, sent again, finds what its first one made."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.faults.apart import HostApart, recorded
from tests.faults.claimer import begin_together, claim_some
from tests.faults.keys import KEYS, TENANTS
from tests.faults.truth import wait_until_right
from tests.faults.viewer_process import ViewerProcess, running_viewer
from tests.postgres import PostgresServer
from tests.relay_process import free_port
from tests.soaking import is_soaking
from tests.worker.fleet import Fleet
from viewer.credentials import open_secret
from viewer.database_address import PostgresAddress
from viewer.fleet_store import WarmOrder
from viewer.grants import PublishedPort
from viewer.model import Display, HostStatus, Session, Status
from viewer.public import PublicSession
from viewer.relay.answers import ProbeOutcome
from viewer.store import NewSession, Store

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

PROCESSES = 8
CLAIMS_EACH = 10
WARM = 30
LIKE: dict[str, Any] = {"image": "desktop", "resolution": "1280x800", "cpu_millis": 500, "memory_mib": 64}


def filled_pool(store: Store) -> list[Session]:
    order = WarmOrder(host="here", display=Display.RFB, max_age_seconds=3600, **LIKE)
    store.fleet.record_host_status("here", HostStatus.OK)
    made = [store.fleet.add_warm(order) for _ in range(WARM)]
    return [
        store.fleet.transition(
            one.id, Status.RUNNING, host="here", sandbox_id=f"box-{number}", vnc_port=40000 + number
        )
        for number, one in enumerate(made)
    ]


def claimed_at_once(database: Path | PostgresAddress, tenants: list[str]) -> dict[str, list[Session]]:
    """Each tenant has a process of its own."""
    new = NewSession(**LIKE, display=Display.RFB, ttl_seconds=3600, created_by="key:test")
    # Not forked: connections to the database, and this process's threads, must not be in them.
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(len(tenants))
    with ProcessPoolExecutor(len(tenants), context, begin_together, (start,)) as pool:
        futures = {tenant: pool.submit(claim_some, database, tenant, new, CLAIMS_EACH) for tenant in tenants}
        return {tenant: future.result() for tenant, future in futures.items()}


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> Path | PostgresAddress:
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return server.migrated()
    path = tmp_path / "deskfleet.db"
    path.write_bytes(request.getfixturevalue("migrated_database"))
    return path


def test_no_two_processes_claim_the_same_and_the_rest_go_cold(migrated: Path | PostgresAddress) -> None:
    tenants = [f"tenant-{number}" for number in range(PROCESSES)]
    store = Store(migrated)
    store.accounts.sync_declared(tenants, [])
    warm = filled_pool(store)
    by_tenant = claimed_at_once(migrated, tenants)
    claimed = [session for sessions in by_tenant.values() for session in sessions]
    ready = [session.id for session in claimed if session.is_warm]
    assert sorted(ready) == sorted(session.id for session in warm)
    cold = [session for session in claimed if not session.is_warm]
    assert len({session.id for session in cold}) == PROCESSES * CLAIMS_EACH - WARM
    assert {(session.status, session.sandbox_id) for session in cold} == {(Status.CREATING, None)}
    now = {session.id: session.tenant_id for session in store.fleet.live_sessions()}
    assert now == {session.id: tenant for tenant, sessions in by_tenant.items() for session in sessions}
    store.close()


# --- through the API, with real desktops ------------------------------------------------------------------

SIZE = 4
POOL = [{"image": "tiny", "resolution": "1280x800", "size": SIZE, "cpu": "500m", "memory": "64Mi"}]


@dataclass(frozen=True)
class Service:
    """`found_again`: creates whose first answer was lost and that found what it had made."""

    fleet: Fleet
    viewer: ViewerProcess
    clients: dict[str, httpx.Client]
    found_again: list[str] = field(default_factory=list)

    def wait_for_warm(self, size: int = SIZE) -> list[Session]:
        deadline = time.monotonic() + 60
        while True:
            ready = [row for row in self.fleet.store.fleet.warm() if row.status is Status.RUNNING]
            if len(ready) == size:
                return ready
            assert time.monotonic() < deadline, f"{len(ready)} warm\n{self.fleet.last_log()}"
            self.fleet.store.wait_for_change(0.1)

    def create(self, tenant: str, key: str, image: str = "tiny") -> PublicSession:
        """As a careful client: as long as no answer comes, the same request is sent again."""
        body, headers = {"image": image}, {"Idempotency-Key": key}
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self.clients[tenant].post("/api/v1/sessions", json=body, headers=headers)
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                assert answer.is_success, answer.text
                if "Idempotent-Replayed" in answer.headers:
                    self.found_again.append(key)
                return PublicSession.model_validate_json(answer.content)

    def wait_for_unanswered(self) -> None:
        """Return once a cold desktop is being made: whoever asked for it waits for its answer."""
        deadline = time.monotonic() + 60
        while not any(row.status is Status.CREATING for row in self.rows("main").values()):
            assert time.monotonic() < deadline, self.fleet.last_log()
            time.sleep(0.02)

    def rows(self, tenant: str) -> dict[str, Session]:
        return {row.id: row for row in self.fleet.store.tenant(tenant).list(limit=200).items}


@contextmanager
def service(folder: Path, host: HostApart) -> Iterator[Service]:
    url = f"http://127.0.0.1:{free_port()}"
    with (
        Fleet(
            folder, host.server, host.relay,
            pools=POOL, max_desktops=2 * ROUNDS + 2 * SIZE + PROCESSES, tenants=TENANTS, listen=url.removeprefix("http://"),
        ) as fleet,
        running_viewer(fleet.settings_file, url) as viewer,
        ExitStack() as stack,
    ):  # fmt: skip
        fleet.start()
        clients = {name: stack.enter_context(viewer.client(key.text)) for name, key in KEYS.items()}
        yield Service(fleet, viewer, clients)


def test_eight_claims_at_once_of_two_tenants_have_a_real_desktop_each(
    tmp_path: Path, first: HostApart
) -> None:
    with service(tmp_path, first) as running:
        warm = running.wait_for_warm()
        tenants = ["main", "other"] * (PROCESSES // 2)
        with ThreadPoolExecutor(PROCESSES) as pool:
            made = list(pool.map(running.create, tenants, [f"k{n}" for n in range(PROCESSES)]))
        assert {one.id for one in made if one.is_warm} == {one.id for one in warm}
        assert sum(one.is_warm for one in made) == SIZE
        assert len({one.sandbox_id for one in made}) == PROCESSES
        for tenant, answer in zip(tenants, made, strict=True):
            row = running.rows(tenant)[answer.id]
            assert (row.tenant_id, row.status, row.sandbox_id) == (tenant, Status.RUNNING, answer.sandbox_id)
            assert_is_shown(running.fleet, row)


def assert_is_shown(fleet: Fleet, row: Session) -> None:
    """By its own password."""
    assert fleet.link.relay is not None
    password = SecretStr(open_secret(row.vnc_password_sealed or "", fleet.settings.secret_key))
    seen = fleet.link.relay.probe(row.id, PublishedPort(port=row.vnc_port or 0), password)
    assert seen.result is ProbeOutcome.FRAME


ROUNDS = 30 if is_soaking() else 5


@pytest.mark.soak
@pytest.mark.timeout(120 + 20 * ROUNDS)
def test_viewer_killed_at_any_moment_of_a_create_or_a_claim_makes_one_of_each(
    tmp_path: Path, first: HostApart
) -> None:
    """In each round one that may find a warm desktop, and one that goes cold and so waits for its answer."""
    chance = random.Random(None if is_soaking() else 5)
    with service(tmp_path, first) as running:
        running.wait_for_warm()
        with ThreadPoolExecutor(2 * ROUNDS) as pool:
            futures: list[Future[PublicSession]] = []
            for number in range(ROUNDS):
                futures.append(pool.submit(running.create, "main", f"warm-{number}"))
                futures.append(pool.submit(running.create, "main", f"cold-{number}", image="shell"))
                if number % 2:
                    running.wait_for_unanswered()
                time.sleep(chance.uniform(0, 0.05))
                running.viewer.kill()
                running.viewer.start()
            made = [future.result() for future in futures]
        rows = running.rows("main")
        assert sorted(one.id for one in made) == sorted(rows)
        assert len(rows) == 2 * ROUNDS
        assert running.found_again
        print(f"warm: {sum(row.is_warm for row in rows.values())}, found again: {running.found_again}")
        warm = running.wait_for_warm()
        containers = first.containers(running.fleet.fleet_id)
        wanted = sorted((row.id, row.sandbox_id) for row in (*rows.values(), *warm))
        assert sorted((one.session_id, one.sandbox_id) for one in containers) == wanted


def test_worker_killed_while_it_fills_the_pool_again_makes_no_more_than_is_missing(
    tmp_path: Path, first: HostApart
) -> None:
    chance = random.Random(3)
    with service(tmp_path, first) as running, recorded(first, running.fleet.fleet_id, tmp_path) as seen:
        running.wait_for_warm()
        for number in range(3):
            running.create("main", f"k{number}")
            time.sleep(chance.uniform(0, 0.8))
            running.fleet.kill()
            running.fleet.start()
        running.wait_for_warm()
        wait_until_right(running.fleet, [first])
        assert len(running.rows("main")) == 3
        assert set(seen.made().values()) == {1}
        assert len(seen.made()) == SIZE + 3
