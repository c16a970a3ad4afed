"""Events of outside systems: who may send them, what they change, and what they never change."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as examples_of
from hypothesis import strategies as st

from tests.event_senders import EVENTS, Source, new_source, run_event, sandbox_event, signature
from tests.soaking import examples
from tests.viewer_fixtures import (
    ORIGIN,
    UNKNOWN_ID,
    People,
    Person,
    ViewerClient,
    kasmvnc_desktop,
    new_session,
    running_session,
    sign_in,
)
from viewer import event_intake
from viewer.credentials import key_id_of
from viewer.incoming import MOST_BODY_BYTES
from viewer.model import Status, Via, utcnow
from viewer.new_sessions import MOST_SOUGHT
from viewer.problems import ProblemDocument
from viewer.settings import Settings
from viewer.signatures import MOST_SIGNATURES, is_signed_by, signed_message
from viewer.store import Store
from viewer.tables import ApiKeyRow, AuditRow, Base, ReceiptRow
from viewer.webhook_secrets import MOST_SECRETS, MOST_TRIED


@pytest.fixture
def source(store: Store, settings: Settings, people: People) -> Source:
    """Of Alice's tenant."""
    return new_source(store, settings, people.alice)


def signed(client: ViewerClient, source: Source, event: Any, message_id: str = "msg_1", **more: Any) -> Any:
    body = json.dumps(event).encode()
    return client.post(EVENTS, data=body, headers=source.headers(body, message_id, **more))


def keyed(client: ViewerClient, person: Person, event: Any, **headers: str) -> Any:
    return client.post(EVENTS, json=event, headers={**person.headers, **headers})


def everything(store: Store) -> Any:
    """All that an event could change."""
    tenants = {name: store.work(name) for name in ("acme", "bolt")}
    return (
        store.fleet.live_sessions(),
        {name: (work.tasks(None, 50).items, work.agents(None, 50).items) for name, work in tenants.items()},
        store.fleet.last_event_id(),
        receipts(store),
    )


def receipts(store: Store) -> list[tuple[str, str]]:
    with store._database.reading() as orm:
        return [(row.tenant_id, row.message_id) for row in orm.query(ReceiptRow)]


# --- who sends ------------------------------------------------------------------------------------------


