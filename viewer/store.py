"""The store: the one choke point to the session table.

`store.tenant(id)` sees one tenant only: another tenant's session is the same SessionNotFound as one that
never was. `store.fleet` sees everything and is the worker's. `store.accounts` holds keys and sign-ins,
`store.entries` the ways to other origins. Every change of a session passes the state machine and is written
in one transaction with its event.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypedDict, Unpack

from pydantic import Field, ValidationError
from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as OrmSession

from viewer.accounts import AccountStore
from viewer.database import Database
from viewer.entries import EntryStore
from viewer.model import (
    DesktopBackend,
    Display,
    Frozen,
    HostStatus,
    Kind,
    Resolution,
    Session,
    Status,
    WantedBackend,
    utcnow,
)
from viewer.tables import EventRow, HostRow, SessionRow, TenantRow
from viewer.transitions import check_transition

TERMINATING = "terminating"
"""`status_reason` of a session whose end was asked for and is not yet true."""

MOST_CREATING = 50
"""Sandboxes that one tenant may have in the making: the worker takes them up in one line with all others'."""

_NOT_IN_EVENTS = {"vnc_password_sealed", "vnc_port"}


class SessionNotFound(Exception):
    """No such session for whoever asks."""


class SandboxTaken(Exception):
    """That host's sandbox already belongs to another session."""


class TooManyCreating(Exception):
    """The tenant has MOST_CREATING sandboxes in the making."""


class BadCursor(Exception):
    """The paging cursor is not one that we gave out."""


class NewSession(Frozen):
    """What a new sandbox session starts with; the store adds id, request id and times."""

    image: str
    display: Display = Display.RFB
    resolution: Resolution | None = None
    task_id: str | None = None
    agent_id: str | None = None
    wanted_host: str | None = None
    ttl_seconds: int
    created_by: str
    vnc_password_sealed: str | None = Field(default=None, repr=False)


class SessionFilter(Frozen):
    """All given conditions hold; `status` is any of the named ones."""

    status: tuple[Status, ...] = ()
    task_id: str | None = None
    agent_id: str | None = None
    sandbox_id: str | None = None
    image: str | None = None
    host: str | None = None


class SessionPage(Frozen):
    """Newest first. `next_cursor` is None on the last page."""

    items: tuple[Session, ...]
    next_cursor: str | None


class Event(Frozen):
    """One change: the session as it was right after it, without what streams need."""

    id: int
    tenant_id: str
    session: Session


class HostRecord(Frozen):
    name: str
    status: HostStatus
    detail: str | None
    last_seen_at: datetime | None
    changed_at: datetime
    certificate_ends: datetime | None = None
    """The first of the certificates to end that it and the control host show each other."""


class DeclaredDesktop(Frozen):
    """A persistent desktop as the inventory declares it; `backend` is the wanted one."""

    name: str
    tenant: str
    host: str
    backend: WantedBackend
    resolution: Resolution


class SessionChanges(TypedDict, total=False):
    """What the worker may change beside the status. A key that is absent stays as it is; None clears."""

    host: str | None
    sandbox_id: str | None
    vnc_port: int | None
    vnc_password_sealed: str | None
    resolution: str | None
    image: str
    display: Display
    backend: DesktopBackend | None
    expires_at: datetime | None
    status_reason: str | None


