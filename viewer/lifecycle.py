"""What the worker does to one session: bring it up, end it. Every step starts from the row.

The row is written before each side effect. So whoever is killed between two steps, the next worker finds in
the row what was about to happen, asks the host whether it did, and goes on from there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr

from viewer import metrics, reconcile
from viewer.credentials import SealBroken, new_vnc_password, open_order, open_secret, seal_secret
from viewer.fleet_store import STARTING, FleetStore
from viewer.grants import PublishedPort
from viewer.host_events import last_lines
from viewer.hostwatch_client import HostwatchClient
from viewer.model import Display, HostStatus, Session, Status, Via, utcnow
from viewer.order import DEFAULT_ENTRYPOINT, ImageAuth, Order
from viewer.placement import UNREACHABLE, Capacity, lacks
from viewer.relay.answers import ProbeOutcome, ProbeResult
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.resources import Resources
from viewer.rows import QUEUED, TERMINATING, SandboxTaken
from viewer.sandbox_hosts import (
    SHORTEST_TIMEOUT_SECONDS,
    AnswerLost,
    HostRefused,
    HostUnreachable,
    Sandbox,
    SandboxHost,
    SandboxOrder,
    SandboxState,
    Stamp,
)
from viewer.settings import ImageSettings, Settings
from viewer.transitions import IllegalTransition

log = logging.getLogger("deskfleet.worker")

FIRST_FRAME = "waiting for the first frame"
BLANK = "blank"

SETTLE_SECONDS = 5.0
"""A create whose answer was lost shows up in the host's list within this time, or it was not carried out."""
LOOK_UP_EVERY_SECONDS = 0.3
CREATE_TRIES = 3
"""How often one host is asked that refuses for a reason of the moment."""
UNREACHABLE_PATIENCE_SECONDS = 10.0
"""An OpenSandbox server that restarts is back in 2-4 s; a create waits this long before it gives up."""
PROBE_PAUSE_SECONDS = 0.5
STUCK_PENDING_SECONDS = 5.0
FRAME_OF_ADOPTED_SECONDS = 30.0
"""A sandbox that others made, and that shows us no frame for so long, runs without a display."""