def test_signature_is_that_of_the_standards_own_example() -> None:
    now = datetime.fromtimestamp(1614265330, UTC)
    message = signed_message(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        b'{"test": 2432232314}', now=now,
    )  # fmt: skip
    assert is_signed_by(message, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert not is_signed_by(message, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx")


@pytest.mark.parametrize("path", [EVENTS, "/openclaw/event"])
def test_signed_event_is_its_tenants(client: ViewerClient, source: Source, store: Store, path: str) -> None:
    body = json.dumps(run_event(prompt="Pay the invoices")).encode()
    answer = client.post(path, data=body, headers=source.headers(body))
    assert answer.status_code == 200, answer.json
    task = store.work("acme").task_of_run("run-7")
    assert task is not None
    assert (task.id, task.title) == (answer.json["task_id"], "Pay the invoices")
    assert store.work("bolt").task_of_run("run-7") is None
    assert store.webhook_secrets.list("acme")[0].last_used_at is not None


def test_one_right_signature_among_several_is_enough(client: ViewerClient, source: Source) -> None:
    body = json.dumps(run_event()).encode()
    headers = source.headers(body)
    wrong = signature("whsec_AAAA", "msg_1", headers["webhook-timestamp"], body)
    headers["webhook-signature"] = f"v2,abc {wrong} v1, {headers['webhook-signature']} v1a,xyz="
    assert client.post(EVENTS, data=body, headers=headers).status_code == 200


def test_signature_behind_too_many_others_is_not_looked_at(client: ViewerClient, source: Source) -> None:
    body = json.dumps(run_event()).encode()
    headers = source.headers(body)
    wrong = signature("whsec_AAAA", "msg_1", headers["webhook-timestamp"], body)
    headers["webhook-signature"] = f"{' '.join([wrong] * MOST_SIGNATURES)} {headers['webhook-signature']}"
    assert client.post(EVENTS, data=body, headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"webhook-signature": "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}, 401),
        ({"webhook-signature": "nonsense"}, 401),
        ({"webhook-signature": "v1,é"}, 401),
        ({"webhook-id": "msg_2"}, 401),
        ({"webhook-id": "msg 1"}, 400),
        ({"webhook-id": "m" * 201}, 400),
        ({"webhook-id": ""}, 400),
        ({"webhook-timestamp": "0"}, 401),
        ({"webhook-timestamp": "-1"}, 400),
        ({"webhook-timestamp": "nan"}, 400),
        ({"webhook-timestamp": "1e9"}, 400),
        ({"webhook-timestamp": "99999999999"}, 401),
        ({"webhook-timestamp": ""}, 400),
    ],
)
def test_message_that_was_not_signed_so_is_refused(
    client: ViewerClient, source: Source, store: Store, change: dict[str, str], status: int
) -> None:
    before = everything(store)
    body = json.dumps(run_event()).encode()
    answer = client.post(EVENTS, data=body, headers={**source.headers(body), **change})
    assert answer.status_code == status, answer.json
    ProblemDocument.model_validate_json(answer.get_data())
    assert everything(store) == before


@pytest.mark.parametrize("minutes", [-6, 6])
def test_message_that_was_signed_at_another_time_is_refused(
    client: ViewerClient, source: Source, minutes: int
) -> None:
    answer = signed(client, source, run_event(), at=time.time() + 60 * minutes)
    assert answer.status_code == 401
    assert "more than five minutes off" in answer.json["detail"]


@pytest.mark.parametrize("minutes", [-4, 4])
def test_clock_may_be_some_minutes_off(client: ViewerClient, source: Source, minutes: int) -> None:
    assert signed(client, source, run_event(), at=time.time() + 60 * minutes).status_code == 200


def test_body_that_was_changed_on_its_way_is_refused(client: ViewerClient, source: Source) -> None:
    headers = source.headers(b'{"runId": "a", "action": "start"}')
    answer = client.post(EVENTS, data=b'{"runId": "b", "action": "start"}', headers=headers)
    assert answer.status_code == 401
    assert "The signature is not right" in answer.json["title"]


def test_cookie_is_no_credential(client: ViewerClient, store: Store, people: People) -> None:
    headers = {**sign_in(store, people.alice), "Origin": ORIGIN}
    assert client.post(EVENTS, json=run_event(), headers=headers).status_code == 401


def test_wrong_key_is_not_saved_by_a_right_signature(client: ViewerClient, source: Source) -> None:
    body = json.dumps(run_event()).encode()
    headers = {**source.headers(body), "Authorization": "Bearer nonsense"}
    assert client.post(EVENTS, data=body, headers=headers).status_code == 401


def test_key_for_other_things_alone_may_not_send(client: ViewerClient, store: Store, people: People) -> None:
    with store._database.writing() as orm:
        row = orm.get(ApiKeyRow, key_id_of(people.alice.key))
        assert row is not None
        row.scopes = ["sessions"]
    answer = keyed(client, people.alice, run_event())
    assert (answer.status_code, answer.json["type"]) == (403, "urn:deskfleet:problem:scope-missing")


def audited(store: Store) -> list[tuple[str, str, str, str | None, Any]]:
    """Tenant, who, what, on what, and more, of what is of events; oldest first."""
    with store._database.reading() as orm:
        rows = orm.query(AuditRow).order_by(AuditRow.at, AuditRow.number)
        return [
            (row.tenant_id, row.principal, row.action, row.target, row.detail)
            for row in rows
            if row.action.startswith(("event.", "webhook_secret."))
        ]


def test_what_came_and_what_was_refused_is_in_the_tenants_log(
    client: ViewerClient, source: Source, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    signed(client, source, sandbox_event("terminated", "box-1"), "m1")
    signed(client, source, sandbox_event("terminated", "box-1"), "m1")
    signed(client, source, sandbox_event("terminated", "box-2"), "m2")
    signed(client, source, run_event(), "m2", signed_id="m3")
    by = f"webhook_secret:{source.id}"
    did = ["task-created", "run-linked", "session-linked", "end-requested"]
    assert audited(store)[1:] == [
        ("acme", by, "event.accepted", f"session:{session.id}",
         {"said": "terminated", "run": "run-7", "did": did}),
        ("acme", by, "event.refused", None, {"why": "not-found", "status": 404}),
        ("-", "nobody", "event.refused", None, {"why": "bad-signature", "status": 401}),
    ]  # fmt: skip


def test_log_of_refusals_is_bounded(client: ViewerClient, source: Source, store: Store) -> None:
    for number in range(event_intake.NOTED_AT_ONCE + 5):
        assert signed(client, source, {}, f"m{number}").status_code == 422
    refused = [entry for entry in audited(store) if entry[2] == "event.refused"]
    assert len(refused) == event_intake.NOTED_AT_ONCE


def test_wrong_signatures_of_one_address_are_limited(client: ViewerClient, source: Source) -> None:
    body = json.dumps(run_event()).encode()
    wrong = source.headers(body, signed_id="another")
    for _ in range(10):
        assert client.post(EVENTS, data=body, headers=wrong).status_code == 401
    limited = client.post(EVENTS, data=body, headers=source.headers(body))
    assert limited.status_code == 429
    assert int(limited.headers["Retry-After"]) > 0
    elsewhere = {**source.headers(body), "X-Forwarded-For": "203.0.113.9"}
    assert client.post(EVENTS, data=body, headers=elsewhere).status_code == 200


# --- secrets --------------------------------------------------------------------------------------------


def ask_for_secret(client: ViewerClient, who: Person, path: str = "", **body: Any) -> Any:
    answer = client.post(f"/api/v1/webhook-secrets{path}", json=body, headers=who.headers)
    assert answer.status_code == 201, answer.json
    return answer.json


def test_rotated_secret_is_good_for_a_day_still(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ask_for_secret(client, people.ada, label="openclaw")
    old = Source(made["id"], made["secret"])
    new_one = ask_for_secret(client, people.ada, f"/{old.id}/rotate")
    new = Source(new_one["id"], new_one["secret"])
    assert new.secret != old.secret
    for number, source in enumerate((old, new)):
        assert signed(client, source, run_event(run=f"r{number}"), f"m{number}").status_code == 200
    shown = client.get("/api/v1/webhook-secrets", headers=people.ada.headers).json["items"]
    ends = {one["id"]: one["ends_at"] for one in shown}
    assert ends[new.id] is None
    left = datetime.fromisoformat(ends[old.id]) - utcnow()
    assert timedelta(hours=23) < left < timedelta(hours=25)
    later = utcnow() + timedelta(hours=25)
    monkeypatch.setattr("viewer.webhook_secrets.utcnow", lambda: later)
    assert signed(client, old, run_event(), "m3").status_code == 401
    assert signed(client, new, run_event(), "m4").status_code == 200


def test_address_of_a_secret_outlives_its_rotation(client: ViewerClient, people: People) -> None:
    made = ask_for_secret(client, people.ada, label="openclaw")
    assert made["url"] == f"{ORIGIN}{EVENTS}?source={made['id']}"
    new = ask_for_secret(client, people.ada, f"/{made['id']}/rotate", overlap_seconds=0)
    body = json.dumps(run_event()).encode()
    headers = Source(new["id"], new["secret"]).headers(body)
    path = made["url"].removeprefix(ORIGIN)
    assert client.post(path, data=body, headers=headers).status_code == 200


def test_source_names_a_tenant_and_proves_nothing(
    client: ViewerClient, store: Store, settings: Settings, source: Source, people: People
) -> None:
    foreign = new_source(store, settings, people.bob)
    body = json.dumps(run_event()).encode()
    for named in (foreign.id, "nothing", "a" * 12):
        answer = client.post(f"{EVENTS}?source={named}", data=body, headers=source.headers(body))
        assert answer.status_code == 401
    assert (
        client.post(f"{EVENTS}?source={source.id}", data=body, headers=source.headers(body)).status_code
        == 200
    )
    assert client.post(f"{EVENTS}?sauce=x", data=body, headers=source.headers(body)).status_code == 422


def test_revoked_secret_is_good_no_more(
    client: ViewerClient, store: Store, source: Source, people: People
) -> None:
    path = f"/api/v1/webhook-secrets/{source.id}"
    assert client.delete(path, headers=people.ada.headers).status_code == 204
    assert signed(client, source, run_event()).status_code == 401
    assert client.post(f"{path}/rotate", json={}, headers=people.ada.headers).status_code == 409
    assert client.delete(path, headers=people.ada.headers).status_code == 204
    revoked = [entry for entry in audited(store) if entry[2] == "webhook_secret.revoke"]
    assert [(entry[0], entry[3]) for entry in revoked] == [("acme", f"webhook_secret:{source.id}")]


def test_secret_of_another_tenant_is_not_there(
    client: ViewerClient, store: Store, settings: Settings, people: People
) -> None:
    foreign = new_source(store, settings, people.bob)
    path = f"/api/v1/webhook-secrets/{foreign.id}"
    assert client.delete(path, headers=people.ada.headers).status_code == 404
    assert client.post(f"{path}/rotate", json={}, headers=people.ada.headers).status_code == 404
    assert client.get("/api/v1/webhook-secrets", headers=people.ada.headers).json["items"] == []
    assert signed(client, foreign, run_event()).status_code == 200


def test_number_of_secrets_is_limited_and_each_can_be_rotated(client: ViewerClient, people: People) -> None:
    made = [ask_for_secret(client, people.ada, label="one") for _ in range(MOST_SECRETS)]
    refused = client.post("/api/v1/webhook-secrets", json={"label": "one more"}, headers=people.ada.headers)
    assert refused.status_code == 409
    newest = ask_for_secret(client, people.ada, f"/{made[-1]['id']}/rotate")
    assert signed(client, Source(newest["id"], newest["secret"]), run_event()).status_code == 200


def test_secret_is_nowhere_in_clear_but_in_the_answer_that_makes_it(
    client: ViewerClient, store: Store, people: People
) -> None:
    made = ask_for_secret(client, people.ada, label="openclaw")
    listed = client.get("/api/v1/webhook-secrets", headers=people.ada.headers).get_data(as_text=True)
    assert made["id"] in listed
    assert made["secret"] not in listed
    bare = made["secret"].removeprefix("whsec_")
    with store._database.reading() as orm:
        for table in Base.metadata.sorted_tables:
            assert all(bare not in str(row) for row in orm.execute(table.select())), table.name


def test_as_much_is_compared_whatever_there_is_to_try(
    client: ViewerClient, source: Source, store: Store, settings: Settings, people: People,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    compared: list[str] = []

    def count(message: Any, secret: str) -> bool:
        compared.append(secret)
        return is_signed_by(message, secret)

    monkeypatch.setattr("viewer.signatures.is_signed_by", count)
    counts = []
    for query in ("", f"?source={source.id}", "?source=nothing"):
        body = json.dumps(run_event()).encode()
        client.post(f"{EVENTS}{query}", data=body, headers=source.headers(body))
        counts.append(len(compared))
        compared.clear()
    assert counts == [MOST_TRIED] * 3


# --- bodies ---------------------------------------------------------------------------------------------

SEEDS_BODIES: list[dict[str, Any]] = [
    {"runId": "r1", "action": "start", "sessionKey": "agent:main:mission:t1", "prompt": "Do it",
     "source": "mission-control", "timestamp": "2026-03-14T10:00:00Z", "agentId": "main"},
    {"runId": "r1", "action": "progress", "message": "half way", "eventType": "tool:start"},
    {"runId": "r1", "action": "document", "agentId": "main",
     "document": {"title": "Report", "content": "# It went well", "type": "markdown", "path": "/tmp/r.md"}},
    {"runId": "r1", "action": "error", "error": "it fell over", "sessionKey": None, "agentId": None},
    {"runId": "r1", "action": "end", "response": "done", "timestamp": 1773482400000, "error": None,
     "prompt": None, "source": None, "message": None, "eventType": None},
]  # fmt: skip


@pytest.mark.parametrize("body", SEEDS_BODIES, ids=lambda body: body["action"])
def test_bodies_of_runs_are_accepted(
    client: ViewerClient, store: Store, people: People, body: dict[str, Any]
) -> None:
    answer = keyed(client, people.alice, body)
    assert answer.status_code == 200, answer.json
    assert answer.json["ok"] is True
    task = store.work("acme").task_of_run("r1")
    assert task is not None
    assert task.id == answer.json["task_id"]


def document_event(**fields: Any) -> dict[str, Any]:
    document = {"title": "Report", "content": "# It went well", "type": "markdown", **fields}
    return {"runId": "r1", "action": "document", "agentId": "main", "document": document}


def test_document_of_a_run_is_put_down_for_its_task(
    client: ViewerClient, store: Store, people: People
) -> None:
    first = keyed(client, people.alice, document_event(path="/tmp/r.md"), **{"webhook-id": "1"}).json
    assert first["did"] == ["agent-created", "task-created", "run-linked", "document-created"]
    document, content = store.documents("acme").content(first["document_id"])
    assert (document.task_id, document.agent_id, document.title) == (first["task_id"], "main", "Report")
    assert (document.type.value, document.path, content) == ("markdown", "/tmp/r.md", b"# It went well")
    again = keyed(client, people.alice, document_event(path="/tmp/r.md"), **{"webhook-id": "2"}).json
    assert (again["did"], again["document_id"]) == (["nothing"], document.id)
    changed = keyed(
        client, people.alice, document_event(path="/tmp/r.md", content="# Two"), **{"webhook-id": "3"}
    ).json
    assert (changed["did"], changed["document_id"]) == (["document-changed"], document.id)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"type": "html", "content": "<b>a</b>"}, "text"),
        ({"type": "image", "content": "https://foreign.example/a.png"}, "text"),
        ({"type": "MD"}, "markdown"),
        ({"type": "code", "title": "a\n\x01b" * 100}, "code"),
        ({"type": "file", "content": "YQ=="}, "file"),
    ],
)
def test_what_another_system_calls_a_document_becomes_one_of_ours(
    client: ViewerClient, store: Store, people: People, fields: dict[str, str], kind: str
) -> None:
    taken = keyed(client, people.alice, document_event(**fields)).json
    assert store.documents("acme").get(taken["document_id"]).type.value == kind


