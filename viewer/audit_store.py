"""The audit log as it is read, and its two entries that are part of no other change: openings, prunings."""

from __future__ import annotations

import base64
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, ScalarSelect, delete, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.audit import Action, Detail, Entry, broken, entry_of
from viewer.database import Database
from viewer.listing import BadCursor, Page
from viewer.model import Frozen, Session, utcnow
from viewer.tables import AuditChainRow, AuditRow

OPENING_NOTED_EVERY = timedelta(minutes=10)
"""A page that connects again and again, and each request to a port, would fill the log; the first of the same
principal, from the same address, to the same thing, in the same way, is noted, and after this time again."""
_OPENINGS_REMEMBERED = 20_000
_ROWS_AT_ONCE = 500


class AuditFilter(Frozen):
    """All given conditions hold. action: one, or all of a kind (`session`). since: at or after; until:
    before."""

    action: str | None = None
    principal: str | None = None
    target: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Head(Frozen):
    """How far a tenant's log goes. Kept elsewhere, it proves later that nothing before it was changed."""

    tenant_id: str
    number: int
    chain: str
    pruned_number: int
    pruned_chain: str


class Checked(Frozen):
    """The newest `checked` of the `kept` entries of a log were looked at. problems: a sentence each."""

    checked: int
    kept: int
    problems: tuple[str, ...]


class AuditStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._openings = _Recently(_OPENINGS_REMEMBERED)

    # --- openings ----------------------------------------------------------------------------------

    def opened(
        self, tenant_id: str, action: Action, target: str, *, principal: str, detail: Detail | None = None
    ) -> None:
        """Note that he opened it, unless the same was noted in the last OPENING_NOTED_EVERY. What this
        process remembers only spares it the look into the table."""
        key = (tenant_id, action, target, principal, audit.actor().address, repr(detail))
        now = utcnow()
        if self._openings.is_known(key, now):
            return
        # At once in a transaction that writes: what this process does not know is hardly ever noted already.
        with self._database.writing() as orm:
            noted = _last_opening(orm, key, detail, now)
            if noted is None:
                audit.note(orm, tenant_id, action, target, principal=principal, detail=detail)
                noted = now
        self._openings.remember(key, noted + OPENING_NOTED_EVERY)

    def note_closing(self, session: Session, stream_id: str, *, of: str) -> None:
        """An operator closes somebody's stream."""
        detail = {"stream": stream_id, "of": of}
        with self._database.writing() as orm:
            audit.note(orm, session.tenant_id, "stream.close", f"session:{session.id}", detail=detail)

    def note_export(self, tenant_id: str, conditions: Detail) -> None:
        with self._database.writing() as orm:
            audit.note(orm, tenant_id, "audit.export", None, detail=conditions or None)

    # --- reading -----------------------------------------------------------------------------------

    def page(self, tenant_id: str, wanted: AuditFilter, cursor: str | None, limit: int) -> Page[Entry]:
        """The newest `limit` entries from the cursor on. Raises viewer.listing.BadCursor."""
        query = select(AuditRow).where(*_conditions(tenant_id, wanted))
        if cursor is not None:
            query = query.where(AuditRow.number < _number_of(cursor))
        query = query.order_by(AuditRow.number.desc()).limit(limit + 1)
        with self._database.reading() as orm:
            found = [entry_of(row) for row in orm.scalars(query)]
        items = tuple(found[:limit])
        more = len(found) > limit
        return Page(items=items, next_cursor=_cursor_of(items[-1].number) if more else None)

    def entries(self, tenant_id: str, wanted: AuditFilter | None = None) -> Iterator[Entry]:
        """All that match, oldest first, read a few at a time: no transaction stays open between."""
        conditions, last = _conditions(tenant_id, wanted or AuditFilter()), 0
        while True:
            query = (
                select(AuditRow)
                .where(*conditions, AuditRow.number > last)
                .order_by(AuditRow.number)
                .limit(_ROWS_AT_ONCE)
            )
            with self._database.reading() as orm:
                found = [entry_of(row) for row in orm.scalars(query)]
            yield from found
            if len(found) < _ROWS_AT_ONCE:
                return
            last = found[-1].number

    def heads(self) -> list[Head]:
        """Of every tenant that has a log, those that are gone and `audit.NO_TENANT` among them."""
        query = select(AuditChainRow).order_by(AuditChainRow.tenant_id)
        with self._database.reading() as orm:
            return [Head.model_validate(row, from_attributes=True) for row in orm.scalars(query)]

    def problems(self, head: Head) -> Iterator[str]:
        """What is wrong with that log, a sentence each; none: it is as it was written. head: as it was read
        before this, here or on another day."""
        tenant = head.tenant_id
        now = next((one for one in self.heads() if one.tenant_id == tenant), head)
        start = now if now.pruned_number > head.pruned_number else head
        if start.pruned_number > head.number:
            yield f"{tenant}: entry {head.number} has been pruned since; verify the file that it is in"
            return
        number, last_chain, pruning_is_told = start.pruned_number, start.pruned_chain, False

        def watched() -> Iterator[Entry]:
            nonlocal number, pruning_is_told, last_chain
            for entry in self.entries(tenant):
                number = entry.number
                last_chain = entry.chain if number == head.number else last_chain
                pruning_is_told = pruning_is_told or _tells_of_pruning(entry, start)
                yield entry

        yield from broken(watched(), number=start.pruned_number, chain=start.pruned_chain)
        if start.pruned_number and not pruning_is_told:
            gone = f"all up to entry {start.pruned_number} is gone"
            yield f"{tenant}: {gone}, and no entry tells of its pruning"
        if number < head.number:
            yield f"{tenant}: all after entry {number} is missing, up to entry {head.number}"
        elif last_chain != head.chain:
            yield f"{tenant}: entry {head.number} is not the one that was written"
        now = next((one for one in self.heads() if one.tenant_id == tenant), head)
        if number > now.number:
            yield f"{tenant}: entry {now.number + 1} and what follows was put in by hand"

    def check_newest(self, tenant_id: str, most: int) -> Checked:
        """Are the newest entries as they were written, one after the other and up to where the log's end is
        kept? What `most` leaves out, and a log that was written anew, is found by `problems` alone, with a
        head that was kept elsewhere."""
        with self._database.reading() as orm:
            row = orm.get(AuditChainRow, tenant_id)
            if row is None:
                return Checked(checked=0, kept=0, problems=())
            head = Head.model_validate(row, from_attributes=True)
            number = max(head.pruned_number, head.number - most)
            query = (
                select(AuditRow)
                .where(
                    AuditRow.tenant_id == tenant_id, AuditRow.number >= number, AuditRow.number <= head.number
                )
                .order_by(AuditRow.number)
            )
            found = [entry_of(one) for one in orm.scalars(query)]
        wrong, chain = [], head.pruned_chain
        if number > head.pruned_number:
            # The one before the first that is looked at: what that one is sealed with.
            before = found.pop(0) if found else None
            if before is None or before.number != number:
                wrong.append(f"{tenant_id}: entry {number} is missing")
            number, chain = (before.number, before.chain) if before else (number, chain)
        wrong += broken(found, number=number, chain=chain)
        number, chain = (found[-1].number, found[-1].chain) if found else (number, chain)
        if number < head.number:
            wrong.append(f"{tenant_id}: all after entry {number} is missing, up to entry {head.number}")
        elif chain != head.chain:
            wrong.append(f"{tenant_id}: entry {head.number} is not the one that was written")
        return Checked(checked=len(found), kept=head.number - head.pruned_number, problems=tuple(wrong))

    # --- pruning -----------------------------------------------------------------------------------

    def newest_before(self, tenant_id: str, before: datetime) -> int:
        """The number of the tenant's last entry before that time; 0 when there is none."""
        with self._database.reading() as orm:
            return orm.scalar(select(_last_before(tenant_id, before))) or 0

    def prune(self, tenant_id: str, last: Entry, *, file: str) -> int:
        """Take out all entries up to `last`, which are exported to `file`; how many they were. The chain goes
        on from it, and the log says who did this."""
        with self._database.writing() as orm:
            chain = orm.get_one(AuditChainRow, tenant_id)
            chain.pruned_number, chain.pruned_chain = last.number, last.chain
            orm.flush()
            gone = orm.scalars(
                delete(AuditRow)
                .where(AuditRow.tenant_id == tenant_id, AuditRow.number <= last.number)
                .returning(AuditRow.number)
            ).all()
            detail = {"up_to": last.number, "before": last.at.isoformat(), "chain": last.chain, "file": file}
            audit.note(orm, tenant_id, "audit.prune", None, detail=detail)
            return len(gone)


