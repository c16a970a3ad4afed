"""The Caddyfile of a host, as a pure function of its site: the same for one session and for ten thousand.

A host's file has up to two parts. The *edge* is what people and agents reach. The *node* is what the other
hosts of a fleet reach, on the host's private address, where each side proves with a certificate who it is.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from inventory.catalogue import Service, node_address, services_on, stack_of
from inventory.models import Group, HostConfig, OwnCertificate, Section, Settings, Site, node_name
from roles.certificates import CADDY as TLS
from roles.files import render

DATA = "/var/lib/deskfleet/caddy"
ADMIN = "unix//run/deskfleet/caddy/admin.sock"
EDGE_CERTIFICATE, EDGE_KEY = f"{TLS}/edge.pem", f"{TLS}/edge.key"
"""The edge's public certificate where DNS proved it."""
OWN_CERTIFICATE, OWN_KEY = f"{TLS}/own.pem", f"{TLS}/own.key"
"""Copies of the operator's own files, which need not be readable for Caddy's user."""


_RELAY_API = (
    "/probe/*", "/devtools/*", "/streams", "/streams/*", "/leases/*", "/input/*", "/pictures", "/status",
    "/healthz",
)  # fmt: skip
_OPENSANDBOX_API = ("/v1/*", "/health", "/version")
_HOSTWATCH_API = ("/hostwatch/*",)
# Asked for once, a WebSocket goes on, whatever becomes of its maker: it has to come back and be asked for
# again. Caddy joins one with any service, `websocket` or not.
_SERVICE = ("stream_timeout 1h",)
# Defaults, for answers that do not say it themselves: Caddy's own, and the relay's refusals.
_VIEWER_SAYS = (
    "?X-Content-Type-Options nosniff",
    "?Referrer-Policy same-origin",
    "?Cross-Origin-Resource-Policy same-origin",
    "?Content-Security-Policy \"default-src 'none'; frame-ancestors 'none'\"",
)
# A foreign page may load what is its own; where it was opened from is nobody's business.
_CONTENT_SAYS = (
    "?X-Content-Type-Options nosniff",
    ">Referrer-Policy no-referrer",
    "?Cross-Origin-Resource-Policy same-origin",
    "?Content-Security-Policy \"default-src 'none'; frame-ancestors 'none'\"",
)
# A service of the operator's own knows better, if it says anything at all.
_SERVICE_SAYS = (
    "?X-Content-Type-Options nosniff",
    "?Referrer-Policy strict-origin-when-cross-origin",
    "?Content-Security-Policy \"frame-ancestors 'self'\"",
)
# Behind another proxy, Caddy would name that one last, where programs look for the client.
_FOR_CLIENT = ("header_up X-Forwarded-For {client_ip}",)
# What a sandbox answers comes from the viewer's origin: it is data there, and never a page that acts.
_PORT = (
    "header_down -Set-Cookie",
    "header_down -Clear-Site-Data",
    "header_down -Strict-Transport-Security",
    "header_down -Alt-Svc",
    "header_down -Service-Worker-Allowed",
    "header_down -NEL",
    "header_down -Report-To",
    "header_down +Content-Security-Policy sandbox",
    "header_down X-Content-Type-Options nosniff",
)
# What foreign pages may not tell the browser, and who may frame them.
_CONTENT = (
    "header_up -X-Df-Framers",
    "header_down -Set-Cookie",
    "header_down -Clear-Site-Data",
    "header_down -Strict-Transport-Security",
    "header_down -Alt-Svc",
    "header_down -Service-Worker-Allowed",
    "header_down -NEL",
    "header_down -Report-To",
    "header_down -Reporting-Endpoints",
    "header_down Referrer-Policy no-referrer",
    "header_down Origin-Agent-Cluster ?1",
    "header_down X-Content-Type-Options nosniff",
    # By the session's tenant; nobody at all where the viewer has named none.
    'header_down +Content-Security-Policy "frame-ancestors {http.request.header.X-Df-Framers}"',
)
# The edge has set these itself, whatever the browser sent; Caddy would put the edge in their place.
_PUBLIC = (
    "header_up Host {http.request.header.X-Forwarded-Host}",
    "header_up X-Forwarded-Host {http.request.header.X-Forwarded-Host}",
    "header_up X-Forwarded-Proto {http.request.header.X-Forwarded-Proto}",
    "header_up X-Forwarded-For {http.request.header.X-Forwarded-For}",
)


