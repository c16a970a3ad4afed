"""Every step up, and down again, with rows in the tables."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Inspector, MetaData, Table, inspect, text

from viewer.database import engine_of
from viewer.database_address import PostgresAddress
from viewer.migrations import config_for, downgrade, upgrade

NOW = datetime(2026, 11, 1, 12)
STEPS = ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"]
SESSION = {
    "id": "s-1", "tenant_id": "acme", "kind": "sandbox", "display": "rfb", "status": "running",
    "image": "desktop",
    "host": "here", "sandbox_id": "box", "task_id": "t-1", "agent_id": "a-1", "request_id": "r-1",
    "ttl_seconds": 60, "created_by": "test", "created_at": NOW, "updated_at": NOW,
}  # fmt: skip
FIRST_ROWS = {
    "tenants": {"id": "acme", "created_at": NOW},
    "hosts": {"name": "here", "status": "ok", "changed_at": NOW},
    "api_keys": {"id": "k", "tenant_id": "acme", "role": "admin", "sha256": "0", "label": "",
                 "from_settings": False, "created_at": NOW},
    "events": {"tenant_id": "acme", "session_id": "s-1", "at": NOW, "payload": "{}"},
    "sandbox_sessions": SESSION,
    "signin_links": {"sha256": "1", "tenant_id": "acme", "role": "admin", "created_at": NOW, "ends_at": NOW},
    "sign_ins": {"sha256": "2", "tenant_id": "acme", "role": "admin", "principal_id": "key:k", "key_id": "k",
                 "created_at": NOW, "used_at": NOW, "ends_at": NOW},
}  # fmt: skip
NEWEST_ROWS: dict[str, dict[str, object]] = {
    "entries": {"sha256": "3", "is_ticket": True, "origin": "o", "session_id": "s-1", "tenant_id": "acme",
                "role": "admin", "key_id": "k", "sign_in_sha256": "2", "created_at": NOW, "ends_at": NOW},
    "session_labels": {"session_id": "s-1", "key": "a", "value": "b", "tenant_id": "acme", "created_at": NOW},
    "session_history": {"session_id": "s-1", "at": NOW, "status": "running", "by": "worker"},
    "idempotency_keys": {"tenant_id": "acme", "key": "k", "body_sha256": "4", "session_id": "s-1",
                         "created_at": NOW},
    "people": {"id": "p", "tenant_id": "acme", "login": "ada", "name": "Ada", "role": "admin",
               "created_by": "test", "created_at": NOW},
    "audit_log": {"tenant_id": "acme", "number": 1, "at": NOW, "principal": "p", "principal_name": "p",
                  "action": "a", "outcome": "done", "chain": "5"},
    "leases": {"session_id": "s-1", "tenant_id": "acme", "number": 3, "kind": "agent", "holder": "key:k",
               "holder_name": "k", "since": NOW, "ends_at": NOW},
    "lease_requests": {"session_id": "s-1", "holder": "person:p", "kind": "person", "name": "Ada", "at": NOW},
    "stream_tickets": {"id": "t", "tenant_id": "acme", "session_id": "s-1", "holder": "k", "role": "watch",
                       "is_single_use": True, "created_at": NOW, "ends_at": NOW},
    "share_links": {"id": "l", "sha256": "6", "tenant_id": "acme", "session_id": "s-1", "label": "",
                    "is_single_use": False, "created_by": "key:k", "created_at": NOW, "ends_at": NOW},
    "gestures": {"tenant_id": "acme", "key": "k", "body_sha256": "8", "session_id": "s-1", "created_at": NOW},
    "documents": {"id": "d", "tenant_id": "acme", "type": "text", "title": "Notes", "size": 2,
                  "media_type": "text/plain", "sha256": "9", "created_by": "key:k",
                  "created_at": NOW, "updated_at": NOW},
    "document_contents": {"document_id": "d", "data": b"ok"},
    "share_visits": {"id": "v", "sha256": "7", "link_id": "l", "created_at": NOW, "used_at": NOW},
}  # fmt: skip


@pytest.fixture
def engine(new_database: Path | PostgresAddress) -> Engine:
    return engine_of(new_database)


def put(engine: Engine, rows: dict[str, dict[str, object]]) -> None:
    with engine.execution_options(writes=True).begin() as connection:
        for name, row in rows.items():
            connection.execute(_table(connection, name).insert().values(row))


def _table(connection: Connection, name: str) -> Table:
    return Table(name, MetaData(), autoload_with=connection, resolve_fks=False)


def shape(engine: Engine) -> dict[str, object]:
    """All tables with their columns, indexes and keys, in any order: a later step's are at the end."""
    seen = inspect(engine)
    names = [name for name in seen.get_table_names() if name != "alembic_version"]
    return {name: (_columns(seen, name), _indexes(seen, name), _keys(seen, name)) for name in names}


def _columns(seen: Inspector, table: str) -> list[tuple[str, str, bool]]:
    return sorted((one["name"], str(one["type"]), one["nullable"]) for one in seen.get_columns(table))


def _indexes(seen: Inspector, table: str) -> list[tuple[str | None, list[str | None]]]:
    return sorted((one["name"], one["column_names"]) for one in seen.get_indexes(table))


def _keys(seen: Inspector, table: str) -> list[tuple[str | None, list[str]]]:
    return sorted((one["name"], one["constrained_columns"]) for one in seen.get_foreign_keys(table))


def test_every_step_goes_up_and_down_again_and_leaves_what_was_there(
    engine: Engine, new_database: Path | PostgresAddress
) -> None:
    assert [
        step.revision for step in ScriptDirectory.from_config(config_for(engine)).walk_revisions()
    ] == STEPS[::-1]
    upgrade(new_database, "0001")
    put(engine, FIRST_ROWS)
    shapes = [shape(engine)]
    for step in STEPS[1:]:
        upgrade(new_database, step)
        shapes.append(shape(engine))
    put(engine, NEWEST_ROWS)
    for step, wanted in zip(STEPS[-2::-1], shapes[-2::-1], strict=True):
        downgrade(new_database, step)
        assert shape(engine) == wanted
    with engine.connect() as connection:
        for name in FIRST_ROWS:
            assert connection.scalar(text(f"SELECT count(*) FROM {name}")) == 1, name
    upgrade(new_database)
    assert shape(engine) == shapes[-1]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, agent_id, via FROM sandbox_sessions")).all() == [
            ("s-1", "a-1", "api")
        ]
        assert connection.execute(text("SELECT tenant_id, id FROM tasks")).all() == [("acme", "t-1")]
    downgrade(new_database, "base")
    assert shape(engine) == {}
    engine.dispose()
