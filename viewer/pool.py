"""The warm pool: desktops that are made before anybody asks, as the settings say, and never more than that.

A warm desktop is a session of nobody (`POOL_TENANT`): it is placed, made, probed and ended like any other.
Claiming it is a change of its row (`TenantStore.create`). One that was claimed never comes back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from viewer import metrics
from viewer.fleet_store import FleetStore, WarmOrder
from viewer.lifecycle import Lifecycle
from viewer.model import POOL_TENANT, Display, HostStatus, Kind, Session, Status
from viewer.placement import Reserved, has_room
from viewer.placing import capacities_of
from viewer.resources import Resources
from viewer.settings import PoolSettings, Settings

log = logging.getLogger("deskfleet.worker")


class PoolKeeper:
    """Keeps each pool filled on each of its hosts."""

    def __init__(self, fleet: FleetStore, settings: Settings, lifecycle: Lifecycle) -> None:
        self._fleet = fleet
        self._lifecycle = lifecycle
        self._wanted = tuple(warm_orders(settings))
        self._capacities = capacities_of(settings)

    def look(self, rows: Sequence[Session]) -> None:
        """`rows`: the live sessions, as they were a moment ago."""
        warm = [row for row in rows if row.tenant_id == POOL_TENANT]
        if not self._wanted and not warm:
            return
        if waiting := [row for row in rows if _waits_long(row)]:
            # Somebody who is there comes before somebody who may come.
            self._make_room(waiting, warm)
            return
        self._end_what_is_too_much(warm)
        self._fill(warm)

    def _fill(self, warm: Sequence[Session]) -> None:
        usable = {
            host.name for host in self._fleet.hosts() if host.status is HostStatus.OK and not host.is_draining
        }
        held = self._held(warm)
        for order, size in self._wanted:
            alike = [row for row in warm if _is_like(row, order)]
            there = len(alike)
            ready = sum(1 for row in alike if row.status is Status.RUNNING)
            metrics.pool_holds(order.image, order.host, {"ready": ready, "being made": there - ready})
            for _ in range(size - there if order.host in usable else 0):
                wanted = Resources(cpu_millis=order.cpu_millis, memory_mib=order.memory_mib)
                if not has_room(wanted, held[order.host], self._capacities[order.host]):
                    break  # it would stand in line, before somebody who is there
                held[order.host] = held[order.host].plus(wanted)
                session = self._fleet.add_warm(order)
                log.info("session %s: %s on %s, for the pool", session.id, order.image, order.host)

    def _held(self, warm: Iterable[Session]) -> dict[str, Reserved]:
        """What is reserved on each host, with what the pool has asked for and has no place yet."""
        reserved = self._fleet.reserved_by_host()
        held = {name: reserved.get(name, Reserved()) for name in self._capacities}
        for row in warm:
            if row.host is None and row.wanted_host in held:
                wanted = Resources(cpu_millis=row.cpu_millis, memory_mib=row.memory_mib)
                held[row.wanted_host] = held[row.wanted_host].plus(wanted)
        return held

    def _end_what_is_too_much(self, warm: Iterable[Session]) -> None:
        left = {id(order): size for order, size in self._wanted}
        for row in warm:
            order = next((order for order, _ in self._wanted if _is_like(row, order)), None)
            if order is not None and left[id(order)] > 0:
                left[id(order)] -= 1
            else:
                self._end(row)

    def _make_room(self, waiting: Sequence[Session], warm: Iterable[Session]) -> None:
        """One warm desktop for each that waits, of those on hosts where it may go."""
        for session in waiting:
            candidates = [
                row
                for row in warm
                if row.terminate_requested_at is None
                and (session.wanted_host is None or row.wanted_host == session.wanted_host)
            ]
            if candidates:
                self._end(candidates[0])
                warm = [row for row in warm if row.id != candidates[0].id]

    def _end(self, row: Session) -> None:
        if row.terminate_requested_at is None:
            self._fleet.request_termination(row.id)


def warm_orders(settings: Settings) -> Iterator[tuple[WarmOrder, int]]:
    """Each kind of desktop that is to be kept ready on a host, and how many."""
    for pool in settings.pools:
        hosts = pool.hosts or tuple(host.name for host in settings.sandbox_hosts if not host.external)
        for host in hosts:
            yield _order(pool, host, settings), pool.size


def _order(pool: PoolSettings, host: str, settings: Settings) -> WarmOrder:
    image = settings.image_for(pool.image)
    wanted = Resources.of(pool.cpu or image.cpu, pool.memory or image.memory)
    has_screen = image.display is not Display.NONE
    return WarmOrder(
        host=host,
        image=image.name,
        display=image.display,
        resolution=(pool.resolution or settings.default_resolution) if has_screen else None,
        cpu_millis=wanted.cpu_millis,
        memory_mib=wanted.memory_mib,
        max_age_seconds=pool.max_age_seconds,
    )


def _is_like(row: Session, order: WarmOrder) -> bool:
    return (
        row.terminate_requested_at is None
        and row.wanted_host == order.host
        and (row.image, row.resolution) == (order.image, order.resolution)
        and (row.cpu_millis, row.memory_mib) == (order.cpu_millis, order.memory_mib)
    )


def _waits_long(row: Session) -> bool:
    """It was looked at and found no place."""
    return (
        row.status is Status.CREATING
        and row.kind is Kind.SANDBOX
        and row.host is None
        and row.status_reason is not None
        and row.tenant_id != POOL_TENANT
    )
