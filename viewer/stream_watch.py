"""Whoever loses a right loses his open streams: one relay's streams, looked at all the time.

A look is one small request on a connection that stays open, and up to three short queries when streams are
open. It comes every LOOK_SECONDS, and right after any change of the database, so that who signs out, is
locked out or loses his role is out before anybody notices; at the latest within two seconds. For the relay
each look is a sign that the control plane lives. What keyboard and mouse are whose follows from the same look
(`viewer.lease_keeper`).
"""

from __future__ import annotations

import logging
import threading
import time

from viewer import logs, metrics, reconcile
from viewer.database import DatabaseAway, DatabaseBusy
from viewer.lease_keeper import LeaseKeeper
from viewer.model import utcnow
from viewer.relay.answers import StreamInfo
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.settings import ControlSettings
from viewer.store import Store

log = logging.getLogger("deskfleet.worker")

LOOK_SECONDS = 0.6
REST_SECONDS = 0.15
"""At least so long between two looks, however much changes."""
TELL_SECONDS = 1.0
"""Pages are told of who came and went at most so often, all changes together."""
AWAY_SECONDS = 2.0
"""For a relay that does not answer."""


_USUAL_CONTROL = ControlSettings()


class StreamWatch:
    """Of one host. `look` may be called by any thread."""

    def __init__(
        self, host: str, relay: RelayClient, store: Store, control: ControlSettings = _USUAL_CONTROL
    ) -> None:
        self._leases = LeaseKeeper(host, relay, store, control)
        self._host = host
        self._relay = relay
        self._store = store
        self._looking = threading.Lock()
        self._are_any_open = False
        self._told: dict[str, frozenset[str]] = {}
        """By session: the streams that its pages know of."""
        self._told_at = 0.0

    def run(self, stop: threading.Event) -> None:
        logs.bind(host=self._host)
        while not stop.is_set():
            mark, began = self._store.mark(), time.monotonic()
            try:
                self.look()
            except RelayUnreachable:
                stop.wait(AWAY_SECONDS)  # the comparison with the table tells of it
                continue
            except (DatabaseAway, DatabaseBusy) as error:
                log.warning("streams of host %s: cannot be looked at: %s", self._host, error)
            except Exception:
                log.exception("streams of host %s: looking failed; it will be tried again", self._host)
            if self._are_any_open:
                self._store.wait_for_change(LOOK_SECONDS, since=mark)
            else:
                stop.wait(LOOK_SECONDS)
            stop.wait(max(0.0, began + REST_SECONDS - time.monotonic()))

    def look(self) -> reconcile.Uses:
        """Who watches and works with what, after closing what is not allowed. Raises RelayUnreachable."""
        with self._looking:
            try:
                seen = self._relay.stream_list()
            except RelayUnreachable:
                self._leases.look(None)
                raise
            self._are_any_open = bool(seen.streams)
            metrics.streams_open(self._host, [stream.kind for stream in seen.streams])
            allowed = self._close_what_is_no_longer_allowed(seen.streams)
            self._leases.look(seen.model_copy(update={"streams": allowed}))
            self._tell_who_watches(allowed)
            return reconcile.uses_of(allowed, seen.ports_used, now=utcnow())

    def _tell_who_watches(self, streams: list[StreamInfo]) -> None:
        """Through the outbox, and only what is news: a page then asks for the list."""
        now = time.monotonic()
        watching: dict[str, set[str]] = {}
        for stream in streams:
            if stream.kind != "port":
                watching.setdefault(stream.session_id, set()).add(stream.stream_id)
        news = {
            session_id: len(watching.get(session_id, ()))
            for session_id in watching.keys() | self._told.keys()
            if watching.get(session_id, set()) != self._told.get(session_id, frozenset())
        }
        if not news or now - self._told_at < TELL_SECONDS:
            return
        self._store.fleet.tell_of_watchers(news)
        self._told = {session_id: frozenset(its) for session_id, its in watching.items()}
        self._told_at = now

    def _close_what_is_no_longer_allowed(self, streams: list[StreamInfo]) -> list[StreamInfo]:
        """Those that go on."""
        if not streams:
            return []
        closing = self._no_longer_allowed(streams)
        try:
            for one in closing:
                self._relay.close_stream(one.stream, one.code, one.reason)
                its = one.stream
                log.info("stream %s of session %s, of %s: closed: %s",
                         its.stream_id, its.session_id, its.principal, one.reason)  # fmt: skip
        except RelayUnreachable as problem:
            log.warning("%s; streams that lost their right are closed at the next look", problem)
        closed = {one.stream.stream_id for one in closing}
        return [stream for stream in streams if stream.stream_id not in closed]

    def _no_longer_allowed(self, streams: list[StreamInfo]) -> list[reconcile.Closing]:
        tickets = {
            stream.ticket_id
            for stream in streams
            if stream.ticket_id and not stream.principal.startswith("share:")
        }
        return reconcile.no_longer_allowed(
            streams,
            tenant_of=self._store.fleet.tenants_of(self._host, {stream.session_id for stream in streams}),
            roles=self._store.accounts.roles_of({stream.principal for stream in streams}),
            revoked=self._store.tickets.revoked(tickets) if tickets else (),
        )
