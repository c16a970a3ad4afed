"""Share links over HTTP: who makes them, what they open, and everything that they do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from tests.viewer_fixtures import (
    ORIGIN,
    UNKNOWN_ID,
    People,
    ViewerClient,
    kasmvnc_desktop,
    new_session,
    put_relay,
    running_session,
    sign_in,
)
from viewer import share_visits
from viewer.grants import GRANT_HEADER, Grant, open_grant
from viewer.model import Display, Session, Status, utcnow
from viewer.relay.answers import StreamInfo
from viewer.relay_client import RelayUnreachable
from viewer.settings import Settings
from viewer.store import Store

OURS = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def session(store: Store, people: People) -> Session:
    return running_session(store, people.alice)


def make(client: ViewerClient, people: People, session: Session, **wanted: Any) -> Any:
    answer = client.post(f"/api/v1/sessions/{session.id}/shares", json=wanted, headers=people.alice.headers)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    return answer.json


def token_of(made: Mapping[str, str]) -> str:
    return made["url"].partition("#")[2]


def post_token(client: ViewerClient, token: str, cookie: str = "", **headers: str) -> Any:
    sent = {**OURS, **({"Cookie": cookie} if cookie else {}), **headers}
    return client.post("/s", json={"token": token}, headers=sent)


def enter(client: ViewerClient, made: Mapping[str, str], cookie: str = "") -> dict[str, str]:
    """The Cookie header of a browser that came by that link."""
    answer = post_token(client, token_of(made), cookie)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


def ask_for_stream(client: ViewerClient, session_id: str, query: str = "?as=share", **headers: str) -> Any:
    asked = {"X-Forwarded-Method": "GET", "X-Forwarded-Uri": f"/stream/{session_id}{query}", "Origin": ORIGIN}
    return client.get("/authz/stream", headers={**asked, **headers})


def grant_in(answer: Any, settings: Settings) -> Grant:
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return open_grant(
        answer.headers[GRANT_HEADER], settings.hosts[0].relay_key(), purpose="stream", now=utcnow()
    )


# --- making, listing, revoking ----------------------------------------------------------------------


def test_link_has_its_secret_behind_the_hash_and_is_shown_once(
    client: ViewerClient, people: People, session: Session
) -> None:
    made = make(client, people, session, label="for Bo")
    assert made["url"].startswith(f"{ORIGIN}/s#")
    assert len(token_of(made)) == 43
    listed = client.get(f"/api/v1/sessions/{session.id}/shares", headers=people.alice.headers)
    assert token_of(made) not in listed.get_data(as_text=True)
    (item,) = listed.json["items"]
    assert (item["id"], item["label"], item["is_over"], item["visits"]) == (made["id"], "for Bo", False, [])


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"ttl_seconds": 59}, "ttl_seconds"),
        ({"ttl_seconds": 7 * 86400 + 1}, "ttl_seconds"),
        ({"ttl_seconds": "3600"}, "ttl_seconds"),
        ({"single_use": "yes"}, "single_use"),
        ({"label": ""}, "label"),
        ({"label": "a\nb"}, "label"),
        ({"role": "operator"}, "role"),
    ],
)
def test_wrong_field_is_named(
    client: ViewerClient, people: People, session: Session, wanted: dict[str, object], field: str
) -> None:
    answer = client.post(f"/api/v1/sessions/{session.id}/shares", json=wanted, headers=people.alice.headers)
    assert (answer.status_code, [one["field"] for one in answer.json["errors"]]) == (422, [field])


def test_links_to_all_desktops_are_listed_a_page_at_a_time_and_nobody_elses(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    other, foreign = new_session(store, people.alice), new_session(store, people.bob)
    wanted = [
        make(client, people, one, label=f"link {n}")["id"] for n, one in enumerate((session, other) * 2)
    ]
    theirs = client.post(f"/api/v1/sessions/{foreign.id}/shares", json={}, headers=people.bob.headers)
    assert theirs.status_code == 201
    store.shares.revoke(other, wanted[1])
    seen, query = [], "?limit=3"
    while True:
        page = client.get(f"/api/v1/shares{query}", headers=people.alice.headers).json
        seen += page["items"]
        if page["next_cursor"] is None:
            break
        query = f"?limit=3&cursor={page['next_cursor']}"
    assert [one["id"] for one in seen] == wanted[::-1]
    assert [one["session_id"] for one in seen] == [other.id, session.id] * 2
    assert [one["is_over"] for one in seen] == [False, False, True, False]
    wrong = client.get("/api/v1/shares?cursor=x", headers=people.alice.headers)
    assert wrong.status_code == 400


def test_what_shows_nothing_cannot_be_shared(client: ViewerClient, store: Store, people: People) -> None:
    shell = new_session(store, people.alice, image="shell", display=Display.NONE)
    answer = client.post(f"/api/v1/sessions/{shell.id}/shares", json={}, headers=people.alice.headers)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:deskfleet:problem:not-shareable")


def test_visitor_watches_a_desktop_with_a_page_of_its_own(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    desktop = kasmvnc_desktop(store, people.alice)
    made = make(client, people, desktop)
    visitor = enter(client, made)
    way = client.post(f"/api/v1/shared/{desktop.id}/entries", headers={**visitor, **OURS})
    assert way.status_code == 201
    host = f"{desktop.id}.content.deskfleet.localhost:8088"
    there = {"X-Forwarded-Host": host, "X-Forwarded-Proto": "http"}
    posted = client.post("/.deskfleet/enter", data={"ticket": way.json["ticket"]}, headers=there)
    assert posted.status_code == 303
    cookie = {"Cookie": posted.headers["Set-Cookie"].partition(";")[0]}
    asked = {**there, **cookie, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/"}
    answer = client.get("/authz/content", headers=asked)
    assert answer.status_code == 200
    grant = open_grant(
        answer.headers[GRANT_HEADER], settings.hosts[0].relay_key(), purpose="content", now=utcnow()
    )
    assert (grant.may_control, grant.principal[:42]) == (False, f"share:{made['id']}")
    store.shares.revoke(desktop, made["id"])
    assert client.get("/authz/content", headers=asked).status_code == 401
    entries = [one for one in store.audit.entries("acme") if one.action.startswith("entry.")]
    assert {one.principal for one in entries} == {f"share:{made['id']}"}


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_only_our_own_page_gets_a_visitor_a_ticket(
    client: ViewerClient, store: Store, people: People, origin: str | None
) -> None:
    desktop = kasmvnc_desktop(store, people.alice)
    visitor = enter(client, make(client, people, desktop))
    headers = {**visitor, **({"Origin": origin} if origin else {})}
    assert client.post(f"/api/v1/shared/{desktop.id}/entries", headers=headers).status_code == 403


def test_ended_session_cannot_be_shared(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    store.fleet.transition(session.id, Status.TERMINATED)
    answer = client.post(f"/api/v1/sessions/{session.id}/shares", json={}, headers=people.alice.headers)
    assert (answer.status_code, answer.json["type"]) == (410, "urn:deskfleet:problem:share-ended")


class OneRelay:
    """What the relay of the only host says of its streams."""

    def __init__(self, streams: list[StreamInfo] | None) -> None:
        self._streams = streams

    def streams(self) -> list[StreamInfo]:
        if self._streams is None:
            raise RelayUnreachable("silent")
        return self._streams

    def close(self) -> None:
        pass


def stream_of(session: Session, principal: str) -> StreamInfo:
    return StreamInfo(
        stream_id="s", session_id=session.id, tenant_id="acme", principal=principal, may_control=False,
        opened_at=utcnow(), bytes_to_browser=0, bytes_to_desktop=0,
    )  # fmt: skip


def test_list_says_who_came_by_which_link_and_watches_now(
    app: Flask, client: ViewerClient, store: Store, people: People, session: Session, settings: Settings
) -> None:
    made = make(client, people, session)
    grant = grant_in(ask_for_stream(client, session.id, **enter(client, made)), settings)
    enter(client, made)
    for streams, counts in (
        ([stream_of(session, grant.principal), stream_of(session, "key:x")], [1, 0]),
        (None, [None, None]),
    ):
        put_relay(app, OneRelay(streams))
        listed = client.get(f"/api/v1/sessions/{session.id}/shares", headers=people.alice.headers)
        visits = listed.json["items"][0]["visits"]
        assert [visit["streams_open"] for visit in visits] == counts
        assert {visit["address"] for visit in visits} == {"127.0.0.1"}


# --- coming by a link -------------------------------------------------------------------------------


def test_pages_of_a_link_leak_nothing(client: ViewerClient, people: People, session: Session) -> None:
    visitor = enter(client, make(client, people, session))
    answers = [
        client.get("/s"),
        post_token(client, "x" * 43),
        client.get(f"/shared/{session.id}", headers=visitor),
        client.get(f"/shared/{session.id}"),
        client.get(f"/api/v1/shared/{session.id}", headers=visitor),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 401, 200]
    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store"
    for answer in (answers[0], *answers[2:]):
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "noindex" in answer.headers["X-Robots-Tag"]
    for page in (answers[0], answers[2], answers[3]):
        assert '<meta name="referrer" content="no-referrer">' in page.get_data(as_text=True)


def test_cookie_is_the_hosts_own_and_holds_no_token(
    client: ViewerClient, people: People, session: Session
) -> None:
    made = make(client, people, session)
    answer = post_token(client, token_of(made))
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-deskfleet-share=")
    for part in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax"):
        assert part in cookie
    assert "Domain" not in cookie
    assert token_of(made) not in cookie
    assert answer.json == {"page": f"/shared/{session.id}"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://x.content.deskfleet.localhost"},
    ],
)
def test_only_our_own_page_may_post_a_token(
    client: ViewerClient, people: People, session: Session, headers: dict[str, str]
) -> None:
    made = make(client, people, session, single_use=True)
    assert post_token(client, token_of(made), **headers).status_code == 403
    enter(client, made)


def test_visitor_watches_and_never_controls(
    client: ViewerClient, people: People, session: Session, settings: Settings
) -> None:
    made = make(client, people, session)
    grant = grant_in(ask_for_stream(client, session.id, **enter(client, made)), settings)
    assert not grant.may_control
    assert grant.ticket_id == made["id"]
    assert grant.principal.startswith(f"share:{made['id']}/")


def test_signed_in_operator_watches_a_shared_page_as_everybody_does(
    client: ViewerClient, store: Store, people: People, session: Session, settings: Settings
) -> None:
    """And stays signed in beside it."""
    mine = sign_in(store, people.alice)["Cookie"]
    visitor = enter(client, make(client, people, session), mine)["Cookie"]
    both = {"Cookie": f"{mine}; {visitor}"}
    assert not grant_in(ask_for_stream(client, session.id, **both), settings).may_control
    assert grant_in(ask_for_stream(client, session.id, query="", **both), settings).may_control
    assert client.get("/api/v1/me", headers=both).json["tenant"] == "acme"
    # Nor does anybody's own right help where the link is over.
    assert ask_for_stream(client, session.id, Cookie=mine).status_code == 401


def test_somebody_of_another_tenant_watches_by_a_link_and_keeps_his_sign_in(
    client: ViewerClient, store: Store, people: People, session: Session, settings: Settings
) -> None:
    his = sign_in(store, people.bob)["Cookie"]
    both = {"Cookie": f"{his}; {enter(client, make(client, people, session), his)['Cookie']}"}
    assert client.get(f"/shared/{session.id}", headers=both).status_code == 200
    assert grant_in(ask_for_stream(client, session.id, **both), settings).tenant_id == "acme"
    assert client.get(f"/api/v1/sessions/{session.id}", headers=both).status_code == 404
    assert client.get("/api/v1/me", headers=both).json["tenant"] == "bolt"


@pytest.mark.parametrize(
    "query",
    ["", "?as=shared", "?as=share&as=share", "?AS=share", "?x=1&as=share", "?as=share%20", "?as=%73hare"],
)
def test_stream_is_asked_by_a_visit_in_one_way_alone(
    client: ViewerClient, people: People, session: Session, query: str
) -> None:
    visitor = enter(client, make(client, people, session))
    assert ask_for_stream(client, session.id, query, **visitor).status_code == 401


def test_stream_of_a_visit_needs_our_own_origin(
    client: ViewerClient, people: People, session: Session
) -> None:
    visitor = enter(client, make(client, people, session))
    for origin in ("http://evil.example", f"http://{session.id}.content.deskfleet.localhost:8088", "null"):
        assert ask_for_stream(client, session.id, **{**visitor, "Origin": origin}).status_code == 403


def test_visitor_is_told_little_of_the_session(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(
        store, people.alice, sandbox_id="box-9", task_id="merger-2027", agent_id="agent-x"
    )
    made = make(client, people, session, label="for the auditors")
    told = client.get(f"/api/v1/shared/{session.id}", headers=enter(client, made))
    text = told.get_data(as_text=True)
    for kept in ("merger", "agent-x", "acme", "box-9", "here", "auditors", people.alice.key[3:11]):
        assert kept not in text
    assert told.json["shared_until"] == made["expires_at"]


def test_one_browser_watches_several_desktops_side_by_side(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    other = running_session(store, people.alice, sandbox_id="box-2")
    third = running_session(store, people.alice, sandbox_id="box-3")
    visitor = enter(client, make(client, people, session))
    both = enter(client, make(client, people, other), visitor["Cookie"])
    for seen in (session, other):
        assert client.get(f"/api/v1/shared/{seen.id}", headers=both).status_code == 200
    assert client.get(f"/api/v1/shared/{other.id}", headers=visitor).status_code == 401
    for unseen in (third.id, UNKNOWN_ID):
        assert client.get(f"/shared/{unseen}", headers=both).status_code == 401
        assert ask_for_stream(client, unseen, **both).status_code == 401


def test_cookie_keeps_only_so_many_visits(client: ViewerClient, store: Store, people: People) -> None:
    cookie = ""
    for number in range(share_visits._MOST_SHOWN + 3):
        session = running_session(store, people.alice, sandbox_id=f"box-{number}")
        cookie = enter(client, make(client, people, session), cookie)["Cookie"]
    assert len(cookie.partition("=")[2].split(".")) == share_visits._MOST_SHOWN
    assert client.get(f"/api/v1/shared/{session.id}", headers={"Cookie": cookie}).status_code == 200


def revoke(
    client: ViewerClient, store: Store, people: People, made: Mapping[str, str], session: Session
) -> None:
    path = f"/api/v1/sessions/{session.id}/shares/{made['id']}"
    assert client.delete(path, headers=people.alice.headers).status_code == 204


@pytest.mark.parametrize(
    ("why", "status", "title"),
    [
        ("revoked", 410, "This link was withdrawn"),
        ("used", 410, "This link was used already"),
        ("ended", 410, "The desktop has ended"),
        ("unknown", 404, "This link leads nowhere"),
    ],
)
def test_link_that_lets_nobody_in_says_why(
    client: ViewerClient, store: Store, people: People, session: Session, why: str, status: int, title: str
) -> None:
    made = make(client, people, session, single_use=True)
    before: dict[str, Callable[[], object]] = {
        "revoked": lambda: revoke(client, store, people, made, session),
        "used": lambda: enter(client, made),
        "ended": lambda: store.fleet.transition(session.id, Status.TERMINATED),
        "unknown": lambda: None,
    }
    before[why]()
    answer = post_token(client, "x" * 43 if why == "unknown" else token_of(made))
    assert (answer.status_code, answer.json["title"]) == (status, title)
    assert "Set-Cookie" not in answer.headers


def test_revoked_visitor_is_told_so_everywhere(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    made = make(client, people, session)
    visitor = enter(client, made)
    revoke(client, store, people, made, session)
    told = client.get(f"/api/v1/shared/{session.id}", headers=visitor)
    page = client.get(f"/shared/{session.id}", headers=visitor)
    assert (told.status_code, page.status_code) == (410, 410)
    assert "This link was withdrawn" in page.get_data(as_text=True)
    assert ask_for_stream(client, session.id, **visitor).status_code == 410


def test_visitor_of_an_ended_session_is_told_that_and_gets_no_stream(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    visitor = enter(client, make(client, people, session))
    store.fleet.transition(session.id, Status.TERMINATED)
    assert client.get(f"/api/v1/shared/{session.id}", headers=visitor).json["status"] == "terminated"
    assert ask_for_stream(client, session.id, **visitor).status_code == 404


def test_who_tries_wrong_links_has_to_wait_and_others_do_not(
    client: ViewerClient, people: People, session: Session
) -> None:
    made = make(client, people, session)
    guesser = {"X-Forwarded-For": "203.0.113.66"}
    answers = [post_token(client, f"{number:043d}", **guesser) for number in range(11)]
    assert [answer.status_code for answer in answers] == [404] * 10 + [429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert post_token(client, token_of(made), **guesser).status_code == 429
    assert post_token(client, token_of(made)).status_code == 200


def test_token_is_in_no_line_of_the_log(
    client: ViewerClient, people: People, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        made = make(client, people, session)
        visitor = enter(client, made)
        post_token(client, "w" * 43)
        client.get(f"/shared/{session.id}", headers=visitor)
    secrets = (token_of(made), visitor["Cookie"].partition("=")[2], "w" * 43)
    assert "/s" in caplog.text
    assert [secret for secret in secrets if secret in caplog.text] == []


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_foreign_page_reads_nothing_in_a_visitors_name(
    client: ViewerClient, people: People, session: Session, site: str
) -> None:
    visitor = enter(client, make(client, people, session))
    answer = client.get(f"/api/v1/shared/{session.id}", headers={**visitor, "Sec-Fetch-Site": site})
    assert answer.status_code == 403


VISITORS = {
    ("GET", "/shared/<session_id>"),
    ("GET", "/api/v1/shared/<session_id>"),
    ("POST", "/api/v1/shared/<session_id>/entries"),
}
"""What a visit opens, beside its stream. `/s` is anybody's."""


