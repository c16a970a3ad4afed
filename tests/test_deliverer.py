"""The deliverer in a thread of this process: a real store, real receivers, and a clock that is moved."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

import viewer.deliveries.deliverer
from tests.viewer_fixtures import ORIGIN, People, ViewerClient, new_session, running_session
from tests.webhook_receiver import Trap, receiving, status
from viewer.credentials import open_secret, seal_secret
from viewer.deliveries.deliverer import PER_ENDPOINT, PER_TENANT, Deliverer
from viewer.deliveries.model import (
    FORMER_SECRET_LIFE,
    RETRY_DELAYS,
    DeliveryStatus,
    Endpoint,
)
from viewer.deliveries.store import LoggedDelivery, NewEndpoint
from viewer.model import HostStatus, Status, utcnow
from viewer.settings import Settings
from viewer.signatures import new_webhook_secret
from viewer.store import Store


class Clock:
    """Goes on by itself, and may be moved ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return utcnow() + self.ahead


class Sending:
    """A deliverer at work."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store, self.clock = settings, store, Clock()
        self._stop = threading.Event()
        deliverer = Deliverer(settings, store, now=self.clock.now)
        self._thread = threading.Thread(target=deliverer.run, args=(self._stop,))
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def endpoint(self, url: str, tenant: str = "acme", **values: Any) -> tuple[Endpoint, str]:
        secret = new_webhook_secret()
        defaults: dict[str, Any] = {"label": "", "types": (), "created_by": "test"}
        sealed = seal_secret(secret, self.settings.secret_key)
        new = NewEndpoint(url=url, secret_sealed=sealed, **{**defaults, **values})
        return self.store.webhooks(tenant).create(new), secret

    def wait_for_log(
        self, endpoint: Endpoint, fits: Callable[[Sequence[LoggedDelivery]], bool]
    ) -> list[LoggedDelivery]:
        """Oldest first."""
        for _ in range(300):
            mark = self.store.mark()
            page = self.store.webhooks(endpoint.tenant_id).deliveries(endpoint.id, None, None, 200)
            found = list(page.items)[::-1]
            if fits(found):
                return found
            self.store.wait_for_change(0.1, since=mark)
        raise AssertionError(found)


@pytest.fixture
def sending(
    settings: Settings, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sending]:
    assert people
    monkeypatch.setattr(viewer.deliveries.deliverer, "LOOK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(viewer.deliveries.deliverer, "LAST_WORDS_SECONDS", 0.1)
    more = {"webhooks_allow_http": True, "webhooks_allow_networks": ["127.0.0.0/8"]}
    begun = Sending(Settings.model_validate({**settings.model_dump(), **more}), store)
    yield begun
    begun.stop()


def has_attempts(number: int) -> Callable[[Sequence[LoggedDelivery]], bool]:
    return lambda log: len(log) == 1 and len(log[0].attempts) == number


def silence(client: socket.socket) -> None:
    client.recv(1)


def test_session_arrives_as_the_api_shows_it(
    sending: Sending, client: ViewerClient, people: People, store: Store
) -> None:
    store.fleet.record_host_status("here", HostStatus.OK)
    with receiving() as receiver:
        _, secret = sending.endpoint(receiver.url)
        session = running_session(store, people.alice)
        received = receiver.wait_for_count(2)
        events = sorted((one.verified(secret) for one in received), key=lambda event: event["timestamp"])
        assert [event["type"] for event in events] == ["session.created", "session.running"]
        shown = client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).json
        assert events[1]["data"] == shown
        assert events[1]["timestamp"] == shown["updated_at"]
        assert shown["page_url"].startswith(ORIGIN)
        assert set(events[1]) == {"type", "timestamp", "data"}


def test_events_of_a_tenant_reach_its_own_endpoints_alone(
    sending: Sending, people: People, store: Store
) -> None:
    with receiving() as mine, receiving() as theirs:
        _, secret = sending.endpoint(mine.url)
        _, other = sending.endpoint(theirs.url, "bolt")
        for _ in range(5):
            new_session(store, people.alice)
        foreign = new_session(store, people.bob)
        mine.wait_for_count(5)
        theirs.wait_for_count(1)
        assert [one.verified(other)["data"]["id"] for one in theirs.received] == [foreign.id]
        assert {one.verified(secret)["data"]["tenant_id"] for one in mine.received} == {"acme"}


def test_both_secrets_sign_after_a_rotation_until_the_former_ends(
    sending: Sending, people: People, store: Store
) -> None:
    with receiving() as receiver:
        endpoint, former = sending.endpoint(receiver.url)
        secret = new_webhook_secret()
        sealed = seal_secret(secret, sending.settings.secret_key)
        store.webhooks("acme").rotate(endpoint.id, sealed, former_life=FORMER_SECRET_LIFE)
        new_session(store, people.alice)
        (both,) = receiver.wait_for_count(1)
        assert both.verified(former) == both.verified(secret)
        assert len(both.headers["webhook-signature"].split(" ")) == 2
        sending.clock.ahead = FORMER_SECRET_LIFE
        new_session(store, people.alice)
        one = receiver.wait_for_count(2)[1]
        assert len(one.headers["webhook-signature"].split(" ")) == 1
        assert open_secret(store.webhooks("acme").get(endpoint.id).secret_sealed, sending.settings.secret_key)


def test_what_fails_comes_again_under_the_same_id_when_its_time_has_come(
    sending: Sending, people: People, store: Store
) -> None:
    with receiving() as receiver:
        receiver.answers = [status(500), status(429, Retry_After="3600"), status(302, Location="http://a/")]
        endpoint, _ = sending.endpoint(receiver.url)
        new_session(store, people.alice)
        waits = (RETRY_DELAYS[0], timedelta(hours=1), RETRY_DELAYS[2])
        for number, wait in enumerate(waits, start=1):
            (one,) = sending.wait_for_log(endpoint, has_attempts(number))
            due = one.delivery.next_attempt_at
            assert due is not None
            assert wait <= due - one.attempts[-1].at <= wait * 1.2
            assert len(receiver.received) == number
            sending.clock.ahead += due - sending.clock.now()
        (done,) = sending.wait_for_log(endpoint, lambda log: log[0].delivery.status == "delivered")
        assert [attempt.status_code for attempt in done.attempts] == [500, 429, 302, 204]
        assert {one.id for one in receiver.received} == {done.delivery.message_id}
        assert done.attempts[-1].error is None
        # Each attempt is signed at its own time: a receiver refuses what is old.
        assert len({one.headers["webhook-timestamp"] for one in receiver.received}) == 4


def test_endpoint_that_says_gone_is_disabled(sending: Sending, people: People, store: Store) -> None:
    with receiving() as receiver:
        receiver.always = status(410)
        endpoint, _ = sending.endpoint(receiver.url)
        new_session(store, people.alice)
        sending.wait_for_log(endpoint, lambda log: bool(log) and log[0].delivery.status == "failed")
        found = store.webhooks("acme").get(endpoint.id)
        assert found.disabled_reason == "it answered 410: it wants no more events"


def test_slow_endpoints_of_one_tenant_delay_nobody_else(
    sending: Sending, people: People, store: Store
) -> None:
    stuck = Trap(silence)
    endpoints = PER_TENANT // PER_ENDPOINT + 2
    with receiving() as other:
        for _ in range(endpoints):
            sending.endpoint(stuck.url)
        _, secret = sending.endpoint(other.url, "bolt")
        for _ in range(10):
            new_session(store, people.alice)
        for _ in range(50):
            if stuck.visits == PER_TENANT:
                break
            store.wait_for_change(0.1)
        assert stuck.visits == PER_TENANT  # all of its places are taken, and none comes free
        sent = {new_session(store, people.bob).id for _ in range(20)}
        received = other.wait_for_count(20)
        assert {one.verified(secret)["data"]["id"] for one in received} == sent
        assert stuck.visits == PER_TENANT
    stuck.close()


def test_slow_endpoint_of_a_tenant_leaves_places_to_its_others(
    sending: Sending, people: People, store: Store
) -> None:
    stuck = Trap(silence)
    with receiving() as other:
        sending.endpoint(stuck.url)
        sending.endpoint(other.url)
        for _ in range(PER_TENANT + 4):
            new_session(store, people.alice)
        other.wait_for_count(PER_TENANT + 4)
        assert stuck.visits <= PER_ENDPOINT
    stuck.close()


def test_outcome_that_cannot_be_written_is_written_later_and_nothing_is_sent_twice(
    sending: Sending, people: People, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.deliveries.deliverer, "AFTER_A_FAILURE_SECONDS", 0.02)
    record, failures = store.deliveries.record, [OSError("the disk is full")] * 3

    def failing(*arguments: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return record(*arguments, **named)

    monkeypatch.setattr(store.deliveries, "record", failing)
    with receiving() as receiver:
        endpoint, _ = sending.endpoint(receiver.url)
        new_session(store, people.alice)
        sending.wait_for_log(endpoint, lambda log: bool(log) and log[0].delivery.status == "delivered")
        assert len(receiver.received) == 1


def test_endpoint_whose_secret_cannot_be_opened_fails_and_says_so(
    sending: Sending, people: People, store: Store
) -> None:
    with receiving() as receiver:
        sealed = NewEndpoint(url=receiver.url, label="", types=(), secret_sealed="x", created_by="test")
        endpoint = store.webhooks("acme").create(sealed)
        store.webhooks("acme").try_out(endpoint.id, lambda _at: "{}")
        (one,) = sending.wait_for_log(endpoint, lambda log: bool(log) and bool(log[0].attempts))
        assert one.attempts[0].error == "its secret cannot be opened here; rotate it"
        assert one.delivery.status is DeliveryStatus.FAILED
        assert receiver.received == []


def test_address_that_was_allowed_once_is_looked_at_again_for_each_attempt(
    sending: Sending, people: People, store: Store
) -> None:
    endpoint, _ = sending.endpoint("http://10.0.0.1/")
    store.webhooks("acme").try_out(endpoint.id, lambda _at: "{}")
    (one,) = sending.wait_for_log(endpoint, lambda log: bool(log) and bool(log[0].attempts))
    assert one.attempts[0].error is not None
    assert one.attempts[0].error.startswith("not sent: the URL is not an address of the public internet")


def test_no_secret_and_no_address_is_in_the_log(
    sending: Sending, people: People, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as receiver:
        receiver.always = status(410)
        endpoint, secret = sending.endpoint(f"{receiver.url}?token=canary-of-the-url")
        session = new_session(store, people.alice)
        store.fleet.transition(session.id, Status.ERROR, error_message="no")
        sending.wait_for_log(endpoint, lambda log: "failed" in [one.delivery.status for one in log])
    sending.stop()
    assert "is disabled: it answered 410" in caplog.text
    for hidden in (secret, "canary-of-the-url", endpoint.secret_sealed):
        assert hidden not in caplog.text
