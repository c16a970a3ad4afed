"""The operator's own certificate files, looked at as preflight looks, before anything is changed."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inventory.models import OwnCertificate
from roles.caddyfile import OWN_CERTIFICATE, OWN_KEY
from roles.facts import Paths, PathState
from roles.own_certificate import LookedAt, OwnFiles, copied, own_files, problems_of_files
from tests.role_runner import RunRole
from tests.self_signed import self_signed
from tests.sites import fleet_config, fleet_site

DOMAIN = "desks.example.com"
NAMES = (DOMAIN, f"*.{DOMAIN}", f"*.content.{DOMAIN}")
WANTED = f"get one that names {', '.join(NAMES)}"


def look(own: OwnCertificate, *, programs: str | None = None) -> OwnFiles:
    command = LookedAt().command(cert=own.cert, key=own.key)
    env = None if programs is None else {"PATH": programs}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, env=env)
    return LookedAt().process(done.stdout.splitlines())


def said(own: OwnCertificate, seen: OwnFiles | None = None) -> list[str]:
    site = fleet_site(tls={"cert": own.cert, "key": own.key})
    seen = look(own) if seen is None else seen
    return list(problems_of_files(seen, own, site, now=datetime.now(UTC)))


def pair(folder: Path, *names: str, **life: timedelta) -> OwnCertificate:
    cert, key = self_signed(folder, *(names or NAMES), **life)
    return OwnCertificate(cert=str(cert), key=str(key))


def test_good_pair_is_no_news(tmp_path: Path) -> None:
    own = pair(tmp_path)
    assert look(own).key == "fits"
    assert said(own) == []


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        ((DOMAIN, f"*.{DOMAIN}"), f"*.content.{DOMAIN}"),
        ((f"*.{DOMAIN}", f"*.content.{DOMAIN}"), DOMAIN),
        ((DOMAIN, f"*.content.{DOMAIN}"), f"opensandbox.{DOMAIN}, code-server.{DOMAIN}"),
        ((f"*.{DOMAIN}", "*.example.com"), f"*.content.{DOMAIN}"),
    ],
)
def test_names_that_the_edge_needs_are_missed(tmp_path: Path, names: tuple[str, ...], lacking: str) -> None:
    own = pair(tmp_path, *names)
    assert said(own) == [f"settings.tls.cert: {own.cert} does not name {lacking}; {WANTED}"]


def test_names_of_the_services_may_stand_for_the_wildcard(tmp_path: Path) -> None:
    names = (DOMAIN, f"opensandbox.{DOMAIN}", f"code-server.{DOMAIN}", f"*.content.{DOMAIN}")
    assert said(pair(tmp_path, *names)) == []


def test_certificate_is_valid_now(tmp_path: Path) -> None:
    own = pair(tmp_path, begins=timedelta(days=-9), ends=timedelta(days=-2))
    day = datetime.now(UTC) - timedelta(days=2)
    assert said(own) == [f"settings.tls.cert: {own.cert} ended on {day:%Y-%m-%d}; renew it"]
    own = pair(tmp_path, begins=timedelta(days=2), ends=timedelta(days=9))
    assert [sentence.split("; ")[1] for sentence in said(own)] == ["take one that is valid now"]


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    own = pair(tmp_path)
    other = tmp_path / "other.key"
    Path(own.key).rename(other)
    own = pair(tmp_path).model_copy(update={"key": str(other)})
    assert said(own) == [
        f"settings.tls.key: {other} is not the key of {own.cert}; give the pair that belongs together"
    ]


def test_what_is_no_pem_is_refused(tmp_path: Path) -> None:
    own = pair(tmp_path)
    good = Path(own.key).read_text()
    Path(own.key).write_bytes(b"\x00\xff no key")
    assert said(own) == [f"settings.tls.key: {own.key} is no key in PEM without a password; convert it"]
    Path(own.key).write_text(good)
    Path(own.cert).write_bytes(b"\x30\x82\x00\xff")
    assert said(own) == [f"settings.tls.cert: {own.cert} holds no certificate in PEM; convert it"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    own = pair(tmp_path)
    Path(own.key).unlink()
    assert said(own) == [
        f"settings.tls.key: there is no file {own.key}; put it there, or name another in the site file"
    ]


def test_host_without_python3_yet_says_all_but_whose_the_key_is(tmp_path: Path) -> None:
    own = pair(tmp_path, DOMAIN)
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in ("sed", "head"):
        for folder in ("/usr/bin", "/bin"):
            if not (bare / program).exists() and Path(folder, program).exists():
                (bare / program).symlink_to(Path(folder, program))
    seen = look(own, programs=str(bare))
    assert seen.key is None
    assert [sentence.split(": ")[0] for sentence in said(own, seen)] == ["settings.tls.cert"]


def test_only_the_edge_has_them() -> None:
    tls = {"cert": "/a.pem", "key": "/a.key"}
    assert own_files(fleet_config("edge1", tls=tls)) == OwnCertificate(cert="/a.pem", key="/a.key")
    assert own_files(fleet_config("box1", tls=tls)) is None
    assert own_files(fleet_config("edge1")) is None


FILES = {
    "/a.pem": PathState("1" * 64, "600", "root", "root"),
    "/a.key": PathState("2" * 64, "600", "root", "root"),
}
COPIES = {
    OWN_CERTIFICATE: PathState("1" * 64, "644", "root", "root"),
    OWN_KEY: PathState("2" * 64, "640", "root", "caddys"),
}


@pytest.mark.parametrize(
    ("there", "is_copied"),
    [
        (FILES, True),
        ({**FILES, **COPIES}, False),
        ({**FILES, **COPIES, "/a.key": PathState("3" * 64, "600", "root", "root")}, True),
        ({**FILES, **COPIES, OWN_KEY: PathState("2" * 64, "644", "root", "root")}, True),
    ],
)
def test_caddy_gets_copies_that_it_can_read(
    run_role: RunRole, there: dict[str, PathState], is_copied: bool
) -> None:
    facts = {Paths: lambda paths: {path: there[path] for path in paths if path in there}}
    own = OwnCertificate(cert="/a.pem", key="/a.key")
    ((_, commands),) = run_role(copied, facts=facts, own=own, group="caddys")
    wanted = (
        f"install -m 644 /a.pem {OWN_CERTIFICATE}.new && install -m 640 -g caddys /a.key {OWN_KEY}.new"
        f" && mv -fT {OWN_CERTIFICATE}.new {OWN_CERTIFICATE} && mv -fT {OWN_KEY}.new {OWN_KEY}"
    )
    assert commands == ([wanted] if is_copied else [])
