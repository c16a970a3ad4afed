from __future__ import annotations

from datetime import timedelta

import pytest

from tests.viewer_fixtures import (
    ORIGIN,
    OTHER_ORIGIN,
    UNKNOWN_ID,
    People,
    ViewerClient,
    kasmvnc_desktop,
    new_session,
    running_session,
    session_with_password,
    sign_in,
)
from viewer.app import create_app
from viewer.fleet_store import DeclaredDesktop
from viewer.grants import DesktopSocket, Grant, PublishedPort, SandboxPort, open_grant
from viewer.model import Status, utcnow
from viewer.settings import Settings
from viewer.store import Store


def asked(path: str, **headers: str) -> dict[str, str]:
    """What Caddy sends along with the client's own headers."""
    return {
        "X-Forwarded-Uri": path,
        "X-Forwarded-Method": "GET",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }


def grant_in(answer: object, settings: Settings) -> Grant:
    token = answer.headers["X-Df-Grant"]  # type: ignore[attr-defined]
    return open_grant(token, settings.hosts[0].relay_key(), purpose="stream", now=utcnow())


def test_allowed_stream_gets_its_upstream_and_a_grant_for_nothing_else(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    session = session_with_password(store, people.alice, settings, "hunter22")
    answer = client.get("/authz/stream", headers={**people.alice.headers, **asked(f"/stream/{session.id}")})
    assert answer.status_code == 200
    assert answer.headers["X-Df-Upstream"] == "here"
    grant = grant_in(answer, settings)
    assert (grant.session_id, grant.tenant_id, grant.target) == (
        session.id,
        "acme",
        PublishedPort(port=40001),
    )
    assert grant.vnc_password is not None
    assert grant.vnc_password.get_secret_value() == "hunter22"
    assert timedelta(seconds=25) < grant.expires_at - utcnow() <= timedelta(seconds=30)
    assert "hunter22" not in str(answer.headers)


@pytest.mark.parametrize(("name", "may_control"), [("wanda", False), ("alice", True), ("ada", True)])
def test_a_watchers_grant_does_not_allow_control(
    client: ViewerClient, store: Store, people: People, settings: Settings, name: str, may_control: bool
) -> None:
    session = running_session(store, people.alice)
    headers = {**getattr(people, name).headers, **asked(f"/stream/{session.id}")}
    assert grant_in(client.get("/authz/stream", headers=headers), settings).may_control is may_control


def test_stream_of_a_browser_is_held_by_its_sign_in(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    session = running_session(store, people.alice)
    way = asked(f"/stream/{session.id}")
    shown = {**sign_in(store, people.alice), "Origin": ORIGIN}
    by_key = grant_in(client.get("/authz/stream", headers={**people.alice.headers, **way}), settings)
    by_cookie = grant_in(client.get("/authz/stream", headers={**shown, **way}), settings)
    assert set(store.accounts.roles_of([by_key.principal, by_cookie.principal])) == {
        (by_key.principal, "acme"),
        (by_cookie.principal, "acme"),
    }
    client.post("/signout", headers=shown)
    assert set(store.accounts.roles_of([by_key.principal, by_cookie.principal])) == {
        (by_key.principal, "acme")
    }


def test_declared_desktop_is_reached_by_its_socket(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    desktop = store.fleet.upsert_desktop(
        DeclaredDesktop(name="studio", tenant="acme", host="here", backend="tigervnc", resolution="1280x800")
    )
    store.fleet.transition(desktop.id, Status.RUNNING)
    answer = client.get("/authz/stream", headers={**people.wanda.headers, **asked(f"/stream/{desktop.id}")})
    assert grant_in(answer, settings).target == DesktopSocket(name="studio")


def test_query_of_the_stream_is_ignored(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    headers = {**people.alice.headers, **asked(f"/stream/{session.id}?x=../y&session={UNKNOWN_ID}")}
    assert client.get("/authz/stream", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/stream",
        "/stream/",
        "/stream/{id}/",
        "/stream/{id}/x",
        "/stream//{id}",
        "//stream/{id}",
        "/stream/{id}%00",
        "/stream/%7Bid%7D",
        "/stream/../stream/{id}",
        "/stream/x/%2e%2e/{id}",
        "/Stream/{id}",
        "/stream/{id};x",
        "/stream/{ID}",
        "/stream/{id}\t",
        "http://evil.example/stream/{id}",
        "/api/v1/sessions/{id}",
    ],
)
def test_anything_but_exactly_a_stream_is_not_found(
    client: ViewerClient, store: Store, people: People, path: str
) -> None:
    session = running_session(store, people.alice)
    # Some letter in the id, so that upper case differs.
    path = path.replace("{id}", session.id).replace("{ID}", session.id.upper().replace("0", "A", 1))
    assert client.get("/authz/stream", headers={**people.alice.headers, **asked(path)}).status_code == 404


@pytest.mark.parametrize("method", ["POST", "CONNECT", "HEAD", ""])
def test_only_a_get_is_a_stream(client: ViewerClient, store: Store, people: People, method: str) -> None:
    session = running_session(store, people.alice)
    headers = {**people.alice.headers, **asked(f"/stream/{session.id}"), "X-Forwarded-Method": method}
    assert client.get("/authz/stream", headers=headers).status_code == 404


def test_session_that_is_not_running_or_has_no_screen_offers_no_stream(
    client: ViewerClient, store: Store, people: People
) -> None:
    creating = new_session(store, people.alice)
    ended = store.fleet.transition(running_session(store, people.alice).id, Status.TERMINATED)
    screenless = running_session(store, people.alice, sandbox_id="b", image="shell", display="none")
    for session in (creating, ended, screenless):
        headers = {**people.alice.headers, **asked(f"/stream/{session.id}")}
        assert client.get("/authz/stream", headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (ORIGIN, 200),
        (None, 403),
        ("null", 403),
        (OTHER_ORIGIN, 403),
        ("http://x.content.deskfleet.localhost:8088", 403),
    ],
)
def test_cookie_opens_a_stream_only_with_the_very_origin(
    client: ViewerClient, store: Store, people: People, origin: str | None, status: int
) -> None:
    session = running_session(store, people.alice)
    # A foreign page can make the browser send anything but Origin.
    headers = {
        **sign_in(store, people.alice),
        **asked(f"/stream/{session.id}"),
        "Sec-Fetch-Site": "same-origin",
    }
    if origin is not None:
        headers["Origin"] = origin
    assert client.get("/authz/stream", headers=headers).status_code == status


def test_internal_headers_of_the_client_change_nothing(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    session = running_session(store, people.alice)
    forged = {"X-Df-Upstream": "10.0.0.1:22", "X-Df-Grant": "forged", "X_Df_Upstream": "10.0.0.1:22"}
    headers = {**people.alice.headers, **asked(f"/stream/{session.id}"), **forged}
    answer = client.get("/authz/stream", headers=headers)
    assert answer.headers.getlist("X-Df-Upstream") == ["here"]
    assert grant_in(answer, settings).session_id == session.id
    denied = client.get(
        "/authz/stream", headers={**people.bob.headers, **asked(f"/stream/{session.id}"), **forged}
    )
    assert denied.status_code == 404
    assert "X-Df-Upstream" not in denied.headers


def test_refusals_carry_no_internal_header(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    for headers, status in (({}, 401), (people.bob.headers, 404), (sign_in(store, people.alice), 403)):
        answer = client.get("/authz/stream", headers={**headers, **asked(f"/stream/{session.id}")})
        assert answer.status_code == status
        assert not [name for name, _ in answer.headers if name.lower().startswith("x-df")]


# Ports of sandboxes


def port_of(session_id: str, port: object = 8000, tail: str = "/") -> dict[str, str]:
    return asked(f"/v1/sandboxes/{session_id}/proxy/{port}{tail}")


@pytest.mark.parametrize("header", ["Authorization", "OPEN-SANDBOX-API-KEY"])
@pytest.mark.parametrize("tail", ["", "/", "/a%2Fb//../x?q=%2F", "?q"])
def test_key_opens_a_port_of_its_tenants_sandbox_and_no_other(
    client: ViewerClient, store: Store, people: People, settings: Settings, header: str, tail: str
) -> None:
    session = running_session(store, people.alice)
    bearer = "Bearer " if header == "Authorization" else ""
    shown = {header: f"{bearer}{people.alice.key}"}
    answer = client.get("/authz/port", headers={**shown, **port_of(session.id, tail=tail)})
    assert (answer.status_code, answer.headers["X-Df-Upstream"]) == (200, "here")
    key = settings.hosts[0].relay_key()
    grant = open_grant(answer.headers["X-Df-Grant"], key, purpose="port", now=utcnow())
    assert (grant.session_id, grant.tenant_id, grant.target, grant.may_control, grant.vnc_password) == (
        session.id, "acme", SandboxPort(sandbox_id="box-1", port=8000), True, None,
    )  # fmt: skip
    assert list(store.accounts.roles_of([grant.principal])) == [(grant.principal, "acme")]


def test_what_is_not_there_for_the_caller_is_one_and_the_same_answer(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    desktop = kasmvnc_desktop(store, people.alice)
    paused = running_session(store, people.alice, sandbox_id="b")
    store.fleet.transition(paused.id, Status.PAUSED)
    ended = store.fleet.transition(running_session(store, people.alice, sandbox_id="c").id, Status.TERMINATED)
    never = client.get("/authz/port", headers={**people.alice.headers, **port_of(UNKNOWN_ID)})
    assert never.status_code == 404
    assert never.json["code"] == "DOCKER::SANDBOX_NOT_FOUND"
    cases = [(people.bob, session.id), *((people.alice, one.id) for one in (desktop, paused, ended))]
    for person, session_id in (*cases, (people.alice, new_session(store, people.alice).id)):
        answer = client.get("/authz/port", headers={**person.headers, **port_of(session_id)})
        assert (answer.status_code, answer.get_data()) == (404, never.get_data())
        assert "X-Df-Grant" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/v1/sandboxes/{id}/proxy/",
        "/v1/sandboxes/{id}/proxy/0/",
        "/v1/sandboxes/{id}/proxy/08000/",
        "/v1/sandboxes/{id}/proxy/65536/",
        "/v1/sandboxes/{id}/proxy/800000/",
        "/v1/sandboxes/{id}/proxy/8000x/",
        "/v1/sandboxes/{id}/proxy/+8000/",
        "/v1/sandboxes/{id}/proxy/%38000/",
        "/v1/sandboxes/{id}/proxy//8000/",
        "/v1/sandboxes/{id}/%70roxy/8000/",
        "/v1/sandboxes/{id}/Proxy/8000/",
        "/v1/sandboxes/x/../{id}/proxy/8000/",
        "/v1/sandboxes//{id}/proxy/8000/",
        "/sandboxes/{id}/proxy/8000/",
        "//v1/sandboxes/{id}/proxy/8000/",
        "/v1/sandboxes/{ID}/proxy/8000/",
        "/v1/sandboxes/box-1/proxy/8000/",
        "/v1/sandboxes/{id}/proxy/8000/a b",
        "/v1/sandboxes/{id}/proxy/8000/#x",
        "/v1/sandboxes/{id}/proxy/8000/\t",
        "/v1/sandboxes/{id}/proxy/8000;x",
        "http://evil.example/v1/sandboxes/{id}/proxy/8000/",
    ],
)
def test_anything_but_exactly_a_port_is_not_found(
    client: ViewerClient, store: Store, people: People, path: str
) -> None:
    session = running_session(store, people.alice)
    path = path.replace("{id}", session.id).replace("{ID}", session.id.upper().replace("0", "A", 1))
    assert client.get("/authz/port", headers={**people.alice.headers, **asked(path)}).status_code == 404


@pytest.mark.parametrize(
    ("port", "tail", "is_vnc"),
    [
        (8080, "/", True),
        (5900, "/", True),
        (5999, "/", True),
        (6080, "/websockify", True),
        (44772, "/proxy/6080/websockify", True),
        (44772, "//%70roxy//06080", True),
        (44772, "/%2570roxy%252F8080/", True),
        (44772, "/proxy/44772/proxy/5901", True),
        (44772, "/ping", False),
        (44772, "/proxy/8000/?x=/proxy/6080", False),
        (44772, "/proxy/60801/", False),
        (8000, "/proxy/6080/", False),
        (6000, "/", False),
    ],
)
def test_screen_of_a_desktop_is_never_a_plain_port(
    client: ViewerClient, store: Store, people: People, port: int, tail: str, is_vnc: bool
) -> None:
    desktop = running_session(store, people.alice)
    screenless = running_session(store, people.alice, sandbox_id="b", image="shell", display="none")
    answer = client.get("/authz/port", headers={**people.alice.headers, **port_of(desktop.id, port, tail)})
    assert answer.status_code == (403 if is_vnc else 200)
    assert not is_vnc or answer.json["code"] == "DESKFLEET::VNC_NOT_PROXIED"
    way = port_of(screenless.id, port, tail)
    assert client.get("/authz/port", headers={**people.alice.headers, **way}).status_code == 200


def test_image_says_where_its_screen_is(settings: Settings, store: Store, people: People) -> None:
    (desktop, *others) = settings.images
    elsewhere = (desktop.model_copy(update={"port": 7000}), *others)
    app = create_app(settings.model_copy(update={"images": elsewhere}), store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    session = running_session(store, people.alice)
    for port, status in ((7000, 403), (8080, 200)):
        headers = {**people.alice.headers, **port_of(session.id, port)}
        assert client.get("/authz/port", headers=headers).status_code == status


def test_port_is_asked_for_at_opensandboxs_own_name_too_and_at_no_other(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    headers = {"X-Forwarded-Proto": "http", **port_of(session.id)}
    for name, status in (("opensandbox", 200), ("code", 404), (f"{session.id}.content", 404)):
        there = {**headers, "X-Forwarded-Host": f"{name}.deskfleet.localhost:8088"}
        allowed = client.get("/authz/port", headers={**people.alice.headers, **there})
        assert allowed.status_code == status
        assert client.get("/authz/port", headers=there).status_code == (401 if status == 200 else 404)


def test_cookie_opens_no_port_even_beside_a_wrong_key(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    cookie = {**sign_in(store, people.alice), "Origin": ORIGIN, **port_of(session.id)}
    for shown, code in (({}, "MISSING_API_KEY"), ({"OPEN-SANDBOX-API-KEY": "x"}, "INVALID_API_KEY")):
        answer = client.get("/authz/port", headers={**cookie, **shown})
        assert (answer.status_code, answer.json["code"]) == (401, code)
