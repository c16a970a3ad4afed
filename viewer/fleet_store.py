"""All tenants' sessions, and the hosts: what the worker reads and writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Unpack

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.database import Database
from viewer.event_intake import BODY_LIFE
from viewer.gesture_store import GESTURE_LIFE
from viewer.hostwatch.answers import HostReport
from viewer.model import (
    POOL_TENANT,
    Display,
    Frozen,
    HostStatus,
    Kind,
    Resolution,
    Session,
    Status,
    Via,
    WantedBackend,
    utcnow,
)
from viewer.placement import Decision, HostView, Place, Reserved, Table, Wait, fair_order
from viewer.rows import (
    QUEUED,
    WORKER,
    Event,
    SessionChanges,
    add,
    ask_for_the_end,
    change,
    event_of,
    find,
    live_rows,
    move,
    new_id,
    newest_event_id,
    note_ended,
    sandbox_is_free,
    session_of,
    sessions_of,
    tell,
    tell_of_watchers,
)
from viewer.tables import (
    DocumentRow,
    EventRow,
    GestureRow,
    HostRow,
    IdempotencyRow,
    ReceiptRow,
    SessionRow,
    TenantRow,
    WebhookEndpointRow,
)
from viewer.transitions import check_transition

STARTING = "starting"
"""`status_reason` of a session that has a host and no frame yet."""
PURGE_AT_ONCE = 1000
"""Events, and sessions, that one `purge` forgets."""


class HostRecord(Frozen):
    name: str
    status: HostStatus
    detail: str | None
    last_seen_at: datetime | None
    changed_at: datetime
    certificate_ends: datetime | None = None
    """The first of the certificates to end that it and the control host show each other."""
    is_draining: bool = False
    """It gets no new sandboxes; those that it has go on."""
    report: HostReport | None = None


class UnknownHost(Exception):
    """The fleet has no such host."""


class DeclaredDesktop(Frozen):
    """A persistent desktop of the inventory; `backend` is the wanted one."""

    name: str
    tenant: str
    host: str
    backend: WantedBackend
    resolution: Resolution


class WarmOrder(Frozen):
    """One desktop to be made in advance on that host."""

    host: str
    image: str
    display: Display
    resolution: Resolution | None
    cpu_millis: int
    memory_mib: int
    max_age_seconds: int


IDEMPOTENCY_LIFE = timedelta(hours=24)
"""How long a repeated create finds what its first one made."""


class FleetStore:
    """All tenants' sessions, for the worker only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- reading -----------------------------------------------------------------------------------

    def get(self, session_id: str) -> Session:
        with self._database.reading() as orm:
            return session_of(find(orm, session_id))

    def live_sessions(self) -> list[Session]:
        """Every session that is not terminal, oldest first."""
        return self._live()

    def on_host(self, host: str) -> list[Session]:
        """The live sessions placed on that host, oldest first."""
        return self._live(SessionRow.host == host)

    def tenants_of(self, host: str, session_ids: Collection[str]) -> dict[str, str]:
        """Those of these sessions that live on that host, with whose they are."""
        query = live_rows(SessionRow.id.in_(session_ids), SessionRow.host == host)
        columns = query.with_only_columns(SessionRow.id, SessionRow.tenant_id)
        with self._database.reading() as orm:
            return {row.id: row.tenant_id for row in orm.execute(columns)}

    def tell_of_watchers(self, watching: Mapping[str, int]) -> None:
        """How many see the screens of these sessions now; of one that has ended nobody is told."""
        with self._database.writing() as orm:
            for row in orm.scalars(live_rows(SessionRow.id.in_(watching))):
                tell_of_watchers(orm, row, watching[row.id])

    def by_request(self, request_id: str) -> Session | None:
        """The session, live or terminal, that a sandbox's metadata names."""
        return self._one(SessionRow.request_id == request_id)

    def began_at(self) -> datetime | None:
        """Since when this database knows of sessions: the start of its first tenant; None without any."""
        with self._database.reading() as orm:
            return orm.scalar(select(func.min(TenantRow.created_at)))

    def reserved_by_host(self) -> dict[str, Reserved]:
        """What live sandboxes hold on each host; one without any is left out."""
        with self._database.reading() as orm:
            return _reserved(orm)

    def last_ends(self) -> dict[str, datetime]:
        """Host -> when the last of its sandboxes ends that live now, unless they are renewed."""
        query = (
            select(SessionRow.host, func.max(SessionRow.expires_at))
            .where(
                SessionRow.terminated_at.is_(None),
                SessionRow.kind == Kind.SANDBOX,
                SessionRow.host.is_not(None),
                SessionRow.expires_at.is_not(None),
            )
            .group_by(SessionRow.host)
        )
        with self._database.reading() as orm:
            return {str(host): ends for host, ends in orm.execute(query) if ends is not None}

    def hosts(self) -> list[HostRecord]:
        with self._database.reading() as orm:
            return [
                HostRecord.model_validate(row, from_attributes=True)
                for row in orm.scalars(select(HostRow).order_by(HostRow.name))
            ]

    def queue(self) -> dict[str, int]:
        """Session id -> its place in the line, from 1, of all that wait for a host."""
        with self._database.reading() as orm:
            ordered = fair_order(_waiting(orm), _in_making(orm))
        return {session.id: place for place, session in enumerate(ordered, start=1)}

    def events_after(self, event_id: int, limit: int) -> Sequence[Event]:
        """All tenants' events with a greater id, oldest first."""
        query = select(EventRow).where(EventRow.id > event_id).order_by(EventRow.id).limit(limit)
        with self._database.reading() as orm:
            return [event_of(row) for row in orm.scalars(query)]

    def last_event_id(self) -> int:
        """The greatest id so far; 0 when nothing has happened yet."""
        with self._database.reading() as orm:
            return newest_event_id(orm)

    # --- placement ---------------------------------------------------------------------------------

    def place(self, decide: Callable[[Table], Sequence[Decision]]) -> list[Decision]:
        """Let `decide` give the waiting sessions their hosts, and write it down: one transaction, so that no
        two of them get the same last place. What is not placed is for the caller to see to."""
        with self._database.writing() as orm:
            decisions = list(decide(_table(orm)))
            for decision in decisions:
                row = find(orm, decision.session_id)
                if isinstance(decision, Place):
                    changes: SessionChanges = {"host": decision.host, "status_reason": STARTING}
                    change(orm, row, {**changes, "placed_at": row.placed_at or utcnow()})
                elif isinstance(decision, Wait):
                    change(orm, row, {"status_reason": QUEUED})
        return decisions

    # --- the pool ----------------------------------------------------------------------------------

    def add_warm(self, order: WarmOrder) -> Session:
        """Write the row of a desktop that nobody has asked for yet; it comes up like any other."""
        now = utcnow()
        session = Session(
            id=new_id(),
            request_id=new_id(),
            tenant_id=POOL_TENANT,
            via=Via.POOL,
            image=order.image,
            display=order.display,
            resolution=order.resolution,
            wanted_host=order.host,
            cpu_millis=order.cpu_millis,
            memory_mib=order.memory_mib,
            ttl_seconds=order.max_age_seconds,
            created_by=WORKER,
            created_at=now,
            updated_at=now,
            expires_at=now + timedelta(seconds=order.max_age_seconds),
        )
        with self._database.writing() as orm:
            if orm.get(TenantRow, POOL_TENANT) is None:
                orm.add(TenantRow(id=POOL_TENANT, created_at=now))
                orm.flush()
            add(orm, session, WORKER)
        return session

    def warm(self) -> list[Session]:
        """The live sessions of the pool, oldest first."""
        return self._live(SessionRow.tenant_id == POOL_TENANT)

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
        with self._database.writing() as orm, sandbox_is_free():
            row = find(orm, session_id)
            move(orm, row, to, changes, reason=reason, error_message=error_message)
            return session_of(row)

    def update(self, session_id: str, **changes: Unpack[SessionChanges]) -> Session:
        """Change fields of a live session; IllegalTransition for a terminal one. Same values: no event."""
        with self._database.writing() as orm, sandbox_is_free():
            row = find(orm, session_id)
            check_transition(Status(row.status), Status(row.status))
            change(orm, row, changes)
            return session_of(row)

    def claim(self, session_id: str, host: str, *, ends_at: datetime | None) -> Session:
        """That host has the sandbox which the session claims, and nobody else's session is it.

        ends_at: when it ends on its host, None: never. It keeps that time, up to the longest life of a
        session. Raises IllegalTransition for a session that has ended, SandboxTaken.
        """
        now = utcnow()
        with self._database.writing() as orm, sandbox_is_free():
            row = find(orm, session_id)
            check_transition(Status(row.status), Status(row.status))
            known = [end for end in (ends_at or row.lifetime_ends_at, row.expires_at) if end is not None]
            ends = max(known, default=None)
            if ends is not None and row.lifetime_ends_at is not None:
                ends = min(ends, row.lifetime_ends_at)
            changes: SessionChanges = {"host": host, "status_reason": STARTING, "expires_at": ends}
            change(orm, row, {**changes, "placed_at": now, "made_at": now})
            return session_of(row)

    def hand_over(self, claim_id: str, request_id: str) -> Session | None:
        """A session that an event claimed for a sandbox turns out to be that of another create of the same
        tenant: what was said of it is that one's, and the claim ends. None, and nothing happens, when it is
        another tenant's or nobody's."""
        with self._database.writing() as orm, audit.acting(find(orm, claim_id).created_by):
            claim = find(orm, claim_id)
            owner = orm.scalar(select(SessionRow).where(SessionRow.request_id == request_id))
            if owner is None or owner.tenant_id != claim.tenant_id:
                return None
            if not Status(owner.status).is_terminal:
                owner.task_id = owner.task_id or claim.task_id
                owner.agent_id = owner.agent_id or claim.agent_id
                owner.error_message = owner.error_message or claim.error_message
                if claim.terminate_requested_at is not None:
                    ask_for_the_end(orm, owner, claim.created_by)
                change(orm, owner, {}, by=claim.created_by)
            if not Status(claim.status).is_terminal:
                message = f"its sandbox is that of session {owner.id}"
                move(orm, claim, Status.ERROR, {}, reason=None, error_message=message)
            return session_of(owner)

    def request_termination(self, session_id: str) -> Session:
        """The fleet's own wish (expiry, a desktop taken out of the inventory); see TenantStore."""
        with self._database.writing() as orm:
            row = find(orm, session_id)
            ask_for_the_end(orm, row, WORKER)
            return session_of(row)

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
                made = _session_of_desktop(desktop)
                add(orm, made, WORKER)
                return made
            change(orm, row, {"resolution": desktop.resolution, "image": desktop.backend})
            return session_of(row)

    def retire_desktops(self, host: str, declared: Sequence[str]) -> list[Session]:
        """End the desktops of that host that the inventory no longer names; the ended sessions."""
        with self._database.writing() as orm:
            rows = [row for row in orm.scalars(_desktop_rows(host)) if row.sandbox_id not in declared]
            for row in rows:
                _give_up_the_name(orm, row)
            return [session_of(row) for row in rows]

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
                row = _new_host_row(name, now)
                orm.add(row)
            changed = row.status != status.value
            row.status = status.value
            row.detail = detail
            row.certificate_ends = certificate_ends
            row.last_seen_at = now if status is HostStatus.OK else row.last_seen_at
            if changed:
                row.changed_at = now
                for session in orm.scalars(live_rows().where(SessionRow.host == name)):
                    tell(orm, session, WORKER, "session.updated", is_a_step=False)

    def record_host_report(self, name: str, report: HostReport) -> None:
        """What a host's hostwatch says of it; a host that nobody has looked at yet has no row to keep it."""
        with self._database.writing() as orm:
            row = orm.get(HostRow, name)
            if row is not None:
                row.report = report.model_dump(mode="json")

    def drain(self, name: str, *, is_draining: bool, tenant_id: str = audit.NO_TENANT) -> None:
        """From now on the host gets no new sandboxes, or gets them again. `name`: a host of the settings;
        tenant_id: who asked for it."""
        with self._database.writing() as orm:
            row = orm.get(HostRow, name)
            if row is None:
                row = _new_host_row(name, utcnow())
                orm.add(row)
            row.is_draining = is_draining
            detail = {"draining": is_draining}
            audit.note(orm, tenant_id, "host.drain", f"host:{name}", detail=detail)

    def forget_hosts(self, *, known: Iterable[str]) -> None:
        """Forget hosts that are no longer part of the fleet."""
        with self._database.writing() as orm:
            orm.execute(delete(HostRow).where(HostRow.name.not_in(list(known))))

    def purge(self, *, events_before: datetime, sessions_ended_before: datetime) -> bool:
        """Forget some of the old events, long-ended sessions and documents; True while there is more.

        Some, because nobody else can write meanwhile.
        """
        # Ids grow with time, so a look at the smallest will do; there is no index on the times of events.
        first = select(EventRow.id).order_by(EventRow.id).limit(PURGE_AT_ONCE)
        ended = select(SessionRow.id).where(SessionRow.terminated_at < sessions_ended_before)
        # The newest stays, so that everybody knows up to where there have been any; and so does what an
        # endpoint still has to get, however old it is.
        newest = select(func.max(EventRow.id)).scalar_subquery()
        is_wanted = select(WebhookEndpointRow.id).where(
            WebhookEndpointRow.tenant_id == EventRow.tenant_id,
            WebhookEndpointRow.disabled_at.is_(None),
            WebhookEndpointRow.last_event_id < EventRow.id,
        )
        old_event = delete(EventRow).where(
            EventRow.id.in_(first),
            EventRow.id < newest,
            EventRow.at < events_before,
            ~is_wanted.exists(),
        )
        old_session = delete(SessionRow).where(SessionRow.id.in_(ended.limit(PURGE_AT_ONCE)))
        # A document is kept as long as its session, and as long as one that ended when it was put down last.
        is_sessions = select(SessionRow.id).where(SessionRow.id == DocumentRow.session_id)
        outlived = (
            select(DocumentRow.id)
            .where(DocumentRow.updated_at < sessions_ended_before, ~is_sessions.exists())
            .order_by(DocumentRow.updated_at)
        )
        old_document = delete(DocumentRow).where(DocumentRow.id.in_(outlived.limit(PURGE_AT_ONCE)))
        with self._database.writing() as orm:
            orm.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < utcnow() - IDEMPOTENCY_LIFE))
            orm.execute(delete(GestureRow).where(GestureRow.created_at < utcnow() - GESTURE_LIFE))
            events = orm.scalars(old_event.returning(EventRow.id)).all()
            sessions = orm.scalars(old_session.returning(SessionRow.id)).all()
            documents = orm.scalars(old_document.returning(DocumentRow.id)).all()
            receipts = _forget_receipts(orm, min(events_before, utcnow() - BODY_LIFE))
            return PURGE_AT_ONCE in (len(events), len(sessions), len(documents), receipts)

    def _live(self, *conditions: ColumnElement[bool]) -> list[Session]:
        with self._database.reading() as orm:
            query = live_rows().where(*conditions).order_by(SessionRow.created_at, SessionRow.id)
            return sessions_of(orm, query)

    def _one(self, condition: ColumnElement[bool]) -> Session | None:
        with self._database.reading() as orm:
            row = orm.scalar(select(SessionRow).where(condition))
            return None if row is None else session_of(row)


