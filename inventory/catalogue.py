"""Services and images as data: what there is, on which port, and how it is reached."""

from __future__ import annotations

from typing import Literal

from inventory.models import Name, Port, Section, Settings


class Service(Section):
    """Something that listens on loopback of its host.

    path: what of the edge's address belongs to it (`/*` is the rest); None for a service that is not exposed.
    websocket: its answers are streams that live for hours; a plain service gets none of what they need.
    upstream: `port` for this port; `granted` for the address that the viewer names for each stream it allows.
    health: path that answers 200 without credentials.
    """

    name: Name
    port: Port
    websocket: bool = False
    path: str | None = None
    upstream: Literal["port", "granted"] = "port"
    health: str | None = None
    requires: tuple[Name, ...] = ()

    @property
    def exposed(self) -> bool:
        return self.path is not None


def services_of(settings: Settings) -> tuple[Service, ...]:
    """The services of a site, most particular path first."""
    ports = settings.ports
    return (
        Service(
            name="relay", port=ports.relay, websocket=True, path="/stream/*", upstream="granted",
            health="/healthz", requires=("viewer", "opensandbox"),
        ),
        Service(name="viewer", port=ports.viewer, path="/*", health="/healthz", requires=("opensandbox",)),
        Service(name="opensandbox", port=ports.opensandbox, websocket=True, health="/health"),
    )  # fmt: skip


class Image(Section):
    """An image that sandboxes are made from, and how its desktop is reached."""

    name: str
    uri: str
    aliases: tuple[str, ...] = ()
    display: Literal["rfb", "none"] = "rfb"
    port: Port = 8080
    via: Literal["published", "proxy"] = "published"
    transport: Literal["rfb", "websockify"] = "rfb"
    devtools: bool = False
    cpu: str = "2"
    memory: str = "2Gi"
    entrypoint: tuple[str, ...] = ("/usr/local/bin/deskfleet-desktop",)


IMAGES = (
    Image(
        name="desktop",
        uri="deskfleet/desktop:latest",
        aliases=("opensandbox/desktop", "opensandbox/desktop:latest"),
    ),
    Image(
        name="chrome",
        uri="deskfleet/chrome:latest",
        aliases=("opensandbox/chrome", "opensandbox/chrome:latest"),
        devtools=True,
    ),
)
