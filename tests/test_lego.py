"""The role that obtains the edge's certificate by DNS records: when it asks, and what it asks with."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from inventory.models import Dns01, HostConfig, Settings
from roles import caddy
from roles.caddyfile import EDGE_CERTIFICATE, EDGE_KEY
from roles.facts import Account, HasSystemd, MissingPackages, Paths, PathState, UnitState, User
from roles.facts import Unit as UnitFact
from roles.files import sha256
from roles.lego import (
    HOME,
    KEPT,
    LETS_ENCRYPT,
    SCRIPT,
    SECRETS,
    UNIT,
    EdgeCertificate,
    ServedCertificate,
    environment,
    lego,
    names_of,
    needs_lego,
    no_lego,
    script,
)
from roles.units import supervisor_program, systemd_unit
from tests.role_runner import RunRole, changes
from tests.sites import fleet_config

TOKEN = "it's a $ecret; of `the` provider"
DNS = Dns01(provider="hetzner", variables=("HETZNER_API_KEY",))
NOWHERE: Any = lambda paths: {}  # noqa: E731


def config_of(name: str = "edge1", **acme: Any) -> HostConfig:
    dns = {"provider": "hetzner", "variables": ["HETZNER_API_KEY"]}
    config = fleet_config(name, tls="acme", acme={"dns": dns, **acme})
    given = {"HETZNER_API_KEY": SecretStr(TOKEN)}
    return config.model_copy(update={"secrets": config.secrets.model_copy(update={"given": given})})


def settled(config: HostConfig, *, systemd: bool = True, **certificate: Any) -> Any:
    """A host on which everything is as the role leaves it, but for the certificate's given traits."""
    settings = config.site.settings
    text, lines = script(settings, DNS), environment(config, DNS).get_secret_value() + "\n"
    lying = {
        HOME: PathState("", "755", "root", "root"),
        "/etc/deskfleet/tls": PathState("", "755", "root", "root"),
        KEPT: PathState("", "700", "root", "root"),
        SECRETS: PathState(hashlib.sha256(lines.encode()).hexdigest(), "600", "root", "root"),
        SCRIPT: PathState(hashlib.sha256(text.encode()).hexdigest(), "755", "root", "root"),
    }

    def stated_paths(paths: list[str]) -> dict[str, PathState]:
        return {path: lying[path] for path in paths if path in lying}

    unit = (systemd_unit if systemd else supervisor_program)(UNIT, sha256(text))
    started = hashlib.sha256(unit.encode()).hexdigest()
    traits = {"names": frozenset(names_of(settings)), "server": LETS_ENCRYPT, "due": False, "loaded": True}
    return {
        HasSystemd: systemd,
        MissingPackages: [],
        Paths: stated_paths,
        User: Account("/var/lib/deskfleet/caddy", "/usr/sbin/nologin", (caddy.USER,)),
        ServedCertificate: EdgeCertificate.model_validate({**traits, **certificate}),
        UnitFact: UnitState(started, started, ""),
    }


def test_certificate_is_of_the_domain_all_below_it_and_the_content_domain() -> None:
    assert names_of(config_of().site.settings) == (
        "desks.example.com", "*.desks.example.com", "*.content.desks.example.com",
    )  # fmt: skip
    elsewhere = Settings.model_validate(
        {"domain": "a.example", "content_domain": "b.example", "tls": {"cert": "/c.pem", "key": "/k.pem"}}
    )
    assert names_of(elsewhere) == ("a.example", "*.a.example", "*.b.example")
    off = elsewhere.model_copy(update={"content_domain": "none"})
    assert names_of(off) == ("a.example", "*.a.example")


def test_only_an_edge_with_acme_and_a_provider_needs_it() -> None:
    assert needs_lego(config_of())
    assert not needs_lego(config_of("box1"))
    assert not needs_lego(fleet_config("edge1"))


def test_other_hosts_get_nothing(run_role: RunRole) -> None:
    assert run_role(lego, facts={}, config=config_of("box1")) == []


@pytest.mark.parametrize("systemd", [True, False])
def test_second_run_changes_nothing(run_role: RunRole, systemd: bool) -> None:
    config = config_of()
    assert changes(run_role(lego, facts=settled(config, systemd=systemd), config=config)) == []


