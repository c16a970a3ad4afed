"""Services and images as data: what there is, where it listens, what it needs, and what a site runs of it.

`stack_of(site)` is the answer for one site; `python -m inventory.catalogue` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from inventory.catalogue.images import IMAGES, Image, offered, refuse_unusable_images
from inventory.catalogue.pools import refuse_pools_without_room
from inventory.catalogue.refusal import CatalogueError, unknown
from inventory.models import (
    Backend,
    Group,
    HostConfig,
    Name,
    OwnService,
    Port,
    Section,
    Settings,
    Site,
    node_name,
)

__all__ = [
    "ALWAYS",
    "IMAGES",
    "LONGEST_HOST_NAME",
    "SKILLS",
    "CatalogueError",
    "Image",
    "Service",
    "images_of",
    "node_address",
    "services_of",
    "services_on",
    "stack_of",
]

LONGEST_HOST_NAME = 253
_LONGEST_SESSION_LABEL = 36
"""A session's id, the first label of its own origin below the content domain."""


class Service(Section):
    """Something that listens on its host, as a site runs it.

    groups: hosts of any of these carry it; none for the operator's own, which names its host.
    port: on loopback, or in the network namespace of each desktop or sandbox of its own (`apart`).
    websocket: its answers are streams; a plain service gets none of what they need.
    label: its own name at the edge is `<label>.<domain>`; None: it has none.
    guard: who signs people in there: the edge before it forwards to the service, or the viewer, which
    answers at that name itself.
    role: who may come in. tenant: whose people; None: each sees what is his.
    hosts, why: filled by `stack_of`: where it runs, and who chose it.
    """

    name: Name
    groups: tuple[Group, ...] = ()
    port: Port
    apart: bool = False
    websocket: bool = False
    label: Name | None = None
    guard: Literal["edge", "viewer"] = "edge"
    role: Literal["watcher", "operator", "admin"] = "watcher"
    tenant: Name | None = None
    requires: tuple[Name, ...] = ()
    conflicts: tuple[Name, ...] = ()
    hosts: tuple[Name, ...] = ()
    why: str = ""

    def host_name(self, settings: Settings) -> str | None:
        """Its own name at the edge; None for what is reached through another's."""
        return f"{self.label}.{settings.domain}" if self.label else None


ALWAYS = ("viewer", "relay")
"""What every site runs: without them nobody sees anything."""

SKILLS: Mapping[str, tuple[Name, ...]] = {
    "code": ("opensandbox",),
    "browser": ("chrome",),
    "desktop-use": ("kasmvnc",),
}
"""Skill packs: what an agent can do -> the services that it needs for it."""


def services_of(settings: Settings) -> tuple[Service, ...]:
    """The services that we know how to roll out."""
    ports = settings.ports
    return (
        Service(name="viewer", groups=(Group.CONTROL,), port=ports.viewer),
        Service(
            name="relay", groups=(Group.SANDBOXES, Group.DESKTOPS), port=ports.relay, websocket=True,
            requires=("viewer",),
        ),
        Service(
            name="hostwatch", groups=(Group.SANDBOXES,), port=ports.hostwatch, requires=("viewer",),
        ),
        Service(
            name="opensandbox", groups=(Group.SANDBOXES,), port=ports.opensandbox, websocket=True,
            label="opensandbox", guard="viewer", role="operator",
            requires=("relay", "hostwatch", "viewer"),
        ),
        Service(
            name="chrome", groups=(Group.SANDBOXES,), port=9222, apart=True, websocket=True,
            role="operator", requires=("opensandbox",),
        ),
        Service(
            name="kasmvnc", groups=(Group.DESKTOPS,), port=6901, apart=True, websocket=True,
            requires=("relay", "viewer"),
        ),
    )  # fmt: skip


def images_of(site: Site) -> tuple[Image, ...]:
    """The images that this site offers."""
    return _offered(site, stack_of(site))


def _offered(site: Site, stack: tuple[Service, ...]) -> tuple[Image, ...]:
    return offered(site, running={service.name for service in stack})


