"""Sessions come and go on three hosts while faults strike at moments and places that chance chooses.

One round in `make test`, many in `make soak`; all is right within 30 s after each.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.apart import HostApart
from tests.faults.truth import wait_until_right
from tests.hosts.own_docker import kill_dockerd, start_dockerd
from tests.soaking import is_soaking
from tests.worker.fleet import Fleet

ROUNDS = 20 if is_soaking() else 3
PLACES = 8

pytestmark = [pytest.mark.real, pytest.mark.soak, pytest.mark.timeout(ROUNDS * 120)]


@dataclass
class Coming:
    """Makes and ends sessions until it is told to stop, about three a second."""

    fleet: Fleet
    chance: random.Random
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.wait(self.chance.uniform(0.1, 0.6)):
            live = [
                row for row in self.fleet.store.fleet.live_sessions() if row.terminate_requested_at is None
            ]
            if len(live) < PLACES or (len(live) < 2 * PLACES and self.chance.random() < 0.5):
                self.fleet.create(self.chance.choice(["tiny", "shell"]))
            else:
                self.fleet.main.request_termination(self.chance.choice(live).id)

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def coming_and_going(fleet: Fleet, chance: random.Random) -> Iterator[None]:
    traffic = Coming(fleet, random.Random(chance.random()))
    thread = threading.Thread(target=traffic.run)
    thread.start()
    try:
        yield
    finally:
        traffic.stop()
        thread.join()


@dataclass(frozen=True)
class Struck:
    """mend: what ends the fault. turn: a server does not start without its Docker, or out of reach."""

    name: str
    mend: Callable[[], object]
    turn: float = 0


def faults(fleet: Fleet, hosts: tuple[HostApart, ...], chance: random.Random) -> list[Callable[[], Struck]]:
    """Each strikes when it is called."""

    def worker() -> Struck:
        fleet.kill()
        return Struck("worker", fleet.start, turn=chance.uniform(-1, 2))

    def server() -> Struck:
        host = chance.choice(hosts)
        host.server.kill()
        return Struck(f"server of {host.name}", host.server.start, turn=1)

    def docker() -> Struck:
        host = chance.choice(hosts)
        kill_dockerd(host.daemon)
        return Struck(f"dockerd of {host.name}", lambda: start_dockerd(host.daemon))

    def cable() -> Struck:
        host = chance.choice(hosts)
        host.cut()
        return Struck(f"cable of {host.name}", host.join)

    return [worker, server, docker, cable]


def strike(kinds: list[Callable[[], Struck]], chance: random.Random) -> list[str]:
    """One fault or several, all of them there for some time; their names, once they are over."""
    struck: list[Struck] = []
    try:
        for fault in chance.sample(kinds, k=chance.choice([1, 2, 3])):
            struck.append(fault())
            time.sleep(chance.choice([0, 1, 3]))
        time.sleep(chance.choice([0, 3, 15]))
    finally:
        for one in sorted(struck, key=lambda one: one.turn):
            one.mend()
    return [one.name for one in struck]


def test_faults_at_any_moment(tmp_path: Path, three: tuple[HostApart, ...]) -> None:
    chance = random.Random(None if is_soaking() else 4)
    here, there, yonder = three
    with Fleet(
        tmp_path, here.server, here.relay,
        others={"there": (there.server, there.relay), "yonder": (yonder.server, yonder.relay)},
        max_desktops=PLACES, create_deadline_seconds=90,
    ) as fleet:  # fmt: skip
        fleet.start()
        kinds = faults(fleet, three, chance)
        for number in range(ROUNDS):
            with coming_and_going(fleet, chance):
                time.sleep(chance.uniform(2, 4))
                struck = strike(kinds, chance)
            took = wait_until_right(fleet, three)
            live = fleet.store.fleet.live_sessions()
            print(f"round {number}: {', '.join(struck)}: right after {took:.1f} s, {len(live)} live")
