"""lego: the edge's public certificate for the domain and all names below it, proved by DNS records."""

from __future__ import annotations

import shlex
from pathlib import Path

from pydantic import SecretStr
from pyinfra.api.command import StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.models import Dns01, HostConfig, Section, Settings
from roles import caddy
from roles.caddyfile import DATA, EDGE_CERTIFICATE, EDGE_KEY
from roles.certificates import CADDY as TLS
from roles.facts import STATE
from roles.files import Commands, Directory, absent, directories, place, render, sha256, system_user, tell
from roles.packages import packages
from roles.units import Unit, no_unit, run

HOME = "/opt/deskfleet/lego"
SCRIPT = f"{HOME}/certificate"
SECRETS = "/etc/deskfleet/secrets/lego.env"
KEPT = f"{STATE}/lego"
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"

UNIT = Unit(
    name="deskfleet-lego",
    description="Renews the edge's certificate (lego)",
    command=(SCRIPT, "watch"),
    user="root",
    environment={"HOME": "/nonexistent"},
)

_TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "lego"


class EdgeCertificate(Section):
    """The certificate that lies on the edge. server: the authority that gave it; due: there is none, or it is
    time for another; loaded: Caddy was told to read it."""

    names: frozenset[str] = frozenset()
    server: str = ""
    due: bool = True
    loaded: bool = False


class ServedCertificate(FactBase[EdgeCertificate]):
    """The edge's certificate, by one command."""

    def command(self) -> str:
        return (
            f"{(_TEMPLATES / 'due.sh').read_text()}exec 2>/dev/null; "
            f"openssl x509 -in {EDGE_CERTIFICATE} -noout -ext subjectAltName"
            " | tr ',' '\\n' | sed -n 's/^ *DNS:/name /p'; "
            f"echo server $(cat {KEPT}/server); "
            f"due {EDGE_CERTIFICATE} || echo good yes; "
            f'[ "$(sha256sum < {EDGE_CERTIFICATE})" != "$(cat {KEPT}/loaded)" ] || echo loaded yes'
        )

    @staticmethod
    def default() -> EdgeCertificate:
        return EdgeCertificate()

    def process(self, output: list[str]) -> EdgeCertificate:
        found: dict[str, set[str]] = {}
        for line in output:
            key, _, value = line.partition(" ")
            found.setdefault(key, set()).add(value)
        return EdgeCertificate(
            names=frozenset(found.get("name", ())),
            server="".join(found.get("server", ())),
            due="good" not in found,
            loaded="loaded" in found,
        )


def needs_lego(config: HostConfig) -> bool:
    """Is this the host whose certificate DNS proves?"""
    return config.name == config.site.edge and _proved_by(config.site.settings) is not None


def _proved_by(settings: Settings) -> Dns01 | None:
    return settings.acme.dns if settings.tls == "acme" else None


def names_of(settings: Settings) -> tuple[str, ...]:
    """Every name that the edge answers to: the viewer's, its services' below it, and the content domain's."""
    content = () if settings.content is None else (f"*.{settings.content}",)
    return (settings.domain, f"*.{settings.domain}", *content)


def script(settings: Settings, dns: Dns01) -> str:
    """The text of the program that obtains the certificate."""
    return render(
        "lego/lego.sh.j2",
        kept=KEPT,
        certificate=EDGE_CERTIFICATE,
        key=EDGE_KEY,
        secrets=SECRETS,
        authority=settings.acme.authority,
        server=shlex.quote(_server(settings)),
        # lego wants one; RFC 2142 names this one for matters of DNS.
        email=shlex.quote(settings.acme.email or f"hostmaster@{settings.domain}"),
        provider=dns.provider,
        names=[shlex.quote(name) for name in names_of(settings)],
        first=settings.domain,
        group=caddy.USER,
        admin=f"{caddy.RUNTIME.path}/admin.sock",
        reload=caddy.UNIT.reload,
    )


def environment(config: HostConfig, dns: Dns01) -> SecretStr:
    """What the provider needs, as lines for sh."""
    given = config.secrets.given
    lines = [f"{name}={shlex.quote(given[name].get_secret_value())}" for name in sorted(dns.variables)]
    return SecretStr("\n".join(["# For lego's DNS provider.", *lines]))


def _server(settings: Settings) -> str:
    return settings.acme.directory or LETS_ENCRYPT


@deploy("lego")
def lego(config: HostConfig) -> None:
    """The certificate lies where the edge's Caddyfile names it, and is renewed in time. Before Caddy."""
    settings = config.site.settings
    dns = _proved_by(settings)
    if dns is None or not needs_lego(config):
        return
    text = script(settings, dns)
    packages(name="Install lego", names=("lego", "openssl", "ca-certificates"))
    system_user(name="Make Caddy's user", user=caddy.USER, home=DATA)
    directories(name="Make its directories", wanted=(Directory(HOME), Directory(TLS), Directory(KEPT, "700")))
    place(name="Write what its provider needs", path=SECRETS, content=environment(config, dns), mode="600")
    place(name="Write its program", path=SCRIPT, content=text, mode="755")
    obtained(name="Obtain the certificate", names=names_of(settings), server=_server(settings))
    run(name="Run the renewal", unit=UNIT, restart_on=sha256(text))


@operation()
def obtained(names: tuple[str, ...], server: str) -> Commands:
    """There is a certificate for these names, of this authority, that Caddy has read."""
    found = host.get_fact(ServedCertificate)
    wanted = EdgeCertificate(names=frozenset(names), server=server, due=False, loaded=True)
    if found != wanted:
        only_unread = found == wanted.model_copy(update={"loaded": False})
        for path in () if only_unread else (EDGE_CERTIFICATE, EDGE_KEY):
            tell(path, "changes (its content is not shown)")
        tell(KEPT, "changes with all that is in it")
        yield StringCommand(SCRIPT, "load" if only_unread else "obtain")


@deploy("lego away")
def no_lego() -> None:
    """For an edge whose certificate comes another way, after its Caddy no longer reads this one."""
    no_unit(name="Stop the renewal", unit=UNIT.name)
    absent(name="Remove its files", paths=(HOME, SECRETS, KEPT, EDGE_CERTIFICATE, EDGE_KEY))
