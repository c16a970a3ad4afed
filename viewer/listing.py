"""Which rows a list shows, and where its next page begins. Only the stores import this module.

Paging is by keyset (creation time and id), so that the thousandth page costs what the first one does. Each
filter has an index that ends in the keyset; several statuses are one such look each, merged. How a list with
a text or several filters is read is `viewer.session_pages`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import reduce
from typing import Generic, Protocol, TypeVar

from pydantic import Field, ValidationError
from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute

from viewer.model import Frozen, Kind, SortKey, Status
from viewer.phases import Phase
from viewer.tables import SessionLabelRow, SessionRow

_Found = TypeVar("_Found")
_Item = TypeVar("_Item")


class _HasKeyset(Protocol):
    @property
    def created_at(self) -> datetime: ...

    @property
    def id(self) -> str: ...


_Keyed = TypeVar("_Keyed", bound=_HasKeyset)


class BadCursor(Exception):
    """The paging cursor is not one that we gave out."""


MOST_WORDS = 8
"""Of a text to look for; what comes after them is part of the last one."""


class SessionFilter(Frozen):
    """All given conditions hold; `status` is any of the named ones, `labels` are all there, and each word of
    `text` is somewhere in what a person reads of a session."""

    status: tuple[Status, ...] = ()
    task_id: str | None = None
    agent_id: str | None = None
    sandbox_id: str | None = None
    image: str | None = None
    host: str | None = None
    help: bool | None = None
    """Does it need a person?"""
    labels: Mapping[str, str] = Field(default_factory=dict)
    text: str | None = None

    @property
    def is_empty(self) -> bool:
        return self == SessionFilter()


class Page(Frozen, Generic[_Item]):
    """Newest first, unless another order was asked for. `next_cursor` is None on the last page."""

    items: tuple[_Item, ...]
    next_cursor: str | None


class Position(Frozen):
    """Where a page ended: the keyset of its last row. at: its creation, or the time that `by` names."""

    at: datetime
    id: str
    by: SortKey = "created"

    def to_cursor(self) -> str:
        order = [] if self.by == "created" else [self.by]
        text = json.dumps([self.at.isoformat(), self.id, *order])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def from_cursor(cls, cursor: str, by: SortKey = "created") -> Position:
        """Raises BadCursor, also for a cursor of another order."""
        try:
            at, row_id, *order = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            position = cls(at=datetime.fromisoformat(at), id=row_id, by=order[0] if order else "created")
            if position.at.tzinfo is None or position.by != by or len(order) > 1:
                raise BadCursor
            return position
        except (ValueError, TypeError, ValidationError) as error:
            raise BadCursor from error


def page_of(found: Sequence[_Keyed], limit: int) -> Page[_Keyed]:
    """`found`: one more than the page holds, if there are more."""
    last = found[limit - 1] if len(found) > limit else None
    cursor = None if last is None else Position(at=last.created_at, id=last.id).to_cursor()
    return Page(items=tuple(found[:limit]), next_cursor=cursor)


def one_page(
    query: Select[_Found],
    created_at: InstrumentedAttribute[datetime],
    row_id: InstrumentedAttribute[str],
    cursor: str | None,
    limit: int,
) -> Select[_Found]:
    """What `page_of` makes a page of: the newest rows from the cursor on. Raises BadCursor."""
    after = None if cursor is None else Position.from_cursor(cursor)
    return in_order(query, created_at, row_id, after, limit + 1)


def look(
    tenant_id: str, wanted: SessionFilter, after: Position | None, limit: int, *, newest_first: bool = True
) -> Select[SessionRow]:
    """The tenant's sessions by their creation, at most `limit` behind `after`. Each condition alone has an
    index that leads to them; which one several together enter is the database's guess."""
    if len(set(wanted.status)) > 1:
        return _merged(tenant_id, wanted, after, limit, newest_first)
    return _one_look(tenant_id, wanted, after, limit, newest_first)


