"""Documents: what the API takes, keeps, hands out and forgets, and to whom."""

from __future__ import annotations

import base64
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from PIL import Image

import viewer.documents
from tests.viewer_fixtures import UNKNOWN_ID, People, Person, ViewerClient, new_session, running_session
from viewer.document_content import LONGEST_SIDE
from viewer.document_requests import MOST_FILE_BYTES, MOST_TEXT_BYTES
from viewer.documents import DocumentFilter, NewDocument
from viewer.model import DocumentType, Status, utcnow
from viewer.store import Store

OCTETS = "application/octet-stream"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def put(client: ViewerClient, who: Person, *, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"title": "Notes", "type": "text", "content": "hello", **fields}
    return client.post("/api/v1/documents", json=body, headers={**who.headers, **(headers or {})})


def get(client: ViewerClient, who: Person, path: str) -> Any:
    return client.get(f"/api/v1/documents{path}", headers=who.headers)


def picture(kind: str = "PNG", size: tuple[int, int] = (3, 2)) -> str:
    data = io.BytesIO()
    Image.new("RGB", size).save(data, kind)
    return base64.b64encode(data.getvalue()).decode()


def new(content: bytes = b"a", **fields: Any) -> NewDocument:
    values = {"title": "Notes", "type": DocumentType.TEXT, "media_type": "text/plain", "created_by": "test"}
    return NewDocument.model_validate({**values, "content": content, **fields})


def test_document_comes_back_as_it_was_put_down(client: ViewerClient, people: People) -> None:
    made = put(client, people.alice, task_id="t-1", agent_id="coder", content="größe\n", path="out/notes.txt")
    assert made.status_code == 201
    document = made.json
    assert (document["title"], document["type"], document["size"]) == ("Notes", "text", 8)
    assert made.headers["Location"] == f"/api/v1/documents/{document['id']}"
    assert get(client, people.wanda, f"/{document['id']}").json == document
    assert get(client, people.wanda, "?task_id=t-1").json["items"] == [document]
    assert get(client, people.wanda, "?task_id=t-2").json["items"] == []
    assert get(client, people.wanda, "?type=code").json["items"] == []
    answer = get(client, people.wanda, f"/{document['id']}/content")
    assert answer.get_data(as_text=True) == "größe\n"
    # What it names is there now, as for a session.
    assert client.get("/api/v1/tasks/t-1", headers=people.alice.headers).status_code == 200
    assert client.get("/api/v1/agents/coder", headers=people.alice.headers).status_code == 200


def test_another_tenants_document_is_one_that_never_was(client: ViewerClient, people: People) -> None:
    ours = put(client, people.alice).json["id"]
    for path in ("", "/content", "/view"):
        answers = [get(client, people.bob, f"/{name}{path}") for name in (ours, UNKNOWN_ID)]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].get_data() == answers[1].get_data()
    assert client.delete(f"/api/v1/documents/{ours}", headers=people.bob.headers).status_code == 404
    assert get(client, people.bob, "").json["items"] == []
    assert get(client, people.alice, f"/{ours}").status_code == 200


def test_another_tenants_session_cannot_be_named_and_ours_brings_task_and_agent(
    client: ViewerClient, store: Store, people: People
) -> None:
    ours = running_session(store, people.alice, task_id="t-1", agent_id="coder")
    theirs = running_session(store, people.bob, sandbox_id="b")
    made = put(client, people.alice, session_id=ours.id).json
    assert (made["session_id"], made["task_id"], made["agent_id"]) == (ours.id, "t-1", "coder")
    answers = [put(client, people.alice, session_id=name) for name in (theirs.id, "b", UNKNOWN_ID)]
    assert {(answer.status_code, answer.json["errors"][0]["field"]) for answer in answers} == {
        (422, "session_id")
    }
    assert len({answer.get_data() for answer in answers}) == 1


def test_a_sandbox_that_several_sessions_had_is_that_of_the_one_that_lives(
    client: ViewerClient, store: Store, people: People
) -> None:
    """As an event that names it has it: tests/test_webhooks_in.py."""
    lives = running_session(store, people.alice)
    claimed = store.fleet.update(new_session(store, people.alice).id, sandbox_id="box-2")
    store.fleet.transition(claimed.id, Status.TERMINATED)
    store.fleet.update(lives.id, sandbox_id="box-2")
    assert put(client, people.alice, session_id="box-2").json["session_id"] == lives.id


