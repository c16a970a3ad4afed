"""Roll-outs that go wrong: nothing is changed, or the rest finishes, or the next run makes it whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from inventory.models import Site
from tests.online.fleet import eventually
from tests.online.spread import SpreadFleet, changes_between
from tests.online.streams import watching
from tests.online.test_fleet_roll_out import is_alive, plain_service, with_settings
from tests.soaking import is_soaking

pytestmark = pytest.mark.host

MOMENTS = 10 if is_soaking() else 3
SEED = 3
LISTENER = "import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
VIEWER_TOML = "/etc/deskfleet/viewer.toml"


@pytest.fixture(scope="module", autouse=True)
def the_site_as_it_was(bare_spread: SpreadFleet) -> Iterator[None]:
    before = bare_spread.site
    yield
    bare_spread.operator.write(before)
    bare_spread.roll_out()


def test_failed_preflight_of_one_host_stops_everything_before_any_change(spread: SpreadFleet) -> None:
    """The relays' new port is taken on one of three hosts that would get it; and all hosts had work to do."""
    original = spread.site
    moved = with_settings(original, ports=original.settings.ports.model_copy(update={"relay": 8071}))
    with port_taken(spread, "studio1", 8071), spread.changed(plain_service(moved)):
        before = spread.listings()
        done = spread.roll_out(check=False)
        assert done.code != 0
        assert "studio1: port 8071 is taken by" in done.said, done.said[-3000:]
        assert "Traceback" not in done.said
        assert [line for line in changes_between(before, spread.listings()) if not is_alive(line)] == []
    assert spread.roll_out().changes == {}


@contextmanager
def port_taken(spread: SpreadFleet, name: str, port: int) -> Iterator[None]:
    machine = spread.machines[name]
    machine.daemon.docker("exec", "--detach", machine.name, "python3", "-c", LISTENER.format(port=port))
    eventually(lambda: f":{port} " in machine.run("ss -Hlnt").out, within=10, what="the port is taken")
    try:
        yield
    finally:
        machine.run("pkill -f socket.create_server", check=False)


def test_unreachable_host_is_left_out_and_the_next_run_mends_it(spread: SpreadFleet) -> None:
    """A change for the edge and box2, while nobody gets onto box2."""
    spread.operator.change(plain_service)
    with spread.cut_off("box2"):
        done = spread.roll_out(check=False)
    assert done.code != 0
    assert "box2" in done.results.failed_hosts or "box2" in said_of_hosts(done.said)
    assert "left out: it cannot be reached" in said_of_hosts(done.said)["box2"]
    assert done.changed_hosts == {"edge1"}, done.changes
    mended = spread.roll_out()
    assert mended.changed_hosts == {"box2"}, mended.changes
    assert spread.roll_out().changes == {}


def test_host_lost_on_the_way_is_told_and_mended(spread: SpreadFleet) -> None:
    """Its connection dies when the hosts are prepared; the edge's part comes after that."""
    spread.operator.change(plain_service)
    running = spread.checkout.start("inventory", "deploy.py", "-y", "--json")
    assert running.follow("Phase: hosts are prepared")
    with spread.cut_off("box2"):
        spread.machines["box2"].run("pkill -f 'sshd: op'", check=False)
        done = running.finish()
    assert done.code != 0
    assert "box2" in done.results.failed_hosts
    assert not said_of_hosts(done.said)["box2"].startswith("no changes")
    assert "edge1" in done.changed_hosts, done.changes
    assert "box2" in spread.roll_out().changed_hosts
    assert spread.roll_out().changes == {}


def said_of_hosts(said: str) -> dict[str, str]:
    """Host → what the last lines of a roll-out say of it."""
    _, _, told = said.rpartition("--> Hosts:")
    lines = [line.split(None, 1) for line in told.splitlines() if line.startswith("    ")]
    return {words[0]: words[1] for words in lines if len(words) == 2}


@pytest.mark.soak
def test_killed_roll_out_is_made_whole_by_the_next_one(spread: SpreadFleet) -> None:
    """kill -9 of the operator's process at seeded moments, each of a roll-out that has three hosts to change
    and services to restart."""
    steps = steps_of(spread)
    moments = random.Random(SEED)
    with spread.api.desktop() as session, watching(spread.api, session.id) as stream:
        for round_number in range(MOMENTS):
            moment = moments.choice(steps)
            site = spread.operator.change(lambda site, n=round_number: another_state(site, n))  # type: ignore[misc]
            running = spread.checkout.start("inventory", "deploy.py", "-y", "--json")
            assert running.follow(f"Starting operation: {moment}"), moment
            running.kill()
            spread.roll_out()
            assert_in_force(spread, site)
        stream.assert_alive()
    assert spread.roll_out().changes == {}


def steps_of(spread: SpreadFleet) -> list[str]:
    """Names of a roll-out's operations, in their order."""
    return [operation.name for operation in spread.roll_out().results.operations]


def another_state(site: Site, number: int) -> Site:
    """Something else for the viewer, its worker and two Caddys than in the round before."""
    ttl = site.settings.ttl.model_copy(update={"default": 3000 + number})
    return plain_service(with_settings(site, ttl=ttl))


def assert_in_force(spread: SpreadFleet, site: Site) -> None:
    """What runs has read what lies there: a restart that a killed run owed was not forgotten."""
    control = spread.on(site.control)
    assert f"= {site.settings.ttl.default}\n" in control.host.read(VIEWER_TOML)
    written = float(control.host.run(["stat", "--format=%.Y", VIEWER_TOML]).out)
    for service in ("viewer", "worker"):
        pids = control.pids_of(service)
        assert pids, f"{service} does not run"
        assert started_at(spread, site.control, min(pids)) >= written - 0.1, f"{service} was not restarted"


def started_at(spread: SpreadFleet, name: str, pid: int) -> float:
    """Seconds since the epoch."""
    ago = spread.machines[name].run(
        f"awk '{{print $22}}' /proc/{pid}/stat; getconf CLK_TCK; cat /proc/uptime; date +%s.%N"
    )
    ticks, per_second, uptime, _, now = ago.out.split()
    return float(now) - (float(uptime) - float(ticks) / float(per_second))
