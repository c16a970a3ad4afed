from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

import viewer.event_hub
from tests.viewer_fixtures import ORIGIN, People, ViewerClient, new_session, running_session, sign_in
from viewer.model import HostStatus, Status
from viewer.services import Services, Slots
from viewer.store import Store


class Frames:
    """One open stream, read frame by frame."""

    def __init__(self, client: ViewerClient, headers: dict[str, str]) -> None:
        self.answer = client.get("/api/v1/events", headers=headers)
        self._chunks: Iterator[bytes] = self.answer.iter_encoded()

    def next(self, *, or_heartbeat: bool = False) -> tuple[str, int, Any]:
        """Kind, id and data of the next event; a heartbeat is ("", 0, None), passed over unless wanted."""
        text = next(self._chunks).decode()
        assert text.endswith("\n\n")
        if text.startswith(":"):
            return ("", 0, None) if or_heartbeat else self.next()
        fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
        return fields["event"], int(fields["id"]), json.loads(fields["data"])

    def end_within(self, frames: int) -> bool:
        return any(next(self._chunks, None) is None for _ in range(frames))

    def close(self) -> None:
        self.answer.close()


@pytest.fixture(autouse=True)
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer.event_hub, "HEARTBEAT_SECONDS", 0.1)


def test_stream_sends_a_change_as_the_api_would_show_it(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = running_session(store, people.alice)
    frames = Frames(client, people.alice.headers)
    assert frames.next()[0] == "ready"
    store.fleet.record_host_status("here", HostStatus.OK)
    kind, _, shown = frames.next()
    assert kind == "session"
    assert shown == client.get(f"/api/v1/sessions/{session.id}", headers=people.alice.headers).json
    frames.close()


def test_stream_starts_with_what_comes_next_and_not_with_history(
    client: ViewerClient, store: Store, people: People
) -> None:
    new_session(store, people.alice)
    frames = Frames(client, people.alice.headers)
    assert frames.next() == ("ready", store.tenant("acme").last_event_id(), {})
    assert frames.next(or_heartbeat=True) == ("", 0, None)
    frames.close()


def test_stream_resumes_after_the_last_event_that_arrived(
    client: ViewerClient, store: Store, people: People
) -> None:
    session = new_session(store, people.alice)
    first = store.tenant("acme").last_event_id()
    store.fleet.update(session.id, status_reason="starting")
    store.fleet.transition(session.id, Status.ERROR, error_message="no")
    frames = Frames(client, {**people.alice.headers, "Last-Event-ID": str(first)})
    assert frames.next()[0] == "ready"
    assert [frames.next()[2]["status"] for _ in range(2)] == ["creating", "error"]
    frames.close()


def test_stream_never_carries_another_tenants_session(
    client: ViewerClient, store: Store, people: People
) -> None:
    frames = Frames(client, {**people.bob.headers, "Last-Event-ID": "0"})
    assert frames.next()[0] == "ready"
    new_session(store, people.alice)
    mine = new_session(store, people.bob)
    assert frames.next()[2]["id"] == mine.id
    frames.close()


@pytest.mark.parametrize("given", ["0", "999999"])
def test_stream_says_reset_when_events_are_gone_or_the_id_is_not_ours(
    client: ViewerClient, store: Store, people: People, given: str
) -> None:
    new_session(store, people.alice)
    last = store.tenant("acme").last_event_id()
    store.fleet.purge(
        events_before=new_session(store, people.alice).created_at, sessions_ended_before=_long_ago()
    )
    frames = Frames(client, {**people.alice.headers, "Last-Event-ID": given})
    kind, event_id, _ = frames.next()
    assert (kind, event_id) == ("reset", last + 1)
    frames.close()


def _long_ago() -> Any:
    from datetime import UTC, datetime

    return datetime(2000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "٣", "9" * 30])
def test_last_event_id_that_is_none_is_refused(client: ViewerClient, people: People, given: str) -> None:
    headers = {**people.alice.headers, "Last-Event-ID": given.encode().decode("latin-1")}
    assert client.get("/api/v1/events", headers=headers).status_code == 422


def test_change_reaches_an_open_stream_while_it_waits(
    client: ViewerClient, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.event_hub, "HEARTBEAT_SECONDS", 30.0)
    frames = Frames(client, people.alice.headers)
    frames.next()
    timer = threading.Timer(0.1, lambda: new_session(store, people.alice))
    timer.start()
    assert frames.next()[0] == "session"
    timer.join()
    frames.close()


def test_revoked_key_ends_its_stream(client: ViewerClient, store: Store, people: People) -> None:
    frames = Frames(client, people.alice.headers)
    frames.next()
    store.accounts.revoke_key(people.alice.key.split("_")[1])
    assert frames.end_within(3)
    frames.close()


def test_sign_out_ends_the_browsers_stream(client: ViewerClient, store: Store, people: People) -> None:
    cookie = sign_in(store, people.alice)
    frames = Frames(client, cookie)
    frames.next()
    assert client.post("/signout", headers={**cookie, "Origin": ORIGIN}).status_code == 303
    assert frames.end_within(3)
    frames.close()


def test_too_many_streams_are_refused_and_a_closed_one_makes_room(
    app: Flask, client: ViewerClient, people: People
) -> None:
    services: Services = app.extensions["deskfleet"]
    services.streams = Slots(2, per_tenant=2, per_principal=1)
    first = Frames(client, people.alice.headers)
    second = client.get("/api/v1/events", headers=people.alice.headers)
    assert (second.status_code, second.mimetype) == (503, "application/problem+json")
    assert int(second.headers["Retry-After"]) > 0
    others = Frames(client, people.bob.headers)
    assert client.get("/api/v1/events", headers=people.wanda.headers).status_code == 503
    first.close()  # never read from: its place must come back all the same
    others.close()
    client.head("/api/v1/events", headers=people.alice.headers).close()
    again = Frames(client, people.alice.headers)
    assert again.answer.status_code == 200
    again.close()


def test_one_tenant_cannot_have_every_stream(app: Flask, client: ViewerClient, people: People) -> None:
    services: Services = app.extensions["deskfleet"]
    services.streams = Slots(3, per_tenant=1, per_principal=3)
    first = Frames(client, people.alice.headers)
    assert client.get("/api/v1/events", headers=people.wanda.headers).status_code == 503
    other = Frames(client, people.bob.headers)
    assert other.answer.status_code == 200
    first.close()
    again = Frames(client, people.wanda.headers)
    assert again.answer.status_code == 200
    again.close()
    other.close()


def test_headers_keep_the_stream_unbuffered_and_uncached(client: ViewerClient, people: People) -> None:
    frames = Frames(client, people.alice.headers)
    assert frames.answer.mimetype == "text/event-stream"
    assert frames.answer.headers["Cache-Control"] == "no-store"
    assert frames.answer.headers["X-Accel-Buffering"] == "no"
    assert re.match(rb"retry: \d+\n", next(frames._chunks))
    frames.close()
