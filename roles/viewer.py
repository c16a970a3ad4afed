"""Viewer and worker: the control plane's settings, keys, database directory and programs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pyinfra.api.command import FunctionCommand, QuoteString, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

from inventory.catalogue import Image, images_of, stack_of
from inventory.catalogue.pools import hosts_of
from inventory.models import (
    ApiKey,
    Database,
    External,
    Group,
    Host,
    HostConfig,
    Oidc,
    Policy,
    Pool,
    Quota,
    Site,
    node_name,
)
from inventory.resources import cpu_millis, memory_mib
from inventory.secrets import forget_former, has_former, key_hash
from roles import certificates, wheel
from roles.files import (
    Commands,
    Directory,
    absent,
    directories,
    no_user,
    place,
    render,
    sha256,
    system_user,
    tell,
)
from roles.packages import packages
from roles.units import Unit, no_unit, run

USER = "deskfleet-viewer"
CONFIG = "/etc/deskfleet/viewer.toml"
SECRETS = "/etc/deskfleet/secrets/viewer"
DATA = "/var/lib/deskfleet/viewer"
DATABASE = f"{DATA}/deskfleet.db"
"""SQLite's file, where the site names no PostgreSQL."""
PASSFILE = f"{SECRETS}/database.pgpass"

_TLS_FILES = {
    "tls_certificate_file": f"{certificates.VIEWER}/host.pem",
    "tls_key_file": f"{certificates.VIEWER}/host.pem",
    "tls_authority_file": f"{certificates.VIEWER}/ca.pem",
}

ALL_SCOPES = ("sessions", "streams", "events", "manage", "fleet")
"""Of the site's own admin key: whoever rolls out the fleet may do what is every tenant's."""

_ENVIRONMENT = {"HOME": DATA, "DESKFLEET_SETTINGS": CONFIG, "PYTHONUNBUFFERED": "1"}

# The new wheel's own loader reads the candidate before the running one's file is replaced.
_CHECK = (
    f'{wheel.PYTHON} -c "import pathlib, sys; from viewer.settings import load_settings;'
    ' load_settings(pathlib.Path(sys.argv[1]))" "$new"'
)

WORKER = Unit(
    name="deskfleet-worker",
    description="Deskfleet's worker",
    command=(f"{wheel.HOME}/current/bin/deskfleet-worker",),
    user=USER,
    directory=DATA,
    environment=_ENVIRONMENT,
)


def viewer_unit(port: int) -> Unit:
    return Unit(
        name="deskfleet-viewer",
        description="Deskfleet's viewer",
        command=(f"{wheel.HOME}/current/bin/deskfleet-viewer",),
        user=USER,
        directory=DATA,
        environment=_ENVIRONMENT,
        ready=f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null",
        ready_seconds=60,
    )


class HeldKeys(FactBase[list[str]]):
    """Names of the key files that the control plane has for what it asks, former ones included."""

    def command(self) -> str:
        return f"ls {SECRETS} 2>/dev/null || true"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [
            name
            for name in output
            if name == Path(PASSFILE).name
            or (name.startswith(("relay", "opensandbox", "registry", "oidc")) and name.endswith(".key"))
        ]


def newcomers(config: HostConfig) -> tuple[str, ...]:
    """Hosts with desktops that the control plane has no key for yet; asked before the run changes that."""
    held = host.get_fact(HeldKeys)
    return tuple(name for name in _watched_hosts(config.site) if f"relay-{name}.key" not in held)


@deploy("Viewer")
def viewer(*, config: HostConfig) -> None:
    text = viewer_toml(config)
    keys = {"viewer.key": config.secrets.viewer_key, **_keys_of_hosts(config), **_passwords(config)}
    system_user(name="Make its user", user=USER, home=DATA)
    directories(
        name="Make its directories",
        wanted=(Directory(SECRETS, "750", "root", USER), Directory(DATA, "750", USER, USER)),
        # It may have been moved here from another host, where the user's number is another one.
        whole=(DATA,),
    )
    for file, value in keys.items():
        place(name=f"Write {file}", path=f"{SECRETS}/{file}", content=value, mode="640", group=USER)
    passfile = _passfile(config)
    if passfile is not None:
        # Its own, and nobody else's: libpq passes over a file that a group can read.
        place(name="Write the database's password", path=PASSFILE, content=passfile, mode="600", user=USER)
    if config.site.settings.database is not None:
        packages(name="Install PostgreSQL's client, for backups", names=("postgresql-client",))
    certificates.viewer_certificates(config, group=USER)
    place(name="Write viewer.toml", path=CONFIG, content=text, mode="640", group=USER, check=_CHECK)
    kept = (*keys, *([Path(PASSFILE).name] if passfile is not None else []))
    forget_keys(name="Forget keys of former hosts", wanted=kept)
    if config.site_file is not None:
        forget_kept_keys(
            name="Forget them among the site's secrets", site=config.site, site_file=config.site_file
        )
    stamp = sha256(text, *keys.values(), passfile or "", certificates.stamp(config), wheel.identity())
    run(name="Run the viewer", unit=viewer_unit(config.site.settings.ports.viewer), restart_on=stamp)
    run(name="Run the worker", unit=WORKER, restart_on=stamp)


