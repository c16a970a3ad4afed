"""The worker: makes true on the hosts what the table asks for, and keeps the table true to the hosts.

One worker acts at a time (`viewer.acting`); a second one waits. A thread for each host compares its list with
the table every few seconds; the main thread wakes within ~15 ms of any change of the table and starts one
thread for each session that has something to be done.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from functools import partial
from types import FrameType

from sqlalchemy.exc import DBAPIError

from viewer import audit, logs, metrics, reconcile
from viewer.acting import acting_alone
from viewer.chores import Chores
from viewer.database import DatabaseAway, DatabaseBusy, lacks_tables
from viewer.deliveries.deliverer import Deliverer
from viewer.fleet_store import DeclaredDesktop, FleetStore
from viewer.grants import DesktopSocket
from viewer.host_events import HostEvents, HostReports
from viewer.host_links import links_of
from viewer.hostwatch.answers import HostReport
from viewer.lifecycle import BLANK, HostLink, Lifecycle
from viewer.model import Display, HostStatus, Session, Status, utcnow
from viewer.nodes import CERTIFICATE_WARNING
from viewer.placing import Placing
from viewer.pool import PoolKeeper
from viewer.relay.answers import ProbeOutcome, ProbeResult
from viewer.relay_client import RelayClient, RelayUnreachable, relays_of
from viewer.sandbox_hosts import HostRefused, HostUnreachable, Sandbox
from viewer.settings import (
    ControlSettings,
    DesktopSettings,
    Settings,
    SettingsError,
    load_settings,
)
from viewer.store import Store
from viewer.stream_watch import StreamWatch
from viewer.transitions import IllegalTransition

log = logging.getLogger("deskfleet.worker")

LOOK_AGAIN_SECONDS = 1.0
"""The table is looked at this often even when nothing changes: time alone ends sessions."""
POLL_SECONDS = 3.0
STILL_OK_SECONDS = 30.0
"""How often an unchanged host's `last_seen_at` is written; each write wakes all who wait for changes."""
DESKTOP_PROBE_SECONDS = 10.0
DESKTOP_START_SECONDS = 2.0
DESKTOP_PROBES_BEFORE_ERROR = 2
NO_CONTENT_DOMAIN = (
    "KasmVNC's page needs an origin of its own, and this fleet has no content domain; set content_domain"
)
STOP_SECONDS = 8.0
"""How long work in hand may take after SIGTERM; what is cut off is taken up by the next worker."""
REPORT_SECONDS = 15.0
"""How often at most a host that answers is asked how it is doing."""
PURGE_SECONDS = 3600.0
PURGE_NEXT_SECONDS = 1.0
"""While there is more to forget."""


UP = "session up "
END = "session end "
SANDBOX = "sandbox "
DESKTOP = "desktop "
WISH = "session wish "
SEEK = "session seek "
REPORT = "report of "


_USUAL_CONTROL = ControlSettings()


class RelayWatch:
    """One host through its relay alone: does it answer? And `streams`: does each open one have its right?"""

    def __init__(
        self,
        name: str,
        relay: RelayClient | None,
        store: Store,
        *,
        own_certificate_ends: datetime | None = None,
        control: ControlSettings = _USUAL_CONTROL,
    ) -> None:
        self._name = name
        self._own_certificate_ends = own_certificate_ends
        self._warned_of: datetime | None = None
        self._relay = relay
        self.streams = None if relay is None else StreamWatch(name, relay, store, control)
        self._fleet = store.fleet
        self._last_said: tuple[HostStatus, str | None, float] | None = None
        self._wake = threading.Event()

    def poke(self) -> None:
        """Look again now instead of in three seconds."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        logs.bind(host=self._name)
        metrics.watching(self._name)
        while not stop.is_set():
            try:
                self.look()
            except Exception:
                log.exception("host %s: comparing failed; it will be tried again", self._name)
            # Jitter, so that the polls of many hosts do not fall together.
            self._wake.wait(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            self._wake.clear()

    def look(self) -> None:
        try:
            self._uses()
        except RelayUnreachable as problem:
            self._say(HostStatus.UNREACHABLE, str(problem))
        else:
            self._say(HostStatus.OK, None)
            metrics.compared(self._name)

    def _uses(self) -> reconcile.Uses:
        """Who watches and works with what, after closing what is not allowed. Raises RelayUnreachable."""
        return reconcile.Uses() if self.streams is None else self.streams.look()

    def _say(self, status: HostStatus, detail: str | None) -> None:
        """Write the host's status when it is news, and from time to time that it is still so."""
        now = time.monotonic()
        is_news = self._last_said is None or self._last_said[:2] != (status, detail)
        if not is_news and self._last_said is not None and now - self._last_said[2] < STILL_OK_SECONDS:
            return
        if is_news:
            level = logging.INFO if status is HostStatus.OK and detail is None else logging.WARNING
            log.log(level, "host %s: %s%s", self._name, status, f": {detail}" if detail else "")
        self._fleet.record_host_status(self._name, status, detail, certificate_ends=self._certificate_ends())
        self._last_said = (status, detail, now)

    def _certificate_ends(self) -> datetime | None:
        """The first to end of what we and the host show each other; the log has it once, when it is near."""
        of_the_host = self._relay.certificate_ends if self._relay is not None else None
        known = [self._own_certificate_ends, of_the_host]
        end = min((one for one in known if one is not None), default=None)
        if end is not None and end != self._warned_of and end - utcnow() < CERTIFICATE_WARNING:
            self._warned_of = end
            log.warning("host %s: a certificate between it and this host ends on %s; run the deploy",
                        self._name, f"{end:%Y-%m-%d}")  # fmt: skip
        return end


