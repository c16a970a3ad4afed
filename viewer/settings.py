"""Settings of the control plane: one TOML file, rendered by the deploy, read by viewer, worker, admin, check.

This is the only place of the control plane that reads configuration from files or the environment. Secrets
are files of their own, one value each; the settings name their paths.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from cryptography.fernet import Fernet
from pydantic import BaseModel, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from viewer import logs
from viewer.database_address import DatabaseAddress, PostgresAddress
from viewer.model import ClipboardPolicy, Display, Frozen, Resolution, Role, Scope, WantedBackend
from viewer.nodes import Credentials, Node, NodeFilesUnusable
from viewer.resources import Cpu, Memory, Quota

DEFAULT_PATH = Path("/etc/deskfleet/viewer.toml")
PATH_VARIABLE = "DESKFLEET_SETTINGS"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8}$")]
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.\-]+(:\d{1,5})?$")]
HostName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$", max_length=253
    ),
]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[0-9a-zA-Z.\-\[\]:]+$")]
BaseUrl = Annotated[str, StringConstraints(pattern=r"^https?://[0-9a-zA-Z.\-\[\]:]+(/[0-9a-zA-Z._~/-]*)?$")]
"""An external server may lie below a path."""
IssuerUrl = Annotated[
    str, StringConstraints(pattern=r"^https?://[0-9a-zA-Z.\-\[\]:]+(/[0-9a-zA-Z._~%/-]*)?$")
]
ListenAddress = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z.\-\[\]:]+:\d{1,5}$")]


class SettingsError(Exception):
    """The settings cannot be used; the text is one sentence, `file: key: what is wrong, what mends it`."""


class KeySettings(Frozen):
    id: KeyId
    role: Role
    sha256: Sha256Hex
    label: str = ""
    scopes: tuple[Scope, ...] | None = None
    """None: all but `fleet`."""


class TenantSettings(Frozen):
    """A tenant of the inventory; its id in the database is its name. Keys come as hashes only."""

    name: Name
    keys: tuple[KeySettings, ...] = ()
    quota: Quota = Quota()
    embed_origins: tuple[Origin, ...] = ()
    """Whose pages may show this tenant's desktops: in frames, and by tickets."""
    clipboard: ClipboardPolicy = ClipboardPolicy()
    execd_while_held: bool = False
    """May its agents go on using a sandbox's execd while a person has keyboard and mouse?"""


