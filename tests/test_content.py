"""Tickets, the door, and who may see what at the names beside the viewer."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from typing import Any

import pytest

import viewer.entries
from tests.viewer_fixtures import (
    ORIGIN,
    UNKNOWN_ID,
    People,
    Person,
    ViewerClient,
    all_that_is_in,
    kasmvnc_desktop,
    new_session,
    running_session,
    sign_in,
)
from viewer.access import ENTRY_COOKIE
from viewer.accounts import DeclaredKey
from viewer.app import create_app
from viewer.credentials import hash_of
from viewer.grants import DesktopSocket, Grant, open_grant
from viewer.model import Role, Session, Status, utcnow
from viewer.places import PlaceKind, place_of
from viewer.settings import Settings
from viewer.store import Store

CODE = "code.deskfleet.localhost:8088"
WIKI = "wiki.deskfleet.localhost:8088"
SANDBOX_API = "opensandbox.deskfleet.localhost:8088"
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}
FORM = "application/x-www-form-urlencoded"
Headers = dict[str, str]


def content_host(session: Session) -> str:
    return f"{session.id}.content.deskfleet.localhost:8088"


def at(host: str, scheme: str = "http") -> Headers:
    """What the edge says of a request to that name."""
    return {"X-Forwarded-Host": host, "X-Forwarded-Proto": scheme, "X-Forwarded-Method": "GET"}


def ticket_for(client: ViewerClient, person: Person, what: str, headers: Headers | None = None) -> str:
    """By a key, unless `headers` say otherwise. what: `sessions/<id>` or `services/<name>`."""
    answer = client.post(f"/api/v1/{what}/entries", headers=headers or person.headers)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    return str(answer.json["ticket"])


def enter(client: ViewerClient, host: str, ticket: str, **more: str) -> Any:
    return client.post("/.deskfleet/enter", data={"ticket": ticket, **more}, headers=at(host))


def entry(client: ViewerClient, host: str, ticket: str) -> Headers:
    """The Cookie header of a browser that has entered."""
    answer = enter(client, host, ticket)
    assert answer.status_code == 303, answer.get_data(as_text=True)
    found = re.match(f"{ENTRY_COOKIE}=([^;]+);", answer.headers["Set-Cookie"])
    assert found is not None
    return {"Cookie": found[0].rstrip(";")}


def ask_content(client: ViewerClient, host: str, cookie: Headers, **more: str) -> Any:
    headers = {**at(host), **cookie, **{name.replace("_", "-"): value for name, value in more.items()}}
    return client.get("/authz/content", headers=headers)


def ask_service(client: ViewerClient, host: str, shown: Headers, **more: str) -> Any:
    headers = {**at(host), **shown, "X-Df-Service": host.split(".")[0]}
    return client.get(
        "/authz/service", headers={**headers, **{k.replace("_", "-"): v for k, v in more.items()}}
    )


def declare(store: Store, person: Person, role: Role) -> None:
    """As a deploy does whose settings name this role for the person's key; no other key stays."""
    key = DeclaredKey(
        id=person.key.split("_")[1], tenant=person.tenant, role=role, sha256=hash_of(person.key), label=""
    )
    store.accounts.sync_declared(["acme", "bolt"], [key])


@pytest.fixture
def studio(store: Store, people: People) -> Session:
    return kasmvnc_desktop(store, people.alice)


@pytest.fixture
def inside(client: ViewerClient, store: Store, people: People, studio: Session) -> Headers:
    """Alice's browser, signed in and let in to the studio's own page."""
    signed_in = {**sign_in(store, people.alice), "Origin": ORIGIN}
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}", signed_in)
    return entry(client, content_host(studio), ticket)


# ---- tickets and the door ---------------------------------------------------------------------------


def test_ticket_names_the_door_of_the_sessions_own_origin(
    client: ViewerClient, people: People, studio: Session
) -> None:
    answer = client.post(f"/api/v1/sessions/{studio.id}/entries", headers=people.wanda.headers)
    assert answer.json["url"] == f"http://{content_host(studio)}/.deskfleet/enter"
    assert answer.headers["Cache-Control"] == "no-store"


def test_session_without_a_page_of_its_own_gets_no_ticket_and_says_why(
    client: ViewerClient, store: Store, people: People
) -> None:
    streamed, creating = running_session(store, people.alice), new_session(store, people.alice)
    for session, words in ((streamed, "no page of its own"), (creating, "not running")):
        answer = client.post(f"/api/v1/sessions/{session.id}/entries", headers=people.alice.headers)
        assert answer.status_code == 409
        assert words in answer.json["title"]