class Store:
    """The control plane's database: open one per process, after any fork."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self.fleet = FleetStore(self._database)
        self.accounts = AccountStore(self._database)
        self.entries = EntryStore(self._database, self.accounts)

    def tenant(self, tenant_id: str) -> TenantStore:
        return TenantStore(self._database, tenant_id)

    def mark(self) -> int:
        """The database as it is now: read after taking it, then `wait_for_change(…, since=mark)`."""
        return self._database.mark()

    def wait_for_change(self, timeout_s: float, since: int | None = None) -> bool:
        """True within about 15 ms of any commit by any process after `since` (default: after this call)."""
        return self._database.wait_for_change(timeout_s, since)

    def stop_waiting(self) -> None:
        """End every wait, now and later: the process is about to stop."""
        self._database.stop_waiting()

    def is_answering(self) -> bool:
        with self._database.reading() as orm:
            return orm.scalar(select(1)) == 1

    def backup(self, target: Path) -> None:
        self._database.backup(target)

    def close(self) -> None:
        self._database.close()


class TenantStore:
    """One tenant's sessions and events; nothing else exists here."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def create(self, new: NewSession) -> Session:
        """Write the row (`creating`) and its event; a worker takes it from there. Raises TooManyCreating."""
        now = utcnow()
        session = Session(
            id=str(uuid.uuid4()),
            request_id=str(uuid.uuid4()),
            tenant_id=self._tenant_id,
            created_at=now,
            updated_at=now,
            expires_at=now + timedelta(seconds=new.ttl_seconds),
            **dict(new),
        )
        in_the_making = (
            select(func.count())
            .select_from(SessionRow)
            .where(
                SessionRow.tenant_id == self._tenant_id,
                SessionRow.status == Status.CREATING,
                SessionRow.kind == Kind.SANDBOX,
            )
        )
        with self._database.writing() as orm:
            # Inside the write transaction, so that of two requests at once only one gets the last place.
            if (orm.scalar(in_the_making) or 0) >= MOST_CREATING:
                raise TooManyCreating
            row = _row_of(session)
            orm.add(row)
            _tell(orm, row)
        return session

    def get(self, session_id: str) -> Session:
        """Raise SessionNotFound for an unknown id and for another tenant's alike."""
        with self._database.reading() as orm:
            return _session_of(self._own_row(orm, session_id))

    def list(
        self, wanted: SessionFilter | None = None, cursor: str | None = None, limit: int = 50
    ) -> SessionPage:
        """One page, newest first; raise BadCursor for a cursor that is not ours."""
        query = select(SessionRow).where(SessionRow.tenant_id == self._tenant_id)
        query = _matching(query, wanted or SessionFilter())
        if cursor is not None:
            query = query.where(_older_than(_Position.from_cursor(cursor)))
        query = query.order_by(SessionRow.created_at.desc(), SessionRow.id.desc()).limit(limit + 1)
        with self._database.reading() as orm:
            found = [_session_of(row) for row in orm.scalars(query)]
        page = found[:limit]
        more = len(found) > limit
        return SessionPage(
            items=tuple(page), next_cursor=_Position.of(page[-1]).to_cursor() if more else None
        )

    def desktops(self) -> Sequence[Session]:
        """The live sessions of this tenant's persistent desktops."""
        query = _live_rows().where(SessionRow.tenant_id == self._tenant_id, SessionRow.kind == Kind.DESKTOP)
        with self._database.reading() as orm:
            return [_session_of(row) for row in orm.scalars(query)]

    def request_termination(self, session_id: str) -> Session:
        """Store the wish that the session ends; a worker makes it true. Nothing happens to a terminal one."""
        with self._database.writing() as orm:
            row = self._own_row(orm, session_id)
            _ask_for_the_end(orm, row)
            return _session_of(row)

    def events_after(self, event_id: int, limit: int = 200) -> Sequence[Event]:
        """This tenant's events with a greater id, oldest first."""
        query = (
            select(EventRow)
            .where(EventRow.tenant_id == self._tenant_id, EventRow.id > event_id)
            .order_by(EventRow.id)
            .limit(limit)
        )
        with self._database.reading() as orm:
            return [_event_of(row) for row in orm.scalars(query)]

    def last_event_id(self) -> int:
        """Where a listener starts who has just read the list; 0 when nothing has happened yet."""
        return _newest_event_id(self._database)

    def has_events_since(self, event_id: int) -> bool:
        """False when events after `event_id` may already be purged, or the id was never given out."""
        with self._database.reading() as orm:
            oldest = orm.scalar(select(func.min(EventRow.id)))
        newest = _newest_event_id(self._database)
        if event_id > newest:
            return False
        return event_id >= (newest if oldest is None else oldest - 1)

    def _own_row(self, orm: OrmSession, session_id: str) -> SessionRow:
        row = orm.get(SessionRow, session_id)
        if row is None or row.tenant_id != self._tenant_id:
            raise SessionNotFound
        return row