class HostSettings(Frozen):
    """One host with a relay; one in `sandboxes` also has an OpenSandbox server, and room for desktops.

    server_name: the name in its certificate; None where it is this very machine, on loopback.
    address: where it is, for people. Keys are read when asked for: a rotation needs no restart.
    cpu_millis, memory_mib: what its sandboxes may reserve together; None: as many as `max_desktops`.
    max_creates: creates under way at once; more only make each of them slower.
    external: an OpenSandbox server of somebody else's, such as one on Kubernetes, reached by URL and key
    alone. It has no relay of ours, so only sandboxes without a display are placed there.
    adopt: the tenant that gets its sandboxes which nobody of this fleet made, once an event names them.
    """

    name: Name
    groups: tuple[Literal["edge", "control", "sandboxes", "desktops"], ...] = Field(min_length=1)
    address: str | None = None
    relay_url: Url | None = None
    relay_key_file: Path | None = None
    opensandbox_url: BaseUrl | None = None
    opensandbox_key_file: Path | None = None
    hostwatch_url: Url | None = None
    """It shares the relay's key. None: events hurry nothing, and the host says nothing of itself."""
    server_name: HostName | None = None
    external: bool = False
    max_desktops: int = Field(default=0, ge=0)
    cpu_millis: int | None = Field(default=None, ge=1)
    memory_mib: int | None = Field(default=None, ge=1)
    max_creates: int = Field(default=3, ge=1)
    labels: dict[str, str] = Field(default_factory=dict)
    adopt: Name | None = None

    @property
    def holds_sandboxes(self) -> bool:
        return "sandboxes" in self.groups

    def opensandbox_key(self) -> SecretStr | None:
        """None for a host without an OpenSandbox server."""
        file = self.opensandbox_key_file
        return None if file is None else SecretStr(read_secret(file))

    def relay_key(self) -> bytes:
        """The Fernet key that its relay shares with the control plane; SettingsError where there is none."""
        if self.relay_key_file is None:
            raise SettingsError(f"host {self.name} has no relay; ask another one")
        return read_fernet_key(self.relay_key_file)

    @model_validator(mode="after")
    def only_an_external_host_lacks_a_relay(self) -> HostSettings:
        given = self.relay_url is not None, self.relay_key_file is not None
        if self.external and any(given):
            raise ValueError(f"host {self.name} is external; remove relay_url and relay_key_file")
        if not self.external and not all(given):
            raise ValueError(f"host {self.name} needs relay_url and relay_key_file, or external = true")
        return self

    @model_validator(mode="after")
    def sandboxes_have_a_server_and_room(self) -> HostSettings:
        given = self.opensandbox_url is not None, self.opensandbox_key_file is not None, self.max_desktops > 0
        if self.holds_sandboxes and not all(given):
            raise ValueError(
                f"host {self.name} is in sandboxes; it needs opensandbox_url,"
                " opensandbox_key_file and max_desktops"
            )
        if not self.holds_sandboxes and any(given):
            raise ValueError(
                f"host {self.name} is not in sandboxes; remove opensandbox_url, opensandbox_key_file and"
                " max_desktops, or add the group"
            )
        if not self.holds_sandboxes and self.adopt is not None:
            raise ValueError(f"host {self.name} is not in sandboxes; remove adopt, or add the group")
        if not self.holds_sandboxes and self.hostwatch_url is not None:
            raise ValueError(f"host {self.name} is not in sandboxes; remove hostwatch_url, or add the group")
        return self

    @model_validator(mode="after")
    def what_leaves_the_machine_is_encrypted(self) -> HostSettings:
        if self.external:
            # Its operator's certificate is one of the public kind; on loopback there may be none.
            plain = str(self.opensandbox_url).startswith("http://")
            if plain and not _is_loopback(str(self.opensandbox_url)):
                raise ValueError(f"opensandbox_url of host {self.name} must begin with https://")
            return self
        scheme = "http://" if self.server_name is None else "https://"
        urls = {
            "relay_url": self.relay_url,
            "opensandbox_url": self.opensandbox_url,
            "hostwatch_url": self.hostwatch_url,
        }
        for key, url in urls.items():
            if url is not None and not url.startswith(scheme):
                rule = "without server_name" if self.server_name is None else "with server_name"
                raise ValueError(f"{key} of host {self.name} must begin with {scheme} {rule}")
        return self


class ImageSettings(Frozen):
    """One entry of the image catalogue: how it is started and how its VNC is reached."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._/:-]{0,127}$")
    uri: str
    aliases: tuple[str, ...] = ()
    display: Display = Display.RFB
    port: int = Field(default=8080, ge=1, le=65535)
    via: Literal["published", "proxy"] = "published"
    transport: Literal["rfb", "websockify"] = "rfb"
    devtools: bool = False
    devtools_port: int = Field(default=9222, ge=1, le=65535)
    """Where in its sandboxes Chromium's DevTools answer, if they do."""
    cpu: Cpu = "2"
    memory: Memory = "2Gi"
    entrypoint: tuple[str, ...] = ()
    registry_user: str | None = None
    registry_password_file: Path | None = None
    """Who pulls it from its registry; None: anybody may."""

    def registry_password(self) -> SecretStr | None:
        return SecretStr(read_secret(self.registry_password_file)) if self.registry_password_file else None

    @model_validator(mode="after")
    def a_registry_user_has_a_password(self) -> ImageSettings:
        if (self.registry_user is None) != (self.registry_password_file is None):
            raise ValueError(
                f"image {self.name} needs registry_user and registry_password_file, or neither of them"
            )
        return self