def test_same_task_and_path_is_the_same_document(client: ViewerClient, people: People) -> None:
    at: dict[str, Any] = {"task_id": "t-1", "path": "report.md", "type": "markdown"}
    first = put(client, people.alice, content="# One", **at)
    again = put(client, people.alice, content="# One", **at)
    assert (again.status_code, again.json) == (200, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"
    second = put(client, people.alice, content="# Two", **at)
    assert (second.status_code, second.json["id"]) == (200, first.json["id"])
    assert second.json["sha256"] != first.json["sha256"]
    assert get(client, people.alice, f"/{first.json['id']}/content").get_data() == b"# Two"
    assert put(client, people.alice, content="# Two", **{**at, "task_id": "t-2"}).status_code == 201
    assert put(client, people.bob, content="# Two", **at).status_code == 201


def test_idempotency_key_finds_what_was_made_and_is_good_for_nothing_else(
    client: ViewerClient, people: People
) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = put(client, people.alice, headers=key)
    again = put(client, people.alice, headers=key)
    assert (first.status_code, again.status_code, again.json) == (201, 200, first.json)
    other = put(client, people.alice, headers=key, content="another")
    assert (other.status_code, other.json["errors"][0]["field"]) == (422, "Idempotency-Key")
    theirs = put(client, people.bob, headers=key)
    assert (theirs.status_code, theirs.json["id"] == first.json["id"]) == (201, False)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": "a\nb"}, "title"),
        ({"type": "html"}, "type"),
        ({"content": "a" * (MOST_TEXT_BYTES + 1)}, "content"),
        ({"content": "%%%", "encoding": "base64"}, "content"),
        ({"content": base64.b64encode(b"\xff\xfe").decode(), "encoding": "base64"}, "content"),
        ({"type": "file", "content": "A" * (MOST_FILE_BYTES // 3 * 4 + 8)}, "content"),
        ({"type": "image", "content": base64.b64encode(SVG.encode()).decode()}, "content"),
        ({"type": "image", "content": base64.b64encode(b"GIF89a").decode()}, "content"),
        ({"type": "image", "content": picture("BMP")}, "content"),
        ({"type": "image", "content": picture(size=(LONGEST_SIDE + 1, 1))}, "content"),
        ({"type": "file", "media_type": "text/html; x"}, "media_type"),
        ({"path": "a\x00b"}, "path"),
        ({"type": "sandbox", "content": "{}"}, "session_id"),
        ({"type": "sandbox", "content": "not json"}, "content"),
        ({"tenant_id": "bolt"}, "tenant_id"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_field(
    client: ViewerClient, people: People, fields: dict[str, Any], field: str
) -> None:
    answer = put(client, people.alice, **fields)
    assert (answer.status_code, [error["field"] for error in answer.json["errors"]]) == (422, [field])
    assert get(client, people.alice, "").json["items"] == []


def test_only_this_route_takes_a_large_body(client: ViewerClient, people: People) -> None:
    content = base64.b64encode(b"x" * MOST_FILE_BYTES).decode()
    made = put(client, people.alice, type="file", content=content)
    assert (made.status_code, made.json["size"]) == (201, MOST_FILE_BYTES)
    too_much = client.post(
        "/api/v1/documents", json={"content": "a" * (13 * 1024 * 1024)}, headers=people.alice.headers
    )
    assert too_much.status_code == 413
    elsewhere = client.post("/api/v1/tasks", json={"id": "a" * 70_000}, headers=people.alice.headers)
    assert elsewhere.status_code == 413


@pytest.mark.parametrize(
    ("fields", "kind", "shown"),
    [
        ({"type": "text", "content": "<script>alert(1)</script>"}, "text/plain", "attachment"),
        ({"type": "markdown", "content": "# a"}, "text/plain", "attachment"),
        ({"type": "file", "media_type": "text/html", "content": "PGI+"}, OCTETS, "attachment"),
        (
            {"type": "file", "media_type": "image/svg+xml", "content": SVG, "encoding": "text"},
            OCTETS,
            "attachment",
        ),
        ({"type": "image", "media_type": "text/html", "content": picture("WEBP")}, "image/webp", "inline"),
        ({"type": "image", "content": picture()}, "image/png", "inline"),
    ],
)  # fmt: skip
def test_content_is_handed_out_so_that_nothing_of_it_runs(
    client: ViewerClient, people: People, fields: dict[str, Any], kind: str, shown: str
) -> None:
    title = 'a"; filename=evil.html\u202egpj.\u00e9'
    document = put(client, people.alice, title=title, **fields).json
    answer = get(client, people.alice, f"/{document['id']}/content")
    assert answer.mimetype == kind
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"].split("; ")
    disposition = answer.headers["Content-Disposition"]
    assert disposition.partition(";")[0] == shown
    assert disposition.count('"') == 2
    assert disposition.isascii()


def test_a_session_is_shown_as_it_is_and_when_it_is_gone(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    content = json.dumps({"event": "created", "sandbox_id": session.sandbox_id})
    document = put(client, people.alice, type="sandbox", content=content).json
    assert document["session_id"] == session.id
    shown = get(client, people.alice, f"/{document['id']}/view").json["session"]
    assert (shown["id"], shown["status"]) == (session.id, "running")
    store.fleet.transition(session.id, Status.TERMINATED)
    assert get(client, people.alice, f"/{document['id']}/view").json["session"]["status"] == "terminated"
    later = utcnow() + timedelta(days=1)
    # Its session is gone, and it stays for as long as one that ended when it was put down.
    store.fleet.purge(events_before=utcnow() - timedelta(1), sessions_ended_before=later)
    assert get(client, people.alice, f"/{document['id']}/view").status_code == 404


def test_documents_are_forgotten_with_ended_sessions_and_never_before_their_own(
    store: Store, people: People
) -> None:
    documents = store.documents("acme")
    session = running_session(store, people.alice)
    kept = documents.put(new(session_id=session.id)).document
    documents.put(new(title="Old"))
    later, before = utcnow() + timedelta(days=1), utcnow() - timedelta(days=1)
    store.fleet.purge(events_before=before, sessions_ended_before=before)
    assert len(documents.list(DocumentFilter(), None, 10).items) == 2
    store.fleet.purge(events_before=before, sessions_ended_before=later)
    assert documents.list(DocumentFilter(), None, 10).items == (kept,)


def test_pages_follow_each_other_without_a_gap(store: Store, people: People) -> None:
    documents = store.documents("acme")
    made = [documents.put(new(title=f"N {number}")).document.id for number in range(5)]
    seen, cursor = [], None
    while True:
        page = documents.list(DocumentFilter(), cursor, 2)
        seen += [document.id for document in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == made[::-1]


def test_tenant_keeps_no_more_than_it_may(
    client: ViewerClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.documents, "MOST_DOCUMENTS", 2)
    monkeypatch.setattr(viewer.documents, "MOST_BYTES", 10)
    first = put(client, people.alice, task_id="t", path="a", content="12345").json["id"]
    too_large = put(client, people.alice, content="123456")
    assert (too_large.status_code, too_large.json["type"]) == (409, "urn:deskfleet:problem:documents-full")
    assert put(client, people.alice, task_id="t", path="a", content="1234567890").status_code == 200
    assert put(client, people.alice, content="").status_code == 201
    assert put(client, people.alice, content="").status_code == 409
    assert put(client, people.bob, content="123456").status_code == 201
    assert client.delete(f"/api/v1/documents/{first}", headers=people.alice.headers).status_code == 204
    assert put(client, people.alice, content="123456").status_code == 201


def test_every_change_is_told_and_written_down(client: ViewerClient, store: Store, people: People) -> None:
    at: dict[str, Any] = {"task_id": "t-1", "path": "a.txt"}
    made = put(client, people.alice, content="1", **at).json
    put(client, people.alice, content="1", **at)
    put(client, people.alice, content="2", **at)
    client.delete(f"/api/v1/documents/{made['id']}", headers=people.alice.headers)
    told = [event for event in store.tenant("acme").events_after(0) if event.document is not None]
    assert [event.document.change for event in told if event.document] == ["created", "changed", "deleted"]
    assert {event.document.document.id for event in told if event.document} == {made["id"]}
    assert {event.webhook_type for event in told} == {None}
    assert store.tenant("bolt").events_after(0) == []
    entries = client.get("/api/v1/audit?action=document", headers=people.ada.headers).json["items"]
    assert [entry["action"] for entry in entries] == ["document.delete", "document.change", "document.create"]


@pytest.mark.sqlite
def test_lists_enter_their_indexes(store: Store) -> None:
    from tests.test_query_plans import CURSOR, explained

    for wanted, index in (
        (DocumentFilter(), "ix_documents_tenant "),
        (DocumentFilter(task_id="t"), "ix_documents_tenant_task"),
        (DocumentFilter(session_id="s"), "ix_documents_tenant_session"),
        (DocumentFilter(type=DocumentType.CODE), "ix_documents_tenant_type"),
    ):
        with explained(store) as plans:
            store.documents("acme").list(wanted, CURSOR, 50)
        assert index in plans[0]
        assert "TEMP B-TREE" not in plans[0]
