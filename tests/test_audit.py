"""The audit log: an entry for what was done, by whom and from where; nothing of it can be changed unseen."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from typing import get_args

import pytest
from flask import Response
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from tests.viewer_fixtures import ORIGIN, People, ViewerClient, running_session, sign_in
from viewer import audit
from viewer.accounts import DeclaredKey
from viewer.audit import Entry
from viewer.bootstrap import prepare_database
from viewer.model import Role, Status, utcnow
from viewer.settings import Settings
from viewer.store import NewSession, Store
from viewer.tables import AuditRow

NEW = NewSession(image="desktop", resolution="1280x800", ttl_seconds=60, created_by="test")


@pytest.fixture(autouse=True)
def nobody_acts_after_a_test() -> Iterator[None]:
    yield
    audit.over()
    audit.acts_as("deskfleet")


def entries(store: Store, tenant: str = "acme") -> list[Entry]:
    query = select(AuditRow).where(AuditRow.tenant_id == tenant).order_by(AuditRow.number)
    with store._database.reading() as orm:
        return [audit.entry_of(row) for row in orm.scalars(query)]


def told(store: Store, tenant: str = "acme") -> list[tuple[str, str, str | None]]:
    return [(entry.principal, entry.action, entry.target) for entry in entries(store, tenant)]


def newest(store: Store, tenant: str = "acme") -> Entry:
    return entries(store, tenant)[-1]


def by_hand(store: Store, *statements: str) -> None:
    """Somebody who has the file, and knows how to switch our triggers off."""
    connection = sqlite3.connect(store._database.path)
    triggers = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit_%'"
    )
    for (name,) in triggers.fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def broken(store: Store, tenant: str = "acme") -> list[str]:
    return list(audit.broken(entries(store, tenant)))


# --- who acts ---------------------------------------------------------------------------------------


def test_create_is_told_with_key_its_name_address_and_request(
    client: ViewerClient, store: Store, people: People
) -> None:
    key = store.accounts.add_key("acme", Role.OPERATOR, "build machine")
    answer = client.post(
        "/api/v1/sessions",
        json={"wait": False, "task_id": "t-1"},
        headers={"Authorization": f"Bearer {key.text}", "X-Forwarded-For": "6.6.6.6, 203.0.113.7"},
    )
    entry = newest(store)
    assert (entry.principal, entry.principal_name) == (f"key:{key.id}", "build machine")
    assert (entry.action, entry.outcome) == ("session.create", "done")
    assert entry.target == f"session:{answer.json['id']}"
    assert entry.address == "203.0.113.7"
    assert entry.request_id == answer.headers["X-Request-Id"]
    assert entry.detail is not None
    assert entry.detail["task_id"] == "t-1"


def test_each_change_of_a_session_is_told_once(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    path, begun = f"/api/v1/sessions/{session.id}", len(entries(store))
    client.put(f"{path}/labels", json={"labels": {"b": "2", "a": "1"}}, headers=people.alice.headers)
    client.post(f"{path}/renew", json={}, headers=people.alice.headers)
    store.tenant("acme").request_status(session.id, Status.PAUSED, by="x")
    store.tenant("acme").request_termination(session.id)
    store.tenant("acme").request_termination(session.id)
    store.fleet.transition(session.id, Status.TERMINATED)
    found = entries(store)[begun:]
    assert [entry.action for entry in found] == [
        "session.labels", "session.renew", "session.pause", "session.terminate",
    ]  # fmt: skip
    assert {entry.target for entry in found} == {f"session:{session.id}"}
    assert found[0].detail == {"labels": ["a", "b"]}


def test_the_end_that_nobody_asked_for_is_the_workers(store: Store, people: People) -> None:
    audit.acts_as("worker")
    session = running_session(store, people.alice)
    store.fleet.transition(session.id, Status.ERROR, reason="failed", error_message="the container failed")
    entry = newest(store)
    assert (entry.principal, entry.action, entry.address) == ("worker", "session.terminate", None)
    assert entry.detail == {"status": "error", "reason": "the container failed"}


def test_bulk_terminate_has_an_entry_for_each(client: ViewerClient, store: Store, people: People) -> None:
    made = {store.tenant("acme").create(NEW).session.id for _ in range(3)}
    client.post("/api/v1/sessions/terminate", json={"all": True}, headers=people.alice.headers)
    found = [entry for entry in entries(store) if entry.action == "session.terminate"]
    assert {entry.target for entry in found} == {f"session:{name}" for name in made}
    assert broken(store) == []


def test_refused_change_leaves_no_entry(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    before = entries(store)
    path = f"/api/v1/sessions/{session.id}"
    assert client.delete(path, headers=people.wanda.headers).status_code == 403
    assert client.delete(path, headers=people.bob.headers).status_code == 404
    assert entries(store) == before
    assert [entry for entry in entries(store, "bolt") if entry.action.startswith("session.")] == []


def test_one_requests_actor_is_not_the_nexts(client: ViewerClient, store: Store, people: People) -> None:
    """All in one thread, as gunicorn's threads serve one after another."""
    client.get("/api/v1/me", headers={**people.ada.headers, "X-Forwarded-For": "203.0.113.7"})
    assert audit.actor().principal == "deskfleet"
    client.post("/api/v1/sessions", json={"wait": False}, headers=people.bob.headers)
    assert newest(store, "bolt").address != "203.0.113.7"
    assert newest(store, "bolt").principal.startswith("key:")
    client.get("/api/v1/me", headers={"Authorization": "Bearer wrong"})
    assert audit.actor() == audit.Actor(principal="deskfleet")


