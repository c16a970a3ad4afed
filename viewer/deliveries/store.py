"""Endpoints, deliveries and the log of attempts in the database.

`WebhookStore` is one tenant's: another's endpoint is the same UnknownEndpoint as one that never was.
`DeliveryStore` is the worker's. A delivery is written in the transaction that moves its endpoint's
`last_event_id`, so none is lost or doubled in the table, whenever the worker dies; and an outcome is written
after the attempt, so what a dead worker had in hand is sent once more, with the same `webhook-id`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypedDict, Unpack
from urllib.parse import urlsplit

from pydantic import Field
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.audit import Action, Detail
from viewer.database import Database
from viewer.deliveries.model import (
    DISABLED_AFTER,
    MOST_ENDPOINTS,
    TEST_TYPE,
    Attempt,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Outcome,
    WebhookType,
    next_attempt_at,
)
from viewer.listing import Page, one_page, page_of
from viewer.model import EventType, Frozen, utcnow
from viewer.rows import Event, event_of, new_id, newest_event_id
from viewer.tables import DeliveryAttemptRow, DeliveryRow, EventRow, WebhookEndpointRow

EVENTS_AT_ONCE = 100
"""For which one transaction writes an endpoint's deliveries."""
ATTEMPTS_SHOWN = 20
"""The newest ones of a delivery: somebody may ask for more of them by hand than the schedule has."""
PURGE_AT_ONCE = 1000
BY_ADMIN = "disabled by an admin"


class UnknownEndpoint(Exception):
    """No such endpoint, or no such delivery of it, for whoever asks."""


class TooManyEndpoints(Exception):
    """The tenant has MOST_ENDPOINTS of them."""


class EndpointDisabled(Exception):
    """Nothing is sent there until it is enabled again."""


class NewEndpoint(Frozen):
    url: str
    label: str
    types: tuple[EventType, ...]
    secret_sealed: str = Field(repr=False)
    created_by: str


class EndpointChanges(TypedDict, total=False):
    url: str
    label: str
    types: tuple[EventType, ...]
    enabled: bool


class LoggedDelivery(Frozen):
    """With its newest attempts, oldest first."""

    delivery: Delivery
    attempts: tuple[Attempt, ...]


