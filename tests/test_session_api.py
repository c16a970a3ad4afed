"""What a session can be asked for and asked to do; the worker's part a test does itself."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

import viewer.waiting
from tests.viewer_fixtures import People, ViewerClient, all_that_is_in, new_session, running_session, waiting
from viewer.accounts import UnknownTenant
from viewer.credentials import open_order
from viewer.fleet_store import WarmOrder
from viewer.model import POOL_TENANT, Display, HostStatus, Role, Session, Status, utcnow
from viewer.placement import Capacity, decide
from viewer.resources import Quota
from viewer.rows import WORKER
from viewer.settings import Settings
from viewer.store import NewSession, Once, QuotaExceeded, Store

SESSIONS = "/api/v1/sessions"


def create(client: ViewerClient, person: Any, body: dict[str, Any] | None = None, key: str = "") -> Any:
    headers = {**person.headers, **({"Idempotency-Key": key} if key else {})}
    return client.post(SESSIONS, json={"wait": False, **(body or {})}, headers=headers)


# --- what is asked for ---------------------------------------------------------------------------------


def test_everything_that_may_be_asked_for_is_written_down(
    client: ViewerClient, store: Store, people: People, settings: Settings
) -> None:
    body = {
        "resource_limits": {"cpu": "500m", "memory": "1Gi"}, "labels": {"team": "red"}, "idle_seconds": 600,
        "max_lifetime_seconds": 7200, "env": {"TOKEN": "a-secret"}, "open_url": "https://example.org/",
        "command": "xeyes", "locale": "de_DE", "keyboard": "de", "timezone": "Europe/Berlin", "queue": False,
        "host_labels": {"disk": "fast"},
    }  # fmt: skip
    answer = create(client, people.alice, body)
    assert answer.status_code == 202, answer.json
    assert (answer.json["cpu"], answer.json["memory"], answer.json["labels"]) == (
        "500m",
        "1024Mi",
        {"team": "red"},
    )
    [row] = waiting(store)
    assert (row.idle_seconds, row.may_queue, row.wanted_labels) == (600, False, {"disk": "fast"})
    assert row.lifetime_ends_at == row.created_at + timedelta(seconds=7200)
    asked = open_order(row.order_sealed, settings.secret_key)
    assert asked.env == {"TOKEN": "a-secret"}
    assert asked.options.as_environment() == {
        "OPEN_URL": "https://example.org/", "OPEN_COMMAND": "xeyes", "LANG": "de_DE.UTF-8", "KEYBOARD": "de",
        "TZ": "Europe/Berlin",
    }  # fmt: skip
    assert b"a-secret" not in answer.get_data()
    assert b"a-secret" not in all_that_is_in(settings.database)


def test_without_limits_the_image_says_what_is_reserved(
    client: ViewerClient, people: People, settings: Settings
) -> None:
    answer = create(client, people.alice)
    image = settings.image_for("desktop")
    assert (image.cpu, image.memory) == ("2", "2Gi")
    assert (answer.json["cpu"], answer.json["memory"]) == ("2000m", "2048Mi")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resource_limits": {"cpu": "lots"}}, "resource_limits.cpu"),
        ({"resource_limits": {"memory": "2 GB"}}, "resource_limits.memory"),
        ({"labels": {"deskfleet.tenant": "x"}}, "labels"),
        ({"labels": {"a b": "x"}}, "labels"),
        ({"env": {"VNC_PASSWORD": "x"}}, "env"),
        ({"open_url": "file:///etc/passwd"}, "open_url"),
        ({"keyboard": "de;rm"}, "keyboard"),
        ({"idle_seconds": 5}, "idle_seconds"),
        ({"max_lifetime_seconds": 10**9}, "max_lifetime_seconds"),
    ],
)
def test_wrong_value_is_named_and_nothing_is_made(
    client: ViewerClient, store: Store, people: People, body: dict[str, Any], field: str
) -> None:
    answer = create(client, people.alice, body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json["errors"]] == [field]
    assert waiting(store) == []


# --- once ----------------------------------------------------------------------------------------------


def test_repeated_create_finds_what_the_first_one_made(
    client: ViewerClient, store: Store, people: People
) -> None:
    first = create(client, people.alice, {"task_id": "t"}, key="k-1")
    again = create(client, people.alice, {"task_id": "t"}, key="k-1")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json["id"] == again.json["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(waiting(store)) == 1


def test_key_of_another_request_is_refused_and_another_tenants_is_nothing_to_us(
    client: ViewerClient, store: Store, people: People
) -> None:
    create(client, people.alice, {"task_id": "t"}, key="k-1")
    other = create(client, people.alice, {"task_id": "u"}, key="k-1")
    assert other.status_code == 422
    assert other.json["errors"][0]["field"] == "Idempotency-Key"
    assert create(client, people.bob, {"task_id": "u"}, key="k-1").status_code == 202
    assert len(waiting(store)) == 2


def test_many_at_once_with_one_key_make_one(store: Store, people: People) -> None:
    once, found = Once(key="k", body_sha256="0"), []
    new = NewSession(image="desktop", ttl_seconds=60, created_by="test")

    def ask() -> None:
        found.append(store.tenant("acme").create(new, once=once).session.id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8


def test_key_of_a_failed_create_tells_of_the_failure(
    client: ViewerClient, store: Store, people: People
) -> None:
    made = create(client, people.alice, key="k-1")
    store.fleet.transition(made.json["id"], Status.ERROR, error_message="it broke")
    again = create(client, people.alice, key="k-1")
    assert (again.status_code, again.json["status"]) == (201, "error")


# --- quotas --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "sentence"),
    [
        (Quota(desktops=1), "may have 1 desktops at once; 1 are in use"),
        (Quota(cpu_millis=1500), "may have 1500m CPU at once; 1000m are in use"),
        (Quota(memory_mib=1500), "may have 1500Mi memory at once; 1024Mi are in use"),
    ],
)
def test_quota_counts_what_all_live_sandboxes_of_the_tenant_take(
    store: Store, people: People, quota: Quota, sentence: str
) -> None:
    new = NewSession(image="desktop", ttl_seconds=60, created_by="t", cpu_millis=1000, memory_mib=1024)
    first = store.tenant("acme").create(new, quota=quota).session
    with pytest.raises(QuotaExceeded, match=sentence):
        store.tenant("acme").create(new, quota=quota)
    store.tenant("bolt").create(new, quota=quota)
    store.fleet.transition(first.id, Status.TERMINATED)
    store.tenant("acme").create(new, quota=quota)


# --- the line ------------------------------------------------------------------------------------------


def test_waiting_session_shows_its_place_and_tenants_take_turns(
    client: ViewerClient, store: Store, people: People
) -> None:
    mine = [new_session(store, people.alice) for _ in range(3)]
    [theirs] = [new_session(store, people.bob)]
    store.fleet.place(lambda table: decide(table, {"here": Capacity(desktops=1, creates=1)}, {}))
    shown = client.get(f"{SESSIONS}/{mine[1].id}", headers=people.alice.headers).json
    assert (shown["status_reason"], shown["host"]) == ("queued", None)
    places = {one["id"]: one["queue_position"] for one in _listed(client, people.alice)}
    assert places == {mine[0].id: None, mine[1].id: 2, mine[2].id: 3}
    assert {one["id"]: one["queue_position"] for one in _listed(client, people.bob)} == {theirs.id: 1}


def _listed(client: ViewerClient, person: Any, query: str = "") -> Any:
    return client.get(f"{SESSIONS}{query}", headers=person.headers).json["items"]


def test_two_placements_at_once_never_give_the_last_place_twice(store: Store, people: People) -> None:
    for _ in range(6):
        new_session(store, people.alice)
    room = {"here": Capacity(desktops=3, creates=9)}
    threads = [
        threading.Thread(target=store.fleet.place, args=(lambda table: decide(table, room, {}),))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.fleet.reserved_by_host()["here"].desktops == 3


def test_creates_under_way_are_counted_from_one_placement_to_the_next(store: Store, people: People) -> None:
    room = {"here": Capacity(desktops=8, creates=3)}
    for _ in range(3):
        made = [new_session(store, people.alice) for _ in range(2)]
        store.fleet.place(lambda table: decide(table, room, {}))
    assert store.fleet.reserved_by_host()["here"].creates == 3
    assert [store.fleet.get(one.id).host for one in made] == [None, None]


# --- pause, resume, renew, end -------------------------------------------------------------------------


@pytest.fixture
def obedient(store: Store) -> Any:
    """Makes the next wish of a session true, as the worker would."""
    threads: list[threading.Thread] = []

    def follow(session: Session) -> None:
        def run() -> None:
            while (row := store.fleet.get(session.id)).wanted_status is None:
                store.wait_for_change(0.02)
            store.fleet.transition(session.id, row.wanted_status)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield follow
    for thread in threads:
        thread.join(timeout=5)


def test_pause_and_resume_wait_until_it_is_so(
    client: ViewerClient, store: Store, people: People, obedient: Any
) -> None:
    session = running_session(store, people.alice)
    obedient(session)
    paused = client.post(f"{SESSIONS}/{session.id}/pause", headers=people.alice.headers)
    assert (paused.status_code, paused.json["status"], paused.json["wanted_status"]) == (200, "paused", None)
    obedient(session)
    resumed = client.post(f"{SESSIONS}/{session.id}/resume", headers=people.alice.headers)
    assert (resumed.status_code, resumed.json["status"]) == (200, "running")
    again = client.post(f"{SESSIONS}/{session.id}/resume", headers=people.alice.headers)
    assert again.status_code == 200, "what is so already is no error"


def test_pause_on_a_silent_host_is_stored(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.waiting, "SILENT_HOST_WAIT_SECONDS", 0.05)
    session = running_session(store, people.alice)
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE)
    answer = client.post(f"{SESSIONS}/{session.id}/pause", headers=people.alice.headers)
    assert (answer.status_code, answer.json["wanted_status"]) == (202, "paused")


def test_pause_of_a_session_that_is_being_made_is_refused(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = new_session(store, people.alice)
    answer = client.post(f"{SESSIONS}/{session.id}/pause", headers=people.alice.headers)
    assert answer.status_code == 409
    assert "creating cannot become paused" in answer.json["detail"]


def test_renewal_never_goes_beyond_the_lifetime(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice, lifetime_seconds=7200)
    answer = client.post(
        f"{SESSIONS}/{session.id}/renew", json={"ttl_seconds": 40000}, headers=people.alice.headers
    )
    assert answer.status_code == 200
    assert answer.json["expires_at"] == answer.json["lifetime_ends_at"]
    assert answer.json["last_used_at"] is not None


def test_bulk_end_ends_what_matches_and_nothing_of_others(
    client: ViewerClient, store: Store, people: People
) -> None:
    red = [new_session(store, people.alice, labels={"team": "red"}) for _ in range(2)]
    blue = new_session(store, people.alice, labels={"team": "blue"})
    theirs = new_session(store, people.bob, labels={"team": "red"})
    body = {"labels": {"team": "red"}}
    answer = client.post(f"{SESSIONS}/terminate", json=body, headers=people.alice.headers)
    assert answer.status_code == 202
    assert set(answer.json["ids"]) == {session.id for session in red}
    asked = {row.id for row in store.fleet.live_sessions() if row.terminate_requested_at is not None}
    assert asked == {session.id for session in red}
    assert {blue.id, theirs.id} & asked == set()
    everything = client.post(f"{SESSIONS}/terminate", json={"all": True}, headers=people.alice.headers)
    assert everything.json["ids"] == [blue.id]


# --- labels, lists, history ----------------------------------------------------------------------------


def test_list_by_labels_and_statuses_pages_like_any_other(
    client: ViewerClient, store: Store, people: People
) -> None:
    for number in range(7):
        new_session(store, people.alice, labels={"team": "red" if number % 2 else "blue", "n": str(number)})
    ended = running_session(store, people.alice, labels={"team": "red", "n": "x"})
    store.fleet.transition(ended.id, Status.TERMINATED)
    assert [one["labels"]["n"] for one in _listed(client, people.alice, "?label=team%3Dred")] == [
        "x", "5", "3", "1",
    ]  # fmt: skip
    two = "?label=team%3Dred&status=creating&status=terminated&limit=3"
    first = client.get(f"{SESSIONS}{two}", headers=people.alice.headers).json
    rest = client.get(f"{SESSIONS}{two}&cursor={first['next_cursor']}", headers=people.alice.headers).json
    assert [one["labels"]["n"] for one in first["items"] + rest["items"]] == ["x", "5", "3", "1"]
    assert _listed(client, people.alice, "?label=team%3Dred&label=n%3D3")[0]["labels"]["n"] == "3"
    assert _listed(client, people.bob, "?label=team%3Dred") == []
    wrong = client.get(f"{SESSIONS}?label=team", headers=people.alice.headers)
    assert wrong.status_code == 422


def test_labels_are_replaced(client: ViewerClient, store: Store, people: People) -> None:
    session = new_session(store, people.alice, labels={"a": "1"})
    answer = client.put(
        f"{SESSIONS}/{session.id}/labels", json={"labels": {"b": "2"}}, headers=people.alice.headers
    )
    assert answer.get_json()["labels"] == {"b": "2"}
    assert _listed(client, people.alice, "?label=a%3D1") == []
    assert len(_listed(client, people.alice, "?label=b%3D2")) == 1


def test_history_tells_each_step_with_its_cause(client: ViewerClient, store: Store, people: People) -> None:
    session = running_session(store, people.alice)
    store.tenant("acme").request_termination(session.id, by="key:alice")
    store.fleet.transition(session.id, Status.TERMINATED, reason="on request")
    steps = client.get(f"{SESSIONS}/{session.id}/history", headers=people.wanda.headers).json["items"]
    assert [(step["status"], step["reason"], step["by"]) for step in steps] == [
        ("creating", None, "test"),
        ("running", None, WORKER),
        ("running", "terminating", "key:alice"),
        ("terminated", "on request", WORKER),
    ]
    store.fleet.purge(events_before=utcnow(), sessions_ended_before=utcnow() + timedelta(seconds=1))
    gone = client.get(f"{SESSIONS}/{session.id}/history", headers=people.wanda.headers)
    assert gone.status_code == 404


def test_get_waits_until_it_is_made(client: ViewerClient, store: Store, people: People) -> None:
    session = new_session(store, people.alice)
    timer = threading.Timer(0.1, store.fleet.transition, (session.id, Status.RUNNING))
    timer.start()
    answer = client.get(f"{SESSIONS}/{session.id}?wait_seconds=10", headers=people.alice.headers)
    assert answer.json["status"] == "running"
    timer.join()


# --- tasks and agents ----------------------------------------------------------------------------------


def test_session_that_names_a_task_and_an_agent_makes_them_rows(client: ViewerClient, people: People) -> None:
    create(client, people.alice, {"task_id": "t-1", "agent_id": "a-1"})
    assert client.get("/api/v1/tasks/t-1", headers=people.wanda.headers).status_code == 200
    assert client.get("/api/v1/agents/a-1", headers=people.wanda.headers).status_code == 200
    assert client.get("/api/v1/tasks/t-1", headers=people.bob.headers).status_code == 404


def test_task_is_found_by_its_external_run_and_belongs_to_one(client: ViewerClient, people: People) -> None:
    def put(body: dict[str, str], person: Any = people.alice) -> Any:
        return client.post("/api/v1/tasks", json=body, headers=person.headers)

    made = put({"title": "Book a flight", "external_run_id": "run-7"})
    again = put({"external_run_id": "run-7", "agent_id": "a-2"})
    assert (made.status_code, again.status_code, made.json["id"]) == (201, 200, again.json["id"])
    assert (again.json["title"], again.json["agent_id"]) == ("Book a flight", "a-2")
    assert put({"id": "another", "external_run_id": "run-7"}).status_code == 409
    assert put({"external_run_id": "run-7"}, people.bob).status_code == 201
    found = client.get("/api/v1/tasks?external_run_id=run-7", headers=people.alice.headers).json["items"]
    assert [task["id"] for task in found] == [made.json["id"]]


def test_tasks_and_agents_are_paged(client: ViewerClient, people: People) -> None:
    for kind in ("tasks", "agents"):
        for number in range(3):
            body = {"id": f"x-{number}"}
            client.post(f"/api/v1/{kind}", json=body, headers=people.alice.headers)
        first = client.get(f"/api/v1/{kind}?limit=2", headers=people.alice.headers).json
        rest = client.get(
            f"/api/v1/{kind}?limit=2&cursor={first['next_cursor']}", headers=people.alice.headers
        ).json
        assert [one["id"] for one in first["items"] + rest["items"]] == ["x-2", "x-1", "x-0"]
        assert rest["next_cursor"] is None


# --- hosts ---------------------------------------------------------------------------------------------


def test_draining_host_says_so_and_gets_nothing_new(
    client: ViewerClient, store: Store, people: People
) -> None:
    path = "/api/v1/hosts/here/draining"
    answer = client.put(path, json={"draining": True}, headers=people.ada.headers)
    assert answer.get_json()["draining"] is True
    session = new_session(store, people.alice)
    store.fleet.place(lambda table: decide(table, {"here": Capacity(desktops=8)}, {}))
    assert store.fleet.get(session.id).host is None
    client.put(path, json={"draining": False}, headers=people.ada.headers)
    store.fleet.place(lambda table: decide(table, {"here": Capacity(desktops=8)}, {}))
    assert store.fleet.get(session.id).host == "here"


# --- the pool ------------------------------------------------------------------------------------------


def warm(store: Store, **values: Any) -> Session:
    """A desktop of the pool on a host that answers, ready to be claimed."""
    store.fleet.record_host_status("here", HostStatus.OK)
    order = {
        "host": "here", "image": "desktop", "display": Display.RFB, "resolution": "1280x800",
        "cpu_millis": 2000, "memory_mib": 2048, "max_age_seconds": 1800,
    }  # fmt: skip
    session = store.fleet.add_warm(WarmOrder.model_validate(order | values))
    number = len(store.fleet.live_sessions())
    return store.fleet.transition(
        session.id,
        Status.RUNNING,
        host="here",
        sandbox_id=f"warm-{number}",
        vnc_port=40000 + number,
        vnc_password_sealed="sealed",
    )


def test_warm_desktop_is_handed_over_at_once(client: ViewerClient, store: Store, people: People) -> None:
    ready = warm(store)
    answer = create(client, people.alice, {"task_id": "t", "labels": {"a": "b"}})
    assert (answer.status_code, answer.json["id"], answer.json["status"]) == (201, ready.id, "running")
    assert (answer.json["tenant_id"], answer.json["is_warm"], answer.json["via"]) == ("acme", True, "api")
    assert answer.json["sandbox_id"] == ready.sandbox_id
    row = store.fleet.get(ready.id)
    assert (row.vnc_password_sealed, row.request_id, row.task_id) == ("sealed", ready.request_id, "t")
    assert row.expires_at is not None
    assert row.expires_at - row.created_at == timedelta(seconds=3600)
    steps = client.get(f"{SESSIONS}/{ready.id}/history", headers=people.alice.headers).json["items"]
    assert [step["status"] for step in steps] == ["running"], "its life in the pool is not the tenant's"
    assert len(_listed(client, people.alice, "?label=a%3Db")) == 1
    assert create(client, people.bob).status_code == 202, "nobody gets it twice"


@pytest.mark.parametrize(
    "body",
    [
        {"env": {"A": "b"}},
        {"command": "xeyes"},
        {"resolution": "1920x1080"},
        {"image": "chrome"},
        {"resource_limits": {"cpu": "1"}},
        {"resource_limits": {"memory": "1Gi"}},
        {"host_labels": {"disk": "fast"}},
    ],
)
def test_create_that_asks_for_something_else_goes_cold(
    client: ViewerClient, store: Store, people: People, body: dict[str, Any]
) -> None:
    warm(store)
    assert create(client, people.alice, body).status_code == 202


def test_warm_desktop_of_a_silent_or_draining_host_or_near_its_end_is_not_handed_over(
    client: ViewerClient, store: Store, people: People
) -> None:
    warm(store)
    store.fleet.record_host_status("here", HostStatus.UNREACHABLE)
    assert create(client, people.alice).status_code == 202
    store.fleet.record_host_status("here", HostStatus.OK)
    store.fleet.drain("here", is_draining=True)
    assert create(client, people.alice).status_code == 202
    store.fleet.drain("here", is_draining=False)
    [ready] = store.fleet.warm()
    store.fleet.update(ready.id, expires_at=utcnow() + timedelta(seconds=20))
    assert create(client, people.alice).status_code == 202


def test_pool_is_no_tenant_that_anybody_sees(client: ViewerClient, store: Store, people: People) -> None:
    ready = warm(store)
    assert ready.tenant_id == POOL_TENANT
    for person in (people.alice, people.ada, people.bob):
        assert client.get(f"{SESSIONS}/{ready.id}", headers=person.headers).status_code == 404
        assert _listed(client, person) == []
    assert POOL_TENANT not in store.accounts.tenants()
    with pytest.raises(UnknownTenant):
        store.accounts.add_key(POOL_TENANT, Role.ADMIN)


def test_claim_counts_against_the_quota(store: Store, people: People) -> None:
    warm(store)
    warm(store)
    new = NewSession(
        image="desktop",
        resolution="1280x800",
        ttl_seconds=60,
        created_by="t",
        cpu_millis=2000,
        memory_mib=2048,
    )
    tenant, quota = store.tenant("acme"), Quota(desktops=1)
    assert tenant.create(new, quota=quota, may_be_warm=True).session.is_warm
    with pytest.raises(QuotaExceeded):
        tenant.create(new, quota=quota, may_be_warm=True)


def test_claims_at_once_never_get_the_same_one(store: Store, people: People) -> None:
    ready = {warm(store).id for _ in range(5)}
    new = NewSession(
        image="desktop",
        resolution="1280x800",
        ttl_seconds=60,
        created_by="t",
        cpu_millis=2000,
        memory_mib=2048,
    )
    claimed: list[Session] = []

    def claim(tenant: str) -> None:
        claimed.append(store.tenant(tenant).create(new, may_be_warm=True).session)

    threads = [threading.Thread(target=claim, args=(("acme", "bolt")[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [session.id for session in claimed if session.is_warm]
    assert sorted(got) == sorted(ready)
    assert len({session.id for session in claimed}) == 8
