"""Pages of sessions in every order: each session once, what matches and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

import viewer.session_counts
import viewer.session_pages
from tests.viewer_fixtures import People, ViewerClient, new_session, running_session
from viewer.listing import BadCursor, SessionFilter
from viewer.model import Session, Sort, Status, utcnow
from viewer.store import Store
from viewer.tables import SessionLabelRow, SessionRow

START = utcnow().replace(microsecond=0)
TASKS, AGENTS, IMAGES = ("t-1", "t-2"), ("atlas", None), ("desktop", "chrome")
ALL_STATUSES = tuple(Status)
ROWS = 64


@pytest.fixture
def filled(store: Store, people: People) -> Store:
    """Every value beside every other one, in times that collide."""
    every = itertools.cycle(itertools.product(ALL_STATUSES, TASKS, AGENTS, IMAGES))
    rows, labels = [], []
    for number, (status, task, agent, image) in zip(range(ROWS), every, strict=False):
        at = START + timedelta(seconds=number // 3)
        row = {
            "id": f"s-{number * 37 % 100:03}", "tenant_id": ("acme", "bolt")[number % 9 == 0],
            "kind": "sandbox", "display": "rfb", "status": status.value, "image": image,
            "host": f"h{number % 3}", "sandbox_id": f"box-{number}", "task_id": task, "agent_id": agent,
            "request_id": f"r-{number}", "ttl_seconds": 60, "created_by": "test", "created_at": at,
            "updated_at": START + timedelta(seconds=number * 7 % 20),
            "expires_at": None if number % 5 == 0 else START + timedelta(seconds=number * 11 % 30),
            "terminated_at": at if status.is_terminal else None,
            "error_message": "100 % of the_disk is full" if status is Status.ERROR else None,
        }  # fmt: skip
        rows.append(row)
        if number % 2:
            label = {"session_id": row["id"], "key": "team", "value": ("Red", "blue")[number % 4 > 1]}
            labels.append({**label, "tenant_id": row["tenant_id"], "created_at": at})
    with store._database.writing() as orm:
        orm.execute(insert(SessionRow), rows)
        orm.execute(insert(SessionLabelRow), labels)
    return store


def every_page(store: Store, wanted: SessionFilter, sort: Sort, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = store.tenant("acme").list(wanted, cursor, limit, sort)
        assert len(page.items) <= limit
        found += [one.id for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


def by_hand(store: Store, matches: Callable[[Session], bool], sort: Sort) -> list[str]:
    rows = [one for one in store.tenant("acme").list(limit=1000).items if matches(one)]
    if sort.key == "expires":
        rows = [one for one in rows if one.expires_at is not None and one.terminated_at is None]
    field = {"created": "created_at", "updated": "updated_at", "expires": "expires_at"}[sort.key]
    rows.sort(key=lambda one: (getattr(one, field), one.id), reverse=sort.descending)
    return [one.id for one in rows]


ALIVE = (Status.CREATING, Status.RUNNING, Status.PAUSED)
CASES: dict[str, tuple[SessionFilter, Callable[[Session], bool]]] = {
    "all": (SessionFilter(), lambda _: True),
    "status": (SessionFilter(status=(Status.ERROR,)), lambda one: one.status is Status.ERROR),
    "statuses": (SessionFilter(status=ALIVE), lambda one: one.status in ALIVE),
    "task and agent": (
        SessionFilter(task_id="t-1", agent_id="atlas"),
        lambda one: one.task_id == "t-1" and one.agent_id == "atlas",
    ),
    "image, host and statuses": (
        SessionFilter(image="chrome", host="h1", status=ALIVE),
        lambda one: one.image == "chrome" and one.host == "h1" and one.status in ALIVE,
    ),
    "text": (
        SessionFilter(text="ATLAS chrome"),
        lambda one: one.agent_id == "atlas" and one.image == "chrome",
    ),
    "text and status": (
        SessionFilter(text="h2", status=(Status.RUNNING,)),
        lambda one: one.host == "h2" and one.status is Status.RUNNING,
    ),
    "no pattern": (SessionFilter(text="100 %"), lambda one: one.status is Status.ERROR),
    "nothing": (SessionFilter(text="the%disk"), lambda _: False),
    "underscore": (SessionFilter(text="the_d"), lambda one: one.status is Status.ERROR),
}


@pytest.mark.parametrize("sort", Sort)
def test_pages_have_what_matches_once_and_in_order(
    filled: Store, monkeypatch: pytest.MonkeyPatch, sort: Sort
) -> None:
    wanted_of = {name: by_hand(filled, matches, sort) for name, (_, matches) in CASES.items()}
    assert wanted_of["all"]
    monkeypatch.setattr(viewer.session_pages, "WINDOWS", (3, 6))
    for name, (wanted, _) in CASES.items():
        for limit in (4, 200):
            assert every_page(filled, wanted, sort, limit) == wanted_of[name], (name, limit)


def test_words_are_found_in_labels_too(filled: Store) -> None:
    store = filled.tenant("acme")
    red = {one.id for one in store.list(SessionFilter(labels={"team": "Red"}), limit=200).items}
    assert red
    assert {one.id for one in store.list(SessionFilter(text="red"), limit=200).items} == red
    both = SessionFilter(labels={"team": "Red"}, text="desktop")
    assert {one.id for one in store.list(both, limit=200).items} < red


def test_no_page_looks_further_than_its_windows(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer.session_pages, "WINDOWS", (2, 5))
    page = filled.tenant("acme").list(SessionFilter(text="nowhere"))
    assert page.items == ()
    assert page.next_cursor is not None
    rest = len(by_hand(filled, lambda _: True, Sort.NEWEST)) - 7
    pages = 1
    while page.next_cursor is not None:
        page = filled.tenant("acme").list(SessionFilter(text="nowhere"), page.next_cursor)
        pages += 1
    assert pages == 1 + -(-rest // 7)


def test_cursor_of_one_order_is_none_of_another(filled: Store) -> None:
    store = filled.tenant("acme")
    cursor = store.list(limit=2, sort=Sort.CHANGED_LAST).next_cursor
    assert store.list(cursor=cursor, sort=Sort.CHANGED_FIRST).items
    for sort in (Sort.NEWEST, Sort.ENDS_FIRST):
        with pytest.raises(BadCursor):
            store.list(cursor=cursor, sort=sort)


def test_more_words_than_are_looked_for_are_one_phrase(filled: Store) -> None:
    words = "s- box rfb"  # the last one is in no field that a person reads
    assert filled.tenant("acme").list(SessionFilter(text=words)).items == ()
    many = " ".join(["s-"] * 12)
    assert filled.tenant("acme").list(SessionFilter(text=many)).items == ()


def test_counts_are_ones_own(
    filled: Store, monkeypatch: pytest.MonkeyPatch, client: ViewerClient, people: People
) -> None:
    everything = filled.tenant("acme").list(limit=1000).items
    counts = client.get("/api/v1/sessions/counts", headers=people.wanda.headers).json
    assert counts == {
        **{status.value: sum(one.status is status for one in everything) for status in Status},
        "needs_person": 0,
    }
    monkeypatch.setattr(viewer.session_counts, "MOST_COUNTED", 3)
    assert filled.tenant("acme").counts().terminated == 3


# --- over HTTP ------------------------------------------------------------------------------------------


def listed(client: ViewerClient, people: People, query: str) -> Any:
    return client.get(f"/api/v1/sessions?{query}", headers=people.wanda.headers)


def test_api_looks_for_words_and_sorts(client: ViewerClient, store: Store, people: People) -> None:
    first, second = running_session(store, people.alice, sandbox_id="a"), new_session(store, people.alice)
    new_session(store, people.bob)
    store.tenant("acme").set_labels(first.id, {"team": "Night Shift"})
    for sort in ("created", "-updated"):
        found = listed(client, people, f"sort={sort}").json["items"]
        assert [one["id"] for one in found] == [first.id, second.id]
    for query in (f"q={first.id[4:18].upper()}", "q=night+shift", "q=%20%20running%20"):
        assert [one["id"] for one in listed(client, people, query).json["items"]] == [first.id], query
    assert listed(client, people, "q=nowhere").json == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(("query", "field"), [("sort=name", "sort"), ("q=", "q"), ("q=a%0Ab", "q")])
def test_what_cannot_be_asked_is_named(client: ViewerClient, people: People, query: str, field: str) -> None:
    answer = listed(client, people, query)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json["errors"]] == [field]