class HostWatch(RelayWatch):
    """One sandbox host: list, compare, act; every few seconds, whatever happens."""

    def __init__(
        self,
        link: HostLink,
        store: Store,
        lifecycle: Lifecycle,
        chores: Chores,
        policy: reconcile.Policy,
        *,
        own_certificate_ends: datetime | None = None,
        control: ControlSettings = _USUAL_CONTROL,
    ) -> None:
        super().__init__(
            link.name, link.relay, store, own_certificate_ends=own_certificate_ends, control=control
        )
        self._sandboxes = link.sandboxes
        self._lifecycle = lifecycle
        self._chores = chores
        self._policy = policy
        self._memory = reconcile.Memory()
        self._reported: set[str] = set()
        self._reports = HostReports(link.name, link.hostwatch, self._note_report)

    def look(self) -> None:
        # First, so that access ends on time also where the sandbox server is silent.
        uses: reconcile.Uses | None = None
        silence: str | None = None
        try:
            uses = self._uses()
        except RelayUnreachable as problem:
            silence = str(problem)
        try:
            listed = self._sandboxes.everything()
        except (HostUnreachable, HostRefused) as problem:
            self._say(HostStatus.UNREACHABLE, str(problem))
            return
        # Without its relay sandboxes run, but nobody sees them: the host is there, and says what it lacks.
        self._say(HostStatus.OK, silence)
        self._chores.start(REPORT + self._name, self._reports.ask, pause=REPORT_SECONDS)
        # After the list: whatever it shows has its row by now, because rows are written first.
        rows = self._fleet.on_host(self._name)
        verdict = reconcile.compare(
            self._name,
            listed,
            rows=rows,
            by_request=self._sessions_named_by(listed, rows),
            uses=uses,
            busy=self._chores.in_hand(UP),
            memory=self._memory,
            table_began=self._fleet.began_at(),
            now=utcnow(),
            policy=self._policy,
        )
        self._memory = verdict.memory
        for action in verdict.actions:
            self._act(action)
        metrics.compared(self._name)

    def _note_report(self, name: str, report: HostReport) -> None:
        """What the host says of itself is placement's, the metrics' and the admins'."""
        metrics.host_condition(name, load=report.load_1m, disk_free_bytes=report.disk_free)
        self._fleet.record_host_report(name, report.model_copy(update=self._versions()))

    def _versions(self) -> dict[str, str | None]:
        """Of the programs beside hostwatch; None of one that does not say it."""
        server = relay = None
        with suppress(HostUnreachable, HostRefused):
            server = self._sandboxes.version()
        with suppress(RelayUnreachable):
            relay = self._relay.status().version if self._relay is not None else None
        return {"opensandbox_version": server, "relay_version": relay}

    def _sessions_named_by(self, listed: list[Sandbox], rows: list[Session]) -> dict[str, Session]:
        """The sessions of sandboxes that are no live row's own; for most lists there are none to look for."""
        settled = {row.sandbox_id for row in rows}
        named = {s.request_id for s in listed if s.id not in settled and s.fleet == self._policy.fleet_id}
        found = {name: self._fleet.by_request(name) for name in named if name is not None}
        return {name: session for name, session in found.items() if session is not None}

    def _act(self, action: reconcile.Action) -> None:
        name = self._name
        metrics.reconciled(name, type(action).__name__)
        match action:
            case reconcile.End():
                self._chores.start(END + action.row.id, lambda: self._end(action))
            case reconcile.Adopt():
                self._lifecycle.adopt(action.row, action.sandbox_id)
            case reconcile.Follow():
                self._lifecycle.follow(action.row, action.status)
            case reconcile.Terminate():
                self._chores.start(
                    END + action.row.id, lambda: self._lifecycle.terminate(action.row, action.reason)
                )
            case reconcile.NoteUse():
                self._lifecycle.note_use(action.row, action.at)
            case reconcile.Renew():
                self._lifecycle.renew(name, action.row, action.until)
            case reconcile.Keep():
                self._lifecycle.keep(name, action.sandbox_id, action.until)
            case reconcile.DeleteSandbox():
                self._chores.start(
                    SANDBOX + action.sandbox_id,
                    lambda: self._lifecycle.delete_sandbox(name, action.sandbox_id, action.why),
                )
            case reconcile.Report():
                self._report(action)

    def _end(self, action: reconcile.End) -> None:
        with _about(action.row):
            self._lifecycle.end(action)
        self.poke()

    def _report(self, action: reconcile.Report) -> None:
        if action.sandbox_id not in self._reported:
            self._reported.add(action.sandbox_id)
            log.warning("sandbox %s on %s: left alone: %s", action.sandbox_id, self._name, action.why)


