"""The hub alone: its streams on socket pairs, a real store, and no HTTP."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import viewer.event_hub
from tests.viewer_fixtures import ORIGIN, People, Person, new_session
from viewer.accounts import Credential
from viewer.event_hub import EventHub, EventStream, Reader
from viewer.model import Session
from viewer.store import Store


@pytest.fixture
def hub(store: Store) -> Iterator[EventHub]:
    made = EventHub(store)
    yield made
    made.stop()
    store.stop_waiting()
    made.close()


class Listener:
    """A client's end of one stream."""

    def __init__(self, hub: EventHub, store: Store, person: Person, *, last: int | None = None) -> None:
        shown = Credential(authorization=f"Bearer {person.key}", cookie=None)
        who = shown.principal(store.accounts)
        assert who is not None
        self.is_over = threading.Event()
        self.socket, carried = socket.socketpair()
        self.socket.settimeout(10)
        self.heard = b""
        last = store.fleet.last_event_id() if last is None else last
        reader = Reader(who=who, shown=shown, origin=ORIGIN)
        stream = EventStream(reader, opening=b"hello\n\n", last=last, ended=self.is_over.set)
        hub.carry(stream, carried)

    def hear(self, is_enough: Callable[[bytes], bool]) -> list[int]:
        """The ids of all events so far, once what has come is enough or the stream has ended."""
        while not is_enough(self.heard) and (data := self.socket.recv(65536)):
            self.heard += data
        return [int(found) for found in re.findall(rb"^id: (\d+)$", self.heard, re.MULTILINE)]

    def hear_of(self, event_id: int) -> list[int]:
        return self.hear(lambda heard: b"id: %d\n" % event_id in heard)

    def close(self) -> None:
        self.socket.close()


MORE_THAN_FITS = 40
"""Events of 20 KB: more than a socket and the hub hold for one stream."""


def change(store: Store, session: Session, times: int, size: int = 20_000) -> list[int]:
    """The ids of as many events of the session, of so many bytes."""
    ids = []
    for number in range(times):
        store.fleet.update(session.id, status_reason=f"{number} {'x' * size}")
        ids.append(store.fleet.last_event_id())
    return ids


def test_many_streams_share_two_threads(hub: EventHub, store: Store, people: People) -> None:
    before = threading.active_count()
    listeners = [Listener(hub, store, people.alice) for _ in range(100)]
    strangers = [Listener(hub, store, people.bob) for _ in range(100)]
    for one in (*listeners, *strangers):
        one.hear(lambda heard: b"hello" in heard)
    mine, theirs = (new_session(store, person) for person in (people.alice, people.bob))
    newest = store.fleet.last_event_id()
    # Two of the hub's, one that polls the database, and at most six of asyncio's pool.
    assert threading.active_count() - before <= 9
    for one in strangers:
        assert one.hear_of(newest) == [newest]
        assert theirs.id.encode() in one.heard
        assert mine.id.encode() not in one.heard
    for one in listeners:
        assert one.hear_of(newest - 1) == [newest - 1]
        assert theirs.id.encode() not in one.heard
    for one in (*listeners, *strangers):
        one.close()
        assert one.is_over.wait(5)


def test_slow_reader_makes_nobody_wait_and_misses_nothing(
    hub: EventHub, store: Store, people: People
) -> None:
    slow, quick = Listener(hub, store, people.alice), Listener(hub, store, people.alice)
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    session = new_session(store, people.alice)
    first = store.fleet.last_event_id()
    ids = [first, *change(store, session, MORE_THAN_FITS)]
    assert quick.hear_of(ids[-1]) == ids
    assert not slow.is_over.is_set()
    assert slow.hear_of(ids[-1]) == ids
    late = change(store, session, 1)[0]
    assert slow.hear_of(late) == quick.hear_of(late) == [*ids, late]
    slow.close()
    quick.close()


def test_reader_that_stands_still_is_dropped_and_the_others_stay(
    hub: EventHub, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.event_hub, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(viewer.event_hub, "STALLED_SECONDS", 0.2)
    stuck, other = Listener(hub, store, people.alice), Listener(hub, store, people.alice)
    session = new_session(store, people.alice)
    newest = store.fleet.last_event_id() + MORE_THAN_FITS
    reading = threading.Thread(target=other.hear_of, args=(newest,))
    reading.start()
    assert change(store, session, MORE_THAN_FITS)[-1] == newest
    reading.join()
    assert stuck.is_over.wait(5)
    assert not other.is_over.is_set()
    late = change(store, session, 1)[0]
    assert other.hear_of(late)[-1] == late
    stuck.close()
    other.close()


def test_stream_that_begins_far_back_joins_the_others_without_a_gap_or_a_double(
    hub: EventHub, store: Store, people: People
) -> None:
    """While it reads what it missed, more happens."""
    session = new_session(store, people.alice)
    first = store.fleet.last_event_id()
    past = change(store, session, 150, 10)
    present: list[int] = []
    changing = threading.Thread(target=lambda: present.extend(change(store, session, 70, 10)))
    changing.start()
    listeners = [Listener(hub, store, people.alice, last=first) for _ in range(5)]
    changing.join()
    for one in listeners:
        assert one.hear_of(present[-1]) == past + present
        one.close()


def test_stream_after_a_time_without_any_gets_what_came_meanwhile(
    hub: EventHub, store: Store, people: People
) -> None:
    """The outbox is not watched while nobody listens."""
    first = Listener(hub, store, people.alice)
    first.hear(lambda heard: b"hello" in heard)
    first.close()
    assert first.is_over.wait(5)
    last = store.fleet.last_event_id()
    session = new_session(store, people.alice)
    again = Listener(hub, store, people.alice, last=last)
    assert again.hear_of(last + 1) == [last + 1]
    late = change(store, session, 1)[0]
    assert again.hear_of(late) == [last + 1, late]
    again.close()


def test_stopped_hub_ends_its_streams_and_carries_no_more(
    hub: EventHub, store: Store, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.event_hub, "_LAST_WORDS_SECONDS", 0.2)
    stuck, open_one = Listener(hub, store, people.alice), Listener(hub, store, people.alice)
    open_one.hear(lambda heard: b"hello" in heard)
    change(store, new_session(store, people.alice), MORE_THAN_FITS)
    began = time.monotonic()
    hub.stop()
    store.stop_waiting()
    hub.close()
    assert time.monotonic() - began < 3
    assert stuck.is_over.is_set()
    open_one.hear(lambda _heard: False)  # to the end
    late = Listener(hub, store, people.alice)
    assert late.is_over.is_set()
    assert late.hear(lambda _heard: False) == []
    for one in (stuck, open_one, late):
        one.close()
