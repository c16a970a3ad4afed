"""What the deploy's last step runs on the edge."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from roles.caddyfile import OWN_CERTIFICATE
from roles.check import AUTHORITY, check, check_command
from tests.role_runner import RunRole
from tests.sites import SECRET_WORDS, fleet_config, host_config


def command_of(config: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """The command of a site and the lines on its standard input, as the role hands them on."""
    handed: dict[str, Any] = {}
    monkeypatch.setattr("roles.check.desktops_through_the_edge", lambda **arguments: handed.update(arguments))
    inspect.unwrap(check)(config=config)
    keys = [key.get_secret_value() for key in handed["keys"]]
    command = check_command(handed["url"], handed["authority"], handed["hosts"], left_out=())
    return command.get_raw_value(), keys


def test_fleet_is_checked_on_every_sandbox_host_through_its_public_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command, keys = command_of(fleet_config("edge1"), monkeypatch)
    assert command == (
        "/opt/deskfleet/viewer/current/bin/deskfleet-check --url https://desks.example.com"
        f" --resolve 127.0.0.1 --key-stdin --authority {AUTHORITY} --host box1 --host box2"
    )
    # The second tenant has a persistent desktop to be looked at.
    assert [key.split("_")[1] for key in keys] == ["oper0000", "oper0001"]


def test_machine_of_its_own_is_checked_at_its_plain_address(monkeypatch: pytest.MonkeyPatch) -> None:
    command, keys = command_of(host_config(), monkeypatch)
    assert command.endswith("--url http://localhost:8088 --resolve 127.0.0.1 --key-stdin --host here")
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("tls", "authority"),
    [
        ({"cert": "/etc/ssl/desk.pem", "key": "/etc/ssl/desk.key"}, OWN_CERTIFICATE),
        ("acme", None),
    ],
)
def test_what_signed_the_edges_certificate_is_believed(
    monkeypatch: pytest.MonkeyPatch, tls: Any, authority: str | None
) -> None:
    acme = {"dns": {"provider": "hetzner"}}
    command, _ = command_of(fleet_config("edge1", tls=tls, acme=acme), monkeypatch)
    assert ("--authority" in command) is (authority is not None)
    assert authority is None or f"--authority {authority} " in command


def test_private_acme_authority_is_believed_through_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    acme = {"dns": {"provider": "hetzner"}, "directory": "https://ca.example.com/acme/directory"}
    command, _ = command_of(fleet_config("edge1", tls="acme", acme=acme), monkeypatch)
    assert "--authority /etc/deskfleet/tls/edge.pem " in command


def test_host_that_the_run_could_not_reach_is_not_asked_for_a_desktop() -> None:
    command = check_command("https://x.example", None, ("box1", "box2"), left_out={"box2"}).get_raw_value()
    assert command.endswith("--key-stdin --host box1")
    command = check_command("https://x.example", None, ("box1",), left_out={"box1"}).get_raw_value()
    assert command.endswith("--key-stdin --persistent-only")


def test_no_key_is_in_a_command(run_role: RunRole) -> None:
    steps = run_role(check, facts={}, config=fleet_config("edge1"))
    assert not any(word in str(steps) for word in SECRET_WORDS)
    assert "df_oper0001" not in str(steps)
