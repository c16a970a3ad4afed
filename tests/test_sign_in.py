from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import text

import viewer.accounts
import viewer.attempts
from tests.viewer_fixtures import ORIGIN, OTHER_ORIGIN, People, Person, ViewerClient, all_that_is_in, sign_in
from viewer.accounts import DeclaredKey
from viewer.credentials import hash_of, new_key
from viewer.model import Principal, Role, utcnow
from viewer.store import Store

OURS = {"Origin": ORIGIN}


def cookie_from(answer: object) -> str:
    header: str = answer.headers["Set-Cookie"]  # type: ignore[attr-defined]
    return header.partition(";")[0]


def test_key_signs_a_browser_in_with_a_cookie_that_only_our_host_gets(
    client: ViewerClient, people: People
) -> None:
    answer = client.post("/signin", json={"key": people.alice.key}, headers=OURS)
    assert answer.status_code == 204
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert name.startswith("__Host-deskfleet=")
    assert len(name.partition("=")[2]) == 43
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(attributes)
    assert not [attribute for attribute in attributes if attribute.startswith("Domain")]
    me = client.get("/api/v1/me", headers={"Cookie": cookie_from(answer)}).json
    assert (me["tenant"], me["role"], me["via"]) == ("acme", "operator", "cookie")


def test_link_signs_in_once(client: ViewerClient, store: Store, people: People) -> None:
    token = store.accounts.new_link("bolt", Role.ADMIN)
    answer = client.post("/signin", json={"token": token}, headers=OURS)
    assert answer.status_code == 204
    me = client.get("/api/v1/me", headers={"Cookie": cookie_from(answer)}).json
    assert (me["tenant"], me["role"]) == ("bolt", "admin")
    assert client.post("/signin", json={"token": token}, headers=OURS).status_code == 401


def test_link_is_over_after_a_day(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = store.accounts.new_link("acme", Role.OPERATOR)
    monkeypatch.setattr(viewer.accounts, "utcnow", lambda: utcnow() + timedelta(hours=24, seconds=1))
    assert client.post("/signin", json={"token": token}, headers=OURS).status_code == 401


@pytest.mark.parametrize(
    ("later", "status"), [(timedelta(hours=11), 200), (timedelta(hours=12, seconds=1), 401)]
)
def test_idle_sign_in_ends_after_twelve_hours(
    client: ViewerClient,
    store: Store,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    later: timedelta,
    status: int,
) -> None:
    cookie = sign_in(store, people.alice)
    monkeypatch.setattr(viewer.accounts, "utcnow", lambda: utcnow() + later)
    assert client.get("/api/v1/me", headers=cookie).status_code == status


def test_used_sign_in_lives_on_but_seven_days_at_most(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = sign_in(store, people.alice)
    lived = 0
    for hours in range(10, 200, 10):
        monkeypatch.setattr(viewer.accounts, "utcnow", lambda hours=hours: utcnow() + timedelta(hours=hours))
        if client.get("/api/v1/me", headers=cookie).status_code != 200:
            break
        lived = hours
    assert lived == 160


def test_sign_out_ends_the_sign_in_on_the_server_too(
    client: ViewerClient, store: Store, people: People
) -> None:
    cookie = sign_in(store, people.alice)
    answer = client.post("/signout", headers={**cookie, **OURS})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/signin")
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert client.get("/api/v1/me", headers=cookie).status_code == 401


def test_signing_in_again_ends_the_former_sign_in(client: ViewerClient, store: Store, people: People) -> None:
    former = sign_in(store, people.alice)
    client.post("/signin", json={"key": people.alice.key}, headers={**former, **OURS})
    assert client.get("/api/v1/me", headers=former).status_code == 401


def test_revoking_a_key_ends_the_browsers_that_used_it(
    client: ViewerClient, store: Store, people: People
) -> None:
    cookie, other = sign_in(store, people.alice), sign_in(store, people.ada)
    store.accounts.revoke_key(people.alice.key.split("_")[1])
    assert client.get("/api/v1/me", headers=cookie).status_code == 401
    assert client.get("/api/v1/me", headers=other).status_code == 200


def test_key_revoked_while_it_signs_in_leaves_no_sign_in(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = store.accounts.principal_of_key

    def look_and_then_revoke(text: str) -> Principal | None:
        found = look(text)
        store.accounts.revoke_key(people.alice.key.split("_")[1])
        return found

    monkeypatch.setattr(store.accounts, "principal_of_key", look_and_then_revoke)
    assert store.accounts.sign_in_with_key(people.alice.key) is None


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_foreign_page_can_neither_sign_in_nor_out(
    client: ViewerClient, store: Store, people: People, headers: dict[str, str]
) -> None:
    cookie = sign_in(store, people.alice)
    assert client.post("/signin", json={"key": people.bob.key}, headers=headers).status_code == 403
    assert client.post("/signout", headers={**cookie, **headers}).status_code == 403
    assert client.get("/api/v1/me", headers=cookie).status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"key": "a", "token": "b"}, {"key": 1}, {"kye": "a"}, {"key": "x" * 201}]
)
def test_sign_in_wants_exactly_one_credential(
    client: ViewerClient, people: People, body: dict[str, object]
) -> None:
    answer = client.post("/signin", json=body, headers=OURS)
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")


