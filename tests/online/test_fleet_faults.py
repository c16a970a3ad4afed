"""Roll-outs that go wrong: nothing is changed, or the rest finishes, or the next run makes it whole."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from inventory.models import Site
from roles.caddy import BINARY, CADDYFILE
from roles.units import path_of
from tests.hosts.bare_host import BareHost, Variant
from tests.online.fleet import eventually
from tests.online.spread import BEHIND_ANOTHER, SpreadFleet, changes_between
from tests.online.streams import watching
from tests.online.test_fleet_roll_out import is_alive, no_sandboxes, plain_service, with_settings
from tests.soaking import is_soaking

pytestmark = pytest.mark.host

MOMENTS = 40 if is_soaking() else 10
SEED = 3
KILLING_SECONDS = 3600
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
    eventually(lambda: no_sandboxes(spread), within=60, what="the sandboxes of former tests are gone")
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


@pytest.mark.parametrize(
    ("cut", "lost", "without"),
    [
        ("box2", {"box2"}, ""),
        ("control1", {"control1"}, "control1"),
        # The way to the host behind it is lost, too.
        ("edge1", {"edge1", BEHIND_ANOTHER}, "edge1"),
    ],
)
def test_unreachable_host_is_left_out_and_the_next_run_mends_it(
    spread: SpreadFleet, cut: str, lost: set[str], without: str
) -> None:
    """A change for edge, control host and box2, while nobody gets onto one of them."""
    spread.operator.change(one_more_second)
    with spread.cut_off(cut):
        done = spread.roll_out(check=False)
    assert done.code != 0
    said = said_of_hosts(done.said)
    assert {name for name in said if "left out: it cannot be reached" in said[name]} == lost
    assert done.changed_hosts == {"edge1", "control1", "box2"} - lost, done.changes
    note = f"The check was left out, because it needs {without}"
    assert (note in done.said) == bool(without), done.said[-3000:]
    assert spread.roll_out().changed_hosts == {cut}


def one_more_second(site: Site) -> Site:
    """Something else for the viewer, its worker and two Caddys than now."""
    return another_state(site, site.settings.ttl.default + 1)


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


# --- kill -9 ---


@dataclass(frozen=True)
class Moment:
    """`after` these lines, one after the other, and so many seconds more. goes_back: the operator then takes
    his change back, instead of rolling it out again."""

    after: tuple[str, ...]
    seconds: float
    goes_back: bool


RESTARTS_THE_VIEWER = ("Starting operation: Viewer | Run the viewer",)
RELOADS_THE_EDGE = (
    "Starting operation: Phase: the hosts let each other in",
    "Starting operation: Caddy | Run Caddy",
)


@pytest.mark.soak
@pytest.mark.timeout(KILLING_SECONDS)
def test_killed_roll_out_is_made_whole_by_the_next_one(
    spread: SpreadFleet, figure: Callable[[str, float], None]
) -> None:
    """kill -9 of the operator's process at ten seeded moments, each of a roll-out that has three hosts to
    change and services to restart."""
    moments = seeded_moments(spread)
    with spread.api.desktop() as session, watching(spread.api, session.id) as stream:
        started = time.monotonic()
        for moment in moments:
            former, site = spread.site, spread.operator.change(one_more_second)
            kill_at(spread, moment)
            if moment.goes_back:
                site = former
                spread.operator.write(former)
            assert spread.roll_out().code == 0
            assert_in_force(spread, site)
        figure("one kill and the roll-out after it", (time.monotonic() - started) / len(moments))
        stream.assert_alive()
    assert spread.roll_out().changes == {}


def seeded_moments(spread: SpreadFleet) -> list[Moment]:
    """Two where something is restarted or reloaded, each with both ways on from there, the others anywhere;
    the delay leads into operations."""
    seeded = random.Random(SEED)
    steps = [operation.name for operation in spread.roll_out().results.operations]
    others = [(f"Starting operation: {seeded.choice(steps)}",) for _ in range(MOMENTS - 4)]
    owed = (RESTARTS_THE_VIEWER, RELOADS_THE_EDGE)
    return [
        Moment(after, seeded.uniform(0, 1), goes_back=number % 4 > 1)
        for number, after in enumerate((*owed, *owed, *others))
    ]


def kill_at(spread: SpreadFleet, moment: Moment) -> None:
    running = spread.checkout.start("inventory", "deploy.py", "-y", "--json")
    for line in moment.after:
        assert running.follow(line), moment
    time.sleep(moment.seconds)
    running.kill()


def another_state(site: Site, seconds: int) -> Site:
    ttl = site.settings.ttl.model_copy(update={"default": seconds})
    return plain_service(with_settings(site, ttl=ttl))


def assert_in_force(spread: SpreadFleet, site: Site) -> None:
    """What runs has read what lies there: a restart that a killed run owed was not forgotten."""
    control = spread.on(site.control)
    assert f"= {site.settings.ttl.default}\n" in control.host.read(VIEWER_TOML)
    for service in ("viewer", "worker"):
        pids = control.pids_of(service)
        assert pids, f"{service} does not run"
        unit = path_of(f"deskfleet-{service}", systemd=control.host.variant is Variant.SYSTEMD)
        stamps = {stamp_in(control.host, file) for file in (unit, f"/proc/{min(pids)}/environ")}
        assert len(stamps) == 1, f"{service} was not restarted"
    for name in (site.edge, "box2"):
        assert loaded_by_caddy(spread, name) == written_for_caddy(spread, name), f"{name} was not reloaded"


def loaded_by_caddy(spread: SpreadFleet, name: str) -> object:
    """The configuration that Caddy runs, from its admin socket."""
    return json.loads(spread.machines[name].run(["python3", "-c", _ADMIN]).out)


def written_for_caddy(spread: SpreadFleet, name: str) -> object:
    """The configuration that Caddy's file means."""
    argv = [BINARY, "adapt", "--adapter", "caddyfile", "--config", CADDYFILE]
    return json.loads(spread.machines[name].run(" ".join([*argv, "2>/dev/null"])).out)


_ADMIN = """
import socket, sys
with socket.socket(socket.AF_UNIX) as admin:
    admin.connect("/run/deskfleet/caddy/admin.sock")
    admin.sendall(b"GET /config/ HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
    print(admin.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2].decode())
"""


def stamp_in(host: BareHost, file: str) -> str:
    """What stands, in a unit's file and in its process's environment, for all that it read at its start."""
    return host.run(f"tr '\\0' '\\n' < {file} | grep -om1 'DESKFLEET_STAMP=.*' | tr -d '\"'").out
