"""A tenant's admin and his people and keys, and everybody and his own sign-ins and password."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_people import OURS, PASSWORD, WRONG, come_in, cookie_of, new_person, signed_in
from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, People, Person, ViewerClient
from viewer.accounts import DeclaredKey
from viewer.credentials import hash_of, new_key
from viewer.model import Role, Scope
from viewer.people import Person as Somebody
from viewer.store import Store

NEW_PASSWORD = "another long password"


@pytest.fixture
def admin(store: Store, people: People) -> Person:
    """A key of an admin of acme, and of nothing that is the fleet's."""
    return Person("acme", store.accounts.add_key("acme", Role.ADMIN, "acme's admin").text)


@pytest.fixture
def mara(store: Store, people: People) -> Somebody:
    return new_person(store, "mara")


def make_key(client: ViewerClient, who: Person, **wanted: Any) -> Any:
    return client.post("/api/v1/keys", json={"role": "watcher", **wanted}, headers=who.headers)


# --- people -------------------------------------------------------------------------------------


def test_an_admin_adds_a_person_who_sets_his_password_and_comes_in(
    client: ViewerClient, admin: Person
) -> None:
    body = {"login": "Nina@acme.example", "name": "Nina", "role": "operator"}
    answer = client.post("/api/v1/people", json=body, headers=admin.headers)
    assert answer.status_code == 201
    made = answer.json["person"]
    assert (made["login"], made["role"], made["has_password"]) == ("nina@acme.example", "operator", False)
    page, _, token = answer.json["link"]["url"].partition("#token=")
    assert page == f"{ORIGIN}/set-password"
    done = client.post("/set-password", json={"token": token, "password": NEW_PASSWORD}, headers=OURS)
    me = client.get("/api/v1/me", headers={"Cookie": cookie_of(done)}).json
    assert (me["tenant"], me["role"], me["name"]) == ("acme", "operator", "Nina")
    assert come_in(client, "nina@ACME.example", NEW_PASSWORD).status_code == 204
    shown = client.get(f"/api/v1/people/{made['id']}", headers=admin.headers).json
    assert (shown["has_password"], shown["last_sign_in_at"] is not None) == (True, True)
    assert NEW_PASSWORD not in str(shown)
    again = client.post("/api/v1/people", json=body, headers=admin.headers)
    assert (again.status_code, "taken" in again.json["title"]) == (409, True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"login": "a b", "role": "watcher"}, "login"),
        ({"login": "a", "role": "boss"}, "role"),
        ({"login": "a"}, "role"),
        ({"login": "a", "role": "watcher", "password": "x"}, "password"),
        ({"login": "a", "role": "watcher", "is_fleet_admin": True}, "is_fleet_admin"),
        ({"login": "a", "role": "watcher", "tenant": "bolt"}, "tenant"),
    ],
)
def test_person_that_cannot_be_made_is_told_by_its_field(
    client: ViewerClient, admin: Person, body: dict[str, object], field: str
) -> None:
    answer = client.post("/api/v1/people", json=body, headers=admin.headers)
    assert answer.status_code == 422
    assert [wrong["field"] for wrong in answer.json["errors"]] == [field]
    assert client.get("/api/v1/people", headers=admin.headers).json["items"] == []


def test_people_are_listed_changed_and_deleted_in_ones_own_tenant_alone(
    client: ViewerClient, store: Store, admin: Person, mara: Somebody
) -> None:
    stranger = Person("bolt", store.accounts.add_key("bolt", Role.ADMIN).text)
    path = f"/api/v1/people/{mara.id}"
    for method, route, body in (
        ("GET", path, None),
        ("PATCH", path, {"role": "admin"}),
        ("POST", f"{path}/links", None),
        ("GET", f"{path}/sign-ins", None),
        ("DELETE", f"{path}/sign-ins/abcdef", None),
        ("DELETE", path, None),
    ):
        foreign = client.open(route, method=method, json=body, headers=stranger.headers)
        unknown = client.open(
            route.replace(mara.id, UNKNOWN_ID), method=method, json=body, headers=admin.headers
        )
        assert (foreign.status_code, foreign.get_data()) == (404, unknown.get_data())
    assert client.get("/api/v1/people", headers=stranger.headers).json["items"] == []
    listed = client.get("/api/v1/people", headers=admin.headers).json["items"]
    assert [one["login"] for one in listed] == ["mara"]
    browser = signed_in(client, "mara")
    changed = client.patch(path, json={"role": "watcher", "name": "M."}, headers=admin.headers).json
    assert (changed["role"], changed["name"]) == ("watcher", "M.")
    assert client.get("/api/v1/me", headers=browser).json["role"] == "watcher"
    out = client.patch(path, json={"disabled": True}, headers=admin.headers).json
    assert out["is_disabled"] is True
    assert client.get("/api/v1/me", headers=browser).status_code == 401
    assert client.post(f"{path}/links", headers=admin.headers).status_code == 409
    assert client.delete(path, headers=admin.headers).status_code == 204
    assert client.get(path, headers=admin.headers).status_code == 404


