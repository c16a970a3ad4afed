"""Which sandbox host takes which waiting session, and in which order. Pure.

`decide` is asked within the transaction that writes its answer, so nothing it counts on can change meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import Field

from viewer.model import Display, Frozen, HostStatus, Session, Via
from viewer.resources import Resources

NO_ROOM = "no sandbox host has room"
"""How the sentence about a full fleet begins; the self-check knows it by that."""
FULL = "full"
UNREACHABLE = "unreachable"
IMPOSSIBLE = "impossible"


class Capacity(Frozen):
    """What the inventory declares of one sandbox host. cpu_millis, memory_mib: None for no limit of its own.

    shows_desktops: it has a relay, so a session with a display can be watched there.
    """

    desktops: int
    cpu_millis: int | None = None
    memory_mib: int | None = None
    creates: int = 3
    labels: Mapping[str, str] = Field(default_factory=dict)
    shows_desktops: bool = True


class Reserved(Frozen):
    """What live sessions hold on one host. creates: those whose sandbox is not there yet."""

    desktops: int = 0
    cpu_millis: int = 0
    memory_mib: int = 0
    creates: int = 0

    def plus(self, wanted: Resources) -> Reserved:
        return Reserved(
            desktops=self.desktops + 1,
            cpu_millis=self.cpu_millis + wanted.cpu_millis,
            memory_mib=self.memory_mib + wanted.memory_mib,
            creates=self.creates + 1,
        )


class HostView(Frozen):
    """What is known of one host now. detail: why it does not answer; of one that does, what it lacks.

    images: tags that lie there; None while nobody has said.
    """

    status: HostStatus = HostStatus.UNKNOWN
    detail: str | None = None
    is_draining: bool = False
    images: frozenset[str] | None = None


class Table(Frozen):
    """The table as placement sees it. waiting: sessions without a host; in_making: tenant -> its sessions
    that have one and are not usable yet."""

    waiting: tuple[Session, ...]
    reserved: Mapping[str, Reserved]
    hosts: Mapping[str, HostView]
    in_making: Mapping[str, int] = Field(default_factory=dict)


class Place(Frozen):
    session_id: str
    host: str


class Wait(Frozen):
    """There may be room later; `why` is one sentence."""

    session_id: str
    why: str


class Refuse(Frozen):
    """It cannot be had. reason: `full` and `unreachable` mean that it may work later."""

    session_id: str
    why: str
    reason: str


Decision = Place | Wait | Refuse


def fair_order(waiting: Iterable[Session], in_making: Mapping[str, int]) -> list[Session]:
    """Tenants take turns: a session comes after as many as its own tenant has before it, in the making and
    in the line; among equals the older one is first."""
    before = Counter(in_making)
    ranked: list[tuple[int, Session]] = []
    for session in sorted(waiting, key=lambda one: (one.created_at, one.id)):
        ranked.append((before[session.tenant_id], session))
        before[session.tenant_id] += 1
    return [one for _, one in sorted(ranked, key=lambda pair: (pair[0], pair[1].created_at, pair[1].id))]


def decide(table: Table, capacities: Mapping[str, Capacity], uris: Mapping[str, str]) -> list[Decision]:
    """Return one decision for each waiting session, in the order of their turns. `uris`: image -> what its
    host calls it.

    One that finds no room does not hold up those behind it that do.
    """
    reserved = {name: table.reserved.get(name, Reserved()) for name in capacities}
    decisions: list[Decision] = []
    for session in fair_order(table.waiting, table.in_making):
        decision = _decide_one(session, table.hosts, reserved, capacities, uris)
        if isinstance(decision, Place):
            reserved[decision.host] = reserved[decision.host].plus(_wanted(session))
        decisions.append(decision)
    return decisions


def _decide_one(
    session: Session,
    hosts: Mapping[str, HostView],
    reserved: Mapping[str, Reserved],
    capacities: Mapping[str, Capacity],
    uris: Mapping[str, str],
) -> Decision:
    possible = [name for name in capacities if lacks(session, name, capacities[name]) is None]
    if not possible:
        return Refuse(session_id=session.id, why=_why_impossible(session, capacities), reason=IMPOSSIBLE)
    views = {name: hosts.get(name, HostView()) for name in possible}
    open_ones = [name for name in possible if name not in session.failed_hosts]
    if not open_ones:
        why = "; ".join(session.failed_hosts[name] for name in possible)
        return Refuse(session_id=session.id, why=why, reason=UNREACHABLE)
    answering = [name for name in open_ones if views[name].status is not HostStatus.UNREACHABLE]
    if not answering and not session.failed_hosts:
        answering = open_ones  # the last poll may be old news: one is asked, its refusal then says why
    if not answering:
        why = "; ".join(
            [*(_silence(name, views[name]) for name in open_ones), *session.failed_hosts.values()]
        )
        return Refuse(session_id=session.id, why=f"no sandbox host answers: {why}", reason=UNREACHABLE)
    taken = {
        name: _obstacle(session, name, views[name], reserved[name], capacities[name]) for name in answering
    }
    free = [name for name, obstacle in taken.items() if obstacle is None]
    if free:
        uri = uris.get(session.image, session.image)
        return Place(
            session_id=session.id,
            host=min(free, key=lambda name: _rank(name, views[name], reserved[name], capacities[name], uri)),
        )
    why = f"{NO_ROOM}: {'; '.join(obstacle for obstacle in taken.values() if obstacle)}"
    if session.may_queue or not _is_full(session, views, taken, reserved, capacities):
        return Wait(session_id=session.id, why=why)
    return Refuse(session_id=session.id, why=why, reason=FULL)


def lacks(session: Session, name: str, capacity: Capacity) -> str | None:
    """Why this host can never take the session, however empty it is; None: it could."""
    if session.wanted_host not in (None, name):
        return "another host was asked for"
    for key, value in session.wanted_labels.items():
        if capacity.labels.get(key) != value:
            return f"{name} has not the label {key}={value}"
    if session.display is not Display.NONE and not capacity.shows_desktops:
        return f"{name} has no relay, so a desktop could not be watched there"
    if session.via is Via.OPENSANDBOX and not capacity.shows_desktops:
        # Its client asks for the way to a port at once, and ends a sandbox that has none.
        return f"{name} has no relay, so a sandbox's ports could not be reached there"
    if capacity.cpu_millis is not None and session.cpu_millis > capacity.cpu_millis:
        return f"{name} has {capacity.cpu_millis}m of CPU in all, and {session.cpu_millis}m are wanted"
    if capacity.memory_mib is not None and session.memory_mib > capacity.memory_mib:
        return f"{name} has {capacity.memory_mib}Mi of memory in all, and {session.memory_mib}Mi are wanted"
    return None


def _why_impossible(session: Session, capacities: Mapping[str, Capacity]) -> str:
    if session.wanted_host is not None and session.wanted_host not in capacities:
        return f"sandbox host {session.wanted_host} is no longer part of this fleet"
    asked = [session.wanted_host] if session.wanted_host is not None else list(capacities)
    whys = [why for name in asked if (why := lacks(session, name, capacities[name])) is not None]
    return f"no sandbox host can ever take it: {'; '.join(whys) or 'the fleet has none'}"


def _obstacle(
    session: Session, name: str, view: HostView, reserved: Reserved, capacity: Capacity
) -> str | None:
    """Why it cannot go there now."""
    if view.is_draining:
        return f"{name} is draining"
    taken = _taken(_wanted(session), reserved, capacity)
    if taken is not None:
        return f"{taken} in use on {name}"
    if reserved.creates >= capacity.creates:
        return f"{reserved.creates} are being made on {name} already"
    return None


def has_room(wanted: Resources, reserved: Reserved, capacity: Capacity) -> bool:
    """Is there a place for it, once the creates that are under way are over?"""
    return _taken(wanted, reserved, capacity) is None


def _taken(wanted: Resources, reserved: Reserved, capacity: Capacity) -> str | None:
    """How much is in use of what is lacking for it; None where nothing is."""
    if reserved.desktops >= capacity.desktops:
        return f"{reserved.desktops} of {capacity.desktops} desktops"
    if _exceeds(reserved.cpu_millis + wanted.cpu_millis, capacity.cpu_millis):
        return f"{reserved.cpu_millis}m of {capacity.cpu_millis}m CPU"
    if _exceeds(reserved.memory_mib + wanted.memory_mib, capacity.memory_mib):
        return f"{reserved.memory_mib}Mi of {capacity.memory_mib}Mi memory"
    return None


def _is_full(
    session: Session,
    views: Mapping[str, HostView],
    names: Iterable[str],
    reserved: Mapping[str, Reserved],
    capacities: Mapping[str, Capacity],
) -> bool:
    """Is there more in the way than creates that are over in a moment?"""
    return all(
        views[name].is_draining or not has_room(_wanted(session), reserved[name], capacities[name])
        for name in names
    )


def _exceeds(sum_of_all: int, limit: int | None) -> bool:
    return limit is not None and sum_of_all > limit


def _rank(
    name: str, view: HostView, reserved: Reserved, capacity: Capacity, uri: str
) -> tuple[bool, bool, float, str]:
    """Smaller is better: a host that lacks nothing, that has the image, that is least loaded."""
    return (
        view.detail is not None,
        view.images is not None and not _has_image(view.images, uri),
        max(
            reserved.desktops / capacity.desktops,
            _share(reserved.cpu_millis, capacity.cpu_millis),
            _share(reserved.memory_mib, capacity.memory_mib),
        ),
        name,
    )


def _has_image(tags: frozenset[str], uri: str) -> bool:
    return uri in tags or (":" not in uri.rpartition("/")[2] and f"{uri}:latest" in tags)


def _share(used: int, of: int | None) -> float:
    return used / of if of else 0.0


def _wanted(session: Session) -> Resources:
    return Resources(cpu_millis=session.cpu_millis, memory_mib=session.memory_mib)


def _silence(name: str, view: HostView) -> str:
    return view.detail or f"sandbox host {name} is unreachable"
