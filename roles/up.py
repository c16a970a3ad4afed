"""`make up`: rolls the site out, shows what is done, then says where it is and how to get in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inventory.models import Secrets, Settings
from inventory.secrets import SecretsUnreadable, load_secrets, take_out
from inventory.site_file import SiteRefused, load_site, site_path
from roles.progress import Progress, follow
from roles.wheel import WheelNotBuilt, wheel

LOCAL = Path(".local")
_ADMIN = "/opt/deskfleet/viewer/bin/deskfleet-admin"
_FRAME = re.compile(r"^--> pyinfra error( in \S+ line \d+)?: ")
_LINK = re.compile(r"https?://\S+/signin#token=\S+")


def main() -> int:
    started = time.monotonic()
    try:
        path = site_path()
        site = load_site(path)
        secrets = load_secrets(site, site_file=path)
        print(f"Rolling out {os.path.relpath(path)}", flush=True)
        _build(secrets)
    except (SiteRefused, SecretsUnreadable, WheelNotBuilt) as error:
        print(error, file=sys.stderr)
        return 1
    progress = Progress(sys.stdout)
    code = roll_out(progress)
    if code:
        print(failure(progress), file=sys.stderr)
        return code
    tenant = site.tenants[0]
    write_environment(site.settings, secrets, tenant=tenant, path=LOCAL / "deskfleet.env")
    print(progress.table())
    print("\n".join(progress.report))
    print(summary(site.settings, link=sign_in_link(tenant), changes=progress.changes))
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return 0


def roll_out(progress: Progress, *more: str) -> int:
    """Run the very command that the documentation names; return its exit code."""
    # With it, config.py lets pyinfra show what programs print, from which the last line is shown here.
    env = {**os.environ, "DESKFLEET_PROGRESS": "1"}
    return follow([_pyinfra(), "inventory", "deploy.py", "-y", *more], progress, env=env)


def failure(progress: Progress) -> str:
    """What a person needs when the roll-out stopped: the last words, without pyinfra's frame around them."""
    if len([line for line in progress.report[1:] if not line.startswith("    Note: ")]) > 1:
        return "\n".join(
            [*progress.report, "Not every host is as it should be; the next run goes on from here."]
        )
    step = next((step.name for step in progress.steps if step.failed), None)
    if step:
        return f"The roll-out stopped at: {step}."
    said = list(progress.said)
    first = max((index for index, line in enumerate(said) if "pyinfra error" in line), default=0)
    words = [_FRAME.sub("", line) for line in said[first:]]
    return "\n".join([*words, "The roll-out stopped before its first step."])


def write_environment(settings: Settings, secrets: Secrets, *, tenant: str, path: Path) -> None:
    """Write the file that shells and clients `source`; 0600, replaced atomically."""
    # Python's resolver does not know *.localhost; such a site answers on `localhost` as well.
    values = {
        "DESKFLEET_URL": settings.origins[-1],
        "DESKFLEET_ADMIN_KEY": secrets.admin_key.text.get_secret_value(),
        "DESKFLEET_TENANT": tenant,
        "DESKFLEET_KEY": secrets.tenant_keys[tenant].text.get_secret_value(),
    }
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".env-")
    with os.fdopen(handle, "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
    os.replace(temporary, path)


def sign_in_link(tenant: str) -> str | None:
    """A one-time link, made on the control host; None when it could not be made."""
    command = f"runuser -u deskfleet-viewer -- {_ADMIN} signin-link --tenant {tenant} --role admin --fleet"
    done = subprocess.run(
        [_pyinfra(), "inventory", "-y", "-v", "--limit", "control", "exec", "--", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DESKFLEET_PROGRESS": "1"},
    )
    found = _LINK.search(done.stdout + done.stderr)
    return found.group() if found else None


def summary(settings: Settings, *, link: str | None, changes: int) -> str:
    """The last lines of `make up`."""
    lines = ["", f"Deskfleet runs at {settings.origins[0]}  ({changes or 'no'} changes)"]
    lines.append(f"Sign in once with  {link}" if link else "Sign in with a key from .local/deskfleet.env")
    if settings.is_local:
        port = settings.port
        lines.append(
            f"From elsewhere     ssh -L {port}:127.0.0.1:{port} <this machine>, then the same address"
        )
    lines.append("For programs       set -a; . .local/deskfleet.env; set +a")
    return "\n".join(lines)


def _build(secrets: Secrets) -> None:
    started = time.monotonic()
    # A build runs programs of others, which have no business with the secrets; the roll-out needs them.
    taken = take_out(os.environ, [secrets])
    try:
        wheel()
    finally:
        os.environ.update(taken)
    print(f"  {time.monotonic() - started:6.1f} s  Build the viewer: done", flush=True)


def _pyinfra() -> str:
    return str(Path(sys.executable).parent / "pyinfra")


if __name__ == "__main__":
    sys.exit(main())
