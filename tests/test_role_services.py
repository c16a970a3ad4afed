"""OpenSandbox, relay, viewer, Caddy and desktops: what each writes and runs, and that a second run does
nothing."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roles import caddy as caddy_role
from roles import desktops as desktops_role
from roles import hostwatch as hostwatch_role
from roles import opensandbox as opensandbox_role
from roles import python as python_role
from roles import relay as relay_role
from roles import viewer as viewer_role
from roles import wheel
from roles.caddyfile import OWN_CERTIFICATE, OWN_KEY
from roles.facts import (
    Account,
    HasIpv6Loopback,
    HasSystemd,
    MissingPackages,
    Paths,
    PathState,
    Text,
    UnitState,
    User,
)
from roles.facts import Unit as UnitFact
from tests.role_runner import RunRole, Step, changes
from tests.sites import SECRET_WORDS, host_config

CONFIG = host_config()
SETTINGS = CONFIG.site.settings
Call = tuple[Callable[..., Any], dict[str, Any]]
ROLES: dict[str, Call] = {
    "opensandbox": (
        opensandbox_role.opensandbox,
        {
            "settings": SETTINGS,
            "key": CONFIG.secrets.opensandbox_keys["here"],
            "execd_image": "deskfleet/execd:latest",
            "network": "deskfleet",
        },
    ),
    "hostwatch": (
        hostwatch_role.hostwatch,
        {
            "settings": SETTINGS,
            "key": CONFIG.secrets.relay_keys["here"],
            "fleet_id": CONFIG.secrets.fleet_id,
        },
    ),
    "relay": (
        relay_role.relay,
        {"settings": SETTINGS, "key": CONFIG.secrets.relay_keys["here"], "has_sandboxes": True},
    ),
    "viewer": (viewer_role.viewer, {"config": CONFIG}),
    "caddy": (caddy_role.caddy, {"config": CONFIG}),
    "desktops": (desktops_role.desktops, {"config": CONFIG}),
}
AWAY: dict[str, Call] = {
    "opensandbox": (opensandbox_role.no_opensandbox, {}),
    "hostwatch": (hostwatch_role.no_hostwatch, {}),
    "relay": (relay_role.no_relay, {}),
    "viewer": (viewer_role.no_viewer, {}),
    "caddy": (caddy_role.no_caddy, {}),
    "desktops": (desktops_role.no_desktops, {"wanted": CONFIG.desktops}),
}


@pytest.fixture(autouse=True)
def fixed_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sources' hash changes with every commit; no test here depends on it."""
    monkeypatch.setattr(wheel, "sources", lambda: "sources")


def fresh(*, systemd: bool = False) -> dict[Any, Any]:
    return {
        HasSystemd: systemd,
        HasIpv6Loopback: True,
        Paths: lambda paths: {},
        User: None,
        UnitFact: UnitState("", "", ""),
        Text: "",
        MissingPackages: list[str](),
        desktops_role.MadeDesktops: list[str](),
        viewer_role.HeldKeys: list[str](),
    }


def after(steps: list[Step]) -> dict[Any, Any]:
    """The facts of a host on which these steps were done, read from the steps themselves."""
    files: dict[str, PathState] = {}
    users: dict[str, Account] = {}
    stamps: dict[str, UnitState] = {}
    put: dict[str, str] = {}
    complete = ""
    for command in (command for _, commands in steps for command in commands):
        if isinstance(command, tuple):
            put[command[1]] = command[2]
            continue
        words = command.split()
        if words[:2] == ["install", "-d"]:
            files[words[8]] = PathState("", words[3], words[5], words[7])
        elif words[0] == "chown":
            user, group = words[1].split(":")
            content = put[words[2]]
            files[words[-1]] = PathState(hashlib.sha256(content.encode()).hexdigest(), words[5], user, group)
        elif words[0] == "useradd":
            groups = words[words.index("--groups") + 1].split(",") if "--groups" in words else []
            users[words[-1]] = Account(words[words.index("--home-dir") + 1],
                                       words[words.index("--shell") + 1], (words[-1], *groups))  # fmt: skip
        elif ".started;" in command:
            unit = command.split("/stamps/")[1].split(".started")[0]
            stamps[unit] = UnitState(words[1], words[1], words[5].strip("'"))
        elif "/.complete &&" in command:
            complete = words[1]
        elif " && touch " in command:
            files |= {words[-1]: PathState("", "644", "root", "root"),
                      caddy_role.BINARY: PathState("", "755", "root", "root")}  # fmt: skip
    return {
        **fresh(),
        Paths: lambda paths: {path: files[path] for path in paths if path in files},
        User: lambda user: users.get(user),
        UnitFact: lambda path, unit: stamps.get(unit, UnitState("", "", "")),
        Text: lambda path: put[f"{path}.new"].strip() if f"{path}.new" in put else complete,
        desktops_role.MadeDesktops: [
            path.rpartition("/")[2]
            for path in files
            if path.startswith(f"{desktops_role.HOME}/") and "." not in path
        ],
    }