class FleetStore:
    """All tenants' sessions, for the worker only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- reading -----------------------------------------------------------------------------------

    def get(self, session_id: str) -> Session:
        with self._database.reading() as orm:
            return _session_of(_row(orm, session_id))

    def to_create(self) -> list[Session]:
        """Sessions that are `creating` without a sandbox, oldest first; some may already be asked to end."""
        return self._live(
            SessionRow.status == Status.CREATING,
            SessionRow.kind == Kind.SANDBOX,
            SessionRow.sandbox_id.is_(None),
        )

    def live_sessions(self) -> list[Session]:
        """Every session that is not terminal, oldest first."""
        return self._live()

    def on_host(self, host: str) -> list[Session]:
        """The live sessions placed on that host, oldest first."""
        return self._live(SessionRow.host == host)

    def by_request(self, request_id: str) -> Session | None:
        """The session, live or terminal, that a sandbox's metadata names."""
        return self._one(SessionRow.request_id == request_id)

    def began_at(self) -> datetime | None:
        """Since when this database knows of sessions: the start of its first tenant; None without any."""
        with self._database.reading() as orm:
            return orm.scalar(select(func.min(TenantRow.created_at)))

    def sandboxes_by_host(self) -> dict[str, int]:
        """How many live sandboxes are placed on each host; one without any is left out."""
        query = (
            select(SessionRow.host, func.count())
            .where(
                SessionRow.terminated_at.is_(None),
                SessionRow.kind == Kind.SANDBOX,
                SessionRow.host.is_not(None),
            )
            .group_by(SessionRow.host)
        )
        with self._database.reading() as orm:
            return {str(host): count for host, count in orm.execute(query)}

    def hosts(self) -> list[HostRecord]:
        with self._database.reading() as orm:
            return [
                HostRecord.model_validate(row, from_attributes=True)
                for row in orm.scalars(select(HostRow).order_by(HostRow.name))
            ]

    # --- changing sessions -------------------------------------------------------------------------

    def transition(
        self,
        session_id: str,
        to: Status,
        *,
        reason: str | None = None,
        error_message: str | None = None,
        **changes: Unpack[SessionChanges],
    ) -> Session:
        """Move the session to `to`; IllegalTransition where that may not follow, always from a terminal one.

        `status_reason` becomes `reason`, so None clears it. A terminal status sets `terminated_at`.
        """
        with self._database.writing() as orm, _sandbox_is_free():
            row = _row(orm, session_id)
            check_transition(Status(row.status), to)
            row.status = to.value
            row.error_message = error_message or row.error_message
            if to.is_terminal:
                row.terminated_at = utcnow()
            _apply(orm, row, {**changes, "status_reason": reason})
            return _session_of(row)

    def update(self, session_id: str, **changes: Unpack[SessionChanges]) -> Session:
        """Change fields of a live session; IllegalTransition for a terminal one. Same values: no event."""
        with self._database.writing() as orm, _sandbox_is_free():
            row = _row(orm, session_id)
            check_transition(Status(row.status), Status(row.status))
            _apply(orm, row, changes)
            return _session_of(row)

    def request_termination(self, session_id: str) -> Session:
        """The fleet's own wish (expiry, a desktop taken out of the inventory); see TenantStore."""
        with self._database.writing() as orm:
            row = _row(orm, session_id)
            _ask_for_the_end(orm, row)
            return _session_of(row)

    def upsert_desktop(self, desktop: DeclaredDesktop) -> Session:
        """The live session of a declared desktop: made (`creating`) if there is none, else brought in line.

        Its `sandbox_id` is the desktop's name, which no OpenSandbox id can look like; `image` is the wanted
        backend. A desktop whose row became terminal gets a new row, because terminal rows never come back:
        the old one gives up the name, so that the pair of host and name stays unique.
        """
        with self._database.writing() as orm:
            row = orm.scalar(_desktop_rows(desktop.host).where(SessionRow.sandbox_id == desktop.name))
            if row is not None and (Status(row.status).is_terminal or row.tenant_id != desktop.tenant):
                _give_up_the_name(orm, row)
                row = None
            if row is None:
                row = _row_of(_session_of_desktop(desktop))
                orm.add(row)
                _tell(orm, row)
            else:
                _apply(orm, row, {"resolution": desktop.resolution, "image": desktop.backend})
            return _session_of(row)

    def retire_desktops(self, host: str, declared: Sequence[str]) -> list[Session]:
        """End the desktops of that host that the inventory no longer names; the ended sessions."""
        with self._database.writing() as orm:
            rows = [row for row in orm.scalars(_desktop_rows(host)) if row.sandbox_id not in declared]
            for row in rows:
                _give_up_the_name(orm, row)
            return [_session_of(row) for row in rows]

    # --- hosts and retention -----------------------------------------------------------------------

    def record_host_status(
        self,
        name: str,
        status: HostStatus,
        detail: str | None = None,
        *,
        certificate_ends: datetime | None = None,
    ) -> None:
        """What the worker last saw of a host. Its live sessions get an event when the status changes, because
        `host_status` is one of their fields."""
        now = utcnow()
        with self._database.writing() as orm:
            row = orm.get(HostRow, name)
            if row is None:
                row = HostRow(
                    name=name, status=HostStatus.UNKNOWN.value, detail=None, last_seen_at=None, changed_at=now
                )
                orm.add(row)
            changed = row.status != status.value
            row.status = status.value
            row.detail = detail
            row.certificate_ends = certificate_ends
            row.last_seen_at = now if status is HostStatus.OK else row.last_seen_at
            if changed:
                row.changed_at = now
                for session in orm.scalars(_live_rows().where(SessionRow.host == name)):
                    _tell(orm, session)

    def forget_hosts(self, *, known: Iterable[str]) -> None:
        """Forget hosts that are no longer part of the fleet."""
        with self._database.writing() as orm:
            orm.execute(delete(HostRow).where(HostRow.name.not_in(list(known))))

    def purge(self, *, events_before: datetime, sessions_ended_before: datetime) -> None:
        """Forget old events and long-ended sessions."""
        with self._database.writing() as orm:
            orm.execute(delete(EventRow).where(EventRow.at < events_before))
            orm.execute(delete(SessionRow).where(SessionRow.terminated_at < sessions_ended_before))

    def _live(self, *conditions: ColumnElement[bool]) -> list[Session]:
        with self._database.reading() as orm:
            query = _live_rows().where(*conditions).order_by(SessionRow.created_at, SessionRow.id)
            return [_session_of(row) for row in orm.scalars(query)]

    def _one(self, condition: ColumnElement[bool]) -> Session | None:
        with self._database.reading() as orm:
            row = orm.scalar(select(SessionRow).where(condition))
            return None if row is None else _session_of(row)