def test_people_are_paged(client: ViewerClient, store: Store, admin: Person) -> None:
    for n in range(3):
        body = {"login": f"p{n}", "role": "watcher"}
        client.post("/api/v1/people", json=body, headers=admin.headers)
    first = client.get("/api/v1/people?limit=2", headers=admin.headers).json
    rest = client.get(f"/api/v1/people?limit=2&cursor={first['next_cursor']}", headers=admin.headers).json
    assert [one["login"] for one in first["items"] + rest["items"]] == ["p2", "p1", "p0"]
    assert rest["next_cursor"] is None
    assert client.get("/api/v1/people?cursor=x", headers=admin.headers).status_code == 400


def test_nobody_takes_his_own_last_rights_by_mistake(client: ViewerClient, store: Store) -> None:
    boss = new_person(store, "boss", Role.ADMIN)
    headers = {**signed_in(client, "boss"), "Origin": ORIGIN}
    path = f"/api/v1/people/{boss.id}"
    for answer in (
        client.patch(path, json={"role": "operator"}, headers=headers),
        client.patch(path, json={"disabled": True}, headers=headers),
        client.delete(path, headers=headers),
    ):
        assert (answer.status_code, answer.json["type"]) == (409, "urn:deskfleet:problem:own-rights")
    assert client.patch(path, json={"role": "admin", "name": "The boss"}, headers=headers).status_code == 200
    key = store.accounts.add_key("acme", Role.ADMIN)
    own = client.delete(f"/api/v1/keys/{key.id}", headers=Person("acme", key.text).headers)
    assert own.status_code == 409


def test_a_tenants_admin_cannot_become_a_fleet_admin(
    client: ViewerClient, store: Store, people: People, admin: Person
) -> None:
    root = new_person(store, "root", Role.ADMIN, fleet=True)
    path = f"/api/v1/people/{root.id}"
    fleets_key = store.accounts.add_key("acme", Role.ADMIN, scopes=[Scope.FLEET])
    answers = [
        client.post(f"{path}/links", headers=admin.headers),
        client.patch(path, json={"name": "x"}, headers=admin.headers),
        client.delete(path, headers=admin.headers),
        client.delete(f"{path}/sign-ins/abcdef", headers=admin.headers),
        client.delete(f"/api/v1/keys/{fleets_key.id}", headers=admin.headers),
    ]
    assert {answer.status_code for answer in answers} == {403}
    made = make_key(client, admin, role="admin", scopes=["fleet"])
    assert (made.status_code, made.json["errors"][0]["field"]) == (422, "scopes")
    assert client.get(path, headers=admin.headers).status_code == 200
    assert client.post(f"{path}/links", headers=people.ada.headers).status_code == 201
    assert client.delete(f"/api/v1/keys/{fleets_key.id}", headers=people.ada.headers).status_code == 204


def test_an_admin_sees_and_ends_where_somebody_is_signed_in(
    client: ViewerClient, admin: Person, mara: Somebody
) -> None:
    answer = come_in(client, "mara", **{"X-Forwarded-For": "192.0.2.7", "User-Agent": "Firefox"})
    browser, path = {"Cookie": cookie_of(answer)}, f"/api/v1/people/{mara.id}/sign-ins"
    (listed,) = client.get(path, headers=admin.headers).json["items"]
    assert (listed["address"], listed["user_agent"], listed["is_this_one"]) == ("192.0.2.7", "Firefox", False)
    assert client.delete(f"{path}/{listed['id'][::-1]}", headers=admin.headers).status_code == 404
    assert client.delete(f"{path}/{listed['id']}", headers=admin.headers).status_code == 204
    assert client.get("/api/v1/me", headers=browser).status_code == 401


