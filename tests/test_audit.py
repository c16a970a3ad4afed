"""The audit log: an entry for what was done, by whom and from where; nothing of it can be changed unseen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import get_args

import pytest
from flask import Response
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests import postgres
from tests.viewer_fixtures import ORIGIN, People, ViewerClient, running_session, sign_in
from viewer import audit, audit_store
from viewer.accounts import DeclaredKey
from viewer.app import create_app
from viewer.audit import Entry
from viewer.audit_store import AuditFilter, Checked
from viewer.bootstrap import prepare_database
from viewer.credentials import key_id_of
from viewer.database import DatabaseBusy
from viewer.model import Role, Session, Status, utcnow
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
    """Somebody who has the database, and knows how to switch our triggers off."""
    with store._database.engine.begin() as connection:
        if postgres.IS_WANTED:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            triggers = text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit_%'")
            for name in connection.scalars(triggers).all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        for statement in statements:
            connection.execute(text(statement))


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
    assert entry.detail == {"status": "error", "reason": "failed"}


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


def test_a_failed_credential_acts_for_nobody(settings: Settings, store: Store, people: People) -> None:
    app = create_app(settings, store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    seen: list[str] = []

    def look(answer: Response) -> Response:
        seen.append(audit.actor().principal)
        return answer

    app.after_request(look)
    client.get("/api/v1/me", headers=people.ada.headers)
    client.get("/api/v1/me", headers={"Authorization": "Bearer wrong"})
    client.get("/api/v1/me")
    assert seen[0].startswith("key:")
    assert seen[1:] == ["nobody", "nobody"]
    app.extensions["deskfleet"].close()


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
    assert (newest(store).action, newest(store, "bolt").action) == ("key.revoke", "key.change")
    assert "bolt" not in newest(store).line()


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
    if postgres.IS_WANTED and "OR REPLACE" in ATTACKS[attack]:
        pytest.skip("PostgreSQL knows no such statement")
    engine = store._database.engine
    with pytest.raises(DBAPIError, match=r"append-only|only grows"), engine.begin() as connection:
        connection.execute(text(ATTACKS[attack]))
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


# --- openings ---------------------------------------------------------------------------------------


def open_stream(client: ViewerClient, session: Session, headers: dict[str, str], address: str = "") -> int:
    asked = {"X-Forwarded-Uri": f"/stream/{session.id}", "X-Forwarded-Method": "GET"}
    answer = client.get("/authz/stream", headers={**headers, **asked, "X-Forwarded-For": address})
    return int(answer.status_code)


def openings(store: Store) -> list[tuple[str, str, str | None, object]]:
    wanted = ("session.view", "session.control", "session.port", "service.open")
    return [
        (entry.action, entry.principal, entry.address, entry.detail)
        for entry in entries(store)
        if entry.action in wanted
    ]


def test_who_opens_a_desktop_is_told_with_what_he_may_do(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    assert open_stream(client, session, people.wanda.headers, "203.0.113.1") == 200
    assert open_stream(client, session, people.alice.headers, "203.0.113.2") == 200
    assert open_stream(client, session, people.bob.headers, "203.0.113.3") == 404
    assert open_stream(client, session, {}, "203.0.113.3") == 401
    wanda, alice = (f"key:{key_id_of(person.key)}" for person in (people.wanda, people.alice))
    assert openings(store) == [
        ("session.view", wanda, "203.0.113.1", {"way": "stream"}),
        ("session.control", alice, "203.0.113.2", {"way": "stream"}),
    ]
    assert newest(store).target == f"session:{session.id}"
    assert [entry for entry in entries(store, "bolt") if entry.action.startswith("session.")] == []


def test_reconnecting_is_told_once_and_the_first_of_each_is_not_lost(
    client: ViewerClient, store: Store, people: People
) -> None:
    one, other = running_session(store, people.alice), store.tenant("acme").create(NEW).session
    for _ in range(5):
        assert open_stream(client, one, people.alice.headers, "203.0.113.1") == 200
    assert len(openings(store)) == 1
    open_stream(client, one, people.alice.headers, "203.0.113.2")
    open_stream(client, one, people.wanda.headers, "203.0.113.1")
    assert len(openings(store)) == 3
    assert open_stream(client, other, people.alice.headers) == 404
    assert len(openings(store)) == 3


def test_another_process_tells_an_opening_no_second_time(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    open_stream(client, session, people.alice.headers, "203.0.113.1")
    audit.in_request("203.0.113.1", "x")
    again = Store(store._database.address)
    again.audit.opened(
        "acme",
        "session.control",
        f"session:{session.id}",
        principal=openings(store)[0][1],
        detail={"way": "stream"},
    )
    again.close()
    assert len(openings(store)) == 1


def test_an_opening_is_told_again_after_its_time(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running_session(store, people.alice)
    open_stream(client, session, people.alice.headers)
    later = utcnow() + audit_store.OPENING_NOTED_EVERY + timedelta(seconds=1)
    monkeypatch.setattr(audit_store, "utcnow", lambda: later)
    open_stream(client, session, people.alice.headers)
    assert len(openings(store)) == 2


def test_ports_of_a_sandbox_are_told_each(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    for port in (8000, 9000, 8000):
        asked = {"X-Forwarded-Uri": f"/v1/sandboxes/{session.id}/proxy/{port}/x"}
        assert client.get("/authz/port", headers={**people.alice.headers, **asked}).status_code == 200
    assert [detail for action, _, _, detail in openings(store) if action == "session.port"] == [
        {"port": 8000},
        {"port": 9000},
    ]


def test_a_service_is_told_by_tenant_and_key(client: ViewerClient, store: Store, people: People) -> None:
    at_code = {"X-Forwarded-Host": "code.deskfleet.localhost:8088", "X-Forwarded-Proto": "http"}
    for _ in range(3):
        assert client.get("/authz/service", headers={**people.alice.headers, **at_code}).status_code == 200
    assert client.get("/authz/service", headers={**people.wanda.headers, **at_code}).status_code == 403
    assert [action for action, *_ in openings(store)] == ["service.open"]
    assert newest(store).target == "service:code"


def test_nobody_is_let_in_who_cannot_be_noted(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running_session(store, people.alice)

    def fail(*_arguments: object, **_named: object) -> None:
        raise DatabaseBusy("another process writes")

    monkeypatch.setattr(audit, "note", fail)
    assert open_stream(client, session, people.alice.headers) == 503


# --- reading and verifying --------------------------------------------------------------------------


def filled(store: Store, count: int) -> None:
    with store._database.writing() as orm:
        for number in range(count):
            audit.note(orm, "acme", "audit.export", f"t:{number % 7}", principal=f"key:{number % 3}")


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_together_are_the_whole_log_newest_first(store: Store, limit: int) -> None:
    filled(store, 25)
    found: list[Entry] = []
    cursor: str | None = None
    while True:
        page = store.audit.page("acme", AuditFilter(), cursor, limit)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        filled(store, 1)  # what comes meanwhile moves no page
    assert [entry.number for entry in found] == sorted((entry.number for entry in found), reverse=True)
    assert found[::-1] == entries(store)[: len(found)]
    assert found[-1].number == 1


def test_reading_in_parts_is_the_whole_log_oldest_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store, 25)
    monkeypatch.setattr(audit_store, "_ROWS_AT_ONCE", 4)
    assert list(store.audit.entries("acme")) == entries(store)


def test_filters_narrow_the_log(store: Store, people: People) -> None:
    filled(store, 30)
    whole, acme = entries(store), store.audit
    half = whole[len(whole) // 2].at
    looks: list[tuple[AuditFilter, list[Entry]]] = [
        (AuditFilter(action="audit.export"), [e for e in whole if e.action == "audit.export"]),
        (AuditFilter(action="key"), [e for e in whole if e.action.startswith("key.")]),
        (AuditFilter(principal="key:1"), [e for e in whole if e.principal == "key:1"]),
        (AuditFilter(target="t:3"), [e for e in whole if e.target == "t:3"]),
        (AuditFilter(since=half), [e for e in whole if e.at >= half]),
        (AuditFilter(until=half), [e for e in whole if e.at < half]),
        (AuditFilter(since=half, until=half), []),
        (AuditFilter(target="t:3", since=half), [e for e in whole if e.target == "t:3" and e.at >= half]),
        (AuditFilter(action="nothing"), []),
    ]
    for wanted, expected in looks:
        assert list(acme.entries("acme", wanted)) == expected, wanted
        assert list(acme.page("acme", wanted, None, 1000).items) == expected[::-1], wanted


def verified(store: Store, tenant: str = "acme") -> list[str]:
    return [
        problem
        for head in store.audit.heads()
        if head.tenant_id == tenant
        for problem in store.audit.problems(head)
    ]


def test_an_untouched_log_verifies(store: Store, people: People) -> None:
    filled(store, 10)
    assert verified(store) == verified(store, "bolt") == []


OF_ACME = "WHERE tenant_id = 'acme' AND number"
COPIED = "at, principal, principal_name, address, action, target, outcome, detail, request_id, chain"
TAMPERING = {
    "all after entry 12 is missing, up to entry 15": f"DELETE FROM audit_log {OF_ACME} > 12",
    "entry 7 is missing": f"DELETE FROM audit_log {OF_ACME} = 7",
    "entry 15 is not the one that was written": f"UPDATE audit_chains SET chain = 'x' {OF_ACME} = 15",
    "entry 16 and what follows was put in by hand": "INSERT INTO audit_log"
    f" (tenant_id, number, {COPIED}) SELECT tenant_id, 16, {COPIED} FROM audit_log {OF_ACME} = 15",
}


@pytest.mark.parametrize("problem", TAMPERING)
def test_what_was_done_by_hand_is_named(problem: str, store: Store) -> None:
    filled(store, 15 - len(entries(store)))
    assert verified(store) == []
    by_hand(store, TAMPERING[problem])
    assert f"acme: {problem}" in verified(store)


@pytest.mark.parametrize("most", [4, 100])
def test_newest_entries_are_checked_and_no_more_than_that(store: Store, most: int) -> None:
    filled(store, 15 - len(entries(store)))
    found = store.audit.check_newest("acme", most)
    assert found == Checked(checked=min(most, 15), kept=15, problems=())
    assert store.audit.check_newest("nobody", most) == Checked(checked=0, kept=0, problems=())


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        (f"DELETE FROM audit_log {OF_ACME} > 12", "all after entry 12 is missing, up to entry 15"),
        (f"DELETE FROM audit_log {OF_ACME} = 11", "entry 11 is missing"),
        (f"DELETE FROM audit_log {OF_ACME} = 13", "entry 13 is missing"),
        (
            f"UPDATE audit_log SET outcome = 'failed' {OF_ACME} = 13",
            "entry 13 was changed, put in, or follows one that was",
        ),
        (f"UPDATE audit_chains SET chain = 'x' {OF_ACME} = 15", "entry 15 is not the one that was written"),
    ],
)
def test_newest_entries_show_what_was_done_by_hand(store: Store, done: str, problem: str) -> None:
    filled(store, 15 - len(entries(store)))
    by_hand(store, done)
    assert store.audit.check_newest("acme", 4).problems == (f"acme: {problem}",)
    assert f"acme: {problem}" in store.audit.check_newest("acme", 100).problems


def test_a_head_that_was_kept_shows_a_log_that_was_written_anew(store: Store) -> None:
    filled(store, 5)
    kept = next(head for head in store.audit.heads() if head.tenant_id == "acme")
    by_hand(store, "DELETE FROM audit_log WHERE tenant_id = 'acme'", "DELETE FROM audit_chains")
    filled(store, kept.number)
    assert verified(store) == []
    assert list(store.audit.problems(kept)) == [f"acme: entry {kept.number} is not the one that was written"]


def test_pruning_takes_out_the_old_and_the_chain_goes_on(store: Store) -> None:
    filled(store, 10)
    whole = entries(store)
    audit.acts_as("host:root")
    assert store.audit.prune("acme", whole[5], file="old.ndjson") == 6
    left = entries(store)
    assert left[:-1] == whole[6:]
    assert (left[-1].action, left[-1].principal) == ("audit.prune", "host:root")
    assert verified(store) == []
    assert list(audit.broken([*whole[:6], *left])) == []


def test_pruning_that_nobody_told_of_is_named(store: Store) -> None:
    filled(store, 10)
    by_hand(
        store,
        "UPDATE audit_chains SET pruned_number = 5, pruned_chain ="
        " (SELECT chain FROM audit_log WHERE tenant_id = 'acme' AND number = 5) WHERE tenant_id = 'acme'",
        "DELETE FROM audit_log WHERE tenant_id = 'acme' AND number <= 5",
    )
    assert verified(store) == ["acme: all up to entry 5 is gone, and no entry tells of its pruning"]