class PoolSettings(Frozen):
    """Desktops that are made before anybody asks for them, on each of its hosts.

    hosts: empty for all sandbox hosts. cpu, memory: None for the image's own. A desktop that nobody took
    within `max_age_seconds` ends, and another one takes its place.
    """

    image: str
    resolution: Resolution | None = None
    hosts: tuple[Name, ...] = ()
    size: int = Field(ge=1, le=100)
    cpu: Cpu | None = None
    memory: Memory | None = None
    max_age_seconds: int = Field(default=1800, ge=60, le=86_400)


class DesktopSettings(Frozen):
    """A persistent desktop; its relay-side socket carries its name."""

    name: Name
    tenant: Name
    host: Name
    backend: WantedBackend
    """What it should run; what it does run is in its session."""
    resolution: Resolution


class ServiceSettings(Frozen):
    """A service with a host name of its own behind our sign-in. tenant: whose people; None: everybody's."""

    name: Name
    host_name: HostName
    role: Role
    tenant: Name | None = None


class OidcRule(Frozen):
    """Whoever all of this is true of comes in as this role of this tenant. The first rule that fits counts.

    email_domain: of an address that the provider has verified. claim, value: any claim that is this text, or
    a list that has it. everybody: whomever the provider lets in; such a rule is the last one.
    """

    tenant: Name
    role: Role
    group: str | None = Field(default=None, min_length=1)
    email_domain: HostName | None = None
    claim: str | None = Field(default=None, min_length=1)
    value: str | None = Field(default=None, min_length=1)
    everybody: bool = False

    @model_validator(mode="after")
    def says_whom_it_is_for(self) -> OidcRule:
        if (self.claim is None) != (self.value is None):
            raise ValueError("claim and value belong together; give both or neither")
        said = [one for one in (self.group, self.email_domain, self.claim) if one is not None]
        if bool(said) == self.everybody:
            raise ValueError("give group, email_domain, or claim and value; or everybody = true alone")
        return self


class OidcSettings(Frozen):
    """People may sign in through this OpenID provider. Only the rules here decide who is whose, as what.

    issuer: exactly as the provider writes it. name: what the button on the sign-in page calls it.
    login_claim: what somebody is called here; groups_claim: the list that `group` of a rule looks in. A
    claim inside another is named with dots: `realm_access.roles`.
    """

    issuer: IssuerUrl
    client_id: str = Field(min_length=1)
    client_secret_file: Path
    name: str = Field(min_length=1, max_length=40)
    scopes: tuple[Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")], ...] = (
        "openid",
        "profile",
        "email",
    )
    login_claim: str = Field(default="preferred_username", min_length=1)
    groups_claim: str = Field(default="groups", min_length=1)
    rules: tuple[OidcRule, ...] = Field(min_length=1)

    def client_secret(self) -> SecretStr:
        """Read when it is used: a new one needs no restart."""
        return SecretStr(read_secret(self.client_secret_file))

    @model_validator(mode="after")
    def tokens_travel_encrypted(self) -> OidcSettings:
        if self.issuer.startswith("http://") and not _is_loopback(self.issuer):
            raise ValueError("issuer must begin with https://; plain http is for loopback alone")
        return self

    @model_validator(mode="after")
    def openid_is_asked_for(self) -> OidcSettings:
        if "openid" not in self.scopes:
            raise ValueError("scopes: 'openid' is missing; add it")
        return self

    @model_validator(mode="after")
    def everybody_comes_last(self) -> OidcSettings:
        if any(rule.everybody for rule in self.rules[:-1]):
            raise ValueError("rules: the ones after `everybody` never count; put it last")
        return self


class ControlSettings(Frozen):
    """How long keyboard and mouse of a desktop are somebody's, in seconds. idle_seconds: a person who does
    nothing with them. most_seconds: at a time, without a renewal. agent_seconds: an agent after its last
    input, where it named no time."""

    idle_seconds: int = Field(default=300, ge=10, le=86_400)
    most_seconds: int = Field(default=3600, ge=60, le=86_400)
    agent_seconds: int = Field(default=30, ge=5, le=3600)