class WebhookStore:
    """One tenant's endpoints and their logs."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def create(self, new: NewEndpoint) -> Endpoint:
        """It gets the events from now on. Raises TooManyEndpoints."""
        now = utcnow()
        with self._database.writing() as orm:
            mine = select(func.count()).where(WebhookEndpointRow.tenant_id == self._tenant_id)
            if (orm.scalar(mine) or 0) >= MOST_ENDPOINTS:
                raise TooManyEndpoints
            row = WebhookEndpointRow(
                id=new_id(),
                tenant_id=self._tenant_id,
                last_event_id=newest_event_id(orm),
                created_at=now,
                updated_at=now,
                **{**new.model_dump(), "types": list(new.types)},
            )
            orm.add(row)
            orm.flush()
            endpoint = _endpoint_of(row)
            self._note(orm, "webhook.create", endpoint.id, _told_of(endpoint))
            return endpoint

    def list(self) -> Sequence[Endpoint]:
        """All of them, newest first."""
        query = (
            select(WebhookEndpointRow)
            .where(WebhookEndpointRow.tenant_id == self._tenant_id)
            .order_by(WebhookEndpointRow.created_at.desc(), WebhookEndpointRow.id.desc())
        )
        with self._database.reading() as orm:
            return [_endpoint_of(row) for row in orm.scalars(query)]

    def get(self, endpoint_id: str) -> Endpoint:
        """Raises UnknownEndpoint, as all that follow do."""
        with self._database.reading() as orm:
            return _endpoint_of(self._own_row(orm, endpoint_id))

    def change(self, endpoint_id: str, **changes: Unpack[EndpointChanges]) -> Endpoint:
        """Enabled again, it gets the events from then on; what happened meanwhile is passed over."""
        now = utcnow()
        with self._database.writing() as orm:
            row = self._own_row(orm, endpoint_id)
            before = _endpoint_of(row)
            row.url = changes.get("url", row.url)
            row.label = changes.get("label", row.label)
            if "types" in changes:
                row.types = list(changes["types"])
            row.updated_at = now
            after = _endpoint_of(row)
            if _told_of(after) != _told_of(before) or after.url != before.url:
                self._note(orm, "webhook.change", row.id, _told_of(after))
            enabled = changes.get("enabled", row.disabled_at is None)
            if not enabled and row.disabled_at is None:
                _disable(orm, row, BY_ADMIN, now)
            elif enabled and row.disabled_at is not None:
                row.disabled_at = row.disabled_reason = row.failing_since = None
                row.last_event_id = newest_event_id(orm)
                self._note(orm, "webhook.enable", row.id)
            return _endpoint_of(row)

    def delete(self, endpoint_id: str) -> Endpoint:
        """With its deliveries and their log; what it was."""
        with self._database.writing() as orm:
            row = self._own_row(orm, endpoint_id)
            endpoint = _endpoint_of(row)
            self._note(orm, "webhook.delete", row.id, _told_of(endpoint))
            orm.execute(delete(WebhookEndpointRow).where(WebhookEndpointRow.id == row.id))
            return endpoint

    def rotate(self, endpoint_id: str, secret_sealed: str, *, former_life: timedelta) -> Endpoint:
        """Sign with another secret from now on, and with the one before beside it for a while."""
        now = utcnow()
        with self._database.writing() as orm:
            row = self._own_row(orm, endpoint_id)
            row.former_secret_sealed = row.secret_sealed
            row.former_secret_ends_at = now + former_life
            row.secret_sealed = secret_sealed
            row.updated_at = now
            self._note(orm, "webhook.rotate", row.id)
            return _endpoint_of(row)

    def try_out(self, endpoint_id: str, compose: Callable[[datetime], str]) -> Delivery:
        """Write a trial delivery, which is attempted once, at once. Raises EndpointDisabled."""
        now = utcnow()
        with self._database.writing() as orm:
            self._enabled_row(orm, endpoint_id)
            row = DeliveryRow(
                id=new_id(),
                endpoint_id=endpoint_id,
                tenant_id=self._tenant_id,
                message_id=f"msg_{uuid.uuid4().hex}",
                type=TEST_TYPE,
                event_id=None,
                body=compose(now),
                status=DeliveryStatus.PENDING.value,
                attempts=0,
                next_attempt_at=now,
                created_at=now,
            )
            orm.add(row)
            orm.flush()
            self._note(orm, "webhook.test", endpoint_id, {"delivery": row.id})
            return _delivery_of(row)

    def retry(self, endpoint_id: str, delivery_id: str) -> Delivery:
        """Have it attempted now, also one that has arrived or was given up. Raises EndpointDisabled."""
        with self._database.writing() as orm:
            self._enabled_row(orm, endpoint_id)
            row = orm.get(DeliveryRow, delivery_id)
            if row is None or row.endpoint_id != endpoint_id:
                raise UnknownEndpoint
            row.status = DeliveryStatus.PENDING.value
            row.next_attempt_at = utcnow()
            row.finished_at = None
            self._note(orm, "webhook.redeliver", endpoint_id, {"delivery": row.id})
            return _delivery_of(row)

    def deliveries(
        self, endpoint_id: str, status: DeliveryStatus | None, cursor: str | None, limit: int
    ) -> Page[LoggedDelivery]:
        """One page of the log; raise BadCursor for a cursor that is not ours."""
        query = select(DeliveryRow).where(DeliveryRow.endpoint_id == endpoint_id)
        if status is not None:
            query = query.where(DeliveryRow.status == status.value)
        query = one_page(query, DeliveryRow.created_at, DeliveryRow.id, cursor, limit)
        with self._database.reading() as orm:
            self._own_row(orm, endpoint_id)
            page = page_of([_delivery_of(row) for row in orm.scalars(query)], limit)
            attempts = _attempts_of(orm, [one.id for one in page.items])
        items = tuple(LoggedDelivery(delivery=one, attempts=attempts.get(one.id, ())) for one in page.items)
        return Page(items=items, next_cursor=page.next_cursor)

    def _note(self, orm: OrmSession, action: Action, endpoint_id: str, detail: Detail | None = None) -> None:
        audit.note(orm, self._tenant_id, action, f"webhook:{endpoint_id}", detail=detail)

    def _own_row(self, orm: OrmSession, endpoint_id: str) -> WebhookEndpointRow:
        row = orm.get(WebhookEndpointRow, endpoint_id)
        if row is None or row.tenant_id != self._tenant_id:
            raise UnknownEndpoint
        return row

    def _enabled_row(self, orm: OrmSession, endpoint_id: str) -> WebhookEndpointRow:
        row = self._own_row(orm, endpoint_id)
        if row.disabled_at is not None:
            raise EndpointDisabled
        return row


class Behind(Frozen):
    """An endpoint, and the oldest events of its tenant for which it has no deliveries yet."""

    endpoint: Endpoint
    events: tuple[Event, ...]


class Job(Frozen):
    """A delivery that is due, and where it goes."""

    endpoint: Endpoint
    delivery: Delivery


class Recorded(Frozen):
    """What became of a delivery by an attempt. disabled: why its endpoint was disabled, if it was."""

    status: DeliveryStatus
    disabled: str | None = None


class DeliveryStore:
    """All tenants' deliveries, for the worker only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def behind(self) -> Sequence[Behind]:
        """The enabled endpoints that have not all of their tenant's events yet."""
        is_newer = (EventRow.tenant_id == WebhookEndpointRow.tenant_id) & (
            EventRow.id > WebhookEndpointRow.last_event_id
        )
        query = select(WebhookEndpointRow).where(
            WebhookEndpointRow.disabled_at.is_(None), select(EventRow.id).where(is_newer).exists()
        )
        with self._database.reading() as orm:
            return [_behind(orm, _endpoint_of(row)) for row in orm.scalars(query)]

    def write(self, one: Behind, compose: Callable[[Event], str]) -> int:
        """Write the deliveries of these events, and that it was done: all of it or nothing; how many.

        0 when somebody has done it before, or the endpoint is gone or disabled.
        """
        endpoint, now = one.endpoint, utcnow()
        wanted = [
            (event, event_type)
            for event in one.events
            if (event_type := event.webhook_type) is not None and endpoint.wants(event_type)
        ]
        # A microsecond between them, so that the log has them in their order.
        rows = [
            _row_of(endpoint, event, event_type, compose(event), now + timedelta(microseconds=number))
            for number, (event, event_type) in enumerate(wanted)
        ]
        with self._database.writing() as orm:
            row = orm.get(WebhookEndpointRow, endpoint.id)
            if row is None or row.disabled_at is not None or row.last_event_id != endpoint.last_event_id:
                return 0
            orm.add_all(rows)
            row.last_event_id = one.events[-1].id
        return len(rows)

    def due(self, now: datetime, *, per_endpoint: int, in_hand: Collection[str]) -> Sequence[Job]:
        """For each endpoint the first of its deliveries whose time has come, without those in hand."""
        is_due = (
            DeliveryRow.endpoint_id == WebhookEndpointRow.id,
            DeliveryRow.status == DeliveryStatus.PENDING.value,
            DeliveryRow.next_attempt_at <= now,
        )
        # One look into the index for each endpoint, however long the line before it is.
        waiting = select(WebhookEndpointRow).where(
            WebhookEndpointRow.disabled_at.is_(None), select(DeliveryRow.id).where(*is_due).exists()
        )
        with self._database.reading() as orm:
            endpoints = [_endpoint_of(row) for row in orm.scalars(waiting)]
            return [
                Job(endpoint=one, delivery=delivery)
                for one in endpoints
                for delivery in _due_of(orm, one.id, now, per_endpoint, in_hand)
            ]

    def record(
        self, delivery_id: str, attempt: Attempt, outcome: Outcome, *, spread: float
    ) -> Recorded | None:
        """Write down what the attempt met with and what follows from it; None when the delivery is gone."""
        with self._database.writing() as orm:
            row = orm.get(DeliveryRow, delivery_id)
            if row is None:
                return None
            endpoint = orm.get_one(WebhookEndpointRow, row.endpoint_id)
            orm.add(DeliveryAttemptRow(delivery_id=delivery_id, **attempt.model_dump()))
            row.attempts += 1
            if outcome.is_success:
                _finish(row, DeliveryStatus.DELIVERED, attempt.at)
                endpoint.failing_since = None
                return Recorded(status=DeliveryStatus.DELIVERED)
            if row.status == DeliveryStatus.PENDING.value:
                _plan(row, attempt.at, outcome, spread)
            why = None if row.event_id is None else _reason_to_disable(endpoint, attempt.at, outcome)
            if why is not None:
                if row.status == DeliveryStatus.PENDING.value:
                    _finish(row, DeliveryStatus.FAILED, attempt.at)
                _disable(orm, endpoint, why, attempt.at)
            return Recorded(status=DeliveryStatus(row.status), disabled=why)

    def oldest_due_seconds(self, now: datetime) -> float:
        """For how long the delivery has been due that waits longest; 0 when none is."""
        query = select(func.min(DeliveryRow.next_attempt_at)).where(
            DeliveryRow.status == DeliveryStatus.PENDING.value
        )
        with self._database.reading() as orm:
            oldest = orm.scalar(query)
        return 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())

    def purge(self, finished_before: datetime) -> bool:
        """Forget some of the deliveries that ended before then, with their log; True while there are more."""
        old = select(DeliveryRow.id).where(DeliveryRow.finished_at < finished_before).limit(PURGE_AT_ONCE)
        with self._database.writing() as orm:
            gone = delete(DeliveryRow).where(DeliveryRow.id.in_(old)).returning(DeliveryRow.id)
            return len(orm.scalars(gone).all()) == PURGE_AT_ONCE


