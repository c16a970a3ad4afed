"""What a person is needed for; lists in the order of change and of end; documents; share links by tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_HELP = (
    ("help_reason", sa.String()),
    ("help_asked_at", sa.DateTime()),
    ("help_asked_by", sa.String()),
    ("help_ended_at", sa.DateTime()),
    ("help_ended_by", sa.String()),
)
_ORDERS = (
    ("ix_sessions_tenant_updated", "updated_at", "updated_at IS NOT NULL"),
    ("ix_sessions_live_expires", "expires_at", "terminated_at IS NULL AND expires_at IS NOT NULL"),
)


def upgrade() -> None:
    for name, kind in _HELP:
        op.add_column("sandbox_sessions", sa.Column(name, kind, nullable=True))
    needs_a_person = sa.text("help_reason IS NOT NULL")
    op.create_index(
        "ix_sessions_tenant_help",
        "sandbox_sessions",
        ["tenant_id", "created_at", "id"],
        sqlite_where=needs_a_person,
        postgresql_where=needs_a_person,
    )
    for name, time, condition in _ORDERS:
        where = sa.text(condition)
        columns = ["tenant_id", time, "id"]
        op.create_index(name, "sandbox_sessions", columns, sqlite_where=where, postgresql_where=where)
    _add_documents()
    op.create_index("ix_share_links_tenant", "share_links", ["tenant_id", "created_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_share_links_tenant", "share_links")
    for name, _time, _condition in _ORDERS:
        op.drop_index(name, table_name="sandbox_sessions")
    for table in ("document_contents", "documents"):
        op.drop_table(table)
    op.drop_index("ix_sessions_tenant_help", "sandbox_sessions")
    for name, _kind in _HELP:
        op.drop_column("sandbox_sessions", name)


def _add_documents() -> None:
    op.create_table(
        "documents",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=True),
        sa.Column("agent_id", sa.String(), nullable=True),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=True),
        sa.Column("media_type", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_documents_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
    )
    op.create_index("ix_documents_tenant", "documents", ["tenant_id", "created_at", "id"])
    op.create_index("ix_documents_tenant_task", "documents", ["tenant_id", "task_id", "created_at", "id"])
    op.create_index(
        "ix_documents_tenant_session", "documents", ["tenant_id", "session_id", "created_at", "id"]
    )
    op.create_index("ix_documents_tenant_type", "documents", ["tenant_id", "type", "created_at", "id"])
    op.create_index("ix_documents_updated", "documents", ["updated_at"])
    op.create_table(
        "document_contents",
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["documents.id"],
            name=op.f("fk_document_contents_document_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("document_id", name=op.f("pk_document_contents")),
    )
