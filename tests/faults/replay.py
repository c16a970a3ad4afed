"""What the session table held after each of its changes, played again from the outbox: was placement right?

Every change of a session is there, in the order in which it was committed, so nothing falls between samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from viewer.model import Session
from viewer.rows import Event
from viewer.store import Store


def changes(store: Store, tenants: Iterable[str]) -> list[Session]:
    """Every state of every session of these tenants, in order."""
    events: list[Event] = []
    for tenant in tenants:
        own = store.tenant(tenant)
        last = 0
        while more := own.events_after(last):
            events += more
            last = more[-1].id
    return [event.session for event in sorted(events, key=lambda one: one.id)]


class Replay:
    """`see` each state in order; `wrong` is what placement should not have done, one sentence each."""

    def __init__(self, *, places: int, creates: int) -> None:
        self._places = places
        self._creates = creates
        self._now: dict[str, Session] = {}
        self.wrong: list[str] = []
        self.placed: list[Session] = []
        self.most: Counter[str] = Counter()
        """Host -> how many desktops it had at its fullest."""

    def see(self, session: Session) -> None:
        before = self._now.get(session.id)
        if session.host is not None and (before is None or before.host is None):
            self._check_turn(session)
            self.placed.append(session)
        self._now[session.id] = session
        self._check_room(session.host)

    def _check_room(self, host: str | None) -> None:
        held = [one for one in self._live() if one.host == host is not None]
        in_making = sum(1 for one in held if one.sandbox_id is None)
        self.most[host or ""] = max(self.most[host or ""], len(held))
        if len(held) > self._places:
            self.wrong.append(f"{host} holds {len(held)}")
        if in_making > self._creates:
            self.wrong.append(f"{host} makes {in_making} at once")

    def _check_turn(self, session: Session) -> None:
        """The tenant with the fewest in the making is next, with the oldest of its own."""
        making = Counter(
            one.tenant_id for one in self._live() if one.host is not None and one.status == "creating"
        )
        waiting = [one for one in self._live() if one.host is None and one.terminate_requested_at is None]
        before = [one for one in waiting if one.tenant_id == session.tenant_id and _age(one) < _age(session)]
        if before:
            self.wrong.append(f"{session.id} came before {len(before)} older ones of its tenant")
        others = {one.tenant_id for one in waiting} - {session.tenant_id}
        if any(making[other] < making[session.tenant_id] for other in others):
            self.wrong.append(f"it was not the turn of {session.tenant_id}: {dict(making)} in the making")

    def _live(self) -> list[Session]:
        return [one for one in self._now.values() if not one.status.is_terminal]


def _age(session: Session) -> tuple[object, str]:
    return session.created_at, session.id
