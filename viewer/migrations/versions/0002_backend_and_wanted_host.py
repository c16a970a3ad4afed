"""Desktops say what they run, and a session may ask for its host."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandbox_sessions", sa.Column("backend", sa.String(), nullable=True))
    op.add_column("sandbox_sessions", sa.Column("wanted_host", sa.String(), nullable=True))
    # Until now there was one way to show a desktop.
    op.execute("UPDATE sandbox_sessions SET backend = 'tigervnc' WHERE kind = 'desktop'")


def downgrade() -> None:
    for column in ("wanted_host", "backend"):
        op.drop_column("sandbox_sessions", column)