class Upstream(Section):
    """Where Caddy sends. server_name: the name that another host's certificate must have; None: plain HTTP
    on loopback."""

    address: str
    server_name: str | None = None


class ServiceSite(Section):
    """A service with a name of its own at the edge."""

    name: str
    sites: str
    upstream: Upstream
    websocket: bool
    guard: str


class Edge(Section):
    """What people and agents reach. sites, content: addresses in Caddy's words; relays, boxes: by host, the
    latter of those alone that have sandboxes."""

    sites: str
    viewer: Upstream
    relays: dict[str, Upstream]
    boxes: dict[str, Upstream]
    content: str | None
    services: tuple[ServiceSite, ...]
    names: str
    """All of it in plain HTTP, where a browser is sent on to TLS."""


class NodeRoute(Section):
    """What one client may ask of a host. asker: as in the subject of its certificate.

    public: the program behind it is to see the browser's own Host and address, not the edge's.
    """

    asker: str
    paths: tuple[str, ...]
    upstream: Upstream
    websocket: bool = False
    public: bool = False


class NodeSite(Section):
    name: str
    routes: tuple[NodeRoute, ...]


def needs_caddy(config: HostConfig) -> bool:
    """Does this host run Caddy?"""
    return config.name == config.site.edge or bool(node_sites(config))


def caddyfile(config: HostConfig, *, ipv6: bool = True) -> str:
    """The whole file; no time, no randomness in it. ipv6: the machine has ::1."""
    site, settings = config.site, config.site.settings
    on_edge = config.name == site.edge
    return render(
        "caddy/Caddyfile.j2",
        admin=f"{ADMIN}|0600",
        storage=DATA,
        settings=settings,
        default_bind=_default_bind(settings, ipv6=ipv6) if on_edge else "",
        own_acme=on_edge and settings.tls == "acme" and settings.acme.dns is None,
        tls=_tls(settings),
        tls_directory=TLS,
        edge=_edge(site) if on_edge else None,
        nodes=node_sites(config),
        address=config.host.fleet_address,
        suffix="" if settings.port == 443 else f":{settings.port}",
        content_lines=_CONTENT,
        port_lines=_PORT,
        public_lines=_PUBLIC,
        service_lines=_SERVICE,
        for_client=_FOR_CLIENT if on_edge and settings.trusted_proxies else (),
        answers={"viewer": _VIEWER_SAYS, "content": _CONTENT_SAYS, "service": _SERVICE_SAYS},
    )


def _default_bind(settings: Settings, *, ipv6: bool) -> str:
    # A `localhost` site would listen on every address. Chromium dials ::1 first.
    if not settings.is_local:
        return ""
    return "127.0.0.1 [::1]" if ipv6 else "127.0.0.1"


def _tls(settings: Settings) -> str:
    """What follows `tls` in each site of the edge; "": nothing, Caddy sees to it or it is plain HTTP."""
    if isinstance(settings.tls, OwnCertificate):
        return f"{OWN_CERTIFICATE} {OWN_KEY}"
    if settings.tls == "acme" and settings.acme.dns is not None:
        return f"{EDGE_CERTIFICATE} {EDGE_KEY}"
    return "internal" if settings.tls == "internal" else ""


def edge_names(site: Site) -> list[str]:
    """Every name that the edge answers at, the content domain's as a wildcard."""
    settings = site.settings
    content = [f"*.{settings.content}"] if settings.content else []
    return [*_viewer_names(settings), *content, *_named_services(site)]


def _named_services(site: Site) -> dict[str, Service]:
    return {name: service for service in stack_of(site) if (name := service.host_name(site.settings))}


def _edge(site: Site) -> Edge:
    settings = site.settings
    content = f"*.{settings.content}" if settings.content else None
    relays = {host: _upstream(site, host, settings.ports.relay) for host in relay_hosts(site)}
    return Edge(
        sites=", ".join(settings.origins),
        viewer=_upstream(site, site.control, settings.ports.viewer),
        relays=relays,
        boxes={host: relays[host] for host in site.hosts_in(Group.SANDBOXES)},
        content=_origin(content, settings) if content else None,
        services=tuple(_service_site(service, name, site) for name, service in _named_services(site).items()),
        names=", ".join(f"http://{name}" for name in edge_names(site)),
    )


