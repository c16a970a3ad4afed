"""Alembic's entry: run the steps on the engine that `viewer.migrations` hands over."""

from __future__ import annotations

from typing import Literal

from alembic import context
from sqlalchemy import Engine

from viewer.database import begin_alone
from viewer.tables import Base, UtcDateTime


def _render_type(kind: str, value: object, _context: object) -> str | Literal[False]:
    """Steps name plain column types only: they must not change when our Python types do."""
    return "sa.DateTime()" if kind == "type" and isinstance(value, UtcDateTime) else False


def _run() -> None:
    engine = context.config.attributes["engine"]
    if not isinstance(engine, Engine):
        raise TypeError("migrations run through viewer.migrations.upgrade")
    # `writes`: the lock is taken before the first look, so two programs that start at once migrate once.
    with engine.execution_options(writes=True).connect() as connection:
        begin_alone(connection)
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            render_item=_render_type,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


_run()