def test_fleet_without_a_content_domain_says_that_it_lacks_one(
    settings: Settings, store: Store, people: People, studio: Session
) -> None:
    app = create_app(settings.model_copy(update={"content_domain": None}), store)
    answer = app.test_client().post(f"/api/v1/sessions/{studio.id}/entries", headers=people.alice.headers)
    assert answer.status_code == 409
    assert "content_domain" in (answer.json or {})["detail"]


def test_entry_is_a_cookie_of_that_host_alone(client: ViewerClient, people: People, studio: Session) -> None:
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    answer = enter(client, content_host(studio), ticket)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    parts = set(answer.headers["Set-Cookie"].split("; ")[1:])
    assert {"Secure", "HttpOnly", "SameSite=None", "Partitioned", "Path=/"} <= parts
    assert not [part for part in parts if part.startswith("Domain")]
    assert answer.headers["Set-Cookie"].startswith("__Host-deskfleet-entry=")


def test_ticket_works_once(client: ViewerClient, people: People, studio: Session) -> None:
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    assert enter(client, content_host(studio), ticket).status_code == 303
    again = enter(client, content_host(studio), ticket)
    assert (again.status_code, "Set-Cookie" in again.headers) == (403, False)


def test_body_that_is_not_sent_may_be_called_anything_usual(
    client: ViewerClient, people: People, studio: Session
) -> None:
    """As HTTP libraries do by themselves with a POST of nothing."""
    way = f"/api/v1/sessions/{studio.id}/entries"
    nothing = {**people.wanda.headers, "Content-Type": "application/octet-stream"}
    assert client.post(way, headers=nothing).status_code == 201
    assert client.post(way, headers=nothing, data=b"{}").status_code == 415


def test_ticket_is_no_entry_and_an_entry_no_ticket(
    client: ViewerClient, people: People, studio: Session, inside: Headers
) -> None:
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    assert (
        ask_content(client, content_host(studio), {"Cookie": f"{ENTRY_COOKIE}={ticket}"}).status_code == 401
    )
    cookie = inside["Cookie"].partition("=")[2]
    assert enter(client, content_host(studio), cookie).status_code == 403


def test_ticket_is_over_after_a_minute(
    client: ViewerClient, people: People, studio: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    monkeypatch.setattr(viewer.entries, "utcnow", lambda: utcnow() + timedelta(seconds=61))
    assert enter(client, content_host(studio), ticket).status_code == 403


def test_ticket_of_one_place_opens_no_other_and_stays_good_at_its_own(
    client: ViewerClient, store: Store, people: People, studio: Session
) -> None:
    other = kasmvnc_desktop(store, people.alice, name="annex")
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    for host in (content_host(other), CODE):
        assert enter(client, host, ticket).status_code == 403
    assert enter(client, content_host(studio), ticket).status_code == 303


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/", "/"),
        ("/?resize=scale#x", "/?resize=scale#x"),
        ("/a//b", "/a//b"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\b", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("/\u2215evil.example", "/"),
        ("/.deskfleet/enter", "/"),
        ("", "/"),
    ],
)
def test_the_way_on_never_leads_off_the_origin(
    client: ViewerClient, people: People, studio: Session, wanted: str, location: str
) -> None:
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    assert enter(client, content_host(studio), ticket, next=wanted).headers["Location"] == location


def test_door_takes_forms_only_and_says_what_is_wrong(client: ViewerClient, studio: Session) -> None:
    headers = at(content_host(studio))
    assert client.post("/.deskfleet/enter", json={"ticket": "x"}, headers=headers).status_code == 415
    for fields in ({}, {"ticket": "x" * 201}, {"ticket": "x", "nxt": "/"}):
        assert (
            client.post("/.deskfleet/enter", data=fields, content_type=FORM, headers=headers).status_code
            == 422
        )
    assert client.get("/.deskfleet/enter", headers=headers).status_code == 405


def test_person_with_a_used_ticket_gets_a_page_that_fits_in_the_viewers_frame(
    client: ViewerClient, studio: Session
) -> None:
    headers = {**at(content_host(studio)), **NAVIGATION, "Sec-Fetch-Dest": "iframe"}
    answer = client.post("/.deskfleet/enter", data={"ticket": "used"}, headers=headers)
    assert (answer.status_code, answer.mimetype) == (403, "text/html")
    page, policy = answer.get_data(as_text=True), answer.headers["Content-Security-Policy"]
    assert f"frame-ancestors {ORIGIN} " in policy
    assert f'href="{ORIGIN}/open/{studio.id}"' in page
    assert "/static/" not in page