class DesktopWatch:
    """The persistent desktops: a row for each, and its status from what the relay sees of it."""

    def __init__(
        self,
        desktops: tuple[DesktopSettings, ...],
        relays: Mapping[str, RelayClient],
        fleet: FleetStore,
        chores: Chores,
        *,
        has_content_domain: bool,
    ) -> None:
        self._desktops = desktops
        self._relays = relays
        self._has_content_domain = has_content_domain
        self._fleet = fleet
        self._chores = chores
        self._failures: dict[str, int] = {}

    def retire(self) -> None:
        """End the rows of desktops that the settings no longer name."""
        hosts = set(self._relays) | {row.host for row in self._fleet.live_sessions() if row.host is not None}
        for host in sorted(hosts):
            declared = [desktop.name for desktop in self._desktops if desktop.host == host]
            for session in self._fleet.retire_desktops(host, declared):
                log.info("desktop of session %s is no longer declared: ended", session.id)

    def look(self) -> None:
        """Start a probe of every desktop whose pause is over."""
        for desktop in self._desktops:
            self._chores.start(
                DESKTOP + desktop.name, partial(self._probe, desktop), pause=self._pause(desktop)
            )

    def _pause(self, desktop: DesktopSettings) -> float:
        return DESKTOP_START_SECONDS if self._failures.get(desktop.name, 1) else DESKTOP_PROBE_SECONDS

    def _probe(self, desktop: DesktopSettings) -> None:
        row = self._fleet.upsert_desktop(
            DeclaredDesktop(
                name=desktop.name,
                tenant=desktop.tenant,
                host=desktop.host,
                backend=desktop.backend,
                resolution=desktop.resolution,
            )
        )
        try:
            seen = self._relays[desktop.host].probe(row.id, DesktopSocket(name=desktop.name), None)
        except RelayUnreachable as problem:
            # That says nothing of the desktop; the row of a running one stays as it is.
            if row.status is Status.CREATING:
                self._fleet.update(row.id, status_reason=str(problem))
            return
        try:
            self._record(desktop, row, seen)
        except IllegalTransition:
            log.info("desktop %s: its session ended while it was probed", desktop.name)

    def _record(self, desktop: DesktopSettings, row: Session, seen: ProbeResult) -> None:
        row = self._note_backend(desktop, row, seen)
        if seen.result in (ProbeOutcome.FRAME, ProbeOutcome.BLANK):
            self._failures[desktop.name] = 0
            reason = self._shortcoming(seen)
            if row.status is not Status.RUNNING:
                log.info("desktop %s: running%s", desktop.name, f" ({reason})" if reason else "")
            if row.status is not Status.RUNNING or row.status_reason != reason:
                self._fleet.transition(row.id, Status.RUNNING, reason=reason)
            return
        self._failures[desktop.name] = self._failures.get(desktop.name, 0) + 1
        if row.status is Status.CREATING:
            self._fleet.update(row.id, status_reason=seen.detail or "does not answer")
        elif self._failures[desktop.name] >= DESKTOP_PROBES_BEFORE_ERROR:
            # Final for this row; the next probe starts a new one, which runs as soon as the desktop is back.
            message = f"the desktop {desktop.name} stopped answering: {seen.detail}"
            self._fleet.transition(row.id, Status.ERROR, error_message=message)
            log.warning("%s", message)

    def _note_backend(self, desktop: DesktopSettings, row: Session, seen: ProbeResult) -> Session:
        """What runs, and so how it is shown, is what the relay finds on the host; never what was wanted."""
        if seen.backend is None or seen.backend == row.backend:
            return row
        log.info("desktop %s: runs %s (wanted: %s)", desktop.name, seen.backend, desktop.backend)
        display = Display.KASMVNC if seen.backend == "kasmvnc" else Display.RFB
        return self._fleet.update(row.id, backend=seen.backend, display=display)

    def _shortcoming(self, seen: ProbeResult) -> str | None:
        """What is amiss with a desktop that runs."""
        if seen.backend == "kasmvnc" and not self._has_content_domain:
            return NO_CONTENT_DOMAIN
        return BLANK if seen.result is ProbeOutcome.BLANK else None