# --- keys ---------------------------------------------------------------------------------------


def test_key_is_made_shown_once_listed_and_revoked(client: ViewerClient, admin: Person) -> None:
    answer = make_key(client, admin, role="operator", scopes=["sessions"], days=2, label="ci")
    assert answer.status_code == 201
    text, key = answer.json["text"], answer.json["key"]
    own = Person("acme", text)
    me = client.get("/api/v1/me", headers=own.headers).json
    assert (me["role"], me["scopes"], me["name"]) == ("operator", ["sessions"], "ci")
    listed = client.get("/api/v1/keys", headers=admin.headers)
    assert text not in listed.get_data(as_text=True)
    (found,) = [one for one in listed.json["items"] if one["id"] == key["id"]]
    assert found["last_used_at"] is not None
    assert (found["label"], found["declared"], found["scopes"]) == ("ci", False, ["sessions"])
    assert found["created_by"].startswith("key:")
    assert client.delete(f"/api/v1/keys/{key['id']}", headers=admin.headers).status_code == 204
    assert client.delete(f"/api/v1/keys/{key['id']}", headers=admin.headers).status_code == 204
    assert client.get("/api/v1/me", headers=own.headers).status_code == 401


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"role": "boss"}, "role"),
        ({"days": 0}, "days"),
        ({"days": 3651}, "days"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"label": "a\nb"}, "label"),
        ({"tenant": "bolt"}, "tenant"),
    ],
)
def test_key_that_cannot_be_made(
    client: ViewerClient, admin: Person, wanted: dict[str, object], field: str
) -> None:
    answer = make_key(client, admin, **wanted)
    assert answer.status_code == 422
    assert {wrong["field"] for wrong in answer.json["errors"]} == {field}


def test_key_made_by_a_narrow_one_is_no_wider(client: ViewerClient, store: Store, people: People) -> None:
    narrow = Person(
        "acme", store.accounts.add_key("acme", Role.ADMIN, scopes=[Scope.MANAGE, Scope.EVENTS]).text
    )
    assert make_key(client, narrow).json["key"]["scopes"] == ["events", "manage"]
    assert make_key(client, narrow, scopes=["events"]).json["key"]["scopes"] == ["events"]
    assert make_key(client, narrow, scopes=["sessions"]).status_code == 422
    assert make_key(client, people.ada).json["key"]["scopes"] is None, "the fleet only where it is named"
    assert make_key(client, people.ada, scopes=["fleet"]).json["key"]["scopes"] == ["fleet"]


def test_declared_key_is_not_revoked_here_and_the_answer_names_it(
    client: ViewerClient, store: Store, admin: Person
) -> None:
    key = new_key()
    declared = DeclaredKey(
        id=key.id, tenant="acme", role=Role.OPERATOR, sha256=hash_of(key.text), label="operator of acme"
    )
    store.accounts.sync_declared(["acme"], [declared])
    answer = client.delete(f"/api/v1/keys/{key.id}", headers=admin.headers)
    assert answer.status_code == 409
    assert "'operator of acme'" in answer.json["detail"]
    assert key.id in answer.json["detail"]
    assert store.accounts.principal_of_key(key.text) is not None


