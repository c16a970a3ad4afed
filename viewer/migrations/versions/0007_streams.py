"""Who has keyboard and mouse; tickets and share links; tenants that the settings named; input sent once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _add_leases()
    _add_stream_tickets()
    _add_share_links()
    _add_gestures()
    op.add_column(
        "tenants", sa.Column("from_settings", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column("tenants", sa.Column("disabled_at", sa.DateTime(), nullable=True))
    op.add_column("entries", sa.Column("share_visit_id", sa.String(), nullable=True))


def downgrade() -> None:
    for table in ("gestures", "share_visits", "share_links", "stream_tickets", "lease_requests", "leases"):
        op.drop_table(table)
    for column in ("disabled_at", "from_settings"):
        op.drop_column("tenants", column)
    op.drop_column("entries", "share_visit_id")


def _of_session(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["session_id"], ["sandbox_sessions.id"], name=op.f(f"fk_{table}_session_id"), ondelete="CASCADE"
    )


def _of_tenant(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f(f"fk_{table}_tenant_id"))


def _add_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("kind", sa.String(), nullable=True),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("holder_name", sa.String(), nullable=True),
        sa.Column("since", sa.DateTime(), nullable=True),
        sa.Column("ends_at", sa.DateTime(), nullable=True),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        _of_session("leases"),
        _of_tenant("leases"),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_leases")),
    )
    op.create_index("ix_leases_held", "leases", ["ends_at"])
    op.create_table(
        "lease_requests",
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("at", sa.DateTime(), nullable=False),
        _of_session("lease_requests"),
        sa.PrimaryKeyConstraint("session_id", "holder", name=op.f("pk_lease_requests")),
    )


def _add_stream_tickets() -> None:
    op.create_table(
        "stream_tickets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("is_single_use", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.Column("ends_at", sa.DateTime(), nullable=False),
        _of_session("stream_tickets"),
        _of_tenant("stream_tickets"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stream_tickets")),
    )
    op.create_index("ix_stream_tickets_session_id", "stream_tickets", ["session_id"])
    op.create_index("ix_stream_tickets_ends_at", "stream_tickets", ["ends_at"])


def _add_share_links() -> None:
    op.create_table(
        "share_links",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("is_single_use", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ends_at", sa.DateTime(), nullable=False),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        _of_session("share_links"),
        _of_tenant("share_links"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_links")),
        sa.UniqueConstraint("sha256", name=op.f("uq_share_links_sha256")),
    )
    op.create_index("ix_share_links_session", "share_links", ["session_id", "created_at", "id"])
    op.create_table(
        "share_visits",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("link_id", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("user_agent", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["link_id"], ["share_links.id"], name=op.f("fk_share_visits_link_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_visits")),
        sa.UniqueConstraint("sha256", name=op.f("uq_share_visits_sha256")),
    )
    op.create_index("ix_share_visits_link_id", "share_visits", ["link_id"])


def _add_gestures() -> None:
    op.create_table(
        "gestures",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("answer", sa.String(), nullable=True),
        _of_session("gestures"),
        _of_tenant("gestures"),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_gestures")),
    )
    op.create_index("ix_gestures_session_id", "gestures", ["session_id"])
    op.create_index("ix_gestures_created_at", "gestures", ["created_at"])
