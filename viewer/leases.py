"""Who has keyboard and mouse of a session: at most one holder at each moment.

Each change is one transaction: the row, its event in the outbox, its line in the audit log; and it raises
the lease's number, so that whoever hears of two changes knows which is the newer one. What is over by the
clock is ended by the worker, or by the next who wants it, whoever comes first. No relay is told from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.database import Database
from viewer.model import (
    Frozen,
    Lease,
    LeaseHolder,
    LeaseKind,
    LeaseRequest,
    LeaseState,
    Principal,
    Session,
    Status,
    utcnow,
)
from viewer.rows import find, own_row, tell_of_lease
from viewer.tables import LeaseRequestRow, LeaseRow, SessionRow
from viewer.transitions import IllegalTransition

REQUEST_LIFE = timedelta(minutes=5)
"""Who has waited for longer has gone elsewhere."""
MOST_REQUESTS = 20
"""Of one session; the oldest make room."""


class LeaseHeld(Exception):
    """Somebody else has keyboard and mouse, and this one may not take them from him."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"session {lease.session_id}: somebody else has keyboard and mouse")
        self.lease = lease


class NotAsked(Exception):
    """He does not ask for keyboard and mouse (any more), so they cannot be given to him."""


class Held(Frozen):
    """A lease that somebody has, with what decides whether he keeps it."""

    lease: Lease
    tenant_id: str
    host: str | None
    is_running: bool
    used_at: datetime
    """When he last did something with it, to within seconds."""


class _Change(NamedTuple):
    """A lease about to change. on: its session's row."""

    orm: OrmSession
    on: SessionRow
    row: LeaseRow
    lease: Lease
    now: datetime


def kind_of(who: Principal) -> LeaseKind:
    """A program shows its key with each request; whatever else lets somebody in, a browser does it."""
    return LeaseKind.AGENT if who.via == "key" else LeaseKind.PERSON


def person_of(holder: str) -> str:
    """The same for all browsers of one person. holder: `Principal.holder`."""
    return holder.partition("/")[0]


def may_take(lease: Lease, who: str, kind: LeaseKind, *, force: bool = False) -> bool:
    """Does it become his when he wants it? who: `Principal.holder`. force: an admin insists.

    An agent takes only what nobody has; a person also from an agent, and from his other browsers.
    """
    holder = lease.holder
    if holder is None or holder.id == who:
        return True
    if kind is LeaseKind.AGENT:
        return False
    return holder.kind is LeaseKind.AGENT or person_of(holder.id) == person_of(who) or force


class LeaseStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- reading -----------------------------------------------------------------------------------

    def of(self, session_id: str) -> Lease:
        """As it was written last; one whose time is over may still be somebody's, for less than a second."""
        with self._database.reading() as orm:
            row = orm.get(LeaseRow, session_id)
            return Lease(session_id=session_id) if row is None else _lease_of(row)

    def state(self, session_id: str) -> LeaseState:
        """The same, with those who ask for it."""
        with self._database.reading() as orm:
            row = orm.get(LeaseRow, session_id)
            lease = Lease(session_id=session_id) if row is None else _lease_of(row)
            return _state(orm, lease, utcnow())

    def held(self, host: str | None = None) -> list[Held]:
        """All that somebody has: of the sessions on that host, or everywhere."""
        query = (
            select(LeaseRow, SessionRow.host, SessionRow.status)
            .join(SessionRow, SessionRow.id == LeaseRow.session_id)
            .where(LeaseRow.ends_at.is_not(None))
        )
        if host is not None:
            query = query.where(SessionRow.host == host)
        with self._database.reading() as orm:
            return [_held_of(row, on, Status(status)) for row, on, status in orm.execute(query)]

    def of_sessions(self, session_ids: Collection[str]) -> list[Lease]:
        """Those of these sessions that somebody ever had."""
        with self._database.reading() as orm:
            return [
                _lease_of(row)
                for row in orm.scalars(select(LeaseRow).where(LeaseRow.session_id.in_(session_ids)))
            ]

    # --- changing hands ----------------------------------------------------------------------------

    def take(
        self,
        session: Session,
        who: Principal,
        *,
        name: str,
        kind: LeaseKind,
        reason: str | None,
        seconds: int,
        force: bool = False,
    ) -> Lease:
        """Make it his for `seconds`; renew it where it is his already. Raises LeaseHeld, and
        IllegalTransition for a session that does not run."""
        me = LeaseHolder(kind=kind, id=who.holder, name=name)
        with self._changing(session) as (orm, on, row, lease, now):
            if not may_take(lease, me.id, kind, force=force):
                raise LeaseHeld(lease)
            _hand_over(orm, on, row, me, reason=reason, ends_at=now + timedelta(seconds=seconds), now=now)
            if not lease.is_held_by(me.id):
                _note_taken(orm, row, lease, by_force=not may_take(lease, me.id, kind))
            return _lease_of(row)

    def hold(self, session: Session, who: Principal, *, name: str, kind: LeaseKind, seconds: int) -> Lease:
        """For whoever just acts: make it his where nobody has it, let it last from now on where he has it.
        Raises LeaseHeld where anybody else has it, and IllegalTransition."""
        me = LeaseHolder(kind=kind, id=who.holder, name=name)
        with self._changing(session) as (orm, on, row, lease, now):
            if lease.holder is not None and not lease.is_held_by(me.id):
                raise LeaseHeld(lease)
            ends_at = now + timedelta(seconds=seconds)
            if lease.holder is None:
                _hand_over(orm, on, row, me, reason=None, ends_at=ends_at, now=now)
                _note_taken(orm, row, lease, by_acting=True)
            else:
                # Nobody hears of it: it is as it was, only for longer.
                row.used_at, row.ends_at = now, max(ends_at, row.ends_at or ends_at)
            return _lease_of(row)

    def renew(self, session: Session, who: Principal, *, seconds: int) -> Lease:
        """Let it be his for `seconds` from now on. Raises LeaseHeld where it is not his, nobody's
        included."""
        with self._changing(session) as (orm, on, row, lease, now):
            if not lease.is_held_by(who.holder):
                raise LeaseHeld(lease)
            row.used_at, row.ends_at = now, now + timedelta(seconds=seconds)
            _tell(orm, on, row, now)
            return _lease_of(row)

    def request(
        self,
        session: Session,
        who: Principal,
        *,
        name: str,
        kind: LeaseKind,
        reason: str | None,
        seconds: int,
    ) -> Lease:
        """Ask whoever has it; where nobody has it, it is his at once, for `seconds`. Raises
        IllegalTransition."""
        me = LeaseHolder(kind=kind, id=who.holder, name=name)
        with self._changing(session) as (orm, on, row, lease, now):
            if lease.holder is None:
                _hand_over(orm, on, row, me, reason=reason, ends_at=now + timedelta(seconds=seconds), now=now)
                _note_taken(orm, row, lease)
            elif lease.holder.id != me.id:
                _write_request(orm, row, me, reason, now)
                _tell(orm, on, row, now)
                _note(orm, row, "lease.request", {"of": lease.holder.id, "reason": reason})
            return _lease_of(row)

    def withdraw(self, session: Session, who: Principal) -> None:
        """Ask no longer; nothing happens where he did not."""
        with self._database.writing() as orm:
            asked = orm.get(LeaseRequestRow, (session.id, who.holder))
            if asked is None:
                return
            orm.delete(asked)
            row = _row(orm, session)
            _tell(orm, find(orm, session.id), row, utcnow())

    def give(self, session: Session, who: Principal, to: str, *, seconds: int) -> Lease:
        """Hand it to one who asks for it, for `seconds`. to: his `Principal.holder`. Raises NotAsked, and
        LeaseHeld where it is not the giver's."""
        with self._changing(session) as (orm, on, row, lease, now):
            if not _is_his(lease, who):
                raise LeaseHeld(lease)
            asked = orm.get(LeaseRequestRow, (session.id, to))
            if asked is None or asked.at + REQUEST_LIFE <= now:
                raise NotAsked(to)
            him = LeaseHolder(kind=LeaseKind(asked.kind), id=asked.holder, name=asked.name)
            ends_at = now + timedelta(seconds=seconds)
            _hand_over(orm, on, row, him, reason=asked.reason, ends_at=ends_at, now=now)
            _note(orm, row, "lease.give", {"to": him.id})
            return _lease_of(row)

    def release(self, session: Session, who: Principal, *, force: bool = False) -> Lease:
        """Nobody has it; nothing happens where nobody had it. Raises LeaseHeld where another one has it,
        unless `force`: an admin insists."""
        with self._database.writing() as orm:
            now = utcnow()
            on, row = _own(orm, session), _row(orm, session)
            lease = _lease_of(row)
            if lease.holder is None:
                return lease
            if not _is_his(lease, who) and not force:
                raise LeaseHeld(lease)
            _hand_over(orm, on, row, None, now=now)
            _note(orm, row, "lease.release", {"of": lease.holder.id, "force": not _is_his(lease, who)})
            return _lease_of(row)

    @contextmanager
    def _changing(self, session: Session) -> Iterator[_Change]:
        """The lease of a session that runs, in one transaction, after what the clock ends of it. Raises
        IllegalTransition."""
        with self._database.writing() as orm:
            now = utcnow()
            on, row = _running(orm, session), _row(orm, session)
            _end_what_is_over(orm, on, row, now)
            yield _Change(orm, on, row, _lease_of(row), now)

    # --- what ends by itself -----------------------------------------------------------------------

    def end(self, lease: Lease, why: str) -> Lease | None:
        """Nobody has it any more; None where it has changed hands since it was looked at. why: a word for the
        audit log."""
        with self._database.writing() as orm:
            row = orm.get(LeaseRow, lease.session_id)
            if row is None or row.number != lease.number or row.holder is None:
                return None
            _end(orm, find(orm, lease.session_id), row, why, utcnow())
            return _lease_of(row)

    def expire(self, now: datetime) -> list[Lease]:
        """End all whose time is over; how they are since."""
        query = select(LeaseRow).where(LeaseRow.ends_at <= now).order_by(LeaseRow.ends_at)
        with self._database.reading() as orm:
            if orm.scalar(query.with_only_columns(LeaseRow.session_id).limit(1)) is None:
                return []
        with self._database.writing() as orm:
            rows = orm.scalars(query).all()
            for row in rows:
                _end(orm, find(orm, row.session_id), row, OVER, now)
            return [_lease_of(row) for row in rows]

    def note_use(self, lease: Lease, at: datetime, *, seconds: int | None = None) -> None:
        """He did something with it then. seconds: it lasts for at least so long from then on. Nobody hears of
        it; nothing happens where it has changed hands."""
        with self._database.writing() as orm:
            row = orm.get(LeaseRow, lease.session_id)
            if row is None or row.number != lease.number or row.ends_at is None:
                return
            row.used_at = max(at, row.used_at or at)
            if seconds is not None:
                row.ends_at = max(row.ends_at, at + timedelta(seconds=seconds))


