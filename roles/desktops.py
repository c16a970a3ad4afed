"""Persistent desktops by TigerVNC: each under its own user, in its own network, seen by the relay through a
socket."""

from __future__ import annotations

from pyinfra.api.deploy import deploy
from pyinfra.context import host

from inventory.models import Desktop
from roles import relay
from roles.files import Directory, absent, directories, no_user, place, render, sha256, system_user
from roles.packages import packages
from roles.units import Unit, no_unit, run

HOME = "/opt/deskfleet/desktops"
DATA = "/var/lib/deskfleet/desktops"

PACKAGES = (
    "tigervnc-standalone-server",
    "openbox",
    "xterm",
    "x11-xserver-utils",
    "fonts-dejavu-core",
    "iproute2",
    "util-linux",
)


def user_of(name: str) -> str:
    return f"desk-{name}"


def runtime_of(name: str) -> Directory:
    """Where the socket lies. Its group is the relay's and stays so for what is made in it (setgid)."""
    return Directory(f"{relay.DESKTOPS.path}/{name}", "2750", user_of(name), relay.USER)


def unit(name: str) -> Unit:
    socket = f"{runtime_of(name).path}/rfb.sock"
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
        ready=f"[ -S {socket} ]",
    )


@deploy("Desktops")
def desktops(*, wanted: dict[str, Desktop]) -> None:
    packages(name="Install TigerVNC and a window manager", names=PACKAGES)
    directories(name="Make their directories", wanted=(Directory(HOME), Directory(DATA)))
    for name, desktop in host.loop(list(wanted.items())):  # type: ignore[no-untyped-call]
        script = render(
            "desktops/session.sh.j2",
            name=name,
            user=user_of(name),
            resolution=desktop.resolution,
            socket=f"{runtime_of(name).path}/rfb.sock",
        )
        user, home = user_of(name), f"{DATA}/{name}"
        system_user(name=f"Make the user of {name}", user=user, home=home, login_shell="/bin/bash")
        directories(
            name=f"Make the home of {name}", wanted=(Directory(home, "700", user, user), runtime_of(name))
        )
        place(name=f"Write the session of {name}", path=f"{HOME}/{name}", content=script, mode="755")
        run(name=f"Run {name}", unit=unit(name), restart_on=sha256(script))


@deploy("Desktops away")
def no_desktops(*, wanted: dict[str, Desktop]) -> None:
    for name in host.loop(list(wanted)):  # type: ignore[no-untyped-call]
        no_unit(name=f"Stop {name}", unit=unit(name).name)
        absent(name=f"Remove the socket of {name}", paths=(runtime_of(name).path,))
        no_user(name=f"Remove the user of {name}", user=user_of(name))
    absent(name="Remove homes and sessions", paths=(HOME, DATA))