def put(steps: list[Step], path: str) -> str:
    found = [
        c[2] for _, commands in steps for c in commands if isinstance(c, tuple) and c[1] == f"{path}.new"
    ]
    return str(found[0])


@pytest.mark.parametrize("name", ROLES)
def test_second_run_changes_nothing(run_role: RunRole, name: str) -> None:
    role, arguments = ROLES[name]
    first = run_role(role, facts=fresh(), **arguments)
    assert changes(first)
    assert changes(run_role(role, facts=after(first), **arguments)) == []


@pytest.mark.parametrize("name", AWAY)
def test_nothing_there_nothing_to_remove(run_role: RunRole, name: str) -> None:
    role, arguments = AWAY[name]
    assert changes(run_role(role, facts=fresh(), **arguments)) == []


@pytest.mark.parametrize("name", ROLES)
def test_each_program_runs_under_a_user_of_its_own(run_role: RunRole, name: str) -> None:
    role, arguments = ROLES[name]
    steps = run_role(role, facts=fresh(systemd=True), **arguments)
    units = [c[2] for _, commands in steps for c in commands if isinstance(c, tuple) and ".service" in c[1]]
    assert units
    # A desktop starts as root only to shut itself in, and then becomes its user.
    assert all(("User=root\n" in unit) == (name == "desktops") for unit in units)


@pytest.mark.parametrize("name", ROLES)
def test_no_secret_is_in_any_command(run_role: RunRole, name: str) -> None:
    role, arguments = ROLES[name]
    shown = str([c for _, cs in run_role(role, facts=fresh(), **arguments) for c in cs if isinstance(c, str)])
    secrets = CONFIG.secrets
    fernet_keys = (secrets.relay_keys["here"], secrets.viewer_key)
    for word in (*SECRET_WORDS, *(key.get_secret_value() for key in fernet_keys)):
        assert word not in shown


def test_opensandbox_stays_on_loopback_and_on_our_network(run_role: RunRole) -> None:
    role, arguments = ROLES["opensandbox"]
    config = tomllib.loads(put(run_role(role, facts=fresh(), **arguments), opensandbox_role.CONFIG))
    assert config["server"]["host"] == "127.0.0.1"
    assert config["docker"]["publish_host"] == "127.0.66.1"
    assert config["docker"]["network_mode"] == "deskfleet"
    assert (config["docker"]["port_range_min"], config["docker"]["port_range_max"]) == (40000, 40999)
    assert config["storage"]["allowed_host_paths"] == []


def test_opensandbox_configuration_is_read_by_the_servers_own_loader_before_the_swap(
    run_role: RunRole,
) -> None:
    role, arguments = ROLES["opensandbox"]
    commands = dict(run_role(role, facts=fresh(), **arguments))["OpenSandbox | Write config.toml"]
    check = next(index for index, command in enumerate(commands) if "load_config" in command)
    swap = next(index for index, command in enumerate(commands) if "mv -fT" in command)
    assert check < swap


def test_viewers_file_holds_hashes_only(run_role: RunRole) -> None:
    text = viewer_role.viewer_toml(CONFIG)
    assert not any(word in text for word in SECRET_WORDS)
    (tenant,) = tomllib.loads(text)["tenants"]
    assert [(key["role"], key["sha256"]) for key in tenant["keys"]] == [
        ("admin", hashlib.sha256(SECRET_WORDS[1].encode()).hexdigest()),
        ("operator", hashlib.sha256(SECRET_WORDS[2].encode()).hexdigest()),
    ]


def test_viewer_reads_the_file_that_the_deploy_writes(tmp_path: Path) -> None:
    from viewer.settings import load_settings

    file = tmp_path / "viewer.toml"
    file.write_text(viewer_role.viewer_toml(CONFIG))
    settings = load_settings(file, check_secrets=False)
    assert settings.canonical_origin == "http://deskfleet.localhost:8088"
    assert settings.hosts[0].relay_url == "http://127.0.0.1:8070"
    assert settings.image("opensandbox/desktop") == settings.image("desktop")
    assert [desktop.name for desktop in settings.desktops] == ["studio"]


def test_host_allows_the_longest_session_and_what_the_worker_adds(run_role: RunRole) -> None:
    from viewer.reconcile import HOST_GRACE

    role, arguments = ROLES["opensandbox"]
    config = tomllib.loads(put(run_role(role, facts=fresh(), **arguments), opensandbox_role.CONFIG))
    asked = SETTINGS.ttl.max + HOST_GRACE.total_seconds()
    assert config["server"]["max_sandbox_timeout_seconds"] > asked


def test_a_site_may_name_the_screens_that_a_caller_may_ask_for() -> None:
    """The deploy and the viewer do not import each other, so the bounds stand in both."""
    from inventory import models
    from viewer import incoming

    assert (models.SMALLEST_SCREEN, models.LARGEST_SCREEN) == (incoming.SMALLEST, incoming.LARGEST)