def test_document_shows_no_session_of_another_tenant(
    client: ViewerClient, store: Store, people: People
) -> None:
    theirs = running_session(store, people.bob, sandbox_id="b")
    ours = running_session(store, people.alice, sandbox_id="a")
    for name in ("b", theirs.id, UNKNOWN_ID):
        event = document_event(type="sandbox", content=json.dumps({"sandbox_id": name}))
        assert keyed(client, people.alice, event).status_code == 404
    assert store.work("acme").task_of_run("r1") is None
    event = document_event(type="sandbox", content=json.dumps({"event": "created", "sandbox_id": "a"}))
    taken = keyed(client, people.alice, event).json
    assert store.documents("acme").get(taken["document_id"]).session_id == ours.id


@pytest.mark.parametrize("event", ["created", "running", "terminated", "error"])
def test_bodies_of_sandboxes_are_accepted(
    client: ViewerClient, store: Store, people: People, event: str
) -> None:
    session = running_session(store, people.alice, sandbox_id="3f1f0a52-9d3b-4c55-8d0a-1e3f5a7b9c0d")
    body = sandbox_event(
        event, session.sandbox_id or "", agentId="main", sessionKey="agent:main:mission:t1",
        novnc_url="http://10.0.0.4:6080/vnc.html?autoconnect=true", vnc_endpoint="10.0.0.4:5900",
        devtools_url="http://10.0.0.4:9222", image="opensandbox/desktop:latest", resolution="1280x800x24",
        error="out of memory",
    )  # fmt: skip
    answer = keyed(client, people.alice, body)
    assert answer.status_code == 200, answer.json
    assert answer.json["session_id"] == session.id
    row = store.fleet.get(session.id)
    assert (row.status, row.task_id, row.agent_id) == (Status.RUNNING, "t1", "main")
    assert (row.terminate_requested_at is not None) == (event in ("terminated", "error"))
    assert row.error_message == ("out of memory" if event == "error" else None)
    assert (row.image, row.resolution) == ("desktop", "1280x800")
    assert "10.0.0.4" not in row.model_dump_json()


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"action": "start"}, "runId"),
        ({"runId": "r"}, "action"),
        ({"runId": 7, "action": "start"}, "runId"),
        ({"runId": "", "action": "start"}, "runId"),
        ({"runId": "r\x00", "action": "start"}, "runId"),
        ({"runId": "r" * 201, "action": "start"}, "runId"),
        ({"runId": "r", "action": "start", "prompt": "a\x00b"}, "prompt"),
        ({"runId": "r", "action": "start", "tenantId": "bolt"}, "tenantId"),
        ({"runId": "r", "action": "start", "run_id": "x"}, "run_id"),
        ({"runId": "r", "action": "start", "timestamp": 1e300}, "timestamp"),
        ({"runId": "r", "action": "start", "agentId": {}}, "agentId"),
        ({"runId": "r", "action": "start", "sessionKey": "mission:" + "t" * 201}, "sessionKey"),
        ({"runId": "r", "action": "sandbox"}, "document"),
        ({"runId": "r", "action": "start", "document": {"title": "t"}}, "document.content"),
        ({"runId": "r", "action": "sandbox", "document": {"title": "t", "type": "md", "content": "{}"}},
         "document.type"),
        *[
            ({"runId": "r", "action": "sandbox",
              "document": {"title": "t", "type": "sandbox", "content": content}}, field)
            for content, field in [
                ("", "document.content"),
                ("nonsense", "document.content"),
                ("[]", "document.content"),
                ("[" * 30_000, "document.content"),
                ('{"event": "running"}', "document.content.sandbox_id"),
                ('{"sandbox_id": "x"}', "document.content.event"),
                ('{"event": "revived", "sandbox_id": "x"}', "document.content.event"),
                ('{"event": "running", "sandbox_id": 7}', "document.content.sandbox_id"),
                ('{"event": "running", "sandbox_id": "x", "host": "here"}', "document.content.host"),
                ('{"event": "running", "sandbox_id": "x", "tenant": "bolt"}', "document.content.tenant"),
                ('{"event": "running", "sandbox_id": "x", "resolution": "9x9"}',
                 "document.content.resolution"),
                ('{"event": "running", "sandbox_id": "x", "novnc_url": {}}', "document.content.novnc_url"),
                ('{"event": "running", "sandbox_id": "x\\u0000"}', "document.content.sandbox_id"),
                ('{"event": "running", "sandbox_id": "\\ud800"}', "document.content"),
                ('{"event": "running", "sandbox_id": "../../health"}', "document.content.sandbox_id"),
                ('{"event": "running", "sandbox_id": "x/proxy/8080"}', "document.content.sandbox_id"),
                ('{"event": "running", "sandbox_id": "x?y=z"}', "document.content.sandbox_id"),
                ('{"event": "running", "sandbox_id": "x%2f.."}', "document.content.sandbox_id"),
                ('{"event": "running", "sandbox_id": "x\\n"}', "document.content.sandbox_id"),
            ]
        ],
    ],
)  # fmt: skip
def test_field_that_cannot_be_used_is_named_with_what_mends_it(
    client: ViewerClient, store: Store, people: People, event: dict[str, Any], field: str
) -> None:
    before = everything(store)
    answer = keyed(client, people.alice, event)
    assert answer.status_code == 422, answer.json
    assert field in [error["field"] for error in answer.json["errors"]], answer.json
    assert all(error["mend"] for error in answer.json["errors"])
    assert everything(store) == before


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"a":' * 10_000, "application/json", 400),
        (b'{"runId": "\\ud800", "action": "start"}', "application/json", 400),
        (b'{"runId": "\xff", "action": "start"}', "application/json", 400),
        (b'{"runId": NaN, "action": "start"}', "application/json", 400),
        (b'{"timestamp": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"runId": "r", "action": "start"}', "text/plain", 415),
        (b'{"runId": "r", "action": "start"' + b" " * MOST_BODY_BYTES + b"}", "application/json", 413),
    ],
)
@pytest.mark.parametrize("how", ["key", "signature"])
def test_body_that_is_no_event_is_refused(
    client: ViewerClient, source: Source, people: People, how: str, body: bytes, kind: str, status: int
) -> None:
    headers = {**(people.alice.headers if how == "key" else source.headers(body)), "Content-Type": kind}
    answer = client.post(EVENTS, data=body, headers=headers)
    assert answer.status_code == status, answer.json
    ProblemDocument.model_validate_json(answer.get_data())