def _endpoint_of(row: WebhookEndpointRow) -> Endpoint:
    return Endpoint.model_validate(row, from_attributes=True)


def _told_of(endpoint: Endpoint) -> Detail:
    """Of its address only the host: many services put a token into the path."""
    host = urlsplit(endpoint.url).hostname
    return {"host": host, "label": endpoint.label, "types": list(endpoint.types)}


def _delivery_of(row: DeliveryRow) -> Delivery:
    return Delivery.model_validate(row, from_attributes=True)


def _attempts_of(orm: OrmSession, delivery_ids: Sequence[str]) -> Mapping[str, tuple[Attempt, ...]]:
    query = (
        select(DeliveryAttemptRow)
        .where(DeliveryAttemptRow.delivery_id.in_(delivery_ids))
        .order_by(DeliveryAttemptRow.id)
    )
    found: dict[str, tuple[Attempt, ...]] = {}
    for row in orm.scalars(query):
        attempt = Attempt.model_validate(row, from_attributes=True)
        found[row.delivery_id] = (*found.get(row.delivery_id, ()), attempt)[-ATTEMPTS_SHOWN:]
    return found


def _behind(orm: OrmSession, endpoint: Endpoint) -> Behind:
    query = (
        select(EventRow)
        .where(EventRow.tenant_id == endpoint.tenant_id, EventRow.id > endpoint.last_event_id)
        .order_by(EventRow.id)
        .limit(EVENTS_AT_ONCE)
    )
    return Behind(endpoint=endpoint, events=tuple(event_of(row) for row in orm.scalars(query)))


