"""A page of a tenant's sessions: any filter, any order, and a bounded time however many there are.

One condition at most is looked up: it leads, by an index that ends in the order's keyset. The others, and
every text, are tried on the rows that it leads to, window after window, and never on more than MOST_LOOKED_AT
for one page: a page may then be short, or even empty, and say where the next one goes on.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.orm import Session as OrmSession

from viewer.listing import Page, Position, SessionFilter, conditions, in_order, look
from viewer.model import Session, Sort
from viewer.rows import session_of
from viewer.tables import SessionLabelRow, SessionRow

WINDOWS = (200, 1000, 4000)
"""Rows that are tried at once. The first is enough where every fourth session matches."""
MOST_LOOKED_AT = sum(WINDOWS)


def page_of_sessions(
    orm: OrmSession, tenant_id: str, wanted: SessionFilter, sort: Sort, cursor: str | None, limit: int
) -> Page[Session]:
    """Raises BadCursor."""
    after = None if cursor is None else Position.from_cursor(cursor, sort.key)
    lead, rest = _split(wanted) if sort.key == "created" else (SessionFilter(), wanted)
    way = _Way(tenant_id, lead, sort)
    if rest.is_empty:
        rows = list(orm.scalars(way.rows(after, limit + 1)))
        more = way.position(rows[limit - 1]) if len(rows) > limit else None
        return _page(rows[:limit], more)
    found: list[SessionRow] = []
    for size in WINDOWS:
        found += orm.scalars(way.matching(after, size, rest, limit + 1 - len(found)))
        if len(found) > limit:
            return _page(found[:limit], way.position(found[limit - 1]))
        after = way.end(orm, after, size)
        if after is None:
            break
    return _page(found, after)


def _page(rows: list[SessionRow], end: Position | None) -> Page[Session]:
    cursor = None if end is None else end.to_cursor()
    return Page(items=tuple(session_of(row) for row in rows), next_cursor=cursor)


class _Way:
    """The sessions that one condition leads to, in order."""

    def __init__(self, tenant_id: str, lead: SessionFilter, sort: Sort) -> None:
        self._tenant_id = tenant_id
        self._lead = lead
        self._sort = sort

    def rows(self, after: Position | None, limit: int) -> Select[SessionRow]:
        if self._sort.key == "created":
            return look(self._tenant_id, self._lead, after, limit, newest_first=self._sort.descending)
        at = self._at(SessionRow)
        # Not null, although a change has a time always: the index asks for these words.
        query = select(SessionRow).where(SessionRow.tenant_id == self._tenant_id, at.is_not(None))
        if self._sort.key == "expires":
            query = query.where(SessionRow.terminated_at.is_(None))
        return in_order(query, at, SessionRow.id, after, limit, descending=self._sort.descending)

    def matching(
        self, after: Position | None, size: int, rest: SessionFilter, limit: int
    ) -> Select[SessionRow]:
        """Those of the next `size` rows that match, too."""
        # The limit inside keeps the database from looking further, whatever it thinks of what is outside.
        row = aliased(SessionRow, self.rows(after, size).subquery())
        query = select(row).where(*conditions(self._tenant_id, rest, row))
        return in_order(query, self._at(row), row.id, None, limit, descending=self._sort.descending)

    def end(self, orm: OrmSession, after: Position | None, size: int) -> Position | None:
        """Where the next `size` rows end; None if there are no more behind them."""
        at, row_id = self._keyset()
        keys = self.rows(after, size + 1).with_only_columns(at, row_id).offset(size - 1).limit(2)
        ends = orm.execute(keys).all()
        return Position(at=ends[0][0], id=ends[0][1], by=self._sort.key) if len(ends) > 1 else None

    def position(self, row: SessionRow) -> Position:
        at = {"created": row.created_at, "updated": row.updated_at, "expires": row.expires_at}[self._sort.key]
        return Position.model_validate({"at": at, "id": row.id, "by": self._sort.key})

    def _at(
        self, row: type[SessionRow]
    ) -> InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None]:
        if self._sort.key == "updated":
            return row.updated_at
        return row.expires_at if self._sort.key == "expires" else row.created_at

    def _keyset(
        self,
    ) -> tuple[
        InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None], InstrumentedAttribute[str]
    ]:
        """In columns of the index that leads, so that the rows themselves need not be read."""
        if self._lead.labels:
            return SessionLabelRow.created_at, SessionLabelRow.session_id
        return self._at(SessionRow), SessionRow.id


def _split(wanted: SessionFilter) -> tuple[SessionFilter, SessionFilter]:
    """The condition that leads to the fewest, as far as one can know without counting, and all others."""
    first = next((name for name in _leads(wanted) if getattr(wanted, name)), None)
    if first is None:
        return SessionFilter(), wanted
    if first == "labels":
        (key, value), *others = wanted.labels.items()
        lead = SessionFilter(labels={key: value})
        return lead, wanted.model_copy(update={"labels": dict(others)})
    lead = SessionFilter.model_validate({first: getattr(wanted, first)})
    return lead, wanted.model_copy(update={first: SessionFilter.model_fields[first].default})


def _leads(wanted: SessionFilter) -> tuple[str, ...]:
    lives = bool(wanted.status) and not any(status.is_terminal for status in wanted.status)
    # Of all sessions, few live at a time; nearly all of an old table have ended.
    by_status = ("status",) if lives else ()
    return ("sandbox_id", "help", *by_status, "task_id", "labels", "agent_id", "host", "image", "status")
