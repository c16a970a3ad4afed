"""How SQLite goes about what the store asks: by an index that leads to the rows, however many there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event

from viewer.audit_store import AuditFilter, _cursor_of
from viewer.deliveries.model import DeliveryStatus
from viewer.deliveries.store import NewEndpoint
from viewer.listing import Position, SessionFilter
from viewer.model import Sort, Status, utcnow
from viewer.resources import Quota
from viewer.store import NewSession, Store

pytestmark = pytest.mark.sqlite
CURSOR = Position(at=utcnow(), id="x").to_cursor()
NEW = NewSession(image="desktop", resolution="1280x800", ttl_seconds=60, created_by="test")


@contextmanager
def explained(store: Store) -> Iterator[list[str]]:
    """The plan of each statement that runs inside, a line a step."""
    plans: list[str] = []

    def explain(
        connection: Connection, _cursor: object, statement: str, parameters: Any, *_more: object
    ) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            cursor = connection.connection.cursor()
            how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            cursor.execute(f"{how} {statement}", parameters)
            plans.append("\n".join(str(row[-1]) for row in cursor.fetchall()))
            cursor.close()

    engine = store._database.engine
    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(engine, "before_cursor_execute", explain)


LISTS = {
    "all": (SessionFilter(), "ix_sessions_tenant"),
    "status": (SessionFilter(status=(Status.RUNNING,)), "ix_sessions_tenant_status"),
    "statuses": (SessionFilter(status=(Status.RUNNING, Status.ERROR)), "ix_sessions_tenant_status"),
    "task": (SessionFilter(task_id="t"), "ix_sessions_tenant_task"),
    "agent": (SessionFilter(agent_id="a"), "ix_sessions_tenant_agent"),
    "sandbox": (SessionFilter(sandbox_id="s"), "ix_sessions_tenant_sandbox"),
    "image": (SessionFilter(image="desktop"), "ix_sessions_tenant_image"),
    "host": (SessionFilter(host="here"), "ix_sessions_tenant_host"),
    "help": (SessionFilter(help=True), "ix_sessions_tenant_help"),
    "label": (SessionFilter(labels={"a": "b"}), "ix_session_labels_value"),
}
"""One condition alone: it leads to the page and to nothing else."""

WINDOWED = {
    "labels": (SessionFilter(labels={"a": "b", "c": "d"}), "ix_session_labels_value"),
    "label and live": (
        SessionFilter(labels={"a": "b"}, status=(Status.RUNNING,)),
        "ix_sessions_tenant_status",
    ),
    "label and ended": (
        SessionFilter(labels={"a": "b"}, status=(Status.TERMINATED,)),
        "ix_session_labels_value",
    ),
    "task and host": (SessionFilter(task_id="t", host="here"), "ix_sessions_tenant_task"),
    "image and ended": (
        SessionFilter(image="desktop", status=(Status.ERROR,)),
        "ix_sessions_tenant_image",
    ),
    "text": (SessionFilter(text="a b"), "ix_sessions_tenant"),
    "text and task": (SessionFilter(text="a b", task_id="t"), "ix_sessions_tenant_task"),
}
"""Several conditions: one leads, and the others are tried on so many of its rows and no more."""

ORDERS = {Sort.CHANGED_LAST: "ix_sessions_tenant_updated", Sort.ENDS_LAST: "ix_sessions_live_expires"}
WAYS = {
    **{f"{name}, {sort}": (*LISTS[name], sort) for name in LISTS for sort in (Sort.NEWEST, Sort.OLDEST)},
    **{f"{sort}": (SessionFilter(), index, sort) for sort, index in ORDERS.items()},
}


@pytest.mark.parametrize("name", WAYS)
def test_list_by_each_filter_enters_its_own_index_where_the_page_begins(store: Store, name: str) -> None:
    wanted, index, sort = WAYS[name]
    with explained(store) as plans:
        store.tenant("acme").list(wanted, cursor_for(sort), sort=sort)
    [plan] = plans
    assert re.search(rf"INDEX {index} \(.*[<>] ?\(\?,\?\)\)", plan)
    assert not re.search(r"^SCAN (sandbox_sessions|session_labels)", plan, re.MULTILINE)
    # The pages of several statuses are merged: at most a page of each is sorted.
    assert ("TEMP B-TREE" in plan) == name.startswith("statuses")


@pytest.mark.parametrize("name", WINDOWED)
def test_several_conditions_are_tried_on_what_one_of_them_leads_to(store: Store, name: str) -> None:
    wanted, index = WINDOWED[name]
    with explained(store) as plans:
        store.tenant("acme").list(wanted, CURSOR)
    rows, end = plans
    for plan in (rows, end):
        assert re.search(rf"INDEX {index} \(.*< ?\(\?,\?\)\)", plan), plan
        assert not re.search(r"^SCAN (sandbox_sessions|session_labels)", plan, re.MULTILINE)
    # What leads is limited before anything else is asked of its rows.
    assert "CO-ROUTINE" in rows or "MATERIALIZE" in rows
    assert "TEMP B-TREE" not in end


@pytest.mark.parametrize("sort", ORDERS)
def test_conditions_in_another_order_are_tried_as_it_goes(store: Store, sort: Sort) -> None:
    wanted = SessionFilter(task_id="t", status=(Status.RUNNING,), text="a")
    with explained(store) as plans:
        store.tenant("acme").list(wanted, cursor_for(sort), sort=sort)
    assert len(plans) == 2
    assert all(re.search(rf"INDEX {ORDERS[sort]} \(.*< ?\(\?,\?\)\)", plan) for plan in plans)


def cursor_for(sort: Sort) -> str:
    return Position(at=utcnow(), id="x", by=sort.key).to_cursor()


def _everybody(store: Store) -> object:
    return store.tenant("acme").request_terminations(SessionFilter(), by="test")


LIVE: dict[str, tuple[Callable[[Store], object], set[str]]] = {
    "live sessions": (lambda store: store.fleet.live_sessions(), {"ix_sessions_ended"}),
    "those of a host": (lambda store: store.fleet.on_host("here"), {"ix_sessions_live_host"}),
    "reserved": (lambda store: store.fleet.reserved_by_host(), {"ix_sessions_ended"}),
    "the queue": (lambda store: store.fleet.queue(), {"ix_sessions_live"}),
    "the pool": (lambda store: store.fleet.warm(), {"ix_sessions_live_tenant"}),
    "placement": (lambda store: store.fleet.place(lambda _: []), {"ix_sessions_live", "ix_sessions_ended"}),
    "figures": (lambda store: store.figures.now(), {"ix_sessions_ended"}),
    "a tenant's counts": (
        lambda store: store.tenant("acme").counts(),
        {"ix_sessions_live_tenant", "ix_sessions_tenant_status"},
    ),
    "a tenant's desktops": (lambda store: store.tenant("acme").desktops(), {"ix_sessions_live_tenant"}),
    "all of a tenant end": (_everybody, {"ix_sessions_live_tenant"}),
    "create under a quota": (
        lambda store: store.tenant("acme").create(NEW, quota=Quota(desktops=9)),
        {"ix_sessions_tenant_status", "ix_sessions_live_tenant"},
    ),
    "claim": (
        lambda store: store.tenant("acme").create(NEW, may_be_warm=True),
        {"ix_sessions_tenant_status"},
    ),
    "by request": (lambda store: store.fleet.by_request("r"), {"sqlite_autoindex_sandbox_sessions_3"}),
}
"""Questions that come all the time, and the indexes that keep them from reading the history."""


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.usefixtures("people")
def test_what_is_asked_all_the_time_never_reads_the_history(store: Store, name: str) -> None:
    ask, indexes = LIVE[name]
    with explained(store) as plans:
        ask(store)
    steps = [step for step in "\n".join(plans).split("\n") if " sandbox_sessions" in step]
    used = {found[1] for step in steps if (found := re.search(r"SEARCH .* INDEX (\w+) \(", step))}
    assert used == indexes
    assert not [step for step in steps if step.startswith("SCAN")]


def test_every_answer_of_a_stream_is_read_by_its_index(store: Store) -> None:
    with explained(store) as plans:
        store.tenant("acme").events_after(5)
        store.fleet.events_after(5, 10)
    assert plans == [
        "SEARCH events USING INDEX ix_events_tenant (tenant_id=? AND id>?)",
        "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)",
    ]


AUDIT = {
    "all": (AuditFilter(), "sqlite_autoindex_audit_log_1"),
    "target": (AuditFilter(target="t"), "ix_audit_log_target"),
    "principal": (AuditFilter(principal="p"), "ix_audit_log_principal"),
    "action": (AuditFilter(action="key.create"), "ix_audit_log_action"),
}


@pytest.mark.parametrize("name", AUDIT)
def test_audit_log_is_read_where_its_page_begins_and_in_its_order(store: Store, name: str) -> None:
    wanted, index = AUDIT[name]
    with explained(store) as plans:
        store.audit.page("acme", wanted, _cursor_of(9), 50)
        list(store.audit.entries("acme", wanted))
    assert len(plans) == 2
    assert all(re.match(rf"SEARCH audit_log USING INDEX {index} \(.*number[<>]", plan) for plan in plans)


@pytest.mark.parametrize("name", AUDIT)
def test_a_time_of_the_audit_log_becomes_a_number(store: Store, name: str) -> None:
    """Numbers grow with time, so nothing before or after that time is read."""
    wanted = AUDIT[name][0].model_copy(update={"since": utcnow(), "until": utcnow()})
    with explained(store) as plans:
        list(store.audit.entries("acme", wanted))
    [plan] = plans
    first, *others = plan.split("\n")
    assert re.match(r"SEARCH audit_log USING INDEX \w+ \(.*number>\? AND number<\?\)", first)
    assert others
    assert all("ix_audit_log_at" in step or "SUBQUERY" in step for step in others)


def test_opening_is_looked_up_among_those_of_its_target(store: Store) -> None:
    with explained(store) as plans:
        store.audit.opened("acme", "session.view", "session:s", principal="key:k")
    looks = [plan for plan in plans if "ix_audit_log_target" in plan]
    assert len(looks) == 1
    assert "number>" in looks[0]
    assert "SCAN" not in looks[0]


def _behind(store: Store) -> object:
    return store.deliveries.behind()


def _due(store: Store) -> object:
    return store.deliveries.due(utcnow(), per_endpoint=4, in_hand=())


def _log(status: DeliveryStatus | None) -> Callable[[Store], object]:
    def ask(store: Store) -> object:
        (endpoint,) = store.webhooks("acme").list()
        return store.webhooks("acme").deliveries(endpoint.id, status, CURSOR, 50)

    return ask


DELIVERIES: dict[str, tuple[Callable[[Store], object], set[str]]] = {
    "new events": (_behind, set()),
    "due": (_due, {"ix_webhook_deliveries_next"}),
    "the oldest due": (
        lambda store: store.deliveries.oldest_due_seconds(utcnow()),
        {"ix_webhook_deliveries_due"},
    ),
    "purge": (lambda store: store.deliveries.purge(utcnow()), {"ix_webhook_deliveries_finished"}),
    "log": (_log(None), {"ix_webhook_deliveries_endpoint"}),
    "log by status": (_log(DeliveryStatus.FAILED), {"ix_webhook_deliveries_status"}),
}


@pytest.mark.parametrize("name", DELIVERIES)
@pytest.mark.usefixtures("people")
def test_deliveries_are_found_by_their_indexes_however_long_the_log_is(store: Store, name: str) -> None:
    ask, indexes = DELIVERIES[name]
    new = NewEndpoint(url="https://a/", label="", types=(), secret_sealed="x", created_by="t")
    endpoint = store.webhooks("acme").create(new)
    store.webhooks("acme").try_out(endpoint.id, lambda _at: "{}")
    with explained(store) as plans:
        ask(store)
    steps = [
        step for step in "\n".join(plans).split("\n") if " webhook_deliveries" in step or " events" in step
    ]
    used = {found[1] for step in steps if (found := re.search(r"SEARCH webhook_\w+ .*INDEX (\w+) \(", step))}
    assert used - {"sqlite_autoindex_webhook_deliveries_1"} == indexes
    assert not [step for step in steps if step.startswith("SCAN")]
    of_deliveries = [plan for plan in plans if " webhook_deliveries" in plan]
    assert not [plan for plan in of_deliveries if "TEMP B-TREE FOR ORDER BY" in plan]


def test_share_links_of_all_sessions_are_read_where_their_page_begins(store: Store) -> None:
    with explained(store) as plans:
        store.shares.page("acme", CURSOR, 50)
    assert re.search(r"INDEX ix_share_links_tenant \(.*< ?\(\?,\?\)\)", plans[0])
    assert "TEMP B-TREE" not in plans[0]
