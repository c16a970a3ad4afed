"""Entries: one-time tickets for the origins beside the viewer, and the cookies that they become."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("is_ticket", sa.Boolean(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("service", sa.String(), nullable=True),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("sign_in_sha256", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ends_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sandbox_sessions.id"],
            name=op.f("fk_entries_session_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_entries_tenant_id")),
        sa.ForeignKeyConstraint(
            ["key_id"], ["api_keys.id"], name=op.f("fk_entries_key_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["sign_in_sha256"],
            ["sign_ins.sha256"],
            name=op.f("fk_entries_sign_in_sha256"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_entries")),
    )
    # Signing out, and forgetting old sessions, look for the entries that go with them.
    with op.batch_alter_table("entries", schema=None) as batch_op:
        batch_op.create_index("ix_entries_session_id", ["session_id"], unique=False)
        batch_op.create_index("ix_entries_sign_in_sha256", ["sign_in_sha256"], unique=False)


def downgrade() -> None:
    op.drop_table("entries")
