"""Persistent desktops: each under its own user, in its own network, seen by the relay through a socket.

What serves the screen is a backend's: `templates/<backend>/server.sh.j2` in the desktop's session. User,
home, tenant and end of a desktop are the same whatever serves it, so that a desktop keeps its home when its
backend changes.
"""

from __future__ import annotations

import json

from pydantic import SecretStr
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.models import Backend, Desktop, HostConfig
from roles import kasmvnc, relay
from roles.backends import DECISION, Chosen, backends_of, get_package
from roles.backends import HOME as KASMVNC_HOME
from roles.facts import Paths, Text
from roles.files import (
    Commands,
    Directory,
    absent,
    directories,
    no_user,
    place,
    render,
    sha256,
    system_user,
    tell,
    tell_of_account,
)
from roles.packages import packages
from roles.units import Unit, no_unit, run

HOME = "/opt/deskfleet/desktops"
DATA = "/var/lib/deskfleet/desktops"
ACCESS = Directory(relay.DESKTOP_SECRETS, "750", "root", relay.USER)

PACKAGES = (
    "openbox",
    "xterm",
    "x11-xserver-utils",
    "fonts-dejavu-core",
    "iproute2",
    "util-linux",
)
TIGERVNC = "tigervnc-standalone-server"


class MadeDesktops(FactBase[list[str]]):
    """The desktops that were made on the host, wanted or not: those with a session script."""

    def command(self) -> str:
        return f"ls {HOME} 2>/dev/null || true"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        # Beside the scripts lie the records of their tenants, and what a roll-out that died left half placed.
        return [name for name in output if name and "." not in name]


def user_of(name: str) -> str:
    return f"desk-{name}"


def runtime_of(name: str) -> Directory:
    """Where the socket lies. Its group is the relay's and stays so for what is made in it (setgid)."""
    return Directory(f"{relay.DESKTOPS.path}/{name}", "2750", user_of(name), relay.USER)


def unit(name: str) -> Unit:
    runtime = runtime_of(name).path
    return Unit(
        name=f"deskfleet-desktop-{name}",
        description=f"Deskfleet's desktop {name}",
        command=(f"{HOME}/{name}",),
        # Becomes its own user once it has shut itself in.
        user="root",
        environment={
            "HOME": f"{DATA}/{name}",
            "USER": user_of(name),
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        },
        # Its session makes exactly one of them, and none is left from an earlier one.
        ready=f"[ -S {runtime}/rfb.sock ] || [ -S {runtime}/web.sock ]",
    )


def tenant_of(name: str) -> str:
    """The file that says whose data the home is."""
    return f"{HOME}/{name}.tenant"


@deploy("Desktops")
def desktops(*, config: HostConfig) -> None:
    """Exactly the desktops that the site file gives this host. The role kasmvnc comes before."""
    wanted, chosen = config.desktops, backends_of(config)
    packages(name="Install what desktops are made of", names=_packages(chosen))
    directories(name="Make their directories", wanted=(Directory(HOME), Directory(DATA), ACCESS))
    note(name="Note what kasmvnc-or-tigervnc means here", wanted=wanted, chosen=chosen)
    unwanted = [name for name in host.get_fact(MadeDesktops) if name not in wanted]
    for name in host.loop(unwanted):  # type: ignore[no-untyped-call]
        _away(name)
    package = get_package(config).sha256 if _some(chosen, Backend.KASMVNC) else ""
    for name, desktop in host.loop(list(wanted.items())):  # type: ignore[no-untyped-call]
        backend = chosen[name].backend
        script = session(name, desktop, backend)
        user, home = user_of(name), f"{DATA}/{name}"
        part(name=f"Part with the former tenant of {name}", desktop=name, tenant=desktop.tenant)
        place(name=f"Note the tenant of {name}", path=tenant_of(name), content=f"{desktop.tenant}\n")
        system_user(name=f"Make the user of {name}", user=user, home=home, login_shell="/bin/bash")
        hand_over(name=f"Hand the home of {name} to its user", home=home, user=user)
        directories(
            name=f"Make the home of {name}", wanted=(Directory(home, "700", user, user), runtime_of(name))
        )
        place(name=f"Write the session of {name}", path=f"{HOME}/{name}", content=script, mode="755")
        reads = [script, desktop.tenant]
        password = config.secrets.desktop_keys[name] if backend == Backend.KASMVNC else None
        if password is not None:
            kasmvnc.owner(
                name=f"Set the owner of {name}", desktop=name, user=user, home=home, password=password
            )
            reads.append(package)
        else:
            absent(name=f"Forget the owner of {name}", paths=(kasmvnc.noted_owner(name),))
        # Once nothing of the former tenant runs and before anything of the new one does: until the control
        # host is rolled out as well, only this keeps him away from it.
        place(
            name=f"Tell the relay whose {name} is", path=access_path(name), content=access(desktop, password),
            mode="640", group=relay.USER,
        )  # fmt: skip
        # A restart ends the streams that the former tenant still watches.
        run(name=f"Run {name}", unit=unit(name), restart_on=sha256(*reads))