@pytest.mark.parametrize(
    ("trait", "command"),
    [
        ({"due": True}, "obtain"),
        ({"names": frozenset({"desks.example.com"})}, "obtain"),
        ({"server": "https://staging.example/directory"}, "obtain"),
        ({"due": True, "loaded": False}, "obtain"),
        ({"loaded": False}, "load"),
    ],
)
def test_another_certificate_is_obtained_exactly_when_this_one_will_not_do(
    run_role: RunRole, trait: dict[str, Any], command: str
) -> None:
    config = config_of()
    steps = changes(run_role(lego, facts=settled(config, **trait), config=config))
    assert steps == [("lego | Obtain the certificate", [f"{SCRIPT} {command}"])]


def test_it_is_obtained_before_the_renewal_runs_and_no_secret_is_in_a_command(run_role: RunRole) -> None:
    config = config_of()
    bare = {
        **settled(config),
        Paths: NOWHERE,
        ServedCertificate: EdgeCertificate(),
        UnitFact: UnitState("", "", ""),
    }
    steps = run_role(lego, facts=bare, config=config)
    names = [name for name, _ in changes(steps)]
    assert names.index("lego | Obtain the certificate") < names.index("lego | Run the renewal")
    commands = [command for _, commands in steps for command in commands if isinstance(command, str)]
    assert TOKEN not in "".join(commands)
    assert "chown root:root /etc/deskfleet/secrets/lego.env.new && chmod 600" in " ".join(commands)


def test_every_character_of_a_secret_reaches_lego(tmp_path: Path) -> None:
    lines = tmp_path / "lego.env"
    lines.write_text(environment(config_of(), DNS).get_secret_value() + "\n")
    said = subprocess.run(
        ["sh", "-c", f"set -a; . {lines}; exec env"], capture_output=True, text=True, check=True
    ).stdout
    assert f"HETZNER_API_KEY={TOKEN}" in said.splitlines()


def test_program_asks_with_the_sites_values_quoted() -> None:
    config = config_of(
        email="o'brien;x@example.com", directory="https://ca.example/d?a=$b", authority="/etc/ca.pem"
    )
    text = script(config.site.settings, DNS)
    assert "--email 'o'\"'\"'brien;x@example.com'" in text
    assert "--server 'https://ca.example/d?a=$b'" in text
    assert "LEGO_CA_CERTIFICATES=/etc/ca.pem" in text
    assert "--domains '*.content.desks.example.com' run" in text
    assert "LEGO_CA_CERTIFICATES" not in script(config_of().site.settings, DNS)
    assert f"--server {LETS_ENCRYPT} --email hostmaster@desks.example.com" in script(
        config_of().site.settings, DNS
    )


def test_program_is_valid_shell(tmp_path: Path) -> None:
    file = tmp_path / "certificate"
    file.write_text(script(config_of().site.settings, DNS))
    subprocess.run(["sh", "-n", file], check=True)


@pytest.mark.parametrize(
    ("lines", "certificate"),
    [
        ([], EdgeCertificate()),
        (["server"], EdgeCertificate()),
        (
            ["name a.example", "name *.a.example", "server https://ca.example/d", "good yes", "loaded yes"],
            EdgeCertificate(
                names=frozenset({"a.example", "*.a.example"}),
                server="https://ca.example/d",
                due=False,
                loaded=True,
            ),
        ),
        (["name a.example", "loaded yes"], EdgeCertificate(names=frozenset({"a.example"}), loaded=True)),
    ],
)
def test_look_at_the_certificate_is_read(lines: list[str], certificate: EdgeCertificate) -> None:
    assert ServedCertificate().process(lines) == certificate


def test_going_takes_certificate_key_and_secrets(run_role: RunRole) -> None:
    everywhere = lambda paths: {path: PathState("", "755", "root", "root") for path in paths}  # noqa: E731
    steps = dict(run_role(no_lego, facts={Paths: everywhere, HasSystemd: True}))
    assert steps["lego away | Remove its files"] == [
        f"rm -rf {HOME} {SECRETS} {KEPT} {EDGE_CERTIFICATE} {EDGE_KEY}"
    ]