@pytest.mark.real
@pytest.mark.soak
@examples_of(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: json.dumps({"runId": "r", "action": "sandbox", "document": value}).encode()),
    named=st.text(max_size=20),
)
def test_body_of_any_bytes_gets_an_answer(
    client: ViewerClient, source: Source, people: People, body: bytes, named: str
) -> None:
    for headers, query in ((source.headers(body), {}), (people.alice.headers, {"source": named})):
        kind = {"Content-Type": "application/json"}
        answer = client.post(EVENTS, data=body, headers={**headers, **kind}, query_string=query)
        assert 400 <= answer.status_code < 429
        ProblemDocument.model_validate_json(answer.get_data())


# --- once -----------------------------------------------------------------------------------------------


def test_event_that_comes_again_gets_its_first_answer(
    client: ViewerClient, source: Source, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    first = signed(client, source, sandbox_event("terminated", "box-1"))
    before = everything(store)
    again = signed(client, source, sandbox_event("terminated", "box-1"), at=time.time() - 30)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.get_data()) == (first.status_code, first.get_data())
    assert first.json["did"] == ["task-created", "run-linked", "session-linked", "end-requested"]
    assert everything(store) == before
    assert (
        len([step for step in store.tenant("acme").history(session.id) if step.reason == "terminating"]) == 1
    )


