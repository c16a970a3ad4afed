"""Tickets: who may make which, what they open, and what ends them."""

from __future__ import annotations

import json
import threading
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import event

import viewer.ticket_store
from tests.viewer_fixtures import (
    ORIGIN,
    OTHER_ORIGIN,
    UNKNOWN_ID,
    People,
    Person,
    ViewerClient,
    kasmvnc_desktop,
    new_session,
    running_session,
    sign_in,
)
from viewer.access import guests_of
from viewer.accounts import DeclaredKey
from viewer.credentials import hash_of, key_id_of
from viewer.grants import Grant, open_grant
from viewer.model import Role, Scope, Session, Status, utcnow
from viewer.people import NewPerson
from viewer.settings import Settings
from viewer.store import Store
from viewer.tickets import TicketRole, claims_in, shown_as_subprotocol, text_of

DASHBOARD = "https://dashboard.example"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    acme, bolt = settings.tenants
    listed = acme.model_copy(update={"embed_origins": (DASHBOARD,)})
    others = bolt.model_copy(update={"embed_origins": ("https://bolt.example",)})
    return settings.model_copy(update={"tenants": (listed, others)})


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


def make(client: ViewerClient, person: Person, session: Session, **asked: object) -> Any:
    return client.post(f"/api/v1/sessions/{session.id}/tickets", json=asked, headers=person.headers)