class _Position(Frozen):
    """Where a page ended: the keyset of its last row."""

    created_at: datetime
    id: str

    @classmethod
    def of(cls, session: Session) -> _Position:
        return cls(created_at=session.created_at, id=session.id)

    def to_cursor(self) -> str:
        text = json.dumps([self.created_at.isoformat(), self.id])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def from_cursor(cls, cursor: str) -> _Position:
        try:
            created_at, session_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            position = cls(created_at=datetime.fromisoformat(created_at), id=session_id)
            if position.created_at.tzinfo is None:
                raise BadCursor
            return position
        except (ValueError, TypeError, ValidationError) as error:
            raise BadCursor from error


class _sandbox_is_free:
    """Turns the database's refusal of a second owner of one sandbox into SandboxTaken."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, IntegrityError):
            raise SandboxTaken from error


def _row(orm: OrmSession, session_id: str) -> SessionRow:
    row = orm.get(SessionRow, session_id)
    if row is None:
        raise SessionNotFound
    return row


def _row_of(session: Session) -> SessionRow:
    return SessionRow(
        **{
            name: str(value) if isinstance(value, Status | Kind | Display) else value
            for name, value in session
        }
    )


def _session_of(row: SessionRow) -> Session:
    return Session.model_validate(row, from_attributes=True)


def _session_of_desktop(desktop: DeclaredDesktop) -> Session:
    now = utcnow()
    return Session(
        id=str(uuid.uuid4()),
        request_id=str(uuid.uuid4()),
        tenant_id=desktop.tenant,
        kind=Kind.DESKTOP,
        sandbox_id=desktop.name,
        host=desktop.host,
        display=Display.KASMVNC if desktop.backend == "kasmvnc" else Display.RFB,
        image=desktop.backend,
        resolution=desktop.resolution,
        ttl_seconds=0,
        created_by="inventory",
        created_at=now,
        updated_at=now,
        expires_at=None,
    )


def _event_of(row: EventRow) -> Event:
    return Event(id=row.id, tenant_id=row.tenant_id, session=Session.model_validate_json(row.payload))


def _newest_event_id(database: Database) -> int:
    """The greatest id ever given out, purged ones included."""
    with database.reading() as orm:
        newest = (
            orm.connection().exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'events'").scalar()
        )
    return int(newest or 0)


def _live_rows() -> Select[SessionRow]:
    return select(SessionRow).where(SessionRow.terminated_at.is_(None))


def _desktop_rows(host: str) -> Select[SessionRow]:
    """Rows that hold a desktop's name on that host."""
    return select(SessionRow).where(
        SessionRow.kind == Kind.DESKTOP, SessionRow.host == host, SessionRow.sandbox_id.is_not(None)
    )