def test_wrong_tickets_are_limited_at_their_place_and_keep_nobody_from_signing_in(
    client: ViewerClient, people: People, studio: Session
) -> None:
    host = content_host(studio)
    assert [enter(client, host, "wrong").status_code for _ in range(11)] == [403] * 10 + [429]
    assert int(enter(client, host, "wrong").headers["Retry-After"]) > 0
    assert enter(client, CODE, ticket_for(client, people.alice, "services/code")).status_code == 303
    assert (
        client.post("/signin", json={"key": people.alice.key}, headers={"Origin": ORIGIN}).status_code == 204
    )


def test_entering_again_ends_the_former_entry(
    client: ViewerClient, people: People, studio: Session, inside: Headers
) -> None:
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    client.post("/.deskfleet/enter", data={"ticket": ticket}, headers={**at(content_host(studio)), **inside})
    assert ask_content(client, content_host(studio), inside).status_code == 401


def test_database_holds_neither_ticket_nor_entry(
    client: ViewerClient, settings: Settings, people: People, studio: Session, inside: Headers
) -> None:
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}")
    raw = all_that_is_in(settings.database)
    for secret in (ticket, inside["Cookie"].partition("=")[2]):
        assert secret.encode() not in raw
        assert hash_of(secret).encode() in raw


# ---- a session's own page ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "may_control"), [("wanda", False), ("alice", True), ("ada", True)])
def test_entry_opens_its_session_with_its_makers_role(
    client: ViewerClient,
    settings: Settings,
    people: People,
    studio: Session,
    name: str,
    may_control: bool,
) -> None:
    person: Person = getattr(people, name)
    host = content_host(studio)
    answer = ask_content(
        client, host, entry(client, host, ticket_for(client, person, f"sessions/{studio.id}"))
    )
    assert (answer.status_code, answer.headers["X-Df-Upstream"]) == (200, "here")
    grant = grant_in(answer, settings)
    assert (grant.session_id, grant.tenant_id, grant.target) == (
        studio.id,
        "acme",
        DesktopSocket(name="studio"),
    )
    assert (grant.may_control, grant.vnc_password) == (may_control, None)


def grant_in(answer: Any, settings: Settings) -> Grant:
    sealed = answer.headers["X-Df-Grant"]
    return open_grant(sealed, settings.hosts[0].relay_key(), purpose="content", now=utcnow())


def test_nothing_but_the_entry_opens_a_page(
    client: ViewerClient, store: Store, people: People, studio: Session
) -> None:
    host = content_host(studio)
    forged = {"X-Df-Upstream": "here", "X-Df-Grant": "x", "X_Df_Grant": "x"}
    for shown in (
        {},
        people.ada.headers,
        sign_in(store, people.ada),
        {"Cookie": f"{ENTRY_COOKIE}=x"},
        forged,
    ):
        answer = ask_content(client, host, shown)
        assert answer.status_code == 401
        assert not [name for name, _ in answer.headers if name.lower().startswith("x-df")]


def test_entry_of_a_sibling_or_of_another_tenant_opens_nothing(
    client: ViewerClient, store: Store, people: People, studio: Session, inside: Headers
) -> None:
    sibling = kasmvnc_desktop(store, people.alice, name="annex")
    foreign = kasmvnc_desktop(store, people.bob, name="bolts")
    for session in (sibling, foreign):
        assert ask_content(client, content_host(session), inside).status_code == 401
    assert ask_service(client, CODE, inside).status_code == 401
    host = content_host(foreign)
    theirs = entry(client, host, ticket_for(client, people.bob, f"sessions/{foreign.id}"))
    assert ask_content(client, host, theirs).status_code == 200
    assert ask_content(client, content_host(studio), theirs).status_code == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://{own}", 200),
        (None, 403),
        ("null", 403),
        (ORIGIN, 403),
        ("https://{own}", 403),
        ("http://{own}.", 403),
        ("HTTP://{own}", 403),
        ("http://{sibling}", 403),
        ("http://{own}.evil.example", 403),
        ("http://evil.example", 403),
        ("http://content.deskfleet.localhost:8088", 403),
    ],
)
def test_websocket_opens_only_from_the_very_origin(
    client: ViewerClient, studio: Session, inside: Headers, origin: str | None, status: int
) -> None:
    headers = {"Sec-WebSocket-Key": "x", "Sec-Fetch-Site": "same-origin"}
    if origin is not None:
        own = content_host(studio)
        sibling = own.replace(studio.id, UNKNOWN_ID)
        headers["Origin"] = origin.format(own=own, sibling=sibling)
    answer = ask_content(client, content_host(studio), inside, **headers)
    assert answer.status_code == status