def test_id_that_was_another_events_is_refused(client: ViewerClient, source: Source, store: Store) -> None:
    assert signed(client, source, run_event(run="one")).status_code == 200
    before = everything(store)
    answer = signed(client, source, run_event(run="two"))
    assert (answer.status_code, answer.json["type"]) == (409, "urn:deskfleet:problem:id-reused")
    assert everything(store) == before


def test_same_id_of_another_tenant_is_another_event(
    client: ViewerClient, source: Source, store: Store, settings: Settings, people: People
) -> None:
    foreign = new_source(store, settings, people.bob)
    assert signed(client, source, run_event(run="one")).status_code == 200
    answer = signed(client, foreign, run_event(run="two"))
    assert answer.status_code == 200
    assert "Idempotent-Replayed" not in answer.headers


def test_event_with_a_key_is_known_again_by_its_bytes_for_a_day(
    client: ViewerClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Idempotent-Replayed" not in keyed(client, people.alice, run_event()).headers
    assert "Idempotent-Replayed" in keyed(client, people.alice, run_event()).headers
    assert "Idempotent-Replayed" not in keyed(client, people.bob, run_event()).headers
    tomorrow = utcnow() + event_intake.BODY_LIFE
    monkeypatch.setattr(event_intake, "utcnow", lambda: tomorrow)
    assert "Idempotent-Replayed" not in keyed(client, people.alice, run_event()).headers
    assert "Idempotent-Replayed" in keyed(client, people.alice, run_event()).headers


def test_event_with_a_key_may_have_an_id_of_its_own(client: ViewerClient, people: People) -> None:
    ids = {"webhook-id": "a"}
    assert keyed(client, people.alice, run_event(), **ids).status_code == 200
    assert "Idempotent-Replayed" in keyed(client, people.alice, run_event(), **ids).headers
    assert keyed(client, people.alice, run_event(run="b"), **ids).status_code == 409
    assert keyed(client, people.alice, run_event(), **{"webhook-id": "a b"}).status_code == 400


def test_event_about_a_sandbox_that_is_not_there_yet_can_be_sent_again(
    client: ViewerClient, source: Source, store: Store, people: People
) -> None:
    event = sandbox_event("running", "box-1")
    before = everything(store)
    assert signed(client, source, event).status_code == 404
    assert everything(store) == before
    running_session(store, people.alice)
    taken = signed(client, source, event)
    assert taken.status_code == 200
    assert "Idempotent-Replayed" not in taken.headers


def test_receipts_are_forgotten_with_the_events_and_never_within_a_day(
    client: ViewerClient, source: Source, store: Store
) -> None:
    signed(client, source, run_event())
    later = utcnow() + timedelta(minutes=1)
    store.fleet.purge(events_before=later, sessions_ended_before=later)
    assert receipts(store) == [("acme", "id:msg_1")]
    with store._database.writing() as orm:
        for row in orm.query(ReceiptRow):
            row.received_at = utcnow() - timedelta(days=2)
    store.fleet.purge(events_before=later - timedelta(days=3), sessions_ended_before=later)
    assert receipts(store) == [("acme", "id:msg_1")]
    store.fleet.purge(events_before=later, sessions_ended_before=later)
    assert receipts(store) == []


# --- tasks and agents -----------------------------------------------------------------------------------


def test_run_of_a_mission_is_that_tasks(client: ViewerClient, store: Store, people: People) -> None:
    client.post("/api/v1/tasks", json={"id": "t1", "title": "Mine"}, headers=people.alice.headers)
    first = keyed(client, people.alice, run_event(sessionKey="x:mission:t1", prompt="Another title"))
    later = keyed(client, people.alice, run_event("end"))
    assert (first.json["task_id"], later.json["task_id"]) == ("t1", "t1")
    task = store.work("acme").task("t1")
    assert (task.title, task.external_run_id) == ("Mine", "run-7")


def test_second_run_of_a_mission_leaves_the_first_ones_link(
    client: ViewerClient, store: Store, people: People
) -> None:
    for run in ("r1", "r2"):
        answer = keyed(client, people.alice, run_event(run=run, sessionKey="mission:t1"))
        assert answer.json["task_id"] == "t1"
    assert store.work("acme").task("t1").external_run_id == "r1"


def test_agent_is_found_by_its_name_and_made_where_it_is_not_known(
    client: ViewerClient, store: Store, people: People
) -> None:
    client.post("/api/v1/agents", json={"id": "a-1", "name": "clerk"}, headers=people.alice.headers)
    assert keyed(client, people.alice, run_event(agentId="clerk")).json["agent_id"] == "a-1"
    assert keyed(client, people.alice, run_event(agentId="a-1")).json["agent_id"] == "a-1"
    assert keyed(client, people.bob, run_event(agentId="clerk")).json["agent_id"] == "clerk"
    assert [agent.id for agent in store.work("acme").agents(None, 9).items] == ["a-1"]


def test_title_is_one_short_line(client: ViewerClient, store: Store, people: People) -> None:
    keyed(client, people.alice, run_event(prompt="\n  Pay\tthe \x1b[31minvoices\n" + "and " * 100))
    task = store.work("acme").task_of_run("run-7")
    assert task is not None
    assert task.title is not None
    assert task.title.startswith("Pay the [31minvoices and and")
    assert len(task.title) <= 120


# --- sessions -------------------------------------------------------------------------------------------


def test_sandbox_of_our_opensandbox_api_goes_by_its_sessions_id(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = new_session(store, people.alice)
    answer = keyed(client, people.alice, sandbox_event("created", session.id))
    assert answer.json["session_id"] == session.id
    assert store.fleet.get(session.id).status is Status.CREATING, "running means that a frame was seen"


def test_link_that_a_session_has_stays(client: ViewerClient, store: Store, people: People) -> None:
    running_session(store, people.alice, task_id="first", agent_id="one")
    keyed(client, people.alice, sandbox_event("running", "box-1", sessionKey="mission:t2", agentId="two"))
    row = store.fleet.live_sessions()[0]
    assert (row.task_id, row.agent_id) == ("first", "one")


@pytest.mark.parametrize("event", ["created", "running", "terminated", "error"])
@pytest.mark.parametrize("end", [Status.TERMINATED, Status.ERROR])
def test_late_event_changes_nothing_of_what_has_ended(
    client: ViewerClient, store: Store, people: People, event: str, end: Status
) -> None:
    session = running_session(store, people.alice)
    ended = store.fleet.transition(session.id, end, error_message="first")
    answer = keyed(client, people.alice, sandbox_event(event, "box-1", error="late", agentId="main"))
    assert answer.status_code == 200
    assert answer.json["session_id"] == session.id
    assert store.fleet.get(session.id) == ended


def test_persistent_desktop_is_no_sandbox(client: ViewerClient, store: Store, people: People) -> None:
    desktop = kasmvnc_desktop(store, people.alice)
    for name in ("studio", desktop.id):
        assert keyed(client, people.alice, sandbox_event("terminated", name)).status_code == 404
    assert store.fleet.get(desktop.id).terminate_requested_at is None


@pytest.mark.parametrize("event", ["created", "running", "terminated", "error"])
@pytest.mark.parametrize("gives", [False, True], ids=["", "adopting"])
def test_sandbox_of_another_tenant_is_as_one_that_never_was(
    client: ViewerClient, app: Flask, store: Store, people: People, event: str, gives: bool
) -> None:
    """Also where the host that carries it gives its foreign sandboxes to whoever asks."""
    services = app.extensions["deskfleet"]
    if gives:
        hosts = tuple(host.model_copy(update={"adopt": "bolt"}) for host in services.settings.hosts)
        services.settings = services.settings.model_copy(update={"hosts": hosts})
    session = running_session(store, people.alice, task_id="t1", agent_id="a1")
    client.post("/api/v1/tasks", json={"id": "t1", "external_run_id": "of-a"}, headers=people.alice.headers)
    mine = store.fleet.get(session.id), store.work("acme").tasks(None, 9), store.work("acme").agents(None, 9)

    def answer_about(sandbox_id: str, run: str, mission: str) -> tuple[int, Any]:
        body = sandbox_event(event, sandbox_id, run=run, sessionKey=f"mission:{mission}", agentId="a1")
        answer = keyed(client, people.bob, body)
        told = {k: v for k, v in answer.json.items() if k not in ("session_id", "task_id", "did")}
        return answer.status_code, told

    unknown = answer_about("box-9", "of-nobody", "t9")
    for sandbox_id in ("box-1", session.id):
        assert answer_about(sandbox_id, "of-a", "t1") == unknown
    assert unknown[0] == (200 if gives and event in ("created", "running") else 404)
    now = store.fleet.get(session.id), store.work("acme").tasks(None, 9), store.work("acme").agents(None, 9)
    assert now == mine


def test_sandboxes_that_are_looked_for_at_once_are_few(
    client: ViewerClient, app: Flask, store: Store, people: People
) -> None:
    services = app.extensions["deskfleet"]
    hosts = tuple(host.model_copy(update={"adopt": "acme"}) for host in services.settings.hosts)
    services.settings = services.settings.model_copy(update={"hosts": hosts})
    for number in range(MOST_SOUGHT):
        answer = keyed(client, people.alice, sandbox_event("created", f"box-{number}"))
        assert answer.json["did"][-1] == "session-claimed"
    refused = keyed(client, people.alice, sandbox_event("created", "one-more"))
    assert (refused.status_code, refused.json["type"]) == (429, "urn:deskfleet:problem:too-many-sought")
    assert keyed(client, people.alice, sandbox_event("running", "box-1")).status_code == 200
    assert keyed(client, people.alice, sandbox_event("terminated", "box-1")).status_code == 200
    sought = [row for row in store.fleet.live_sessions() if row.is_sought]
    assert {row.via for row in sought} == {Via.WEBHOOK}
    assert len(sought) == MOST_SOUGHT
    assert store.fleet.queue() == {}, "they wait for no place"


HOSTILE = st.one_of(
    st.sampled_from(
        [
            "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,<script>", "file:///etc/passwd",
            "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:8080/v1/sandboxes",
            f"{ORIGIN}/view/{UNKNOWN_ID}", "//evil.example", "\\\\evil", "", " ", "vnc://u:p@host:1",
        ]
    ),
    st.builds(
        "{}://{}/{}".format,
        st.sampled_from(["http", "https", "ws", "blob", "about", "view-source"]),
        st.text(min_size=1, max_size=12),
        st.text(max_size=12),
    ),
    st.text(max_size=60),
)  # fmt: skip


@pytest.mark.real
@pytest.mark.soak
@examples_of(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    urls=st.dictionaries(st.sampled_from(["novnc_url", "vnc_endpoint", "devtools_url"]), HOSTILE, min_size=1),
    event=st.sampled_from(["created", "running"]),
)
def test_address_in_an_event_changes_nothing(
    client: ViewerClient, store: Store, people: People, urls: dict[str, str], event: str
) -> None:
    rows = store.fleet.live_sessions()
    session = rows[0] if rows else running_session(store, people.alice, task_id="t", agent_id="a")
    shown = client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).json
    answer = keyed(client, people.alice, sandbox_event(event, "box-1", **urls))
    assert answer.status_code == (422 if any("\x00" in url for url in urls.values()) else 200)
    now = client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).json
    assert now == shown