def stack_of(site: Site) -> tuple[Service, ...]:
    """Everything that the site runs, what is required before what requires it; raises CatalogueError."""
    known = {service.name: service for service in services_of(site.settings)}
    own = _own_services(site, known)
    chosen = _with_requirements(_chosen(site, known), known)
    _refuse_conflicts(chosen, known)
    stack = (*_placed(chosen, known, site), *own.values())
    _refuse_idle_sandbox_hosts(site, stack)
    _refuse_shared_ports(site, stack, {service.name: key for key, service in own.items()})
    _refuse_bad_names(site, stack, {service.name: key for key, service in own.items()})
    images = _offered(site, stack)
    refuse_unusable_images(site, images)
    refuse_pools_without_room(site, images)
    return stack


def services_on(config: HostConfig) -> tuple[Service, ...]:
    """What of the site's stack runs on this host."""
    return tuple(service for service in stack_of(config.site) if config.name in service.hosts)


class _Choice(NamedTuple):
    """Why a service runs, and the place in the site file that says so."""

    why: str
    key: str


_Chosen = dict[str, _Choice]


def _chosen(site: Site, known: Mapping[str, Service]) -> _Chosen:
    """What the site file asks for, before requirements. A list of own services alone adds to all there is."""
    names = {f"services.{n}": name for n, name in enumerate(site.services or ()) if isinstance(name, str)}
    chosen: _Chosen = {}
    if not names and not site.skills and (site.services is None or site.services):
        chosen |= {name: _Choice("a host can carry it", "services") for name in _carried(site, known)}
    for key, name in names.items():
        if name not in known:
            raise CatalogueError(key, unknown("service", name, known))
        chosen[name] = _Choice("services", key)
    for n, skill in enumerate(site.skills):
        if skill not in SKILLS:
            raise CatalogueError(f"skills.{n}", unknown("skill", skill, SKILLS))
        for name in SKILLS[skill]:
            chosen.setdefault(name, _Choice(f"skill {skill}", f"skills.{n}"))
    for desktop, wanted in site.desktops.items():
        if wanted.backend is not Backend.TIGERVNC:
            chosen.setdefault("kasmvnc", _Choice(f"desktop {desktop}", f"desktops.{desktop}.backend"))
    for name in ALWAYS:
        chosen.setdefault(name, _Choice("always", "services"))
    return chosen


def _carried(site: Site, known: Mapping[str, Service]) -> Iterator[str]:
    there = {group for host in site.hosts.values() for group in host.groups}
    return (name for name, service in known.items() if there & set(service.groups))


def _with_requirements(chosen: _Chosen, known: Mapping[str, Service]) -> _Chosen:
    """The chosen and all that they require, in an order in which each comes after what it requires."""
    ordered: _Chosen = {}

    def add(name: str, choice: _Choice) -> None:
        if name in ordered:
            return
        for needed in known[name].requires:
            add(needed, chosen.get(needed, _Choice(f"needed by {name}", choice.key)))
        ordered[name] = choice

    for name, choice in chosen.items():
        add(name, choice)
    return ordered


def _refuse_conflicts(chosen: _Chosen, known: Mapping[str, Service]) -> None:
    for name, choice in chosen.items():
        for other in known[name].conflicts:
            if other in chosen:
                raise CatalogueError(
                    choice.key,
                    f"{name!r} ({choice.why}) and {other!r} ({chosen[other].why}) cannot run together;"
                    " leave one of them out",
                )


def _placed(chosen: _Chosen, known: Mapping[str, Service], site: Site) -> Iterator[Service]:
    for name, choice in chosen.items():
        groups = known[name].groups
        hosts = tuple(host for host, entry in site.hosts.items() if set(entry.groups) & set(groups))
        if not hosts and site.hosts:
            wanted = " or ".join(repr(group.value) for group in groups)
            raise CatalogueError(
                choice.key,
                f"{name!r} ({choice.why}) runs on hosts with the group {wanted}, and no host has it",
            )
        yield known[name].model_copy(update={"hosts": hosts, "why": choice.why})


def _own_services(site: Site, known: Mapping[str, Service]) -> dict[str, Service]:
    """The operator's own, by their place in the site file."""
    own = {}
    for n, entry in enumerate(site.services or ()):
        if isinstance(entry, OwnService):
            own[f"services.{n}"] = _own_service(entry, f"services.{n}", site, known)
    return own