def test_eleventh_wrong_try_in_a_minute_has_to_wait_and_others_dont(
    client: ViewerClient, people: People
) -> None:
    def attempt(key: str, address: str) -> int:
        headers = {**OURS, "X-Forwarded-For": address}
        status: int = client.post("/signin", json={"key": key}, headers=headers).status_code
        return status

    assert [attempt(new_key().text, "192.0.2.1") for _ in range(11)] == [401] * 10 + [429]
    assert attempt(people.alice.key, "192.0.2.1") == 429
    assert attempt(people.alice.key, "192.0.2.2") == 204
    assert attempt(people.alice.key, "192.0.2.1, 192.0.2.2") == 204  # the last one is what the edge saw


def test_waiting_ends_and_says_how_long(
    client: ViewerClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        client.post("/signin", json={"key": "wrong"}, headers=OURS)
    refused = client.post("/signin", json={"key": people.alice.key}, headers=OURS)
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    monkeypatch.setattr(viewer.attempts, "utcnow", lambda: utcnow() + timedelta(seconds=61))
    assert client.post("/signin", json={"key": people.alice.key}, headers=OURS).status_code == 204


def test_many_right_sign_ins_are_no_offence(client: ViewerClient, people: People) -> None:
    statuses = {
        client.post("/signin", json={"key": people.alice.key}, headers=OURS).status_code for _ in range(15)
    }
    assert statuses == {204}


def test_sign_in_works_at_the_other_origin_for_that_origin(client: ViewerClient, people: People) -> None:
    headers = {"Origin": OTHER_ORIGIN, "X-Forwarded-Host": "localhost:8088", "X-Forwarded-Proto": "http"}
    assert client.post("/signin", json={"key": people.alice.key}, headers=headers).status_code == 204


def test_database_holds_no_secret_in_clear(client: ViewerClient, store: Store, people: People) -> None:
    answer = client.post("/signin", json={"key": people.alice.key}, headers=OURS)
    cookie = cookie_from(answer).partition("=")[2]
    token = store.accounts.new_link("acme", Role.ADMIN)
    everything = all_that_is_in(store._database.address).decode(errors="replace")
    for secret in (cookie, token, people.alice.key.split("_", 2)[2]):
        assert secret not in everything
        assert len(secret) >= 40
    assert hash_of(cookie) in everything


def test_sign_ins_and_links_that_are_over_are_forgotten(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(store, people.alice)
    store.accounts.new_link("acme", Role.ADMIN)
    monkeypatch.setattr(viewer.accounts, "utcnow", lambda: utcnow() + timedelta(days=2))
    sign_in(store, people.bob)
    with store._database.reading() as orm:
        left = [orm.scalar(text(f"SELECT count(*) FROM {table}")) for table in ("sign_ins", "signin_links")]
    assert left == [1, 0]


# --- keys of the settings ---------------------------------------------------------------------


def declared(key: str, role: Role = Role.OPERATOR, tenant: str = "main") -> DeclaredKey:
    return DeclaredKey(id=key.split("_")[1], tenant=tenant, role=role, sha256=hash_of(key), label="")


def test_keys_of_the_settings_come_and_go_and_those_by_hand_stay(store: Store) -> None:
    first, second = new_key().text, new_key().text
    store.accounts.sync_declared(["main"], [declared(first), declared(second)])
    by_hand = store.accounts.add_key("main", Role.WATCHER).text
    cookie = store.accounts.sign_in_with_key(first)
    store.accounts.sync_declared(["main"], [declared(second, Role.ADMIN)])
    assert store.accounts.principal_of_key(first) is None
    assert store.accounts.principal_of_cookie(cookie or "") is None
    principal = store.accounts.principal_of_key(second)
    assert principal is not None
    assert principal.role is Role.ADMIN
    assert store.accounts.principal_of_key(by_hand) is not None


def test_key_that_comes_back_works_again(store: Store) -> None:
    key = new_key().text
    for keys in ([declared(key)], [], [declared(key)]):
        store.accounts.sync_declared(["main"], keys)
    assert store.accounts.principal_of_key(key) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "df_",
        "df_abcd1234_",
        "df_abcd1234_" + "x" * 43,
        "df_abcd1234_" + "x" * 44,
        "DF_abcd1234_" + "x" * 43,
    ],
)
def test_what_is_no_key_of_ours_is_nobody(store: Store, people: People, text: str) -> None:
    assert store.accounts.principal_of_key(text) is None