class Settings(Frozen):
    fleet_id: str = Field(min_length=1, max_length=63)
    origins: tuple[Origin, ...] = Field(min_length=1)
    listen: ListenAddress
    database: DatabaseAddress
    """A path: SQLite's file. `postgresql://user@host/database`: an existing server's."""
    state_directory: Path | None = None
    """Where viewer and worker of one machine keep what is this machine's alone, such as their counts; None:
    beside SQLite's file."""
    secret_key_file: Path
    default_image: str
    default_resolution: Resolution
    default_ttl_seconds: int = Field(ge=60)
    max_ttl_seconds: int = Field(ge=60)
    max_lifetime_seconds: int = Field(ge=60)
    create_deadline_seconds: int = Field(ge=1)
    """From the moment a host is chosen until a frame is seen."""
    queue_seconds: int = Field(default=300, ge=0)
    """How long a session waits for a place before it is given up."""
    idle_seconds: int | None = Field(default=None, ge=60)
    """A session that says nothing else ends when nobody has used it for this long; None: never."""
    control: ControlSettings = ControlSettings()
    requests_per_minute: int = Field(default=6000, ge=60)
    """Of one key or person, to one viewer; a few too many wait a moment, more are refused."""
    keep_sessions_days: int = Field(default=30, ge=1)
    keep_events_days: int = Field(default=1, ge=1)
    keep_deliveries_days: int = Field(default=7, ge=1)
    """Of webhooks: deliveries that have ended, with the log of their attempts."""
    webhooks_allow_http: bool = False
    """May a webhook go out without TLS?"""
    webhooks_allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Where webhooks may go beside the public internet."""
    any_image: bool = True
    """May a caller of the OpenSandbox-compatible API name an image that is not in the catalogue?"""
    content_domain: HostName | None = None
    """Below it every desktop with a web page of its own gets an origin; None: such desktops are off."""
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_authority_file: Path | None = None
    tenants: tuple[TenantSettings, ...] = ()
    hosts: tuple[HostSettings, ...] = Field(min_length=1)
    images: tuple[ImageSettings, ...] = ()
    """Empty where no host holds sandboxes."""
    desktops: tuple[DesktopSettings, ...] = ()
    services: tuple[ServiceSettings, ...] = ()
    pools: tuple[PoolSettings, ...] = ()
    oidc: OidcSettings | None = None
    """None: nobody signs in through a provider."""

    @property
    def state(self) -> Path:
        """The state directory, wherever it is."""
        if self.state_directory is not None:
            return self.state_directory
        if isinstance(self.database, PostgresAddress):
            raise SettingsError("state_directory: is missing; with PostgreSQL it has no place of its own")
        return self.database.parent

    @property
    def canonical_origin(self) -> str:
        return self.origins[0]

    @cached_property
    def secret_key(self) -> bytes:
        """The Fernet key that seals VNC passwords at rest."""
        return read_fernet_key(self.secret_key_file)

    def image(self, name: str) -> ImageSettings | None:
        """The catalogue entry of that name or alias."""
        for image in self.images:
            if name == image.name or name in image.aliases:
                return image
        return None

    def image_for(self, name: str) -> ImageSettings:
        """The catalogue's entry; for any other image one without a display, under its own address."""
        found = self.image(name)
        return found or ImageSettings(name="any", uri=name, display=Display.NONE)

    def devtools_port(self, image: str) -> int | None:
        """Where DevTools answer in a sandbox of this image; None: it has none."""
        found = self.image(image)
        return found.devtools_port if found is not None and found.devtools else None

    @property
    def images_with_devtools(self) -> frozenset[str]:
        """All their names and aliases."""
        capable = [image for image in self.images if image.devtools]
        return frozenset(name for image in capable for name in (image.name, *image.aliases))

    def host(self, name: str) -> HostSettings | None:
        return next((host for host in self.hosts if host.name == name), None)

    def quota(self, tenant: str) -> Quota:
        """Of a tenant that the settings do not name: none."""
        return self.tenant(tenant).quota

    def tenant(self, name: str) -> TenantSettings:
        """Of a tenant that the settings do not name: what one has that says nothing of itself."""
        return next((one for one in self.tenants if one.name == name), TenantSettings(name=name))

    @property
    def sandbox_hosts(self) -> tuple[HostSettings, ...]:
        return tuple(host for host in self.hosts if host.holds_sandboxes)

    def hosts_giving_to(self, tenant: str) -> tuple[str, ...]:
        """The hosts whose sandboxes, where nobody of this fleet made them, are that tenant's."""
        return tuple(host.name for host in self.sandbox_hosts if host.adopt == tenant)

    @property
    def credentials(self) -> Credentials | None:
        """How this machine proves to other hosts who it is; None on a fleet of one host."""
        certificate, key, authority = self.tls_certificate_file, self.tls_key_file, self.tls_authority_file
        if certificate is None or key is None or authority is None:
            return None
        return Credentials(certificate_file=certificate, key_file=key, authority_file=authority)

    def node(self, host: HostSettings) -> Node | None:
        """How that host's programs are reached; None: on loopback."""
        credentials = self.credentials
        if host.server_name is None or credentials is None:
            return None
        return Node(server_name=host.server_name, credentials=credentials)

    @model_validator(mode="after")
    def names_are_unique(self) -> Settings:
        for what, names in (
            ("tenants", [tenant.name for tenant in self.tenants]),
            ("hosts", [host.name for host in self.hosts]),
            ("images", [name for image in self.images for name in (image.name, *image.aliases)]),
            ("desktops", [desktop.name for desktop in self.desktops]),
            ("services", [service.name for service in self.services]),
            ("services.host_name", [service.host_name for service in self.services]),
            ("tenants.keys", [key.id for tenant in self.tenants for key in tenant.keys]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what}: {', '.join(twice)} is given twice; keep one")
        return self

    @model_validator(mode="after")
    def what_is_named_exists(self) -> Settings:
        if self.sandbox_hosts and self.image(self.default_image) is None:
            known = ", ".join(image.name for image in self.images)
            raise ValueError(
                f"default_image: {self.default_image!r} is not among the images; use one of {known}"
            )
        tenants = {tenant.name for tenant in self.tenants}
        hosts = {host.name for host in self.hosts}
        for desktop in self.desktops:
            if desktop.tenant not in tenants:
                raise ValueError(
                    f"desktops.{desktop.name}.tenant: no tenant {desktop.tenant!r}; add it to tenants"
                )
            if desktop.host not in hosts:
                raise ValueError(f"desktops.{desktop.name}.host: no host {desktop.host!r}; add it to hosts")
        for host in self.hosts:
            if host.adopt is not None and host.adopt not in tenants:
                raise ValueError(f"hosts.{host.name}.adopt: no tenant {host.adopt!r}; add it to tenants")
        for pool in self.pools:
            if self.image(pool.image) is None:
                raise ValueError(f"pools: no image {pool.image!r}; add it to images")
            unknown = sorted(set(pool.hosts) - {host.name for host in self.sandbox_hosts})
            if unknown:
                raise ValueError(f"pools: no sandbox host {unknown[0]!r}; add it to hosts")
        for service in self.services:
            if service.tenant is not None and service.tenant not in tenants:
                raise ValueError(
                    f"services.{service.name}.tenant: no tenant {service.tenant!r}; add it to tenants"
                )
        return self

    @model_validator(mode="after")
    def rules_name_tenants(self) -> Settings:
        tenants = {tenant.name for tenant in self.tenants}
        for rule in self.oidc.rules if self.oidc is not None else ():
            if rule.tenant not in tenants:
                raise ValueError(f"oidc.rules: no tenant {rule.tenant!r}; add it to tenants")
        return self

    @model_validator(mode="after")
    def other_hosts_are_met_with_a_certificate(self) -> Settings:
        named = self.tls_certificate_file, self.tls_key_file, self.tls_authority_file
        if any(named) and not all(named):
            raise ValueError("tls_certificate_file, tls_key_file, tls_authority_file: give all three or none")
        away = [host.name for host in self.hosts if host.server_name is not None]
        if away and not all(named):
            raise ValueError(
                f"tls_certificate_file: is missing; host {away[0]} is another machine, which asks for it"
            )
        return self

    @model_validator(mode="after")
    def postgresql_comes_with_a_state_directory(self) -> Settings:
        if isinstance(self.database, PostgresAddress) and self.state_directory is None:
            raise ValueError(
                "state_directory: is missing; with PostgreSQL, name a directory for what is this machine's"
            )
        return self

    @model_validator(mode="after")
    def lifetimes_are_ordered(self) -> Settings:
        if self.default_ttl_seconds > self.max_ttl_seconds:
            raise ValueError("default_ttl_seconds: is more than max_ttl_seconds; lower it")
        if self.max_ttl_seconds > self.max_lifetime_seconds:
            raise ValueError("max_ttl_seconds: is more than max_lifetime_seconds; lower it")
        return self


def load_settings(path: Path | None = None, *, check_secrets: bool = True) -> Settings:
    """Read and check the settings; raise SettingsError with one sentence for the first thing that is wrong.

    `path` defaults to $DESKFLEET_SETTINGS, else /etc/deskfleet/viewer.toml. With `check_secrets` every secret
    file that they name is read once, so that a missing one stops the start and not the first stream.
    """
    path = path or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    try:
        settings = Settings.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); run the deploy again") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML ({error}); run the deploy again") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_sentence(error, Settings)}") from error
    if check_secrets:
        _read_every_secret(path, settings)
    return settings


