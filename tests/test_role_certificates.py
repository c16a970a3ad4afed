"""Certificates on a host: each program's own copy, its key readable by nobody else, nothing on one host."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest
from pyinfra.api.deploy import deploy

from inventory.models import Certificates, HostConfig
from roles.certificates import are_brought, caddy_certificates, no_certificates, stamp, viewer_certificates
from roles.choice import Chosen
from roles.facts import Paths, PathState
from tests.role_runner import RunRole, changes
from tests.sites import fleet_config, host_config


@deploy("Caddy")
def caddy(config: HostConfig) -> None:
    caddy_certificates(config, group="deskfleet-caddy")


@deploy("Viewer")
def viewer(config: HostConfig) -> None:
    viewer_certificates(config, group="deskfleet-viewer")


def certificates(config: HostConfig) -> Certificates:
    made = config.secrets.certificates
    if made is None:
        pytest.fail("the fleet has certificates")
    return made


def as_wanted(config: HostConfig) -> dict[str, PathState]:
    made = certificates(config)
    own = made.hosts[config.name]

    def state(text: str, mode: str, group: str) -> PathState:
        return PathState(hashlib.sha256(text.encode()).hexdigest(), mode, "root", group)

    return {
        "/etc/deskfleet/tls": PathState("", "755", "root", "root"),
        "/etc/deskfleet/tls/ca.pem": state(made.authority.certificate, "644", "root"),
        "/etc/deskfleet/tls/host.pem": state(
            own.certificate + own.key.get_secret_value(), "640", "deskfleet-caddy"
        ),
    }


def test_fresh_host_gets_its_own_certificate_and_key_in_one_step(run_role: RunRole) -> None:
    config = fleet_config("box1")
    steps = dict(run_role(caddy, facts={Paths: {}}, config=config))
    own = certificates(config).hosts["box1"]
    install, put, swap = steps["Caddy | Write host.pem"]
    assert install.startswith("install -m 600 ")
    assert put == ("put", "/etc/deskfleet/tls/host.pem.new", own.certificate + own.key.get_secret_value())
    assert "chown root:deskfleet-caddy" in swap
    assert "chmod 640" in swap


def test_second_run_changes_nothing(run_role: RunRole) -> None:
    config = fleet_config("box1")
    there = as_wanted(config)

    def found(paths: Iterable[str]) -> dict[str, PathState]:
        return {path: there[path] for path in paths}

    assert changes(run_role(caddy, facts={Paths: found}, config=config)) == []


def test_viewer_has_a_copy_of_its_own(run_role: RunRole) -> None:
    steps = dict(run_role(viewer, facts={Paths: {}}, config=fleet_config("control1")))
    assert list(steps) == [f"Viewer | Write {file}" for file in ("ca.pem", "host.pem")]
    assert "chown root:deskfleet-viewer /etc/deskfleet/secrets/viewer/host.pem.new" in steps[
        "Viewer | Write host.pem"
    ][-1].replace("'", "")


def test_key_of_the_authority_reaches_no_host(run_role: RunRole) -> None:
    config = fleet_config("control1")
    authority = certificates(config).authority.key.get_secret_value()
    sent = str(run_role(caddy, facts={Paths: {}}, config=config))
    sent += str(run_role(viewer, facts={Paths: {}}, config=config))
    assert authority.splitlines()[1] not in sent


def test_site_of_one_host_has_none(run_role: RunRole) -> None:
    assert run_role(caddy, facts={}, config=host_config()) == []
    assert run_role(viewer, facts={}, config=host_config()) == []
    assert stamp(host_config()) == ""


def test_stamp_is_of_the_host_and_of_its_certificate() -> None:
    config = fleet_config("box1")
    assert stamp(config) == stamp(fleet_config("box1"))
    assert stamp(config) != stamp(fleet_config("box2"))
    made = certificates(config)
    other = made.model_copy(update={"hosts": {**made.hosts, "box1": made.hosts["box2"]}})
    renewed = config.model_copy(update={"secrets": config.secrets.model_copy(update={"certificates": other})})
    assert stamp(renewed) != stamp(config)


def test_removal_takes_the_directory(run_role: RunRole) -> None:
    there = {"/etc/deskfleet/tls": PathState("", "755", "root", "root")}
    ((_, commands),) = run_role(no_certificates, facts={Paths: there})
    assert commands == ["rm -rf /etc/deskfleet/tls"]


@pytest.mark.parametrize(
    ("host", "chosen", "wanted"),
    [
        ("box1", None, True),
        ("box1", "relay", False),
        ("box1", "caddy", True),
        ("control1", None, True),
        ("control1", "caddy", False),
        ("control1", "viewer", False),
        ("control1", "caddy,viewer", True),
    ],
)
def test_host_has_its_certificate_when_all_programs_with_a_copy_have_it(
    host: str, chosen: str | None, wanted: bool
) -> None:
    assert are_brought(fleet_config(host), Chosen(chosen)) is wanted
