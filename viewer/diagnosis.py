"""Why is this desktop black? One session looked through from its row to its picture, step by step.

Each step says what it found and, where something is amiss, what mends it. A step whose ground is missing is
skipped, so that the first one that failed is the one to look at. What is found out is found out now, at the
programs themselves; the table alone is believed only where it is the truth (`_row`, `_authorisation`).

Nothing here is of another tenant. Addresses of hosts are for the fleet's admins: `_shown` takes them out.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from viewer import __version__
from viewer.credentials import SealBroken, open_secret
from viewer.diagnosis_answers import Diagnosis, DiagnosisStep, StepName, StepState
from viewer.fleet_store import HostRecord
from viewer.grants import DesktopSocket, Grant, PublishedPort, Target, seal_grant
from viewer.host_events import last_lines
from viewer.hosts import NOBODY_LOOKED, for_eyes_of, sees_the_fleet
from viewer.hostwatch.answers import ContainerState
from viewer.hostwatch_client import HostwatchClient, HostwatchUnreachable
from viewer.lifecycle import BLANK
from viewer.model import (
    Display,
    Frozen,
    HostStatus,
    Kind,
    Lease,
    Principal,
    Role,
    Scope,
    Session,
    Status,
    utcnow,
)
from viewer.nodes import outside_trust, why
from viewer.relay.answers import CloseCode, ProbeOutcome, RelayStatus, WantedPicture
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.sandbox_hosts import HostRefused, HostUnreachable, SandboxHost, SandboxState
from viewer.settings import HostSettings, Settings
from viewer.upgrades import Upgraded, try_stream

WHOLE_SECONDS = 15.0
"""All steps together."""
WAKING_SECONDS = 2.0
"""How long the desktop may take to greet; one that works takes milliseconds."""
PICTURE_SECONDS = 4.0
"""How long a screen of one colour is watched for a change."""
SMALLEST_WIDTH = 16
UPGRADE_SECONDS = 3.0
RELAY_SECONDS = 1.5
SKEW_WARNS = timedelta(seconds=5)
SKEW_REFUSES = timedelta(seconds=25)
"""A grant is good for 30 s by the clock of the host that it is for."""
ENDS_SOON = timedelta(minutes=2)
LONGEST_WORDS = 300
"""Characters of a container's last words that a step repeats."""