class GiveUp(Exception):
    """The session cannot come up; the text is one sentence for a person.

    `reason` is a word for programs: `full` and `unreachable` mean that it may work later.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class HostGivenUp(GiveUp):
    """The session cannot come up on this host; before it has a sandbox it may on another."""

    def __init__(
        self, message: str, problem: HostUnreachable | HostRefused, *, reason: str | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.problem = problem


class EndWanted(Exception):
    """Somebody ended the session meanwhile; whoever ends it takes it from here."""


@dataclass(frozen=True)
class HostLink:
    """What reaches one sandbox host: its OpenSandbox server, its relay and, where it has one, hostwatch. The
    relay's client is whoever's made it (`relay_client.relays_of`): hosts without sandboxes have one, too."""

    name: str
    sandboxes: SandboxHost
    relay: RelayClient | None
    """None on an external host: nothing there can be watched."""
    capacity: Capacity
    hostwatch: HostwatchClient | None = None

    def close(self) -> None:
        self.sandboxes.close()
        if self.hostwatch is not None:
            self.hostwatch.close()


class Lifecycle:
    """Steps on single sessions. Safe to share between threads, one thread a session."""

    def __init__(self, fleet: FleetStore, settings: Settings, links: Mapping[str, HostLink]) -> None:
        self._fleet = fleet
        self._settings = settings
        self._links = links
        self._born = time.monotonic()
        self._placed: dict[str, str] = {}
        """Session id -> the host that this worker has just chosen for it."""
        self._answers_lost: dict[str, float] = {}
        """Session id -> when a create of it was last left without an answer, on the monotonic clock."""

    # --- coming up ---------------------------------------------------------------------------------

    def bring_up(self, session_id: str) -> None:
        """Take a `creating` row that has a host from wherever it stands to `running`, to `error` with one
        sentence, or back into the line for another host.

        The row is read here: one that was read before this thread had the session in hand may be old news.
        """
        row = self._fleet.get(session_id)
        try:
            while row.status is Status.CREATING and row.host is not None:
                row = self._next_step(row)
        except GiveUp as problem:
            self.fail(self._fleet.get(session_id), str(problem), reason=problem.reason)
        except (IllegalTransition, EndWanted):
            # Here and now, because nobody else may know yet of a container that has just been made.
            row = self._fleet.get(session_id)
            self.terminate(row, reconcile.reason_of_end(row))
        else:
            if row.host is not None:
                self._answers_lost.pop(session_id, None)

    def _next_step(self, row: Session) -> Session:
        _stop_if_ended(row)
        if row.sandbox_id is None:
            return self._create(row, image=self._image(row))
        if row.via is Via.WEBHOOK and row.display is not Display.NONE:
            return self._show_adopted(row, row.sandbox_id)
        if row.display is Display.NONE:
            return self._wait_until_started(row, row.sandbox_id)
        if row.vnc_port is None:
            return self._find_port(row, row.sandbox_id)
        return self._wait_for_a_frame(row, row.sandbox_id, PublishedPort(port=row.vnc_port))

    # --- sandboxes that others made ----------------------------------------------------------------

    def seek(self, session_id: str) -> None:
        """Find the sandbox that an event named on a host that gives its sandboxes to the session's tenant,
        and make it the session's. One that bears our mark is not given away: somebody of this fleet made it.
        """
        row, is_absent = self._fleet.get(session_id), True
        for host in self._settings.hosts_giving_to(row.tenant_id) if row.is_sought else ():
            try:
                found = self._named_by(row, host)
            except (HostUnreachable, HostRefused) as problem:
                log.warning("session %s: %s; it will be asked again", row.id, problem)
                is_absent = False
                continue
            if found is not None and self._adopt_from(host, row, found):
                return
        if row.is_sought and row.terminate_requested_at is not None and is_absent:
            self.terminate(row, reconcile.reason_of_end(row))

    def _named_by(self, row: Session, host: str) -> Sandbox | None:
        link = self._links.get(host)
        found = None if link is None or row.sandbox_id is None else link.sandboxes.get(row.sandbox_id)
        return found if found is not None and found.id == row.sandbox_id else None

    def _adopt_from(self, host: str, row: Session, found: Sandbox) -> bool:
        """False where it is not given away."""
        if found.fleet is not None or found.request_id is not None:
            return self._hand_over(row, found)
        try:
            self._fleet.claim(row.id, host, ends_at=found.expires_at)
        except (IllegalTransition, SandboxTaken) as problem:
            log.warning("session %s: sandbox %s on %s is not adopted: %s",
                        row.id, found.id, host, problem or "it is another's")  # fmt: skip
            return False
        log.info("session %s: adopted sandbox %s on %s", row.id, found.id, host)
        return True

    def _hand_over(self, row: Session, found: Sandbox) -> bool:
        if found.fleet != self._settings.fleet_id or found.request_id is None:
            return False
        owner = self._fleet.hand_over(row.id, found.request_id)
        if owner is not None:
            log.info("session %s: its sandbox is that of session %s", row.id, owner.id)
        return owner is not None

    def _show_adopted(self, row: Session, sandbox_id: str) -> Session:
        """One that we did not make may show its screen in a way that we do not know, or none. It runs all the
        same, without a display: what is another's work must not end because we cannot see it."""
        try:
            if row.vnc_port is None:
                return self._find_port(row, sandbox_id)
            return self._wait_for_a_frame(
                row, sandbox_id, PublishedPort(port=row.vnc_port), until=self._patience_for_adopted()
            )
        except HostGivenUp:
            return self._fleet.get(row.id)  # its host is silent; until the session is over time, ask again
        except GiveUp as problem:
            log.warning("session %s: its desktop is not shown: %s", row.id, problem)
            return self._fleet.update(row.id, display=Display.NONE, resolution=None, status_reason=STARTING)

    def _patience_for_adopted(self) -> float:
        """On the monotonic clock: well before the session itself is given up."""
        return time.monotonic() + min(FRAME_OF_ADOPTED_SECONDS, self._settings.create_deadline_seconds / 2)

    def _image(self, row: Session) -> ImageSettings:
        image = self._settings.image_for(row.image)
        if image.display is not row.display:
            raise GiveUp(f"the image {row.image} is no longer in the catalogue")
        if image.display is Display.KASMVNC:
            raise GiveUp(f"the image {row.image} serves KasmVNC; a sandbox must serve RFB")
        if image.display is Display.RFB and (image.via != "published" or image.transport != "rfb"):
            raise GiveUp(
                f"the image {row.image} serves VNC by {image.via}/{image.transport}; only published RFB works"
            )
        return image

    def _create(self, row: Session, *, image: ImageSettings) -> Session:
        """Return the row with its sandbox, or without a host when another one is to be tried."""
        link = self._link(row)
        try:
            sandbox = self._found_or_made(row, link, image)
        except HostGivenUp as given_up:
            if not self._may_go_elsewhere(row, link.name):
                raise
            return self._leave_host(row, given_up.problem)
        try:
            return self._fleet.update(row.id, sandbox_id=sandbox.id, status_reason=STARTING, made_at=utcnow())
        except IllegalTransition:
            self._delete(link, sandbox.id)  # ended meanwhile: nobody else knows of this container yet
            raise
        except SandboxTaken as problem:
            raise GiveUp(f"sandbox {sandbox.id} on {link.name} belongs to another session") from problem

    def _found_or_made(self, row: Session, link: HostLink, image: ImageSettings) -> Sandbox:
        """Return the sandbox that is there already for this request, else a new one; raises HostGivenUp."""
        looked_up, tries_left = self._is_fresh(row), CREATE_TRIES - 1
        sandbox = None if looked_up else self._look_up(row, link)
        patience = time.monotonic() + UNREACHABLE_PATIENCE_SECONDS
        while sandbox is None:
            try:
                self._stop_or_give_up(row)
                sandbox = self._made(row, link, image)
            except AnswerLost as problem:
                log.warning("session %s: %s; looking for the sandbox", row.id, problem)
                self._answers_lost[row.id] = time.monotonic()
                sandbox, looked_up = self._look_up(row, link), False
            except HostRefused as refusal:
                if refusal.is_of_the_request:
                    raise GiveUp(str(refusal)) from refusal
                if not (tries_left and refusal.is_of_the_moment):
                    raise HostGivenUp(_all_reasons(row, refusal), refusal) from refusal
                log.warning("session %s: %s; asking again", row.id, refusal)
                tries_left -= 1
            except HostUnreachable as problem:
                if looked_up and self._may_go_elsewhere(row, link.name):
                    raise HostGivenUp(str(problem), problem, reason=UNREACHABLE) from problem
                self._be_patient(row, problem, patience)
        return sandbox

    def _is_fresh(self, row: Session) -> bool:
        """Was it placed by this very worker, so that nobody can have asked that host for it before?"""
        placed_by_us = self._placed.pop(row.id, None)
        return placed_by_us is not None and placed_by_us == row.host

    def note_placed(self, session_id: str, host: str) -> None:
        """This worker has just chosen that host for it."""
        self._placed[session_id] = host

    def _made(self, row: Session, link: HostLink, image: ImageSettings) -> Sandbox:
        row = self._with_password(row)
        started = time.monotonic()
        sandbox = link.sandboxes.create(self._order(row, image))
        log.info("session %s: created sandbox %s on %s in %.2f s",
                 row.id, sandbox.id, link.name, time.monotonic() - started)  # fmt: skip
        return sandbox

    def _may_go_elsewhere(self, row: Session, failed: str) -> bool:
        """Is there another host that answers, and on which this session has not failed yet?"""
        unreachable = {host.name for host in self._fleet.hosts() if host.status is HostStatus.UNREACHABLE}
        others = {name for name, link in self._links.items() if lacks(row, name, link.capacity) is None}
        return bool(others - unreachable - row.failed_hosts.keys() - {failed})

    def _leave_host(self, row: Session, problem: HostUnreachable | HostRefused) -> Session:
        """That host made no sandbox, as far as anybody can tell, so the session waits for another one.

        Should one show up there after all (an answer was lost, and then the host), the reconciler deletes it
        once the session has its own.
        """
        log.warning("session %s: %s; trying another host", row.id, problem)
        return self._fleet.update(
            row.id,
            host=None,
            failed_hosts={**row.failed_hosts, problem.host: str(problem)},
            status_reason=QUEUED,
        )

    def _look_up(self, row: Session, link: HostLink) -> Sandbox | None:
        """Return the sandbox that an earlier create of this request made; None once none can appear."""
        settled = time.monotonic() + SETTLE_SECONDS
        patience = time.monotonic() + UNREACHABLE_PATIENCE_SECONDS
        while True:
            self._stop_or_give_up(row)
            # What appears after the host has written its list is not in it, however late that arrives.
            asked = time.monotonic()
            try:
                found = link.sandboxes.find_by_request(row.request_id)
            except HostUnreachable as problem:
                self._be_patient(row, problem, patience)
                settled = time.monotonic() + SETTLE_SECONDS
                continue
            except HostRefused as refusal:
                raise GiveUp(str(refusal)) from refusal
            usable = [sandbox for sandbox in found if not self._clear_away_if_stuck(sandbox, link)]
            started = [sandbox for sandbox in usable if sandbox.state is not SandboxState.PENDING]
            if started:
                log.info("session %s: found its sandbox %s on %s", row.id, started[0].id, link.name)
                return started[0]
            if not usable and asked > settled:
                return None
            time.sleep(LOOK_UP_EVERY_SECONDS)

    def _clear_away_if_stuck(self, sandbox: Sandbox, link: HostLink) -> bool:
        """A server that was killed inside a create leaves a container that was made and never started."""
        age = (utcnow() - sandbox.created_at).total_seconds()
        if sandbox.state is not SandboxState.PENDING or age < STUCK_PENDING_SECONDS:
            return False
        log.warning("sandbox %s on %s was never started; deleting it", sandbox.id, link.name)
        self._delete(link, sandbox.id)
        return True

    def _order(self, row: Session, image: ImageSettings) -> SandboxOrder:
        asked = self._asked(row)
        reserved = Resources.of(image.cpu, image.memory)
        if row.cpu_millis and row.memory_mib:
            reserved = Resources(cpu_millis=row.cpu_millis, memory_mib=row.memory_mib)
        return SandboxOrder(
            image_uri=image.uri,
            image_auth=asked.image_auth or _auth_of(image),
            entrypoint=_entrypoint(image, asked),
            cpu=reserved.cpu,
            memory=reserved.memory,
            timeout_seconds=_host_timeout(row, utcnow()),
            resolution=row.resolution,
            vnc_password=None if row.display is Display.NONE else self._vnc_password(row),
            env={**asked.env, **asked.options.as_environment()},
            stamp=Stamp(
                fleet=self._settings.fleet_id,
                request_id=row.request_id,
                tenant_id=row.tenant_id,
                session_id=row.id,
            ),
        )

    def _asked(self, row: Session) -> Order:
        try:
            return open_order(row.order_sealed, self._settings.secret_key)
        except SealBroken as problem:
            raise GiveUp("what it starts with was sealed under another key; create a new one") from problem

    def _with_password(self, row: Session) -> Session:
        """A desktop has its password in the table before it exists; one of the pool gets it only here."""
        if row.display is Display.NONE or row.vnc_password_sealed is not None:
            return row
        sealed = seal_secret(new_vnc_password(), self._settings.secret_key)
        return self._fleet.update(row.id, vnc_password_sealed=sealed)

    def _vnc_password(self, row: Session) -> SecretStr | None:
        if row.vnc_password_sealed is None:
            return None
        try:
            return SecretStr(open_secret(row.vnc_password_sealed, self._settings.secret_key))
        except SealBroken as problem:
            raise GiveUp("its VNC password was sealed under another key; create a new desktop") from problem

    def _find_port(self, row: Session, sandbox_id: str) -> Session:
        link, image = self._link(row), self._image(row)
        patience = time.monotonic() + UNREACHABLE_PATIENCE_SECONDS
        while True:
            try:
                port = link.sandboxes.published_port(sandbox_id, image.port)
            except HostRefused as refusal:
                raise GiveUp(self._end_of(link, sandbox_id) or str(refusal)) from refusal
            except HostUnreachable as problem:
                self._be_patient(row, problem, patience)
            else:
                return self._fleet.update(row.id, vnc_port=port, status_reason=FIRST_FRAME)

    def _wait_for_a_frame(
        self, row: Session, sandbox_id: str, target: PublishedPort, *, until: float | None = None
    ) -> Session:
        """Return the row as `running` once the relay has seen a frame; a blank screen counts, and says so.

        until: give up then, on the monotonic clock, although the session has time left.
        """
        link, password = self._link(row), self._vnc_password(row)
        while True:
            seen = self._probe(row, link, target, password)
            if seen is not None and seen.result in (ProbeOutcome.FRAME, ProbeOutcome.BLANK):
                reason = BLANK if seen.result is ProbeOutcome.BLANK else None
                log.info("session %s: running%s", row.id, f" ({reason})" if reason else "")
                return self._running(row, reason)
            ended = self._end_of(link, sandbox_id)
            if ended is not None:
                raise GiveUp(ended)
            if seen is not None and seen.result is ProbeOutcome.REFUSED:
                raise GiveUp(f"the desktop turned the relay away: {seen.detail}")
            if until is not None and time.monotonic() > until:
                raise GiveUp("no frame was seen")
            self._stop_or_give_up(row)
            time.sleep(PROBE_PAUSE_SECONDS)

    def _probe(
        self, row: Session, link: HostLink, target: PublishedPort, password: SecretStr | None
    ) -> ProbeResult | None:
        """Return what the relay saw, or None with the reason in the row when the relay itself is silent."""
        if link.relay is None:
            raise GiveUp(f"sandbox host {link.name} has no relay, so its desktops cannot be watched")
        try:
            return link.relay.probe(row.id, target, password, tenant_id=row.tenant_id)
        except RelayUnreachable as problem:
            self._fleet.update(row.id, status_reason=str(problem))
            return None

    def _wait_until_started(self, row: Session, sandbox_id: str) -> Session:
        """An image without a display is ready when its container runs."""
        link = self._link(row)
        while True:
            self._stop_or_give_up(row)
            ended = self._end_of(link, sandbox_id)
            if ended is not None:
                raise GiveUp(ended)
            try:
                sandbox = link.sandboxes.get(sandbox_id)
            except (HostUnreachable, HostRefused) as problem:
                self._fleet.update(row.id, status_reason=str(problem))
            else:
                if sandbox is not None and sandbox.state in (SandboxState.RUNNING, SandboxState.PAUSED):
                    log.info("session %s: running, without a display", row.id)
                    return self._running(row, None)
            time.sleep(PROBE_PAUSE_SECONDS)

    def _running(self, row: Session, reason: str | None) -> Session:
        running = self._fleet.transition(row.id, Status.RUNNING, reason=reason)
        image = running.image if self._settings.image(running.image) else "other"
        for phase, seconds in _phases(running):
            metrics.create_took(phase, seconds, image=image)
        return running

    def _end_of(self, link: HostLink, sandbox_id: str) -> str | None:
        """Return how the sandbox ended, with its last words; None if it lives or nobody knows."""
        try:
            sandbox = link.sandboxes.get(sandbox_id)
        except (HostUnreachable, HostRefused):
            return None
        if sandbox is None:
            return "the container went away before it showed a screen"
        if sandbox.state in (SandboxState.FAILED, SandboxState.TERMINATED):
            return self.last_words(link.name, sandbox_id, sandbox.status.message or "the container ended")
        return None

    def last_words(self, host: str, sandbox_id: str, what_happened: str) -> str:
        """`what_happened` with the end of the container's log, if there is one to be had."""
        link = self._links[host]
        said = last_lines(link.hostwatch, link.sandboxes, sandbox_id)
        sentence = what_happened.rstrip(".")
        return f"{sentence}; it said last: {' | '.join(said)}"[:600] if said else sentence

    # --- ending ------------------------------------------------------------------------------------

    def terminate(self, row: Session, reason: str) -> bool:
        """Stop the container, then say so. False while its host is silent; the wish is stored."""
        row = self._fleet.get(row.id)
        if row.status.is_terminal:
            return True
        try:
            self._remove_containers(row)
        except (HostUnreachable, HostRefused) as problem:
            log.warning("session %s: cannot be stopped yet: %s", row.id, problem)
            self._fleet.request_termination(row.id)
            self._note(row, TERMINATING)
            return False
        self._finish(row, Status.TERMINATED, reason=reason)
        return True

    def fail(self, row: Session, message: str, *, reason: str | None = None) -> None:
        """Give the session up: `error` with this sentence. What its host keeps is deleted now or later."""
        try:
            self._remove_containers(row)
        except (HostUnreachable, HostRefused) as problem:
            # The reconciler deletes the sandbox of a terminal row as soon as the host shows it again.
            log.warning("session %s: its container may still run: %s", row.id, problem)
        if row.status is Status.CREATING:
            metrics.create_failed(reason)
        self._finish(row, Status.ERROR, reason=reason, message=message)

    def end(self, action: reconcile.End) -> None:
        """The container came to its end by itself: remove what is left of it and say how it ended."""
        row, message = action.row, action.message
        if action.sandbox_id is not None and row.host is not None:
            if action.status is Status.ERROR:
                message = self.last_words(row.host, action.sandbox_id, message or "the container failed")
            self._delete(self._links[row.host], action.sandbox_id)
        self._finish(row, action.status, reason=action.reason, message=message)

    def _finish(
        self, row: Session, status: Status, *, reason: str | None = None, message: str | None = None
    ) -> None:
        # Else what is remembered of it would stay as long as the worker lives.
        self._placed.pop(row.id, None)
        self._answers_lost.pop(row.id, None)
        now = self._fleet.get(row.id)
        if status is Status.ERROR and now.terminate_requested_at is not None:
            # However it came about, it is what was asked for, maybe after `row` was read.
            status, reason = Status.TERMINATED, reconcile.reason_of_end(now)
        try:
            self._fleet.transition(row.id, status, reason=reason, error_message=message)
        except IllegalTransition:
            return  # it has ended already, and the first ending stays
        log.info("session %s: %s: %s", row.id, status, message or reason)

    def _remove_containers(self, row: Session) -> None:
        """Delete the session's sandbox; one whose id we never learned is looked for by its request."""
        link = self._links.get(row.host or "")
        if link is None:
            return  # never placed, or on a host that is no longer ours to ask
        if row.sandbox_id is not None:
            link.sandboxes.delete(row.sandbox_id)
            return
        # A create that an earlier worker sent, or whose answer was lost, may show up only now.
        settled = max(self._born, self._answers_lost.get(row.id, 0.0)) + SETTLE_SECONDS
        while True:
            asked = time.monotonic()
            found = link.sandboxes.find_by_request(row.request_id)
            for sandbox in found:
                link.sandboxes.delete(sandbox.id)
            if found or asked > settled:
                return
            time.sleep(LOOK_UP_EVERY_SECONDS)

    # --- other actions of the reconciler -----------------------------------------------------------

    def adopt(self, row: Session, sandbox_id: str) -> None:
        try:
            self._fleet.update(row.id, sandbox_id=sandbox_id)
        except (IllegalTransition, SandboxTaken) as problem:
            log.warning("session %s: sandbox %s is not adopted: %s", row.id, sandbox_id, problem)
        else:
            log.info("session %s: adopted its sandbox %s", row.id, sandbox_id)

    def follow(self, row: Session, status: Status) -> None:
        try:
            self._fleet.transition(row.id, status, reason=None)
        except IllegalTransition:
            return
        log.info("session %s: %s on its host", row.id, status)

    def renew(self, host: str, row: Session, until: datetime) -> None:
        """The host first: should we die in between, it keeps the sandbox longer than our table says."""
        if row.sandbox_id is not None and self.keep(host, row.sandbox_id, until + reconcile.HOST_GRACE):
            try:
                self._fleet.update(row.id, expires_at=until)
            except IllegalTransition:
                return  # it has ended meanwhile
            log.info("session %s: watched, lives until %s", row.id, until.isoformat(timespec="seconds"))

    def follow_wish(self, row: Session) -> None:
        """Pause or resume it as was asked. While its host is silent the wish stays."""
        link = self._links.get(row.host or "")
        if link is None or row.sandbox_id is None or row.wanted_status is None:
            return
        try:
            if row.wanted_status is Status.PAUSED:
                link.sandboxes.pause(row.sandbox_id)
            else:
                link.sandboxes.resume(row.sandbox_id)
        except HostUnreachable as problem:
            log.warning("session %s: cannot become %s yet: %s", row.id, row.wanted_status, problem)
            return
        except HostRefused as refusal:
            self._give_wish_up(row, link, refusal)
            return
        self.follow(row, row.wanted_status)

    def _give_wish_up(self, row: Session, link: HostLink, refusal: HostRefused) -> None:
        """A host also refuses what is so already; the next comparison says how it is."""
        log.warning("session %s: does not become %s: %s", row.id, row.wanted_status, refusal)
        with contextlib.suppress(IllegalTransition):
            self._fleet.update(row.id, wanted_status=None)

    def note_use(self, row: Session, at: datetime) -> None:
        with contextlib.suppress(IllegalTransition):
            self._fleet.update(row.id, last_used_at=at)

    def keep(self, host: str, sandbox_id: str, until: datetime) -> bool:
        try:
            self._links[host].sandboxes.renew(sandbox_id, until)
        except (HostUnreachable, HostRefused) as problem:
            log.warning("sandbox %s on %s: not renewed: %s", sandbox_id, host, problem)
            return False
        return True

    def delete_sandbox(self, host: str, sandbox_id: str, why: str) -> None:
        if self._delete(self._links[host], sandbox_id):
            log.info("sandbox %s on %s: deleted: %s", sandbox_id, host, why)

    def _delete(self, link: HostLink, sandbox_id: str) -> bool:
        """Best effort: what stays is found and deleted by the reconciler."""
        try:
            link.sandboxes.delete(sandbox_id)
        except (HostUnreachable, HostRefused) as problem:
            log.warning("sandbox %s on %s: not deleted: %s", sandbox_id, link.name, problem)
            return False
        return True

    # --- waiting -----------------------------------------------------------------------------------

    def _link(self, row: Session) -> HostLink:
        link = self._links.get(row.host or "")
        if link is None:
            raise GiveUp(f"sandbox host {row.host} is no longer part of this fleet")
        return link

    def _stop_or_give_up(self, row: Session) -> None:
        """Between two tries: is the session still wanted, and is there time left?"""
        now_row = self._fleet.get(row.id)
        _stop_if_ended(now_row)
        begun = row.placed_at or row.created_at
        deadline = begun + timedelta(seconds=self._settings.create_deadline_seconds)
        if utcnow() >= deadline:
            seconds = self._settings.create_deadline_seconds
            raise GiveUp(f"the desktop was not usable within {seconds} s; last: {now_row.status_reason}")

    def _be_patient(self, row: Session, problem: HostUnreachable, until: float) -> None:
        if time.monotonic() > until:
            raise HostGivenUp(str(problem), problem, reason=UNREACHABLE) from problem
        self._fleet.update(row.id, status_reason=str(problem))
        self._stop_or_give_up(row)
        time.sleep(LOOK_UP_EVERY_SECONDS)

    def _note(self, row: Session, reason: str) -> None:
        try:
            self._fleet.update(row.id, status_reason=reason)
        except IllegalTransition:
            return