def test_a_failed_credential_acts_for_nobody(client: ViewerClient, people: People) -> None:
    seen: list[str] = []

    def look(answer: Response) -> Response:
        seen.append(audit.actor().principal)
        return answer

    client.application.after_request(look)
    client.get("/api/v1/me", headers=people.ada.headers)
    client.get("/api/v1/me", headers={"Authorization": "Bearer wrong"})
    client.get("/api/v1/me")
    assert seen[0].startswith("key:")
    assert seen[1:] == ["nobody", "nobody"]


def test_threads_have_actors_of_their_own(store: Store) -> None:
    both_are_there = threading.Barrier(2)

    def work(name: str) -> None:
        audit.in_request("192.0.2.1", name)
        audit.by(f"key:{name}")
        both_are_there.wait(10)
        for _ in range(20):
            with store._database.writing() as orm:
                audit.note(orm, "acme", "audit.export", name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [entry for entry in entries(store) if entry.action == "audit.export"]
    assert len(found) == 40
    assert all(entry.principal == f"key:{entry.target}" == f"key:{entry.request_id}" for entry in found)
    assert broken(store) == []


def test_keys_tenants_and_links_are_told(store: Store, people: People) -> None:
    audit.acts_as("host:root")
    store.accounts.add_tenant("new")
    key = store.accounts.add_key("new", Role.ADMIN, "theirs")
    store.accounts.new_link("new", Role.WATCHER)
    store.accounts.revoke_key(key.id)
    store.accounts.revoke_key(key.id)
    assert [(who, action) for who, action, _ in told(store, "new")] == [
        ("host:root", "tenant.create"),
        ("host:root", "key.create"),
        ("host:root", "sign_in.link"),
        ("host:root", "key.revoke"),
    ]
    assert key.text not in "".join(entry.line() for entry in entries(store, "new"))


def test_declared_keys_are_the_deploys_and_told_when_they_change(store: Store) -> None:
    store.accounts.sync_declared(["acme", "bolt"], [])
    declared = DeclaredKey(id="declared", tenant="acme", role=Role.WATCHER, sha256="0" * 64, label="CI")
    steps: list[tuple[list[DeclaredKey], list[str]]] = [
        ([declared], ["key.create"]),
        ([declared], []),
        ([declared.model_copy(update={"label": "another"})], []),
        ([declared.model_copy(update={"role": Role.ADMIN})], ["key.change"]),
        ([], ["key.revoke"]),
        ([], []),
        ([declared], ["key.change"]),
    ]
    for keys, expected in steps:
        before = len(entries(store))
        with audit.acting("deploy"):
            store.accounts.sync_declared(["acme"], keys)
        found = told(store)[before:]
        assert found == [("deploy", action, "key:declared") for action in expected]
    moved = declared.model_copy(update={"tenant": "bolt"})
    store.accounts.sync_declared(["acme"], [moved])
    assert newest(store).action == newest(store, "bolt").action == "key.change"


def test_what_the_settings_bring_is_the_deploys(settings: Settings) -> None:
    prepare_database(settings)
    store = Store(settings.database)
    assert told(store)[0] == ("deploy", "tenant.create", "tenant:acme")
    store.close()


def test_signing_in_and_out_is_told_of_whose_it_is(
    client: ViewerClient, store: Store, people: People
) -> None:
    cookie = sign_in(store, people.alice)
    assert newest(store).action == "sign_in.ok"
    alice = newest(store).principal
    assert alice.startswith("key:")
    client.post("/signout", headers={**cookie, "Origin": ORIGIN})
    client.post("/signout", headers={**cookie, "Origin": ORIGIN})
    assert told(store)[-1] == (alice, "sign_out", None)
    assert told(store)[-2][1] == "sign_in.ok"


def test_control_characters_and_halves_of_letters_are_kept_out(store: Store) -> None:
    with store._database.writing() as orm:
        audit.note(
            orm,
            audit.NO_TENANT,
            "sign_in.failed",
            "login:a\x00\ud800\nb" + "x" * 9999,
            detail={"a": ["\x00"]},
        )
    entry = newest(store, audit.NO_TENANT)
    assert entry.target is not None
    assert entry.target.startswith("login:a\ufffd\ufffd\ufffdbxxx")
    assert len(entry.target) < 500
    assert entry.detail == {"a": ["\ufffd"]}
    assert broken(store, audit.NO_TENANT) == []


# --- append-only ------------------------------------------------------------------------------------

ATTACKS = {
    "change": "UPDATE audit_log SET principal = 'key:innocent' WHERE number = 2",
    "rename": "UPDATE audit_log SET tenant_id = 'bolt' WHERE tenant_id = 'acme' AND number = 2",
    "delete": "DELETE FROM audit_log WHERE number = 2",
    "delete all": "DELETE FROM audit_log",
    "replace": "INSERT OR REPLACE INTO audit_log SELECT tenant_id, number, at, 'key:innocent', 'Nobody',"
    " address, action, target, outcome, detail, request_id, chain FROM audit_log WHERE number = 2",
    "update or replace": "UPDATE OR REPLACE audit_log SET number = 2 WHERE number = 3",
    "forget the end": "UPDATE audit_chains SET number = 1",
    "pretend it was pruned": "UPDATE audit_chains SET pruned_number = number + 1",
    "no chain": "DELETE FROM audit_chains",
    "another chain": "INSERT OR REPLACE INTO audit_chains VALUES ('acme', 0, '', 0, '')",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_database_refuses_all_but_new_entries(attack: str, store: Store, people: People) -> None:
    running_session(store, people.alice)
    before = entries(store)
    assert len(before) > 2
    connection = sqlite3.connect(store._database.path)
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|only grows"):
        connection.execute(ATTACKS[attack])
    connection.close()
    assert entries(store) == before


def test_a_second_entry_of_the_same_number_is_refused(store: Store, people: People) -> None:
    entry = entries(store)[0]
    with pytest.raises(IntegrityError), store._database.writing() as orm:
        orm.add(AuditRow(**dict(entry)))


def test_a_change_that_fails_leaves_no_entry(store: Store, people: People) -> None:
    before = entries(store)

    def fail() -> None:
        with store._database.writing() as orm:
            audit.note(orm, "acme", "audit.export", None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert entries(store) == before


# --- the chain --------------------------------------------------------------------------------------


def test_chain_of_what_really_happened_holds(store: Store, people: People) -> None:
    for _ in range(3):
        store.tenant("acme").create(NEW)
        store.tenant("bolt").create(NEW)
    assert [entry.number for entry in entries(store)] == list(range(1, len(entries(store)) + 1))
    assert broken(store) == broken(store, "bolt") == []


@pytest.mark.parametrize(
    "change",
    [
        "principal = 'key:innocent'", "address = '192.0.2.9'", "at = '2020-01-01 00:00:00.000000'",
        "action = 'session.view'", "target = NULL", "outcome = 'refused'", "detail = '{\"a\": 1}'",
        "request_id = 'x'", "principal_name = 'Nobody'", "chain = 'x'",
    ],
)  # fmt: skip
def test_a_changed_entry_is_named(change: str, store: Store, people: People) -> None:
    for _ in range(4):
        store.tenant("acme").create(NEW)
    by_hand(store, f"UPDATE audit_log SET {change} WHERE tenant_id = 'acme' AND number = 3")
    assert "entry 3 was changed" in broken(store)[0]


def test_a_missing_entry_is_named(store: Store, people: People) -> None:
    for _ in range(6):
        store.tenant("acme").create(NEW)
    by_hand(store, "DELETE FROM audit_log WHERE tenant_id = 'acme' AND number IN (1, 4, 5)")
    assert broken(store) == ["acme: entry 1 is missing", "acme: entry 4 to 5 is missing"]


def test_an_entry_put_between_two_others_is_named(store: Store, people: People) -> None:
    for _ in range(4):
        store.tenant("acme").create(NEW)
    real = entries(store)
    made_up = real[2].model_copy(update={"principal": "key:innocent", "number": 3})
    made_up = made_up.model_copy(update={"chain": audit.chain_after(real[1].chain, made_up)})
    moved = [entry.model_copy(update={"number": entry.number + 1}) for entry in real[2:]]
    found = list(audit.broken([*real[:2], made_up, *moved]))
    assert "entry 4 was changed, put in, or follows one that was" in found[0]


def test_canonical_form_is_as_documented() -> None:
    entry = Entry(
        tenant_id="acme", number=1, at=utcnow().replace(2026, 1, 2, 3, 4, 5, 6), principal="key:a",
        principal_name="Zoë", address=None, action="session.create", target="session:s", outcome="done",
        detail={"b": 1, "a": "é"}, request_id=None, chain="",
    )  # fmt: skip
    assert entry.canonical() == (
        '{"action":"session.create","address":null,"at":"2026-01-02T03:04:05.000006+00:00",'
        '"detail":{"a":"\\u00e9","b":1},"number":1,"outcome":"done","principal":"key:a",'
        '"principal_name":"Zo\\u00eb","request_id":null,"target":"session:s","tenant_id":"acme"}'
    )


def test_every_action_has_a_sentence() -> None:
    assert set(get_args(audit.Action)) == set(audit.ACTIONS)
    assert all(text.endswith(".") for text in audit.ACTIONS.values())
