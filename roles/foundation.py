"""The directories that all roles share; the last thing that goes."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from roles.facts import STATE
from roles.files import Directory, absent, directories

_SHARED = (
    Directory("/etc/deskfleet"),
    Directory("/etc/deskfleet/secrets", "711"),
    Directory("/etc/deskfleet/supervisor"),
    Directory("/opt/deskfleet"),
    Directory(STATE),
    Directory(f"{STATE}/stamps"),
    # Logs name sessions and principals of every tenant; a persistent desktop is one tenant's shell.
    Directory("/var/log/deskfleet", "750"),
)


@deploy("Foundation")
def foundation() -> None:
    directories(name="Make shared directories", wanted=_SHARED)


@deploy("Foundation away")
def no_foundation() -> None:
    absent(
        name="Remove all directories of ours",
        paths=("/etc/deskfleet", "/opt/deskfleet", STATE, "/var/log/deskfleet", "/run/deskfleet"),
    )
