"""The API of webhook endpoints. What is sent to them is in test_deliveries.py."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from sqlalchemy import select

from tests.viewer_fixtures import ORIGIN, UNKNOWN_ID, People, ViewerClient, new_session
from viewer.app import create_app
from viewer.cli.main import run
from viewer.credentials import open_secret
from viewer.deliveries.model import EVENT_TYPES, MOST_ENDPOINTS, ONLY_WHEN_NAMED, Attempt, Outcome
from viewer.frontend.hatch_build import FRONTEND
from viewer.model import Role, Scope, utcnow
from viewer.settings import Settings
from viewer.store import Store
from viewer.tables import AuditRow

URL = "https://hooks.example.com/deskfleet?channel=7"


@pytest.fixture
def ada(people: People) -> dict[str, str]:
    return people.ada.headers


@pytest.fixture
def boss(store: Store, people: People) -> dict[str, str]:
    """An admin of the other tenant."""
    assert people
    return {"Authorization": f"Bearer {store.accounts.add_key('bolt', Role.ADMIN).text}"}


def made(client: ViewerClient, headers: dict[str, str], **values: Any) -> Any:
    answer = client.post("/api/v1/webhooks", json={"url": URL, **values}, headers=headers)
    assert answer.status_code == 201, answer.json
    return answer.json


def test_secret_is_in_the_answer_that_made_it_and_nowhere_else(
    client: ViewerClient, store: Store, settings: Settings, ada: dict[str, str]
) -> None:
    webhook = made(client, ada, label="chat", types=["session.error"])
    secret = webhook.pop("secret")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    path = f"/api/v1/webhooks/{webhook['id']}"
    assert client.get(path, headers=ada).json == webhook
    assert client.get("/api/v1/webhooks", headers=ada).json == {"items": [webhook]}
    changed = client.patch(path, json={"label": "x"}, headers=ada).json
    assert changed == {**webhook, "label": "x", "updated_at": changed["updated_at"]}
    kept = store.webhooks("acme").get(webhook["id"])
    assert secret not in repr(kept)
    assert secret not in kept.model_dump_json()
    assert open_secret(kept.secret_sealed, settings.secret_key) == secret


def test_rotation_shows_another_secret_once_and_keeps_the_former_for_a_day(
    client: ViewerClient, store: Store, settings: Settings, ada: dict[str, str]
) -> None:
    webhook = made(client, ada)
    path = f"/api/v1/webhooks/{webhook['id']}"
    rotated = client.post(f"{path}/rotate", headers=ada).json
    assert rotated["secret"] != webhook["secret"]
    assert "secret" not in client.get(path, headers=ada).json
    endpoint = store.webhooks("acme").get(webhook["id"])
    now, end = utcnow(), endpoint.former_secret_ends_at
    assert end is not None
    keys = [open_secret(sealed, settings.secret_key) for sealed in endpoint.sealed_secrets(now)]
    assert keys == [rotated["secret"], webhook["secret"]]
    assert len(endpoint.sealed_secrets(end)) == 1
    assert 23.9 < (end - now).total_seconds() / 3600 < 24.1


def test_another_tenants_endpoint_is_none(
    client: ViewerClient, store: Store, ada: dict[str, str], boss: dict[str, str]
) -> None:
    webhook = made(client, ada)
    delivery = client.post(f"/api/v1/webhooks/{webhook['id']}/test", headers=ada).json
    theirs = made(client, boss)
    for path, method in {
        "": "GET", " ": "PATCH", "  ": "DELETE", "/rotate": "POST", "/test": "POST", "/deliveries": "GET",
        f"/deliveries/{delivery['id']}/retry": "POST",
    }.items():  # fmt: skip
        answers = [
            client.open(
                f"/api/v1/webhooks/{one}{path.strip()}", method=method, headers=boss,
                json={} if method == "PATCH" else None,
            )
            for one in (webhook["id"], UNKNOWN_ID)
        ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [404, 404], (method, path)
        assert answers[0].get_data() == answers[1].get_data()
    # Nor is a delivery of theirs reached through an endpoint of one's own.
    foreign = f"/api/v1/webhooks/{theirs['id']}/deliveries/{delivery['id']}/retry"
    assert client.post(foreign, headers=boss).status_code == 404
    assert [one["id"] for one in client.get("/api/v1/webhooks", headers=boss).json["items"]] == [theirs["id"]]
    assert client.get(f"/api/v1/webhooks/{webhook['id']}", headers=ada).status_code == 200


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/", "must begin with https://"),
        ("ftp://example.com/", "is no http or https address"),
        ("https://", "is no http or https address"),
        ("https:///path", "names no host"),
        ("https://user:pw@example.com/", "has a user or a password"),
        ("https://@example.com/", "has a user or a password"),
        ("https://example.com/#x", "has a fragment"),
        ("https://example.com\\@evil.example/", "without spaces"),
        ("https://exa mple.com/", "without spaces"),
        ("https://example.com/\n", "without spaces"),
        ("https://exämple.com/", "in ASCII"),
        ("https://example.com:99999/", "names no host or no port"),
        ("https://example.com:0/", "names no host or no port"),
        ("https://127.0.0.1/", "is not an address of the public internet"),
        ("https://[::1]/", "is not an address of the public internet"),
        ("https://[::ffff:10.0.0.1]/", "is not an address of the public internet"),
        ("https://169.254.169.254/latest", "is not an address of the public internet"),
        ("https://100.64.0.1/", "is not an address of the public internet"),
        ("https://deskfleet.localhost/", "is one of this fleet's own names"),
        ("https://DESKFLEET.localhost.:8443/", "is one of this fleet's own names"),
        ("https://x.content.deskfleet.localhost/", "is one of this fleet's own names"),
        ("https://code.deskfleet.localhost/", "is one of this fleet's own names"),
    ],
)
def test_address_that_no_webhook_may_have_is_refused_with_the_reason(
    client: ViewerClient, ada: dict[str, str], url: str, says: str
) -> None:
    answer = client.post("/api/v1/webhooks", json={"url": url}, headers=ada)
    assert answer.status_code == 422
    (error,) = answer.json["errors"]
    assert error["field"] == "url"
    assert says in error["message"]
    webhook = made(client, ada)
    answer = client.patch(f"/api/v1/webhooks/{webhook['id']}", json={"url": url}, headers=ada)
    assert answer.status_code == 422
    assert client.get(f"/api/v1/webhooks/{webhook['id']}", headers=ada).json["url"] == URL


def test_settings_may_allow_plain_http_and_networks(
    settings: Settings, store: Store, ada: dict[str, str]
) -> None:
    more = {"webhooks_allow_http": True, "webhooks_allow_networks": ["127.0.0.0/8"]}
    app = create_app(Settings.model_validate({**settings.model_dump(), **more}), store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    assert made(client, ada, url="http://127.0.0.1:8000/hook")["url"] == "http://127.0.0.1:8000/hook"
    answer = client.post("/api/v1/webhooks", json={"url": "http://10.0.0.1/"}, headers=ada)
    assert answer.status_code == 422
    app.extensions["deskfleet"].close()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": URL, "types": ["session.crashed"]}, "types"),
        ({"url": URL, "types": ["session.error", "session.error"]}, "types"),
        ({"url": URL, "types": "session.error"}, "types"),
        ({"url": URL, "label": "a\nb"}, "label"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
        ({"url": URL, "tenant_id": "bolt"}, "tenant_id"),
    ],
)
def test_body_with_a_wrong_field_is_refused_and_named(
    client: ViewerClient, store: Store, ada: dict[str, str], body: dict[str, object], field: str
) -> None:
    answer = client.post("/api/v1/webhooks", json=body, headers=ada)
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == field
    assert store.webhooks("acme").list() == []


def test_tenant_has_so_many_endpoints_and_no_more(
    client: ViewerClient, ada: dict[str, str], boss: dict[str, str]
) -> None:
    webhooks = [made(client, ada) for _ in range(MOST_ENDPOINTS)]
    answer = client.post("/api/v1/webhooks", json={"url": URL}, headers=ada)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:deskfleet:problem:too-many-webhooks")
    made(client, boss)
    assert client.delete(f"/api/v1/webhooks/{webhooks[0]['id']}", headers=ada).status_code == 204
    made(client, ada)


def test_disabled_endpoint_is_sent_nothing_until_it_is_enabled(
    client: ViewerClient, store: Store, people: People, ada: dict[str, str]
) -> None:
    webhook = made(client, ada)
    path = f"/api/v1/webhooks/{webhook['id']}"
    trial = client.post(f"{path}/test", headers=ada).json
    off = client.patch(path, json={"enabled": False}, headers=ada).json
    assert (off["enabled"], off["disabled_reason"]) == (False, "disabled by an admin")
    (logged,) = client.get(f"{path}/deliveries", headers=ada).json["items"]
    assert (logged["status"], logged["next_attempt_at"]) == ("cancelled", None)
    for refused in (f"{path}/test", f"{path}/deliveries/{trial['id']}/retry"):
        assert client.post(refused, headers=ada).status_code == 409
    new_session(store, people.alice)
    on = client.patch(path, json={"enabled": True}, headers=ada).json
    assert (on["enabled"], on["disabled_at"], on["disabled_reason"]) == (True, None, None)
    assert store.deliveries.behind() == []  # what happened meanwhile is passed over


def test_log_comes_in_pages_and_by_status_with_its_attempts(
    client: ViewerClient, store: Store, ada: dict[str, str]
) -> None:
    webhook = made(client, ada)
    path = f"/api/v1/webhooks/{webhook['id']}"
    ids = [client.post(f"{path}/test", headers=ada).json["id"] for _ in range(5)]
    attempt = Attempt(at=utcnow(), took_ms=12, status_code=500, error="the endpoint did not accept it")
    outcome = Outcome(status_code=500, error=attempt.error)
    store.deliveries.record(ids[1], attempt, outcome, spread=0)
    store.deliveries.record(ids[2], attempt, Outcome(status_code=200), spread=0)

    found, cursor = [], ""
    while cursor is not None:
        at = f"&cursor={cursor}" if cursor else ""
        page = client.get(f"{path}/deliveries?limit=2{at}", headers=ada).json
        found += page["items"]
        cursor = page["next_cursor"]
    assert [one["id"] for one in found] == ids[::-1]
    failed = client.get(f"{path}/deliveries?status=failed", headers=ada).json["items"]
    assert [one["id"] for one in failed] == [ids[1]]
    assert [(one["took_ms"], one["status_code"], one["error"]) for one in failed[0]["attempts"]] == [
        (12, 500, "the endpoint did not accept it")
    ]
    for wrong in ("status=lost", "limit=0", "cursor=x"):
        assert client.get(f"{path}/deliveries?{wrong}", headers=ada).status_code in (400, 422)


def test_retry_makes_any_delivery_due_under_the_same_id(
    client: ViewerClient, store: Store, ada: dict[str, str]
) -> None:
    webhook = made(client, ada)
    path = f"/api/v1/webhooks/{webhook['id']}"
    trial = client.post(f"{path}/test", headers=ada).json
    attempt = Attempt(at=utcnow(), took_ms=1, status_code=200, error=None)
    store.deliveries.record(trial["id"], attempt, Outcome(status_code=200), spread=0)
    assert store.deliveries.due(utcnow(), per_endpoint=4, in_hand=()) == []
    again = client.post(f"{path}/deliveries/{trial['id']}/retry", headers=ada).json
    assert (again["webhook_id"], again["status"]) == (trial["webhook_id"], "pending")
    (job,) = store.deliveries.due(utcnow(), per_endpoint=4, in_hand=())
    assert job.delivery.id == trial["id"]
    assert client.post(f"{path}/deliveries/{UNKNOWN_ID}/retry", headers=ada).status_code == 404


def test_deleted_endpoint_takes_its_log_along(
    client: ViewerClient, store: Store, ada: dict[str, str]
) -> None:
    webhook = made(client, ada)
    path = f"/api/v1/webhooks/{webhook['id']}"
    trial = client.post(f"{path}/test", headers=ada).json
    assert client.delete(path, headers=ada).status_code == 204
    assert client.get(path, headers=ada).status_code == 404
    attempt = Attempt(at=utcnow(), took_ms=1, status_code=200, error=None)
    assert store.deliveries.record(trial["id"], attempt, Outcome(status_code=200), spread=0) is None


def test_every_route_wants_the_scope_manage(app: Flask) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/v1/webhooks")]
    assert rules
    for rule in rules:
        assert vars(app.view_functions[rule.endpoint])["deskfleet_scope"] is Scope.MANAGE


def test_every_change_is_in_the_audit_log_without_secret_or_path(
    client: ViewerClient, store: Store, ada: dict[str, str]
) -> None:
    webhook = made(client, ada, types=["session.error"])
    path = f"/api/v1/webhooks/{webhook['id']}"
    client.patch(path, json={"label": "x"}, headers=ada)
    client.patch(path, json={"label": "x"}, headers=ada)  # changes nothing
    rotated = client.post(f"{path}/rotate", headers=ada).json
    trial = client.post(f"{path}/test", headers=ada).json
    client.post(f"{path}/deliveries/{trial['id']}/retry", headers=ada)
    client.patch(path, json={"enabled": False}, headers=ada)
    client.patch(path, json={"enabled": True}, headers=ada)
    client.delete(path, headers=ada)
    with store._database.reading() as orm:
        found = select(AuditRow).where(AuditRow.action.like("webhook.%")).order_by(AuditRow.number)
        rows = [(row.action, row.target, row.principal, row.detail) for row in orm.scalars(found)]
    assert [row[0].removeprefix("webhook.") for row in rows] == [
        "create", "change", "rotate", "test", "redeliver", "disable", "enable", "delete",
    ]  # fmt: skip
    assert {row[1] for row in rows} == {f"webhook:{webhook['id']}"}
    assert {row[2] for row in rows} == {webhook["created_by"]}
    told = repr(rows)
    assert "hooks.example.com" in told
    for hidden in (webhook["secret"], rotated["secret"], "channel=7", "/deskfleet"):
        assert hidden not in told


def test_commands_of_the_guide_do_what_it_says(
    app: Flask, people: People, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "webhooks-out.md").read_text()
    commands = re.findall(r"^deskfleet (webhooks [^#\n]*)", guide, re.MULTILINE)
    assert len(commands) == 9
    monkeypatch.setenv("DESKFLEET_URL", ORIGIN)
    monkeypatch.setenv("DESKFLEET_KEY", people.ada.key)
    trial = ""
    for command in commands:
        ids = [one.id for one in store.webhooks("acme").list()]
        words = [
            ids[0] if word == "ID" else trial if word == "DELIVERY" else word for word in command.split()
        ]
        assert run(words, httpx.WSGITransport(app)) == 0, command
        for job in store.deliveries.due(utcnow(), per_endpoint=1, in_hand=()):
            trial = job.delivery.id
    assert store.webhooks("acme").list() == []


def test_settings_offer_every_kind_of_event_and_the_same_usual_ones() -> None:
    script = (FRONTEND / "src" / "settings" / "webhooks.js").read_text()
    assert tuple(re.findall(r'^  "(session\.\w+)":', script, re.MULTILINE)) == EVENT_TYPES
    assert {f'"{name}"' for name in ONLY_WHEN_NAMED} == set(
        re.findall(r"^const ONLY_WHEN_NAMED = (.*);$", script, re.MULTILINE)
    )
