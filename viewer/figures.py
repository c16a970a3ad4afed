"""Figures over all tenants that the table itself knows, for the metrics: one cheap query."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select

from viewer.database import Database
from viewer.model import Frozen, Kind, Status
from viewer.tables import SessionRow


class Figures(Frozen):
    """Live sessions only: ended ones are as many as the history is long.

    waiting: sandboxes that have no host yet. sandboxes: by host; one without any is left out.
    """

    by_status: Mapping[Status, int]
    waiting: int
    sandboxes: Mapping[str, int]


class FigureStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> Figures:
        query = (
            select(SessionRow.status, SessionRow.kind, SessionRow.host, func.count())
            .where(SessionRow.terminated_at.is_(None))
            .group_by(SessionRow.status, SessionRow.kind, SessionRow.host)
        )
        by_status = {status: 0 for status in Status if not status.is_terminal}
        waiting, sandboxes = 0, dict[str, int]()
        with self._database.reading() as orm:
            for status, kind, host, count in orm.execute(query):
                by_status[Status(status)] = by_status.get(Status(status), 0) + count
                if kind != Kind.SANDBOX:
                    continue
                if host is not None:
                    sandboxes[host] = sandboxes.get(host, 0) + count
                elif status == Status.CREATING:
                    waiting += count
        return Figures(by_status=by_status, waiting=waiting, sandboxes=sandboxes)
