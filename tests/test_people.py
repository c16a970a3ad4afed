"""People: how they come in, what they may do now, and what guesses at their passwords lead to."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask

import viewer.attempts
from tests.viewer_fixtures import (
    ORIGIN,
    QUICK_HASHER,
    People,
    ViewerClient,
    all_that_is_in,
    kasmvnc_desktop,
    sign_in,
)
from viewer import logs
from viewer.access import COOKIE
from viewer.accounts import PersonIsOut
from viewer.attempts import LONGEST_WAIT, network_of, of_address, of_login
from viewer.audit_store import AuditFilter
from viewer.credentials import hash_of
from viewer.entries import Audience
from viewer.model import Role, Scope, utcnow
from viewer.passwords import Passwords
from viewer.people import BadLogin, LoginTaken, NewPerson, Person, UnknownPerson, folded_login
from viewer.sign_in import DEVICE_COOKIE
from viewer.store import Store

OURS = {"Origin": ORIGIN}
PASSWORD = "correct horse battery"
WRONG = "incorrect horse battery"


@pytest.fixture
def mara(store: Store, people: People) -> Person:
    """An operator of acme who has set her password."""
    return new_person(store, "mara")


def new_person(
    store: Store, login: str, role: Role = Role.OPERATOR, *, tenant: str = "acme", fleet: bool = False
) -> Person:
    person = store.people(tenant).add(
        NewPerson(login=login, name=login.title(), role=role, is_fleet_admin=fleet), by="test"
    )
    link = store.people(tenant).new_link(person.id)
    assert store.accounts.set_password_by_link(link, QUICK_HASHER.hash(PASSWORD)) is not None
    store.accounts.end_sign_ins(person.principal_id)
    return person


def come_in(client: ViewerClient, login: str, password: str = PASSWORD, **headers: str) -> Any:
    return client.post("/signin", json={"login": login, "password": password}, headers={**OURS, **headers})


def cookie_of(answer: Any, name: str = COOKIE) -> str:
    for header in answer.headers.getlist("Set-Cookie"):
        if header.startswith(f"{name}="):
            return str(header.partition(";")[0])
    raise AssertionError(f"no cookie {name}")


def signed_in(client: ViewerClient, login: str) -> dict[str, str]:
    answer = come_in(client, login)
    assert answer.status_code == 204
    return {"Cookie": cookie_of(answer)}


# --- coming in ----------------------------------------------------------------------------------


def test_login_and_password_sign_in_whatever_the_case_of_the_login(
    client: ViewerClient, mara: Person
) -> None:
    answer = come_in(client, "  MARA ")
    assert answer.status_code == 204
    attributes = set(answer.headers.getlist("Set-Cookie")[0].split("; "))
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= attributes
    me = client.get("/api/v1/me", headers={"Cookie": cookie_of(answer)}).json
    assert (me["id"], me["tenant"], me["role"]) == (mara.principal_id, "acme", "operator")


def test_every_wrong_way_in_gets_the_same_answer(
    client: ViewerClient, store: Store, people: People, mara: Person
) -> None:
    new_person(store, "gone")
    gone = store.accounts.login("gone").person_id or ""
    store.people("acme").change(gone, {"disabled": True})
    store.people("acme").add(NewPerson(login="new", role=Role.ADMIN), by="test")
    tries = [("mara", WRONG), ("nobody", PASSWORD), ("gone", PASSWORD), ("new", ""), ("no login!", PASSWORD)]
    answers = [come_in(client, login, password) for login, password in tries]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.get_data() for answer in answers}) == 1
    assert not any(answer.headers.getlist("Set-Cookie") for answer in answers)


def test_as_many_hashes_are_computed_for_a_login_that_nobody_has(
    client: ViewerClient, app: Flask, mara: Person
) -> None:
    checks: list[str | None] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:
            checks.append(None if hash in made else "hers")
            return super().verify(hash, password)

        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            made.append(text := super().hash(password, salt=salt))
            return text

    made: list[str | bytes] = []
    app.extensions["deskfleet"].passwords = Passwords(Counting(time_cost=1, memory_cost=8, parallelism=1))
    for login in ("mara", "nobody", "not a login"):
        come_in(client, login, WRONG)
    assert checks == ["hers", None, None]
    assert len(made) == 1, "the decoy is made once, before the first check of either kind"


def test_role_and_disabling_count_at_once_for_browsers_streams_and_entries(
    client: ViewerClient, store: Store, people: People, mara: Person
) -> None:
    headers = signed_in(client, "mara")
    cookie = headers["Cookie"].partition("=")[2]
    who = store.accounts.principal_of_cookie(cookie)
    assert who is not None
    desktop = kasmvnc_desktop(store, people.alice)
    audience = Audience(origin="http://x.content.deskfleet.localhost:8088", session_id=desktop.id)
    ticket = store.entries.new_ticket(who, audience, cookie=cookie)
    entered = store.entries.enter(ticket.text, audience.origin) or ""

    def seen() -> tuple[Any, ...]:
        entry = store.entries.entry(entered, audience.origin)
        me = client.get("/api/v1/me", headers=headers)
        roles = store.accounts.roles_of([who.holder])
        return me.json.get("role"), roles.get((who.holder, "acme")), entry and entry.who.role

    assert seen() == ("operator", Role.OPERATOR, Role.OPERATOR)
    store.people("acme").change(mara.id, {"role": Role.WATCHER})
    assert seen() == ("watcher", Role.WATCHER, Role.WATCHER)
    store.people("acme").change(mara.id, {"role": Role.ADMIN})
    assert seen() == ("admin", Role.ADMIN, Role.OPERATOR), "an entry is worth no more than when it was made"
    store.people("acme").change(mara.id, {"disabled": True})
    assert seen() == (None, None, None)
    store.people("acme").change(mara.id, {"disabled": False})
    assert seen() == (None, None, None), "enabled again, he signs in again"
    assert come_in(client, "mara").status_code == 204


def test_ending_one_sign_in_closes_its_streams_and_no_other(
    client: ViewerClient, store: Store, mara: Person
) -> None:
    here, there = (signed_in(client, "mara")["Cookie"].partition("=")[2] for _ in range(2))
    held = [who for cookie in (here, there) if (who := store.accounts.principal_of_cookie(cookie))]
    assert {who.id for who in held} == {mara.principal_id}
    assert len({who.holder for who in held}) == 2
    store.accounts.end_sign_in(mara.principal_id, hash_of(here)[:16])
    assert set(store.accounts.roles_of([who.holder for who in held])) == {(held[1].holder, "acme")}


def test_only_a_fleet_admin_has_the_fleet(client: ViewerClient, store: Store, people: People) -> None:
    new_person(store, "root", Role.ADMIN, fleet=True)
    new_person(store, "boss", Role.ADMIN)
    found = {}
    for login in ("root", "boss"):
        cookie = signed_in(client, login)["Cookie"].partition("=")[2]
        who = store.accounts.principal_of_cookie(cookie)
        assert who is not None
        found[login] = {scope for scope in Scope if who.may(scope)}
    assert found["root"] == set(Scope)
    assert found["boss"] == set(Scope) - {Scope.FLEET}


def test_sign_in_gives_a_new_cookie_and_ends_the_one_that_was_brought(
    client: ViewerClient, store: Store, people: People, mara: Person
) -> None:
    planted = sign_in(store, people.bob)
    answer = client.post("/signin", json={"login": "mara", "password": PASSWORD}, headers={**OURS, **planted})
    assert cookie_of(answer) != planted["Cookie"]
    assert client.get("/api/v1/me", headers=planted).status_code == 401


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_foreign_page_signs_nobody_in_by_password_or_link(
    client: ViewerClient, store: Store, mara: Person, headers: dict[str, str]
) -> None:
    link = store.people("acme").new_link(mara.id)
    for path, body in (
        ("/signin", {"login": "mara", "password": PASSWORD}),
        ("/set-password", {"token": link, "password": "another long password"}),
    ):
        answer = client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.headers.getlist("Set-Cookie")) == (403, [])
    assert store.accounts.person_of_link(link) is not None
    with_form = client.post("/signin", data={"login": "mara", "password": PASSWORD}, headers=OURS)
    assert with_form.status_code == 415, "what a foreign form can send is not read"


@pytest.mark.parametrize(
    "body", [{"login": "a"}, {"password": "b"}, {"login": "a", "password": "b", "key": "c"}]
)
def test_login_and_password_go_together_and_alone(
    client: ViewerClient, people: People, body: dict[str, str]
) -> None:
    answer = client.post("/signin", json=body, headers=OURS)
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")


# --- links and passwords ------------------------------------------------------------------------


def test_link_sets_the_password_once_and_ends_what_was_open(
    client: ViewerClient, store: Store, mara: Person
) -> None:
    former = signed_in(client, "mara")
    void, link = store.people("acme").new_link(mara.id), store.people("acme").new_link(mara.id)
    body = {"password": "another long password"}
    assert client.post("/set-password", json={**body, "token": void}, headers=OURS).status_code == 401
    assert client.post("/signin", json={"token": link}, headers=OURS).status_code == 401, "it is no way in"
    answer = client.post("/set-password", json={**body, "token": link}, headers=OURS)
    assert answer.status_code == 204
    here = {"Cookie": cookie_of(answer)}
    assert client.get("/api/v1/me", headers=here).json["id"] == mara.principal_id
    assert client.get("/api/v1/me", headers=former).status_code == 401
    assert client.post("/set-password", json={**body, "token": link}, headers=OURS).status_code == 401
    assert come_in(client, "mara").status_code == 401
    assert come_in(client, "mara", "another long password").status_code == 204


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("short", "has 5 characters; give at least 12"),
        ("mara@acme.example", "is the login"),
        ("MARA@ACME.EXAMPLE", "is the login"),
        ("ababababababab", "again and again"),
        ("ä" * 511 + "bcd", "is longer than 1024 bytes"),
    ],
)
def test_password_that_cannot_be_one_leaves_the_link_good(
    client: ViewerClient, store: Store, people: People, password: str, sentence: str
) -> None:
    person = store.people("acme").add(NewPerson(login="Mara@acme.example", role=Role.ADMIN), by="test")
    link = store.people("acme").new_link(person.id)
    answer = client.post("/set-password", json={"token": link, "password": password}, headers=OURS)
    assert answer.status_code == 422
    assert sentence in answer.json["detail"]
    assert answer.json["errors"][0]["field"] == "password"
    assert password not in answer.get_data(as_text=True) or "login" in sentence
    assert store.accounts.person_of_link(link) is not None


def test_link_of_somebody_disabled_or_deleted_is_over(
    client: ViewerClient, store: Store, mara: Person
) -> None:
    body = {"token": store.people("acme").new_link(mara.id), "password": "another long password"}
    store.people("acme").change(mara.id, {"disabled": True})
    assert client.post("/set-password", json=body, headers=OURS).status_code == 401
    store.people("acme").delete(mara.id)
    assert client.post("/set-password", json=body, headers=OURS).status_code == 401


def test_password_changed_while_it_is_checked_lets_nobody_in(store: Store, mara: Person) -> None:
    seen = store.accounts.login("mara").password_hash
    store.accounts.change_password(mara.id, seen or "", QUICK_HASHER.hash("a new one altogether"), keep=None)
    with pytest.raises(PersonIsOut):
        store.accounts.sign_in_person(mara.id, address=None, user_agent=None, password_hash=seen)


def test_password_hashed_with_former_parameters_is_hashed_anew(
    client: ViewerClient, store: Store, mara: Person
) -> None:
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    seen = store.accounts.login("mara").password_hash or ""
    store.accounts.change_password(mara.id, seen, old, keep=None)
    assert come_in(client, "mara").status_code == 204
    new = store.accounts.login("mara").password_hash
    assert new is not None
    assert "m=8,t=1" in new
    assert come_in(client, "mara").status_code == 204


def test_only_a_few_passwords_are_hashed_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()
    enough = threading.Event()

    class Slow(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            enough.wait(10)
            with lock:
                running -= 1
            return True

    passwords = Passwords(Slow(time_cost=1, memory_cost=8, parallelism=1))
    with ThreadPoolExecutor(30) as pool:
        checks = [pool.submit(passwords.check, "x", None) for _ in range(30)]
        while sum(one.done() for one in checks) < 12:
            enough.wait(0.001)
        refused = [one for one in checks if one.done() and one.exception() is not None]
        enough.set()
    assert (most, len(refused)) == (2, 12)


def test_right_password_is_hidden_from_logs_and_a_guess_chooses_nothing() -> None:
    passwords = Passwords(QUICK_HASHER)
    stored = QUICK_HASHER.hash("a secret of hers")
    assert not passwords.check("deskfleet-viewer", stored).is_right
    assert passwords.check("a secret of hers", stored).is_right
    line = "deskfleet-viewer said: a secret of hers"
    assert logs.redact(line) == f"deskfleet-viewer said: {logs.HIDDEN}"


# --- guessing -----------------------------------------------------------------------------------


def at(monkeypatch: pytest.MonkeyPatch, later: timedelta) -> None:
    monkeypatch.setattr(viewer.attempts, "utcnow", lambda: utcnow() + later)


def test_sixth_guess_at_a_login_waits_whoever_asks_and_whether_or_not_it_exists(
    client: ViewerClient, mara: Person
) -> None:
    got: dict[str, list[Any]] = {}
    for login in ("mara", "nobody"):
        for n in range(7):
            answer = come_in(client, login, WRONG, **{"X-Forwarded-For": f"192.0.2.{n}"})
            waits = int(answer.headers.get("Retry-After", 0))
            got.setdefault(login, []).append((answer.status_code, 1 <= waits <= 16, answer.json["title"]))
    assert got["mara"] == got["nobody"]
    assert [status for status, _, _ in got["mara"]] == [401] * 5 + [429] * 2
    assert come_in(client, "mara").status_code == 429, "not even the right one, from a new browser"


def test_waits_grow_and_end_at_a_quarter_of_an_hour(
    client: ViewerClient, store: Store, mara: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, waits = timedelta(0), []
    for n in range(14):
        at(monkeypatch, later)
        assert come_in(client, "mara", WRONG, **{"X-Forwarded-For": f"198.51.100.{n}"}).status_code == 401
        seconds = store.attempts.seconds_to_wait(of_login("mara"))
        waits.append(seconds - 1 if seconds else 0)
        later += timedelta(seconds=seconds)
    assert waits[:7] == [0, 0, 0, 0, 15, 30, 60] or waits[:7] == [0, 0, 0, 0, 14, 29, 59]
    assert max(waits) <= LONGEST_WAIT.total_seconds()
    at(monkeypatch, later)
    assert come_in(client, "mara").status_code == 204
    at(monkeypatch, later)
    assert store.attempts.seconds_to_wait(of_login("mara")) == 0


def test_a_hundred_guesses_at_once_are_five(client: ViewerClient, app: Flask, mara: Person) -> None:
    def guess(n: int) -> int:
        own = ViewerClient(app, app.response_class, use_cookies=False)
        status: int = come_in(
            own, "mara", f"{WRONG} {n}", **{"X-Forwarded-For": f"203.0.113.{n}"}
        ).status_code
        return status

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(guess, range(100)))
    assert statuses.count(401) == 5
    assert set(statuses) == {401, 429}


def test_stranger_does_not_lock_somebody_out_of_a_browser_he_has_used(
    client: ViewerClient, mara: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = cookie_of(come_in(client, "mara"), DEVICE_COOKIE)
    for n in range(6):
        come_in(client, "mara", WRONG, **{"X-Forwarded-For": f"192.0.2.{n}"})
    assert come_in(client, "mara").status_code == 429
    assert come_in(client, "mara", Cookie=device).status_code == 204
    # Nor is it a way around: it is good for one login, and is counted too.
    assert come_in(client, "nobody", WRONG, Cookie=device).status_code == 401
    guesses = [come_in(client, "mara", WRONG, Cookie=device).status_code for _ in range(6)]
    assert guesses == [401] * 5 + [429]
    forged = f"{DEVICE_COOKIE}=gAAAA-not-ours"
    assert come_in(client, "mara", Cookie=forged).status_code == 429


def test_many_logins_from_one_address_wait_too_and_a_login_of_ones_own_does_not_help(
    client: ViewerClient, mara: Person
) -> None:
    here = {"X-Forwarded-For": "2001:db8::1"}
    statuses = []
    for n in range(12):
        statuses.append(come_in(client, f"user{n}", WRONG, **here).status_code)
        if n == 5:
            assert come_in(client, "mara", **here).status_code == 204
    assert statuses == [401] * 10 + [429] * 2
    assert come_in(client, "other", WRONG, **{"X-Forwarded-For": "2001:db8::2"}).status_code == 429
    assert come_in(client, "other", WRONG, **{"X-Forwarded-For": "2001:db8:0:1::1"}).status_code == 401


def test_right_passwords_from_one_address_are_no_offence(client: ViewerClient, mara: Person) -> None:
    assert {come_in(client, "mara").status_code for _ in range(15)} == {204}


def test_unlocking_and_forgetting(
    client: ViewerClient, store: Store, mara: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(6):
        come_in(client, "mara", WRONG)
    assert store.attempts.unlock(of_login("mara"))
    assert not store.attempts.unlock(of_login("mara"))
    assert come_in(client, "mara").status_code == 204
    assert not store.attempts.forget()
    assert store.attempts.unlock(of_address("127.0.0.1")), "what is recent is kept"
    come_in(client, "mara", WRONG)
    at(monkeypatch, timedelta(hours=2))
    assert not store.attempts.forget()
    assert not store.attempts.unlock(of_login("mara"))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_address_stands_for_whose_it_is(address: str, network: str) -> None:
    assert network_of(address) == network


# --- the store ----------------------------------------------------------------------------------


def test_login_is_one_over_all_tenants_whatever_its_case(store: Store, mara: Person) -> None:
    with pytest.raises(LoginTaken):
        store.people("bolt").add(NewPerson(login="MARA", role=Role.WATCHER), by="test")


@pytest.mark.parametrize("login", ["", " ", "a b", "-a", "mára", "a" * 101, "a\n", "a/b", "<b>"])
def test_what_is_no_login(login: str) -> None:
    if login == "a\n":
        assert folded_login(login) == "a"
        return
    with pytest.raises(BadLogin):
        folded_login(login)


def test_another_tenants_people_are_not_there(store: Store, mara: Person) -> None:
    bolt = store.people("bolt")
    for act in (
        lambda: bolt.get(mara.id),
        lambda: bolt.change(mara.id, {"role": Role.ADMIN}),
        lambda: bolt.delete(mara.id),
        lambda: bolt.new_link(mara.id),
    ):
        with pytest.raises(UnknownPerson):
            act()
    assert store.people("acme").get(mara.id).role is Role.OPERATOR


def test_people_are_paged_newest_first(store: Store, people: People) -> None:
    for n in range(5):
        store.people("acme").add(NewPerson(login=f"p{n}", role=Role.WATCHER), by="test")
    store.people("bolt").add(NewPerson(login="other", role=Role.WATCHER), by="test")
    first = store.people("acme").page(None, 3)
    second = store.people("acme").page(first.next_cursor, 3)
    assert [one.login for one in (*first.items, *second.items)] == ["p4", "p3", "p2", "p1", "p0"]
    assert second.next_cursor is None


def test_database_holds_neither_passwords_nor_what_was_typed_as_a_login(
    client: ViewerClient, store: Store, mara: Person
) -> None:
    come_in(client, "my-secret-password-in-the-wrong-field", WRONG)
    come_in(client, "mara")
    everything = all_that_is_in(store._database.address).decode(errors="replace")
    assert "$argon2id$" in everything
    for secret in (PASSWORD, WRONG, "my-secret-password"):
        assert secret not in everything


# --- a tenant that is taken out of the settings -------------------------------------------------


def test_nobody_of_a_tenant_that_the_settings_name_no_more_comes_in_until_it_is_back(
    client: ViewerClient, store: Store, people: People, mara: Person
) -> None:
    by_hand = store.accounts.add_key("acme", Role.OPERATOR)
    hers = signed_in(client, "mara")
    shown = ({"Authorization": f"Bearer {by_hand.text}"}, hers, people.bob.headers)

    def answers() -> list[int]:
        return [client.get("/api/v1/me", headers=headers).status_code for headers in shown]

    assert answers() == [200, 200, 200]
    store.accounts.sync_declared(["bolt"], [])
    assert answers()[:2] == [401, 401]
    assert come_in(client, "mara").status_code == 401
    assert store.accounts.roles_of([f"key:{by_hand.id}"]) == {}
    store.accounts.sync_declared(["bolt"], [])
    store.accounts.sync_declared(["acme", "bolt"], [])
    assert answers()[:2] == [200, 200]
    actions = [
        entry.action for entry in store.audit.page("acme", AuditFilter(), None, 50).items
        if entry.action.startswith("tenant.")
    ]  # fmt: skip
    assert actions == ["tenant.enable", "tenant.disable", "tenant.create"]


def test_a_tenant_that_was_made_by_hand_is_none_of_the_settings_business(
    client: ViewerClient, store: Store, people: People
) -> None:
    store.accounts.add_tenant("cord")
    key = store.accounts.add_key("cord", Role.OPERATOR)
    store.accounts.sync_declared(["acme", "bolt"], [])
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {key.text}"}).status_code == 200
