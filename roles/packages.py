"""Debian packages that we bring, and what came with them, so that `make down` removes exactly that.

`/var/lib/deskfleet/packages.before` lists what was installed before our first one; `packages.ours` what apt
planned to bring for us, written before it did; `users.ours` and `groups.ours` the system accounts that
appeared while it worked.
"""

from __future__ import annotations

from pathlib import Path

from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from roles.facts import STATE, HasSystemd, MissingPackages, Paths
from roles.files import Commands, tell

_FIRST = (f"{STATE}/packages.before", f"{STATE}/lists.before")
_BOOKS = (f"{STATE}/packages.ours", f"{STATE}/users.ours", f"{STATE}/groups.ours")

_SCRIPTS = Path(__file__).resolve().parent.parent / "templates" / "packages"


@operation()
def packages(names: tuple[str, ...]) -> Commands:
    """Install what is missing of these, without recommended extras, and record all that came along."""
    missing = host.get_fact(MissingPackages, packages=names)
    if not missing:
        host.noop("all installed")
        return
    tell_of_books()
    yield _install(" ".join(missing))


def tell_of_books() -> None:
    """What changes besides apt's and the packages' own files."""
    if state.config.DIFF:
        made = host.get_fact(Paths, paths=_FIRST)
        for path in (*_BOOKS, *(path for path in _FIRST if path not in made)):
            tell(path)


def package_file(path: str) -> StringCommand:
    """Installs the package in this file on the host, whatever version of it is there, and records it too:
    `tell_of_books` before."""
    return _install(path, options="--reinstall --allow-downgrades")


def _install(what: str, *, options: str = "") -> StringCommand:
    # Where systemd is not PID 1, the packages' own start scripts must not start daemons: ours are supervised.
    quiet = "" if host.get_fact(HasSystemd) else "1"
    return _script("install.sh", KEEP_QUIET=quiet, PACKAGES=what, OPTIONS=options)


@operation()
def no_packages() -> Commands:
    """Purge the packages we brought, except what something else needs by now, and the accounts they made."""
    if host.get_fact(Paths, paths=[f"{STATE}/packages.ours"]):
        yield _script("purge.sh", KEEP_QUIET="", PACKAGES="")


def _script(name: str, **environment: str) -> StringCommand:
    settings = " ".join(f"{key}='{value}'" for key, value in {"STATE": STATE, **environment}.items())
    return StringCommand(f"{settings}; export STATE KEEP_QUIET PACKAGES\n{(_SCRIPTS / name).read_text()}")
