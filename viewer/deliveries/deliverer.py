"""Sends what is due: one thread of the worker with an event loop, so that a slow endpoint costs a socket and
not a thread, and the work on sessions goes on beside it.

At most MOST_AT_ONCE attempts are under way, of one tenant and one endpoint fewer, so that none can keep the
others waiting. Within an endpoint the oldest delivery goes first, but several are under way at once and those
that failed come again later: order is not promised, and a session's `updated_at` says which word is newer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from viewer import metrics
from viewer.credentials import SealBroken, open_secret
from viewer.deliveries.addresses import AddressPolicy
from viewer.deliveries.model import Attempt, DeliveryStatus, Outcome, headers_of
from viewer.deliveries.sending import Lookup, Sender
from viewer.deliveries.store import Job, Recorded
from viewer.model import Frozen, utcnow
from viewer.public import PublicSession, public_session
from viewer.public_leases import PublicLease, public_lease
from viewer.rows import Event
from viewer.settings import Settings
from viewer.store import Store

MOST_AT_ONCE = 128
PER_TENANT = 16
PER_ENDPOINT = 4
LOOK_AGAIN_SECONDS = 1.0
"""Time alone makes a delivery due."""
AFTER_A_FAILURE_SECONDS = 1.0
LAST_WORDS_SECONDS = 3.0
"""How long attempts under way may take after the stop; what is cut off is sent again by the next worker."""

_log = logging.getLogger("deskfleet.worker")


class SessionEvent(Frozen):
    """What is sent: Standard Webhooks' recommended form. data: the session as it was right after the change,
    as the API shows it."""

    type: str
    timestamp: datetime
    data: PublicSession


class LeaseEvent(SessionEvent):
    """The same for `session.lease`. lease: who has keyboard and mouse since."""

    lease: PublicLease


class Holder(Frozen):
    """Whose a place among the attempts under way is."""

    tenant: str
    endpoint: str


class Deliverer:
    """lookup, trust, now: the network's and the clock's, unless a test brings its own."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        lookup: Lookup | None = None,
        trust: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._settings = settings
        self._store = store
        self._deliveries = store.deliveries
        self._policy = AddressPolicy.of(settings)
        self._lookup = lookup
        self._trust = trust
        self._now = now
        self._in_hand: dict[str, Holder] = {}
        """By delivery. It is the event loop's alone."""
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set."""
        with asyncio.Runner() as runner:
            runner.run(self._serve(stop))

    async def _serve(self, stop: threading.Event) -> None:
        sender = Sender(self._policy, lookup=self._lookup, trust=self._trust)
        while not stop.is_set():
            try:
                # Marked before the table is read, so that no change falls between reading and waiting.
                mark = await asyncio.to_thread(self._store.mark)
                # A copy, made before the table is read: what ends meanwhile is still pending in that reading.
                for job in await asyncio.to_thread(self.look, dict(self._in_hand)):
                    self._begin(job, sender, stop)
                await asyncio.to_thread(self._store.wait_for_change, LOOK_AGAIN_SECONDS, mark)
            except Exception:
                _log.exception("webhooks could not be looked at; trying again")
                await asyncio.sleep(AFTER_A_FAILURE_SECONDS)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WORDS_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await sender.close()

    # --- what there is to do -----------------------------------------------------------------------

    def look(self, in_hand: Mapping[str, Holder]) -> list[Job]:
        """Write the deliveries of new events; what is due and has a place among those under way."""
        self.write_new()
        due = self._deliveries.due(self._now(), per_endpoint=PER_ENDPOINT, in_hand=in_hand.keys())
        return _with_a_place(due, list(in_hand.values()))

    def write_new(self) -> None:
        behind = self._deliveries.behind()
        if not behind:
            return
        hosts = {host.name: host.status for host in self._store.fleet.hosts()}

        def compose(event: Event) -> str:
            kind = event.webhook_type
            if kind is None:
                raise ValueError(f"{event.type} goes to no webhook")
            session = public_session(
                event.session,
                origin=self._settings.canonical_origin,
                hosts=hosts,
                devtools=self._settings.images_with_devtools,
            )
            if event.lease is not None:
                lease = public_lease(event.lease)
                return LeaseEvent(type=kind, timestamp=event.at, data=session, lease=lease).model_dump_json()
            return SessionEvent(type=kind, timestamp=event.at, data=session).model_dump_json()

        for one in behind:
            try:
                self._deliveries.write(one, compose)
            except Exception:
                _log.exception("webhook endpoint %s: events could not be written", one.endpoint.id)

    # --- one attempt ---------------------------------------------------------------------------------

    def _begin(self, job: Job, sender: Sender, stop: threading.Event) -> None:
        self._in_hand[job.delivery.id] = Holder(tenant=job.endpoint.tenant_id, endpoint=job.endpoint.id)
        task = asyncio.get_running_loop().create_task(self._attempt(job, sender, stop))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, job: Job, sender: Sender, stop: threading.Event) -> None:
        """Send it, and write down how that went. It stays in hand until that is written: who cannot write
        must not send again and again."""
        try:
            at, began = self._now(), time.monotonic()
            outcome = await self._send(job, at, sender)
            attempt = Attempt(
                at=self._now(),
                took_ms=round((time.monotonic() - began) * 1000),
                status_code=outcome.status_code,
                error=outcome.error,
            )
            while not await asyncio.to_thread(self._is_recorded, job, attempt, outcome):
                if stop.is_set():
                    return
                await asyncio.sleep(AFTER_A_FAILURE_SECONDS)
        finally:
            self._in_hand.pop(job.delivery.id, None)

    async def _send(self, job: Job, at: datetime, sender: Sender) -> Outcome:
        endpoint, delivery = job.endpoint, job.delivery
        try:
            keys = [open_secret(sealed, self._settings.secret_key) for sealed in endpoint.sealed_secrets(at)]
            headers = headers_of(delivery.message_id, delivery.body, at, keys)
            return await sender.send(endpoint.url, delivery.body, headers)
        except SealBroken:
            return Outcome(error="its secret cannot be opened here; rotate it")
        except Exception:
            _log.exception("delivery %s of endpoint %s failed here", delivery.id, endpoint.id)
            return Outcome(error="it failed on our side")

    def _is_recorded(self, job: Job, attempt: Attempt, outcome: Outcome) -> bool:
        """Write down what the attempt met with; False when the database would not have it."""
        spread = random.random()  # noqa: S311
        try:
            recorded = self._deliveries.record(job.delivery.id, attempt, outcome, spread=spread)
        except Exception:
            _log.exception("delivery %s: its outcome could not be written", job.delivery.id)
            return False
        metrics.webhook_attempted(_kind_of(outcome))
        if recorded is not None:
            self._tell(job, outcome, recorded)
        return True

    def _tell(self, job: Job, outcome: Outcome, recorded: Recorded) -> None:
        endpoint = job.endpoint
        about = {"tenant": endpoint.tenant_id}
        if recorded.status is DeliveryStatus.FAILED:
            _log.warning("webhook endpoint %s: delivery %s is given up: %s",
                         endpoint.id, job.delivery.id, outcome.error, extra=about)  # fmt: skip
        if recorded.disabled is not None:
            _log.warning("webhook endpoint %s is disabled: %s", endpoint.id, recorded.disabled, extra=about)


def _kind_of(outcome: Outcome) -> metrics.WebhookOutcome:
    if outcome.is_success:
        return "delivered"
    return "refused" if outcome.status_code is not None else "no_answer"


def _with_a_place(due: Sequence[Job], holders: Sequence[Holder]) -> list[Job]:
    """Those of the tenants with the fewest under way first; of one endpoint the oldest."""
    tenants = Counter(one.tenant for one in holders)
    endpoints = Counter(one.endpoint for one in holders)
    chosen = list[Job]()
    for job in sorted(due, key=lambda job: tenants[job.endpoint.tenant_id]):
        tenant, endpoint = job.endpoint.tenant_id, job.endpoint.id
        is_full = len(holders) + len(chosen) >= MOST_AT_ONCE
        if is_full or tenants[tenant] >= PER_TENANT or endpoints[endpoint] >= PER_ENDPOINT:
            continue
        tenants[tenant] += 1
        endpoints[endpoint] += 1
        chosen.append(job)
    return chosen