class Worker:
    """All of it together."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._fleet = store.fleet
        self._relays = relays_of(settings)
        self._links = {link.name: link for link in links_of(settings, self._relays)}
        self._policy = reconcile.Policy(
            fleet_id=settings.fleet_id,
            create_deadline=timedelta(seconds=settings.create_deadline_seconds),
            queue_deadline=timedelta(seconds=settings.queue_seconds),
            max_lifetime=timedelta(seconds=settings.max_lifetime_seconds),
        )
        self._control = settings.control
        credentials = settings.credentials
        self._own_certificate_ends = credentials.certificate_ends() if credentials else None
        self._chores = Chores()
        self._lifecycle = Lifecycle(self._fleet, settings, self._links)
        self._desktops = DesktopWatch(
            settings.desktops,
            self._relays,
            self._fleet,
            self._chores,
            has_content_domain=settings.content_domain is not None,
        )
        self._watches: dict[str, RelayWatch] = {
            host.name: self._watch_of(host.name, store) for host in settings.hosts
        }
        self._placing = Placing(self._fleet, settings, self._lifecycle, self._chores)
        self._pools = PoolKeeper(self._fleet, settings, self._lifecycle)
        self._attempts = store.attempts
        self._keep_events = timedelta(days=settings.keep_events_days)
        self._keep_sessions = timedelta(days=settings.keep_sessions_days)
        self._events = [
            HostEvents(name, link.hostwatch, self._watches[name].poke)
            for name, link in self._links.items()
            if link.hostwatch is not None
        ]
        self._deliverer = Deliverer(settings, store)
        self._keep_deliveries = timedelta(days=settings.keep_deliveries_days)
        self._purge_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Act until `stop` is set; then let what is in hand finish, for some seconds."""
        self._desktops.retire()
        self._fleet.forget_hosts(known=self._watches)
        looking = [watch.run for watch in self._watches.values()]
        looking += [watch.streams.run for watch in self._watches.values() if watch.streams is not None]
        threads = [threading.Thread(target=run, args=(stop,), daemon=True) for run in looking]
        delivering = threading.Thread(target=self._deliverer.run, args=(stop,), name="webhooks", daemon=True)
        for thread in (*threads, delivering):
            thread.start()
        for events in self._events:
            events.start(stop)
        while not stop.is_set():
            # Marked before the table is read, so that no change falls between reading and waiting.
            mark = self._store.mark()
            try:
                self.look()
            except (DatabaseAway, DatabaseBusy) as error:
                log.warning("the table cannot be looked at; trying again: %s", error)
                stop.wait(LOOK_AGAIN_SECONDS)
                continue
            self._store.wait_for_change(LOOK_AGAIN_SECONDS, since=mark)
        for watch in self._watches.values():
            watch.poke()
        self._chores.wait(STOP_SECONDS)
        delivering.join(STOP_SECONDS)

    def look(self) -> None:
        """Start whatever the table asks for now."""
        rows = self._fleet.live_sessions()
        for action in reconcile.due(rows, hosts=self._links.keys(), now=utcnow(), policy=self._policy):
            self._act(action)
        for row in self._placing.look(rows):
            # At once, and not only when the table is read again: somebody waits for his desktop.
            self._act(reconcile.BringUp(row=row))
        self._pools.look(rows)
        self._desktops.look()
        self._purge()

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        for relay in self._relays.values():
            relay.close()

    def _watch_of(self, name: str, store: Store) -> RelayWatch:
        link = self._links.get(name)
        if link is None:
            return RelayWatch(
                name,
                self._relays[name],
                store,
                own_certificate_ends=self._own_certificate_ends,
                control=self._control,
            )
        return HostWatch(
            link,
            store,
            self._lifecycle,
            self._chores,
            self._policy,
            own_certificate_ends=self._own_certificate_ends,
            control=self._control,
        )

    def _act(self, action: reconcile.Action) -> None:
        match action:
            case reconcile.BringUp(row=row):
                self._chores.start(UP + row.id, lambda: self._bring_up(row))
            case reconcile.Terminate(row=row, reason=reason):
                if not self._is_being_created(row):
                    self._chores.start(END + row.id, lambda: self._terminate(row, reason))
            case reconcile.Fail(row=row, message=message, reason=why):
                if not self._is_being_created(row):
                    self._chores.start(END + row.id, lambda: self._fail(row, message, why))
            case reconcile.Seek(row=row):
                self._chores.start(SEEK + row.id, lambda: self._seek(row))
            case reconcile.FollowWish(row=row):
                self._chores.start(WISH + row.id, lambda: self._lifecycle.follow_wish(row))

    def _is_being_created(self, row: Session) -> bool:
        """Its create may be under way, with no id to delete yet; it ends by itself once there is one."""
        return row.sandbox_id is None and row.id in self._chores.in_hand(UP)

    def _bring_up(self, row: Session) -> None:
        with _about(row):
            self._lifecycle.bring_up(row.id)
        self._look_at(self._fleet.get(row.id).host)

    def _seek(self, row: Session) -> None:
        with _about(row):
            self._lifecycle.seek(row.id)

    def _fail(self, row: Session, message: str, reason: str | None) -> None:
        with _about(row):
            self._lifecycle.fail(row, message, reason=reason)
        self._look_at(row.host)

    def _terminate(self, row: Session, reason: str) -> None:
        with _about(row):
            ended = self._lifecycle.terminate(row, reason)
        if ended:
            self._look_at(row.host)

    def _look_at(self, host: str | None) -> None:
        """Right after a change of our own: what it left there, or what still streams, is seen to at once."""
        watch = self._watches.get(host or "")
        if watch is not None:
            watch.poke()

    def _purge(self) -> None:
        if time.monotonic() < self._purge_at:
            return
        now = utcnow()
        is_more = self._fleet.purge(
            events_before=now - self._keep_events, sessions_ended_before=now - self._keep_sessions
        )
        is_more = self._attempts.forget() or is_more
        is_more = self._store.deliveries.purge(now - self._keep_deliveries) or is_more
        self._purge_at = time.monotonic() + (PURGE_NEXT_SECONDS if is_more else PURGE_SECONDS)