OVER = "over"


def _own(orm: OrmSession, session: Session) -> SessionRow:
    return own_row(orm, session.tenant_id, session.id)


def _running(orm: OrmSession, session: Session) -> SessionRow:
    row = _own(orm, session)
    if row.status != Status.RUNNING.value:
        raise IllegalTransition(Status(row.status), Status.RUNNING)
    return row


def _row(orm: OrmSession, session: Session) -> LeaseRow:
    row = orm.get(LeaseRow, session.id)
    if row is None:
        row = LeaseRow(session_id=session.id, tenant_id=session.tenant_id, number=0)
        orm.add(row)
        orm.flush()
    return row


def _is_his(lease: Lease, who: Principal) -> bool:
    """A person answers for all of his browsers, an agent for its key alone."""
    holder = lease.holder
    if holder is None:
        return False
    both_people = holder.kind is LeaseKind.PERSON and kind_of(who) is LeaseKind.PERSON
    return holder.id == who.holder or (both_people and person_of(holder.id) == person_of(who.holder))


def _hand_over(
    orm: OrmSession,
    on: SessionRow,
    row: LeaseRow,
    to: LeaseHolder | None,
    *,
    now: datetime,
    reason: str | None = None,
    ends_at: datetime | None = None,
) -> None:
    """It is his; or lasts until then, where it was. None: nobody's."""
    if to is None or row.holder != to.id:
        row.number += 1
        row.since = None if to is None else now
        row.reason = reason
    row.kind = None if to is None else to.kind.value
    row.holder = None if to is None else to.id
    row.holder_name = None if to is None else to.name
    row.ends_at = ends_at
    row.used_at = None if to is None else now
    row.reason = reason if reason is not None else row.reason
    if to is not None:
        orm.execute(
            delete(LeaseRequestRow).where(
                LeaseRequestRow.session_id == row.session_id, LeaseRequestRow.holder == to.id
            )
        )
    _tell(orm, on, row, now)