@operation()
def forget_keys(wanted: tuple[str, ...]) -> Commands:
    unwanted = [f"{SECRETS}/{name}" for name in host.get_fact(HeldKeys) if name not in wanted]
    for path in unwanted:
        tell(path, "goes")
    for path in unwanted:
        yield StringCommand("rm", "-f", QuoteString(path))


@operation()
def forget_kept_keys(site: Site, site_file: Path) -> Commands:
    """On the machine of the deploy, and only when the control host forgets them too: neither a preview nor a
    run that was refused may cost a host its keys."""
    if has_former(site, site_file=site_file):
        yield FunctionCommand(forget_former, [site], {"site_file": site_file})


@deploy("Viewer away")
def no_viewer() -> None:
    no_unit(name="Stop the worker", unit="deskfleet-worker")
    no_unit(name="Stop the viewer", unit="deskfleet-viewer")
    absent(name="Remove its files", paths=(CONFIG, f"{CONFIG}.new", SECRETS, DATA))
    no_user(name="Remove its user", user=USER)


def viewer_toml(config: HostConfig) -> str:
    """The viewer's settings file; viewer/settings.py reads it, and a test lets it."""
    site, settings = config.site, config.site.settings
    top = {
        "fleet_id": config.secrets.fleet_id,
        "origins": settings.origins,
        "listen": f"127.0.0.1:{settings.ports.viewer}",
        **_database(settings.database),
        "secret_key_file": f"{SECRETS}/viewer.key",
        "default_image": settings.default_image,
        "default_resolution": settings.default_resolution,
        "default_ttl_seconds": settings.ttl.default,
        "max_ttl_seconds": settings.ttl.max,
        "max_lifetime_seconds": settings.ttl.lifetime,
        "create_deadline_seconds": 120,
        "queue_seconds": settings.queue,
        "idle_seconds": settings.idle,
        "control": {f"{name}_seconds": value for name, value in settings.control.model_dump().items()},
        "requests_per_minute": settings.requests,
        "keep_sessions_days": settings.keep.sessions_days,
        "keep_events_days": settings.keep.events_days,
        "keep_deliveries_days": settings.keep.deliveries_days,
        "webhooks_allow_http": settings.webhooks.http,
        "webhooks_allow_networks": [str(network) for network in settings.webhooks.networks],
        "any_image": settings.images.any,
        **({"content_domain": settings.content} if settings.content else {}),
        **({"oidc": _oidc(settings.oidc)} if settings.oidc else {}),
        **(_TLS_FILES if site.spreads else {}),
    }
    lists: dict[str, list[Mapping[str, Any]]] = {
        "tenants": [
            {
                "name": name,
                "keys": _keys(config, name),
                "quota": _quota(settings.quotas.get(name)),
                **settings.policies.get(name, Policy()).model_dump(exclude_defaults=True),
            }
            for name in site.tenants
        ],
        "hosts": [
            *(_host(config.name, site, name) for name in _watched_hosts(site)),
            *(_external(name, server) for name, server in site.external.items()),
        ],
        "images": [_image(image) for image in images_of(site)],
        "desktops": [{"name": name, **desktop.model_dump()} for name, desktop in site.desktops.items()],
        "services": _services(site),
        "pools": [_pool(pool, site) for pool in settings.pools],
    }
    return render(
        "viewer/viewer.toml.j2",
        settings=_toml(top),
        lists={name: [_toml(entry) for entry in entries] for name, entries in lists.items()},
    )


def database_of(database: Database | None) -> str:
    """The viewer's setting `database`: SQLite's file, or the URL that names the password's file."""
    if database is None:
        return DATABASE
    if database.password is None:
        return database.url
    return f"{database.url}{'&' if '?' in database.url else '?'}passfile={PASSFILE}"


def _database(database: Database | None) -> dict[str, str]:
    """With PostgreSQL the directory of SQLite's file is still this host's own."""
    where = {"database": database_of(database)}
    return where if database is None else {**where, "state_directory": DATA}


def _passfile(config: HostConfig) -> SecretStr | None:
    """One entry for whatever server: `host:port:database:user:password`, as libpq reads it."""
    database = config.site.settings.database
    if database is None or database.password is None:
        return None
    password = config.secrets.given[database.password].get_secret_value()
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return SecretStr(f"*:*:*:*:{escaped}")


def _watched_hosts(site: Site) -> dict[str, Host]:
    """The hosts that carry desktops: what the viewer and the worker ask about something."""
    return {
        name: host
        for name, host in site.hosts.items()
        if Group.SANDBOXES in host.groups or Group.DESKTOPS in host.groups
    }


def _keys_of_hosts(config: HostConfig) -> dict[str, SecretStr]:
    """File -> key: a relay's and an OpenSandbox server's are different ones on each host."""
    keys, secrets = {}, config.secrets
    for name, watched in _watched_hosts(config.site).items():
        keys[f"relay-{name}.key"] = secrets.relay_keys[name]
        if Group.SANDBOXES in watched.groups:
            keys[f"opensandbox-{name}.key"] = secrets.opensandbox_keys[name]
    for name, server in config.site.external.items():
        keys[f"opensandbox-{name}.key"] = secrets.given[server.key]
    return keys


