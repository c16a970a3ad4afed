"""`make fleet` and `make fleet-down` for real: the first over the five hosts that the tests have, the second
on a dockerd of its own with one tiny machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fleet import __main__ as make_fleet
from tests.hosts.bare_host import DAEMON, BareHosts, bare_hosts
from tests.hosts.lan import Lan
from tests.hosts.own_docker import RULE_COMMENT, RUN, OwnDocker, take_down
from tests.hosts.scan import open_ports
from tests.online.fleet import Api, eventually
from tests.online.spread import SpreadFleet

pytestmark = pytest.mark.host

SMALL_SUBNET = ipaddress.IPv4Network("10.78.0.0/24")


def printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# --- up ---


@pytest.fixture
def typed_here(spread: SpreadFleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if `make fleet` had made the five hosts: their operator's clone is the working directory, with his
    files where the command keeps its own, and his site is the example."""
    subnet = str(spread.lan.subnet)
    if printed("ip", "route", "show", subnet):
        pytest.skip(f"this machine has a way to {subnet} already: a `make fleet` is up")
    monkeypatch.chdir(spread.checkout.path)
    make_fleet.FOLDER.mkdir(parents=True)
    for path in spread.operator.folder.iterdir():
        if path.is_file():
            shutil.copy2(path, make_fleet.FOLDER)
    monkeypatch.setattr(make_fleet, "EXAMPLE", spread.operator.site_file)

    @contextmanager
    def the_hosts(*, keep: bool, daemon: str) -> Iterator[BareHosts]:
        yield BareHosts(spread.hosts.daemon, keeping=keep)

    monkeypatch.setattr(make_fleet, "bare_hosts", the_hosts)
    for name in spread.operator.env:
        monkeypatch.setenv(name, "")  # what the command sets is taken back with it
    yield
    subprocess.run(["ip", "route", "del", subnet], check=False)
    shutil.rmtree(make_fleet.FOLDER)
    make_fleet.ENVIRONMENT.unlink(missing_ok=True)


@pytest.mark.usefixtures("typed_here")
def test_make_fleet_rolls_out_and_the_ways_in_that_it_names_work_from_here(
    spread: SpreadFleet, capsys: pytest.CaptureFixture[str], figure: Callable[[str, float], None]
) -> None:
    assert make_fleet.main(["up"]) == 0, "".join(capsys.readouterr())
    said = capsys.readouterr().out
    assert said.count("no changes\n") == len(spread.machines), said
    assert f"on {len(spread.machines)} hosts" in said
    assert "/signin#token=" in said
    lines = make_fleet.ENVIRONMENT.read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines)
    api = Api(os.getpid(), told["DESKFLEET_URL"], told["DESKFLEET_KEY"], spread.door)
    assert api.call("GET", "/api/v1/sessions").status_code == 200
    figure("make fleet over hosts that are as they should be", float(said.split("Done in ")[1].split()[0]))


# --- down ---


@pytest.fixture
def small_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnDocker]:
    """What `make fleet` leaves up: a dockerd, a machine on a network, the way to it from here, and files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(make_fleet, "DAEMON", f"{DAEMON}-down")
    with bare_hosts(keep=True, daemon=make_fleet.DAEMON) as hosts:
        lan = Lan(hosts.daemon, SMALL_SUBNET)
        lan.make()
        make_fleet._reach_from_here(lan)
        start_tiny_machine(lan, str(SMALL_SUBNET[11]))
    make_fleet.FOLDER.mkdir(parents=True)
    (make_fleet.FOLDER / "ssh.key").touch(0o600)
    make_fleet.ENVIRONMENT.touch(0o600)
    yield hosts.daemon
    take_down(make_fleet.DAEMON)


def start_tiny_machine(lan: Lan, address: str) -> None:
    """One busybox, whose web server answers here."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    archive = ["tar", "--dereference", "-C", str(busybox.parent), "-cf", "-", busybox.name]
    root = subprocess.run(archive, capture_output=True, check=True).stdout
    command = ["docker", "import", "-", "tiny:1"]
    subprocess.run(command, env=lan.daemon.env, input=root, capture_output=True, check=True)
    where = (f"--network={lan.name}", f"--ip={address}")
    lan.daemon.docker("run", "--detach", *where, "tiny:1", "/busybox", "httpd", "-f", "-p", "80")
    eventually(lambda: open_ports(address, [80]) == [80], within=20, what="the machine answers here")


def test_make_fleet_down_leaves_nothing(small_fleet: OwnDocker) -> None:
    assert set(traces_of(small_fleet)) == {"processes", "network", "link", "way", "rules", "files", "number"}
    assert make_fleet.main(["down"]) == 0
    assert traces_of(small_fleet) == {}
    assert list(Path(".local").iterdir()) == []
    assert make_fleet.main(["down"]) == 0  # nothing to do is fine


def traces_of(daemon: OwnDocker) -> dict[str, str]:
    """What of a fleet is on this machine; the images in its cache are meant to stay."""
    found = {
        "processes": " ".join(processes_naming(f"{daemon.run_dir}/")),
        "network": printed("ip", "netns", "list").partition(daemon.netns)[1],
        "link": printed("ip", "-o", "link").partition(f"{daemon.link}@")[1],
        "way": printed("ip", "route", "show", str(SMALL_SUBNET)),
        "rules": printed("iptables-save").partition(f"{RULE_COMMENT}-{daemon.name} ")[1],
        "files": str(daemon.run_dir) if daemon.run_dir.exists() else "",
        "number": "taken" if (RUN / "numbers" / str(daemon.number)).exists() else "",
    }
    return {what: trace for what, trace in found.items() if trace}


def processes_naming(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text in (entry / "cmdline").read_text():
                found.append(entry.name)
        except OSError:
            continue
    return found