def _about(row: Session) -> AbstractContextManager[None]:
    """Lines of the log, and calls to hosts, that are for this session. Its own request id, not that of
    whoever asked for it: the viewer's log joins the two."""
    return logs.about(session_id=row.id, tenant=row.tenant_id, request_id=row.request_id)


def _wait_for_tables(store: Store, stop: threading.Event) -> None:
    """The viewer creates and upgrades the tables; at a first start it may come after us."""
    told = False
    while not stop.is_set():
        try:
            store.fleet.hosts()
        except DBAPIError as error:
            if not lacks_tables(error):  # waiting would not help
                raise
            if not told:
                log.info("the database has no tables yet; waiting for the viewer to make them")
            told = True
            stop.wait(0.5)
        else:
            return


def main() -> int:
    """`deskfleet-worker`: act until SIGTERM. Exit code 2 with one sentence for unusable settings."""
    logs.set_up("deskfleet-worker")
    audit.acts_as("worker")
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"deskfleet-worker: {error}", file=sys.stderr)
        return 2
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    store = Store(settings.database)
    try:
        _act_until(stop, settings, store)
    except (OSError, DBAPIError, DatabaseBusy, DatabaseAway) as error:
        why = str(error).splitlines()[0]
        print(f"deskfleet-worker: database: {settings.database} cannot be used: {why}", file=sys.stderr)
        return 2
    finally:
        store.close()
    return 0


def _act_until(stop: threading.Event, settings: Settings, store: Store) -> None:
    with acting_alone(settings.database, stop) as acting:
        if not acting:
            return
        metrics.set_up("worker", settings.state)
        _wait_for_tables(store, stop)
        log.info(
            "acting for fleet %s on %s", settings.fleet_id, ", ".join(host.name for host in settings.hosts)
        )
        worker = Worker(settings, store)
        worker.run(stop)
        worker.close()
        metrics.close()
        log.info("stopped")


if __name__ == "__main__":
    raise SystemExit(main())
