"""Fixtures: bare hosts with Deskfleet on them. Each variant is brought up at most once in a run.

While developing: DESKFLEET_TEST_KEEP=1 keeps the hosts when pytest ends; the next run takes them over and
types `make up` again with a new clone. DESKFLEET_TEST_DIRTY=1 lays uncommitted changes over the clone,
DESKFLEET_TEST_UP=0 leaves a kept host as it is. `python -m tests.hosts.bare_host down` takes all away.
DESKFLEET_TEST_DAEMON=other lets a second run go beside a first; --capture=sys shows `make up` while it runs.
"""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import CHROMIUM, FLAGS
from tests.fleet.roll_out import RollOut
from tests.hosts.bare_host import CLONE, BareHost, BareHosts, Variant, bare_hosts
from tests.hosts.listing import Listing, list_host
from tests.hosts.own_docker import CACHE
from tests.online.fleet import Fleet
from tests.online.spread import SpreadFleet, bring_up_spread

TEST_SECONDS = 1500  # the first test on a host waits for its `make up`
FOREIGN_FILE = "/srv/somebody-elses/notes.txt"
_figures: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: takes the fleet down; runs after all others on that host")


@pytest.hookimpl(trylast=True)  # after pytest's own reordering by fixtures
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The plain host, then the systemd host, each with `last` after the others; then the five hosts."""
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    others = [item for item in items if here not in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.timeout(TEST_SECONDS))
    items[:] = others + sorted(ours, key=_turn)


def _turn(item: pytest.Item) -> tuple[bool, bool, bool]:
    variant = getattr(item, "callspec", None) and item.callspec.params.get("fleet")  # type: ignore[attr-defined]
    fixtures: list[str] = getattr(item, "fixturenames", [])
    on_systemd = variant is Variant.SYSTEMD or "systemd_fleet" in fixtures
    on_five = bool({"spread", "bare_spread"} & set(fixtures))
    return on_five, on_systemd, item.get_closest_marker("last") is not None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _figures:
        terminalreporter.section("figures of the bare hosts")
        for line in _figures:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figure() -> Callable[[str, float], None]:
    """Note a time that the summary prints: what, seconds."""

    def note(what: str, seconds: float) -> None:
        _figures.append(f"{seconds:8.1f} s  {what}")

    return note


@pytest.fixture(scope="session")
def hosts() -> Iterator[BareHosts]:
    with bare_hosts() as running:
        yield running


class Fleets:
    """Brings up a variant the first time it is asked for."""

    def __init__(self, hosts: BareHosts, figure: Callable[[str, float], None]) -> None:
        self._hosts = hosts
        self._figure = figure
        self._up: dict[Variant, Fleet | BaseException] = {}

    def get(self, variant: Variant) -> Fleet:
        """Raises the same error to every test if `make up` failed, without trying for minutes each time."""
        if variant not in self._up:
            try:
                self._up[variant] = self._bring_up(variant)
            except BaseException as error:
                self._up[variant] = error
        found = self._up[variant]
        if isinstance(found, Fleet):
            return found
        raise RuntimeError(f"`make up` on the {variant} host failed: {found}") from found

    def _bring_up(self, variant: Variant) -> Fleet:
        host, is_new = self._hosts.start(variant)
        if is_new and variant is Variant.SYSTEMD:
            prepare_machine_of_somebody_else(host)
        fleet = Fleet(host, _listing_before(host, is_new=is_new), was_bare=is_new)
        if is_new or os.environ.get("DESKFLEET_TEST_UP") != "0":
            host.put_clone()
            done = fleet.make("up")
            fleet.first_up = done
            self._figure(f"make up on the {variant} host ({'bare' if is_new else 'kept'})", done.seconds)
        return fleet


def _listing_before(host: BareHost, *, is_new: bool) -> Listing:
    kept = CACHE / f"before-{host.name}.json"
    if is_new or not kept.exists():  # a host started by hand was bare a moment ago, or the last test fails
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(list_host(host).to_json())
    return Listing.from_json(kept.read_text())


def prepare_machine_of_somebody_else(host: BareHost) -> None:
    """Docker from Debian, with an image, a running container, a volume and a network; and a file."""
    host.run(
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes"
        " --no-install-recommends docker.io iptables",
        timeout=300,
    )
    host.run("until docker info >/dev/null 2>&1; do sleep 0.3; done")
    host.run(
        "tar -C / -chf - usr/bin/sleep $(ldd /usr/bin/sleep | grep -o '/lib[^ ]*')"
        " | docker import - somebody/image:1"
        " && docker network create somebodys-network && docker volume create somebodys-volume"
        " && docker run -d --restart=always --name somebodys-container --network somebodys-network"
        "    -v somebodys-volume:/data somebody/image:1 /usr/bin/sleep infinity"
        f" && mkdir -p {Path(FOREIGN_FILE).parent} && echo mine > {FOREIGN_FILE}"
    )


@pytest.fixture(scope="session")
def fleets(hosts: BareHosts, figure: Callable[[str, float], None]) -> Fleets:
    return Fleets(hosts, figure)


@pytest.fixture(scope="session")
def plain_fleet(fleets: Fleets) -> Fleet:
    """Deskfleet on a machine without systemd, brought up from nothing."""
    return fleets.get(Variant.PLAIN)


@pytest.fixture(scope="session")
def systemd_fleet(fleets: Fleets) -> Fleet:
    """Deskfleet beside somebody else's Docker, on a machine with systemd."""
    return fleets.get(Variant.SYSTEMD)