def _forget_receipts(orm: OrmSession, before: datetime) -> int:
    """How many of the oldest. Of an event that came in so long ago nobody asks again; a signature as old is
    refused anyway."""
    ids = (ReceiptRow.tenant_id, ReceiptRow.message_id)
    old = select(*ids).where(ReceiptRow.received_at < before).order_by(ReceiptRow.received_at)
    found = orm.execute(old.limit(PURGE_AT_ONCE)).all()
    for tenant_id, message_id in found:
        orm.execute(
            delete(ReceiptRow).where(ReceiptRow.tenant_id == tenant_id, ReceiptRow.message_id == message_id)
        )
    return len(found)


def _waiting(orm: OrmSession) -> list[Session]:
    query = live_rows(
        SessionRow.status == Status.CREATING,
        SessionRow.host.is_(None),
        # One that an event named is somewhere already. Not the bare column: with the host it has an index,
        # which would lead through all that ever ended without a place.
        SessionRow.sandbox_id.concat("").is_(None),
        SessionRow.kind == Kind.SANDBOX,
        SessionRow.terminate_requested_at.is_(None),
    )
    return sessions_of(orm, query)


def _in_making(orm: OrmSession) -> dict[str, int]:
    query = (
        select(SessionRow.tenant_id, func.count())
        .where(
            SessionRow.terminated_at.is_(None),
            SessionRow.status == Status.CREATING,
            SessionRow.host.is_not(None),
            SessionRow.kind == Kind.SANDBOX,
        )
        .group_by(SessionRow.tenant_id)
    )
    return {str(tenant): count for tenant, count in orm.execute(query)}


