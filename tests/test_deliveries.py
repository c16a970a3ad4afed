"""What is written for endpoints, and when it is sent again: the store and the schedule, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from tests.viewer_fixtures import People, new_session, running_session
from viewer.deliveries.deliverer import PER_ENDPOINT, PER_TENANT, Deliverer
from viewer.deliveries.model import (
    DISABLED_AFTER,
    LONGEST_RETRY_AFTER,
    RETRY_DELAYS,
    SPREAD,
    Attempt,
    DeliveryStatus,
    Endpoint,
    Outcome,
    headers_of,
    next_attempt_at,
)
from viewer.deliveries.store import Job, NewEndpoint, message_id_of
from viewer.model import EventType, Status, utcnow
from viewer.rows import Event
from viewer.settings import Settings
from viewer.signatures import new_webhook_secret
from viewer.store import Store

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
REFUSED = Outcome(status_code=500, error="the endpoint did not accept it")


def endpoint_of(store: Store, tenant: str = "acme", *types: EventType, sealed: str = "sealed") -> Endpoint:
    new = NewEndpoint(url="https://example.com/", label="", types=types, secret_sealed=sealed, created_by="t")
    return store.webhooks(tenant).create(new)


def attempt_at(at: datetime, outcome: Outcome) -> Attempt:
    return Attempt(at=at, took_ms=5, status_code=outcome.status_code, error=outcome.error)


def everything_due(store: Store, at: datetime | None = None) -> Sequence[Job]:
    return store.deliveries.due(at or utcnow() + timedelta(days=9), per_endpoint=1000, in_hand=())


def write_all(store: Store) -> int:
    return sum(store.deliveries.write(one, lambda event: event.type) for one in store.deliveries.behind())


# --- the schedule ------------------------------------------------------------------------------------


@given(
    attempts=st.integers(1, 30),
    spread=st.floats(0, 1),
    asked=st.none() | st.timedeltas(timedelta(days=-1), timedelta(days=900)),
)
def test_next_attempt_is_late_enough_and_never_too_late(
    attempts: int, spread: float, asked: timedelta | None
) -> None:
    found = next_attempt_at(attempts, now=NOW, spread=spread, retry_after=asked)
    if attempts > len(RETRY_DELAYS):
        assert found is None
        return
    assert found is not None
    delay, wait = RETRY_DELAYS[attempts - 1], found - NOW
    assert delay <= wait <= max(delay * (1 + SPREAD), LONGEST_RETRY_AFTER)
    if asked is not None:
        assert wait >= min(asked, LONGEST_RETRY_AFTER)
    else:
        assert wait <= delay * (1 + SPREAD)


def test_delays_grow_and_give_up_after_three_days() -> None:
    assert list(RETRY_DELAYS) == sorted(RETRY_DELAYS)
    assert timedelta(days=3) < sum(RETRY_DELAYS, timedelta()) < DISABLED_AFTER


def test_each_key_signs_and_no_other() -> None:
    first, second, other = new_webhook_secret(), new_webhook_secret(), new_webhook_secret()
    headers = headers_of("msg_1", '{"a":"ü"}', utcnow(), [first, second])
    for key in (first, second):
        assert Webhook(key).verify('{"a":"ü"}', headers) == {"a": "ü"}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify('{"a":"ü"}', headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(first).verify('{"a":"u"}', headers)


# --- which events --------------------------------------------------------------------------------------


def test_endpoint_gets_what_happens_after_it_was_made_each_event_once(store: Store, people: People) -> None:
    session = new_session(store, people.alice)
    endpoint = endpoint_of(store)
    assert store.deliveries.behind() == []
    store.fleet.transition(session.id, Status.RUNNING, host="here", sandbox_id="b")
    store.fleet.transition(session.id, Status.TERMINATED)
    assert write_all(store) == 2
    assert write_all(store) == 0
    jobs = everything_due(store)
    assert [job.delivery.type for job in jobs] == ["session.running", "session.terminated"]
    assert {job.endpoint.id for job in jobs} == {endpoint.id}
    assert len({job.delivery.message_id for job in jobs}) == 2


def test_endpoint_gets_its_types_and_its_tenants_alone(store: Store, people: People) -> None:
    narrow, wide, theirs = (
        endpoint_of(store, "acme", "session.error"),
        endpoint_of(store),
        endpoint_of(store, "bolt"),
    )
    session = running_session(store, people.alice)
    store.fleet.transition(session.id, Status.ERROR, error_message="no")
    foreign = new_session(store, people.bob)
    write_all(store)
    assert store.deliveries.behind() == []  # also what an endpoint does not want is behind it
    got = [(job.endpoint.id, job.delivery.type) for job in everything_due(store)]
    assert [kind for one, kind in got if one == narrow.id] == ["session.error"]
    assert [kind for one, kind in got if one == wide.id] == [
        "session.created", "session.running", "session.error",
    ]  # fmt: skip
    assert [kind for one, kind in got if one == theirs.id] == ["session.created"]
    assert foreign.tenant_id == "bolt"


def test_same_events_written_by_two_workers_are_there_once(store: Store, people: People) -> None:
    endpoint_of(store)
    new_session(store, people.alice)
    (seen_by_one,) = store.deliveries.behind()
    (seen_by_other,) = store.deliveries.behind()
    assert store.deliveries.write(seen_by_one, lambda _event: "{}") == 1
    new_session(store, people.alice)
    assert store.deliveries.write(seen_by_other, lambda _event: "{}") == 0
    assert write_all(store) == 1
    assert len(everything_due(store)) == 2


def test_death_in_the_middle_of_writing_leaves_nothing_and_loses_nothing(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint_of(store)
    for _ in range(3):
        new_session(store, people.alice)
    (one,) = store.deliveries.behind()

    class Died(BaseException):
        pass

    def die(event: Event) -> str:
        if event.id == one.events[-1].id:
            raise Died
        return "{}"

    with pytest.raises(Died):
        store.deliveries.write(one, die)
    assert everything_due(store) == []
    assert write_all(store) == 3
    assert len({job.delivery.event_id for job in everything_due(store)}) == 3


def test_more_events_than_one_transaction_takes_are_written_in_several(
    store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.deliveries.store.EVENTS_AT_ONCE", 4)
    endpoint_of(store)
    for _ in range(10):
        new_session(store, people.alice)
    assert [write_all(store) for _ in range(4)] == [4, 4, 2, 0]


def test_restored_database_gives_other_ids_to_other_events(store: Store, people: People) -> None:
    endpoint_of(store)
    new_session(store, people.alice)
    (one,) = store.deliveries.behind()
    (event,) = one.events
    later = event.session.model_copy(update={"updated_at": event.session.updated_at + timedelta(seconds=1)})
    again = event.model_copy(update={"about": later})
    assert message_id_of(one.endpoint.id, event) != message_id_of(one.endpoint.id, again)
    assert message_id_of(one.endpoint.id, event) == message_id_of(one.endpoint.id, event)


def test_purge_leaves_what_an_endpoint_still_has_to_get(store: Store, people: People) -> None:
    kept, gone = endpoint_of(store), endpoint_of(store, "bolt")
    new_session(store, people.alice)
    for _ in range(2):
        new_session(store, people.bob)
    newest = store.fleet.last_event_id()
    store.webhooks("bolt").change(gone.id, enabled=False)
    later = utcnow() + timedelta(days=1)
    store.fleet.purge(events_before=later, sessions_ended_before=NOW)
    left = store.fleet.events_after(0, 10)
    assert [(event.tenant_id, event.id == newest) for event in left] == [("acme", False), ("bolt", True)]
    write_all(store)
    store.fleet.purge(events_before=later, sessions_ended_before=NOW)
    assert [event.id for event in store.fleet.events_after(0, 10)] == [newest]
    assert [job.endpoint.id for job in everything_due(store)] == [kept.id]


# --- what follows from an attempt ------------------------------------------------------------------------


@pytest.fixture
def job(store: Store, people: People) -> Job:
    endpoint_of(store)
    new_session(store, people.alice)
    write_all(store)
    (found,) = everything_due(store)
    return found


def logged(store: Store, job: Job) -> tuple[DeliveryStatus, list[int | None]]:
    (one,) = store.webhooks("acme").deliveries(job.endpoint.id, None, None, 50).items
    return one.delivery.status, [attempt.status_code for attempt in one.attempts]


def test_failed_attempt_is_repeated_by_the_schedule_and_then_given_up(store: Store, job: Job) -> None:
    now = utcnow()
    for delay in RETRY_DELAYS:
        store.deliveries.record(job.delivery.id, attempt_at(now, REFUSED), REFUSED, spread=0)
        assert everything_due(store, now + delay - timedelta(seconds=1)) == []
        now += delay
        (again,) = everything_due(store, now)
        assert again.delivery.message_id == job.delivery.message_id
    recorded = store.deliveries.record(job.delivery.id, attempt_at(now, REFUSED), REFUSED, spread=0)
    assert recorded is not None
    assert (recorded.status, recorded.disabled) == (DeliveryStatus.FAILED, None)
    assert everything_due(store, now + timedelta(days=100)) == []
    assert logged(store, job) == (DeliveryStatus.FAILED, [500] * 10)


def test_success_ends_it_and_the_time_of_failing(store: Store, job: Job) -> None:
    store.deliveries.record(job.delivery.id, attempt_at(NOW, REFUSED), REFUSED, spread=0)
    assert store.webhooks("acme").get(job.endpoint.id).failing_since == NOW
    fine = Outcome(status_code=204)
    store.deliveries.record(job.delivery.id, attempt_at(NOW, fine), fine, spread=0)
    assert store.webhooks("acme").get(job.endpoint.id).failing_since is None
    assert logged(store, job) == (DeliveryStatus.DELIVERED, [500, 204])
    assert everything_due(store) == []


def test_answer_410_disables_the_endpoint_and_gives_up_what_was_under_way(
    store: Store, people: People, job: Job
) -> None:
    new_session(store, people.alice)
    write_all(store)
    gone = Outcome(status_code=410, error="no")
    recorded = store.deliveries.record(job.delivery.id, attempt_at(NOW, gone), gone, spread=0)
    assert recorded is not None
    assert recorded.disabled is not None
    endpoint = store.webhooks("acme").get(job.endpoint.id)
    assert (endpoint.disabled_at, endpoint.disabled_reason) == (NOW, recorded.disabled)
    items = store.webhooks("acme").deliveries(job.endpoint.id, None, None, 50).items
    assert [one.delivery.status for one in items] == ["cancelled", "failed"]
    new_session(store, people.alice)
    assert store.deliveries.behind() == []


def test_endpoint_that_fails_for_five_days_is_disabled(store: Store, job: Job) -> None:
    for day in range(5):
        at = NOW + timedelta(days=day)
        recorded = store.deliveries.record(job.delivery.id, attempt_at(at, REFUSED), REFUSED, spread=0)
        assert recorded is not None
        assert recorded.disabled is None
    at = NOW + DISABLED_AFTER
    recorded = store.deliveries.record(job.delivery.id, attempt_at(at, REFUSED), REFUSED, spread=0)
    assert recorded is not None
    assert recorded.disabled == "nothing has arrived there for 5 days"
    assert store.webhooks("acme").get(job.endpoint.id).disabled_at == at


def test_trial_is_attempted_once_and_says_nothing_of_the_endpoint(store: Store, people: People) -> None:
    assert people
    endpoint = endpoint_of(store)
    trial = store.webhooks("acme").try_out(endpoint.id, lambda _at: "{}")
    for outcome in (REFUSED, Outcome(status_code=410, error="no")):
        recorded = store.deliveries.record(trial.id, attempt_at(NOW, outcome), outcome, spread=0)
        assert recorded is not None
        assert (recorded.status, recorded.disabled) == (DeliveryStatus.FAILED, None)
    assert store.webhooks("acme").get(endpoint.id).failing_since is None


def test_outcome_of_what_was_cancelled_meanwhile(store: Store, job: Job) -> None:
    store.webhooks("acme").change(job.endpoint.id, enabled=False)
    store.deliveries.record(job.delivery.id, attempt_at(NOW, REFUSED), REFUSED, spread=0)
    assert logged(store, job)[0] is DeliveryStatus.CANCELLED
    fine = Outcome(status_code=200)
    store.deliveries.record(job.delivery.id, attempt_at(NOW, fine), fine, spread=0)
    assert logged(store, job)[0] is DeliveryStatus.DELIVERED


def test_deliveries_that_ended_long_ago_are_forgotten_with_their_log(store: Store, job: Job) -> None:
    fine, later = Outcome(status_code=200), NOW + timedelta(days=7)
    store.deliveries.purge(later + timedelta(days=900))
    assert len(everything_due(store)) == 1  # one that is under way is never old
    store.deliveries.record(job.delivery.id, attempt_at(NOW, fine), fine, spread=0)
    store.deliveries.purge(NOW)
    assert logged(store, job)[1] == [200]
    store.deliveries.purge(NOW + timedelta(seconds=1))
    assert store.webhooks("acme").deliveries(job.endpoint.id, None, None, 50).items == ()


def test_oldest_due_delivery_tells_how_far_behind_sending_is(store: Store, job: Job) -> None:
    due = job.delivery.next_attempt_at
    assert due is not None
    assert store.deliveries.oldest_due_seconds(due + timedelta(seconds=90)) == 90
    assert store.deliveries.oldest_due_seconds(due - timedelta(seconds=90)) == 0


# --- who gets a place ------------------------------------------------------------------------------------


def test_one_tenant_or_endpoint_never_takes_all_places(
    store: Store, settings: Settings, people: People
) -> None:
    for _ in range(PER_TENANT // PER_ENDPOINT + 2):
        endpoint_of(store)
    theirs = endpoint_of(store, "bolt")
    for _ in range(PER_ENDPOINT + 3):
        new_session(store, people.alice)
    new_session(store, people.bob)
    deliverer = Deliverer(settings, store)
    chosen = deliverer.look({})
    assert [job.endpoint.id for job in chosen].count(theirs.id) == 1
    mine = [job for job in chosen if job.endpoint.tenant_id == "acme"]
    assert len(mine) == PER_TENANT
    for endpoint in {job.endpoint.id for job in mine}:
        got = [job.delivery.event_id for job in mine if job.endpoint.id == endpoint]
        assert len(got) <= PER_ENDPOINT
        assert got == sorted(got, key=lambda event_id: event_id or 0)
