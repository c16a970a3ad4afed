"""What should happen to sessions and sandboxes: pure decisions from the table, a host's list, and the time.

Three questions are answered here. `due` looks at the table alone: what is to be started, ended, given up.
`compare` holds a host's list against the table, `no_longer_allowed` its relay's open streams. None of them
reads a clock or touches anything; the worker acts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from pydantic import Field

from viewer.model import POOL_TENANT, Frozen, Kind, Role, Session, Status
from viewer.placement import FULL, NO_ROOM
from viewer.relay.answers import CloseCode, StreamInfo
from viewer.sandbox_hosts import Sandbox, SandboxState

MISSES_BEFORE_GONE = 2
"""A sandbox that two successive lists of its host leave out is gone; one list may be taken too early."""
ORPHAN_GRACE = timedelta(seconds=60)
HOST_GRACE = timedelta(seconds=300)
"""The host itself ends a sandbox this much after `expires_at`, so that in normal life our table ends it, and
nothing leaks when no worker runs."""
HOST_GRACE_SLACK = timedelta(seconds=30)
USE_NOTED_EVERY = timedelta(seconds=15)
"""How often `last_used_at` of a session in use is written; each write wakes all who wait for changes."""

ON_REQUEST = "on request"
EXPIRED = "expired"
IDLE = "idle"
GONE = "the container is gone"
EXITED = "the container ended by itself"


class Policy(Frozen):
    """The settings that decisions depend on."""

    fleet_id: str
    create_deadline: timedelta
    queue_deadline: timedelta = timedelta(seconds=300)
    max_lifetime: timedelta


class Action(Frozen):
    """Something for the worker to do."""


class BringUp(Action):
    """Take a `creating` session on, from wherever it stands."""

    row: Session


class Seek(Action):
    """Look for the sandbox that an event named, on the hosts that give theirs to its tenant."""

    row: Session


class Terminate(Action):
    """Stop the container, then say so."""

    row: Session
    reason: str


class Fail(Action):
    """Give the session up: remove what there is of it, then `error`."""

    row: Session
    message: str
    reason: str | None = None


class End(Action):
    """The container has come to its end without us; say so. `sandbox_id` is what is left of it to remove."""

    row: Session
    status: Status
    reason: str | None = None
    message: str | None = None
    sandbox_id: str | None = None


class Adopt(Action):
    """This sandbox is the one that the session's create made, although its answer was lost."""

    row: Session
    sandbox_id: str


class FollowWish(Action):
    """Pause or resume the sandbox, as was asked."""

    row: Session


class NoteUse(Action):
    """Somebody watches it or works with it."""

    row: Session
    at: datetime


class Follow(Action):
    """Somebody paused or resumed the sandbox on its host."""

    row: Session
    status: Status


class Renew(Action):
    """Somebody is watching: the session lives until then."""

    row: Session
    until: datetime


class Keep(Action):
    """The host would end the sandbox before our table does."""

    sandbox_id: str
    until: datetime


class DeleteSandbox(Action):
    sandbox_id: str
    why: str


class Report(Action):
    """Not ours to touch; worth one line in the log."""

    sandbox_id: str
    why: str


class Uses(Frozen):
    """Who is there. watched: sessions whose screen somebody sees; ports: session -> when a port of its
    sandbox was last asked for."""

    watched: frozenset[str] = frozenset()
    ports: Mapping[str, datetime] = Field(default_factory=dict)


class Memory(Frozen):
    """What `compare` remembers of one host from one list to the next; the worker starts with an empty one."""

    misses: Mapping[str, int] = Field(default_factory=dict)
    """Session id -> how many successive lists left its sandbox out."""
    orphans: Mapping[str, datetime] = Field(default_factory=dict)
    """Sandbox id -> since when it is known to have our fleet id but no row."""


class Verdict(Frozen):
    actions: tuple[Action, ...]
    memory: Memory


def due(rows: Iterable[Session], *, hosts: Collection[str], now: datetime, policy: Policy) -> list[Action]:
    """Return what the live rows ask for by themselves, one action a row at most. Desktops ask for nothing."""
    return [
        action
        for row in rows
        if row.kind is Kind.SANDBOX
        and not row.status.is_terminal
        and (action := _due(row, hosts, now, policy))
    ]


