"""From the session table's rows to sessions and back; every change of a row is told from here.

A change is one transaction: the row, its event in the outbox, its line in the history and, where somebody
asked for it, in the audit log. Only the stores
import this module.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypedDict

from sqlalchemy import ColumnElement, Select, func, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.model import (
    DesktopBackend,
    Display,
    DocumentNews,
    Frozen,
    Kind,
    LeaseState,
    Session,
    Status,
    Via,
    utcnow,
)
from viewer.model import EventType as EventType
from viewer.tables import AgentRow, EventRow, HistoryRow, SessionLabelRow, SessionRow, TaskRow
from viewer.transitions import check_transition

TERMINATING = "terminating"
"""`status_reason` of a session whose end was asked for and is not yet true."""
QUEUED = "queued"
"""`status_reason` of a session that waits for a place on a host."""
WORKER = "worker"

_NOT_IN_EVENTS = {"vnc_password_sealed", "vnc_port", "order_sealed"}
_WORDS = Status | Kind | Display | Via
_IN_HISTORY = ("status", "status_reason", "host", "wanted_status", "error_message", "expires_at")


class SessionNotFound(Exception):
    """No such session for whoever asks."""


class SandboxTaken(Exception):
    """That host's sandbox already belongs to another session."""


class Event(Frozen):
    """One change: the session as it was right after it, without what streams need; or that of a document."""

    id: int
    tenant_id: str
    type: EventType | Literal["session.watchers", "document"]
    """`session.watchers`: how many see its screen. It and `document` are for pages and programs that listen;
    no webhook gets them."""
    about: Session | None = None
    """None of a `document` alone."""
    document: DocumentNews | None = None
    """Of a `document` alone."""
    lease: LeaseState | None = None
    """Of a `session.lease` alone: who has keyboard and mouse since."""
    watching: int | None = None
    """Of a `session.watchers` alone."""

    @property
    def session(self) -> Session:
        """What it tells of; an event of a document has none."""
        if self.about is None:
            raise ValueError(f"event {self.id} tells of no session")
        return self.about

    @property
    def webhook_type(self) -> EventType | None:
        """None for what goes to no webhook."""
        return None if self.type == "session.watchers" or self.type == "document" else self.type

    @property
    def at(self) -> datetime:
        if self.document is not None:
            return self.document.document.updated_at
        return self.lease.at if self.lease is not None else self.session.updated_at


class _LeasePayload(Frozen):
    """What a `session.lease` has in the outbox; all other events have the session alone."""

    session: Session
    lease: LeaseState


class _WatchersPayload(Frozen):
    """What a `session.watchers` has there."""

    session: Session
    watching: int


class Step(Frozen):
    """One step of a session's life. by: a principal's id, or `worker`."""

    at: datetime
    status: Status
    reason: str | None
    host: str | None
    by: str
    detail: str | None


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
    failed_hosts: dict[str, str]
    wanted_status: Status | None
    last_used_at: datetime | None
    placed_at: datetime | None
    made_at: datetime | None
    ttl_seconds: int
    help_reason: str | None
    help_asked_at: datetime | None
    help_asked_by: str | None
    help_ended_at: datetime | None
    help_ended_by: str | None


def new_id() -> str:
    return str(uuid.uuid4())


def row_of(session: Session) -> SessionRow:
    return SessionRow(**{name: str(value) if isinstance(value, _WORDS) else value for name, value in session})


def session_of(row: SessionRow) -> Session:
    return Session.model_validate(row, from_attributes=True)


def sessions_of(orm: OrmSession, query: Select[SessionRow]) -> list[Session]:
    """What the query finds, for lists: without the ORM's objects, which nobody keeps, a sixth quicker."""
    columns = query.with_only_columns(*SessionRow.__table__.columns, maintain_column_froms=True)
    return [Session.model_validate(dict(found)) for found in orm.execute(columns).mappings()]


def event_of(row: EventRow) -> Event:
    lease: LeaseState | None = None
    watching: int | None = None
    session: Session | None = None
    document: DocumentNews | None = None
    if row.type == "document":
        document = DocumentNews.model_validate_json(row.payload)
    elif row.type == "session.lease":
        told = _LeasePayload.model_validate_json(row.payload)
        session, lease = told.session, told.lease
    elif row.type == "session.watchers":
        counted = _WatchersPayload.model_validate_json(row.payload)
        session, watching = counted.session, counted.watching
    else:
        session = Session.model_validate_json(row.payload)
    return Event.model_validate(
        {
            "id": row.id,
            "tenant_id": row.tenant_id,
            "type": row.type,
            "about": session,
            "document": document,
            "lease": lease,
            "watching": watching,
        }
    )