def _viewer_names(settings: Settings) -> list[str]:
    return [urlsplit(origin).hostname or "" for origin in settings.origins]


def _origin(name: str, settings: Settings) -> str:
    standard = {"http": 80, "https": 443}[settings.scheme]
    return f"{settings.scheme}://{name}" + ("" if settings.port == standard else f":{settings.port}")


def _service_site(service: Service, host_name: str, site: Site) -> ServiceSite:
    if service.guard == "viewer":
        host, port = site.control, site.settings.ports.viewer
    else:
        (host,), port = service.hosts, service.port
    return ServiceSite(
        name=service.name,
        sites=_origin(host_name, site.settings),
        upstream=_upstream(site, host, port, name=node_address(service, host)),
        websocket=service.websocket,
        guard=service.guard,
    )


def _upstream(site: Site, host: str, port: int, *, name: str | None = None) -> Upstream:
    """The way from the edge to a program on loopback of this host."""
    if host == site.edge:
        return Upstream(address=f"127.0.0.1:{port}")
    address = site.hosts[host].fleet_address
    return Upstream(
        address=f"https://{address}:{site.settings.ports.node}", server_name=name or node_name(host)
    )


def relay_hosts(site: Site) -> tuple[str, ...]:
    return tuple({**site.hosts_in(Group.SANDBOXES), **site.hosts_in(Group.DESKTOPS)})


def node_sites(config: HostConfig) -> tuple[NodeSite, ...]:
    """What the other hosts may ask of this one; nothing on a host that none has to ask."""
    own = NodeSite(name=node_name(config.name), routes=(*_from_edge(config), *_from_control(config)))
    return ((own,) if own.routes else ()) + _service_nodes(config)


def _from_edge(config: HostConfig) -> tuple[NodeRoute, ...]:
    site, ports = config.site, config.site.settings.ports
    asker = node_name(site.edge)
    if config.name == site.edge:
        return ()
    routes: list[NodeRoute] = []
    if config.name in relay_hosts(site):
        paths: tuple[str, ...] = ("/stream/*", "/content/*")
        if Group.SANDBOXES in config.host.groups:
            paths = (*paths, "/port/*")
        routes.append(NodeRoute(asker=asker, paths=paths, upstream=_loopback(ports.relay), websocket=True))
    if config.name == site.control:
        routes.append(NodeRoute(asker=asker, paths=("/*",), upstream=_loopback(ports.viewer), public=True))
    return tuple(routes)


def _from_control(config: HostConfig) -> tuple[NodeRoute, ...]:
    site, ports = config.site, config.site.settings.ports
    asker = node_name(site.control)
    if config.name == site.control or config.name not in relay_hosts(site):
        return ()
    relay = NodeRoute(asker=asker, paths=_RELAY_API, upstream=_loopback(ports.relay))
    if Group.SANDBOXES not in config.host.groups:
        return (relay,)
    return (
        NodeRoute(asker=asker, paths=_OPENSANDBOX_API, upstream=_loopback(ports.opensandbox)),
        NodeRoute(asker=asker, paths=_HOSTWATCH_API, upstream=_loopback(ports.hostwatch)),
        relay,
    )


def _service_nodes(config: HostConfig) -> tuple[NodeSite, ...]:
    """Services with a name of their own that the edge reaches on this host."""
    site = config.site
    if config.name == site.edge:
        return ()
    here = [service for service in services_on(config) if service.label and service.guard == "edge"]
    found = [(service, service.port) for service in here]
    if config.name == site.control:
        answered = [service for service in stack_of(site) if service.label and service.guard == "viewer"]
        found = [(service, site.settings.ports.viewer) for service in answered] + found
    return tuple(
        NodeSite(
            name=node_address(service, config.name),
            routes=(
                NodeRoute(
                    asker=node_name(site.edge),
                    paths=("/*",),
                    upstream=_loopback(port),
                    websocket=service.websocket,
                    public=True,
                ),
            ),
        )
        for service, port in found
    )


def _loopback(port: int) -> Upstream:
    return Upstream(address=f"127.0.0.1:{port}")