def test_another_tenants_key_is_not_there(client: ViewerClient, store: Store, admin: Person) -> None:
    foreign = store.accounts.add_key("bolt", Role.WATCHER)
    answers = [
        client.delete(f"/api/v1/keys/{one}", headers=admin.headers) for one in (foreign.id, "zzzzzzzz")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert answers[0].get_data() == answers[1].get_data()
    assert store.accounts.principal_of_key(foreign.text) is not None
    assert foreign.id not in client.get("/api/v1/keys", headers=admin.headers).get_data(as_text=True)


# --- oneself ------------------------------------------------------------------------------------


def test_everybody_sees_and_ends_his_own_sign_ins(client: ViewerClient, mara: Somebody) -> None:
    here, there, elsewhere = (signed_in(client, "mara") for _ in range(3))
    items = client.get("/api/v1/me/sign-ins", headers=here).json["items"]
    assert [one["is_this_one"] for one in items].count(True) == 1
    assert len(items) == 3
    (own,) = (
        one for one in client.get("/api/v1/me/sign-ins", headers=there).json["items"] if one["is_this_one"]
    )
    ours = {**here, "Origin": ORIGIN}
    assert client.delete(f"/api/v1/me/sign-ins/{own['id']}", headers=ours).status_code == 204
    assert client.get("/api/v1/me", headers=there).status_code == 401
    assert client.delete("/api/v1/me/sign-ins", headers=ours).status_code == 204
    assert client.get("/api/v1/me", headers=elsewhere).status_code == 401
    assert client.get("/api/v1/me", headers=here).status_code == 200
    assert client.delete(f"/api/v1/me/sign-ins/{own['id']}", headers=ours).status_code == 404


def test_nobody_ends_another_ones_sign_in(client: ViewerClient, store: Store, mara: Somebody) -> None:
    new_person(store, "nina")
    hers, his = signed_in(client, "mara"), signed_in(client, "nina")
    (own,) = client.get("/api/v1/me/sign-ins", headers=hers).json["items"]
    headers = {**his, "Origin": ORIGIN}
    assert client.delete(f"/api/v1/me/sign-ins/{own['id']}", headers=headers).status_code == 404
    assert client.get("/api/v1/me", headers=hers).status_code == 200


def test_browsers_of_a_key_and_of_a_link_are_listed_too(
    client: ViewerClient, store: Store, people: People
) -> None:
    with_link = store.accounts.sign_in_with_link(store.accounts.new_link("acme", Role.ADMIN))
    with_key = store.accounts.sign_in_with_key(people.alice.key)
    for cookie in (with_link, with_key):
        headers = {"Cookie": f"__Host-deskfleet={cookie}", "Origin": ORIGIN}
        (own,) = client.get("/api/v1/me/sign-ins", headers=headers).json["items"]
        assert own["is_this_one"] is True
        assert client.delete("/api/v1/me/sign-ins", headers=headers).status_code == 204
        assert client.get("/api/v1/me", headers=headers).status_code == 200
    assert len(client.get("/api/v1/me/sign-ins", headers=people.alice.headers).json["items"]) == 1


def test_changing_the_password_ends_other_sign_ins_and_unused_links(
    client: ViewerClient, store: Store, mara: Somebody
) -> None:
    here, there = signed_in(client, "mara"), signed_in(client, "mara")
    link = store.people("acme").new_link(mara.id)

    def change(**body: str) -> Any:
        return client.post("/api/v1/me/password", json=body, headers={**here, "Origin": ORIGIN})

    wrong = change(password=WRONG, new_password=NEW_PASSWORD)
    assert (wrong.status_code, wrong.json["errors"][0]["field"]) == (422, "password")
    short = change(password=PASSWORD, new_password="short")
    assert (short.status_code, short.json["errors"][0]["field"]) == (422, "new_password")
    assert client.get("/api/v1/me", headers=there).status_code == 200
    assert change(password=PASSWORD, new_password=NEW_PASSWORD).status_code == 204
    assert client.get("/api/v1/me", headers=here).status_code == 200
    assert client.get("/api/v1/me", headers=there).status_code == 401
    assert store.accounts.person_of_link(link) is None
    assert come_in(client, "mara").status_code == 401
    assert come_in(client, "mara", NEW_PASSWORD).status_code == 204


def test_guesses_in_an_open_browser_have_to_wait_and_lock_nobody_out(
    client: ViewerClient, mara: Somebody
) -> None:
    headers = {**signed_in(client, "mara"), "Origin": ORIGIN}
    body = {"password": WRONG, "new_password": NEW_PASSWORD}
    statuses = [client.post("/api/v1/me/password", json=body, headers=headers).status_code for _ in range(7)]
    assert statuses == [422] * 5 + [429] * 2
    assert come_in(client, "mara").status_code == 204


def test_only_a_person_with_a_password_has_one_to_change(client: ViewerClient, people: People) -> None:
    body = {"password": WRONG, "new_password": NEW_PASSWORD}
    answer = client.post("/api/v1/me/password", json=body, headers=people.alice.headers)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:deskfleet:problem:no-password")