def _due(row: Session, hosts: Collection[str], now: datetime, policy: Policy) -> Action | None:
    if row.host is not None and row.host not in hosts:
        return Fail(row=row, message=f"sandbox host {row.host} is no longer part of this fleet")
    if row.is_sought:
        # Also when its end is asked for: what is to end must be found first.
        return _not_found_in_time(row, now, policy) or Seek(row=row)
    if row.terminate_requested_at is not None:
        return Terminate(row=row, reason=reason_of_end(row))
    if row.expires_at is not None and row.expires_at <= now:
        return Terminate(row=row, reason=EXPIRED)
    if row.lifetime_ends_at is not None and row.lifetime_ends_at <= now:
        return Terminate(row=row, reason=EXPIRED)
    if row.status is not Status.CREATING:
        return FollowWish(row=row) if row.wanted_status not in (None, row.status) else None
    return _over_time(row, now, policy) or (BringUp(row=row) if row.host is not None else None)


def _not_found_in_time(row: Session, now: datetime, policy: Policy) -> Action | None:
    if now < row.created_at + policy.create_deadline:
        return None
    if row.terminate_requested_at is not None:
        return Terminate(row=row, reason=reason_of_end(row))
    seconds = int(policy.create_deadline.total_seconds())
    return Fail(
        row=row,
        message=f"no host that gives its sandboxes to your tenant had sandbox {row.sandbox_id}"
        f" within {seconds} s",
    )


def _over_time(row: Session, now: datetime, policy: Policy) -> Fail | None:
    begun = row.placed_at or (row.created_at if row.host is not None else None)
    if begun is not None and begun + policy.create_deadline <= now:
        seconds = int(policy.create_deadline.total_seconds())
        return Fail(
            row=row, message=f"the desktop was not usable within {seconds} s; last: {row.status_reason}"
        )
    if begun is None and row.created_at + policy.queue_deadline <= now:
        seconds = int(policy.queue_deadline.total_seconds())
        return Fail(row=row, message=f"{NO_ROOM} within {seconds} s; end some desktops", reason=FULL)
    return None


def reason_of_end(row: Session) -> str:
    """Why an end was asked for: expiry on a silent host is stored as a wish to end, like any other."""
    asked = row.terminate_requested_at
    if asked is None:
        return ON_REQUEST
    if row.expires_at is not None and row.expires_at <= asked:
        return EXPIRED
    return IDLE if row.idle_ends_at is not None and row.idle_ends_at <= asked else ON_REQUEST


class Closing(Frozen):
    """A stream that is to be closed, with what its page is told (`CloseCode`)."""

    stream: StreamInfo
    code: int
    reason: str


def no_longer_allowed(
    streams: Iterable[StreamInfo],
    *,
    tenant_of: Mapping[str, str],
    roles: Mapping[tuple[str, str], Role],
    revoked: Collection[str] = (),
) -> list[Closing]:
    """Return the streams that would not be let in as they are if they were asked for now, and why.

    `tenant_of`: of the live sessions on the relay's host, read after the streams were listed. `roles`: what
    each stream's principal may do now, by its name there and tenant. `revoked`: tickets that are.
    """
    found = ((stream, _why_not(stream, tenant_of, roles, revoked)) for stream in streams)
    return [Closing(stream=stream, code=why[0], reason=why[1]) for stream, why in found if why is not None]


def _why_not(
    stream: StreamInfo,
    tenant_of: Mapping[str, str],
    roles: Mapping[tuple[str, str], Role],
    revoked: Collection[str],
) -> tuple[int, str] | None:
    if tenant_of.get(stream.session_id) != stream.tenant_id:
        return CloseCode.ENDED, "the session has ended"
    role = roles.get((stream.principal, stream.tenant_id))
    if role is None:
        return CloseCode.SIGNED_OUT, _what_is_over(stream.principal)
    if stream.ticket_id in revoked:
        return CloseCode.SIGNED_OUT, "the ticket that this was opened by is revoked"
    if not role.covers(Role.OPERATOR if stream.may_control else Role.WATCHER):
        return CloseCode.REVOKED, f"the role that this was opened in is {role} now"
    return None


