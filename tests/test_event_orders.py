"""Events of outside systems in any order, again and again, between any two steps of the worker.

Real are the API, the store with its database, and the worker; the hosts are modelled (`model_host`), and the
worker's threads move one step at a time (`steered_worker`). What a row comes to must follow from what was
said of its sandbox, and not from when it was said.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.event_senders import EVENTS, sandbox_event
from tests.model_host import Container, ModelHost
from tests.soaking import is_soaking
from tests.steered_worker import TABLE, Clock, SteeredWorker
from tests.viewer_fixtures import UNKNOWN_ID, Person, ViewerClient, settings_values
from viewer import metrics
from viewer.accounts import DeclaredKey
from viewer.app import create_app
from viewer.credentials import hash_of, key_id_of, new_key
from viewer.model import Role
from viewer.services import Services, Slots
from viewer.settings import Settings
from viewer.store import Store

ACME, BOLT = Person("acme", new_key().text), Person("bolt", new_key().text)
TENANTS = {"acme": ACME, "bolt": BOLT}
RELAY_KEY = Fernet.generate_key()
GIVES = {"one": "acme", "two": "bolt"}
"""Host -> whose its foreign sandboxes are."""
DEADLINE_SECONDS = 3600

tenants = st.sampled_from(list(TENANTS.values()))
words = st.sampled_from(["created", "running", "terminated", "error"])


@dataclass
class Told:
    """What was said of one sandbox, and taken, by one tenant. is_mine: the row was there before any event."""

    is_mine: bool
    was_taken: bool = False
    end: bool = False


@dataclass
class Known:
    """A sandbox that events are about. tenant: whose it is; None: whose nobody's it is."""

    id: str
    tenant: str | None
    host: ModelHost | None
    container: Container | None = None
    told: dict[str, Told] = field(default_factory=dict)


def settings_in(folder: Path) -> Settings:
    values = settings_values(folder)
    (folder / "relay.key").write_bytes(RELAY_KEY)
    here = values["hosts"][0]
    values["hosts"] = [
        {
            **here, "name": name, "groups": ["sandboxes"], "opensandbox_url": f"http://{name}.box",
            "relay_url": f"http://{name}.relay", "max_desktops": 50, "adopt": tenant,
        }
        for name, tenant in GIVES.items()
    ]  # fmt: skip
    return Settings.model_validate(
        {
            **values,
            "tenants": [{"name": name} for name in TENANTS],
            "create_deadline_seconds": DEADLINE_SECONDS,
            "default_ttl_seconds": 43_200,
        }
    )