def access_path(name: str) -> str:
    """The relay's file about a desktop, read anew for each stream; without it nobody watches the desktop."""
    return f"{ACCESS.path}/{name}.json"


def access(desktop: Desktop, password: SecretStr | None) -> SecretStr:
    """Content of that file. `password`: of the owner of a KasmVNC; None: it runs TigerVNC."""
    found = {"backend": Backend.TIGERVNC, "tenant": desktop.tenant}
    if password is not None:
        signs_in = {"owner": kasmvnc.OWNER, "password": password.get_secret_value()}
        found |= {"backend": Backend.KASMVNC, **signs_in}
    return SecretStr(json.dumps(found))


def session(name: str, desktop: Desktop, backend: Backend) -> str:
    """The script that is the desktop."""
    return render(
        "desktops/session.sh.j2",
        name=name,
        backend=backend.value,
        user=user_of(name),
        resolution=desktop.resolution,
        runtime=runtime_of(name).path,
        port=kasmvnc.PORT,
    )


def _some(chosen: dict[str, Chosen], backend: Backend) -> bool:
    return any(choice.backend == backend for choice in chosen.values())


def _packages(chosen: dict[str, Chosen]) -> tuple[str, ...]:
    return (*PACKAGES, TIGERVNC) if _some(chosen, Backend.TIGERVNC) else PACKAGES


@operation()
def note(wanted: dict[str, Desktop], chosen: dict[str, Chosen]) -> Commands:
    """The choice that was left to the first roll-out is made once; it is forgotten when no desktop asks for
    it any more."""
    for name, desktop in wanted.items():
        if desktop.backend == Backend.KASMVNC_OR_TIGERVNC:
            text = f"{chosen[name].backend.value} {chosen[name].reason}\n"
            yield from place._inner(path=DECISION, content=text)
            return
    yield from absent._inner(paths=(DECISION,))


@operation()
def part(desktop: str, tenant: str) -> Commands:
    """What another tenant left in the desktop's home is put aside, for root alone, and nothing of it runs
    on."""
    former = host.get_fact(Text, path=tenant_of(desktop))
    if former in ("", tenant):
        return
    home = f"{DATA}/{desktop}"
    tell(home, "is put aside with all that is in it")
    tell(f"{home}.of-{former}", "is made of it")
    tell_of_account(user_of(desktop))
    yield from no_unit._inner(unit=unit(desktop).name)
    # With it end the programs that left the unit. The next step makes the user anew.
    yield from no_user._inner(user=user_of(desktop))
    if host.get_fact(Paths, paths=[home]):
        # Not over the data of an earlier change of tenants.
        yield StringCommand(
            f"aside={home}.of-{former}; n=1; "
            f'while [ -e "$aside" ]; do n=$((n+1)); aside={home}.of-{former}-$n; done; '
            f'chown root:root {home} && chmod 700 {home} && mv -T {home} "$aside"'
        )


@operation()
def hand_over(home: str, user: str) -> Commands:
    """A home that outlived its user belongs to the new one of that name, whose number may be another."""
    found = host.get_fact(Paths, paths=[home]).get(home)
    if found is not None and found.user != user:
        tell(home, f"goes to {user} with all that is in it")
        yield StringCommand("chown -R -h", f"{user}:{user}", QuoteString(home))


def _away(name: str) -> None:
    """The desktop ends, its data stays: an edit of the site file loses nobody's work, only `make down` does.

    The home becomes root's, as the number of its user may be given to somebody else; the record of its tenant
    stays beside it.
    """
    no_unit(name=f"Stop {name}", unit=unit(name).name)
    absent(
        name=f"Remove the socket of {name}",
        paths=(runtime_of(name).path, access_path(name), kasmvnc.noted_owner(name)),
    )
    no_user(name=f"Remove the user of {name}", user=user_of(name))
    lock(name=f"Keep the home of {name} for root", home=f"{DATA}/{name}")
    # Last, as the script is what tells that the desktop was made.
    absent(name=f"Remove the session of {name}", paths=(f"{HOME}/{name}",))


@operation()
def lock(home: str) -> Commands:
    if host.get_fact(Paths, paths=[home]):
        yield from directories._inner(wanted=(Directory(home, "700"),))


@deploy("Former desktops")
def former_desktops() -> None:
    """For a host that is to have none (any more); like a desktop that left the site file."""
    for name in host.loop(host.get_fact(MadeDesktops)):  # type: ignore[no-untyped-call]
        _away(name)


@deploy("Desktops away")
def no_desktops(*, wanted: dict[str, Desktop]) -> None:
    made = host.get_fact(MadeDesktops)
    for name in host.loop([*wanted, *(name for name in made if name not in wanted)]):  # type: ignore[no-untyped-call]
        no_unit(name=f"Stop {name}", unit=unit(name).name)
        absent(name=f"Remove the socket of {name}", paths=(runtime_of(name).path,))
        no_user(name=f"Remove the user of {name}", user=user_of(name))
    absent(name="Remove homes and sessions", paths=(HOME, DATA, KASMVNC_HOME))
