"""API keys: what they are held to, how often they may be used, and that comparing them tells nothing."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import event

import viewer.accounts
from roles.viewer import ALL_SCOPES
from tests.viewer_fixtures import ORIGIN, People, ViewerClient, running_session
from viewer.access import COOKIE
from viewer.accounts import AccountStore, DeclaredKey
from viewer.credentials import hash_of, new_key, same
from viewer.model import Principal, Role, Scope, utcnow
from viewer.services import RequestLimit
from viewer.store import Store


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# --- scopes -------------------------------------------------------------------------------------


def test_the_sites_admin_key_has_every_scope() -> None:
    assert set(ALL_SCOPES) == {scope.value for scope in Scope}


def test_key_without_scopes_has_all_but_the_fleet(client: ViewerClient, store: Store) -> None:
    key = store.accounts.add_key("acme", Role.ADMIN).text
    me = client.get("/api/v1/me", headers=bearer(key)).json
    assert set(me["scopes"]) == {"sessions", "streams", "events", "manage"}


@pytest.mark.parametrize("scope", [Scope.SESSIONS, Scope.STREAMS])
def test_scoped_key_does_what_it_is_for_and_no_more_in_a_browser_too(
    client: ViewerClient, store: Store, people: People, scope: Scope
) -> None:
    session = running_session(store, people.alice)
    stream = {"X-Forwarded-Uri": f"/stream/{session.id}", "X-Forwarded-Method": "GET"}
    key = store.accounts.add_key("acme", Role.ADMIN, scopes=[scope]).text
    cookie = store.accounts.sign_in_with_key(key)
    for headers in (bearer(key), {"Cookie": f"{COOKIE}={cookie}", "Origin": ORIGIN}):
        got = (
            client.get("/api/v1/sessions", headers=headers).status_code,
            client.get("/authz/stream", headers={**headers, **stream}).status_code,
        )
        assert got == ((200, 403) if scope is Scope.SESSIONS else (403, 200))


def test_declared_key_that_loses_a_scope_loses_its_streams(store: Store, people: People) -> None:
    key = new_key()
    declared = DeclaredKey(id=key.id, tenant="acme", role=Role.OPERATOR, sha256=hash_of(key.text), label="")
    store.accounts.sync_declared(["acme"], [declared])
    holder = f"key:{key.id}"
    assert store.accounts.roles_of([holder]) == {(holder, "acme"): Role.OPERATOR}
    narrow = declared.model_copy(update={"scopes": (Scope.SESSIONS,)})
    store.accounts.sync_declared(["acme"], [narrow])
    assert store.accounts.roles_of([holder]) == {}
    who = store.accounts.principal_of_key(key.text)
    assert who is not None
    assert who.scopes == frozenset({Scope.SESSIONS})


def test_fleets_link_lets_its_browser_do_what_is_every_tenants(client: ViewerClient, store: Store) -> None:
    for is_fleet_admin, status in ((True, 200), (False, 403)):
        link = store.accounts.new_link("acme", Role.ADMIN, is_fleet_admin=is_fleet_admin)
        cookie = store.accounts.sign_in_with_link(link)
        headers = {"Cookie": f"{COOKIE}={cookie}", "Origin": ORIGIN}
        answer = client.put("/api/v1/hosts/here/draining", json={"draining": False}, headers=headers)
        assert answer.status_code == status


def test_use_of_a_key_is_stamped_seldom(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, stamps = store.accounts.add_key("acme", Role.WATCHER), list[str]()
    stamp = store.accounts._stamp_key

    def noted(key_id: str, now: datetime) -> None:
        stamps.append(key_id)
        stamp(key_id, now)

    monkeypatch.setattr(store.accounts, "_stamp_key", noted)
    for _ in range(5):
        assert store.accounts.principal_of_key(key.text) is not None
    assert stamps == [key.id]
    monkeypatch.setattr(viewer.accounts, "utcnow", lambda: utcnow() + timedelta(minutes=6))
    store.accounts.principal_of_key(key.text)
    assert len(stamps) == 2


# --- how often ----------------------------------------------------------------------------------


def test_wrong_keys_from_one_address_are_refused_and_right_ones_are_not(
    client: ViewerClient, people: People
) -> None:
    here = {"X-Forwarded-For": "192.0.2.1"}
    statuses = [
        client.get(path, headers={**here, **bearer(new_key().text)}).status_code
        for path in ("/api/v1/me", "/v1/sandboxes") * 35
    ]
    assert statuses == [401] * 60 + [429] * 10
    refused = client.get("/api/v1/me", headers={**here, **bearer(new_key().text)})
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert client.get("/api/v1/me", headers={**here, **people.alice.headers}).status_code == 200
    there = {"X-Forwarded-For": "192.0.2.2"}
    assert client.get("/api/v1/me", headers={**there, **bearer(new_key().text)}).status_code == 401
    assert client.get("/api/v1/me", headers=here).status_code == 401, "without a key nobody guesses"


def test_who_asks_too_often_is_told_when_to_go_on_and_nobody_else_is(
    client: ViewerClient, app: Flask, people: People
) -> None:
    app.extensions["deskfleet"].requests = RequestLimit(60)
    statuses = [client.get("/api/v1/me", headers=people.alice.headers).status_code for _ in range(70)]
    assert statuses.count(200) in range(60, 66)
    assert statuses[-1] == 429
    for path in ("/api/v1/me", "/v1/sandboxes"):
        refused = client.get(path, headers=people.alice.headers)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert client.get("/api/v1/me", headers=people.wanda.headers).status_code == 200


def test_who_waited_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    who = Principal(id="key:a", tenant="acme", role=Role.WATCHER, via="key")
    limit, began = RequestLimit(60), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began)
    assert [limit.take(who) for _ in range(61)] == [0] * 60 + [1]
    monkeypatch.setattr(time, "monotonic", lambda: began + 2.5)
    assert [limit.take(who) for _ in range(3)] == [0, 0, 1]


# --- timing -------------------------------------------------------------------------------------


def wrong_ways(accounts: AccountStore) -> dict[str, str]:
    """Keys that are refused, each for another reason; all look like keys of ours."""
    good, revoked = accounts.add_key("acme", Role.ADMIN), accounts.add_key("acme", Role.ADMIN)
    over = accounts.add_key("acme", Role.ADMIN, life=timedelta(0))
    accounts.revoke_key(revoked.id)
    secret = good.text.split("_", 2)[2]  # the secret may hold more of them
    other = "A" if secret[0] != "A" else "B"
    return {
        "unknown": new_key().text,
        "wrong from the first letter": f"df_{good.id}_{secrets.token_urlsafe(32)}",
        "all but one letter right": f"df_{good.id}_{other}{good.text[13:]}",
        "revoked": revoked.text,
        "over": over.text,
    }


def test_for_every_refused_key_the_same_is_done(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the database, one hash of all that was shown, one comparison of whole digests."""
    did: list[str] = []

    def noted(name: str, act: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: str) -> object:
            did.append(f"{name} {[len(one) for one in arguments]}")
            return act(*arguments)

        return call

    ways = wrong_ways(store.accounts)
    monkeypatch.setattr(viewer.accounts, "same", noted("same", same))
    monkeypatch.setattr(viewer.accounts, "hash_of", noted("hash_of", hash_of))
    event.listen(
        store._database.engine, "before_cursor_execute", lambda *said: did.append(str(said[2]).split()[0])
    )
    done = {}
    for name, text in ways.items():
        did.clear()
        assert store.accounts.principal_of_key(text) is None
        done[name] = [act for act in did if act != "BEGIN"]
    assert set(map(tuple, done.values())) == {("SELECT", "hash_of [55]", "same [64, 64]")}


@pytest.mark.real
def test_no_refused_key_takes_noticeably_longer_than_another(store: Store, people: People) -> None:
    """Medians of rounds that take turns; the bound is wide, because what could tell would be a hash or a look
    more, which costs as much as all the rest."""
    ways = wrong_ways(store.accounts)
    took: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(1500):
        for name, text in ways.items():
            began = time.perf_counter_ns()
            store.accounts.principal_of_key(text)
            took[name].append(time.perf_counter_ns() - began)
    medians = {name: statistics.median(values) for name, values in took.items()}
    assert max(medians.values()) < 1.5 * min(medians.values()), medians
