"""The store: the one choke point to the session table.

`store.tenant(id)` sees one tenant only: another tenant's session is the same SessionNotFound as one that
never was. `store.work(id)` is its tasks and agents. `store.fleet` sees everything and is the worker's.
`store.help(id)` are its calls for a person, `store.people(id)` its people, `store.webhooks(id)` the addresses
that its events go to. `store.accounts` holds keys and sign-ins, `store.attempts` counts failed ones,
`store.entries` holds the ways to other origins, `store.tickets` those to single streams, `store.shares` the
links by which people without an account watch, `store.leases` who has keyboard and mouse, `store.deliveries`
the events that go out. Every change of a session passes the state machine and is written in one transaction
with its event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.accounts import AccountStore
from viewer.attempts import AttemptStore
from viewer.audit_store import AuditStore
from viewer.database import Database
from viewer.database_address import PostgresAddress
from viewer.deliveries.store import DeliveryStore, WebhookStore
from viewer.documents import DocumentStore
from viewer.entries import EntryStore
from viewer.event_intake import EventIntake, Refusals
from viewer.figures import FigureStore
from viewer.fleet_store import IDEMPOTENCY_LIFE, FleetStore
from viewer.gesture_store import GestureStore
from viewer.help_store import HelpStore
from viewer.leases import LeaseStore
from viewer.listing import Page, SessionFilter, looks_for, numbered_page
from viewer.listing import conditions as conditions_of
from viewer.model import (
    POOL_TENANT,
    Frozen,
    HostStatus,
    Kind,
    Session,
    Sort,
    Status,
    Via,
    utcnow,
)

# The names of what `create` takes and raises are the store's own, too.
from viewer.new_sessions import MOST_CREATING as MOST_CREATING
from viewer.new_sessions import NO_QUOTA, check_quota, session_of_new
from viewer.new_sessions import NewSession as NewSession
from viewer.new_sessions import QuotaExceeded as QuotaExceeded
from viewer.new_sessions import TooManyCreating as TooManyCreating
from viewer.oidc.people import OidcPeople
from viewer.once import KeyReused as KeyReused
from viewer.once import Once as Once
from viewer.people import PeopleStore
from viewer.phases import Phase
from viewer.resources import Quota
from viewer.rows import (
    Event,
    Step,
    add,
    ask_for_the_end,
    change,
    count,
    event_of,
    live_rows,
    newest_event_id,
    note_created,
    note_names,
    own_row,
    session_of,
    sessions_of,
    step_of,
    tell,
    write_labels,
)
from viewer.session_counts import Counts, counts_of
from viewer.session_pages import page_of_sessions
from viewer.shares import ShareStore
from viewer.tables import EventRow, HistoryRow, HostRow, IdempotencyRow, SessionLabelRow, SessionRow
from viewer.ticket_store import TicketStore
from viewer.transitions import IllegalTransition, check_transition
from viewer.webhook_secrets import WebhookSecretStore
from viewer.work import WorkStore

CLAIM_MARGIN = timedelta(seconds=30)
"""A warm desktop with less time left is not handed over: its host might end it before we renew it."""


class Created(Frozen):
    """is_replay: an earlier create with the same idempotency key made it."""

    session: Session
    is_replay: bool = False


class Store:
    """The control plane's database: open one per process, after any fork."""

    def __init__(self, address: Path | PostgresAddress) -> None:
        self._database = Database(address)
        self.fleet = FleetStore(self._database)
        self.accounts = AccountStore(self._database)
        self.attempts = AttemptStore(self._database)
        self.oidc = OidcPeople(self._database)
        self.entries = EntryStore(self._database, self.accounts)
        self.tickets = TicketStore(self._database, self.accounts)
        self.leases = LeaseStore(self._database)
        self.figures = FigureStore(self._database)
        self.audit = AuditStore(self._database)
        self.webhook_secrets = WebhookSecretStore(self._database)
        self.refused_events = Refusals(self._database)
        self.deliveries = DeliveryStore(self._database)
        self.shares = ShareStore(self._database)

    def tenant(self, tenant_id: str) -> TenantStore:
        return TenantStore(self._database, tenant_id)

    def people(self, tenant_id: str) -> PeopleStore:
        return PeopleStore(self._database, tenant_id)

    def work(self, tenant_id: str) -> WorkStore:
        return WorkStore(self._database, tenant_id)

    def help(self, tenant_id: str) -> HelpStore:
        return HelpStore(self._database, tenant_id)

    def intake(self, tenant_id: str) -> EventIntake:
        return EventIntake(self._database, tenant_id)

    def gestures(self, tenant_id: str) -> GestureStore:
        return GestureStore(self._database, tenant_id)

    def documents(self, tenant_id: str) -> DocumentStore:
        return DocumentStore(self._database, tenant_id)

    def webhooks(self, tenant_id: str) -> WebhookStore:
        return WebhookStore(self._database, tenant_id)

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

    def create(
        self,
        new: NewSession,
        *,
        quota: Quota = NO_QUOTA,
        once: Once | None = None,
        may_be_warm: bool = False,
    ) -> Created:
        """Write the row (`creating`) and its event; a worker takes it from there. One transaction.

        `once`: a repeated create returns what the first one made. `may_be_warm`: a desktop of the pool that
        is just like it will do, and is `running` at once. Raises TooManyCreating, QuotaExceeded, KeyReused.
        """
        with self._database.writing() as orm:
            if once is not None and (earlier := self._made_by(orm, once)) is not None:
                return Created(session=session_of(earlier), is_replay=True)
            check_quota(orm, self._tenant_id, new, quota)
            session = self._claim(orm, new) if may_be_warm else None
            if session is None:
                session = session_of_new(self._tenant_id, new)
                add(orm, session, new.created_by)
            if once is not None:
                orm.add(
                    IdempotencyRow(
                        tenant_id=self._tenant_id,
                        key=once.stored_key,
                        body_sha256=once.body_sha256,
                        session_id=session.id,
                        created_at=utcnow(),
                    )
                )
        return Created(session=session)

    def get(self, session_id: str) -> Session:
        """Raise SessionNotFound for an unknown id and for another tenant's alike."""
        with self._database.reading() as orm:
            return session_of(self._own_row(orm, session_id))

    def known(self, session_ids: Collection[str]) -> dict[str, Session]:
        """Those of these sessions that are the tenant's, by id."""
        query = select(SessionRow).where(
            SessionRow.id.in_(session_ids), SessionRow.tenant_id == self._tenant_id
        )
        with self._database.reading() as orm:
            return {session.id: session for session in sessions_of(orm, query)}

    def list(
        self,
        wanted: SessionFilter | None = None,
        cursor: str | None = None,
        limit: int = 50,
        sort: Sort = Sort.NEWEST,
    ) -> Page[Session]:
        """One page; raise BadCursor for a cursor that is not ours, or of another order."""
        with self._database.reading() as orm:
            return page_of_sessions(orm, self._tenant_id, wanted or SessionFilter(), sort, cursor, limit)

    def counts(self) -> Counts:
        """How many sessions there are of each status, and how many call for a person."""
        with self._database.reading() as orm:
            return counts_of(orm, self._tenant_id)

    def sandboxes(
        self,
        phases: Collection[Phase],
        labels: Mapping[str, str],
        *,
        page: int,
        size: int,
        longest_life: timedelta,
    ) -> tuple[Sequence[Session], int]:
        """Page number `page` (from 1) of `size`, newest first, and how many there are in all.

        For the OpenSandbox-compatible API alone: it pages by number, which costs more the later the page.
        longest_life: no session outlives it.
        """
        now = utcnow()
        looks = looks_for(self._tenant_id, phases, labels, now=now, born_since=now - longest_life)
        if not looks:
            return [], 0
        with self._database.reading() as orm:
            found = orm.scalars(numbered_page(looks, page=page, size=size))
            return [session_of(row) for row in found], sum(count(orm, *look) for look in looks)

    def dismiss(self, session_id: str) -> None:
        """Let a session that failed be gone for `sandboxes`; its row stays. Nothing happens to any other."""
        with self._database.writing() as orm:
            row = self._own_row(orm, session_id)
            now = utcnow()
            if row.status == Status.ERROR.value and (row.expires_at is None or row.expires_at > now):
                row.expires_at = now

    def history(self, session_id: str) -> Sequence[Step]:
        """The session's steps, oldest first. Raises SessionNotFound."""
        query = select(HistoryRow).where(HistoryRow.session_id == session_id).order_by(HistoryRow.id)
        with self._database.reading() as orm:
            self._own_row(orm, session_id)
            return [step_of(row) for row in orm.scalars(query)]

    def desktops(self) -> Sequence[Session]:
        """The live sessions of this tenant's persistent desktops."""
        query = live_rows().where(SessionRow.tenant_id == self._tenant_id, SessionRow.kind == Kind.DESKTOP)
        with self._database.reading() as orm:
            return sessions_of(orm, query)

    def live_by_host(self) -> dict[str, int]:
        """How many of this tenant's sessions live on each host."""
        query = live_rows().where(SessionRow.tenant_id == self._tenant_id, SessionRow.host.is_not(None))
        counted = query.order_by(None).with_only_columns(SessionRow.host, func.count())
        with self._database.reading() as orm:
            return {str(host): count for host, count in orm.execute(counted.group_by(SessionRow.host))}

    def request_termination(self, session_id: str, *, by: str = "api") -> Session:
        """Store the wish that the session ends; a worker makes it true. Nothing happens to a terminal one."""
        with self._database.writing() as orm:
            row = self._own_row(orm, session_id)
            ask_for_the_end(orm, row, by)
            return session_of(row)

    def request_terminations(self, wanted: SessionFilter, *, by: str, limit: int = 1000) -> Sequence[str]:
        """Store that wish for every live sandbox that matches, the oldest `limit` of them; their ids."""
        query = (
            live_rows(*conditions_of(self._tenant_id, wanted), SessionRow.kind == Kind.SANDBOX)
            .where(SessionRow.terminate_requested_at.is_(None))
            .order_by(SessionRow.created_at)
            .limit(limit)
        )
        with self._database.writing() as orm:
            rows = orm.scalars(query).all()
            for row in rows:
                ask_for_the_end(orm, row, by)
            return [row.id for row in rows]

    def request_status(self, session_id: str, wanted: Status, *, by: str) -> Session:
        """Store the wish that a running session pauses, or a paused one runs; a worker makes it true.

        Raises IllegalTransition for a session that is neither, or that is to end.
        """
        with self._database.writing() as orm:
            row = self._own_row(orm, session_id)
            status = Status(row.status)
            if status not in (Status.RUNNING, Status.PAUSED) or row.terminate_requested_at is not None:
                raise IllegalTransition(status, wanted)
            change(orm, row, {"wanted_status": None if status is wanted else wanted}, by=by)
            action: audit.Action = "session.pause" if wanted is Status.PAUSED else "session.resume"
            audit.note(orm, self._tenant_id, action, f"session:{row.id}")
            return session_of(row)

    def renew(self, session_id: str, until: datetime, *, by: str) -> Session:
        """Let the session live until then, or until the end of its lifetime; counts as use.

        Raises IllegalTransition for one that has ended or is to end.
        """
        with self._database.writing() as orm:
            row = self._own_row(orm, session_id)
            status = Status(row.status)
            if status.is_terminal or row.terminate_requested_at is not None:
                raise IllegalTransition(status, status)
            end = until if row.lifetime_ends_at is None else min(until, row.lifetime_ends_at)
            change(orm, row, {"expires_at": end, "last_used_at": utcnow()}, by=by)
            until_text = end.isoformat(timespec="seconds")
            audit.note(
                orm, self._tenant_id, "session.renew", f"session:{row.id}", detail={"until": until_text}
            )
            return session_of(row)

    def set_labels(self, session_id: str, labels: Mapping[str, str]) -> Session:
        """Replace the session's labels. Raises IllegalTransition for one that has ended."""
        with self._database.writing() as orm:
            row = self._own_row(orm, session_id)
            check_transition(Status(row.status), Status(row.status))
            self._replace_labels(orm, row, labels)
            return session_of(row)

    def patch_labels(
        self,
        session_id: str,
        patch: Mapping[str, str | None],
        check: Callable[[dict[str, str]], dict[str, str]],
    ) -> Session:
        """Set the labels that have a value, take away those that have None, keep all others.

        check: raises ValueError for labels that a session cannot have together. Raises IllegalTransition for
        one that has ended.
        """
        with self._database.writing() as orm:
            row = self._own_row(orm, session_id)
            check_transition(Status(row.status), Status(row.status))
            labels = check(
                {key: value for key, value in {**row.labels, **patch}.items() if value is not None}
            )
            self._replace_labels(orm, row, labels)
            return session_of(row)

    def events_after(self, event_id: int, limit: int = 200) -> Sequence[Event]:
        """This tenant's events with a greater id, oldest first."""
        query = (
            select(EventRow)
            .where(EventRow.tenant_id == self._tenant_id, EventRow.id > event_id)
            .order_by(EventRow.id)
            .limit(limit)
        )
        with self._database.reading() as orm:
            return [event_of(row) for row in orm.scalars(query)]

    def last_event_id(self) -> int:
        """Where a listener starts who has just read the list; 0 when nothing has happened yet."""
        with self._database.reading() as orm:
            return newest_event_id(orm)

    def has_events_since(self, event_id: int) -> bool:
        """False when events after `event_id` may already be purged, or the id was never given out."""
        with self._database.reading() as orm:
            oldest = orm.scalar(select(func.min(EventRow.id)))
            newest = newest_event_id(orm)
        if event_id > newest:
            return False
        return event_id >= (newest if oldest is None else oldest - 1)

    def _own_row(self, orm: OrmSession, session_id: str) -> SessionRow:
        return own_row(orm, self._tenant_id, session_id)

    def _replace_labels(self, orm: OrmSession, row: SessionRow, labels: Mapping[str, str]) -> None:
        orm.execute(delete(SessionLabelRow).where(SessionLabelRow.session_id == row.id))
        row.labels = dict(labels)
        write_labels(orm, session_of(row))
        change(orm, row, {})
        detail = {"labels": sorted(labels)}
        audit.note(orm, self._tenant_id, "session.labels", f"session:{row.id}", detail=detail)

    def _made_by(self, orm: OrmSession, once: Once) -> SessionRow | None:
        row = orm.get(IdempotencyRow, (self._tenant_id, once.stored_key))
        if row is None or row.created_at < utcnow() - IDEMPOTENCY_LIFE:
            if row is not None:
                orm.delete(row)
                orm.flush()
            return None
        if row.body_sha256 != once.body_sha256:
            raise KeyReused
        return self._own_row(orm, row.session_id)

    def _claim(self, orm: OrmSession, new: NewSession) -> Session | None:
        """A warm desktop just like the wanted one, made this tenant's; None if the pool has none."""
        ok = select(HostRow.name).where(HostRow.status == HostStatus.OK, HostRow.is_draining.is_(False))
        now = utcnow()
        row = orm.scalar(
            select(SessionRow)
            .where(
                SessionRow.tenant_id == POOL_TENANT,
                SessionRow.status == Status.RUNNING,
                # Not the bare column: its index would lead through all that the pool has ever held of it.
                SessionRow.image.concat("") == new.image,
                SessionRow.resolution.is_(new.resolution)
                if new.resolution is None
                else SessionRow.resolution == new.resolution,
                SessionRow.cpu_millis == new.cpu_millis,
                SessionRow.memory_mib == new.memory_mib,
                SessionRow.terminate_requested_at.is_(None),
                SessionRow.expires_at > now + CLAIM_MARGIN,
                SessionRow.host.in_(ok if new.wanted_host is None else [new.wanted_host]),
                SessionRow.host.in_(ok),
            )
            .order_by(SessionRow.created_at)
            .limit(1)
        )
        if row is None:
            return None
        # Its life in the pool is nobody's business but ours.
        orm.execute(delete(HistoryRow).where(HistoryRow.session_id == row.id))
        claimed = session_of_new(self._tenant_id, new)
        for name in _HANDED_OVER:
            value = getattr(claimed, name)
            setattr(row, name, str(value) if isinstance(value, Via) else value)
        row.is_warm = True
        row.placed_at = row.made_at = row.running_at = now
        orm.flush()
        session = session_of(row)
        note_names(orm, session)
        write_labels(orm, session)
        # Two, because whoever waits for either of them must hear of it.
        tell(orm, row, new.created_by, "session.created", is_a_step=False)
        tell(orm, row, new.created_by, "session.running")
        note_created(orm, session)
        return session


_HANDED_OVER = (
    "tenant_id", "via", "task_id", "agent_id", "labels", "wanted_host", "ttl_seconds", "idle_seconds",
    "lifetime_ends_at", "created_by", "created_at", "updated_at", "expires_at", "may_queue",
)  # fmt: skip
"""What a claimed desktop takes from the create that claimed it; all else is what it was made with."""
