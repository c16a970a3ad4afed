from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import viewer.new_sessions
import viewer.session_api
import viewer.waiting
from tests.viewer_fixtures import (
    ORIGIN,
    OTHER_ORIGIN,
    UNKNOWN_ID,
    People,
    Person,
    ViewerClient,
    new_session,
    running_session,
    waiting,
)
from viewer.app import create_app
from viewer.credentials import open_secret
from viewer.fleet_store import DeclaredDesktop
from viewer.model import HostStatus, Session, Status
from viewer.services import Services, Slots
from viewer.settings import Settings
from viewer.store import Store

FIELDS = [
    "id", "tenant_id", "kind", "display", "backend", "status", "status_reason", "sandbox_id", "host",
    "host_status", "image", "resolution", "task_id", "agent_id", "labels", "cpu", "memory", "queue_position",
    "help", "wanted_status", "is_warm", "via", "created_by", "page_url", "novnc_url", "vnc_endpoint",
    "devtools_url", "error_message", "created_at", "updated_at", "last_used_at", "idle_ends_at", "expires_at",
    "lifetime_ends_at", "terminated_at",
]  # fmt: skip


@pytest.fixture
def worker(store: Store) -> Any:
    """Imitates the worker: does one thing, in a thread, to the first session that is waiting to be made."""
    threads: list[threading.Thread] = []

    def act(what: Callable[[Session], object]) -> None:
        def run() -> None:
            while not (found := waiting(store)):
                store.wait_for_change(0.02)
            what(found[0])

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield act
    for thread in threads:
        thread.join(timeout=5)


def test_create_waits_for_the_first_frame(
    client: ViewerClient, store: Store, people: People, worker: Any
) -> None:
    worker(
        lambda new: store.fleet.transition(
            new.id, Status.RUNNING, host="here", sandbox_id="box", vnc_port=40001
        )
    )
    answer = client.post("/api/v1/sessions", json={"task_id": "t-1"}, headers=people.alice.headers)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/sessions/{answer.json['id']}"
    assert list(answer.json) == FIELDS
    assert (answer.json["status"], answer.json["sandbox_id"], answer.json["task_id"]) == (
        "running",
        "box",
        "t-1",
    )


def test_create_answers_soon_after_the_worker(
    client: ViewerClient, store: Store, people: People, worker: Any
) -> None:
    ready: list[float] = []

    def make(new: Session) -> None:
        time.sleep(0.1)
        store.fleet.transition(new.id, Status.RUNNING, host="here", sandbox_id="box", vnc_port=40001)
        ready.append(time.monotonic())

    worker(make)
    client.post("/api/v1/sessions", json={}, headers=people.alice.headers)
    assert time.monotonic() - ready[0] < 0.5


def test_create_without_waiting_answers_at_once(client: ViewerClient, store: Store, people: People) -> None:
    answer = client.post("/api/v1/sessions", json={"wait": False}, headers=people.alice.headers)
    assert answer.status_code == 202
    assert answer.json["status"] == "creating"
    [session] = waiting(store)
    assert (session.image, session.resolution, session.ttl_seconds) == ("desktop", "1280x800", 3600)
    assert session.created_by.startswith("key:")


def test_create_that_the_worker_never_takes_up_is_answered_as_creating(
    client: ViewerClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.session_api, "_DEADLINE_GRACE_SECONDS", -1.9)
    answer = client.post("/api/v1/sessions", json={}, headers=people.alice.headers)
    assert (answer.status_code, answer.json["status"]) == (202, "creating")


@pytest.mark.parametrize(
    ("host", "seen", "status"),
    [("here", HostStatus.OK, 502), ("here", HostStatus.UNREACHABLE, 503), (None, HostStatus.OK, 503)],
)
def test_failed_create_names_the_session_and_the_reason(
    client: ViewerClient,
    store: Store,
    people: People,
    worker: Any,
    host: str | None,
    seen: HostStatus,
    status: int,
) -> None:
    store.fleet.record_host_status("here", seen)
    worker(
        lambda new: store.fleet.transition(new.id, Status.ERROR, host=host, error_message="It is not there.")
    )
    answer = client.post("/api/v1/sessions", json={}, headers=people.alice.headers)
    assert answer.status_code == status
    assert answer.json["error_message"] == "It is not there."
    assert ("Retry-After" in answer.headers) == (status == 503)
    row = client.get(f"/api/v1/sessions/{answer.json['session_id']}", headers=people.alice.headers).json
    assert (row["status"], row["error_message"]) == ("error", "It is not there.")