def test_half_a_key_is_nobody(app: Flask, store: Store, people: People) -> None:
    person: Person = people.alice
    assert store.accounts.principal_of_key(person.key[:-1]) is None
    assert store.accounts.principal_of_key(person.key + "x") is None
    assert store.accounts.principal_of_key(person.key + "\n") is None


def test_roles_are_those_of_valid_keys_and_sign_ins(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = store.accounts
    cookie = accounts.sign_in_with_link(accounts.new_link("bolt", Role.ADMIN))
    who = accounts.principal_of_cookie(cookie or "")
    assert who is not None
    alice, wanda = (f"key:{person.key.split('_')[1]}" for person in (people.alice, people.wanda))
    asked = {alice, wanda, who.id, "key:unknown", "link:unknown", ""}
    accounts.revoke_key(people.alice.key.split("_")[1])
    assert accounts.roles_of(asked) == {(wanda, "acme"): Role.WATCHER, (who.id, "bolt"): Role.ADMIN}
    monkeypatch.setattr(viewer.accounts, "utcnow", lambda: utcnow() + timedelta(hours=12, seconds=1))
    assert accounts.roles_of(asked) == {(wanda, "acme"): Role.WATCHER}


def test_stream_of_a_browser_goes_with_its_sign_in_and_no_other(store: Store, people: People) -> None:
    accounts = store.accounts
    here, there = (accounts.sign_in_with_key(people.alice.key) or "" for _ in range(2))
    held = [accounts.principal_of_cookie(cookie) for cookie in (here, there)]
    key = accounts.principal_of_key(people.alice.key)
    assert key is not None
    holders = [who.holder for who in (*held, key) if who is not None]
    assert len(set(holders)) == 3
    assert {who.id for who in held if who is not None} == {key.id} == {key.holder}
    assert set(accounts.roles_of(holders)) == {(name, "acme") for name in holders}
    accounts.sign_out(here)
    assert set(accounts.roles_of(holders)) == {(name, "acme") for name in holders[1:]}
    accounts.revoke_key(people.alice.key.split("_")[1])
    assert accounts.roles_of(holders) == {}
