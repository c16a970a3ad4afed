"""Which of our names a request was sent to: the viewer's own, a session's page, a service, the sandbox API.

Every name is an origin of its own, and each answers only what is meant for it: a page that runs on a name of
a session or a service is foreign to the viewer, however near their names look.
"""

from __future__ import annotations

import re
from enum import StrEnum
from urllib.parse import quote, urlsplit

from viewer.model import Frozen, Principal
from viewer.settings import ServiceSettings, Settings

OPENSANDBOX = "opensandbox"
"""First label of the name where the OpenSandbox-compatible API answers; also that service's name."""

_SESSION_LABEL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


class PlaceKind(StrEnum):
    """`viewer` is also every name that is not ours; `nowhere` only looks like one of the names below."""

    VIEWER = "viewer"
    CONTENT = "content"
    SERVICE = "service"
    OPENSANDBOX = "opensandbox"
    NOWHERE = "nowhere"


class Place(Frozen):
    """`origin`: as a browser there would say it. `name`: the session's id, or the service's name."""

    kind: PlaceKind
    origin: str
    name: str = ""


def place_of(scheme: str, host: str, settings: Settings) -> Place:
    """`scheme` and `host` as the edge saw them; the host with its port where that is not the usual one."""
    origin = f"{scheme}://{host}".lower() if host.isascii() else "null"
    if origin in settings.origins:
        return Place(kind=PlaceKind.VIEWER, origin=origin)
    name = _name_in(host)
    found = _at_home(name, settings)
    if found.kind in (PlaceKind.VIEWER, PlaceKind.NOWHERE):
        return found
    # Another scheme or port, or a dot at the end, is another origin to a browser, with cookies of its own.
    return found if origin == found.origin else Place(kind=PlaceKind.NOWHERE, origin="null")


def content_origin(session_id: str, settings: Settings) -> str | None:
    """The origin of that session's own page; None where the content domain is off."""
    domain = settings.content_domain
    return None if domain is None else _origin_of(f"{session_id}.{domain}", settings)


def content_source(settings: Settings) -> str | None:
    """All content origins as a source of a content security policy."""
    return None if settings.content_domain is None else _origin_of(f"*.{settings.content_domain}", settings)


def may_frame(tenant: str, settings: Settings) -> tuple[str, ...]:
    """The origins whose pages may show that tenant's foreign pages in a frame."""
    return (*settings.origins, *settings.tenant(tenant).embed_origins)


def service_origin(service: ServiceSettings, settings: Settings) -> str:
    return _origin_of(service.host_name, settings)


def opensandbox_origin(settings: Settings) -> str:
    return _origin_of(f"{OPENSANDBOX}.{_canonical_name(settings)}", settings)


def service_for(who: Principal, name: str, settings: Settings) -> ServiceSettings | None:
    """The service of that name, if it is there for the principal's tenant; the role is not looked at."""
    return next((service for service in services_for(who, settings) if service.name == name), None)


def services_for(who: Principal, settings: Settings) -> list[ServiceSettings]:
    return [service for service in pages_of_services(settings) if service.tenant in (None, who.tenant)]


def pages_of_services(settings: Settings) -> list[ServiceSettings]:
    """The services that browsers go to: what only programs speak to is left out."""
    return [service for service in settings.services if service.name != OPENSANDBOX]


def way_back(here: Place, settings: Settings) -> str:
    """Where in the viewer a new way to that place is made."""
    canonical = settings.canonical_origin
    if here.kind is PlaceKind.SERVICE:
        return way_to_service(here.name, "/", settings)
    return f"{canonical}/open/{here.name}" if here.kind is PlaceKind.CONTENT else canonical


def way_to_service(name: str, uri: str, settings: Settings) -> str:
    """The viewer's page that lets a signed-in person in, and then leads on to `uri` there."""
    wanted = "" if uri == "/" else f"?next={quote(uri, safe='/')}"
    return f"{settings.canonical_origin}/services/{name}{wanted}"


def _at_home(name: str, settings: Settings) -> Place:
    """What is at home under that host name; its one right origin, whatever was asked."""
    if name == f"{OPENSANDBOX}.{_canonical_name(settings)}":
        return Place(kind=PlaceKind.OPENSANDBOX, origin=opensandbox_origin(settings))
    for service in settings.services:
        if name == service.host_name:
            return Place(kind=PlaceKind.SERVICE, origin=service_origin(service, settings), name=service.name)
    domain = settings.content_domain
    if domain is None or not f".{name}".endswith(f".{domain}"):
        return Place(kind=PlaceKind.VIEWER, origin="null")
    label = name.removesuffix(f".{domain}")
    if not _SESSION_LABEL.fullmatch(label):
        return Place(kind=PlaceKind.NOWHERE, origin="null")
    return Place(kind=PlaceKind.CONTENT, origin=_origin_of(name, settings), name=label)


def _name_in(host: str) -> str:
    """The host name without port and final dots, lower case."""
    return host.partition(":")[0].rstrip(".").lower()


def _canonical_name(settings: Settings) -> str:
    return urlsplit(settings.canonical_origin).hostname or ""


def _origin_of(name: str, settings: Settings) -> str:
    canonical = urlsplit(settings.canonical_origin)
    port = "" if canonical.port is None else f":{canonical.port}"
    return f"{canonical.scheme}://{name}{port}"
