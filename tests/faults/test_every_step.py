"""One fault that finds sessions at every step of a create and of an end, on real parts; then all is right.

Each scene has eight sessions: three that come up and three that end, held by a gate with their call not sent,
under way, and done but not heard of; one whose sandbox is made and not looked at yet; one that runs. Then the
fault strikes, and while it lasts a session is asked for and the end of another is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.apart import HostApart, Recorded, recorded
from tests.faults.gate import Gate, Moment
from tests.faults.truth import wait_until_right
from tests.hosts.own_docker import kill_dockerd, start_dockerd
from tests.soaking import is_soaking
from tests.worker.fleet import Fleet
from viewer.model import HostStatus, Session, Status

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@dataclass
class Scene:
    fleet: Fleet
    gate: Gate
    host: HostApart
    seen: Recorded
    coming: list[Session] = field(default_factory=list)
    ending: list[Session] = field(default_factory=list)
    steady: list[Session] = field(default_factory=list)

    def set_up(self) -> None:
        """All eight at their steps; what is to be under way is."""
        fleet, gate = self.fleet, self.gate
        fleet.start()
        self.wait_for_host(HostStatus.OK)
        ending = [fleet.create() for _ in Moment]
        self.steady = [fleet.create(), fleet.create()]
        for session in (*ending, *self.steady):
            fleet.wait_for(session, Status.RUNNING, seconds=40)
        for session, moment in zip(ending, Moment, strict=True):
            gate.stop(session.id, "DELETE", moment)
            fleet.main.request_termination(session.id)
        self.ending = ending
        for moment in Moment:
            self.coming.append(self._held("POST", moment))
        self.coming.append(self._held("GET", Moment.NOT_SENT))
        gate.wait_until_all_stand()
        gate.send()
        time.sleep(0.2)

    def ask_for_more(self) -> None:
        """A new session, and the end of one that runs."""
        self.coming.append(self.fleet.create())
        ended = self.steady.pop()
        self.fleet.main.request_termination(ended.id)
        self.ending.append(ended)

    def wait_until_right(self) -> float:
        return wait_until_right(self.fleet, [self.host])

    def statuses(self, sessions: list[Session]) -> list[Status]:
        return [self.fleet.get(session).status for session in sessions]

    def wait_for_host(self, status: HostStatus, *, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while self.host_status() is not status:
            assert time.monotonic() < deadline, self.fleet.last_log()
            time.sleep(0.1)

    def host_status(self) -> HostStatus | None:
        """None until the worker has looked at it once."""
        return next((host.status for host in self.fleet.store.fleet.hosts()), None)

    def _held(self, method: str, moment: Moment) -> Session:
        """One that comes up and stands there; the worker is at it within milliseconds."""
        with self.gate.all_wait():
            session = self.fleet.create()
            self.gate.stop(session.id, method, moment)
        return session


@contextmanager
def scene(folder: Path, host: HostApart) -> Iterator[Scene]:
    with (
        Gate(host.server.address, host.server.port) as gate,
        Fleet(
            folder, host.server, host.relay,
            url=gate.url, max_desktops=16, max_creates=8, create_deadline_seconds=90,
        ) as fleet,
        recorded(host, fleet.fleet_id, folder) as seen,
    ):  # fmt: skip
        ready = Scene(fleet, gate, host, seen)
        try:
            ready.set_up()
            yield ready
        finally:
            gate.let_go(dropped=True)


@pytest.fixture
def at_every_step(tmp_path: Path, first: HostApart) -> Iterator[Scene]:
    with scene(tmp_path, first) as ready:
        yield ready


def strike(scene: Scene, *, fault: Callable[[], None], mend: Callable[[], None], seconds: float) -> float:
    """The fault and its end; how long it then took until all was right."""
    fault()
    try:
        scene.gate.let_go()
        scene.ask_for_more()
        time.sleep(seconds)
    finally:
        mend()
    return scene.wait_until_right()


def test_worker_killed(at_every_step: Scene) -> None:
    """The next one finds what was made, so nothing is made twice, not even for a moment."""
    scene = at_every_step
    scene.fleet.kill()
    scene.gate.let_go(dropped=True)
    scene.ask_for_more()
    scene.fleet.start()
    took = scene.wait_until_right()
    assert scene.statuses(scene.coming) == [Status.RUNNING] * 5
    assert scene.statuses(scene.ending) == [Status.TERMINATED] * 4
    assert scene.statuses(scene.steady) == [Status.RUNNING]
    everything = (*scene.coming, *scene.ending, *scene.steady)
    assert scene.seen.made() == Counter(session.request_id for session in everything)
    print(f"right after {took:.1f} s")


def test_opensandbox_server_killed(at_every_step: Scene) -> None:
    scene, server = at_every_step, at_every_step.host.server
    took = strike(scene, fault=server.kill, mend=server.start, seconds=1)
    assert scene.statuses(scene.coming) == [Status.RUNNING] * 5
    assert scene.statuses(scene.ending) == [Status.TERMINATED] * 4
    assert scene.statuses(scene.steady) == [Status.RUNNING]
    print(f"right after {took:.1f} s")


def test_dockerd_killed(at_every_step: Scene) -> None:
    scene, daemon = at_every_step, at_every_step.host.daemon
    took = strike(
        scene, fault=lambda: kill_dockerd(daemon), mend=lambda: start_dockerd(daemon), seconds=3
    )  # fmt: skip
    assert scene.statuses(scene.ending) == [Status.TERMINATED] * 4
    assert scene.statuses(scene.steady) == [Status.RUNNING]
    print(f"right after {took:.1f} s, {scene.statuses(scene.coming)}")


CUT_SECONDS = 150 if is_soaking() else 40


@pytest.mark.soak
def test_network_cut(at_every_step: Scene) -> None:
    """Nothing is known of a host that is cut off, so nothing is said of its sandboxes."""
    scene, host = at_every_step, at_every_step.host
    host.cut()
    try:
        scene.gate.let_go()
        scene.ask_for_more()
        joined = time.monotonic() + CUT_SECONDS
        scene.wait_for_host(HostStatus.UNREACHABLE)
        while time.monotonic() < joined:
            assert scene.host_status() is HostStatus.UNREACHABLE
            assert scene.statuses(scene.steady) == [Status.RUNNING]
            time.sleep(1)
    finally:
        host.join()
    took = scene.wait_until_right()
    assert scene.host_status() is HostStatus.OK
    assert scene.statuses(scene.ending) == [Status.TERMINATED] * 4
    assert scene.statuses(scene.steady) == [Status.RUNNING]
    print(f"right after {took:.1f} s, {scene.statuses(scene.coming)}")