def conditions(
    tenant_id: str, wanted: SessionFilter, row: type[SessionRow] = SessionRow
) -> list[ColumnElement[bool]]:
    """What a session must fulfil to match, whatever page it is on. row: the table, or an alias of it."""
    found: list[ColumnElement[bool]] = [row.tenant_id == tenant_id]
    if wanted.status:
        found.append(row.status.in_([status.value for status in wanted.status]))
    columns: tuple[tuple[InstrumentedAttribute[str] | InstrumentedAttribute[str | None], str | None], ...] = (
        (row.task_id, wanted.task_id),
        (row.agent_id, wanted.agent_id),
        (row.sandbox_id, wanted.sandbox_id),
        (row.image, wanted.image),
        (row.host, wanted.host),
    )
    found += [column == value for column, value in columns if value is not None]
    if wanted.help is not None:
        asks = row.help_reason
        found.append(asks.is_not(None) if wanted.help else asks.is_(None))
    found += [
        _has_label(row, SessionLabelRow.key == key, SessionLabelRow.value == value)
        for key, value in wanted.labels.items()
    ]
    words = (wanted.text or "").split(maxsplit=MOST_WORDS - 1)
    found += [_has_word(row, word.strip()) for word in words]
    return found


def looks_for(
    tenant_id: str,
    phases: Collection[Phase],
    labels: Mapping[str, str],
    *,
    now: datetime,
    born_since: datetime,
) -> list[list[ColumnElement[bool]]]:
    """Sandboxes in one of these phases, as `viewer.phases` has them: the conditions of a look for each
    status, so that each enters an index. born_since: what failed and is older is over."""
    common = [*conditions(tenant_id, SessionFilter(labels=labels)), SessionRow.kind == Kind.SANDBOX.value]
    return [
        [*common, SessionRow.status == status.value, *_in_phase(phase, status, now, born_since)]
        for phase in sorted(set(phases))
        for status in sorted(_STATUSES_IN[phase])
    ]


def _in_phase(phase: Phase, status: Status, now: datetime, born_since: datetime) -> list[ColumnElement[bool]]:
    if phase is Phase.FAILED:
        # The first says nothing new, but it is what the index knows.
        return [SessionRow.created_at > born_since, SessionRow.expires_at > now]
    if phase is Phase.STOPPING:
        return [SessionRow.terminate_requested_at.is_not(None)]
    wanted = _WANTED_IN.get(phase)
    if wanted is not None:
        is_wanted = SessionRow.wanted_status == wanted.value
    else:
        is_wanted = or_(SessionRow.wanted_status.is_(None), SessionRow.wanted_status == status.value)
    return [SessionRow.terminate_requested_at.is_(None), is_wanted]


def numbered_page(
    looks: Sequence[Sequence[ColumnElement[bool]]], *, page: int, size: int
) -> Select[SessionRow]:
    """Page number `page` (from 1) of what any look finds, newest first. No two find the same."""
    reach = page * size
    ids = [
        in_order(select(SessionRow.id).where(*one), SessionRow.created_at, SessionRow.id, None, reach)
        for one in looks
    ]
    merged = union_all(*(select(one.subquery().c.id) for one in ids)).subquery()
    query = select(SessionRow).where(SessionRow.id.in_(select(merged.c.id)))
    return in_order(query, SessionRow.created_at, SessionRow.id, None, size).offset(reach - size)


_STATUSES_IN = {
    Phase.CREATING: {Status.CREATING},
    Phase.RUNNING: {Status.RUNNING},
    Phase.PAUSING: {Status.RUNNING},
    Phase.PAUSED: {Status.PAUSED},
    Phase.RESUMING: {Status.PAUSED},
    Phase.STOPPING: {Status.CREATING, Status.RUNNING, Status.PAUSED},
    Phase.FAILED: {Status.ERROR},
}
_WANTED_IN = {Phase.PAUSING: Status.PAUSED, Phase.RESUMING: Status.RUNNING}


