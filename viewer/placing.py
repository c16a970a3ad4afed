"""The worker's side of placement: who gets a host now, who waits on, who cannot have one at all."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial

from viewer.chores import Chores
from viewer.fleet_store import FleetStore
from viewer.lifecycle import Lifecycle
from viewer.model import Kind, Session, Status
from viewer.placement import Capacity, Decision, Place, Refuse, Table, decide
from viewer.settings import HostSettings, Settings

log = logging.getLogger("deskfleet.worker")

REFUSE = "session end "
"""The same key as any other end of a session: one thread at a time."""


def capacity_of(host: HostSettings) -> Capacity:
    return Capacity(
        desktops=host.max_desktops,
        cpu_millis=host.cpu_millis,
        memory_mib=host.memory_mib,
        creates=host.max_creates,
        labels=host.labels,
        shows_desktops=not host.external,
    )


def capacities_of(settings: Settings) -> dict[str, Capacity]:
    return {host.name: capacity_of(host) for host in settings.sandbox_hosts}


class Placing:
    """Gives hosts to those that wait for one."""

    def __init__(self, fleet: FleetStore, settings: Settings, lifecycle: Lifecycle, chores: Chores) -> None:
        self._fleet = fleet
        self._lifecycle = lifecycle
        self._chores = chores
        self._capacities = capacities_of(settings)
        self._uris: Mapping[str, str] = {image.name: image.uri for image in settings.images}

    def look(self, rows: Iterable[Session]) -> list[Session]:
        """Return those that have a host now, as they were before. `rows`: the live sessions, as they were a
        moment ago."""
        if not any(_waits(row) for row in rows):
            return []
        by_id = {row.id: row for row in rows}
        placed = []
        for decision in self._fleet.place(self._decide):
            row = by_id.get(decision.session_id)
            if isinstance(decision, Place):
                log.info("session %s: goes to %s", decision.session_id, decision.host)
                self._lifecycle.note_placed(decision.session_id, decision.host)
                if row is not None:
                    placed.append(row)
            elif isinstance(decision, Refuse) and row is not None:
                self._refuse(row, decision)
        return placed

    def _decide(self, table: Table) -> list[Decision]:
        return decide(table, self._capacities, self._uris)

    def _refuse(self, row: Session, refusal: Refuse) -> None:
        fail = partial(self._lifecycle.fail, row, refusal.why, reason=refusal.reason)
        self._chores.start(REFUSE + row.id, fail)


def _waits(row: Session) -> bool:
    is_placed = row.host is not None or row.is_sought
    return row.status is Status.CREATING and not is_placed and row.kind is Kind.SANDBOX
