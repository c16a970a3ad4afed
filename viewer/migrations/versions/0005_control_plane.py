"""Sessions say what they reserve, want and lived through; tasks, agents, idempotency keys; hosts drain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LIVE = sa.text("terminated_at IS NULL")


def upgrade() -> None:
    _widen_sessions()
    op.create_table(
        "session_labels",
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sandbox_sessions.id"],
            name=op.f("fk_session_labels_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", "key", name=op.f("pk_session_labels")),
    )
    op.create_index(
        "ix_session_labels_value",
        "session_labels",
        ["tenant_id", "key", "value", "created_at", "session_id"],
    )
    op.create_table(
        "session_history",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sandbox_sessions.id"],
            name=op.f("fk_session_history_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session_history")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_session_history_session", "session_history", ["session_id", "id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_idempotency_keys_tenant_id")),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sandbox_sessions.id"],
            name=op.f("fk_idempotency_keys_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_session_id"), "idempotency_keys", ["session_id"])
    _add_tasks_and_agents()
    op.add_column("hosts", sa.Column("is_draining", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("hosts", sa.Column("report", sa.JSON(), nullable=True))


def _widen_sessions() -> None:
    for column in (
        sa.Column("wanted_labels", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("failed_hosts", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("may_queue", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("via", sa.String(), nullable=False, server_default="api"),
        sa.Column("cpu_millis", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("memory_mib", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("order_sealed", sa.String(), nullable=True),
        sa.Column("idle_seconds", sa.Integer(), nullable=True),
        sa.Column("last_used_at", sa.DateTime(), nullable=True),
        sa.Column("lifetime_ends_at", sa.DateTime(), nullable=True),
        sa.Column("wanted_status", sa.String(), nullable=True),
        sa.Column("placed_at", sa.DateTime(), nullable=True),
        sa.Column("made_at", sa.DateTime(), nullable=True),
        sa.Column("running_at", sa.DateTime(), nullable=True),
        sa.Column("is_warm", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("sandbox_sessions", column)
    op.execute("UPDATE sandbox_sessions SET via = 'inventory' WHERE kind = 'desktop'")
    for name, led_by in (("agent", "agent_id"), ("host", "host"), ("image", "image")):
        op.create_index(
            f"ix_sessions_tenant_{name}", "sandbox_sessions", ["tenant_id", led_by, "created_at", "id"]
        )
    op.create_index("ix_sessions_ended", "sandbox_sessions", ["terminated_at"])
    for name, led_by in (("host", "host"), ("tenant", "tenant_id")):
        op.create_index(
            f"ix_sessions_live_{name}",
            "sandbox_sessions",
            [led_by, "created_at", "id"],
            sqlite_where=LIVE,
            postgresql_where=LIVE,
        )
    op.add_column("api_keys", sa.Column("ends_at", sa.DateTime(), nullable=True))


def _add_tasks_and_agents() -> None:
    op.create_table(
        "tasks",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=True),
        sa.Column("agent_id", sa.String(), nullable=True),
        sa.Column("external_run_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_tasks_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("tenant_id", "external_run_id", name=op.f("uq_tasks_tenant_id_external_run_id")),
    )
    op.create_index("ix_tasks_tenant", "tasks", ["tenant_id", "created_at", "id"])
    op.create_table(
        "agents",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_agents_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_agents")),
    )
    op.create_index("ix_agents_tenant", "agents", ["tenant_id", "created_at", "id"])
    # Tasks and agents that sessions named until now become rows of their own.
    for table, column in (("tasks", "task_id"), ("agents", "agent_id")):
        op.execute(
            f"INSERT INTO {table} (tenant_id, id, created_at, updated_at)"  # noqa: S608
            f" SELECT tenant_id, {column}, min(created_at), max(created_at) FROM sandbox_sessions"
            f" WHERE {column} IS NOT NULL GROUP BY tenant_id, {column}"
        )


def downgrade() -> None:
    op.drop_column("api_keys", "ends_at")
    for column in ("report", "is_draining"):
        op.drop_column("hosts", column)
    for table in ("agents", "tasks", "idempotency_keys", "session_history", "session_labels"):
        op.drop_table(table)
    for name in ("live_tenant", "live_host", "ended", "tenant_image", "tenant_host", "tenant_agent"):
        op.drop_index(f"ix_sessions_{name}", "sandbox_sessions")
    for column in (
        "is_warm", "running_at", "made_at", "placed_at", "wanted_status", "lifetime_ends_at", "last_used_at",
        "idle_seconds", "order_sealed", "labels", "memory_mib", "cpu_millis", "via", "may_queue",
        "failed_hosts", "wanted_labels",
    ):  # fmt: skip
        op.drop_column("sandbox_sessions", column)
