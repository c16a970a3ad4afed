"""The operator's own certificate files on the edge (`settings.tls: {cert, key}`): what Caddy would stumble
over, and the copies that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.models import HostConfig, OwnCertificate, Section, Site
from roles.caddyfile import OWN_CERTIFICATE, OWN_KEY, edge_names
from roles.certificates import CADDY as TLS
from roles.facts import Paths, PathState
from roles.files import Commands, Directory, absent, directories, sha256, tell

_LOOK = Path(__file__).resolve().parent.parent / "templates" / "preflight" / "certificate.sh"


class OwnFiles(Section):
    """The two files as they lie there. certificate: its first one, PEM; key: None where the host has nothing
    yet that could say."""

    missing: tuple[str, ...] = ()
    certificate: str = ""
    key: Literal["fits", "foreign", "unusable"] | None = None


class LookedAt(FactBase[OwnFiles]):
    """Everything about the two files, by one command."""

    def command(self, cert: str, key: str) -> str:
        return f"CERT='{cert}' KEY='{key}'\n{_LOOK.read_text()}"

    @staticmethod
    def default() -> OwnFiles:
        return OwnFiles()

    def process(self, output: list[str]) -> OwnFiles:
        pairs = [line.strip().partition(" ")[::2] for line in output]
        return OwnFiles.model_validate(
            {
                "missing": [value for key, value in pairs if key == "missing"],
                "certificate": "\n".join(value for key, value in pairs if key == "certificate"),
                "key": next((value for key, value in pairs if key == "key"), None),
            }
        )


def own_files(config: HostConfig) -> OwnCertificate | None:
    """The files that this host's Caddy serves the edge with, where they are the operator's."""
    tls = config.site.settings.tls
    return tls if isinstance(tls, OwnCertificate) and config.name == config.site.edge else None


def stamp(own: OwnCertificate) -> str:
    """Changes whenever one of the two files does."""
    found = host.get_fact(Paths, paths=[own.cert, own.key])
    return sha256(*(found[path].sha256 for path in (own.cert, own.key) if path in found))


@deploy("Own certificate")
def own_certificate(own: OwnCertificate, *, group: str) -> None:
    """Caddy's copies of the two files, which root alone need be able to read."""
    directories(name="Make the directory of its copy", wanted=(Directory(TLS),))
    copied(name="Copy certificate and key", own=own, group=group)


@deploy("Own certificate away")
def no_own_certificate() -> None:
    """For an edge whose certificate comes another way, after its Caddy no longer reads this one."""
    absent(name="Remove the copies", paths=(OWN_CERTIFICATE, OWN_KEY))


@operation()
def copied(own: OwnCertificate, group: str) -> Commands:
    """Both in one command, so that nobody reads the certificate with the key of another for long."""
    found = host.get_fact(Paths, paths=[own.cert, own.key, OWN_CERTIFICATE, OWN_KEY])
    wanted = {
        OWN_CERTIFICATE: _copy_of(found.get(own.cert), "644", "root"),
        OWN_KEY: _copy_of(found.get(own.key), "640", group),
    }
    different = [path for path, state in wanted.items() if found.get(path) != state]
    for path in different:
        tell(path, "changes (its content is not shown)")
    if different:
        yield StringCommand(
            "install -m 644", QuoteString(own.cert), f"{OWN_CERTIFICATE}.new",
            f"&& install -m 640 -g {group}", QuoteString(own.key), f"{OWN_KEY}.new",
            f"&& mv -fT {OWN_CERTIFICATE}.new {OWN_CERTIFICATE} && mv -fT {OWN_KEY}.new {OWN_KEY}",
        )  # fmt: skip


def _copy_of(source: PathState | None, mode: str, group: str) -> PathState:
    return PathState(source.sha256 if source else "", mode, "root", group)


def problems_of_files(seen: OwnFiles, own: OwnCertificate, site: Site, *, now: datetime) -> Iterator[str]:
    """One sentence for each thing that Caddy would stumble over; pure."""
    setting = {own.cert: "settings.tls.cert", own.key: "settings.tls.key"}
    for path in seen.missing:
        yield f"{setting[path]}: there is no file {path}; put it there, or name another in the site file"
    if seen.missing:
        return
    try:
        certificate = x509.load_pem_x509_certificate(seen.certificate.encode())
    except ValueError:
        yield f"settings.tls.cert: {own.cert} holds no certificate in PEM; convert it"
        return
    if seen.key == "foreign":
        yield f"settings.tls.key: {own.key} is not the key of {own.cert}; give the pair that belongs together"
    if seen.key == "unusable":
        yield f"settings.tls.key: {own.key} is no key in PEM without a password; convert it"
    yield from _problems_of_certificate(certificate, own, site, now)


def _problems_of_certificate(
    certificate: x509.Certificate, own: OwnCertificate, site: Site, now: datetime
) -> Iterator[str]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends <= now:
        yield f"settings.tls.cert: {own.cert} ended on {ends:%Y-%m-%d}; renew it"
    if begins > now:
        yield f"settings.tls.cert: {own.cert} begins on {begins:%Y-%m-%d} only; take one that is valid now"
    named = _names_in(certificate)
    lacking = [name for name in _names_needed(site) if not _covers(named, name)]
    if lacking:
        yield (
            f"settings.tls.cert: {own.cert} does not name {', '.join(lacking)}; get one that names"
            f" {', '.join(_names_wanted(site))}"
        )


def _names_needed(site: Site) -> list[str]:
    # A local site answers at `localhost` too, for programs; no authority names it.
    return [name for name in edge_names(site) if name != "localhost" or site.settings.domain == "localhost"]


def _names_wanted(site: Site) -> list[str]:
    content = site.settings.content
    return [site.settings.domain, f"*.{site.settings.domain}", *([f"*.{content}"] if content else [])]


def _names_in(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()  # browsers look nowhere else
    return {name.lower() for name in names.get_values_for_type(x509.DNSName)}


def _covers(named: set[str], name: str) -> bool:
    """A wildcard stands for one label, and `*.` itself is only covered by the same."""
    return name in named or f"*.{name.partition('.')[2]}" in named
