"""Caddy on the hosts of a fleet: what each gets, and what a new certificate changes."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from inventory.authority import renewed
from inventory.models import Certificates, HostConfig
from roles.caddy import BINARY, CADDYFILE, HOME, RUNTIME, UNIT, USER, WHEEL_HASHES, caddy
from roles.caddyfile import DATA
from roles.facts import Account, HasIpv6Loopback, HasSystemd, Paths, PathState, Text, UnitState, User
from roles.facts import Unit as UnitFact
from tests.role_runner import RunRole, Step, changes
from tests.sites import FLEET, fleet_config, host_config

FIRST = renewed(None, fleet_config("box1").site, datetime.now(UTC))
SECOND = renewed(None, fleet_config("box1").site, datetime.now(UTC))


def config(name: str, certificates: Certificates = FIRST) -> HostConfig:
    plain = fleet_config(name)
    return plain.model_copy(
        update={"secrets": plain.secrets.model_copy(update={"certificates": certificates})}
    )


FRESH: dict[Any, Any] = {
    HasSystemd: True,
    HasIpv6Loopback: True,
    Paths: lambda paths: {},
    User: None,
    UnitFact: UnitState("", "", ""),
    Text: "",
}
OTHERS = {
    HOME: PathState("", "755", "root", "root"),
    DATA: PathState("", "750", USER, USER),
    RUNTIME.path: PathState("", "700", USER, USER),
    "/etc/deskfleet/tls": PathState("", "755", "root", "root"),
    BINARY: PathState("", "755", "root", "root"),
}


def after(steps: list[Step]) -> dict[Any, Any]:
    """The facts of a host after these steps."""
    puts = {command[1].removesuffix(".new"): command[2] for _, commands in steps for command in commands
            if isinstance(command, tuple)}  # fmt: skip
    files = {path: state(path, text) for path, text in puts.items()}
    unit = puts[f"/etc/systemd/system/{UNIT.name}.service"]
    started = hashlib.sha256(unit.encode()).hexdigest()
    (loaded,) = {
        command.split("'")[1]
        for _, commands in steps for command in commands
        if isinstance(command, str) and command.startswith("echo") and ".loaded" in command
    }  # fmt: skip

    def paths(paths: list[str]) -> dict[str, PathState]:
        known = OTHERS | files
        found = {path: known[path] for path in paths if path in known}
        # The marker of the installed binary, whatever it is called.
        markers = [path for path in paths if path.startswith(f"{HOME}/") and path != BINARY]
        return found | {path: PathState("", "644", "root", "root") for path in markers}

    return FRESH | {
        Paths: paths,
        User: Account(DATA, "/usr/sbin/nologin", (USER,)),
        UnitFact: UnitState(started, started, loaded),
    }


def state(path: str, text: str) -> PathState:
    secret = path.endswith("host.pem")
    sha = hashlib.sha256(text.encode()).hexdigest()
    return PathState(sha, "640" if secret else "644", "root", USER if secret else "root")


@pytest.mark.parametrize("host", FLEET)
def test_second_run_changes_nothing(run_role: RunRole, host: str) -> None:
    facts = after(run_role(caddy, facts=FRESH, config=config(host)))
    assert changes(run_role(caddy, facts=facts, config=config(host))) == []


def test_certificates_lie_there_before_the_check_reads_them(run_role: RunRole) -> None:
    names = [name for name, _ in run_role(caddy, facts=FRESH, config=config("box1"))]
    assert names.index("Caddy | Make its user") < names.index("Caddy | Write host.pem")
    last = max(names.index(f"Caddy | Write {file}") for file in ("ca.pem", "host.pem"))
    assert last < names.index("Caddy | Write Caddyfile")


def test_new_certificate_is_loaded_without_a_restart(run_role: RunRole) -> None:
    facts = after(run_role(caddy, facts=FRESH, config=config("box1")))
    steps = dict(changes(run_role(caddy, facts=facts, config=config("box1", SECOND))))
    assert set(steps) == {"Caddy | Write ca.pem", "Caddy | Write host.pem", "Caddy | Run Caddy"}
    reload, *_ = steps["Caddy | Run Caddy"]
    assert f"reload --force --adapter caddyfile --config {CADDYFILE}" in reload
    assert not any("restart" in command for command in steps["Caddy | Run Caddy"])


def test_site_of_one_host_has_no_certificates(run_role: RunRole) -> None:
    steps = run_role(caddy, facts=FRESH, config=host_config())
    assert not [name for name, _ in steps if ".pem" in name or ".key" in name]


def test_private_key_shows_in_no_command(run_role: RunRole) -> None:
    key = FIRST.hosts["box1"].key.get_secret_value()
    steps = run_role(caddy, facts=FRESH, config=config("box1"))
    commands = [command for _, found in steps for command in found if isinstance(command, str)]
    assert not [command for command in commands if "PRIVATE KEY" in command or key[40:80] in command]


def test_only_the_edge_is_given_the_low_ports(run_role: RunRole) -> None:
    for host in FLEET:
        steps = dict(run_role(caddy, facts=FRESH, config=config(host)))
        (unit,) = [
            command[2] for command in steps["Caddy | Run Caddy"]
            if isinstance(command, tuple) and command[1].endswith(".service.new")
        ]  # fmt: skip
        assert ("CAP_NET_BIND_SERVICE" in unit) == (host == "edge1")


def test_binary_is_pinned_for_both_machines() -> None:
    assert set(WHEEL_HASHES) == {"x86_64", "aarch64"}