def test_extended_connect_opens_nothing(client: ViewerClient, studio: Session, inside: Headers) -> None:
    headers = {**at(content_host(studio)), **inside, "X-Forwarded-Method": "CONNECT", "Origin": ORIGIN}
    assert client.get("/authz/content", headers=headers).status_code == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "object"}, 403),
        ({"Service-Worker": "script", "Sec-Fetch-Site": "same-origin"}, 403),
    ],
)
def test_other_pages_may_show_a_page_but_read_nothing_of_it(
    client: ViewerClient, studio: Session, inside: Headers, headers: Headers, status: int
) -> None:
    assert ask_content(client, content_host(studio), inside, **headers).status_code == status


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_page_is_only_read(client: ViewerClient, studio: Session, inside: Headers, method: str) -> None:
    answer = ask_content(client, content_host(studio), inside, **{"X-Forwarded-Method": method})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("end", ["session", "sign-out", "key", "time", "retired"])
def test_entry_ends_with_whatever_it_rests_on(
    client: ViewerClient,
    store: Store,
    people: People,
    studio: Session,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    host, signed_in = content_host(studio), sign_in(store, people.alice)
    ticket = ticket_for(client, people.alice, f"sessions/{studio.id}", {**signed_in, "Origin": ORIGIN})
    cookie = entry(client, host, ticket)
    assert ask_content(client, host, cookie).status_code == 200
    if end == "session":
        store.fleet.transition(studio.id, Status.TERMINATED)
    elif end == "sign-out":
        assert client.post("/signout", headers={**signed_in, "Origin": ORIGIN}).status_code == 303
    elif end == "key":
        store.accounts.revoke_key(people.alice.key.split("_")[1])
    elif end == "time":
        monkeypatch.setattr(viewer.entries, "utcnow", lambda: utcnow() + timedelta(hours=12, seconds=1))
    else:
        store.fleet.retire_desktops("here", [])
    answer = ask_content(client, host, cookie, **{**NAVIGATION, "Sec-Fetch-Dest": "iframe"})
    assert (answer.status_code, answer.mimetype) == (401, "text/html")
    assert f"frame-ancestors {ORIGIN} " in answer.headers["Content-Security-Policy"]


def test_entry_made_by_a_key_ends_with_the_key_and_shrinks_with_its_role(
    client: ViewerClient, store: Store, settings: Settings, people: People, studio: Session
) -> None:
    host = content_host(studio)
    cookie = entry(client, host, ticket_for(client, people.alice, f"sessions/{studio.id}"))
    assert grant_in(ask_content(client, host, cookie), settings).may_control
    declare(store, people.alice, Role.WATCHER)
    assert not grant_in(ask_content(client, host, cookie), settings).may_control
    store.accounts.revoke_key(people.alice.key.split("_")[1])
    assert ask_content(client, host, cookie).status_code == 401


def test_entry_ends_when_its_makers_key_goes_to_another_tenant(
    client: ViewerClient, store: Store, people: People, studio: Session
) -> None:
    host = content_host(studio)
    cookie = entry(client, host, ticket_for(client, people.alice, f"sessions/{studio.id}"))
    declare(store, dataclasses.replace(people.alice, tenant="bolt"), Role.OPERATOR)
    assert store.accounts.principal_of_key(people.alice.key) is not None
    assert store.entries.entry(cookie["Cookie"].partition("=")[2], f"http://{host}") is None
    assert ask_content(client, host, cookie).status_code == 401


def test_entry_is_good_at_the_origin_of_its_ticket_alone(
    store: Store, studio: Session, inside: Headers
) -> None:
    cookie = inside["Cookie"].partition("=")[2]
    assert store.entries.entry(cookie, f"http://{content_host(studio)}") is not None
    assert store.entries.entry(cookie, f"https://{content_host(studio)}") is None


def test_entry_never_grows_with_its_makers_role(
    client: ViewerClient, store: Store, settings: Settings, people: People, studio: Session
) -> None:
    host = content_host(studio)
    cookie = entry(client, host, ticket_for(client, people.wanda, f"sessions/{studio.id}"))
    declare(store, people.wanda, Role.ADMIN)
    assert not grant_in(ask_content(client, host, cookie), settings).may_control


# ---- which name was asked ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("deskfleet.localhost:8088", "viewer"),
        ("DeskFleet.localhost:8088", "viewer"),
        ("somewhere.else:8088", "viewer"),
        ("127.0.0.1:8060", "viewer"),
        ("{id}.content.deskfleet.localhost:8088", "content"),
        ("{ID}.Content.Deskfleet.LOCALHOST:8088", "content"),
        ("{id}.content.deskfleet.localhost", "nowhere"),
        ("{id}.content.deskfleet.localhost:80", "nowhere"),
        ("{id}.content.deskfleet.localhost.:8088", "nowhere"),
        ("{id}.content.deskfleet.localhost..:8088", "nowhere"),
        ("x.{id}.content.deskfleet.localhost:8088", "nowhere"),
        ("{id}x.content.deskfleet.localhost:8088", "nowhere"),
        ("xn--{id}.content.deskfleet.localhost:8088", "nowhere"),
        ("\u0430.content.deskfleet.localhost:8088", "nowhere"),
        ("content.deskfleet.localhost:8088", "nowhere"),
        (".content.deskfleet.localhost:8088", "nowhere"),
        ("{id}.content.deskfleet.localhost:8088:8088", "nowhere"),
        ("user@{id}.content.deskfleet.localhost:8088", "nowhere"),
        ("{id}.xcontent.deskfleet.localhost:8088", "viewer"),
        ("code.deskfleet.localhost:8088", "service"),
        ("CODE.deskfleet.localhost:8088", "service"),
        ("code.deskfleet.localhost", "nowhere"),
        ("code.deskfleet.localhost.:8088", "nowhere"),
        ("opensandbox.deskfleet.localhost:8088", "opensandbox"),
        ("opensandbox.deskfleet.localhost.:8088", "nowhere"),
    ],
)
def test_name_is_the_very_name_or_leads_nowhere(settings: Settings, host: str, kind: str) -> None:
    asked = host.format(id=UNKNOWN_ID, ID=UNKNOWN_ID.upper())
    place = place_of("http", asked, settings)
    assert place.kind == kind
    if kind == "content":
        assert (place.name, place.origin) == (
            UNKNOWN_ID,
            f"http://{UNKNOWN_ID}.content.deskfleet.localhost:8088",
        )


