"""Webhooks out: endpoints, deliveries, attempts; when the next attempt is, and how one is signed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, get_args

from pydantic import Field
from standardwebhooks import Webhook

from viewer.model import EventType, Frozen

TEST_TYPE: Literal["webhook.test"] = "webhook.test"
WebhookType = EventType | Literal["webhook.test"]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
ONLY_WHEN_NAMED: frozenset[EventType] = frozenset({"session.lease"})
"""Too many for somebody who did not ask for them: an agent at work takes and loses the lease all the time."""

MOST_ENDPOINTS = 10
"""That one tenant may have."""
RETRY_DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""After the first attempt, after the second, and so on: those of the Standard Webhooks specification."""
SPREAD = 0.2
"""A delay is up to a fifth longer, so that what failed together is not tried again together."""
LONGEST_RETRY_AFTER = timedelta(hours=24)
DISABLED_AFTER = timedelta(days=5)
"""An endpoint that has failed for so long without a single success is disabled."""
FORMER_SECRET_LIFE = timedelta(hours=24)


class DeliveryStatus(StrEnum):
    """`pending`: under way. The others are ends; only somebody's wish for another attempt leads back."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Its endpoint was disabled before it arrived."""


class Endpoint(Frozen):
    """Where a tenant wants its events sent. `types` empty: all of them but ONLY_WHEN_NAMED."""

    id: str
    tenant_id: str
    url: str
    label: str
    types: tuple[EventType, ...]
    secret_sealed: str = Field(repr=False)
    former_secret_sealed: str | None = Field(repr=False)
    former_secret_ends_at: datetime | None
    last_event_id: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None

    def wants(self, event_type: EventType) -> bool:
        return event_type in self.types or (not self.types and event_type not in ONLY_WHEN_NAMED)

    def sealed_secrets(self, now: datetime) -> tuple[str, ...]:
        """What a delivery is signed with, the newest first."""
        former, ends = self.former_secret_sealed, self.former_secret_ends_at
        if former is None or ends is None or ends <= now:
            return (self.secret_sealed,)
        return (self.secret_sealed, former)


class Attempt(Frozen):
    """What one attempt met with. status_code None: no answer came, and `error` says why."""

    at: datetime
    took_ms: int
    status_code: int | None
    error: str | None


class Delivery(Frozen):
    """One event on its way to one endpoint. event_id None: somebody asked for a trial."""

    id: str
    endpoint_id: str
    tenant_id: str
    message_id: str
    type: WebhookType
    event_id: int | None
    body: str = Field(repr=False)
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


class Outcome(Frozen):
    """How an attempt ended. `error`: our own words, never the endpoint's. retry_after: what it asked for."""

    status_code: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None

    @property
    def is_success(self) -> bool:
        return self.error is None and self.status_code is not None and 200 <= self.status_code < 300

    @property
    def is_gone(self) -> bool:
        """The endpoint wants nothing more."""
        return self.status_code == 410


def headers_of(message_id: str, body: str, at: datetime, keys: Sequence[str]) -> dict[str, str]:
    """Id, time and signatures of one attempt: one signature for each key, so that a receiver which knows any
    of them is content."""
    signatures = [Webhook(key).sign(message_id, at, body) for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def next_attempt_at(
    attempts: int, *, now: datetime, spread: float, retry_after: timedelta | None = None
) -> datetime | None:
    """When to try again after so many attempts; None: never, that was the last one.

    spread: 0 to 1, by chance. An endpoint may ask for more time than the schedule has, up to a day.
    """
    if attempts > len(RETRY_DELAYS):
        return None
    delay = RETRY_DELAYS[max(attempts, 1) - 1] * (1 + SPREAD * spread)
    asked = min(retry_after or timedelta(), LONGEST_RETRY_AFTER)
    return now + max(delay, asked)
