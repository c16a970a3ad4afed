"""`kill -9` of each of our processes while a desktop is live: all return, and the table is true again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.online.fleet import Fleet, SessionView, eventually
from tests.online.streams import stream_answer, watching

pytestmark = pytest.mark.host

TRUE_AGAIN_SECONDS = 30


@pytest.mark.parametrize("service", ["viewer", "worker", "relay", "opensandbox", "caddy"])
def test_killed_service_returns_and_the_desktop_is_still_there(
    fleet: Fleet, service: str, figure: Callable[[str, float], None]
) -> None:
    with fleet.api.desktop() as session:
        killed = fleet.kill(service)
        started = time.monotonic()
        eventually(lambda: returned(fleet, service, killed), within=TRUE_AGAIN_SECONDS, what=fleet.logs)
        eventually(
            lambda: table_is_true(fleet, session),
            within=TRUE_AGAIN_SECONDS - (time.monotonic() - started),
            what=f"after {service} was killed, the table is true again",
        )
        # A page tries again by itself, and so does this: a process that is back may not listen yet.
        eventually(
            lambda: stream_answer(fleet.api, session.id) == 101,
            within=TRUE_AGAIN_SECONDS - (time.monotonic() - started),
            what=f"after {service} was killed, the desktop can be watched again",
        )
        with watching(fleet.api, session.id) as stream:
            stream.assert_alive()
        wait_until_well(fleet, TRUE_AGAIN_SECONDS - (time.monotonic() - started))
        figure(
            f"{service} killed on the {fleet.host.variant} host, all well again", time.monotonic() - started
        )


@pytest.mark.parametrize("service", ["viewer", "worker", "opensandbox"])
def test_stream_outlives_what_is_not_in_its_path(fleet: Fleet, service: str) -> None:
    with fleet.api.desktop() as session, watching(fleet.api, session.id) as stream:
        killed = fleet.kill(service)
        eventually(lambda: returned(fleet, service, killed), within=TRUE_AGAIN_SECONDS, what=fleet.logs)
        stream.assert_alive()
        wait_until_well(fleet)
        stream.assert_alive()


def test_persistent_desktop_returns_after_a_crash(fleet: Fleet) -> None:
    def running() -> list[str]:
        return [s.id for s in fleet.api.sessions(status="running") if s.kind == "desktop"]

    eventually(running, within=TRUE_AGAIN_SECONDS, what="the persistent desktop runs")
    killed = fleet.kill("desktop-studio")
    eventually(lambda: returned(fleet, "desktop-studio", killed), within=TRUE_AGAIN_SECONDS, what=fleet.logs)
    with watching(fleet.api, eventually(running, within=TRUE_AGAIN_SECONDS, what=fleet.logs)[0]) as stream:
        stream.assert_alive()


def test_killed_docker_engine_returns_and_desktops_outlive_it(plain_fleet: Fleet) -> None:
    with plain_fleet.api.desktop() as session:
        [killed, *_] = plain_fleet.pids_of("dockerd")
        plain_fleet.host.run(f"kill -9 {killed}")
        eventually(
            lambda: returned(plain_fleet, "dockerd", [killed]),
            within=TRUE_AGAIN_SECONDS,
            what=plain_fleet.logs,
        )
        wait_until_well(plain_fleet)
        assert plain_fleet.api.get(session.id).status == "running"
        # Docker's port forwarders died with it, so streams broke; they can be opened again.
        with watching(plain_fleet.api, session.id) as stream:
            stream.assert_alive()


def test_desktop_that_ends_while_the_worker_is_dead_ends_in_the_table_too(plain_fleet: Fleet) -> None:
    with plain_fleet.api.desktop() as session:
        container = plain_fleet.container_of(session)
        plain_fleet.kill("worker")
        plain_fleet.docker("rm", "--force", container)
        eventually(
            lambda: plain_fleet.api.get(session.id).status in ("terminated", "error"),
            within=TRUE_AGAIN_SECONDS,
            what="the table says that the desktop has gone",
        )


def test_orphan_without_a_row_is_left_out_of_the_table(plain_fleet: Fleet) -> None:
    """A container that is not ours is never shown as a session, whatever it is labelled."""
    before = {session.id for session in plain_fleet.api.sessions()}
    image = "deskfleet/desktop:latest"
    plain_fleet.docker(
        "run",
        "--detach",
        "--name=not-ours",
        "--label=opensandbox.io/id=not-ours",
        "--entrypoint=sleep",
        image,
        "60",
    )
    try:
        time.sleep(8)
        assert {session.id for session in plain_fleet.api.sessions()} <= before
    finally:
        plain_fleet.docker("rm", "--force", "not-ours", check=False)


def returned(fleet: Fleet, service: str, killed: list[int]) -> bool:
    now = fleet.pids_of(service)
    return bool(now) and not set(now) & set(killed)


def wait_until_well(fleet: Fleet, seconds: float = TRUE_AGAIN_SECONDS) -> None:
    """Until another desktop can be made: every part of the chain is back."""

    def makes_a_desktop() -> bool:
        with fleet.api.desktop():
            return True

    eventually(makes_a_desktop, within=seconds, what="another desktop can be made")


def table_is_true(fleet: Fleet, session: SessionView) -> bool:
    """What the table calls running has a container, and every container of a sandbox is in the table."""
    assert fleet.api.get(session.id).status == "running"
    containers = set(fleet.sandbox_containers())
    running = fleet.api.sessions(status="running")
    listed = {f"sandbox-{s.sandbox_id}" for s in running if s.kind == "sandbox"}
    return listed == containers