def test_another_scheme_is_another_place(settings: Settings) -> None:
    for host in (CODE, f"{UNKNOWN_ID}.content.deskfleet.localhost:8088", SANDBOX_API):
        assert place_of("https", host, settings).kind is PlaceKind.NOWHERE


def test_content_domain_may_be_a_domain_of_its_own(settings: Settings) -> None:
    own = settings.model_copy(update={"content_domain": "usercontent.example"})
    place = place_of("http", f"{UNKNOWN_ID}.usercontent.example:8088", own)
    assert (place.kind, place.name) == (PlaceKind.CONTENT, UNKNOWN_ID)
    host = f"{UNKNOWN_ID}.content.deskfleet.localhost:8088"
    assert place_of("http", host, own).kind is PlaceKind.VIEWER


# ---- services ---------------------------------------------------------------------------------------


def test_service_lets_in_its_tenants_people_of_its_role(client: ViewerClient, people: People) -> None:
    cookie = entry(client, CODE, ticket_for(client, people.alice, "services/code"))
    assert ask_service(client, CODE, cookie).status_code == 200
    for person, status in ((people.alice, 200), (people.ada, 200), (people.wanda, 403), (people.bob, 404)):
        assert ask_service(client, CODE, person.headers).status_code == status
    for person in (people.wanda, people.bob):
        assert ask_service(client, WIKI, person.headers).status_code == 200


def test_browser_without_an_entry_is_sent_to_the_viewers_page_and_back(client: ViewerClient) -> None:
    answer = ask_service(client, CODE, {}, **NAVIGATION)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{ORIGIN}/services/code")
    answer = ask_service(client, CODE, {}, Accept="text/html", X_Forwarded_Uri="/a?b=//evil.example#")
    assert answer.headers["Location"] == f"{ORIGIN}/services/code?next=/a%3Fb%3D//evil.example%23"


