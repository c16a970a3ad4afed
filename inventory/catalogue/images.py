"""The images that sandboxes are made from: ours, and the operator's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from pydantic import Field

from inventory.catalogue.refusal import CatalogueError, unknown
from inventory.models import Group, Name, OwnImage, Port, RegistryUser, Section, Site


class Image(Section):
    """An image that sandboxes are made from, and how its desktop is reached. It is offered where `service`
    runs."""

    name: str
    uri: str
    aliases: tuple[str, ...] = ()
    display: Literal["rfb", "none"] = "rfb"
    port: Port = 8080
    via: Literal["published", "proxy"] = "published"
    transport: Literal["rfb", "websockify"] = "rfb"
    devtools: bool = False
    devtools_port: Port = 9222
    cpu: str = "2"
    memory: str = "2Gi"
    entrypoint: tuple[str, ...] = ("/usr/local/bin/deskfleet-desktop",)
    service: Name = Field(default="opensandbox", exclude=True)
    is_own: bool = Field(default=False, exclude=True)
    """The operator's: pulled, never built."""
    registry: RegistryUser | None = Field(default=None, exclude=True)


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
        service="chrome",
    ),
)


def offered(site: Site, *, running: Collection[str]) -> tuple[Image, ...]:
    """The images of a site on which these services run. External servers can't have ours, which no registry
    need hold."""
    own = site.settings.images.own if "opensandbox" in running or site.external else {}
    return (
        *(image for image in IMAGES if image.service in running),
        *(_own(name, image) for name, image in own.items()),
    )


def _own(name: str, image: OwnImage) -> Image:
    return Image(
        name=name,
        uri=image.uri,
        display=image.display,
        port=image.port,
        devtools=image.devtools,
        devtools_port=image.devtools_port,
        cpu=image.cpu,
        memory=image.memory,
        entrypoint=image.entrypoint,
        is_own=True,
        registry=image.registry,
    )


def refuse_unusable_images(site: Site, images: tuple[Image, ...]) -> None:
    """A site without sandboxes offers no image, and its default says nothing."""
    for image in IMAGES:
        if image.name in site.settings.images.own:
            raise CatalogueError(
                f"settings.images.own.{image.name}", "is the name of an image of ours; give yours another"
            )
    if not site.placed_on:
        return
    if site.hosts_in(Group.SANDBOXES):
        _refuse_default_without_screen(site, images)
    else:
        _refuse_default_with_screen(site, images)
    _refuse_idle_external_servers(site, images)


def _refuse_default_without_screen(site: Site, images: tuple[Image, ...]) -> None:
    wanted, known = site.settings.default_image, {image.name: image for image in images}
    if wanted in known:
        if known[wanted].display == "none":
            raise CatalogueError(
                "settings.default_image",
                f"image {wanted!r} has no display, and who asks for nothing in particular gets a desktop;"
                " name an image with one",
            )
        return
    raise CatalogueError("settings.default_image", unknown_image(wanted, known))


def unknown_image(name: str, known: Iterable[str]) -> str:
    """A sentence about an image that the site does not offer."""
    for image in IMAGES:
        if image.name == name:
            return f"image {name!r} comes with service {image.service!r}; add it to services"
    return unknown("image", name, known)


def _refuse_default_with_screen(site: Site, images: tuple[Image, ...]) -> None:
    """Where external servers alone take sandboxes."""
    wanted = site.settings.default_image
    if wanted not in [image.name for image in images if image.display == "none"]:
        raise CatalogueError(
            "settings.default_image",
            f"image {wanted!r} is none for external servers, which are all that takes sandboxes here;"
            " name one of settings.images.own with display: none",
        )


def _refuse_idle_external_servers(site: Site, images: tuple[Image, ...]) -> None:
    if site.settings.images.any or any(image.display == "none" for image in images):
        return
    for name in site.external:
        raise CatalogueError(
            f"external.{name}",
            "takes images without a display alone, and there is none; add one to settings.images.own, or set"
            " settings.images.any: true",
        )
