"""What ends a lease that nobody gave back, and what tells the relay of it where the viewer could not.

`due` is the decision, pure, from the table, the relay's list of streams, and the time; `LeaseKeeper` acts on
it, for one host, in the worker. Whatever happens to a holder, his lease ends: with his stream, his rights,
the session, when he does nothing, and at the latest by the clock, which needs no relay.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from pydantic import Field

from viewer.leases import Held
from viewer.model import Frozen, Lease, LeaseKind, Role, utcnow
from viewer.relay.answers import StreamInfo, StreamList
from viewer.relay_client import RelayClient, RelayUnreachable
from viewer.settings import ControlSettings
from viewer.store import Store

GONE_AFTER = timedelta(seconds=5)
"""Long enough to reload a page, or to come back to a relay that was restarted."""
NEVER_CAME_AFTER = timedelta(seconds=20)
"""Who takes it and opens no stream; also after a restart of the worker, which knows of no earlier one."""
USE_NOTED_EVERY = timedelta(seconds=5)
_SCREENS = ("rfb", "content")

_log = logging.getLogger("deskfleet.worker")


class Absence(Frozen):
    """Whether a lease's holder has a stream that may control. number: of the lease. since: when he was first
    seen without one; None: he has one now."""

    number: int
    had_one: bool
    since: datetime | None


class Ending(Frozen):
    """Nobody is to have it any more. why: as in the audit log."""

    lease: Lease
    why: str


class Use(Frozen):
    """Its holder did something with it then."""

    lease: Lease
    at: datetime


class Due(Frozen):
    endings: tuple[Ending, ...] = ()
    uses: tuple[Use, ...] = ()
    memory: Mapping[str, Absence] = Field(default_factory=dict)
    """By session, for the next look."""


def due(
    held: Iterable[Held],
    streams: Iterable[StreamInfo] | None,
    *,
    roles: Mapping[tuple[str, str], Role],
    idle: timedelta,
    memory: Mapping[str, Absence],
    now: datetime,
) -> Due:
    """What is to happen to the leases that somebody has.

    streams: None while the relay is silent, which says nothing of anybody. roles: what the holders may do
    now, by `Principal.holder` and tenant. idle: how long a person may do nothing.
    """
    endings: list[Ending] = []
    uses: list[Use] = []
    absences: dict[str, Absence] = {}
    seen = None if streams is None else list(streams)
    for one in held:
        why = _lost_right(one, roles)
        if why is None and seen is not None:
            own = [stream for stream in seen if _is_his(stream, one)]
            used_at = max((_used_at(stream, now) for stream in own), default=one.used_at)
            if used_at - one.used_at >= USE_NOTED_EVERY:
                uses.append(Use(lease=one.lease, at=used_at))
            if one.lease.is_a_persons:
                absence = _absence(one.lease, bool(own), memory.get(one.lease.session_id), now)
                absences[one.lease.session_id] = absence
                why = _left(absence, now) or ("idle" if max(used_at, one.used_at) + idle <= now else None)
        if why is not None:
            endings.append(Ending(lease=one.lease, why=why))
    # While the relay is silent, what was known of them stands.
    return Due(endings=tuple(endings), uses=tuple(uses), memory=memory if seen is None else absences)


def _lost_right(one: Held, roles: Mapping[tuple[str, str], Role]) -> str | None:
    if not one.is_running:
        return "ended"
    holder = one.lease.holder
    role = None if holder is None else roles.get((holder.id, one.tenant_id))
    return None if role is not None and role.covers(Role.OPERATOR) else "out"


def _is_his(stream: StreamInfo, one: Held) -> bool:
    return (
        stream.session_id == one.lease.session_id
        and stream.tenant_id == one.tenant_id
        and stream.may_control
        and stream.kind in _SCREENS
        and one.lease.is_held_by(stream.principal)
    )


def _used_at(stream: StreamInfo, now: datetime) -> datetime:
    """Of a desktop with a page of its own nobody reads what passes: it counts as used while it is open."""
    if stream.kind == "content":
        return now
    return stream.last_input_at or stream.opened_at


def _absence(lease: Lease, is_there: bool, before: Absence | None, now: datetime) -> Absence:
    if before is None or before.number != lease.number:
        before = Absence(number=lease.number, had_one=False, since=None)
    if is_there:
        return Absence(number=lease.number, had_one=True, since=None)
    return Absence(number=lease.number, had_one=before.had_one, since=before.since or now)


def _left(absence: Absence, now: datetime) -> str | None:
    if absence.since is None:
        return None
    grace = GONE_AFTER if absence.had_one else NEVER_CAME_AFTER
    return "disconnected" if absence.since + grace <= now else None


class LeaseKeeper:
    """The leases of the sessions on one host."""

    def __init__(self, host: str, relay: RelayClient | None, store: Store, control: ControlSettings) -> None:
        self._host = host
        self._relay = relay
        self._leases = store.leases
        self._accounts = store.accounts
        self._idle = timedelta(seconds=control.idle_seconds)
        self._agent_seconds = control.agent_seconds
        self._memory: Mapping[str, Absence] = {}

    def look(self, seen: StreamList | None) -> None:
        """End what is to end, and bring the relay in line with the table. seen: what the relay has just
        said; None: it is silent."""
        now = utcnow()
        for lease in self._leases.expire(now):
            _log.info("session %s: the time of its lease is over", lease.session_id)
        held = self._leases.held(self._host)
        found = due(
            held,
            None if seen is None else seen.streams,
            roles=self._roles(held),
            idle=self._idle,
            memory=self._memory,
            now=now,
        )
        self._memory = found.memory
        for use in found.uses:
            self._note(use)
        for ending in found.endings:
            self._end(ending)
        if seen is not None:
            self._bring_in_line(seen, held)

    def _roles(self, held: Iterable[Held]) -> Mapping[tuple[str, str], Role]:
        holders = {one.lease.holder.id for one in held if one.lease.holder is not None}
        return self._accounts.roles_of(holders) if holders else {}

    def _note(self, use: Use) -> None:
        is_agent = use.lease.holder is not None and use.lease.holder.kind is LeaseKind.AGENT
        self._leases.note_use(use.lease, use.at, seconds=self._agent_seconds if is_agent else None)

    def _end(self, ending: Ending) -> None:
        lease = self._leases.end(ending.lease, ending.why)
        if lease is None:
            return
        _log.info("session %s: nobody has keyboard and mouse any more: %s", lease.session_id, ending.why)

    def _bring_in_line(self, seen: StreamList, held: Iterable[Held]) -> None:
        """Tell the relay what it does not know yet, of the sessions that somebody has or sees."""
        ids = {stream.session_id for stream in seen.streams} | {one.lease.session_id for one in held}
        if not ids or self._relay is None:
            return
        try:
            for lease in self._leases.of_sessions(ids):
                if lease.number > seen.leases.get(lease.session_id, 0):
                    # Who lost it to nobody may go on watching; who lost it to somebody is told so.
                    self._relay.set_lease(lease, given_back=lease.holder is None)
        except RelayUnreachable as problem:
            _log.warning("%s; it hears of the holders of leases at the next look", problem)