def _cursor_of(number: int) -> str:
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def _number_of(cursor: str) -> int:
    """Raises BadCursor."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise BadCursor from error
    if not re.fullmatch(r"[1-9]\d{0,17}", text, re.ASCII):
        raise BadCursor
    return int(text)


_Opening = tuple[str, Action, str, str, str | None, str]


class _Recently:
    """What was noted, and until when that counts. Safe to share."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._until: OrderedDict[_Opening, datetime] = OrderedDict()

    def is_known(self, key: _Opening, now: datetime) -> bool:
        with self._lock:
            until = self._until.get(key)
            return until is not None and now < until

    def remember(self, key: _Opening, until: datetime) -> None:
        with self._lock:
            self._until[key] = until
            self._until.move_to_end(key)
            while len(self._until) > self._most:
                self._until.popitem(last=False)


def _last_opening(orm: OrmSession, key: _Opening, detail: Detail | None, now: datetime) -> datetime | None:
    tenant_id, action, target, principal, address, _ = key
    since = now - OPENING_NOTED_EVERY
    query = (
        select(AuditRow)
        .where(
            AuditRow.tenant_id == tenant_id,
            AuditRow.target == target,
            AuditRow.number >= _first_since(tenant_id, since),
            AuditRow.at > since,
            AuditRow.action == action,
            AuditRow.principal == principal,
            AuditRow.address.is_(None) if address is None else AuditRow.address == address,
        )
        .order_by(AuditRow.number.desc())
    )
    wanted = None if detail is None else dict(detail)
    return next((row.at for row in orm.scalars(query) if row.detail == wanted), None)


def _conditions(tenant_id: str, wanted: AuditFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [AuditRow.tenant_id == tenant_id]
    if wanted.action is not None:
        found.append(AuditRow.action.in_(actions_named(wanted.action)))
    if wanted.principal is not None:
        found.append(AuditRow.principal == wanted.principal)
    if wanted.target is not None:
        found.append(AuditRow.target == wanted.target)
    if wanted.since is not None:
        found += [AuditRow.at >= wanted.since, AuditRow.number >= _first_since(tenant_id, wanted.since)]
    if wanted.until is not None:
        found += [AuditRow.at < wanted.until, AuditRow.number <= _last_before(tenant_id, wanted.until)]
    return found


def actions_named(text: str) -> list[Action]:
    """That action, or all of its kind, as in `session`; none for what is neither."""
    return [name for name in audit.ACTIONS if text in (name, name.partition(".")[0])]


def _tells_of_pruning(entry: Entry, head: Head) -> bool:
    told = entry.detail or {}
    wanted = (head.pruned_number, head.pruned_chain)
    return entry.action == "audit.prune" and (told.get("up_to"), told.get("chain")) == wanted


def _first_since(tenant_id: str, since: datetime) -> ScalarSelect[int]:
    """The number of the tenant's first entry at or after that time: numbers grow with time, and each index
    ends in them."""
    return (
        select(AuditRow.number)
        .where(AuditRow.tenant_id == tenant_id, AuditRow.at >= since)
        .order_by(AuditRow.at, AuditRow.number)
        .limit(1)
        .scalar_subquery()
    )


def _last_before(tenant_id: str, until: datetime) -> ScalarSelect[int]:
    return (
        select(AuditRow.number)
        .where(AuditRow.tenant_id == tenant_id, AuditRow.at < until)
        .order_by(AuditRow.at.desc(), AuditRow.number.desc())
        .limit(1)
        .scalar_subquery()
    )
