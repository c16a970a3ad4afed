"""What a host keeps running from a group that it has left, and what of it goes.

Two workers on one fleet would delete each other's sandboxes, and a host has no business with keys of a group
that it isn't in. Data stays where somebody may want it: the control plane's database, for root alone.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.models import Group, HostConfig
from roles import hostwatch, lego, opensandbox, relay, viewer
from roles.choice import Chosen
from roles.docker import no_network
from roles.facts import Paths
from roles.files import Commands, Directory, absent, directories, no_user
from roles.units import no_unit

_MARKS = {
    "viewer": (viewer.CONFIG, viewer.SECRETS),
    "opensandbox": (opensandbox.CONFIG,),
    "hostwatch": (hostwatch.CONFIG, hostwatch.SECRETS),
    "relay": (relay.CONFIG, relay.SECRETS),
    "lego": (lego.SECRETS,),
}
"""Role -> what tells that it was here. It goes last, so that a removal that was cut off is taken up again."""


def former(*, config: HostConfig, chosen: Chosen) -> None:
    """Take away what the host's former groups brought; one look, and none at a host of all groups."""
    unwanted = [role for role in _unwanted(config) if role in chosen]
    if not unwanted:
        return
    found = host.get_fact(Paths, paths=tuple(path for role in unwanted for path in _MARKS[role]))
    left = [role for role in unwanted if any(path in found for path in _MARKS[role])]
    if "viewer" in left:
        former_viewer()
    if "hostwatch" in left:
        hostwatch.no_hostwatch()
    if "opensandbox" in left:
        former_opensandbox()
    if "relay" in left:
        relay.no_relay()
    if "lego" in left:
        lego.no_lego()


def _unwanted(config: HostConfig) -> list[str]:
    groups = set(config.host.groups)
    wanted = {
        "viewer": Group.CONTROL in groups,
        "opensandbox": Group.SANDBOXES in groups,
        "hostwatch": Group.SANDBOXES in groups,
        "relay": bool(groups & {Group.SANDBOXES, Group.DESKTOPS}),
        # On the edge the deploy itself parts with it, after Caddy.
        "lego": Group.EDGE in groups,
    }
    return [role for role, is_wanted in wanted.items() if not is_wanted]


@deploy("Former viewer")
def former_viewer() -> None:
    no_unit(name="Stop the worker", unit=viewer.WORKER.name)
    no_unit(name="Stop the viewer", unit="deskfleet-viewer")
    no_user(name="Remove its user", user=viewer.USER)
    lock(name="Keep the database for root", path=viewer.DATA)
    absent(name="Remove keys and settings", paths=(viewer.SECRETS, f"{viewer.CONFIG}.new", viewer.CONFIG))


@deploy("Former OpenSandbox")
def former_opensandbox() -> None:
    """Its sandboxes end with it, as nobody could reach them; the engine stays, it may serve others."""
    no_unit(name="Stop the server", unit="deskfleet-opensandbox")
    no_network(name="Remove sandboxes and their network")
    opensandbox.no_opensandbox()


@operation()
def lock(path: str) -> Commands:
    """What is there belongs to root alone, whoever gets its user's number next."""
    if host.get_fact(Paths, paths=[path]):
        yield from directories._inner(wanted=(Directory(path, "700"),), whole=(path,))