def test_relay_reads_the_file_that_the_deploy_writes(run_role: RunRole, tmp_path: Path) -> None:
    from viewer.relay.settings import read_settings

    role, arguments = ROLES["relay"]
    file = tmp_path / "relay.toml"
    file.write_text(put(run_role(role, facts=fresh(), **arguments), relay_role.CONFIG))
    settings = read_settings(file)
    assert settings.address == ("127.0.0.1", 8070)
    assert str(settings.publish_address) == "127.0.66.1"
    assert settings.opensandbox_url == "http://127.0.0.1:8080"
    file.write_text(
        put(run_role(role, facts=fresh(), **{**arguments, "has_sandboxes": False}), relay_role.CONFIG)
    )
    assert read_settings(file).opensandbox_url is None


def test_hostwatch_reads_the_file_that_the_deploy_writes_and_alone_of_ours_may_ask_docker(
    run_role: RunRole, tmp_path: Path
) -> None:
    from viewer.hostwatch.settings import read_settings

    role, arguments = ROLES["hostwatch"]
    steps = run_role(role, facts=fresh(systemd=True), **arguments)
    file = tmp_path / "hostwatch.toml"
    file.write_text(put(steps, hostwatch_role.CONFIG))
    settings = read_settings(file)
    assert settings.address == ("127.0.0.1", 8050)
    assert settings.fleet_id == CONFIG.secrets.fleet_id
    assert any("read_settings" in step for step in dict(steps)["Hostwatch | Write hostwatch.toml"])
    own = [name for name in ("hostwatch", "relay", "viewer") if _is_in_docker(run_role, name)]
    assert own == ["hostwatch"]


def _is_in_docker(run_role: RunRole, name: str) -> bool:
    role, arguments = ROLES[name]
    commands = [c for _, cs in run_role(role, facts=fresh(), **arguments) for c in cs if isinstance(c, str)]
    return any(c.startswith("useradd") and "--groups docker" in c for c in commands)


def test_changed_caddyfile_is_reloaded_not_restarted(run_role: RunRole) -> None:
    role, arguments = ROLES["caddy"]
    facts = after(run_role(role, facts=fresh(), **arguments))
    elsewhere = host_config(content_domain="pages.localhost")
    steps = dict(changes(run_role(role, facts=facts, config=elsewhere)))
    assert set(steps) == {"Caddy | Write Caddyfile", "Caddy | Run Caddy"}
    assert "validate" in steps["Caddy | Write Caddyfile"][2]
    assert " reload " in steps["Caddy | Run Caddy"][0]
    assert not any("update deskfleet-caddy" in command for command in steps["Caddy | Run Caddy"])


def test_renewed_own_certificate_files_are_loaded(run_role: RunRole) -> None:
    role, _ = ROLES["caddy"]
    own = {"/etc/ssl/desks.pem": "1" * 64, "/etc/ssl/desks.key": "2" * 64}
    config = host_config(tls={"cert": "/etc/ssl/desks.pem", "key": "/etc/ssl/desks.key"}, edge_port=8088)

    def with_files(facts: dict[Any, Any], sums: dict[str, str]) -> dict[Any, Any]:
        files = {path: PathState(sum_, "600", "root", "root") for path, sum_ in sums.items()}
        known = facts[Paths]
        return {
            **facts,
            Paths: lambda paths: {
                **known(paths=paths),
                **{path: files[path] for path in paths if path in files},
            },
        }

    facts = with_files(after(run_role(role, facts=with_files(fresh(), own), config=config)), own)
    known = facts[Paths]
    copies = {
        OWN_CERTIFICATE: PathState("1" * 64, "644", "root", "root"),
        OWN_KEY: PathState("2" * 64, "640", "root", "deskfleet-caddy"),
    }
    facts[Paths] = lambda paths: {
        **known(paths=paths),
        **{path: copies[path] for path in paths if path in copies},
    }
    assert changes(run_role(role, facts=facts, config=config)) == []
    for path in own:
        renewed = with_files(facts, {**own, path: "3" * 64})
        copy, (name, commands) = changes(run_role(role, facts=renewed, config=config))
        assert copy[0] == "Caddy | Own certificate | Copy certificate and key"
        assert name == "Caddy | Run Caddy"
        assert " reload " in commands[0]


def test_caddy_of_ones_own_is_checked_by_hash_and_version(run_role: RunRole) -> None:
    role, _ = ROLES["caddy"]
    sha = "ab" * 32
    config = host_config(caddy={"source": "url", "url": "https://downloads.example.com/caddy", "sha256": sha})
    steps = dict(run_role(role, facts=fresh(), config=config))
    fetch, version, _ = steps["Caddy | Install Caddy 2.11.7"]
    assert f"echo '{sha}  /opt/deskfleet/caddy/caddy.new' | sha256sum -c" in fetch
    assert "2.11.2" in version


def test_environments_are_made_with_the_distributions_python(run_role: RunRole) -> None:
    """Another python3, first on the PATH, may lie in a home that the services' users can't read."""
    commands = [
        command
        for role, arguments in ((python_role.python, {}), ROLES["opensandbox"])
        for _, commands in run_role(role, facts=fresh(), **arguments)
        for command in commands
        if isinstance(command, str) and " -m venv" in command
    ]
    assert len(commands) == 2
    assert all("/usr/bin/python3 -m venv" in command for command in commands)