def _one_look(
    tenant_id: str, wanted: SessionFilter, after: Position | None, limit: int, newest_first: bool
) -> Select[SessionRow]:
    if wanted.labels:
        return _by_label(tenant_id, wanted, after, limit, newest_first)
    query = select(SessionRow).where(*conditions(tenant_id, wanted))
    return in_order(query, SessionRow.created_at, SessionRow.id, after, limit, descending=newest_first)


def _by_label(
    tenant_id: str, wanted: SessionFilter, after: Position | None, limit: int, newest_first: bool
) -> Select[SessionRow]:
    """Led by the index of the first label, so that a rare one is not looked for in every session."""
    (key, value), *others = wanted.labels.items()
    rest = wanted.model_copy(update={"labels": dict(others)})
    query = (
        select(SessionRow)
        .join(SessionLabelRow, SessionLabelRow.session_id == SessionRow.id)
        .where(
            SessionLabelRow.tenant_id == tenant_id,
            SessionLabelRow.key == key,
            SessionLabelRow.value == value,
            *conditions(tenant_id, rest),
        )
    )
    at, row_id = SessionLabelRow.created_at, SessionLabelRow.session_id
    return in_order(query, at, row_id, after, limit, descending=newest_first)


def in_order(
    query: Select[_Found],
    at: InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None],
    row_id: InstrumentedAttribute[str],
    after: Position | None,
    limit: int,
    *,
    descending: bool = True,
) -> Select[_Found]:
    """At most `limit` of the query's rows behind `after`."""
    if after is not None:
        # As one comparison of pairs it is where the index is entered, and not a filter over all before it.
        here, there = tuple_(at, row_id), (after.at, after.id)
        query = query.where(here < there if descending else here > there)
    by = (at.desc(), row_id.desc()) if descending else (at, row_id)
    return query.order_by(*by).limit(limit)


def _merged(
    tenant_id: str, wanted: SessionFilter, after: Position | None, limit: int, newest_first: bool
) -> Select[SessionRow]:
    """With `status IN (…)` SQLite would read and sort all that match."""
    looks = [
        _one_look(
            tenant_id, wanted.model_copy(update={"status": (status,)}), after, limit, newest_first
        ).with_only_columns(SessionRow.id)
        for status in sorted(set(wanted.status))
    ]
    ids = union_all(*(select(look.subquery().c.id) for look in looks)).subquery()
    query = select(SessionRow).where(SessionRow.id.in_(select(ids.c.id)))
    return in_order(query, SessionRow.created_at, SessionRow.id, None, limit, descending=newest_first)


def _has_label(row: type[SessionRow], *which: ColumnElement[bool]) -> ColumnElement[bool]:
    # As EXISTS, PostgreSQL would rather read all labels there are, once, than those of each row.
    one = select(SessionLabelRow.session_id).where(SessionLabelRow.session_id == row.id, *which)
    return one.limit(1).correlate(row).scalar_subquery().is_not(None)


def _has_word(row: type[SessionRow], word: str) -> ColumnElement[bool]:
    """In whatever case. SQLite knows the two cases of the letters A to Z alone."""
    read: tuple[InstrumentedAttribute[str] | InstrumentedAttribute[str | None], ...] = (
        row.id, row.sandbox_id, row.status, row.image, row.host, row.task_id, row.agent_id,
        row.status_reason, row.error_message, row.help_reason,
    )  # fmt: skip
    # One comparison instead of ten; no word has the line end that keeps two fields apart.
    parts: list[ColumnElement[str]] = [func.coalesce(column, "") for column in read]
    whole = reduce(lambda left, right: left + "\n" + right, parts)
    return or_(
        whole.icontains(word, autoescape=True),
        _has_label(row, SessionLabelRow.value.icontains(word, autoescape=True)),
    )
