"""Which ports of a sandbox are reached from outside: of those that address one, and of every request."""

from __future__ import annotations

from collections.abc import Set

from viewer.model import Display, Session
from viewer.opensandbox.refusals import SandboxRefusal
from viewer.services import services
from viewer.settings import ImageSettings

_VNC_PORTS = frozenset({*range(5900, 6000), 6080})
"""Where VNC servers listen, and websockify in front of them, in images that are not ours."""


def check_ports(session: Session, ports: Set[int]) -> None:
    """Raise SandboxRefusal unless all these ports of the session may be reached."""
    host = services().settings.host(session.host or "")
    if host is not None and host.external:
        raise SandboxRefusal(
            501,
            "DESKFLEET::NO_WAY_TO_PORTS",
            f"{host.name} is an OpenSandbox server beside this fleet, without a relay of ours; no port of its"
            " sandboxes is reached from here.",
        )
    if session.display is not Display.NONE and ports & _vnc_ports(session):
        raise SandboxRefusal(
            403,
            "DESKFLEET::VNC_NOT_PROXIED",
            "A desktop's screen is never a plain port; watch it at its `novnc_url`.",
        )


def _vnc_ports(session: Session) -> frozenset[int]:
    image = services().settings.image(session.image)
    own = image.port if image is not None else ImageSettings.model_fields["port"].default
    return _VNC_PORTS | {own}
