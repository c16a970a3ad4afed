"""How many sessions of each status a tenant has. Only the stores import this module."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from viewer.model import Frozen, Status
from viewer.rows import live_rows
from viewer.tables import SessionRow

MOST_COUNTED = 10_000
"""Of those that have ended: beyond it a person reads "many", and the table need not be read to its end."""


class Counts(Frozen):
    """Those that have ended are counted up to MOST_COUNTED."""

    creating: int
    running: int
    paused: int
    terminated: int
    error: int
    needs_person: int


def counts_of(orm: OrmSession, tenant_id: str) -> Counts:
    # Not the bare column: SQLite would go by its index, through all that has ever been there.
    status = SessionRow.status.concat("")
    lively = live_rows(SessionRow.tenant_id == tenant_id)
    statuses = lively.with_only_columns(status, func.count(), func.count(SessionRow.help_reason))
    found = {name: (number, calls) for name, number, calls in orm.execute(statuses.group_by(status))}
    lives = {status.value: found.get(status.value, (0, 0))[0] for status in Status if not status.is_terminal}
    ended = {status.value: _ended(orm, tenant_id, status) for status in Status if status.is_terminal}
    calls = sum(calls for _, calls in found.values())
    return Counts.model_validate({**lives, **ended, "needs_person": calls})


def _ended(orm: OrmSession, tenant_id: str, status: Status) -> int:
    those = select(SessionRow.id).where(SessionRow.tenant_id == tenant_id, SessionRow.status == status.value)
    # In the index's order: PostgreSQL would rather read a table where so many match.
    first = those.order_by(SessionRow.created_at, SessionRow.id).limit(MOST_COUNTED).subquery()
    return orm.scalar(select(func.count()).select_from(first)) or 0