def test_ended_while_being_made_is_a_conflict(
    client: ViewerClient, store: Store, people: People, worker: Any
) -> None:
    worker(lambda new: store.fleet.transition(new.id, Status.TERMINATED))
    answer = client.post("/api/v1/sessions", json={}, headers=people.alice.headers)
    assert (answer.status_code, answer.json["type"]) == (409, "urn:deskfleet:problem:ended-while-created")


def test_when_too_many_wait_a_create_is_answered_without_waiting(
    app: Flask, client: ViewerClient, people: People
) -> None:
    services: Services = app.extensions["deskfleet"]
    services.waits = Slots(0, per_tenant=0, per_principal=0)
    assert client.post("/api/v1/sessions", json={}, headers=people.alice.headers).status_code == 202


def test_one_tenant_cannot_have_every_place_to_wait(
    app: Flask, client: ViewerClient, store: Store, people: People, worker: Any
) -> None:
    services: Services = app.extensions["deskfleet"]
    services.waits = Slots(2, per_tenant=1, per_principal=1)
    ada = store.accounts.principal_of_key(people.ada.key)
    assert ada is not None
    assert services.waits.take(ada)
    of_her_tenant = client.post("/api/v1/sessions", json={}, headers=people.alice.headers)
    store.fleet.transition(of_her_tenant.json["id"], Status.TERMINATED)
    worker(lambda new: store.fleet.transition(new.id, Status.TERMINATED))
    other = client.post("/api/v1/sessions", json={}, headers=people.bob.headers)
    assert (of_her_tenant.status_code, other.status_code) == (202, 409)


def test_one_tenant_cannot_fill_the_line_of_what_is_to_be_made(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.new_sessions, "MOST_CREATING", 2)

    def create(person: Person) -> Any:
        return client.post("/api/v1/sessions", json={"wait": False}, headers=person.headers)

    first = create(people.alice).json
    assert create(people.ada).status_code == 202
    refused = create(people.alice)
    assert (refused.status_code, refused.mimetype) == (429, "application/problem+json")
    assert refused.json["type"] == "urn:deskfleet:problem:too-many-creating"
    assert int(refused.headers["Retry-After"]) > 0
    assert len(waiting(store)) == 2
    assert create(people.bob).status_code == 202
    store.fleet.transition(first["id"], Status.ERROR, error_message="It is not there.")
    assert create(people.alice).status_code == 202