def _passwords(config: HostConfig) -> dict[str, SecretStr]:
    """File -> password: those that the worker hands to the host that pulls an image, and the viewer's own at
    the OpenID provider."""
    given, oidc = config.secrets.given, config.site.settings.oidc
    own = {"oidc.key": given[oidc.client_secret]} if oidc else {}
    return own | {
        f"registry-{image.name}.key": given[image.registry.password]
        for image in images_of(config.site)
        if image.registry is not None
    }


def _host(control: str, site: Site, name: str) -> Mapping[str, Any]:
    """How `name` is reached from `control`: on loopback if it is that machine, else through its node."""
    wanted, ports = site.hosts[name], site.settings.ports
    here = name == control
    node = f"https://{wanted.fleet_address}:{ports.node}"
    values: dict[str, Any] = {
        "name": name,
        "groups": wanted.groups,
        "relay_url": f"http://127.0.0.1:{ports.relay}" if here else node,
        "relay_key_file": f"{SECRETS}/relay-{name}.key",
    }
    if wanted.fleet_address is not None:
        values["address"] = str(wanted.fleet_address)
    if not here:
        values["server_name"] = node_name(name)
    if Group.SANDBOXES in wanted.groups:
        values |= {
            "opensandbox_url": f"http://127.0.0.1:{ports.opensandbox}" if here else node,
            "opensandbox_key_file": f"{SECRETS}/opensandbox-{name}.key",
            "hostwatch_url": f"http://127.0.0.1:{ports.hostwatch}" if here else node,
            **_room(wanted),
        }
    return values


def _external(name: str, server: External) -> Mapping[str, Any]:
    """An OpenSandbox server of somebody else's is reached by its URL and key alone."""
    return {
        "name": name,
        "groups": [Group.SANDBOXES],
        "external": True,
        "opensandbox_url": server.url,
        "opensandbox_key_file": f"{SECRETS}/opensandbox-{name}.key",
        **_room(server),
    }


def _room(wanted: Host | External) -> Mapping[str, Any]:
    return {
        "max_desktops": wanted.max_desktops,
        **_sizes(wanted.cpu, wanted.memory),
        "max_creates": wanted.max_creates,
        "labels": wanted.labels,
        "adopt": wanted.adopt,
    }


def _quota(quota: Quota | None) -> Mapping[str, Any] | None:
    return None if quota is None else {"desktops": quota.desktops, **_sizes(quota.cpu, quota.memory)}


def _sizes(cpu: str | None, memory: str | None) -> Mapping[str, int | None]:
    """As numbers to add up: thousandths of a core, and MiB."""
    return {
        "cpu_millis": None if cpu is None else cpu_millis(cpu),
        "memory_mib": None if memory is None else memory_mib(memory),
    }


def _image(image: Image) -> Mapping[str, Any]:
    values = image.model_dump()
    if image.registry is not None:
        values["registry_user"] = image.registry.user
        values["registry_password_file"] = f"{SECRETS}/registry-{image.name}.key"
    return values


def _oidc(oidc: Oidc) -> Mapping[str, Any]:
    return {
        **oidc.model_dump(exclude={"client_secret", "rules"}),
        "client_secret_file": f"{SECRETS}/oidc.key",
        "rules": [rule.model_dump(exclude_defaults=True) for rule in oidc.rules],
    }


def _pool(pool: Pool, site: Site) -> Mapping[str, Any]:
    return {
        **pool.model_dump(exclude={"hosts", "max_age"}),
        "hosts": hosts_of(pool, site),
        "max_age_seconds": pool.max_age,
    }


def _services(site: Site) -> list[Mapping[str, Any]]:
    """What has a host name of its own; without a tenant it is for all of them, who bring keys of theirs."""
    return [
        {
            "name": service.name,
            "host_name": service.host_name(site.settings),
            "role": service.role,
            **({"tenant": service.tenant} if service.tenant else {}),
        }
        for service in stack_of(site)
        if service.label
    ]


def _keys(config: HostConfig, tenant: str) -> list[dict[str, object]]:
    keys = [_hashed(config.secrets.tenant_keys[tenant])]
    if tenant == config.site.tenants[0]:
        keys.insert(0, {**_hashed(config.secrets.admin_key), "scopes": list(ALL_SCOPES)})
    return keys


def _hashed(key: ApiKey) -> dict[str, object]:
    return {"id": key.id, "role": key.role, "sha256": key_hash(key), "label": key.label}


def _toml(values: Mapping[str, Any]) -> dict[str, str]:
    """What is None is left out: TOML has no word for it."""
    return {_key(key): _value(value) for key, value in values.items() if value is not None}


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    """A TOML value. Its strings, numbers and booleans are written as in JSON; tables inside a list or a table
    are inline."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {item}" for key, item in _toml(value).items()) + "}"
    return json.dumps(value, ensure_ascii=False)