_ADDRESS = re.compile(r"\b(?:https?|wss?)://[^\s,;)]+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
_log = logging.getLogger("deskfleet.viewer")


class _Found(Frozen):
    state: StepState
    what: str
    mend: str | None = None


@dataclass(frozen=True)
class Case:
    """What is known before anybody is asked, and the ways to ask. place: in the line for a host.

    credential: the caller's own headers, with which the stream is opened once, as he would."""

    settings: Settings
    session: Session
    who: Principal
    lease: Lease
    record: HostRecord | None = None
    place: int | None = None
    relay: RelayClient | None = None
    sandboxes: SandboxHost | None = None
    hostwatch: HostwatchClient | None = None
    credential: dict[str, str] = field(default_factory=dict, repr=False)
    whole_seconds: float = WHOLE_SECONDS

    @property
    def host(self) -> HostSettings | None:
        return self.settings.host(self.session.host) if self.session.host else None


def whole(case: Case, steps: tuple[DiagnosisStep, ...]) -> Diagnosis:
    return Diagnosis(
        session_id=case.session.id,
        at=utcnow(),
        ok=all(step.state is not StepState.FAILED for step in steps),
        summary=_summary(steps),
        steps=steps,
    )


def _summary(steps: tuple[DiagnosisStep, ...]) -> str:
    for state in (StepState.FAILED, StepState.WARN):
        for step in steps:
            if step.state is state:
                return f"{step.what} {step.mend}" if step.mend else step.what
    if any(step.step is StepName.FIRST_FRAME and step.state is StepState.OK for step in steps):
        return "Everything works: a fresh picture of this desktop was seen just now."
    return "Nothing is amiss."


def examine(case: Case) -> Iterator[DiagnosisStep]:
    """The steps, each as soon as it is known; all within `case.whole_seconds`."""
    # A program that says nothing holds its thread until its client gives up; nobody waits for that.
    pool = ThreadPoolExecutor(len(StepName), thread_name_prefix="diagnosis")
    try:
        yield from _Examination(case, pool).steps()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_NEEDS: dict[StepName, tuple[StepName, ...]] = {
    StepName.ROW: (),
    StepName.HOST: (StepName.ROW,),
    StepName.CONTAINER: (StepName.ROW, StepName.HOST),
    StepName.VNC_PORT: (StepName.ROW, StepName.HOST, StepName.CONTAINER),
    StepName.RELAY: (StepName.ROW, StepName.HOST),
    StepName.AUTHORISATION: (StepName.ROW,),
    StepName.WEBSOCKET: (
        StepName.ROW, StepName.HOST, StepName.CONTAINER, StepName.VNC_PORT, StepName.RELAY,
        StepName.AUTHORISATION,
    ),
    StepName.FIRST_FRAME: (
        StepName.ROW, StepName.HOST, StepName.CONTAINER, StepName.VNC_PORT, StepName.RELAY,
    ),
}  # fmt: skip
"""What must not have failed before a step makes sense."""

_SECONDS: dict[StepName, float] = {
    StepName.ROW: 1.0,
    StepName.HOST: 3.0,
    StepName.CONTAINER: 3.5,
    StepName.VNC_PORT: 3.5,
    StepName.RELAY: 2.5,
    StepName.AUTHORISATION: 1.0,
    StepName.WEBSOCKET: 2 * UPGRADE_SECONDS,
    StepName.FIRST_FRAME: PICTURE_SECONDS + 3.5,
}
"""How long each step may take at most."""


class _Examination:
    def __init__(self, case: Case, pool: ThreadPoolExecutor) -> None:
        self._case = case
        self._session = case.session
        self._pool = pool
        self._found: dict[StepName, StepState] = {}
        self._status: RelayStatus | RelayUnreachable | None = None
        self._began = time.monotonic()

    def steps(self) -> Iterator[DiagnosisStep]:
        looks: dict[StepName, Callable[[], _Found]] = {
            StepName.ROW: self._row,
            StepName.HOST: self._host,
            StepName.CONTAINER: self._container,
            StepName.VNC_PORT: self._vnc_port,
            StepName.RELAY: self._relay,
            StepName.AUTHORISATION: self._authorisation,
            StepName.WEBSOCKET: self._websocket,
            StepName.FIRST_FRAME: self._first_frame,
        }
        for name, look in looks.items():
            began = time.monotonic()
            found = self._one(name, look)
            self._found[name] = found.state
            yield DiagnosisStep(
                step=name,
                state=found.state,
                what=self._shown(found.what),
                mend=None if found.mend is None else self._shown(found.mend),
                took_ms=round((time.monotonic() - began) * 1000, 1),
            )

    def _one(self, name: StepName, look: Callable[[], _Found]) -> _Found:
        missing = next((one for one in _NEEDS[name] if self._found[one] is StepState.FAILED), None)
        if missing is not None:
            return _skipped(f"Not looked at, because the step before it failed: {_WORDS[missing]}.")
        left = self._case.whole_seconds - (time.monotonic() - self._began)
        seconds = min(_SECONDS[name], left)
        if seconds <= 0:
            return _skipped(
                f"Not looked at: the steps before it took all of the {self._case.whole_seconds:.0f} s."
            )
        return self._within(name, look, seconds)

    def _within(self, name: StepName, look: Callable[[], _Found], seconds: float) -> _Found:
        future: Future[_Found] = self._pool.submit(copy_context().run, look)
        try:
            return future.result(seconds)
        except TookTooLong:
            future.cancel()
            return _failed(
                f"There was no answer within {seconds:.1f} s.",
                _HOST_MEND
                if name is StepName.HOST
                else "Run it again; if it stays so, look at the load of the host.",
            )
        except Exception:
            _log.exception("session %s: step %s of its diagnosis failed", self._session.id, name)
            return _failed(
                "This step could not be carried out.",
                "It is a fault of Deskfleet's own: the viewer's log has it.",
            )

    # --- row -------------------------------------------------------------------------------------

    def _row(self) -> _Found:
        session = self._session
        if session.status is Status.ERROR:
            why_so = session.error_message or session.status_reason or "no reason is known"
            return _failed(f"It has failed: {_end_of_sentence(why_so)}", "Create another one.")
        if session.status is Status.TERMINATED:
            ended = f" ({session.status_reason})" if session.status_reason else ""
            return _failed(f"It has ended{ended}, {_ago(session.terminated_at)}.", "Create another one.")
        if session.terminate_requested_at is not None:
            return _failed("It is being ended, and shows nothing any more.", "Create another one.")
        if session.display is Display.NONE:
            return _failed(
                f"Its image {session.image} has no screen, so there is nothing to be seen.",
                "Create one from an image with a desktop; `deskfleet images list` names them.",
            )
        if session.status is Status.PAUSED:
            return _failed(
                "It is paused: its memory is kept, its screen stands still.", "Resume it: press Resume."
            )
        if session.status is Status.CREATING:
            return self._row_in_making()
        return self._row_running()

    def _row_in_making(self) -> _Found:
        session = self._session
        since = _duration(utcnow() - session.created_at)
        if session.host is None:
            place = f", place {self._case.place} in the line" if self._case.place else ""
            return _failed(
                f"It has waited for a host for {since}{place}: no host has room for it.",
                "Wait, end a desktop that nobody needs, or let an admin add a host.",
            )
        return _warn(
            f"It has been coming up for {since} ({session.status_reason or 'starting'}).",
            "A desktop that starts takes seconds; the steps below say what it waits for.",
        )

    def _row_running(self) -> _Found:
        session = self._session
        ends = min((at for at in (session.expires_at, session.idle_ends_at) if at is not None), default=None)
        if ends is not None and ends - utcnow() < ENDS_SOON:
            return _warn(
                f"It is running, and ends in {_duration(ends - utcnow())}.", "Renew it if you need it longer."
            )
        if session.status_reason == BLANK:
            return _ok("It is running; its screen was of one colour when it came up.")
        if session.status_reason is not None:
            return _warn(f"It is running, with a remark: {_end_of_sentence(session.status_reason)}")
        return _ok(
            f"It has been running for {_duration(utcnow() - (session.running_at or session.created_at))}."
        )

    # --- host ------------------------------------------------------------------------------------

    def _host(self) -> _Found:
        host, record = self._case.host, self._case.record
        if host is None:
            return _failed(
                f"Its host {self._session.host} is no longer part of the fleet.",
                "Take the host into the site file again and run the deploy, or create another desktop.",
            )
        silence = self._silence_of_host()
        if silence is not None:
            since = (
                f" It was last seen {_ago(record.last_seen_at)}." if record and record.last_seen_at else ""
            )
            return _failed(
                f"Host {host.name} does not answer: {_end_of_sentence(silence)}{since}",
                _HOST_MEND,
            )
        skew = self._skew()
        if skew is not None and abs(skew) > SKEW_REFUSES:
            return _failed(
                f"The clock of host {host.name} is {_skew_words(skew)}, and so it refuses every grant.",
                "Set its clock, and let chrony or systemd-timesyncd keep it right.",
            )
        if record is not None and record.status is HostStatus.UNREACHABLE:
            return _warn(
                f"Host {host.name} answers again; the worker saw it silent"
                f" ({_end_of_sentence(record.detail or 'no reason given').rstrip('.')}).",
                "The worker notices within seconds; run it again.",
            )
        if skew is not None and abs(skew) > SKEW_WARNS:
            return _warn(
                f"Host {host.name} answers; its clock is {_skew_words(skew)}.",
                "Set its clock: from 25 s on it lets nobody in.",
            )
        looked = None if record is None else record.last_seen_at
        if looked is None or utcnow() - looked > NOBODY_LOOKED:
            return _warn(
                f"Host {host.name} answers, but the worker has not looked at it for long.",
                "See whether deskfleet-worker runs on the control host.",
            )
        if record is not None and record.is_draining:
            return _warn(
                f"Host {host.name} answers. It is draining: it gets no new desktops; this one goes on.",
                "Nothing, unless the host is to be shut down: then create another desktop elsewhere.",
            )
        return _ok(f"Host {host.name} answers.")

    def _silence_of_host(self) -> str | None:
        """Why its server gives no answer; None where it does."""
        try:
            if self._case.sandboxes is not None:
                self._case.sandboxes.version()
            elif self._case.relay is not None:
                self._case.relay.clock()
        except HostUnreachable as problem:
            return problem.why
        except (HostRefused, RelayUnreachable) as problem:
            return str(problem)
        return None

    def _skew(self) -> timedelta | None:
        """How far the host's clock is ahead of ours, to the second; None where its relay does not tell."""
        with suppress(RelayUnreachable):
            said = self._case.relay.clock() if self._case.relay is not None else None
            return None if said is None else said - utcnow()
        return None

    # --- container -------------------------------------------------------------------------------

    def _container(self) -> _Found:
        session = self._session
        if session.kind is Kind.DESKTOP:
            return _skipped("A persistent desktop is a service of its host, without a container.")
        if session.sandbox_id is None or self._case.sandboxes is None:
            return _failed(
                "Its container is not made yet.",
                "Wait; if it stays so, look at the worker's log for this session.",
            )
        seen = self._container_by_hostwatch(session.sandbox_id)
        return seen or self._container_by_server(self._case.sandboxes, session.sandbox_id)

    def _container_by_hostwatch(self, sandbox_id: str) -> _Found | None:
        """None where there is no hostwatch, or it does not answer: the server knows the state alone."""
        if self._case.hostwatch is None:
            return None
        try:
            state = self._case.hostwatch.container(sandbox_id)
        except HostwatchUnreachable:
            return None
        return self._gone() if state is None else self._of_container(state)

    def _of_container(self, state: ContainerState) -> _Found:
        if state.state in ("exited", "dead"):
            if state.oom_killed:
                return _failed(
                    f"Its container ended {_ago(state.finished_at)}, because it ran out of memory"
                    f" ({self._session.memory_mib} MiB).",
                    "Create one with more memory (`resource_limits.memory`).",
                )
            return _failed(
                f"Its container ended {_ago(state.finished_at)} with code {state.exit_code}.{self._words()}",
                "Create another one; what it said last may tell why it ended.",
            )
        if state.state != "running":
            return _failed(f"Its container is {state.state}, not running.", "Create another one.")
        if state.oom_killed:
            return _warn(
                f"Its container runs; a program in it was killed because the {self._session.memory_mib} MiB"
                " of memory were used up.",
                "Start that program again, or create a desktop with more memory.",
            )
        return _ok(f"Its container has been running for {_duration(_age(state.started_at))}.")

    def _container_by_server(self, sandboxes: SandboxHost, sandbox_id: str) -> _Found:
        try:
            sandbox = sandboxes.get(sandbox_id)
        except (HostUnreachable, HostRefused) as problem:
            return _failed(f"Its host does not say: {_end_of_sentence(str(problem))}", "Run it again.")
        if sandbox is None:
            return self._gone()
        if sandbox.state is SandboxState.RUNNING:
            return _ok("Its container runs.")
        said = f": {sandbox.status.message}" if sandbox.status.message else ""
        return _failed(
            f"Its container is {sandbox.state.lower()}{_end_of_sentence(said)}{self._words()}",
            "Create another one; what it said last may tell why.",
        )

    def _gone(self) -> _Found:
        return _failed(
            f"Host {self._session.host} has no container of this desktop any more.",
            "Create another one; the worker ends this one within seconds.",
        )

    def _words(self) -> str:
        """The last lines that it wrote, as a sentence of its own."""
        if self._case.sandboxes is None or self._session.sandbox_id is None:
            return ""
        said = " / ".join(last_lines(self._case.hostwatch, self._case.sandboxes, self._session.sandbox_id))
        return f" It said last: {said[-LONGEST_WORDS:]}" if said else ""

    # --- VNC port --------------------------------------------------------------------------------

    def _vnc_port(self) -> _Found:
        session = self._session
        if session.kind is Kind.SANDBOX:
            unpublished = self._unpublished()
            if unpublished is not None:
                return unpublished
        target, relay = self._target(), self._case.relay
        if target is None:
            return _failed("It is not known yet where its screen is.", "Wait until it has come up.")
        if relay is None:
            return _failed(
                "Its host belongs to somebody else and has no relay, so nothing of it can be watched.",
                "Create the desktop on another host.",
            )
        if isinstance(self._relay_status(relay), RelayUnreachable):
            return _ok("Its host publishes it; whether it answers there only the relay could tell.")
        try:
            password = self._password()
            seen = relay.probe(session.id, target, password, seconds=WAKING_SECONDS)
        except SealBroken:
            return _failed(
                "Its password cannot be opened: the fleet's secret key has changed since it was made.",
                "End it and create another one.",
            )
        except RelayUnreachable as problem:
            return _failed(f"The relay cannot tell: {_end_of_sentence(str(problem))}", "Run it again.")
        if seen.result is ProbeOutcome.UNREACHABLE:
            return _failed(
                f"Nothing that speaks VNC answers there: {_end_of_sentence(seen.detail)}",
                "Its VNC server has ended or hangs, or a firewall stands before its port: end it and create"
                " another one; on the host, `docker logs` of the container says more.",
            )
        if seen.result is ProbeOutcome.REFUSED:
            return _failed(
                f"Its VNC server turns the relay away: {_end_of_sentence(seen.detail)}",
                "Somebody changed its password or its server inside; end it and create another one.",
            )
        return _ok(f"Its VNC server answers, with a screen of {seen.width}x{seen.height} pixels.")

    def _unpublished(self) -> _Found | None:
        """What is wrong with the port that the host publishes; None where nothing is."""
        session, sandboxes = self._session, self._case.sandboxes
        if sandboxes is None or session.sandbox_id is None:
            return None
        image = self._case.settings.image_for(session.image)
        try:
            port = sandboxes.published_port(session.sandbox_id, image.port)
        except (HostRefused, HostUnreachable) as problem:
            return _failed(
                f"Its host does not say where its screen is: {_end_of_sentence(str(problem))}",
                "Run it again; if it stays so, end it and create another one.",
            )
        if session.vnc_port is not None and port != session.vnc_port:
            return _failed(
                "Its host publishes its screen at another port than when it was made: its container was"
                " started anew behind Deskfleet's back.",
                "End it and create another one.",
            )
        return None

    def _target(self) -> Target | None:
        session = self._session
        if session.kind is Kind.DESKTOP:
            return DesktopSocket(name=session.sandbox_id) if session.sandbox_id else None
        return PublishedPort(port=session.vnc_port) if session.vnc_port else None

    def _password(self) -> SecretStr | None:
        """Raises SealBroken."""
        sealed = self._session.vnc_password_sealed
        return None if sealed is None else SecretStr(open_secret(sealed, self._case.settings.secret_key))

    # --- relay -----------------------------------------------------------------------------------

    def _relay(self) -> _Found:
        relay, host = self._case.relay, self._session.host
        if relay is None:
            return _failed(
                f"Host {host} has no relay: nothing on it can be watched.",
                "Create the desktop on another host.",
            )
        status = self._relay_status(relay)
        if isinstance(status, RelayUnreachable):
            return _failed(
                f"It does not answer: {_end_of_sentence(str(status))}",
                f"On host {host}: `systemctl restart deskfleet-relay`, and `journalctl -u deskfleet-relay`.",
            )
        if not status.is_supervised:
            return _failed(
                f"It has heard nothing of the control plane for {status.silent_seconds:.0f} s, and so lets"
                " nobody in.",
                "Start deskfleet-worker on the control host.",
            )
        if status.version != __version__:
            return _warn(
                f"It answers; its version is {status.version}, that of the control host {__version__}.",
                "Run the deploy, which brings all hosts to one version.",
            )
        return _ok("The relay of its host answers.")

    def _relay_status(self, relay: RelayClient) -> RelayStatus | RelayUnreachable:
        """Asked once, and by the step before its own: what only a relay can tell says nothing while it is
        silent."""
        if self._status is None:
            try:
                self._status = relay.status(seconds=RELAY_SECONDS)
            except RelayUnreachable as problem:
                self._status = problem
        return self._status

    # --- authorisation ---------------------------------------------------------------------------

    def _authorisation(self) -> _Found:
        who, lease = self._case.who, self._case.lease
        if not who.may(Scope.STREAMS):
            return _failed(
                "You may see that it is there, but not open it: your key lacks the scope `streams`.",
                "Ask your tenant's admin for a key with that scope.",
            )
        holder = lease.holder
        lasts = lease.ends_at is None or lease.ends_at > utcnow()
        if not who.role.covers(Role.OPERATOR):
            return _ok("You may watch it; its keyboard and mouse are for operators.")
        if holder is not None and lasts and holder.id != who.holder:
            return _ok(
                f"You may watch it; its keyboard and mouse are with {holder.name} now. Ask for them there."
            )
        return _ok("You may watch it and use its keyboard and mouse.")

    # --- websocket -------------------------------------------------------------------------------

    def _websocket(self) -> _Found:
        session = self._session
        if session.display is Display.KASMVNC:
            if self._case.settings.content_domain is None:
                return _failed(
                    "It shows itself by KasmVNC's own page, which needs an origin of its own, and this fleet"
                    " has no content domain.",
                    "Set `content_domain` in the site file and run the deploy.",
                )
            return _skipped("KasmVNC's own page opens its stream at an origin of its own.")
        if session.status is not Status.RUNNING:
            return _skipped("Its stream can be opened once it runs.")
        try:
            return self._judged(self._through_edge(), "through the fleet's own address")
        except httpx.TransportError as error:
            # The page has come this way, so it is this host alone that does not get there.
            apart = (
                f"The control host does not get to {self._case.settings.canonical_origin} itself"
                f" ({_one_line(why(error))}), so that part was left out."
            )
        return self._through_relay(apart)

    def _through_edge(self) -> Upgraded:
        origin = self._case.settings.canonical_origin
        headers = {**self._case.credential, "Origin": origin}
        place = urlsplit(origin)
        url, extensions = f"{origin}/stream/{self._session.id}", {}
        if (place.hostname or "").endswith(".localhost"):
            # Browsers take such names for this machine; Debian's resolver does not know them.
            url = url.replace(place.hostname or "", "127.0.0.1", 1)
            headers["Host"], extensions = place.netloc, {"sni_hostname": place.hostname or ""}
        with httpx.Client(verify=outside_trust(), trust_env=False) as http:
            return try_stream(http, url, headers, seconds=UPGRADE_SECONDS, extensions=extensions)

    def _through_relay(self, apart: str) -> _Found:
        target, relay = self._target(), self._case.relay
        if target is None or relay is None:
            return _skipped("There is no way to it.")
        grant = Grant(
            purpose="stream",
            session_id=self._session.id,
            tenant_id=self._session.tenant_id,
            principal=self._case.who.holder,
            target=target,
            vnc_password=self._password(),
            expires_at=utcnow() + timedelta(seconds=30),
        )
        try:
            seen = relay.try_stream(grant, seconds=UPGRADE_SECONDS)
        except RelayUnreachable as problem:
            return _failed(
                f"It cannot be opened: {_end_of_sentence(str(problem))}", "See the step of the relay."
            )
        found = self._judged(seen, "at the relay")
        return found.model_copy(update={"what": f"{found.what} {apart}"})

    def _judged(self, seen: Upgraded, where: str) -> _Found:
        if seen.has_banner:
            return _ok(f"A stream opens {where}, and the desktop greets.")
        if seen.status in (401, 403, 404):
            return _failed(
                f"The stream was refused {where} with HTTP {seen.status}:"
                f" {_end_of_sentence(seen.reason or 'no reason given')}",
                "Sign in again, or ask your tenant's admin for the right to open desktops.",
            )
        if seen.status != 101:
            said = f": {seen.reason}" if seen.reason else ""
            return _failed(
                f"The stream was answered {where} with HTTP {seen.status}{_end_of_sentence(said)}",
                "See the log of Caddy on the edge; something between browser and relay takes no WebSockets.",
            )
        if seen.close_code == CloseCode.BUSY:
            return _failed(
                f"The relay takes no further stream: {_end_of_sentence(seen.reason)}",
                "Close a page that shows this desktop; `deskfleet streams list` says who has it open.",
            )
        if seen.close_code is not None:
            return _failed(
                f"The stream opens {where} and is closed at once, with code {seen.close_code}:"
                f" {_end_of_sentence(seen.reason or 'no reason given')}",
                "Run it again; if it stays so, `journalctl -u deskfleet-relay` on its host says more.",
            )
        return _failed(
            f"The stream opens {where}, but nothing comes through it.",
            "Something between holds the bytes back: a proxy of yours, or the load of the host.",
        )

    # --- first frame -----------------------------------------------------------------------------

    def _first_frame(self) -> _Found:
        target, relay = self._target(), self._case.relay
        if target is None or relay is None:
            return _skipped("There is no screen to look at.")
        try:
            seen = relay.probe(self._session.id, target, self._password(), seconds=PICTURE_SECONDS)
        except RelayUnreachable as problem:
            return _failed(f"No picture came: {_end_of_sentence(str(problem))}", "Run it again.")
        if seen.result is ProbeOutcome.FRAME:
            return _ok(f"A fresh picture of {seen.width}x{seen.height} pixels came, of more than one colour.")
        if seen.result is ProbeOutcome.BLANK and seen.colours:
            return _failed(
                f"The screen of {seen.width}x{seen.height} pixels is of one colour"
                f"{_named(seen.colour)}, and did not change for {self._unchanged_for(relay, target)}:"
                " everything works, and there is nothing on it.",
                "Take control and press a key: a screen saver or lock goes away. If it stays so, the program"
                " in it has ended or was never started: start it again, or create another desktop.",
            )
        return _failed(
            f"The desktop sends no picture: {_end_of_sentence(seen.detail or 'no reason given')}",
            "Its VNC server hangs, or its host is overloaded: look at the load of the host, else end it and"
            " create another one.",
        )

    def _unchanged_for(self, relay: RelayClient, target: Target) -> str:
        """As long as the relay's own picture tells, which it keeps while a wall wants it; else as long as we
        have watched."""
        changed_at: datetime | None = None
        host = self._case.host
        if host is not None:
            grant = Grant(
                purpose="picture",
                session_id=self._session.id,
                tenant_id=self._session.tenant_id,
                target=target,
                vnc_password=self._password(),
                expires_at=utcnow() + timedelta(seconds=30),
            )
            wanted = WantedPicture(grant=seal_grant(grant, host.relay_key()))
            with suppress(RelayUnreachable):
                (picture,) = relay.pictures([wanted], width=SMALLEST_WIDTH, format="jpeg")
                changed_at = picture.changed_at
        watched = timedelta(seconds=PICTURE_SECONDS)
        unchanged = watched if changed_at is None else utcnow() - changed_at
        return _duration(max(watched, unchanged))

    # --- words -----------------------------------------------------------------------------------

    def _shown(self, text: str) -> str:
        """Without addresses of hosts for whoever is no admin of the fleet."""
        if sees_the_fleet(self._case.who):
            return text
        if self._case.host is not None:
            text = for_eyes_of(self._case.who, text, self._case.host) or text
        origins = self._case.settings.origins
        return _ADDRESS.sub(lambda found: found[0] if found[0].startswith(origins) else "its address", text)


_HOST_MEND = (
    "See whether the machine and its network are up, and on it `systemctl status deskfleet-opensandbox"
    " docker`; its desktops run on meanwhile."
)
_WORDS = {
    StepName.ROW: "what is known of the session",
    StepName.HOST: "its host",
    StepName.CONTAINER: "its container",
    StepName.VNC_PORT: "its VNC port",
    StepName.RELAY: "the relay",
    StepName.AUTHORISATION: "your right to open it",
    StepName.WEBSOCKET: "the stream",
    StepName.FIRST_FRAME: "its picture",
}
_COLOURS = {"#000000": "black", "#ffffff": "white"}


def _ok(what: str) -> _Found:
    return _Found(state=StepState.OK, what=what)


def _warn(what: str, mend: str | None = None) -> _Found:
    return _Found(state=StepState.WARN, what=what, mend=mend)


def _failed(what: str, mend: str) -> _Found:
    return _Found(state=StepState.FAILED, what=what, mend=mend)


def _skipped(what: str) -> _Found:
    return _Found(state=StepState.SKIPPED, what=what)


def _named(colour: str | None) -> str:
    return "" if colour is None else f" ({_COLOURS.get(colour, colour)})"


def _end_of_sentence(text: str) -> str:
    """The text on one line, with a full stop."""
    line = _one_line(text)
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _age(since: datetime | None) -> timedelta:
    return timedelta() if since is None else utcnow() - since


def _ago(at: datetime | None) -> str:
    return "some time ago" if at is None else f"{_duration(utcnow() - at)} ago"


def _duration(time_span: timedelta) -> str:
    seconds = max(0, round(time_span.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172_800 else f"{seconds // 86_400} days"


def _skew_words(skew: timedelta) -> str:
    way = "fast" if skew > timedelta() else "slow"
    return f"{_duration(abs(skew))} {way}"
