"""The deploy's own proof at the end: a desktop through the edge, its first frame, and its end."""

from __future__ import annotations

from pydantic import SecretStr
from pyinfra import logger
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from inventory.models import Settings
from roles import wheel
from roles.files import Commands

CHECK = f"{wheel.HOME}/current/bin/deskfleet-check"
SECONDS = 240
AUTHORITY = "/var/lib/deskfleet/caddy/pki/authorities/local/root.crt"
"""Root of Caddy's internal authority, which no certificate store knows."""


@deploy("Check")
def check(*, settings: Settings, key: SecretStr) -> None:
    # A local site answers on `localhost` too, the only one of its names that Python's resolver knows.
    desktop_through_the_edge(
        name="Create, see and end a desktop",
        url=settings.origins[-1],
        key=key,
        authority=AUTHORITY if settings.tls == "internal" else None,
    )


@operation()
def desktop_through_the_edge(url: str, key: SecretStr, authority: str | None) -> Commands:
    """Not a change, so it runs here and yields nothing; a failure is yielded, to be the operation's own."""
    if not state.is_executing:
        return
    trusting = (f"SSL_CERT_FILE={authority}",) if authority else ()
    command = StringCommand("env", *trusting, CHECK, "--url", QuoteString(url), "--key-stdin")
    # By stdin: arguments and environment of a process can be read by others.
    done, output = host.run_shell_command(command, _stdin=key.get_secret_value(), _timeout=SECONDS)
    for line in output.stdout_lines:
        logger.info(f"{host.print_prefix}{line}")
    if not done:
        for line in output.stderr_lines:
            logger.error(f"{host.print_prefix}{line}")
        yield StringCommand("echo 'the check failed: see above' >&2; exit 1")