def test_each_session_gets_a_password_of_its_own_that_only_the_fleets_key_opens(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    for _ in range(2):
        client.post("/api/v1/sessions", json={"wait": False}, headers=people.alice.headers)
    sealed = [session.vnc_password_sealed or "" for session in waiting(store)]
    one, two = (open_secret(text, settings.secret_key) for text in sealed)
    assert one != two
    assert re.fullmatch(r"[A-Za-z0-9]{8}", one)


def test_image_without_a_display_offers_no_stream(client: ViewerClient, people: People) -> None:
    answer = client.post(
        "/api/v1/sessions", json={"image": "shell", "wait": False}, headers=people.alice.headers
    ).json
    assert (answer["display"], answer["resolution"], answer["vnc_endpoint"], answer["novnc_url"]) == (
        "none",
        None,
        None,
        None,
    )


@pytest.mark.parametrize("image", ["desktop", "opensandbox/desktop", "opensandbox/desktop:latest"])
def test_alias_of_an_image_is_the_image(client: ViewerClient, people: People, image: str) -> None:
    answer = client.post(
        "/api/v1/sessions", json={"image": image, "wait": False}, headers=people.alice.headers
    )
    assert answer.json["image"] == "desktop"
    assert len(client.get(f"/api/v1/sessions?image={image}", headers=people.alice.headers).json["items"]) == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("1280x800", "1280x800"),
        ("1280x800x24", "1280x800"),
        ("640x480", "640x480"),
        ("3840x2160", "3840x2160"),
    ],
)
def test_resolution_is_normalised(client: ViewerClient, people: People, given: str, kept: str) -> None:
    answer = client.post(
        "/api/v1/sessions", json={"resolution": given, "wait": False}, headers=people.alice.headers
    )
    assert answer.json["resolution"] == kept


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"image": "dekstop"}, "image", "did you mean 'desktop'? known: desktop, chrome, shell"),
        ({"image": ""}, "image", "give the name or alias of an image"),
        ({"image": 7}, "image", "give the name or alias of an image"),
        ({"resolution": "640x479"}, "resolution", "from 640x480 to 3840x2160"),
        ({"resolution": "3841x2160"}, "resolution", "from 640x480 to 3840x2160"),
        ({"resolution": "99999x99999"}, "resolution", "from 640x480 to 3840x2160"),
        ({"resolution": "1280x800x32"}, "resolution", "from 640x480 to 3840x2160"),
        ({"resolution": "1280x800\n"}, "resolution", "from 640x480 to 3840x2160"),
        ({"resolution": "-1x-1"}, "resolution", "from 640x480 to 3840x2160"),
        ({"ttl_seconds": 59}, "ttl_seconds", "from 60"),
        ({"ttl_seconds": 43201}, "ttl_seconds", "from 60 to 43200"),
        ({"ttl_seconds": "60"}, "ttl_seconds", "whole number"),
        ({"ttl_seconds": 60.5}, "ttl_seconds", "whole number"),
        ({"ttl_seconds": True}, "ttl_seconds", "whole number"),
        ({"task_id": "x" * 201}, "task_id", "1 to 200 printable characters"),
        ({"task_id": "a\x00b"}, "task_id", "1 to 200 printable characters"),
        ({"wait": "no"}, "wait", "false to be answered at once"),
        ({"ttl_second": 60}, "ttl_second", "did you mean 'ttl_seconds'?"),
        ({"tenant_id": "bolt"}, "tenant_id", "known: image, resolution"),
        ({"zzz": 1}, "zzz", "leave it out; known: image"),
    ],
)
def test_wrong_field_is_named_with_what_mends_it(
    client: ViewerClient, store: Store, people: People, body: dict[str, Any], field: str, says: str
) -> None:
    answer = client.post("/api/v1/sessions", json=body, headers=people.alice.headers)
    assert answer.status_code == 422
    assert answer.mimetype == "application/problem+json"
    [error] = answer.json["errors"]
    assert error["field"] == field
    assert says in error["mend"]
    assert store.fleet.live_sessions() == []


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"ttl_seconds": NaN}', "application/json", 400),
        (b'{"image": "\xff"}', "application/json", 400),
        (b'{"task_id": "\\ud800"}', "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b"image=desktop", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b"{}", None, 415),
        (b'{"task_id": "' + b"x" * 65_536 + b'"}', "application/json", 413),
    ],
)
def test_body_that_cannot_be_read_is_refused_in_one_sentence(
    client: ViewerClient, store: Store, people: People, body: bytes, content_type: str | None, status: int
) -> None:
    answer = client.post(
        "/api/v1/sessions", data=body, content_type=content_type, headers=people.alice.headers
    )
    assert answer.status_code == status
    assert answer.mimetype == "application/problem+json"
    assert len(answer.json["detail"]) < 300
    assert store.fleet.live_sessions() == []