def _own_service(entry: OwnService, key: str, site: Site, known: Mapping[str, Service]) -> Service:
    if entry.name in known:
        raise CatalogueError(f"{key}.name", f"{entry.name!r} is a service of ours; give yours another name")
    if entry.host not in site.hosts:
        raise CatalogueError(f"{key}.host", unknown("host", entry.host, site.hosts))
    if entry.tenant is not None and entry.tenant not in site.tenants:
        raise CatalogueError(f"{key}.tenant", unknown("tenant", entry.tenant, site.tenants))
    return Service(
        name=entry.name,
        port=entry.port,
        websocket=entry.websocket,
        label=entry.name,
        role=entry.role,
        tenant=entry.tenant or site.tenants[0],
        requires=("viewer",),
        hosts=(entry.host,),
        why="services",
    )


def _refuse_idle_sandbox_hosts(site: Site, stack: tuple[Service, ...]) -> None:
    """A host that is to hold sandboxes without the program that makes them is a mistake, never a wish."""
    if any(service.name == "opensandbox" for service in stack):
        return
    for name in site.hosts_in(Group.SANDBOXES):
        raise CatalogueError(
            f"hosts.{name}.groups",
            "the group 'sandboxes' is there for 'opensandbox', which is not chosen;"
            " add it to services, or take the group away",
        )


def _refuse_shared_ports(site: Site, stack: tuple[Service, ...], keys: Mapping[str, str]) -> None:
    """On one host each port of loopback belongs to one. The node's port is on the fleet address and free."""
    ports = site.settings.ports
    for host, entry in site.hosts.items():
        taken = dict.fromkeys(_edge_ports(site.settings), "the edge") if Group.EDGE in entry.groups else {}
        for service in stack:
            if host not in service.hosts or service.apart:
                continue
            key = f"{keys[service.name]}.port" if service.name in keys else "settings.ports"
            if service.port in taken:
                other = taken[service.port]
                raise CatalogueError(
                    key,
                    f"port {service.port} on host {host!r} belongs to {other}; give {service.name!r} another",
                )
            if Group.SANDBOXES in entry.groups and ports.sandboxes[0] <= service.port <= ports.sandboxes[1]:
                raise CatalogueError(
                    key,
                    f"port {service.port} on host {host!r} lies in the sandboxes' range"
                    f" {ports.sandboxes[0]}-{ports.sandboxes[1]}; give {service.name!r} another",
                )
            taken[service.port] = repr(service.name)


def _edge_ports(settings: Settings) -> set[int]:
    # With TLS the edge also listens on 80, to send browsers on.
    return {settings.port} if settings.tls == "none" else {settings.port, 80}


def _refuse_bad_names(site: Site, stack: tuple[Service, ...], keys: Mapping[str, str]) -> None:
    """A name twice would make Caddy refuse its whole file, and a name too long exists nowhere."""
    settings = site.settings
    content = settings.content
    seen = {settings.domain: "the viewer"}
    if settings.is_local:
        seen["localhost"] = "the viewer"
    if content:
        seen[content] = "the content domain"
        if len(content) + 1 + _LONGEST_SESSION_LABEL > LONGEST_HOST_NAME:
            raise CatalogueError(
                "settings.content_domain",
                f"is too long: names of sessions below it exceed {LONGEST_HOST_NAME}",
            )
    for service in stack:
        name = service.host_name(settings)
        if name is None:
            continue
        key = f"{keys[service.name]}.name" if service.name in keys else "settings.domain"
        if name in seen:
            raise CatalogueError(key, f"the name {name!r} belongs to {seen[name]}; give the service another")
        if len(name) > LONGEST_HOST_NAME:
            raise CatalogueError(
                key,
                f"the name {name[:40]}… has {len(name)} characters; at most {LONGEST_HOST_NAME} are allowed",
            )
        seen[name] = repr(service.name)


def node_address(service: Service, host: str) -> str:
    """The name by which the edge asks another host's Caddy for this service."""
    return f"{service.name}.{node_name(host)}"
