"""The deploy's own proof at the end: a desktop of every host through the edge, its first frame, its end."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import SecretStr
from pyinfra import logger
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from inventory.models import Group, HostConfig, OwnCertificate, Secrets, Settings, Site
from roles import wheel
from roles.caddyfile import EDGE_CERTIFICATE, OWN_CERTIFICATE
from roles.files import Commands
from roles.report import site_name

CHECK = f"{wheel.HOME}/current/bin/deskfleet-check"
SECONDS = 240
AUTHORITY = "/var/lib/deskfleet/caddy/pki/authorities/local/root.crt"
"""Root of Caddy's internal authority, which no certificate store knows."""


EDGE_ADDRESS = "127.0.0.1"
"""The check runs on the edge, so it asks there: the public name may lead through a router that does not turn
back, or be in no DNS yet."""


@deploy("Check")
def check(*, config: HostConfig) -> None:
    """On the edge host: a desktop on every sandbox host, and every persistent desktop."""
    site = config.site
    # A local site answers on `localhost` too, which is what programs are told to use.
    desktops_through_the_edge(
        name="Create, see and end a desktop",
        url=site.settings.origins[-1],
        keys=_keys(site, config.secrets),
        authority=_authority(site.settings),
        hosts=tuple(site.hosts_in(Group.SANDBOXES)),
    )


def _keys(site: Site, secrets: Secrets) -> tuple[SecretStr, ...]:
    """An operator's key of the first tenant, and of each other one that has persistent desktops."""
    owners = {desktop.tenant for desktop in site.desktops.values()}
    first, *others = site.tenants
    return tuple(secrets.tenant_keys[name].text for name in (first, *(t for t in others if t in owners)))


def _authority(settings: Settings) -> str | None:
    """File on the edge with what signed its certificate, where no certificate store knows that."""
    if settings.tls == "internal":
        return AUTHORITY
    if isinstance(settings.tls, OwnCertificate):
        return OWN_CERTIFICATE
    private = settings.tls == "acme" and settings.acme.dns is not None and settings.acme.directory is not None
    return EDGE_CERTIFICATE if private else None


@operation()
def desktops_through_the_edge(
    url: str, keys: tuple[SecretStr, ...], authority: str | None, hosts: tuple[str, ...]
) -> Commands:
    """Not a change, so it runs here and yields nothing; a failure is yielded, to be the operation's own."""
    if not state.is_executing:
        return
    command = check_command(url, authority, hosts, left_out={site_name(one) for one in state.failed_hosts})
    # By stdin: arguments and environment of a process can be read by others.
    lines = "\n".join(key.get_secret_value() for key in keys)
    done, output = host.run_shell_command(command, _stdin=lines, _timeout=SECONDS)
    for line in output.stdout_lines:
        logger.info(f"{host.print_prefix}{line}")
    if not done:
        for line in output.stderr_lines:
            logger.error(f"{host.print_prefix}{line}")
        yield StringCommand("echo 'the check failed: see above' >&2; exit 1")


def check_command(
    url: str, authority: str | None, hosts: tuple[str, ...], *, left_out: Collection[str]
) -> StringCommand:
    """left_out: hosts that this run could not reach; they are no part of what it has to prove."""
    words: list[str | QuoteString] = [
        CHECK,
        "--url",
        QuoteString(url),
        "--resolve",
        EDGE_ADDRESS,
        "--key-stdin",
    ]
    if authority is not None:
        words += ["--authority", QuoteString(authority)]
    wanted = [name for name in hosts if name not in left_out]
    for name in wanted:
        words += ["--host", name]
    return StringCommand(*words, *([] if wanted else ["--persistent-only"]))