def test_table_that_another_process_holds_is_told_as_that(
    settings: Settings, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.database.LOCKED_MILLISECONDS", 20)
    impatient = Store(settings.database)
    with store._database.writing():
        answer = (
            create_app(settings, impatient)
            .test_client()
            .post("/api/v1/sessions", json={"wait": False}, headers=people.alice.headers)
        )
    impatient.close()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert store.fleet.live_sessions() == []


def test_no_body_where_something_must_be_said_names_what(client: ViewerClient, people: People) -> None:
    answer = client.put("/api/v1/hosts/here/draining", headers=people.ada.headers)
    assert answer.status_code == 422
    assert answer.json is not None
    assert [wrong["field"] for wrong in answer.json["errors"]] == ["draining"]


def test_no_body_asks_for_all_defaults(
    client: ViewerClient, store: Store, people: People, worker: Any
) -> None:
    worker(
        lambda new: store.fleet.transition(
            new.id, Status.RUNNING, host="here", sandbox_id="box", vnc_port=40001
        )
    )
    assert client.post("/api/v1/sessions", headers=people.alice.headers).status_code == 201


@pytest.mark.parametrize(
    ("query", "field", "status"),
    [
        ("status=runing", "status", 422),
        ("limit=0", "limit", 422),
        ("limit=201", "limit", 422),
        ("limit=x", "limit", 422),
        ("limit=1&limit=2", "limit", 422),
        ("taskid=7", "taskid", 422),
        ("cursor=nonsense", "cursor", 400),
    ],
)
def test_wrong_query_is_named(
    client: ViewerClient, people: People, query: str, field: str, status: int
) -> None:
    answer = client.get(f"/api/v1/sessions?{query}", headers=people.alice.headers)
    assert answer.status_code == status
    assert [error["field"] for error in answer.json["errors"]] == [field]


@pytest.mark.parametrize(
    "path", ["/api/v1/sessions", f"/api/v1/sessions/{UNKNOWN_ID}", "/api/v1/events", "/healthz"]
)
def test_wrong_method_is_a_problem_that_names_the_right_ones(
    client: ViewerClient, people: People, path: str
) -> None:
    answer = client.patch(path, headers=people.alice.headers)
    assert answer.status_code == 405
    assert answer.mimetype == "application/problem+json"
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v2/sessions", "/api/v1/sessions/a/b", "/api"])
def test_unknown_address_of_the_api_is_a_problem(client: ViewerClient, people: People, path: str) -> None:
    answer = client.get(path, headers=people.alice.headers)
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


@given(
    body=st.dictionaries(
        st.sampled_from(["image", "resolution", "task_id", "agent_id", "ttl_seconds", "surprise"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.lists(st.text(max_size=3)),
    )
)
@examples(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_no_json_object_makes_the_viewer_fail(
    client: ViewerClient, people: People, body: dict[str, Any]
) -> None:
    answer = client.post("/api/v1/sessions", json={**body, "wait": False}, headers=people.alice.headers)
    assert answer.status_code in (202, 400, 422)


# --- reading ----------------------------------------------------------------------------------


def test_list_pages_through_with_its_cursor(client: ViewerClient, store: Store, people: People) -> None:
    made = [new_session(store, people.alice).id for _ in range(5)]
    first = client.get("/api/v1/sessions?limit=3", headers=people.alice.headers).json
    second = client.get(
        f"/api/v1/sessions?limit=3&cursor={first['next_cursor']}", headers=people.alice.headers
    ).json
    assert [item["id"] for item in first["items"] + second["items"]] == made[::-1]
    assert second["next_cursor"] is None


def test_cursor_of_one_tenant_shows_another_only_its_own(
    client: ViewerClient, store: Store, people: People
) -> None:
    for _ in range(3):
        new_session(store, people.alice)
    cursor = client.get("/api/v1/sessions?limit=1", headers=people.alice.headers).json["next_cursor"]
    assert client.get(f"/api/v1/sessions?cursor={cursor}", headers=people.bob.headers).json["items"] == []


def test_list_filters_by_several_statuses(client: ViewerClient, store: Store, people: People) -> None:
    running = running_session(store, people.alice, sandbox_id="a")
    ended = store.fleet.transition(running_session(store, people.alice, sandbox_id="b").id, Status.TERMINATED)
    creating = new_session(store, people.alice)

    def listed(query: str) -> set[str]:
        return {
            item["id"]
            for item in client.get(f"/api/v1/sessions?{query}", headers=people.alice.headers).json["items"]
        }

    assert listed("status=running&status=creating") == {running.id, creating.id}
    assert listed("status=terminated") == {ended.id}
    assert listed("sandbox_id=a&host=here") == {running.id}


def test_addresses_use_the_origin_that_was_asked_if_it_is_ours(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)

    def asked_at(host: str) -> dict[str, Any]:
        headers = {**people.alice.headers, "X-Forwarded-Host": host, "X-Forwarded-Proto": "http"}
        answer: dict[str, Any] = client.get(f"/api/v1/sessions/{session.id}", headers=headers).json
        return answer

    here = asked_at("localhost:8088")
    assert here["page_url"] == f"{OTHER_ORIGIN}/sandboxes/{session.id}"
    assert here["novnc_url"] == f"{OTHER_ORIGIN}/view/{session.id}"
    assert here["vnc_endpoint"] == f"ws://localhost:8088/stream/{session.id}"
    assert asked_at("evil.example")["page_url"] == f"{ORIGIN}/sandboxes/{session.id}"


def test_session_shows_the_status_of_its_host(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE)
    assert (
        client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).json["host_status"]
        == "unreachable"
    )


def test_no_answer_holds_a_secret(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice, vnc_password_sealed="sealed-secret")
    for path in ("/api/v1/sessions", f"/api/v1/sessions/{session.id}", "/sandboxes", f"/view/{session.id}"):
        text = client.get(path, headers=people.alice.headers).get_data(as_text=True)
        assert not re.search(r"sealed-secret|40001|df_[a-z0-9]{8}_|request_id", text)


# --- ending -----------------------------------------------------------------------------------


def test_delete_answers_when_the_container_is_gone(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)

    def end() -> None:
        while store.fleet.get(session.id).terminate_requested_at is None:
            store.wait_for_change(0.02)
        store.fleet.transition(session.id, Status.TERMINATED)

    thread = threading.Thread(target=end)
    thread.start()
    assert client.delete(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).status_code == 204
    thread.join()
    assert client.delete(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).status_code == 204


def test_delete_is_accepted_while_the_host_is_silent(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.waiting, "SILENT_HOST_WAIT_SECONDS", 0.05)
    session = running_session(store, people.alice)
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE)
    answer = client.delete(f"/api/v1/sessions/{session.id}", headers=people.alice.headers)
    assert (answer.status_code, answer.json["status"], answer.json["status_reason"]) == (
        202,
        "running",
        "terminating",
    )


def test_session_still_being_made_can_be_ended(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.waiting, "TERMINATION_WAIT_SECONDS", 0.0)
    session = new_session(store, people.alice)
    assert client.delete(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).status_code == 202
    [row] = waiting(store)
    assert row.terminate_requested_at is not None


def test_declared_desktop_cannot_be_ended(client: ViewerClient, store: Store, people: People) -> None:
    desktop = store.fleet.upsert_desktop(
        DeclaredDesktop(name="studio", tenant="acme", host="here", backend="tigervnc", resolution="1280x800")
    )
    answer = client.delete(f"/api/v1/sessions/{desktop.id}", headers=people.alice.headers)
    assert answer.status_code == 409
    assert "inventory" in answer.json["detail"]
    assert store.fleet.get(desktop.id) == desktop


# --- around it --------------------------------------------------------------------------------


def test_catalogue_names_images_and_defaults(client: ViewerClient, people: People) -> None:
    answer = client.get("/api/v1/images", headers=people.wanda.headers).json
    assert [item["name"] for item in answer["items"]] == ["desktop", "chrome", "shell"]
    assert answer["defaults"] == {
        "image": "desktop", "resolution": "1280x800", "ttl_seconds": 3600, "max_ttl_seconds": 43200,
    }  # fmt: skip


def test_failure_of_ours_tells_the_client_only_an_id(
    app: Flask, client: ViewerClient, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> object:
        raise RuntimeError("the secret inside")

    app.extensions["deskfleet"].store.is_answering = broken
    answer = client.get("/healthz")
    assert answer.status_code == 500
    assert "the secret inside" not in answer.get_data(as_text=True)
    assert answer.headers["X-Request-Id"] in caplog.text
