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
from viewer.model import Status

ROUNDS = 30 if is_soaking() else 3
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


Fault = Callable[[], tuple[str, Callable[[], object]]]
"""Strikes when it is called; its name, and what ends it."""


def faults(fleet: Fleet, hosts: tuple[HostApart, ...], chance: random.Random) -> list[Fault]:
    def worker() -> tuple[str, Callable[[], object]]:
        fleet.kill()
        return "worker", fleet.start

    def server() -> tuple[str, Callable[[], object]]:
        host = chance.choice(hosts)
        host.server.kill()
        return f"server of {host.name}", host.server.start

    def docker() -> tuple[str, Callable[[], object]]:
        daemon = chance.choice(hosts).daemon
        kill_dockerd(daemon)
        return f"dockerd {daemon.name}", lambda: start_dockerd(daemon)

    def cable() -> tuple[str, Callable[[], object]]:
        host = chance.choice(hosts)
        host.cut()
        return f"cable of {host.name}", host.join

    return [worker, server, docker, cable]


def test_faults_at_any_moment(tmp_path: Path, three: tuple[HostApart, ...]) -> None:
    chance = random.Random(None if is_soaking() else 4)
    here, there, yonder = three
    with Fleet(
        tmp_path, here.server, here.relay,
        others={"there": (there.server, there.relay), "yonder": (yonder.server, yonder.relay)},
        max_desktops=PLACES, create_deadline_seconds=90,
    ) as fleet:  # fmt: skip
        fleet.start()
        every = faults(fleet, three, chance)
        for number in range(ROUNDS):
            struck: list[str] = []
            with coming_and_going(fleet, chance):
                time.sleep(chance.uniform(2, 4))
                for fault in chance.sample(every, k=chance.choice([1, 1, 2])):
                    name, mend = fault()
                    struck.append(name)
                    try:
                        time.sleep(chance.choice([0, 1, 4, 15]))
                    finally:
                        mend()
            took = wait_until_right(fleet, three)
            live = fleet.store.fleet.live_sessions()
            assert all(row.status is Status.RUNNING for row in live)
            print(f"round {number}: {', '.join(struck)}: right after {took:.1f} s, {len(live)} live")