def _is_loopback(url: str) -> bool:
    return re.match(r"http://(127\.[0-9.]+|localhost|\[::1\])(:|/|$)", url) is not None


def read_secret(path: Path) -> str:
    """The one value in a secret file, without the final newline."""
    try:
        value = path.read_text().strip()
        logs.hide(value)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"{path}: the secret cannot be read ({why}); run the deploy again") from error
    if not value:
        raise SettingsError(f"{path}: the secret is empty; run the deploy again")
    return value


def read_fernet_key(path: Path) -> bytes:
    key = read_secret(path).encode()
    try:
        Fernet(key)
    except ValueError as error:
        raise SettingsError(
            f"{path}: is not a key of 32 bytes in URL-safe base64; run the deploy again"
        ) from error
    return key


def _read_every_secret(path: Path, settings: Settings) -> None:
    try:
        _ = settings.secret_key
        for host in settings.hosts:
            host.opensandbox_key()
            if host.relay_key_file is not None:
                host.relay_key()
        for image in settings.images:
            image.registry_password()
        if settings.oidc is not None:
            settings.oidc.client_secret()
        if settings.credentials is not None:
            settings.credentials.context()
        if isinstance(settings.database, PostgresAddress) and settings.database.passfile is not None:
            _check_passfile(settings.database.passfile)
    except (SettingsError, NodeFilesUnusable) as error:
        raise SettingsError(f"{path}: {error}") from error


