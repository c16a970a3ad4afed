"""Hosts say when a certificate between them and the control host ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("certificate_ends", sa.DateTime(), nullable=True))


def downgrade() -> None:
    op.drop_column("hosts", "certificate_ends")