def bearer(ticket: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {ticket}"}


def asks_for(session: Session, **headers: str) -> dict[str, str]:
    return {
        "X-Forwarded-Uri": f"/stream/{session.id}",
        "X-Forwarded-Method": "GET",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }


def opened(client: ViewerClient, session: Session, ticket: str) -> Any:
    return client.get("/authz/stream", headers={**bearer(ticket), **asks_for(session)})


def from_a_page(client: ViewerClient, session: Session, ticket: str, origin: str | None = DASHBOARD) -> Any:
    shown = asks_for(session, Sec_WebSocket_Protocol=f"binary, ticket.{ticket}")
    return client.get("/authz/stream", headers={**shown, **({"Origin": origin} if origin else {})})


def grant_in(answer: Any, settings: Settings) -> Grant:
    sealed = answer.headers["X-Df-Grant"]
    return open_grant(sealed, settings.hosts[0].relay_key(), purpose="stream", now=utcnow())


# --- making ---------------------------------------------------------------------------------------------


def test_a_ticket_says_where_until_when_and_by_what_it_is_revoked(
    client: ViewerClient, people: People, session: Session
) -> None:
    answer = make(client, people.alice, session)
    assert answer.status_code == 201
    made = answer.json
    assert made["stream_url"] == f"ws://deskfleet.localhost:8088/stream/{session.id}"
    assert (made["role"], made["single_use"]) == ("watch", True)
    seconds = (datetime.fromisoformat(made["expires_at"]) - utcnow()).total_seconds()
    assert 45 < seconds <= 60
    at_the_other = client.post(
        f"/api/v1/sessions/{session.id}/tickets", headers=people.alice.headers, base_url=OTHER_ORIGIN
    )
    assert at_the_other.json["stream_url"].startswith("ws://localhost:8088/stream/")


def test_control_is_an_operators_to_give(client: ViewerClient, people: People, session: Session) -> None:
    refused = make(client, people.wanda, session, role="control")
    assert (refused.status_code, refused.json["type"]) == (403, "urn:deskfleet:problem:role-too-small")
    assert make(client, people.wanda, session, role="watch").status_code == 201
    assert make(client, people.alice, session, role="control").status_code == 201


@pytest.mark.parametrize(
    "asked",
    [
        {"ttl_seconds": 4},
        {"ttl_seconds": 3601},
        {"ttl_seconds": "60"},
        {"role": "admin"},
        {"single_use": "yes"},
        {"session_id": UNKNOWN_ID},
    ],
)
def test_a_wrong_wish_is_refused_by_its_field(
    client: ViewerClient, people: People, session: Session, asked: dict[str, object]
) -> None:
    answer = make(client, people.alice, session, **asked)
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == next(iter(asked))


def test_what_streams_nothing_has_no_tickets(client: ViewerClient, store: Store, people: People) -> None:
    ended = new_session(store, people.alice)
    store.fleet.transition(ended.id, Status.TERMINATED)
    assert make(client, people.alice, ended).status_code == 409
    assert make(client, people.alice, kasmvnc_desktop(store, people.alice)).status_code == 409


# --- opening --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "may_control"), [("watch", False), ("control", True)])
def test_a_ticket_opens_its_stream_in_its_role_and_in_its_makers_name(
    client: ViewerClient, people: People, settings: Settings, session: Session, role: str, may_control: bool
) -> None:
    made = make(client, people.ada, session, role=role).json
    grant = grant_in(opened(client, session, made["ticket"]), settings)
    assert grant.may_control is may_control
    assert grant.principal == f"key:{key_id_of(people.ada.key)}"
    assert (grant.ticket_id, grant.session_id, grant.tenant_id) == (made["id"], session.id, "acme")


def test_one_for_a_single_use_opens_once_and_another_one_as_often_as_wanted(
    client: ViewerClient, people: People, session: Session
) -> None:
    single = make(client, people.alice, session).json["ticket"]
    assert [opened(client, session, single).status_code for _ in range(3)] == [200, 401, 401]
    several = make(client, people.alice, session, single_use=False).json["ticket"]
    assert [opened(client, session, several).status_code for _ in range(3)] == [200, 200, 200]


def test_of_fifty_at_once_with_one_ticket_one_wins(
    app: Flask, client: ViewerClient, people: People, session: Session
) -> None:
    ticket = make(client, people.alice, session).json["ticket"]
    together = threading.Barrier(50)

    def open_it(_: int) -> int:
        mine = ViewerClient(app, app.response_class, use_cookies=False)
        together.wait()
        return int(opened(mine, session, ticket).status_code)

    with ThreadPoolExecutor(50) as pool:
        got = sorted(pool.map(open_it, range(50)))
    assert got == [200] + [401] * 49


def test_two_stores_on_one_database_let_one_win(settings: Settings, store: Store, people: People) -> None:
    """As two viewer processes are."""
    session = running_session(store, people.alice)
    who = store.accounts.principal_of_key(people.alice.key)
    assert who is not None
    other = Store(settings.database)
    try:
        role = TicketRole.WATCH
        for _ in range(10):
            claims = store.tickets.make(who, session.id, role, life=timedelta(seconds=60), is_single_use=True)
            together = threading.Barrier(2)

            def use(one: Store, claims: Any = claims, together: threading.Barrier = together) -> bool:
                together.wait()
                return one.tickets.use(claims)

            with ThreadPoolExecutor(2) as pool:
                assert sorted(pool.map(use, (store, other))) == [False, True]
    finally:
        other.close()


def test_what_cannot_be_opened_uses_no_ticket_up(client: ViewerClient, store: Store, people: People) -> None:
    session = new_session(store, people.alice)
    ticket = make(client, people.alice, session).json["ticket"]
    assert opened(client, session, ticket).status_code == 404
    store.fleet.transition(session.id, Status.RUNNING, host="here", sandbox_id="box-9", vnc_port=40009)
    assert opened(client, session, ticket).status_code == 200


def test_a_ticket_is_for_one_session(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    other = running_session(store, people.alice, sandbox_id="box-2")
    ticket = make(client, people.alice, session, single_use=False).json["ticket"]
    assert opened(client, other, ticket).status_code == 404
    for path in ("", "/events"):
        there = client.get(f"/api/v1/sessions/{other.id}{path}", headers=bearer(ticket))
        nowhere = client.get(f"/api/v1/sessions/{UNKNOWN_ID}{path}", headers=bearer(ticket))
        assert (there.status_code, there.get_data()) == (404, nowhere.get_data())


def test_a_ticket_opens_nothing_else(
    app: Flask, client: ViewerClient, people: People, session: Session
) -> None:
    """On all other routes of the API it is as good as nothing."""
    app.extensions["deskfleet"].wrong_keys = viewer.services.FailureLimit(10_000)
    ticket = make(client, people.ada, session, role="control", single_use=False).json["ticket"]
    opens = set()
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith(("/api/", "/v1/", "/authz/port")) or rule.endpoint == "api.openapi":
            continue
        values = {name: session.id if name == "session_id" else "x" for name in rule.arguments}
        path = rule.rule
        for name, value in values.items():
            path = path.replace(f"<{name}>", value).replace(f"<path:{name}>", value)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            with (
                client.open(path, method=method) as without,
                client.open(path, method=method, headers=bearer(ticket)) as answer,
            ):
                if answer.status_code != without.status_code:
                    opens.add(f"{method} {rule.rule} {answer.status_code}")
    assert opens == {
        "GET /api/v1/sessions/<session_id> 200",
        "GET /api/v1/sessions/<session_id>/events 200",
        "GET /api/v1/sessions/<session_id>/lease 200",
        # Past the door: the host of the session has no relay here.
        "GET /api/v1/sessions/<session_id>/screenshot 502",
    }
    assert {
        rule.rule for rule in app.url_map.iter_rules() if guests_of(app.view_functions[rule.endpoint])
    } >= {
        "/api/v1/sessions/<session_id>",
        "/api/v1/sessions/<session_id>/events",
    }


# --- what ends it ---------------------------------------------------------------------------------------


def reads(client: ViewerClient, session: Session, ticket: str) -> int:
    return int(client.get(f"/api/v1/sessions/{session.id}", headers=bearer(ticket)).status_code)


def test_it_reads_until_it_ends_and_then_nothing(
    client: ViewerClient, people: People, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(client, people.alice, session).json
    ticket, end = made["ticket"], datetime.fromisoformat(made["expires_at"])
    assert opened(client, session, ticket).status_code == 200
    monkeypatch.setattr(viewer.ticket_store, "utcnow", lambda: end - timedelta(seconds=1))
    assert reads(client, session, ticket) == 200
    monkeypatch.setattr(viewer.ticket_store, "utcnow", lambda: end)
    assert reads(client, session, ticket) == 401
    assert opened(client, session, ticket).status_code == 401


def test_a_viewer_whose_clock_is_behind_takes_what_another_one_made(
    client: ViewerClient, people: People, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = make(client, people.alice, session).json["ticket"]
    now = utcnow()
    monkeypatch.setattr(viewer.ticket_store, "utcnow", lambda: now - timedelta(seconds=20))
    assert opened(client, session, ticket).status_code == 200


def test_it_is_dead_when_its_maker_is(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    tickets = {
        "revoked key": make(client, people.alice, session, single_use=False).json["ticket"],
        "lowered": make(client, people.ada, session, single_use=False, role="control").json["ticket"],
        "lowered, but watches": make(client, people.ada, session, single_use=False).json["ticket"],
    }
    cookie = {**sign_in(store, people.wanda), "Origin": ORIGIN}
    by_browser = client.post(
        f"/api/v1/sessions/{session.id}/tickets", json={"single_use": False}, headers=cookie
    )
    tickets["signed out"] = by_browser.json["ticket"]
    mara = store.people("acme").add(NewPerson(login="mara", role=Role.OPERATOR), by="test")
    token = store.accounts.sign_in_person(mara.id, address=None, user_agent=None)
    hers = {"Cookie": f"__Host-deskfleet={token}", "Origin": ORIGIN}
    tickets["disabled"] = client.post(
        f"/api/v1/sessions/{session.id}/tickets", json={"single_use": False}, headers=hers
    ).json["ticket"]
    assert {name: reads(client, session, one) for name, one in tickets.items()} == dict.fromkeys(tickets, 200)

    store.accounts.revoke_key(key_id_of(people.alice.key) or "")
    ada = DeclaredKey(
        id=key_id_of(people.ada.key) or "",
        tenant="acme",
        role=Role.WATCHER,
        sha256=hash_of(people.ada.key),
        label="",
    )
    wanda = ada.model_copy(update={"id": key_id_of(people.wanda.key), "sha256": hash_of(people.wanda.key)})
    store.accounts.sync_declared(["acme", "bolt"], [ada, wanda])
    client.post("/signout", headers=cookie)
    store.people("acme").change(mara.id, {"disabled": True})
    expected = {**dict.fromkeys(tickets, 401), "lowered, but watches": 200}
    assert {name: reads(client, session, one) for name, one in tickets.items()} == expected
    assert {name: opened(client, session, one).status_code for name, one in tickets.items()} == expected


def test_a_key_without_the_scope_makes_none_and_one_that_loses_it_kills_its_own(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    key = store.accounts.add_key("acme", Role.OPERATOR, scopes=[Scope.SESSIONS])
    assert make(client, Person("acme", key.text), session).status_code == 403
    streams = store.accounts.add_key("acme", Role.OPERATOR, scopes=[Scope.STREAMS])
    ticket = make(client, Person("acme", streams.text), session, single_use=False).json["ticket"]
    assert reads(client, session, ticket) == 200


def test_revoking_is_its_makers_or_an_operators(
    client: ViewerClient, people: People, session: Session
) -> None:
    hers, his = (make(client, who, session, single_use=False).json for who in (people.wanda, people.alice))

    def revoke(who: Person, made: dict[str, str], of: str = session.id) -> int:
        path = f"/api/v1/sessions/{of}/tickets/{made['id']}"
        return int(client.delete(path, headers=who.headers).status_code)

    assert revoke(people.wanda, his) == 404
    assert revoke(people.bob, his) == 404
    assert revoke(people.alice, his, of=UNKNOWN_ID) == 404
    assert reads(client, session, his["ticket"]) == 200
    assert [revoke(people.wanda, hers), revoke(people.alice, hers), revoke(people.alice, his)] == [204] * 3
    assert reads(client, session, his["ticket"]) == reads(client, session, hers["ticket"]) == 401
    assert opened(client, session, his["ticket"]).status_code == 401


# --- forgery --------------------------------------------------------------------------------------------


@pytest.fixture
def statements(store: Store) -> Iterator[list[str]]:
    """What the database is asked."""
    asked: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(store._database.engine, "before_cursor_execute", note)
    yield asked
    event.remove(store._database.engine, "before_cursor_execute", note)


def changed(ticket: str, **claims: object) -> str:
    """The same signature over other claims."""
    body, _, signature = ticket.removeprefix("dft_").rpartition(".")
    is_packed, body = body.startswith("."), body.removeprefix(".")
    plain = urlsafe_b64decode(body + "=" * (-len(body) % 4))
    said = json.loads(zlib.decompress(plain) if is_packed else plain)
    forged = urlsafe_b64encode(json.dumps({**said, **claims}).encode()).decode().rstrip("=")
    return f"dft_{forged}.{signature}"


def test_a_forged_ticket_is_refused_before_the_database_is_asked(
    client: ViewerClient,
    people: People,
    settings: Settings,
    session: Session,
    statements: list[str],
) -> None:
    ticket = make(client, people.alice, session, single_use=False).json["ticket"]
    claims = claims_in(ticket, settings.secret_key)
    assert claims is not None
    under_another_key = text_of(claims, Fernet.generate_key())
    forged = [
        under_another_key,
        # Not the last one: some of its bits are no part of the signature.
        ticket[:-2] + ("A" if ticket[-2] != "A" else "B") + ticket[-1],
        ticket + "A",
        ticket[:-4],
        "dft_",
        "dft_." + ticket.removeprefix("dft_"),
        "dft_" + "A" * 3000,
        changed(ticket, role="control"),
        changed(ticket, ends=claims.ends + 3600),
    ]
    statements.clear()
    for text in forged:
        assert opened(client, session, text).status_code == 401, text
        assert reads(client, session, text) == 401, text
        assert from_a_page(client, session, text).status_code == 401, text
    assert statements == []
    assert opened(client, session, ticket).status_code == 200


# --- from pages of others -------------------------------------------------------------------------------


def test_a_listed_page_opens_by_a_short_single_ticket_as_a_subprotocol(
    client: ViewerClient, people: People, settings: Settings, session: Session
) -> None:
    ticket = make(client, people.alice, session, ttl_seconds=30).json["ticket"]
    strangers = (
        None,
        "null",
        ORIGIN,
        "https://evil.example",
        f"{DASHBOARD}.evil.example",
        DASHBOARD.upper(),
        f"{DASHBOARD}:443",
        "https://bolt.example",
    )
    for origin in strangers:
        assert from_a_page(client, session, ticket, origin).status_code == 403, origin
    answer = from_a_page(client, session, ticket)
    assert answer.status_code == 200
    assert grant_in(answer, settings).may_control is False
    assert from_a_page(client, session, ticket).status_code == 401


@pytest.mark.parametrize("asked", [{"ttl_seconds": 31}, {"ttl_seconds": 30, "single_use": False}])
def test_a_wider_ticket_is_no_subprotocol_and_the_refusal_names_the_rule(
    client: ViewerClient, people: People, session: Session, asked: dict[str, object]
) -> None:
    ticket = make(client, people.alice, session, **asked).json["ticket"]
    refused = from_a_page(client, session, ticket)
    assert refused.status_code == 403
    assert "single use" in refused.json["detail"]
    assert "30 seconds" in refused.json["detail"]
    assert opened(client, session, ticket).status_code == 200


def test_a_ticket_as_a_subprotocol_counts_and_not_the_cookie_beside_it(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    shown = asks_for(session, Sec_WebSocket_Protocol="binary, ticket.dft_wrong", Origin=ORIGIN)
    answer = client.get("/authz/stream", headers={**sign_in(store, people.alice), **shown})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("offered", "ticket"),
    [("binary, ticket.dft_a.b", "dft_a.b"), ("ticket.x,binary", "x"), ("binary", None), ("", None)],
)
def test_the_ticket_among_subprotocols(offered: str, ticket: str | None) -> None:
    assert shown_as_subprotocol(offered) == ticket


ALLOWED = "Access-Control-Allow-Origin"


def test_listed_pages_read_what_a_ticket_opens_and_nobody_elses_do(
    client: ViewerClient, people: People, session: Session
) -> None:
    ticket = make(client, people.alice, session, single_use=False).json["ticket"]

    def allowed(origin: str, shown: dict[str, str], path: str = f"/api/v1/sessions/{session.id}") -> Any:
        answer = client.get(path, headers={**shown, "Origin": origin})
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "Origin" in answer.headers.getlist("Vary")
        return answer.headers.get(ALLOWED)

    assert allowed(DASHBOARD, bearer(ticket)) == DASHBOARD
    assert allowed(DASHBOARD, people.alice.headers) == DASHBOARD
    for origin in ("https://evil.example", "https://bolt.example", "null", "*"):
        assert allowed(origin, bearer(ticket)) is None
    # That its ticket is over, a page may know.
    assert allowed(DASHBOARD, bearer("dft_wrong")) == DASHBOARD
    assert allowed("https://evil.example", bearer("dft_wrong")) is None
    # Elsewhere no page of another site reads anything.
    elsewhere = client.get("/api/v1/sessions", headers={**people.alice.headers, "Origin": DASHBOARD})
    assert ALLOWED not in elsewhere.headers


def test_a_browser_is_told_that_it_may_send_a_ticket(client: ViewerClient, session: Session) -> None:
    def asks(origin: str, method: str = "GET", path: str = "/events") -> Any:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization",
        }
        return client.options(f"/api/v1/sessions/{session.id}{path}", headers=headers)

    for path in ("", "/events"):
        answer = asks(DASHBOARD, path=path)
        assert (answer.status_code, answer.headers[ALLOWED]) == (204, DASHBOARD)
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        assert answer.headers["Vary"] == "Origin"
    for refused in (
        asks("https://evil.example"),
        asks(DASHBOARD, "DELETE"),
        asks(DASHBOARD, path="/history"),
    ):
        assert refused.status_code == 401
        assert "Access-Control-Allow-Methods" not in refused.headers


# --- events of one session ------------------------------------------------------------------------------


def test_events_of_one_session_are_that_sessions_alone(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    other = running_session(store, people.alice, sandbox_id="box-2")
    ticket = make(client, people.alice, session).json["ticket"]
    for shown in (bearer(ticket), people.wanda.headers):
        with client.get(f"/api/v1/sessions/{session.id}/events", headers=shown) as answer:
            frames = iter(answer.response)
            assert b"event: ready" in next(frames)
            store.tenant("acme").set_labels(other.id, {"n": utcnow().strftime("%f")})
            store.tenant("acme").set_labels(session.id, {"n": utcnow().strftime("%f")})
            text = next(frames)
            assert b"event: session" in text
            assert session.id.encode() in text
            assert other.id.encode() not in text


def test_what_is_done_with_tickets_is_in_the_audit_log_and_no_ticket_is(
    client: ViewerClient, people: People, session: Session
) -> None:
    made = make(client, people.alice, session, role="control").json
    opened(client, session, made["ticket"])
    client.delete(f"/api/v1/sessions/{session.id}/tickets/{made['id']}", headers=people.alice.headers)
    answer = client.get("/api/v1/audit", headers=people.ada.headers)
    mine = [entry for entry in answer.json["items"] if (entry["detail"] or {}).get("ticket") == made["id"]]
    assert [entry["action"] for entry in mine] == ["ticket.revoke", "session.control", "ticket.create"]
    assert made["ticket"] not in answer.get_data(as_text=True)
