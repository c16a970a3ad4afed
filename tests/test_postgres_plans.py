"""How PostgreSQL goes about what the store asks, in a table that has grown: by an index, as SQLite does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from tests.postgres import PostgresServer
from tests.test_query_plans import CURSOR, LIVE, ORDERS, WAYS, WINDOWED, cursor_for, explained
from viewer.listing import SessionFilter
from viewer.model import Sort
from viewer.new_sessions import QuotaExceeded
from viewer.store import Store

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

GROWN = """
INSERT INTO tenants (id, created_at) VALUES ('acme', now()), ('bolt', now());
INSERT INTO sandbox_sessions (id, tenant_id, kind, display, status, image, host, sandbox_id, task_id,
    agent_id, request_id, ttl_seconds, created_by, created_at, updated_at, terminated_at)
SELECT n::text, CASE n % 2 WHEN 0 THEN 'acme' ELSE 'bolt' END, 'sandbox', 'rfb',
    CASE WHEN n % 1000 < 4 THEN 'running' WHEN n % 7 = 0 THEN 'error' ELSE 'terminated' END,
    CASE n % 300 WHEN 0 THEN 'desktop' ELSE 'i' || n % 300 END,
    CASE n % 300 WHEN 0 THEN 'here' ELSE 'h' || n % 300 END, n::text, 't' || n % 500, 'a' || n % 500,
    'r' || n, 60, 'test', at, at, CASE WHEN n % 1000 < 4 THEN NULL ELSE at END
FROM (SELECT n, timestamp '2026-11-01' + n * interval '1 second' AS at
    FROM generate_series(1, 60000) AS n) AS made;
INSERT INTO session_labels (session_id, key, value, tenant_id, created_at)
SELECT id, key, 'v' || id::int % 300, tenant_id, created_at
FROM sandbox_sessions CROSS JOIN (VALUES ('a'), ('c')) AS keys (key);
ANALYZE;
"""


@pytest.fixture(scope="module")
def grown(postgres_server: PostgresServer) -> Iterator[Store]:
    address = postgres_server.migrated()
    with psycopg.connect(address.url) as connection:
        connection.execute(GROWN)
    store = Store(address)
    yield store
    store.close()


def reads_all(plan: str) -> bool:
    return "Seq Scan on sandbox_sessions" in plan or "Seq Scan on session_labels" in plan


@pytest.mark.parametrize("name", WAYS)
def test_list_by_each_filter_reads_its_own_index_from_where_the_page_begins(grown: Store, name: str) -> None:
    wanted, index, sort = WAYS[name]
    with explained(grown) as plans:
        grown.tenant("acme").list(wanted, cursor_for(sort), sort=sort)
    [plan] = plans
    assert not reads_all(plan), plan
    if not wanted.labels:
        assert index in plan, plan
        assert "ROW(" in plan, plan


@pytest.mark.parametrize("name", WINDOWED)
def test_several_conditions_are_tried_on_what_one_of_them_leads_to(grown: Store, name: str) -> None:
    wanted, index = WINDOWED[name]
    with explained(grown) as plans:
        grown.tenant("acme").list(wanted, CURSOR)
    assert not any(map(reads_all, plans)), "\n\n".join(plans)
    if not wanted.labels:
        assert index in plans[0], plans[0]


@pytest.mark.parametrize("sort", ORDERS)
def test_conditions_in_another_order_are_tried_as_it_goes(grown: Store, sort: Sort) -> None:
    wanted = SessionFilter(task_id="t7", text="a")
    with explained(grown) as plans:
        grown.tenant("acme").list(wanted, cursor_for(sort), sort=sort)
    assert ORDERS[sort] in plans[0], plans[0]


@pytest.mark.parametrize("name", LIVE)
def test_what_is_asked_all_the_time_never_reads_the_history(grown: Store, name: str) -> None:
    ask, _ = LIVE[name]
    with explained(grown) as plans, suppress(QuotaExceeded):
        ask(grown)
    assert not any(map(reads_all, plans)), "\n\n".join(plans)