def _end_what_is_over(orm: OrmSession, on: SessionRow, row: LeaseRow, now: datetime) -> None:
    if row.ends_at is not None and row.ends_at <= now:
        _end(orm, on, row, OVER, now)


def _end(orm: OrmSession, on: SessionRow, row: LeaseRow, why: str, now: datetime) -> None:
    holder = row.holder
    _hand_over(orm, on, row, None, now=now)
    _note(orm, row, "lease.expire", {"of": holder, "why": why})


def _write_request(
    orm: OrmSession, row: LeaseRow, me: LeaseHolder, reason: str | None, now: datetime
) -> None:
    of_it = LeaseRequestRow.session_id == row.session_id
    orm.execute(delete(LeaseRequestRow).where(of_it, LeaseRequestRow.at <= now - REQUEST_LIFE))
    newest = select(LeaseRequestRow).where(of_it).order_by(LeaseRequestRow.at.desc())
    for too_many in orm.scalars(newest.offset(MOST_REQUESTS - 1)).all():
        orm.delete(too_many)
    asked = orm.get(LeaseRequestRow, (row.session_id, me.id))
    if asked is None:
        asked = LeaseRequestRow(session_id=row.session_id, holder=me.id)
        orm.add(asked)
    asked.kind, asked.name, asked.reason, asked.at = me.kind.value, me.name, reason, now
    orm.flush()


def _tell(orm: OrmSession, on: SessionRow, row: LeaseRow, now: datetime) -> None:
    orm.flush()
    tell_of_lease(orm, on, _state(orm, _lease_of(row), now))


def _note(orm: OrmSession, row: LeaseRow, action: audit.Action, detail: Mapping[str, object]) -> None:
    kept = {name: value for name, value in detail.items() if value}
    audit.note(orm, row.tenant_id, action, f"session:{row.session_id}", detail=kept)


def _note_taken(
    orm: OrmSession, row: LeaseRow, before: Lease, *, by_force: bool = False, by_acting: bool = False
) -> None:
    former = before.holder.id if before.holder is not None else None
    detail = {
        "kind": row.kind,
        "from": former,
        "reason": row.reason,
        "force": by_force,
        "by_acting": by_acting,
    }
    _note(orm, row, "lease.take", detail)


def _lease_of(row: LeaseRow) -> Lease:
    holder: LeaseHolder | None = None
    if row.holder is not None and row.kind is not None:
        holder = LeaseHolder(kind=LeaseKind(row.kind), id=row.holder, name=row.holder_name or row.holder)
    return Lease(
        session_id=row.session_id,
        number=row.number,
        holder=holder,
        since=row.since,
        ends_at=row.ends_at,
        reason=row.reason,
    )


def _held_of(row: LeaseRow, host: str | None, status: Status) -> Held:
    return Held(
        lease=_lease_of(row),
        tenant_id=row.tenant_id,
        host=host,
        is_running=status is Status.RUNNING,
        used_at=row.used_at or row.since or utcnow(),
    )


def _state(orm: OrmSession, lease: Lease, now: datetime) -> LeaseState:
    query = (
        select(LeaseRequestRow)
        .where(LeaseRequestRow.session_id == lease.session_id, LeaseRequestRow.at > now - REQUEST_LIFE)
        .order_by(LeaseRequestRow.at, LeaseRequestRow.holder)
    )
    return LeaseState(lease=lease, requests=_requests(orm.scalars(query).all()), at=now)


def _requests(rows: Sequence[LeaseRequestRow]) -> tuple[LeaseRequest, ...]:
    return tuple(
        LeaseRequest(
            by=LeaseHolder(kind=LeaseKind(row.kind), id=row.holder, name=row.name),
            reason=row.reason,
            at=row.at,
        )
        for row in rows
    )
