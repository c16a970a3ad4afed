"""Who has keyboard and mouse of which session, as far as this relay has heard.

It hears of it in grants and from the control plane; what it is told may come late and out of order, so only a
higher number counts. Nothing outlives a restart: no stream does, and each new one brings its lease along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from viewer.model import Lease

MOST_REMEMBERED = 10_000
"""Of the sessions whose lease changed last; an open stream keeps its own besides."""


class LeaseNews(NamedTuple):
    """`taken_from`: who had it and lost it against his will (`Principal.holder`), if anybody did."""

    lease: Lease
    taken_from: str | None


@dataclass
class _Known:
    lease: Lease
    untold: str | None
    """Who had it before, while it is not known whether he gave it back himself."""


class Leases:
    """The newest of every session."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def of(self, session_id: str) -> Lease | None:
        """None: nothing was ever heard of it."""
        known = self._known.get(session_id)
        return known.lease if known else None

    def numbers(self) -> dict[str, int]:
        return {session_id: known.lease.number for session_id, known in self._known.items()}

    def forget(self, session_id: str) -> None:
        self._known.pop(session_id, None)

    def hear(self, lease: Lease, *, given_back: bool | None = None) -> LeaseNews | None:
        """Return what is new of it, if anything. given_back: whether the former holder wanted it so; None:
        that is not known, as with a grant; he who sees another one in his place has lost it, and where nobody
        is, that is decided when the control plane says so."""
        known = self._known.get(lease.session_id)
        if known is None or lease.number > known.lease.number:
            return self._note(lease, known, given_back)
        if lease.number == known.lease.number and given_back is not None and known.untold is not None:
            lost, known.untold = known.untold, None
            return None if given_back else LeaseNews(known.lease, taken_from=lost)
        return None

    def _note(self, lease: Lease, known: _Known | None, given_back: bool | None) -> LeaseNews:
        former = known.lease.holder.id if known and known.lease.holder else None
        if former is not None and lease.is_held_by(former):
            former = None
        is_lost = given_back is False or (given_back is None and lease.holder is not None)
        untold = former if given_back is None and not is_lost else None
        self._known.pop(lease.session_id, None)
        self._known[lease.session_id] = _Known(lease, untold)
        if len(self._known) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        return LeaseNews(lease, taken_from=former if is_lost else None)


def loss(lease: Lease) -> str:
    """What whoever loses control is told."""
    if lease.holder is None:
        return "your control of this desktop has ended"
    return f"{lease.holder.name} has taken control"