class Orders(RuleBasedStateMachine):
    """The machine. `empty_database`: bytes of one at the newest step."""

    empty_database: bytes

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="event-orders-"))
        self.settings = settings_in(self.folder)
        database = self.folder / "deskfleet.db"
        database.write_bytes(self.empty_database)
        self.store = Store(database)
        self.table = sqlite3.connect(database)
        self.table.row_factory = sqlite3.Row
        self.clock, numbers = Clock(), itertools.count(1)
        self.hosts = {
            name: ModelHost(
                name, numbers, relay_key=RELAY_KEY, utcnow=self.clock.utcnow,
                on_trouble=lambda *_: None, on_refusal=lambda *_: None,
            )
            for name in GIVES
        }  # fmt: skip
        self.worker = SteeredWorker(
            self.settings, self.store, self.hosts, self.clock, on_step=self.what_ended_stays
        )
        self.threads = self.worker.threads
        self.store.accounts.sync_declared(list(TENANTS), [_declared(person) for person in TENANTS.values()])
        app = _app()
        nowhere = Slots(0, per_tenant=0, per_principal=0)
        app.extensions["deskfleet"] = Services(self.settings, self.store, waits=nowhere)
        self.client = ViewerClient(app, app.response_class, use_cookies=False)
        self.known: dict[str, Known] = {}
        self.sent: list[tuple[Person, dict[str, Any], str, int, bytes]] = []
        self.ended: dict[str, dict[str, Any]] = {}
        self.numbers = itertools.count(1)
        self.was_silent = False

    def teardown(self) -> None:
        try:
            self._settle()
            self._check_the_end()
        finally:
            self.table.close()
            self.worker.close()
            self.store.close()
            shutil.rmtree(self.folder)

    # --- sandboxes -----------------------------------------------------------------------------------

    @initialize(who=tenants)
    def there_is_one_of_a_tenants(self, who: Person) -> None:
        self.create(who)
        self.plant("one")
        self._know(Known(UNKNOWN_ID, None, None))

    @rule(who=tenants)
    @precondition(lambda self: len(self.known) < 6)
    def create(self, who: Person, host: str | None = None) -> None:
        """Made by the fleet; events name it by its session's id, as its maker knows it."""
        asked = {"image": "desktop", "wait": False, **({"host": host} if host else {})}
        made = self.client.post("/api/v1/sessions", json=asked, headers=who.headers).json
        self._know(Known(made["id"], who.tenant, None))

    @rule(host=st.sampled_from(list(GIVES)))
    @precondition(lambda self: len(self.known) < 6)
    def plant(self, host: str) -> None:
        """Made by nobody of the fleet."""
        container = self.hosts[host].plant({"whose": "nobody's"})
        self._know(Known(container.id, None, self.hosts[host], container))

    @rule()
    def learn_the_sandboxes_own_ids(self) -> None:
        """Events may name a session's sandbox by the id that its host gave it, also before we know it."""
        for host in self.hosts.values():
            for one in host.containers.values():
                session = one.metadata.get("deskfleet.session")
                if session in self.known and one.id not in self.known:
                    known = self.known[session]
                    owner = known.tenant or ""
                    self._know(Known(one.id, owner, host, one, {owner: known.told[owner]}))

    def _know(self, known: Known) -> None:
        for name in TENANTS:
            known.told.setdefault(name, Told(is_mine=known.tenant == name))
        self.known[known.id] = known

    # --- events --------------------------------------------------------------------------------------

    @rule(who=tenants, word=words, data=st.data())
    def send(self, who: Person, word: str, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(list(self.known.values())))
        self._send(who, known, word)

    @rule(who=tenants, data=st.data(), order=st.permutations(["created", "running", "terminated", "running"]))
    def send_several(self, who: Person, data: st.DataObject, order: list[str]) -> None:
        known = data.draw(st.sampled_from(list(self.known.values())))
        for word in order:
            self._send(who, known, word)

    def _send(self, who: Person, known: Known, word: str) -> None:
        event = sandbox_event(
            word, known.id, run=f"run-of-{known.id}", agentId="clerk", error="it fell over", image="desktop",
            novnc_url="javascript:alert(1)",
        )  # fmt: skip
        others = self._rows_but_of(who.tenant)
        is_known = bool(self._rows_about(known, who.tenant))
        message_id = f"m{next(self.numbers)}"
        answer = self._post(who, event, message_id)
        assert self._rows_but_of(who.tenant) == others, "an event changed another tenant's row"
        told, is_there = known.told[who.tenant], word in ("created", "running")
        right = 200 if is_known or is_there else 404
        assert answer.status_code == right, (word, known, answer.json)
        if right == 200:
            told.was_taken = True
            told.end |= not is_there
            self.sent.append((who, event, message_id, answer.status_code, answer.get_data()))

    @rule(data=st.data())
    @precondition(lambda self: self.sent)
    def send_again(self, data: st.DataObject) -> None:
        who, event, message_id, status, said = data.draw(st.sampled_from(self.sent))
        before = self._rows()
        answer = self._post(who, event, message_id)
        assert (answer.status_code, answer.get_data()) == (status, said)
        assert answer.headers["Idempotent-Replayed"] == "true"
        assert self._rows() == before

    def _post(self, who: Person, event: dict[str, Any], message_id: str) -> Any:
        return self.client.post(EVENTS, json=event, headers={**who.headers, "webhook-id": message_id})

    # --- the worker ----------------------------------------------------------------------------------

    @rule(at=st.sampled_from([TABLE, *GIVES]))
    def begin_to_look(self, at: str) -> None:
        self.worker.begin_to_look(at)

    @precondition(lambda self: self.threads.names())
    @rule(data=st.data(), steps=st.integers(1, 6))
    def move_one_thread(self, data: st.DataObject, steps: int) -> None:
        name = data.draw(st.sampled_from(self.threads.names()))
        for _ in range(steps):
            if name in self.threads.names():
                self.threads.move(name)

    @rule(moves=st.none() | st.integers(1, 60))
    def look_around(self, moves: int | None) -> None:
        self.worker.look_around(most_moves=moves)

    @rule()
    def crash(self) -> None:
        self.worker.crash()

    @rule(host=st.sampled_from(list(GIVES)), moves=st.integers(1, 40))
    def a_host_is_silent_for_a_while(self, host: str, moves: int) -> None:
        self.hosts[host].is_silent = self.was_silent = True
        self.worker.look_around(most_moves=moves)
        self.hosts[host].heal()

    # --- what must be so -----------------------------------------------------------------------------

    def _rows(self) -> list[dict[str, Any]]:
        query = "SELECT * FROM sandbox_sessions ORDER BY created_at, id"
        return [dict(row) for row in self.table.execute(query)]

    def _rows_about(self, known: Known, tenant: str) -> list[dict[str, Any]]:
        named = ("id", "sandbox_id")
        return [
            row for row in self._rows() if row["tenant_id"] == tenant and known.id in [row[n] for n in named]
        ]

    def _rows_but_of(self, tenant: str) -> list[dict[str, Any]]:
        return [row for row in self._rows() if row["tenant_id"] != tenant]

    @invariant()
    def what_ended_stays(self) -> None:
        for row in self._rows():
            if row["terminated_at"] is not None:
                assert self.ended.setdefault(row["id"], row) == row, "an ended row was changed"
            assert row["status"] != "running" or row["host"] is not None
            assert "javascript" not in json.dumps(row, default=str)

    def _settle(self) -> None:
        for host in self.hosts.values():
            host.heal()
        self.threads.run_all()
        for _ in range(4):
            self.threads.let_time_pass(timedelta(seconds=3))
            self.worker.look_around()
        # What is still looked for is nowhere.
        self.threads.let_time_pass(timedelta(seconds=DEADLINE_SECONDS))
        for _ in range(3):
            self.threads.let_time_pass(timedelta(seconds=3))
            self.worker.look_around()

    def _check_the_end(self) -> None:
        assert self.worker.failures.seen == []
        for known in self.known.values():
            for tenant, told in known.told.items():
                self._check(known, tenant, told)
        assert all(not host.wrongs for host in self.hosts.values())

    def _check(self, known: Known, tenant: str, told: Told) -> None:
        """The one row that is meant, and whether its container is there."""
        found = self._rows_about(known, tenant)
        if told.is_mine:
            # By its container's id it need not be known: the row may have ended before it had one.
            if known.container is None:
                self._check_own(found[0], told)
            return
        assert len(found) == int(told.was_taken), found
        for row in found:
            is_given = known.host is not None and known.tenant is None and GIVES[known.host.name] == tenant
            right = "terminated" if told.end else "running" if is_given else "error"
            assert (row["status"], row["agent_id"]) == (right, "clerk"), (row, known)
            assert row["task_id"] is not None
            if is_given and known.host is not None:
                assert (known.id in known.host.containers) == (not told.end)

    def _check_own(self, row: dict[str, Any], told: Told) -> None:
        right = {"terminated" if told.end else "running", *(["error"] if self.was_silent else [])}
        assert row["status"] in right, (row, told)
        assert (row["task_id"] is not None) == (row["agent_id"] == "clerk") == told.was_taken, (row, told)
        left = [one for host in self.hosts.values() for one in host.of_session(row["id"])]
        assert bool(left) == (row["status"] == "running")


