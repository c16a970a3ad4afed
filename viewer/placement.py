"""Which sandbox host takes the next desktop. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from viewer.model import Frozen, HostStatus, Kind, Session

NO_ROOM = "no sandbox host has room"
"""How the sentence about a full fleet begins; the self-check knows it by that."""


class HostRoom(Frozen):
    """One host's room: `used` of `max_desktops` are taken by live sessions.

    detail: why it does not answer; of one that does, what it lacks.
    """

    name: str
    status: HostStatus
    detail: str | None
    used: int
    max_desktops: int


class NoRoom(Exception):
    """No host can take a desktop; the text is one sentence for a person."""


class NoHostAnswers(NoRoom):
    """Not full, but silent."""


def rooms(
    capacities: Mapping[str, int],
    statuses: Mapping[str, tuple[HostStatus, str | None]],
    live: Iterable[Session],
) -> list[HostRoom]:
    """Return each host's room; only sandboxes count, a persistent desktop takes none."""
    placed = [
        session.host for session in live if session.kind is Kind.SANDBOX and not session.status.is_terminal
    ]
    return [
        HostRoom(
            name=name,
            status=statuses.get(name, (HostStatus.UNKNOWN, None))[0],
            detail=statuses.get(name, (HostStatus.UNKNOWN, None))[1],
            used=placed.count(name),
            max_desktops=capacity,
        )
        for name, capacity in capacities.items()
    ]


def choose(candidates: Sequence[HostRoom], *, without: Collection[str] = ()) -> str:
    """Return the least loaded host that answers and has room. `without`: hosts that failed for this session.

    A host that lacks something (its relay is silent) comes after all that lack nothing.
    Raises NoRoom or NoHostAnswers.
    """
    answering = [
        room for room in candidates if room.status is not HostStatus.UNREACHABLE and room.name not in without
    ]
    if not answering:
        raise NoHostAnswers(f"no sandbox host answers: {'; '.join(_silence(room) for room in candidates)}")
    free = [room for room in answering if room.used < room.max_desktops]
    if not free:
        raise NoRoom(f"{NO_ROOM}: {'; '.join(_fullness(room) for room in answering)}")
    return min(
        free, key=lambda room: (room.detail is not None, room.used / room.max_desktops, room.name)
    ).name


def _silence(room: HostRoom) -> str:
    return room.detail or f"sandbox host {room.name} is unreachable"


def _fullness(room: HostRoom) -> str:
    return f"{room.used} of {room.max_desktops} desktops in use on {room.name}"
