"""Input that must be sent only once, although its answer may be lost: remembered by its idempotency key."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete

from viewer.database import Database
from viewer.model import Frozen, utcnow
from viewer.once import KeyReused, Once
from viewer.tables import GestureRow

GESTURE_LIFE = timedelta(minutes=10)
"""Longer than anybody tries the same request again; there may be many."""


class Earlier(Frozen):
    """What the key was used for before. answer: None: it is under way, or was cut in the middle."""

    answer: str | None


class GestureStore:
    """One tenant's."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def begin(self, session_id: str, once: Once) -> Earlier | None:
        """Write down that it is sent now; None: it was not before. Raises KeyReused."""
        with self._database.writing() as orm:
            now = utcnow()
            row = orm.get(GestureRow, (self._tenant_id, once.stored_key))
            if row is not None and row.created_at >= now - GESTURE_LIFE:
                if (row.body_sha256, row.session_id) != (once.body_sha256, session_id):
                    raise KeyReused
                return Earlier(answer=row.answer)
            if row is not None:
                orm.delete(row)
                orm.flush()
            orm.add(
                GestureRow(
                    tenant_id=self._tenant_id,
                    key=once.stored_key,
                    body_sha256=once.body_sha256,
                    session_id=session_id,
                    created_at=now,
                    answer=None,
                )
            )
        return None

    def finish(self, once: Once, answer: str) -> None:
        """It was done, and this is what whoever asks again is told."""
        with self._database.writing() as orm:
            row = orm.get(GestureRow, (self._tenant_id, once.stored_key))
            if row is not None:
                row.answer = answer

    def forget(self, once: Once) -> None:
        """Nothing of it was done, so the same may be sent again."""
        with self._database.writing() as orm:
            orm.execute(
                delete(GestureRow).where(
                    GestureRow.tenant_id == self._tenant_id, GestureRow.key == once.stored_key
                )
            )