def test_program_and_script_without_a_right_get_a_problem(
    client: ViewerClient, store: Store, people: People
) -> None:
    for shown in (
        {},
        sign_in(store, people.alice),
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic eDp5"},
    ):
        answer = ask_service(client, CODE, shown, Sec_Fetch_Mode="cors")
        assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
    assert ask_service(client, CODE, {"Authorization": "Bearer x"}, **NAVIGATION).status_code == 401


def test_entry_of_one_service_opens_no_other(client: ViewerClient, people: People) -> None:
    cookie = entry(client, WIKI, ticket_for(client, people.alice, "services/wiki"))
    assert ask_service(client, WIKI, cookie).status_code == 200
    assert ask_service(client, CODE, cookie).status_code == 401


def test_service_whose_name_is_not_the_edges_is_not_there(client: ViewerClient, people: People) -> None:
    assert ask_service(client, CODE, people.alice.headers, X_Df_Service="wiki").status_code == 404


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ("GET", {**NAVIGATION, "Sec-Fetch-Site": "cross-site"}, 200),
        ("GET", {**NAVIGATION, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("POST", {"Origin": f"http://{CODE}"}, 200),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("POST", {}, 403),
        ("POST", {"Origin": ORIGIN}, 403),
        ("POST", {"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 403),
        ("POST", {"Origin": f"http://{UNKNOWN_ID}.content.deskfleet.localhost:8088"}, 403),
        ("GET", {"Sec-WebSocket-Key": "x", "Origin": f"http://{CODE}"}, 200),
        ("GET", {"Sec-WebSocket-Key": "x", "Origin": f"http://{WIKI}"}, 403),
        ("GET", {"Sec-WebSocket-Key": "x"}, 403),
    ],
)
def test_foreign_pages_can_neither_use_nor_frame_a_service(
    client: ViewerClient, people: People, method: str, headers: Headers, status: int
) -> None:
    cookie = entry(client, CODE, ticket_for(client, people.alice, "services/code"))
    assert ask_service(client, CODE, cookie, X_Forwarded_Method=method, **headers).status_code == status


def test_service_is_closed_to_a_smaller_role_and_after_signing_out(
    client: ViewerClient, store: Store, people: People
) -> None:
    by_key = entry(client, CODE, ticket_for(client, people.alice, "services/code"))
    signed_in = {**sign_in(store, people.alice), "Origin": ORIGIN}
    by_cookie = entry(client, CODE, ticket_for(client, people.alice, "services/code", signed_in))
    client.post("/signout", headers=signed_in)
    assert ask_service(client, CODE, by_cookie).status_code == 401
    assert ask_service(client, CODE, by_key).status_code == 200
    declare(store, people.alice, Role.WATCHER)
    assert ask_service(client, CODE, by_key).status_code == 403


def test_pages_name_the_services_that_one_may_enter(
    client: ViewerClient, store: Store, people: People
) -> None:
    for person, names in ((people.alice, ["code", "wiki"]), (people.wanda, ["wiki"]), (people.bob, ["wiki"])):
        page = client.get("/sandboxes", headers=sign_in(store, person)).get_data(as_text=True)
        assert re.findall(r'href="/services/([^"]+)"', page) == names


def test_policy_of_pages_names_exactly_the_origins_beside_the_viewer(
    client: ViewerClient, store: Store, people: People
) -> None:
    answer = client.get("/sandboxes", headers=sign_in(store, people.alice))
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    content = "http://*.content.deskfleet.localhost:8088"
    assert policy["frame-src"] == f"'self' {content}"
    assert policy["form-action"] == f"'self' {content} http://{CODE} http://{WIKI}"


# ---- the sandbox API's name -------------------------------------------------------------------------


def test_sandbox_apis_own_name_knows_keys_and_answers_nothing_of_the_viewers(
    client: ViewerClient, store: Store, people: People
) -> None:
    key = "OPEN-SANDBOX-API-KEY"
    for shown, found, missing in (
        ({}, 401, 401),
        ({key: people.bob.key}, 200, 404),
        (people.alice.headers, 200, 404),
        ({key: people.wanda.key}, 200, 404),
        ({key: "x", **people.wanda.headers}, 401, 401),
        (sign_in(store, people.alice), 401, 401),
    ):
        for path, status in (("/v1/sandboxes", found), ("/", missing), ("/api/v1/me", missing)):
            answer = client.get(path, headers={**at(SANDBOX_API), **shown})
            assert (answer.status_code, answer.mimetype) == (status, "application/json")
            assert status == 200 or set(answer.json) == {"code", "message"}