@pytest.fixture(params=list(Variant), scope="session")
def fleet(request: pytest.FixtureRequest, fleets: Fleets) -> Fleet:
    """Both, one after the other."""
    return fleets.get(request.param)


@pytest.fixture(scope="session")
def unprepared_host(hosts: BareHosts) -> Iterator[BareHost]:
    """A bare host with a clone and make's Python environment, where `make up` is going to be refused."""
    host, is_new = hosts.start(Variant.PLAIN, "bare-refused")
    host.put_clone()
    if is_new:
        host.run(["make", ".venv/.deploy"], cwd=CLONE, timeout=600)
    yield host
    if not hosts.keeping:
        host.destroy()


@pytest.fixture(scope="session")
def bare_spread(hosts: BareHosts, figure: Callable[[str, float], None]) -> Iterator[SpreadFleet]:
    """The five machines of the example, looked at from outside, before any roll-out of this run."""
    started = time.monotonic()
    fleet = bring_up_spread(hosts)
    figure(f"{len(fleet.machines)} machines with sshd", time.monotonic() - started)
    started = time.monotonic()
    fleet.look_at_bare_hosts()
    figure("a look at them, and a preview", time.monotonic() - started)
    yield fleet
    if not hosts.keeping:
        for host in fleet.machines.values():
            host.destroy()


@pytest.fixture(scope="session")
def first_roll_out(bare_spread: SpreadFleet, figure: Callable[[str, float], None]) -> RollOut:
    """The first roll-out of this run to the five hosts; a failed one is told by every test that needs it."""
    done = bare_spread.roll_out(check=False)
    kind = "bare" if bare_spread.was_bare else "kept"
    figure(f"first roll-out to {len(bare_spread.machines)} {kind} hosts", done.seconds)
    if done.code == 0:
        bare_spread.look_at_what_was_made()
    return done


@pytest.fixture
def spread(bare_spread: SpreadFleet, first_roll_out: RollOut) -> SpreadFleet:
    """The example on five hosts."""
    if first_roll_out.code:
        pytest.fail(f"the first roll-out ended with {first_roll_out.code}: {first_roll_out.said[-3000:]}")
    return bare_spread


@pytest.fixture(scope="module")
def browser(plain_fleet: Fleet) -> Iterator[Browser]:
    """Chromium of this machine inside the plain host's network: its localhost is the host's."""
    with chromium_in(plain_fleet.host.enter) as running:
        yield running


@contextmanager
def chromium_in(enter: Callable[..., list[str]], *flags: str) -> Iterator[Browser]:
    """Chromium of this machine inside a network; `enter` makes a command one that runs there."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        wrapper = Path(folder) / "chromium"
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(enter(CHROMIUM))} "$@"\n')
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        running = playwright.chromium.launch(executable_path=wrapper, args=[*FLAGS, *flags])
        yield running
        running.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failing online test shows what the host's services said last."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Fleet):
                report.sections.append((f"services on {value.host.name}", value.logs()))
            if isinstance(value, SpreadFleet):
                report.sections.append(("services on the five hosts", value.logs()))
