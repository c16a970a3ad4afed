"""Preflight: one sentence for each thing in the way, from one look, before anything is changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.exceptions import ConnectError

from inventory.models import Site
from roles import opensandbox, viewer, wheel
from roles.choice import Chosen
from roles.preflight import (
    Database,
    DatabaseState,
    HostSituation,
    Listener,
    PreflightFailed,
    Situation,
    _ports,
    preflight,
    problems,
    problems_of_database,
    problems_of_fleet,
    problems_of_moving,
)
from tests.postgres import PostgresServer
from tests.sites import FLEET, fleet_config, fleet_site, host_config
from viewer.migrations import upgrade
from viewer.model import Status
from viewer.store import NewSession, Store

GOOD = Situation(
    os="debian", version="12", architecture="x86_64", uid=0, free_mb=50_000, installed=False, listeners=()
)
CONFIG = host_config()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"uid": 1000}, "the roll-out needs root; run it as root or with sudo"),
        ({"os": "ubuntu", "version": "24.04"}, "ubuntu 24.04 is not supported; use Debian 12"),
        ({"architecture": "riscv64"}, "the architecture riscv64 is not supported; use x86_64 or aarch64"),
        (
            {"free_mb": 900},
            "the disk is nearly full: 900 MB free below /var/lib and /opt, needed are 6000 MB",
        ),
        (
            {"listeners": (Listener(port=8060, process="python3 -m http.server 8060 (pid 7)"),)},
            "port 8060 is taken by python3 -m http.server 8060 (pid 7); stop it or choose another port with"
            " settings.ports.viewer in the site file",
        ),
        (
            {"listeners": (Listener(port=8088, process="nginx (pid 9)"),)},
            "port 8088 is taken by nginx (pid 9); stop it or choose another port with settings.edge_port"
            " in the site file",
        ),
    ],
)
def test_each_obstacle_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    assert list(problems(GOOD.model_copy(update=change), CONFIG)) == [sentence]


def test_good_host_has_none() -> None:
    assert list(problems(GOOD, CONFIG)) == []


def test_our_own_programs_may_hold_their_ports() -> None:
    ours = Listener(port=8060, process="/opt/deskfleet/viewer/current/bin/python deskfleet-viewer (pid 7)")
    assert list(problems(GOOD.model_copy(update={"listeners": (ours,)}), CONFIG)) == []


def test_holder_that_cannot_be_named_is_ours_only_after_a_roll_out() -> None:
    unknown = (Listener(port=8060, process="an unknown process"),)
    assert list(problems(GOOD.model_copy(update={"listeners": unknown}), CONFIG))
    assert not list(problems(GOOD.model_copy(update={"listeners": unknown, "installed": True}), CONFIG))


def test_installed_host_needs_less_room() -> None:
    assert list(problems(GOOD.model_copy(update={"installed": True, "free_mb": 2000}), CONFIG)) == []


def test_all_obstacles_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = GOOD.model_copy(update={"uid": 1000, "free_mb": 10})
    facts = {HostSituation: bad, DatabaseState: Database()}
    monkeypatch.setattr(
        "roles.preflight.host", type("H", (), {"get_fact": lambda _, fact, **k: facts[fact]})()
    )
    monkeypatch.setattr("roles.preflight.problems_of_desktops", lambda config: ["no KasmVNC can be had"])
    with pytest.raises(PreflightFailed) as error:
        preflight(config=CONFIG, chosen=Chosen("docker"))
    assert str(error.value).splitlines()[0] == "nothing was changed:"
    assert len(str(error.value).splitlines()) == 3
    with pytest.raises(PreflightFailed, match="no KasmVNC can be had"):
        preflight(config=CONFIG, chosen=Chosen("desktops"))


def test_one_look_is_read_back() -> None:
    seen = HostSituation().process(
        ["os debian", "version 12", "architecture x86_64", "uid 0", "free_mb 123",
         "installed yes", "listener 8060 00000000 nginx: master (pid 3)"]
    )  # fmt: skip
    assert seen == Situation(
        os="debian", version="12", architecture="x86_64", uid=0, free_mb=123, installed=True,
        listeners=(Listener(port=8060, process="nginx: master (pid 3)"),),
    )  # fmt: skip


def test_the_look_itself_finds_a_listener_and_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = HostSituation().command(ports=(port,))
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    seen = HostSituation().process(done.stdout.splitlines())
    assert seen is not None
    assert [(listener.port, f"(pid {os.getpid()})" in listener.process) for listener in seen.listeners] == [
        (port, True)
    ]


@pytest.mark.parametrize(
    ("host", "ports"),
    [
        ("edge1", {80, 443, 8443}),
        ("control1", {8060, 8443}),
        ("box1", {8050, 8070, 8080, 8443}),
        ("studio1", {8070, 8443}),
    ],
)
def test_host_of_a_fleet_needs_the_ports_of_its_groups(host: str, ports: set[int]) -> None:
    taken = tuple(Listener(port=port, process="nginx (pid 9)") for port in sorted(ports))
    address = str(fleet_config(host).host.fleet_address)
    situation = GOOD.model_copy(update={"listeners": taken, "addresses": (address,)})
    assert len(list(problems(situation, fleet_config(host)))) == len(ports)
    everything = [port for name in FLEET for port in _ports_of(name)]
    assert set(_ports_of(host)) == ports <= set(everything)


def _ports_of(host: str) -> list[int]:
    return list(_ports(fleet_config(host)))


def database(tmp_path: Path, *hosts: str) -> Database:
    """What the look says of a real database with a live sandbox on each of these hosts, and an ended one."""
    file = tmp_path / "deskfleet.db"
    upgrade(file)
    store = Store(file)
    store.accounts.add_tenant("main")
    for name in (*hosts, "ended"):
        row = (
            store.tenant("main")
            .create(NewSession(image="desktop", resolution="1280x800", ttl_seconds=600, created_by="key:1"))
            .session
        )
        store.fleet.update(row.id, host=name)
        if name == "ended":
            store.fleet.transition(row.id, Status.ERROR, error_message="it is over")
    script = DatabaseState().command(where=str(file))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    store.close()
    return DatabaseState().process(done.stdout.splitlines())


def test_sandboxes_of_a_host_that_leaves_stop_the_roll_out_unless_they_may_end(tmp_path: Path) -> None:
    seen = database(tmp_path, "box1", "old", "old", "studio1")
    assert seen == Database(exists=True, live={"box1": 1, "old": 2, "studio1": 1})
    config = fleet_config("control1")
    assert list(problems_of_database(seen, config, drop=["studio1"], elsewhere=None)) == [
        "2 sandboxes of old would end, which is no longer a sandbox host of the site file; end them first,"
        " put the host back, or let them end with --data deskfleet_drop=old"
    ]
    assert list(problems_of_database(seen, config, drop=["old", "studio1"], elsewhere=None)) == []


def test_missing_and_new_databases_say_nothing_and_a_damaged_one_why(tmp_path: Path) -> None:
    def look() -> Database:
        script = DatabaseState().command(where=str(tmp_path / "one.db"))
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        return DatabaseState().process(done.stdout.splitlines())

    assert look() == Database()
    (tmp_path / "one.db").touch()
    assert look() == Database(exists=True)
    (tmp_path / "one.db").write_bytes(b"no database" * 200)
    (said,) = problems_of_database(look(), fleet_config("control1"), drop=[], elsewhere=None)
    assert "can't be read (file is not a database)" in said


def test_control_host_never_begins_anew_while_another_host_has_the_database() -> None:
    config = fleet_config("control1")
    (said,) = problems_of_database(Database(), config, drop=[], elsewhere="box1")
    assert said.startswith("the control plane's database is on box1, not here; stop deskfleet-viewer and")
    assert "/var/lib/deskfleet/viewer" in said
    assert list(problems_of_database(Database(exists=True), config, drop=[], elsewhere="box1")) == []


def test_secrets_of_another_fleet_than_the_one_that_runs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the file is missing, and a whole new set was made in its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DESKFLEET_SECRETS", raising=False)
    config = fleet_config("box1").model_copy(update={"site_file": Path("acme.yml")})
    assert list(problems_of_fleet("f-before", config, replace=None)) == [
        "control1 runs the fleet f-before, but .local/secrets-acme.yml holds the secrets of another one,"
        " f-0123456789ab (where there are none, they are made); put back those of f-before, or replace all"
        " its keys with --data deskfleet_replace=f-before"
    ]
    given = config.model_copy(update={"site_file": None})
    (said,) = problems_of_fleet("f-before", given, replace="f-other")
    assert "but DESKFLEET_SECRETS holds" in said
    for installed in (None, "f-before", config.secrets.fleet_id):
        assert list(problems_of_fleet(installed, config, replace="f-before")) == []


def test_look_reads_the_fleet_out_of_the_settings_of_the_viewer(tmp_path: Path) -> None:
    file = tmp_path / "viewer.toml"
    file.write_text(viewer.viewer_toml(CONFIG))
    script = HostSituation().command(ports=())
    assert viewer.CONFIG in script
    for settings, fleet_id in ((file, CONFIG.secrets.fleet_id), (tmp_path / "none.toml", None)):
        there = script.replace(viewer.CONFIG, str(settings))
        done = subprocess.run(["sh", "-c", there], capture_output=True, text=True, check=True)
        seen = HostSituation().process(done.stdout.splitlines())
        assert seen is not None
        assert seen.fleet_id == fleet_id


def test_look_tells_a_former_sandbox_host_by_the_settings_of_its_server() -> None:
    assert f"[ -e {opensandbox.CONFIG} ] && echo " in HostSituation().command(ports=())
    seen = HostSituation().process(["uid 0", "had_sandboxes yes"])
    assert seen is not None
    assert seen.had_sandboxes


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (None, "is away"),
        (Database(), "has no database"),
        (Database(exists=True, trouble="file is not a database"), "can't read its database"),
    ],
)
def test_sandboxes_that_nobody_can_be_asked_for_are_not_ended(
    monkeypatch: pytest.MonkeyPatch, seen: Database | None, why: str
) -> None:
    config = fleet_config("studio1")
    look = GOOD.model_copy(
        update={"had_sandboxes": True, "addresses": (str(config.host.fleet_address),), "installed": True}
    )

    def asked(fact: object, **_: object) -> object:
        if seen is None:
            raise ConnectError("no route to host")
        return seen

    control = SimpleNamespace(name="c", data={"deskfleet": fleet_config("control1")}, get_fact=asked)
    here = SimpleNamespace(name="s", get_fact=lambda fact, **_: look)
    monkeypatch.setattr("roles.preflight.host", here)
    every = SimpleNamespace(inventory=[here, control], failed_hosts=(), is_host_in_limit=lambda _: True)
    monkeypatch.setattr("roles.preflight.state", every)
    here.data = {"deskfleet": config}
    with pytest.raises(PreflightFailed) as error:
        preflight(config=config, chosen=Chosen("docker"))
    assert str(error.value).splitlines()[1:] == [
        "studio1: its sandboxes would end, as it is no longer a sandbox host of the site file, and control1,"
        f" which knows whether any is live, {why}; mend that, put the group back, or let them end with"
        " --data deskfleet_drop=studio1"
    ]
    preflight(config=config, chosen=Chosen("docker"), drop="box9,studio1")


def test_own_service_may_have_the_node_port_on_loopback() -> None:
    own = Listener(port=8443, process="code-server (pid 9)", address="0100007F")
    elsewhere = own.model_copy(update={"address": "00000000"})
    box = fleet_config("box1")
    good = GOOD.model_copy(update={"addresses": (str(box.host.fleet_address),)})
    assert list(problems(good.model_copy(update={"listeners": (own,)}), box)) == []
    assert list(problems(good.model_copy(update={"listeners": (own, elsewhere)}), box)) == [
        "port 8443 is taken by code-server (pid 9); stop it or choose another port with"
        " settings.ports.node in the site file"
    ]


def test_host_without_sandboxes_needs_less_room() -> None:
    for name, is_enough in (("control1", True), ("box1", False)):
        config = fleet_config(name)
        small = {"free_mb": 2500, "addresses": (str(config.host.fleet_address),)}
        assert (list(problems(GOOD.model_copy(update=small), config)) == []) is is_enough


def test_fleet_address_must_be_the_hosts_own() -> None:
    elsewhere = GOOD.model_copy(update={"addresses": ("127.0.0.1", "10.77.0.99")})
    assert list(problems(elsewhere, fleet_config("box1"))) == [
        "the fleet address 10.77.0.13 is none of this host's; set hosts.box1.address in the site file to one"
        " of 10.77.0.99"
    ]


def test_firewall_needs_the_programs_that_tell_how_a_host_is_reached() -> None:
    box = fleet_config("box1")
    without = GOOD.model_copy(
        update={"addresses": (str(box.host.fleet_address),), "lacks_iproute2": True},
    )
    assert list(problems(without, box)) == [
        "`ip` or `ss` is missing, which tell the firewall how this host is reached; install it with:"
        " apt-get install iproute2"
    ]
    assert list(problems(without, fleet_config("box1", firewall={"enabled": False}))) == []


@pytest.mark.parametrize(("programs", "lacking"), [(("ip", "ss"), False), (("ip",), True), ((), True)])
def test_look_sees_whether_they_are_there(
    tmp_path: Path, programs: tuple[str, ...], *, lacking: bool
) -> None:
    line = next(line for line in HostSituation().command(ports=()).splitlines() if "lacks_iproute2" in line)
    for name in programs:
        (tmp_path / name).symlink_to("/bin/true")
    script = line.replace(":/usr/sbin:/sbin", "")
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    seen = HostSituation().process(["uid 0", *done.stdout.splitlines()])
    assert seen is not None
    assert seen.lacks_iproute2 is lacking


def test_own_addresses_are_seen_on_this_machine() -> None:
    done = subprocess.run(
        ["sh", "-c", HostSituation().command(ports=())], capture_output=True, text=True, check=True
    )
    seen = HostSituation().process(done.stdout.splitlines())
    assert seen is not None
    assert "127.0.0.1" in seen.addresses


def look_at(address: str, *, reach: str = "") -> Database:
    """As the control host would, with the Python of an earlier roll-out."""
    script = DatabaseState().command(where=address, reach=reach).replace(wheel.PYTHON, sys.executable)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return DatabaseState().process(done.stdout.splitlines())


@pytest.mark.real
def test_sandboxes_in_postgresql_are_seen_as_well(postgres_server: PostgresServer) -> None:
    empty, address = postgres_server.new(), postgres_server.migrated()
    assert look_at(str(empty)) == Database()
    store = Store(address)
    store.accounts.add_tenant("main")
    new = NewSession(image="desktop", resolution="1280x800", ttl_seconds=600, created_by="key:1")
    store.fleet.update(store.tenant("main").create(new).session.id, host="old")
    store.close()
    assert look_at(str(address)).live == {"old": 1}


def test_server_of_the_database_must_answer() -> None:
    site = fleet_site().model_dump(exclude_unset=True)
    site["settings"]["database"] = "postgresql://deskfleet@127.0.0.1:1/deskfleet"
    config = fleet_config("control1").model_copy(update={"site": Site.model_validate(site)})
    seen = look_at("postgresql://deskfleet@127.0.0.1:1/deskfleet", reach="127.0.0.1/1")
    assert list(problems_of_database(seen, config, drop=[], elsewhere=None)) == [
        "settings.database: postgresql://deskfleet@127.0.0.1:1/deskfleet can't be used from here (port 1 of"
        " 127.0.0.1 does not answer); see docs/postgresql.md"
    ]


def test_sessions_that_are_still_in_a_file_stop_the_roll_out() -> None:
    assert list(problems_of_moving(Database(), None)) == []
    [said] = problems_of_moving(Database(exists=True), None)
    assert said.startswith(
        "the fleet's sessions are in /var/lib/deskfleet/viewer/deskfleet.db; move them into"
    )
    [said] = problems_of_moving(Database(), "edge1")
    assert "deskfleet.db on edge1;" in said