def _check_passfile(path: Path) -> None:
    """libpq passes over a file that others can read, and then fails for want of a password."""
    entries = read_secret(path).splitlines()
    if path.stat().st_mode & 0o077:
        raise SettingsError(
            f"{path}: others can read it, so PostgreSQL's client will not; set its mode to 0600"
        )
    for entry in entries:
        # host:port:database:user:password, where a backslash stands before a : or \\ that is meant.
        *_, password = re.split(r"(?<!\\):", entry, maxsplit=4)
        logs.hide(re.sub(r"\\(.)", r"\1", password))


def first_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """`key: what is wrong; what mends it` for the first problem that pydantic found."""
    first = error.errors(include_url=False)[0]
    return sentence(first, model)


def sentence(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """One problem of a validation in words, with the nearest known key for an unknown one."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = nearest(str(problem["loc"][-1]), _fields_at(model, problem["loc"][:-1]))
        return f"{where}: unknown key" + (f", did you mean {near!r}?" if near else "; remove it")
    if problem["type"] == "missing":
        return f"{where}: is missing; give it a value"
    message = re.sub(r"^Value error, ", "", problem["msg"])
    return f"{where}: {message[0].lower()}{message[1:]}" if where else message


def nearest(name: str, known: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields that are allowed at `location` below `model`."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        inner = _model_inside(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_inside(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_inside(argument)
        if found is not None:
            return found
    return None