def _stop_if_ended(row: Session) -> None:
    if row.status.is_terminal or row.terminate_requested_at is not None:
        raise EndWanted


def _host_timeout(row: Session, now: datetime) -> int:
    """Seconds after which the host itself ends the sandbox: later than our table does."""
    left = (row.expires_at - now if row.expires_at else timedelta(0)) + reconcile.HOST_GRACE
    return max(SHORTEST_TIMEOUT_SECONDS, math.ceil(left.total_seconds()))


def _phases(row: Session) -> Iterator[tuple[str, float]]:
    """How long each part of coming up took, of a session that has just done so."""
    times = (row.created_at, row.placed_at, row.made_at, row.running_at)
    for phase, began, ended in zip(("queued", "creating", "first_frame"), times, times[1:], strict=False):
        if began is not None and ended is not None:
            yield phase, (ended - began).total_seconds()
    if row.running_at is not None:
        yield "total", (row.running_at - row.created_at).total_seconds()


def _all_reasons(row: Session, last: HostRefused) -> str:
    return "; ".join([*row.failed_hosts.values(), str(last)])


def _auth_of(image: ImageSettings) -> ImageAuth | None:
    password = image.registry_password()
    if image.registry_user is None or password is None:
        return None
    return ImageAuth(username=image.registry_user, password=password)


def _entrypoint(image: ImageSettings, asked: Order) -> list[str]:
    """A desktop always starts its own, so that there is something to watch; it takes the caller's program as
    its arguments, and runs it beside the desktop."""
    program = asked.entrypoint
    if image.display is Display.NONE:
        return list(program or image.entrypoint or DEFAULT_ENTRYPOINT)
    if program is None or program == DEFAULT_ENTRYPOINT:
        return list(image.entrypoint)
    return [*image.entrypoint, "--", *program]
