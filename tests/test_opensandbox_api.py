"""OpenSandbox's API at /v1; the worker's part a test does itself. The stock client is in tests/worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import viewer.opensandbox.api
import viewer.waiting
from tests.viewer_fixtures import (
    UNKNOWN_ID,
    People,
    Person,
    ViewerClient,
    all_that_is_in,
    kasmvnc_desktop,
    new_session,
    running_session,
    waiting,
)
from viewer.app import create_app
from viewer.credentials import open_order
from viewer.fleet_store import WarmOrder
from viewer.model import Display, HostStatus, Session, Status, Via, utcnow
from viewer.order import DEFAULT_ENTRYPOINT, Order
from viewer.settings import Settings
from viewer.store import Store

BOXES = "/v1/sandboxes"
TAIL = ["tail", "-f", "/dev/null"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer.opensandbox.api, "CREATE_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(viewer.waiting, "TERMINATION_WAIT_SECONDS", 0.0)


def shown(person: Person) -> dict[str, str]:
    return {"OPEN-SANDBOX-API-KEY": person.key}


def create(client: ViewerClient, person: Person, **body: Any) -> Any:
    """As the stock client asks, unless the body says otherwise."""
    asked = {"image": {"uri": "desktop"}, "entrypoint": TAIL, "resourceLimits": {}, "timeout": 600, **body}
    return client.post(BOXES, json=asked, headers=shown(person))


def refused(answer: Any) -> tuple[int, str]:
    assert set(answer.json) == {"code", "message"}
    assert answer.mimetype == "application/json"
    return answer.status_code, answer.json["code"]


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


# --- create --------------------------------------------------------------------------------------------


def test_create_writes_down_what_was_asked_and_answers_as_a_sandbox(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    answer = create(
        client, people.alice, resourceLimits={"cpu": "500m", "memory": "1Gi"}, metadata={"team": "red"},
        env={
            "TOKEN": "a-secret", "LANG": "de_DE", "TZ": "Europe/Berlin", "KEYBOARD": "de",
            "OPEN_COMMAND": "xeyes", "OPEN_URL": "https://example.org/", "RESOLUTION": "800x600",
        },
    )  # fmt: skip
    assert answer.status_code == 202, answer.json
    [row] = waiting(store)
    told = answer.json
    assert told["id"] == row.id
    assert told["status"] == {"state": "Pending"}
    assert told["image"] == {"uri": "desktop"}
    assert told["metadata"] == {"team": "red"}
    assert told["entrypoint"] == TAIL
    assert told["extensions"]["deskfleet.page_url"].endswith(f"/sandboxes/{row.id}")
    assert told["expiresAt"] > told["createdAt"]
    assert (row.via, row.tenant_id, row.image, row.display, row.resolution, row.ttl_seconds, row.labels) == (
        Via.OPENSANDBOX, "acme", "desktop", Display.RFB, "800x600", 600, {"team": "red"},
    )  # fmt: skip
    assert (row.cpu_millis, row.memory_mib) == (500, 1024)
    asked = open_order(row.order_sealed, settings.secret_key)
    assert asked.env == {"TOKEN": "a-secret"}
    assert asked.entrypoint is None
    assert asked.options.as_environment() == {
        "OPEN_URL": "https://example.org/", "OPEN_COMMAND": "xeyes", "LANG": "de_DE.UTF-8", "KEYBOARD": "de",
        "TZ": "Europe/Berlin",
    }  # fmt: skip
    assert b"a-secret" not in answer.get_data()


def test_sandbox_without_a_screen_takes_entrypoint_and_environment_as_they_are(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    env = {"LANG": "C", "RESOLUTION": "huge", "TZ": ""}
    told = create(client, people.alice, image={"uri": "shell"}, entrypoint=["sh", "-c", "x"], env=env).json
    [row] = waiting(store)
    assert (row.display, row.resolution, told["entrypoint"]) == (Display.NONE, None, ["sh", "-c", "x"])
    assert "deskfleet.novnc_url" not in told["extensions"]
    assert open_order(row.order_sealed, settings.secret_key) == Order(env=env, entrypoint=("sh", "-c", "x"))


def test_program_of_the_callers_own_is_kept_for_a_desktop(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    create(client, people.alice, entrypoint=["xeyes", "-center"])
    [row] = waiting(store)
    assert open_order(row.order_sealed, settings.secret_key).entrypoint == ("xeyes", "-center")


def test_stock_request_for_a_desktop_is_plain_so_that_the_pool_serves_it(
    client: ViewerClient, store: Store, people: People
) -> None:
    order = WarmOrder(
        image="desktop", display=Display.RFB, resolution="1280x800", host="here", cpu_millis=2000,
        memory_mib=2048, max_age_seconds=3600,
    )  # fmt: skip
    warm = store.fleet.add_warm(order)
    store.fleet.record_host_status("here", HostStatus.OK)
    store.fleet.transition(
        warm.id, Status.RUNNING, host="here", sandbox_id="warm-1", vnc_port=40001,
        expires_at=utcnow() + timedelta(hours=1),
    )  # fmt: skip
    told = create(client, people.alice).json
    assert (told["id"], told["status"]["state"]) == (warm.id, "Running")
    assert create(client, people.alice, env={"A": "1"}).json["status"]["state"] == "Pending"


@pytest.mark.parametrize("uri", ["desktop", "opensandbox/desktop:latest", "deskfleet/desktop:latest"])
def test_image_goes_by_name_alias_and_address(client: ViewerClient, people: People, uri: str) -> None:
    assert create(client, people.alice, image={"uri": uri}).json["image"] == {"uri": "desktop"}


def test_any_other_image_has_no_screen_and_may_bring_its_own_credentials(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    auth = {"username": "puller", "password": "pull-secret"}
    answer = create(client, people.alice, image={"uri": "registry.example/own/python:3.11", "auth": auth})
    assert answer.status_code == 202
    [row] = waiting(store)
    assert (row.image, row.display) == ("registry.example/own/python:3.11", Display.NONE)
    given = open_order(row.order_sealed, settings.secret_key).image_auth
    assert given is not None
    assert (given.username, given.password.get_secret_value()) == ("puller", "pull-secret")
    assert b"pull-secret" not in answer.get_data() + all_that_is_in(settings.database)


def test_site_may_keep_to_its_catalogue(store: Store, people: People, settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"any_image": False}), store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    answer = create(client, people.alice, image={"uri": "python:3.11"})
    assert refused(answer) == (400, "SANDBOX::INVALID_PARAMETER")
    assert "known: desktop, chrome, shell" in answer.json["message"]
    assert waiting(store) == []


def test_without_a_timeout_it_lives_as_long_as_a_session_may(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    create(client, people.alice, timeout=None)
    [row] = waiting(store)
    assert row.ttl_seconds == settings.max_lifetime_seconds
    assert row.lifetime_ends_at == row.expires_at


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"image": None}, "SANDBOX::INVALID_PARAMETER", "image: is missing"),
    ({"image": {}}, "SANDBOX::INVALID_PARAMETER", "image.uri"),
    ({"image": {"uri": "a b"}}, "SANDBOX::INVALID_PARAMETER", "not the address of an image"),
    ({"imag": {"uri": "a"}}, "SANDBOX::INVALID_PARAMETER", "did you mean 'image'"),
    ({"timeout": 59}, "SANDBOX::INVALID_PARAMETER", "timeout"),
    ({"timeout": 43201}, "SANDBOX::INVALID_PARAMETER", "from 60 to 43200"),
    ({"timeout": "60"}, "SANDBOX::INVALID_PARAMETER", "timeout"),
    ({"entrypoint": []}, "SANDBOX::INVALID_PARAMETER", "entrypoint"),
    ({"entrypoint": ["a\0"]}, "SANDBOX::INVALID_PARAMETER", "NUL"),
    ({"resourceLimits": {"cpu": "lots"}}, "SANDBOX::INVALID_PARAMETER", "resourceLimits.cpu"),
    ({"resourceLimits": {"memory": "9999Ti"}}, "SANDBOX::INVALID_PARAMETER", "more than 1024Ti"),
    ({"resourceLimits": {"memory": "1X"}}, "SANDBOX::INVALID_PARAMETER", "resourceLimits.memory"),
    (
        {"resourceLimits": {"gpu": "1"}},
        "SANDBOX::INVALID_PARAMETER",
        "gpu: is not to be had",
    ),
    ({"env": {"LANG": "german"}}, "SANDBOX::INVALID_PARAMETER", "env.LANG: is not a UTF-8 locale"),
    ({"env": {"RESOLUTION": "1x1"}}, "SANDBOX::INVALID_PARAMETER", "env.RESOLUTION"),
    ({"env": {"VNC_PASSWORD": "hunter22"}}, "SANDBOX::INVALID_PARAMETER", "reserved"),
    ({"env": {"DESKFLEET_X": "hunter22"}}, "SANDBOX::INVALID_PARAMETER", "reserved"),
    ({"metadata": {"opensandbox.io/id": "x"}}, "SANDBOX::INVALID_METADATA_LABEL", "reserved"),
    ({"metadata": {"deskfleet.tenant": "x"}}, "SANDBOX::INVALID_METADATA_LABEL", "reserved"),
    ({"metadata": {"a": "b c"}}, "SANDBOX::INVALID_METADATA_LABEL", "metadata: a has a value"),
    ({"volumes": [{"name": "v", "host": {"path": "/"}}]}, "VOLUME::HOST_PATH_NOT_ALLOWED", "host"),
    ({"volumes": [{"name": "v", "pvc": {}}]}, "VOLUME::UNSUPPORTED_BACKEND", "volumes"),
    ({"snapshotId": "s"}, "SANDBOX::API_NOT_SUPPORTED", "snapshotId"),
    ({"templateId": "t"}, "SANDBOX::API_NOT_SUPPORTED", "templateId"),
    ({"networkPolicy": {"egress": [1]}}, "SANDBOX::API_NOT_SUPPORTED", "networkPolicy"),
    ({"secureAccess": True}, "SANDBOX::API_NOT_SUPPORTED", "secureAccess"),
    ({"extensions": {"poolRef": "p"}}, "SANDBOX::API_NOT_SUPPORTED", "extensions"),
    ({"lifecycle": {"preStart": {}}}, "SANDBOX::API_NOT_SUPPORTED", "lifecycle"),
    ({"platform": {"os": "windows"}}, "SANDBOX::API_NOT_SUPPORTED", "platform"),
]


def test_what_cannot_be_had_is_refused_with_its_field_and_no_row(
    client: ViewerClient, store: Store, people: People
) -> None:
    for body, code, said in REFUSED:
        answer = create(client, people.alice, **body)
        assert refused(answer) == (400, code), body
        assert said in answer.json["message"]
        assert "hunter22" not in answer.json["message"]
    assert waiting(store) == []


def test_newer_clients_may_name_what_they_do_not_want(client: ViewerClient, people: People) -> None:
    nothing = {"volumes": [], "secureAccess": False, "extensions": {}, "networkPolicy": None, "newest": None}
    assert create(client, people.alice, **nothing).status_code == 202


def test_create_waits_until_the_sandbox_runs(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.opensandbox.api, "CREATE_WAIT_SECONDS", 20.0)

    def bring_up() -> None:
        while not (rows := waiting(store)):
            store.wait_for_change(0.1)
        store.fleet.transition(rows[0].id, Status.RUNNING, host="here", sandbox_id="b", vnc_port=40001)

    worker = in_background(bring_up)
    answer = create(client, people.alice)
    worker.join()
    assert (answer.status_code, answer.json["status"]) == (202, {"state": "Running"})
    assert "deskfleet.novnc_url" in answer.json["extensions"]


def test_create_that_fails_says_why_and_leaves_nothing_behind(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.opensandbox.api, "CREATE_WAIT_SECONDS", 20.0)

    def give_up() -> None:
        while not (rows := waiting(store)):
            store.wait_for_change(0.1)
        store.fleet.transition(rows[0].id, Status.ERROR, host="here", error_message="the screen is on fire")

    worker = in_background(give_up)
    answer = create(client, people.alice)
    worker.join()
    assert refused(answer) == (502, "DESKFLEET::CREATE_FAILED")
    assert answer.json["message"] == "the screen is on fire"
    assert client.get(BOXES, headers=shown(people.alice)).json["items"] == []


def test_same_idempotency_key_finds_what_it_made(client: ViewerClient, people: People) -> None:
    headers = {**shown(people.alice), "Idempotency-Key": "once"}
    body = {"image": {"uri": "shell"}, "entrypoint": TAIL, "resourceLimits": {}}
    first, second = (client.post(BOXES, json=body, headers=headers).json["id"] for _ in range(2))
    assert first == second


# --- look ----------------------------------------------------------------------------------------------


def every_state(store: Store, person: Person) -> dict[str, Session]:
    """A sandbox in each state that a client may see, by the state."""
    found = {
        state: running_session(store, person, sandbox_id=state)
        for state in ("Running", "Pausing", "Paused", "Resuming", "Stopping", "Failed")
    }
    tenant, fleet = store.tenant(person.tenant), store.fleet
    tenant.request_status(found["Pausing"].id, Status.PAUSED, by="test")
    for state in ("Paused", "Resuming"):
        fleet.transition(found[state].id, Status.PAUSED)
    tenant.request_status(found["Resuming"].id, Status.RUNNING, by="test")
    tenant.request_termination(found["Stopping"].id)
    fleet.transition(found["Failed"].id, Status.ERROR, error_message="exit code 3")
    return {**found, "Pending": new_session(store, person)}


def test_each_state_is_told_and_found_by_its_name(client: ViewerClient, store: Store, people: People) -> None:
    found = every_state(store, people.alice)
    ended = running_session(store, people.alice, sandbox_id="ended")
    store.fleet.transition(ended.id, Status.TERMINATED)
    declared = kasmvnc_desktop(store, people.alice)
    headers = shown(people.wanda)
    for one in (ended, declared):
        assert refused(client.get(f"{BOXES}/{one.id}", headers=headers)) == (404, "DOCKER::SANDBOX_NOT_FOUND")
    for state, session in found.items():
        assert client.get(f"{BOXES}/{session.id}", headers=headers).json["status"]["state"] == state
        listed = client.get(BOXES, query_string={"state": state}, headers=headers).json["items"]
        assert [one["id"] for one in listed] == [session.id]
    failed = client.get(f"{BOXES}/{found['Failed'].id}", headers=headers).json
    assert failed["status"] == {"state": "Failed", "message": "exit code 3"}
    both = client.get(BOXES, query_string={"state": ["Paused", "Running"]}, headers=headers).json["items"]
    assert {one["id"] for one in both} == {found["Paused"].id, found["Running"].id}
    everything = client.get(BOXES, headers=headers).json
    assert {one["id"] for one in everything["items"]} == {session.id for session in found.values()}
    assert everything["pagination"]["totalItems"] == len(found)
    for state in ("Terminated", "Unknown"):
        assert client.get(BOXES, query_string={"state": state}, headers=headers).json["items"] == []


def test_list_pages_newest_first_and_filters_by_metadata(
    client: ViewerClient, store: Store, people: People
) -> None:
    made = [
        new_session(store, people.alice, labels={"team": "red", "n": str(number % 2)}).id
        for number in range(5)
    ]
    new_session(store, people.bob, labels={"team": "red"})
    headers = shown(people.alice)
    asked = {"metadata": "team=red", "page": "2", "pageSize": "2"}
    page = client.get(BOXES, query_string=asked, headers=headers).json
    assert [one["id"] for one in page["items"]] == [made[2], made[1]]
    assert page["pagination"] == {
        "page": 2, "pageSize": 2, "totalItems": 5, "totalPages": 3, "hasNextPage": True,
    }  # fmt: skip
    odd = client.get(BOXES, query_string={"metadata": "team=red&n=1"}, headers=headers).json
    assert [one["id"] for one in odd["items"]] == [made[3], made[1]]
    # The stock client encodes each part once more.
    twice = client.get(f"{BOXES}?metadata=te%2561m%3Dred%26n%3D1", headers=headers).json
    assert twice["pagination"]["totalItems"] == 2
    beyond = client.get(BOXES, query_string={"page": "9"}, headers=headers).json
    assert (beyond["items"], beyond["pagination"]["hasNextPage"]) == ([], False)


def test_list_that_cannot_be_understood_is_refused(client: ViewerClient, people: People) -> None:
    for asked, code in (
        ("state=Sleeping", "SANDBOX::INVALID_PARAMETER"),
        ("page=0", "SANDBOX::INVALID_PARAMETER"),
        ("page=99999999999999999999", "SANDBOX::INVALID_PARAMETER"),
        ("pageSize=201", "SANDBOX::INVALID_PARAMETER"),
        ("page=1&page=2", "SANDBOX::INVALID_PARAMETER"),
        ("sate=Running", "SANDBOX::INVALID_PARAMETER"),
        ("metadata=team", "SANDBOX::INVALID_METADATA_LABEL"),
        ("metadata=opensandbox.io/id%3Dx", "SANDBOX::INVALID_METADATA_LABEL"),
        ("metadata=deskfleet.tenant%3Dbolt", "SANDBOX::INVALID_METADATA_LABEL"),
    ):
        assert refused(client.get(f"{BOXES}?{asked}", headers=shown(people.alice))) == (400, code), asked


def test_entrypoint_is_no_watchers_business(client: ViewerClient, people: People) -> None:
    made = create(client, people.alice, image={"uri": "shell"}, entrypoint=["login", "--token=x"]).json["id"]
    told = [
        client.get(f"{BOXES}/{made}", headers=shown(person)).json for person in (people.wanda, people.ada)
    ]
    assert [one["entrypoint"] for one in told] == [[], ["login", "--token=x"]]


def test_session_of_our_own_api_is_a_sandbox_too(client: ViewerClient, store: Store, people: People) -> None:
    client.post("/api/v1/sessions", json={"wait": False, "image": "shell"}, headers=people.alice.headers)
    [row] = waiting(store)
    told = client.get(f"{BOXES}/{row.id}", headers=shown(people.alice)).json
    assert told["entrypoint"] == list(DEFAULT_ENTRYPOINT)
    assert "sandboxId" not in told


# --- change --------------------------------------------------------------------------------------------


def test_delete_asks_for_the_end_and_then_it_is_gone(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    address, headers = f"{BOXES}/{session.id}", shown(people.alice)
    assert client.delete(address, headers=headers).status_code == 204
    assert client.get(address, headers=headers).json["status"]["state"] == "Stopping"
    store.fleet.transition(session.id, Status.TERMINATED)
    assert refused(client.get(address, headers=headers)) == (404, "DOCKER::SANDBOX_NOT_FOUND")
    assert refused(client.delete(address, headers=headers)) == (404, "DOCKER::SANDBOX_NOT_FOUND")


def test_failed_one_stays_until_it_is_deleted_or_over(
    client: ViewerClient, store: Store, people: People
) -> None:
    deleted, over = (running_session(store, people.alice, sandbox_id=name) for name in "ab")
    store.fleet.transition(deleted.id, Status.ERROR, error_message="exit code 3")
    store.fleet.transition(over.id, Status.ERROR, expires_at=utcnow() - timedelta(seconds=1))
    headers = shown(people.alice)
    listed = client.get(BOXES, headers=headers).json["items"]
    assert [one["id"] for one in listed] == [deleted.id]
    assert client.delete(f"{BOXES}/{deleted.id}", headers=headers).status_code == 204
    assert client.get(BOXES, headers=headers).json["items"] == []
    for one in (deleted, over):
        assert client.get(f"{BOXES}/{one.id}", headers=headers).status_code == 404
    assert store.tenant("acme").get(deleted.id).error_message == "exit code 3"


def test_pause_and_resume_are_asked_for_and_refused_where_they_make_no_sense(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    address, headers = f"{BOXES}/{session.id}", shown(people.alice)
    assert refused(client.post(f"{address}/resume", headers=headers)) == (409, "DOCKER::SANDBOX_NOT_PAUSED")
    assert client.post(f"{address}/pause", headers=headers).status_code == 202
    assert store.tenant("acme").get(session.id).wanted_status is Status.PAUSED
    store.fleet.transition(session.id, Status.PAUSED)
    assert refused(client.post(f"{address}/pause", headers=headers)) == (409, "DOCKER::SANDBOX_NOT_RUNNING")
    assert client.post(f"{address}/resume", headers=headers).status_code == 202
    assert store.tenant("acme").get(session.id).wanted_status is Status.RUNNING


def test_renewal_sets_the_end_within_the_fleets_limits(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    session = running_session(store, people.alice)
    address, headers = f"{BOXES}/{session.id}/renew-expiration", shown(people.alice)
    sooner = utcnow() + timedelta(minutes=5)
    for told in (sooner.isoformat(), sooner.replace(tzinfo=None).isoformat()):
        assert client.post(address, json={"expiresAt": told}, headers=headers).status_code == 200
        assert store.tenant("acme").get(session.id).expires_at == sooner
    longest = timedelta(seconds=settings.max_ttl_seconds)
    by_a_fast_clock = {"expiresAt": (utcnow() + longest + timedelta(seconds=30)).isoformat()}
    assert client.post(address, json=by_a_fast_clock, headers=headers).status_code == 200
    for seconds in (-1, settings.max_ttl_seconds + 120):
        body = {"expiresAt": (utcnow() + timedelta(seconds=seconds)).isoformat()}
        answer = client.post(address, json=body, headers=headers)
        assert refused(answer) == (400, "DOCKER::INVALID_EXPIRATION")
    for nothing in ({}, {"expiresAt": "soon"}, {"expiresAt": "9999-12-31T23:59:59-14:00"}):
        answer = client.post(address, json=nothing, headers=headers)
        assert refused(answer) == (400, "SANDBOX::INVALID_PARAMETER")


def test_metadata_is_patched_and_found_by_its_new_value(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice, labels={"team": "red", "old": "1"})
    address, headers = f"{BOXES}/{session.id}/metadata", shown(people.alice)
    patch = {"team": "blue", "new": "", "old": None, "never": None}
    assert client.patch(address, json=patch, headers=headers).json["metadata"] == {
        "team": "blue",
        "new": "",
    }
    found = client.get(BOXES, query_string={"metadata": "team=blue"}, headers=headers).json["items"]
    assert [one["id"] for one in found] == [session.id]
    too_many = {f"k{number}": "v" for number in range(31)}
    for wrong in ({"opensandbox.io/id": None}, {"deskfleet.tenant": "bolt"}, {"a": "b c"}, too_many):
        answer = client.patch(address, json=wrong, headers=headers)
        assert refused(answer) == (400, "SANDBOX::INVALID_METADATA_LABEL")
    assert store.tenant("acme").get(session.id).labels == {"team": "blue", "new": ""}


# --- ports ---------------------------------------------------------------------------------------------


def test_endpoint_leads_through_the_name_that_was_asked(
    client: ViewerClient, store: Store, people: People
) -> None:
    session, headers = running_session(store, people.alice), shown(people.alice)
    address = f"{BOXES}/{session.id}/endpoints/8000"
    tail = f"/v1/sandboxes/{session.id}/proxy/8000"
    for asked in ("", "?use_server_proxy=true", "?use_server_proxy=false"):
        told = client.get(address + asked, headers=headers).json
        assert told == {"endpoint": f"deskfleet.localhost:8088{tail}"}
    own = {"X-Forwarded-Host": "opensandbox.deskfleet.localhost:8088", "X-Forwarded-Proto": "http"}
    told = client.get(address, headers={**headers, **own}).json
    assert told == {"endpoint": f"opensandbox.deskfleet.localhost:8088{tail}"}
    pending = new_session(store, people.alice)
    assert client.get(f"{BOXES}/{pending.id}/endpoints/44772", headers=headers).status_code == 200


def test_endpoint_of_no_port_or_of_a_screen_is_refused(
    client: ViewerClient, store: Store, people: People
) -> None:
    session, headers = running_session(store, people.alice), shown(people.alice)
    for port in ("0", "65536", "99999999999", "x", "-1", "8o"):
        answer = client.get(f"{BOXES}/{session.id}/endpoints/{port}", headers=headers)
        assert refused(answer) == (400, "DOCKER::INVALID_PORT")
    for port in ("8080", "5901", "6080"):
        answer = client.get(f"{BOXES}/{session.id}/endpoints/{port}", headers=headers)
        assert refused(answer) == (403, "DESKFLEET::VNC_NOT_PROXIED")
    signed = client.get(f"{BOXES}/{session.id}/endpoints/8000?expires=9", headers=headers)
    assert refused(signed) == (400, "SANDBOX::API_NOT_SUPPORTED")


def test_server_beside_the_fleet_has_no_way_to_ports(
    store: Store, people: People, settings: Settings
) -> None:
    there = settings.hosts[0].model_copy(
        update={"name": "there", "external": True, "relay_url": None, "relay_key_file": None}
    )
    app = create_app(settings.model_copy(update={"hosts": (*settings.hosts, there)}), store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    session = new_session(store, people.alice, image="shell", display=Display.NONE)
    store.fleet.transition(session.id, Status.RUNNING, host="there", sandbox_id="b")
    way = {"X-Forwarded-Uri": f"{BOXES}/{session.id}/proxy/8000/", "X-Forwarded-Method": "GET"}
    for address, more in ((f"{BOXES}/{session.id}/endpoints/8000", {}), ("/authz/port", way)):
        answer = client.get(address, headers={**shown(people.alice), **more})
        assert refused(answer) == (501, "DESKFLEET::NO_WAY_TO_PORTS")


# --- whose it is, and every other failure ----------------------------------------------------------------


def test_foreign_id_gets_the_answer_of_an_unknown_one_wherever_it_is_sent(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice, labels={"team": "red"})
    later = {"expiresAt": (utcnow() + timedelta(hours=1)).isoformat()}
    ways: list[tuple[str, str, Any]] = [
        ("GET", "", None), ("DELETE", "", None), ("POST", "/pause", None), ("POST", "/resume", None),
        ("POST", "/renew-expiration", later), ("PATCH", "/metadata", {"a": "b"}),
        ("GET", "/endpoints/8000", None), ("GET", "/endpoints/8080", None), ("GET", "/endpoints/x", None),
        ("GET", "/diagnostics/events", None), ("GET", "/diagnostics/logs", None),
        ("GET", "/proxy/8000/", None), ("POST", "/snapshots", {}), ("GET", "/networkpolicy", None),
    ]  # fmt: skip
    for method, tail, body in ways:
        answers = [
            client.open(f"{BOXES}/{one}{tail}", method=method, json=body, headers=shown(people.bob))
            for one in (session.id, UNKNOWN_ID, "box-1")
        ]
        assert len({(answer.status_code, answer.get_data()) for answer in answers}) == 1, (method, tail)
        refused(answers[0])
    assert client.get(BOXES, headers=shown(people.bob)).json["pagination"]["totalItems"] == 0
    assert store.tenant("acme").get(session.id) == session


def test_events_tell_its_history(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    address, headers = f"{BOXES}/{session.id}/diagnostics/events", shown(people.wanda)
    told = client.get(address, query_string={"scope": "runtime"}, headers=headers).json
    assert (told["sandboxId"], told["kind"], told["delivery"]) == (session.id, "events", "inline")
    assert [line.split()[1] for line in told["content"].splitlines()] == ["creating", "running"]
    plain = client.get(address, headers=headers)
    assert (plain.mimetype, plain.get_data(as_text=True)) == ("text/plain", told["content"])


def test_every_failure_has_the_shape_that_the_client_knows(client: ViewerClient, people: People) -> None:
    own = {"X-Forwarded-Host": "opensandbox.deskfleet.localhost:8088", "X-Forwarded-Proto": "http"}
    for method, path, status, code in (
        ("GET", "/v1", 404, "DESKFLEET::NO_SUCH_ROUTE"),
        ("GET", "/v1/nothing", 404, "DESKFLEET::NO_SUCH_ROUTE"),
        ("GET", "/v1/sandboxes/", 404, "DESKFLEET::NO_SUCH_ROUTE"),
        ("PUT", "/v1/sandboxes", 405, "DESKFLEET::WRONG_METHOD"),
        ("GET", f"/v1/sandboxes/{UNKNOWN_ID}/pause", 405, "DESKFLEET::WRONG_METHOD"),
        ("GET", f"/v1/sandboxes/{UNKNOWN_ID}", 404, "DOCKER::SANDBOX_NOT_FOUND"),
    ):
        for place in ({}, own):
            answer = client.open(path, method=method, headers={**shown(people.alice), **place})
            assert refused(answer) == (status, code), path


def test_bodies_that_are_none_are_refused_in_that_shape(
    client: ViewerClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_json = {**shown(people.alice), "Content-Type": "application/json"}
    for body, headers, status, code in (
        ("{", as_json, 400, "DESKFLEET::MALFORMED_JSON"),
        ("[]", as_json, 400, "DESKFLEET::MALFORMED_JSON"),
        ("{}", {**as_json, "Content-Type": "text/plain"}, 415, "DESKFLEET::NOT_JSON"),
        (" " * 70_000, as_json, 413, "DESKFLEET::BODY_TOO_LARGE"),
    ):
        assert refused(client.post(BOXES, data=body, headers=headers)) == (status, code)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("something of ours")

    monkeypatch.setattr(viewer.opensandbox.api, "asked_for", fail)
    assert refused(create(client, people.alice)) == (500, "DESKFLEET::FAILURE")


def test_too_much_is_429_with_the_time_to_come_back(store: Store, people: People, settings: Settings) -> None:
    tenants = [
        tenant.model_copy(update={"quota": tenant.quota.model_copy(update={"desktops": 1})})
        for tenant in settings.tenants
    ]
    app = create_app(settings.model_copy(update={"tenants": tuple(tenants)}), store)
    client = ViewerClient(app, app.response_class, use_cookies=False)
    assert create(client, people.alice).status_code == 202
    answer = create(client, people.alice)
    assert refused(answer) == (429, "DESKFLEET::QUOTA_EXCEEDED")
    assert answer.headers["Retry-After"] == "30"