def newest_event_id(orm: OrmSession) -> int:
    """The greatest id of all that is committed; 0 when nothing has happened yet. It is never purged: the
    database's own count of ids may be ahead, of an event that a stream would then miss."""
    return orm.scalar(select(func.max(EventRow.id))) or 0


def step_of(row: HistoryRow) -> Step:
    return Step.model_validate(row, from_attributes=True)


def find(orm: OrmSession, session_id: str) -> SessionRow:
    row = orm.get(SessionRow, session_id)
    if row is None:
        raise SessionNotFound
    return row


def own_row(orm: OrmSession, tenant_id: str, session_id: str) -> SessionRow:
    """Raises SessionNotFound for an unknown id and for another tenant's alike."""
    row = find(orm, session_id)
    if row.tenant_id != tenant_id:
        raise SessionNotFound
    return row


def known_as(
    orm: OrmSession, tenant_id: str, name: str, *conditions: ColumnElement[bool]
) -> SessionRow | None:
    """The tenant's session of that id, else the one whose sandbox has it."""
    mine = select(SessionRow).where(SessionRow.tenant_id == tenant_id, *conditions)
    # Two servers could give out the same id: the one that lives is meant, else the last. And one that is
    # claimed may turn out to be another session's: that one is meant.
    best = (
        SessionRow.terminated_at.is_not(None),
        SessionRow.host.is_(None),
        SessionRow.created_at.desc(),
        SessionRow.id,
    )
    return orm.scalar(mine.where(SessionRow.id == name)) or orm.scalar(
        mine.where(SessionRow.sandbox_id == name).order_by(*best).limit(1)
    )


def live_rows(*conditions: ColumnElement[bool]) -> Select[SessionRow]:
    return select(SessionRow).where(SessionRow.terminated_at.is_(None), *conditions)


def add(orm: OrmSession, session: Session, by: str) -> None:
    """Write a new session with its labels, its event, its first step, and what it names."""
    row = row_of(session)
    orm.add(row)
    # The tables are tied by keys, not by relationships: the row must be there first.
    orm.flush()
    note_names(orm, session)
    write_labels(orm, session)
    tell(orm, row, by, "session.created")
    note_created(orm, session)


def note_created(orm: OrmSession, session: Session) -> None:
    """Its line in the audit log."""
    told = {
        "image": session.image,
        "via": session.via.value,
        "task_id": session.task_id,
        "agent_id": session.agent_id,
        "warm": session.is_warm or None,
    }
    detail = {name: value for name, value in told.items() if value is not None}
    audit.note(orm, session.tenant_id, "session.create", f"session:{session.id}", detail=detail)


def note_ended(orm: OrmSession, row: SessionRow) -> None:
    """Its line in the audit log, for one whose end nobody has asked for: each session has one such line.

    Without its error message, which may have the last words of the sandbox: they are kept as long as it is.
    """
    detail = {"status": row.status, "reason": row.status_reason}
    audit.note(orm, row.tenant_id, "session.terminate", f"session:{row.id}", detail=detail)


def note_names(orm: OrmSession, session: Session) -> None:
    """The task and the agent that a session names become rows of its tenant, unless they are already."""
    note_work(orm, session.tenant_id, session.task_id, session.agent_id)


def note_work(orm: OrmSession, tenant_id: str, task_id: str | None, agent_id: str | None) -> None:
    now = utcnow()
    for table, name in ((TaskRow, task_id), (AgentRow, agent_id)):
        if name is not None and orm.get(table, (tenant_id, name)) is None:
            orm.add(table(tenant_id=tenant_id, id=name, created_at=now, updated_at=now))


def write_labels(orm: OrmSession, session: Session) -> None:
    for key, value in session.labels.items():
        orm.add(
            SessionLabelRow(
                session_id=session.id,
                key=key,
                value=value,
                tenant_id=session.tenant_id,
                created_at=session.created_at,
            )
        )


def change(orm: OrmSession, row: SessionRow, changes: SessionChanges, *, by: str = WORKER) -> None:
    """Set the fields; when anything is different now, stamp the row and write its event. Whoever was called
    to a session that has ended is not needed any more."""
    if Status(row.status).is_terminal and row.help_reason is not None:
        changes = {**changes, **end_of_call(by)}
    for name, value in changes.items():
        plain = str(value) if isinstance(value, _WORDS) else value
        if getattr(row, name) != plain:
            setattr(row, name, plain)
    if not orm.is_modified(row):
        return
    is_a_step = any(_is_changed(row, name) for name in _IN_HISTORY)
    event_type = _type_of_step(row) if _is_changed(row, "status") else "session.updated"
    row.updated_at = utcnow()
    orm.flush()
    tell(orm, row, by, event_type, is_a_step=is_a_step)