def test_a_visit_counts_on_no_other_route(
    app: Flask, client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    """Asked by its own page, each answers exactly as it answers a browser that has never been here."""
    visitor = enter(client, make(client, people, session))
    asked = 0
    for rule in app.url_map.iter_rules():
        values = dict.fromkeys(rule.arguments, "name") | ({"session_id": session.id, "sandbox_id": session.id}
                                                          if rule.arguments else {})  # fmt: skip
        path = rule.rule
        for name in rule.arguments:
            path = path.replace(f"<{name}>", values[name]).replace(f"<path:{name}>", values[name])
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            if (method, rule.rule) in VISITORS:
                continue
            headers = {**OURS, "X-Forwarded-Uri": f"/stream/{session.id}", "X-Forwarded-Method": "GET"}
            answers = []
            for cookie in (visitor, {}):
                # Closed, because some are files.
                with client.open(path, method=method, headers={**headers, **cookie}, json={}) as answer:
                    answers.append((answer.status_code, _but_ids(answer)))
            assert answers[0] == answers[1], (method, rule.rule)
            asked += 1
    assert asked > 100


def _but_ids(answer: Any) -> object:
    text = answer.get_data(as_text=True)
    try:
        return json.loads(text).get("type")
    except (ValueError, AttributeError):
        return text[:200]


def test_expired_visitor_is_told_so(
    client: ViewerClient, store: Store, people: People, session: Session
) -> None:
    from sqlalchemy import update

    from viewer.tables import ShareLinkRow

    visitor = enter(client, make(client, people, session, ttl_seconds=60))
    with store._database.writing() as orm:
        orm.execute(update(ShareLinkRow).values(ends_at=utcnow() - timedelta(seconds=1)))
    page = client.get(f"/shared/{session.id}", headers=visitor)
    assert (page.status_code, "This link has expired" in page.get_data(as_text=True)) == (410, True)