@functools.cache
def _app() -> Flask:
    """One for all machines, because it takes a while to make; each brings its own settings and database."""
    with tempfile.TemporaryDirectory() as folder:
        made = settings_in(Path(folder))
        return create_app(made, Store(made.database))


def _declared(person: Person) -> DeclaredKey:
    return DeclaredKey(
        id=key_id_of(person.key) or "", tenant=person.tenant, role=Role.OPERATOR, sha256=hash_of(person.key),
        label="",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails here on purpose is in no metric of this process, which other tests read."""
    monkeypatch.setattr(metrics, "create_failed", lambda _reason: None)


@pytest.fixture
def orders(migrated_database: bytes) -> Iterator[Orders]:
    """The same for tests of one order; settles and checks at the end, too."""
    Orders.empty_database = migrated_database
    made = Orders()
    yield made
    made.teardown()


def being_made(orders: Orders, who: Person, host: str) -> Known:
    """A sandbox whose create is answered and not yet written down: its session does not know of it."""
    orders.create(who, host)
    orders.worker.look_around(until=lambda: bool(orders.hosts[host].containers))
    orders.learn_the_sandboxes_own_ids()
    [known] = [one for one in orders.known.values() if one.container is not None]
    assert all(row["sandbox_id"] is None for row in orders._rows())
    return known


def test_sandbox_that_is_just_being_made_is_not_given_away(orders: Orders) -> None:
    known = being_made(orders, ACME, "two")
    orders._send(BOLT, known, "running")
    orders.worker.begin_to_look(TABLE)
    orders.threads.run(TABLE)
    [claim] = [row for row in orders._rows() if row["tenant_id"] == "bolt"]
    orders.threads.run(f"session seek {claim['id']}")
    [claim] = [row for row in orders._rows() if row["tenant_id"] == "bolt"]
    assert (claim["host"], claim["status"]) == (None, "creating")
    orders.worker.look_around()
    [own] = [row for row in orders._rows() if row["tenant_id"] == "acme"]
    assert (own["sandbox_id"], own["status"]) == (known.id, "running")


@pytest.mark.parametrize("words", [["created"], ["created", "terminated"], ["running", "error"]])
def test_what_is_said_of_a_sandbox_that_is_just_being_made_is_said_of_its_session(
    orders: Orders, words: list[str]
) -> None:
    known = being_made(orders, ACME, "one")
    for word in words:
        orders._send(ACME, known, word)
    orders._settle()
    claim, own = sorted(orders._rows(), key=lambda row: row["host"] is not None)
    assert claim["error_message"] in (f"its sandbox is that of session {own['id']}", "it fell over")
    assert claim["status"] == "error"
    assert (own["agent_id"], own["task_id"]) == ("clerk", claim["task_id"])
    assert own["status"] == ("running" if len(words) == 1 else "terminated")
    assert own["error_message"] == ("it fell over" if "error" in words else None)


def test_sandbox_whose_end_is_told_before_it_was_found_ends(orders: Orders) -> None:
    orders.plant("one")
    [known] = orders.known.values()
    for word in ("created", "terminated"):
        orders._send(ACME, known, word)
    orders._settle()
    [row] = orders._rows()
    assert (row["status"], row["host"]) == ("terminated", "one")
    assert orders.hosts["one"].containers == {}


def test_adopted_sandbox_lives_as_long_as_its_maker_said_up_to_the_longest_life(orders: Orders) -> None:
    orders.plant("one")
    [known] = orders.known.values()
    orders._send(ACME, known, "running")
    orders.worker.look_around()
    [row] = orders._rows()
    assert row["expires_at"] == row["lifetime_ends_at"], "it was made for nine days"


@pytest.mark.real
@pytest.mark.soak
@pytest.mark.timeout(0)
def test_order_of_events_does_not_matter(migrated_database: bytes) -> None:
    Orders.empty_database = migrated_database
    run_state_machine_as_test(
        Orders,
        settings=settings(
            max_examples=400 if is_soaking() else 30,
            stateful_step_count=40 if is_soaking() else 20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