def _reserved(orm: OrmSession) -> dict[str, Reserved]:
    query = (
        select(
            SessionRow.host,
            func.count(),
            func.sum(SessionRow.cpu_millis),
            func.sum(SessionRow.memory_mib),
            # Not the sum of a condition: SQLAlchemy takes that for a condition too, and makes 3 into True.
            func.count().filter(SessionRow.sandbox_id.is_(None)),
        )
        .where(
            SessionRow.terminated_at.is_(None),
            SessionRow.kind == Kind.SANDBOX,
            SessionRow.host.is_not(None),
        )
        .group_by(SessionRow.host)
    )
    return {
        str(host): Reserved(desktops=desktops, cpu_millis=cpu, memory_mib=memory, creates=creates)
        for host, desktops, cpu, memory, creates in orm.execute(query)
    }


def _table(orm: OrmSession) -> Table:
    return Table(
        waiting=tuple(_waiting(orm)),
        in_making=_in_making(orm),
        reserved=_reserved(orm),
        hosts={row.name: _view(row) for row in orm.scalars(select(HostRow))},
    )


def _view(row: HostRow) -> HostView:
    report = None if row.report is None else HostReport.model_validate_json(json.dumps(row.report))
    return HostView(
        status=HostStatus(row.status),
        detail=row.detail,
        is_draining=row.is_draining,
        images=None if report is None else frozenset(report.image_tags),
    )


def _new_host_row(name: str, now: datetime) -> HostRow:
    return HostRow(
        name=name,
        status=HostStatus.UNKNOWN.value,
        detail=None,
        last_seen_at=None,
        changed_at=now,
        is_draining=False,
    )


def _session_of_desktop(desktop: DeclaredDesktop) -> Session:
    now = utcnow()
    return Session(
        id=new_id(),
        request_id=new_id(),
        tenant_id=desktop.tenant,
        kind=Kind.DESKTOP,
        via=Via.INVENTORY,
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


def _desktop_rows(host: str) -> Select[SessionRow]:
    """Rows that hold a desktop's name on that host."""
    return select(SessionRow).where(
        SessionRow.kind == Kind.DESKTOP, SessionRow.host == host, SessionRow.sandbox_id.is_not(None)
    )


def _give_up_the_name(orm: OrmSession, row: SessionRow) -> None:
    """End a desktop's row, if it lives, and free its (host, name) for a successor."""
    row.sandbox_id = None
    has_lived = not Status(row.status).is_terminal
    if has_lived:
        row.status = Status.TERMINATED.value
        row.terminated_at = utcnow()
    change(orm, row, {})
    if has_lived and row.terminate_requested_at is None:
        note_ended(orm, row)