def _row_of(
    endpoint: Endpoint, event: Event, event_type: WebhookType, body: str, now: datetime
) -> DeliveryRow:
    return DeliveryRow(
        id=new_id(),
        endpoint_id=endpoint.id,
        tenant_id=endpoint.tenant_id,
        message_id=message_id_of(endpoint.id, event),
        type=event_type,
        event_id=event.id,
        body=body,
        status=DeliveryStatus.PENDING.value,
        attempts=0,
        next_attempt_at=now,
        created_at=now,
    )


def _due_of(
    orm: OrmSession, endpoint_id: str, now: datetime, most: int, in_hand: Collection[str]
) -> list[Delivery]:
    query = (
        select(DeliveryRow)
        .where(
            DeliveryRow.endpoint_id == endpoint_id,
            DeliveryRow.status == DeliveryStatus.PENDING.value,
            DeliveryRow.next_attempt_at <= now,
        )
        .order_by(DeliveryRow.next_attempt_at)
        .limit(most + len(in_hand))
    )
    return [_delivery_of(row) for row in orm.scalars(query) if row.id not in in_hand][:most]


def message_id_of(endpoint_id: str, event: Event) -> str:
    """One for an event and an endpoint. The time is in it because a database that was restored from a backup
    gives out event ids again, for other events."""
    name = f"{endpoint_id} {event.id} {event.at.isoformat()}"
    return f"msg_{uuid.uuid5(uuid.NAMESPACE_URL, name).hex}"


def _finish(row: DeliveryRow, status: DeliveryStatus, now: datetime) -> None:
    row.status = status.value
    row.next_attempt_at = None
    row.finished_at = now


def _plan(row: DeliveryRow, now: datetime, outcome: Outcome, spread: float) -> None:
    """The next attempt, or the end. A trial is attempted once: somebody waits for its outcome."""
    is_trial = row.event_id is None
    next_at = next_attempt_at(row.attempts, now=now, spread=spread, retry_after=outcome.retry_after)
    if next_at is None or is_trial or outcome.is_gone:
        _finish(row, DeliveryStatus.FAILED, now)
    else:
        row.next_attempt_at = next_at


def _reason_to_disable(endpoint: WebhookEndpointRow, now: datetime, outcome: Outcome) -> str | None:
    if endpoint.disabled_at is not None:
        return None
    endpoint.failing_since = endpoint.failing_since or now
    if outcome.is_gone:
        return "it answered 410: it wants no more events"
    if now - endpoint.failing_since >= DISABLED_AFTER:
        return f"nothing has arrived there for {DISABLED_AFTER.days} days"
    return None


def _disable(orm: OrmSession, endpoint: WebhookEndpointRow, reason: str, now: datetime) -> None:
    """Nothing more goes there; what was under way is given up."""
    endpoint.disabled_at = now
    endpoint.disabled_reason = reason
    endpoint.updated_at = now
    audit.note(
        orm, endpoint.tenant_id, "webhook.disable", f"webhook:{endpoint.id}", detail={"reason": reason}
    )
    orm.flush()
    pending = (DeliveryRow.endpoint_id == endpoint.id, DeliveryRow.status == DeliveryStatus.PENDING.value)
    orm.execute(
        update(DeliveryRow)
        .where(*pending)
        .values(status=DeliveryStatus.CANCELLED.value, next_attempt_at=None, finished_at=now)
    )