def _what_is_over(holder: str) -> str:
    """holder: `Principal.holder`."""
    if holder.startswith("share:"):
        return "the share link that this was opened by is over"
    if holder.startswith("key:") and "/" not in holder:
        return "the key that this was opened by is revoked or over"
    return "this browser is no longer signed in"


def compare(
    host: str,
    sandboxes: Iterable[Sandbox],
    *,
    rows: Iterable[Session],
    by_request: Mapping[str, Session],
    uses: Uses | None,
    busy: Collection[str],
    memory: Memory,
    table_began: datetime | None,
    now: datetime,
    policy: Policy,
) -> Verdict:
    """Hold the host's list against the table.

    `rows`: the live sessions placed on this host, read after the list was taken. `by_request`: every session,
    live or terminal, that a listed sandbox names. `uses`: None while nobody can say who uses what. `busy`:
    ids of sessions that the worker is bringing up right now; it looks for their sandbox itself.
    `table_began`: since when the table knows of sessions, None while nobody can say.
    """
    listed = {sandbox.id: sandbox for sandbox in sandboxes}
    own = [
        row for row in rows if row.kind is Kind.SANDBOX and row.host == host and not row.status.is_terminal
    ]
    actions: list[Action] = []
    misses: dict[str, int] = {}
    for row in own:
        if row.sandbox_id is None:
            continue
        sandbox = listed.get(row.sandbox_id)
        if sandbox is not None:
            watched = uses is not None and row.id in uses.watched
            follow = _follow(row, sandbox, watched=watched, now=now, policy=policy)
            actions += follow or _use(row, uses, now)
        else:
            misses[row.id] = memory.misses.get(row.id, 0) + 1
            if misses[row.id] >= MISSES_BEFORE_GONE:
                actions.append(_gone(row, now))
    settled = {row.sandbox_id for row in own}
    orphans: dict[str, datetime] = {}
    adopted: set[str] = set()
    for sandbox in sorted(listed.values(), key=lambda one: one.created_at):
        if sandbox.id in settled:
            continue
        owner = by_request.get(sandbox.request_id or "")
        if sandbox.fleet != policy.fleet_id:
            whose = f"of fleet {sandbox.fleet}" if sandbox.fleet else "of nobody we know"
            actions.append(Report(sandbox_id=sandbox.id, why=f"a sandbox {whose}"))
            continue
        action: Action | None
        if owner is None:
            orphans[sandbox.id] = memory.orphans.get(sandbox.id, now)
            action = _orphan(sandbox, orphans[sandbox.id], table_began, now)
        else:
            action = _unsettled(host, sandbox, owner, {*busy, *adopted})
        if isinstance(action, Adopt):
            adopted.add(action.row.id)
        if action is not None:
            actions.append(action)
    return Verdict(actions=tuple(actions), memory=Memory(misses=misses, orphans=orphans))


def _follow(row: Session, sandbox: Sandbox, *, watched: bool, now: datetime, policy: Policy) -> list[Action]:
    """The row's own sandbox is there: bring the row in line with its state, and its end in line with ours."""
    match sandbox.state:
        case SandboxState.FAILED:
            message = sandbox.status.message or "the container failed"
            return [End(row=row, status=Status.ERROR, message=message, sandbox_id=sandbox.id)]
        case SandboxState.TERMINATED if row.status is Status.CREATING:
            message = "the container ended before it showed a screen"
            return [End(row=row, status=Status.ERROR, message=message, sandbox_id=sandbox.id)]
        case SandboxState.TERMINATED:
            return [End(row=row, status=Status.TERMINATED, reason=EXITED, sandbox_id=sandbox.id)]
        case SandboxState.PAUSED if row.status is Status.RUNNING:
            return [Follow(row=row, status=Status.PAUSED)]
        case SandboxState.RUNNING if row.status is Status.PAUSED:
            return [Follow(row=row, status=Status.RUNNING)]
    return _lifetime(row, sandbox, watched=watched, now=now, policy=policy)


