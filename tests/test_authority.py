"""The site's private authority: what is made, what is kept, and what other programs think of it."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from inventory.authority import ends, left_behind, renewed, warnings
from inventory.models import Certificates, KeyPair, Site
from tests.sites import FLEET, fleet_site

NOW = datetime(2030, 5, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def made() -> Certificates:
    return renewed(None, fleet_site(), NOW)


def parsed(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.encode())


def names(pair: KeyPair) -> list[str]:
    value = parsed(pair).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in value]


def with_hosts(**changes: dict[str, Any]) -> Site:
    """The fleet, with these hosts described otherwise."""
    data = fleet_site().model_dump()
    for name, change in changes.items():
        data["hosts"][name] |= change
    return Site.model_validate(data)


def remade(before: Certificates, after: Certificates) -> set[str]:
    return {name for name, pair in after.hosts.items() if pair != before.hosts.get(name)}


@pytest.mark.parametrize("name", FLEET)
def test_certificate_names_its_host_and_nobody_else(made: Certificates, name: str) -> None:
    node = f"{name}.deskfleet.internal"
    assert parsed(made.hosts[name]).subject.rfc4514_string() == f"CN={node}"
    assert names(made.hosts[name]) == [node, f"*.{node}", FLEET[name][0]]


@pytest.mark.parametrize("name", FLEET)
def test_only_edge_and_control_may_ask_other_hosts(made: Certificates, name: str) -> None:
    extension = parsed(made.hosts[name]).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    uses = set(extension.value)
    assert ExtendedKeyUsageOID.SERVER_AUTH in uses
    assert (ExtendedKeyUsageOID.CLIENT_AUTH in uses) == (name in ("edge1", "control1"))


def test_lives_are_ten_years_and_ninety_days(made: Certificates) -> None:
    assert ends(made.authority) - NOW == timedelta(days=3653)
    assert {ends(pair) - NOW for pair in made.hosts.values()} == {timedelta(days=90)}
    assert parsed(made.hosts["box1"]).not_valid_before_utc < NOW


def test_second_look_keeps_everything(made: Certificates) -> None:
    assert renewed(made, fleet_site(), NOW + timedelta(days=60)) == made


def test_host_certificates_are_renewed_thirty_days_before_their_end(made: Certificates) -> None:
    later = renewed(made, fleet_site(), NOW + timedelta(days=60, seconds=1))
    assert remade(made, later) == set(FLEET)
    assert later.authority == made.authority


def test_host_that_a_roll_out_leaves_out_is_known_to_have_its_former_certificate(made: Certificates) -> None:
    renewal = NOW + timedelta(days=61)
    later = renewed(made, fleet_site(), renewal)
    assert set(later.former) == set(FLEET)
    assert left_behind(later, set(FLEET)) == []
    (said,) = left_behind(later, set(FLEET) - {"box2"})
    assert f"box2 has one that ends on {ends(made.hosts['box2']):%Y-%m-%d}. Roll out box2." in said
    assert renewed(later, fleet_site(), renewal + timedelta(days=1)) == later
    long_after = renewed(later, fleet_site(), renewal + timedelta(days=61))
    assert long_after.former == {name: ends(pair) for name, pair in later.hosts.items()}


def test_first_certificates_leave_nobody_behind(made: Certificates) -> None:
    assert left_behind(made, set()) == []


def test_host_with_another_address_gets_another_certificate(made: Certificates) -> None:
    after = renewed(made, with_hosts(box1={"address": "10.77.0.99"}), NOW)
    assert remade(made, after) == {"box1"}
    assert "10.77.0.99" in names(after.hosts["box1"])


def test_hosts_that_exchange_the_right_to_ask_get_other_certificates(made: Certificates) -> None:
    moved = with_hosts(box1={"groups": ("sandboxes", "control")}, control1={"groups": ("desktops",)})
    assert remade(made, renewed(made, moved, NOW)) == {"box1", "control1"}


def test_new_host_joins_and_one_that_is_not_in_the_site_file_is_left_alone(made: Certificates) -> None:
    data = fleet_site().model_dump()
    data["hosts"]["box3"] = data["hosts"].pop("box1") | {"connect": "@fake/box3"}
    after = renewed(made, Site.model_validate(data), NOW)
    assert remade(made, after) == {"box3"}
    assert after.hosts["box1"] == made.hosts["box1"]


def test_key_that_is_not_the_certificates_own_is_replaced(made: Certificates) -> None:
    swapped = made.hosts["box1"].model_copy(update={"key": made.hosts["box2"].key})
    damaged = made.model_copy(update={"hosts": {**made.hosts, "box1": swapped}})
    assert remade(damaged, renewed(damaged, fleet_site(), NOW)) == {"box1"}


def test_certificate_of_a_foreign_authority_is_replaced(made: Certificates) -> None:
    foreign = renewed(None, fleet_site(), NOW)
    mixed = made.model_copy(update={"hosts": {**made.hosts, "box1": foreign.hosts["box1"]}})
    assert remade(mixed, renewed(mixed, fleet_site(), NOW)) == {"box1"}


def test_no_host_outlives_its_authority_and_every_look_settles(made: Certificates) -> None:
    late = ends(made.authority) - timedelta(days=31)
    once = renewed(made, fleet_site(), late)
    assert {ends(pair) for pair in once.hosts.values()} == {ends(made.authority)}
    assert renewed(once, fleet_site(), late) == once
    again = renewed(once, fleet_site(), late + timedelta(days=2))
    assert again.authority != made.authority
    assert remade(once, again) == set(FLEET)


def test_end_of_the_authority_is_announced_half_a_year_before(made: Certificates) -> None:
    assert warnings(None, NOW) == []
    assert warnings(made, NOW) == []
    late = ends(made.authority) - timedelta(days=100)
    (sentence,) = warnings(renewed(made, fleet_site(), late), late)
    assert f"authority ends on {ends(made.authority):%Y-%m-%d}" in sentence


def test_end_of_a_host_certificate_is_announced_where_it_could_not_be_renewed(made: Certificates) -> None:
    said = warnings(made, NOW + timedelta(days=70))
    assert len(said) == len(FLEET)
    assert "The certificate of box1 ends on 2030-07-30; the next roll-out renews it." in said


@pytest.mark.real
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
@pytest.mark.parametrize(
    ("name", "purpose", "accepted"),
    [
        ("edge1", "sslclient", True),
        ("control1", "sslclient", True),
        ("box1", "sslclient", False),
        ("studio1", "sslclient", False),
        ("box1", "sslserver", True),
    ],
)
def test_openssl_agrees(made: Certificates, tmp_path: Path, name: str, purpose: str, accepted: bool) -> None:
    (tmp_path / "ca.pem").write_text(made.authority.certificate)
    (tmp_path / "host.pem").write_text(made.hosts[name].certificate)
    done = subprocess.run(
        [
            "openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())),
            "-purpose", purpose, "-CAfile", "ca.pem", "host.pem",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode == 0) is accepted, done.stdout + done.stderr