def _matching(query: Select[SessionRow], wanted: SessionFilter) -> Select[SessionRow]:
    if wanted.status:
        query = query.where(SessionRow.status.in_([status.value for status in wanted.status]))
    for column, value in (
        (SessionRow.task_id, wanted.task_id),
        (SessionRow.agent_id, wanted.agent_id),
        (SessionRow.sandbox_id, wanted.sandbox_id),
        (SessionRow.image, wanted.image),
        (SessionRow.host, wanted.host),
    ):
        if value is not None:
            query = query.where(column == value)
    return query


def _older_than(position: _Position) -> ColumnElement[bool]:
    return or_(
        SessionRow.created_at < position.created_at,
        and_(SessionRow.created_at == position.created_at, SessionRow.id < position.id),
    )


def _apply(orm: OrmSession, row: SessionRow, changes: SessionChanges) -> None:
    """Set the fields; when anything is different now, stamp the row and write its event."""
    for name, value in changes.items():
        plain = str(value) if isinstance(value, Display) else value
        if getattr(row, name) != plain:
            setattr(row, name, plain)
    if orm.is_modified(row):
        row.updated_at = utcnow()
        orm.flush()
        _tell(orm, row)


def _ask_for_the_end(orm: OrmSession, row: SessionRow) -> None:
    if Status(row.status).is_terminal or row.terminate_requested_at is not None:
        return
    row.terminate_requested_at = utcnow()
    _apply(orm, row, {"status_reason": TERMINATING})


def _give_up_the_name(orm: OrmSession, row: SessionRow) -> None:
    """End a desktop's row, if it lives, and free its (host, name) for a successor."""
    row.sandbox_id = None
    if not Status(row.status).is_terminal:
        row.status = Status.TERMINATED.value
        row.terminated_at = utcnow()
    _apply(orm, row, {})


def _tell(orm: OrmSession, row: SessionRow) -> None:
    """Write the row's event into the outbox, in the transaction of the change."""
    session = _session_of(row)
    orm.add(
        EventRow(
            tenant_id=session.tenant_id,
            session_id=session.id,
            at=session.updated_at,
            payload=session.model_dump_json(exclude=_NOT_IN_EVENTS),
        )
    )