def _lifetime(
    row: Session, sandbox: Sandbox, *, watched: bool, now: datetime, policy: Policy
) -> list[Action]:
    if row.expires_at is None or row.expires_at <= now or row.terminate_requested_at is not None:
        return []
    until = renewed_until(row, now=now, policy=policy) if watched else None
    if until is not None:
        return [Renew(row=row, until=until)]
    wanted = row.expires_at + HOST_GRACE
    if sandbox.expires_at is not None and sandbox.expires_at < wanted - HOST_GRACE_SLACK:
        return [Keep(sandbox_id=sandbox.id, until=wanted)]
    return []


def uses_of(streams: Iterable[StreamInfo], ports_used: Mapping[str, datetime], *, now: datetime) -> Uses:
    """From what a relay says. A stream to a port is work with the session, and nobody's watching."""
    open_now = list(streams)
    working = {stream.session_id: now for stream in open_now if stream.kind == "port"}
    return Uses(
        watched=frozenset(stream.session_id for stream in open_now if stream.kind != "port"),
        ports={**ports_used, **working},
    )


def _use(row: Session, uses: Uses | None, now: datetime) -> list[Action]:
    """Note that the session is in use, or end one that nobody uses any more."""
    if uses is None or row.status is not Status.RUNNING:
        return []
    watched = row.id in uses.watched
    times = (row.last_used_at, uses.ports.get(row.id), now if watched else None)
    last = max((time for time in times if time is not None), default=None)
    if last is not None and (row.last_used_at is None or last - row.last_used_at >= USE_NOTED_EVERY):
        return [NoteUse(row=row, at=last)]
    if row.idle_ends_at is not None and row.idle_ends_at <= now and not watched:
        return [Terminate(row=row, reason=IDLE)]
    return []


def renewed_until(row: Session, *, now: datetime, policy: Policy) -> datetime | None:
    """Return the new end of a watched session; None while half its time is left, or at its limit."""
    ttl = timedelta(seconds=row.ttl_seconds)
    if row.status is Status.CREATING or row.tenant_id == POOL_TENANT:
        return None
    if row.expires_at is None or row.expires_at - now >= ttl / 2:
        return None
    until = min(now + ttl, row.lifetime_ends_at or row.created_at + policy.max_lifetime)
    return until if until > row.expires_at else None


def _gone(row: Session, now: datetime) -> End:
    if row.terminate_requested_at is not None:
        return End(row=row, status=Status.TERMINATED, reason=reason_of_end(row))
    if row.expires_at is not None and row.expires_at <= now:
        return End(row=row, status=Status.TERMINATED, reason=EXPIRED)
    if row.status is Status.CREATING:
        return End(row=row, status=Status.ERROR, message="the container went away before it showed a screen")
    return End(row=row, status=Status.TERMINATED, reason=GONE)


def _orphan(sandbox: Sandbox, since: datetime, table_began: datetime | None, now: datetime) -> Action | None:
    """A sandbox with our fleet id that no session asked for, known as such since then."""
    if now - since < ORPHAN_GRACE:
        return None
    if table_began is None or sandbox.created_at < table_began:
        # Its session may be in the database that was here before, or on another machine.
        return Report(sandbox_id=sandbox.id, why="it has our fleet id, but is older than our database")
    return DeleteSandbox(sandbox_id=sandbox.id, why="it has our fleet id, but no session")


def _unsettled(host: str, sandbox: Sandbox, owner: Session, busy: Collection[str]) -> Action | None:
    """A sandbox that is no row's own on this host, although a session asked for it."""
    if not sandbox.is_of(tenant_id=owner.tenant_id, session_id=owner.id):
        return Report(sandbox_id=sandbox.id, why="its metadata names a session of another tenant")
    if (owner.host, owner.sandbox_id) == (host, sandbox.id) and not owner.status.is_terminal:
        return None  # it became the row's own after `rows` was read
    if owner.status.is_terminal:
        return DeleteSandbox(sandbox_id=sandbox.id, why=f"its session is {owner.status}")
    if owner.sandbox_id == sandbox.id:
        return Report(
            sandbox_id=sandbox.id, why=f"host {owner.host} shows it too; two hosts share one Docker"
        )
    if owner.id in busy:
        return None
    if owner.sandbox_id is not None:
        return DeleteSandbox(sandbox_id=sandbox.id, why="its session has another sandbox")
    return Adopt(row=owner, sandbox_id=sandbox.id) if owner.host == host else None