def end_of_call(by: str) -> SessionChanges:
    """No person is needed any more; by: who said so."""
    return {
        "help_reason": None,
        "help_asked_at": None,
        "help_asked_by": None,
        "help_ended_at": utcnow(),
        "help_ended_by": by,
    }


def move(
    orm: OrmSession,
    row: SessionRow,
    to: Status,
    changes: SessionChanges,
    *,
    reason: str | None,
    error_message: str | None,
    by: str = WORKER,
) -> None:
    """Move the row to `to`; IllegalTransition where that may not follow, always from a terminal one."""
    check_transition(Status(row.status), to)
    row.status = to.value
    row.error_message = error_message or row.error_message
    if row.wanted_status == to.value or to.is_terminal:
        row.wanted_status = None
    if to.is_terminal:
        row.terminated_at = utcnow()
    elif to is Status.RUNNING and row.running_at is None:
        row.running_at = utcnow()
    change(orm, row, {**changes, "status_reason": reason}, by=by)
    if to.is_terminal and row.terminate_requested_at is None:
        note_ended(orm, row)


def ask_for_the_end(orm: OrmSession, row: SessionRow, by: str) -> None:
    if Status(row.status).is_terminal or row.terminate_requested_at is not None:
        return
    row.terminate_requested_at = utcnow()
    change(orm, row, {"status_reason": TERMINATING}, by=by)
    audit.note(orm, row.tenant_id, "session.terminate", f"session:{row.id}")


def tell(orm: OrmSession, row: SessionRow, by: str, event_type: EventType, *, is_a_step: bool = True) -> None:
    """Write the row's event into the outbox and its step into the history, in the change's transaction."""
    session = session_of(row)
    orm.add(
        EventRow(
            tenant_id=session.tenant_id,
            session_id=session.id,
            type=event_type,
            at=session.updated_at,
            payload=session.model_dump_json(exclude=_NOT_IN_EVENTS),
        )
    )
    if is_a_step:
        orm.add(
            HistoryRow(
                session_id=row.id,
                at=session.updated_at,
                status=row.status,
                reason=row.status_reason,
                host=row.host,
                by=by,
                detail=row.error_message,
            )
        )


def tell_of_lease(orm: OrmSession, row: SessionRow, state: LeaseState) -> None:
    """Write who has the session's keyboard and mouse now into the outbox. It is no change of the session."""
    payload = _LeasePayload(session=session_of(row), lease=state)
    orm.add(
        EventRow(
            tenant_id=row.tenant_id,
            session_id=row.id,
            type="session.lease",
            at=state.at,
            payload=payload.model_dump_json(exclude={"session": _NOT_IN_EVENTS}),
        )
    )


def tell_of_watchers(orm: OrmSession, row: SessionRow, watching: int) -> None:
    """Write how many see the session's screen now into the outbox. It is no change of the session."""
    payload = _WatchersPayload(session=session_of(row), watching=watching)
    orm.add(
        EventRow(
            tenant_id=row.tenant_id,
            session_id=row.id,
            type="session.watchers",
            at=utcnow(),
            payload=payload.model_dump_json(exclude={"session": _NOT_IN_EVENTS}),
        )
    )


def tell_of_document(orm: OrmSession, news: DocumentNews) -> None:
    """Write what has become of a document into the outbox."""
    document = news.document
    orm.add(
        EventRow(
            tenant_id=document.tenant_id,
            session_id=document.session_id or "",
            type="document",
            at=utcnow(),
            payload=news.model_dump_json(),
        )
    )


class sandbox_is_free:
    """Turns the database's refusal of a second owner of one sandbox into SandboxTaken."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, IntegrityError):
            raise SandboxTaken from error


def count(orm: OrmSession, *conditions: ColumnElement[bool]) -> int:
    return orm.scalar(select(func.count()).select_from(SessionRow).where(*conditions)) or 0


def json_of(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _is_changed(row: SessionRow, name: str) -> bool:
    return bool(inspect(row).attrs[name].history.has_changes())


def _type_of_step(row: SessionRow) -> EventType:
    match Status(row.status):
        case Status.RUNNING:
            return "session.running"
        case Status.PAUSED:
            return "session.paused"
        case Status.TERMINATED:
            return "session.terminated"
        case Status.ERROR:
            return "session.error"
        case Status.CREATING:
            return "session.updated"
