"""KasmVNC: its package on the host, and what a desktop of it has besides a screen: an owner, and the relay's
way in."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

from pydantic import SecretStr
from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.models import Backend, HostConfig
from roles.backends import HOME, KasmvncHolding, Package, backends_of, get_package
from roles.facts import STATE
from roles.files import Commands, Directory, directories, sha256, tell
from roles.packages import package_file, packages, tell_of_books

PORT = 6901
OWNER = "owner"
NEEDS = (
    # What its package uses and does not name.
    "x11-utils", "hostname",
    # Joins the relay's socket to its port, and makes the owner's password hash.
    "socat", "openssl",
    # Root's hand in a home.
    "python3-minimal",
)  # fmt: skip

_SCRIPTS = Path(__file__).resolve().parent.parent / "templates" / "kasmvnc"


@deploy("KasmVNC")
def kasmvnc(*, config: HostConfig) -> None:
    """The package, where a desktop of this host runs KasmVNC. Preflight has seen that it can be had."""
    if not any(chosen.backend == Backend.KASMVNC for chosen in backends_of(config).values()):
        return
    packages(name="Install what it needs besides", names=NEEDS)
    directories(name="Make its directory", wanted=(Directory(HOME),))
    installed(name="Install KasmVNC", package=get_package(config))


@operation()
def installed(package: Package) -> Commands:
    """Exactly this package is installed; kept on the host, so that it need not be fetched again."""
    holding = host.get_fact(KasmvncHolding)
    if holding.installed == package.sha256:
        host.noop("KasmVNC is as it should be")
        return
    # Packages that were kept go, too.
    tell(HOME, "changes with all that is in it")
    tell_of_books()
    if package.sha256 not in holding.kept:
        yield from _kept(package)
    yield package_file(package.path)
    yield StringCommand(
        f"echo {package.sha256} $(dpkg-query -W -f='${{Version}}' kasmvncserver) > {HOME}/installed.new"
        f" && mv -fT {HOME}/installed.new {HOME}/installed"
        f" && find {HOME} -name '*.deb*' ! -path {package.path} -delete"
    )


def _kept(package: Package) -> Commands:
    """Bring the package onto the host. It takes its name in one step, once its hash is right."""
    new = f"{package.path}.new"
    if package.file is not None:
        yield FileUploadCommand(str(package.file), new)
    else:
        yield _script("fetch.sh", URL=package.url or "", SHA256=package.sha256, NEW=new)
    yield _script("accept.sh", SHA256=package.sha256, NEW=new, PATH_KEPT=package.path)


def _script(name: str, **environment: str) -> StringCommand:
    settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
    return StringCommand(f"{settings}\n{(_SCRIPTS / name).read_text()}")


class OwnerState(FactBase[str]):
    """Hash of the password that the owner was given, if the desktop's own file still says so; else ""."""

    def command(self, user: str, home: str, noted: str) -> str:
        program = shlex.quote(_owner_program())
        look = f"OWNER={OWNER} USER={user} HOME_OF={home} timeout 5 python3 -I -c {program} look 2>/dev/null"
        return (
            f"if [ -f {noted} ] && getent passwd {user} >/dev/null; then cut -d' ' -f1 {noted}; "
            f"there=$({look} | sha256sum | cut -d' ' -f1); "
            f'[ "$there" = "$(cut -d\' \' -f2 {noted})" ] && echo there || echo gone; fi'
        )

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return output[0] if output[1:] == ["there"] else ""


def noted_owner(desktop: str) -> str:
    """Where root notes which owner was set: hash of the password, and of the line it became."""
    return f"{STATE}/stamps/{desktop}.owner"


@operation()
def owner(desktop: str, user: str, home: str, password: SecretStr) -> Commands:
    """The owner of the desktop's KasmVNC has this password. KasmVNC reads the file for every request, so
    nothing is restarted; the other users in it, who watch right now, stay."""
    noted, stamp = noted_owner(desktop), sha256(OWNER, password)
    if host.get_fact(OwnerState, user=user, home=home, noted=noted) == stamp:
        host.noop("the owner is as he should be")
        return
    tell(noted)
    tell(f"{home}/.kasmpasswd", "changes (its content is not shown)")
    key = f"{noted}.key"
    yield StringCommand(f"install -m 600 /dev/null {key}")
    yield FileUploadCommand(io.BytesIO(password.get_secret_value().encode() + b"\n"), key)
    yield _script(
        "owner.sh", PROGRAM=_owner_program(), OWNER=OWNER, USER=user, HOME_OF=home, KEY=key, STAMP=stamp,
        NOTED=noted,
    )  # fmt: skip


def _owner_program() -> str:
    return (_SCRIPTS / "owner.py").read_text()
