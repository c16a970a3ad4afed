"""Viewer and worker: the control plane's settings, keys, database directory and programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyinfra.api.deploy import deploy

from inventory.catalogue import IMAGES
from inventory.models import ApiKey, HostConfig
from inventory.secrets import key_hash
from roles import wheel
from roles.files import Directory, absent, directories, no_user, place, render, sha256, system_user
from roles.units import Unit, no_unit, run

USER = "deskfleet-viewer"
CONFIG = "/etc/deskfleet/viewer.toml"
SECRETS = "/etc/deskfleet/secrets/viewer"
DATA = "/var/lib/deskfleet/viewer"

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


@deploy("Viewer")
def viewer(*, config: HostConfig) -> None:
    text = viewer_toml(config)
    secrets = config.secrets
    keys = {
        "viewer.key": secrets.viewer_key,
        "relay.key": secrets.relay_keys[config.name],
        "opensandbox.key": secrets.opensandbox_keys[config.name],
    }
    system_user(name="Make its user", user=USER, home=DATA)
    directories(
        name="Make its directories",
        wanted=(Directory(SECRETS, "750", "root", USER), Directory(DATA, "750", USER, USER)),
    )
    for file, value in keys.items():
        place(name=f"Write {file}", path=f"{SECRETS}/{file}", content=value, mode="640", group=USER)
    place(name="Write viewer.toml", path=CONFIG, content=text, mode="640", group=USER, check=_CHECK)
    stamp = sha256(text, *keys.values(), wheel.identity())
    run(name="Run the viewer", unit=viewer_unit(config.site.settings.ports.viewer), restart_on=stamp)
    run(name="Run the worker", unit=WORKER, restart_on=stamp)


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
        "database": f"{DATA}/deskfleet.db",
        "secret_key_file": f"{SECRETS}/viewer.key",
        "default_image": settings.default_image,
        "default_resolution": settings.default_resolution,
        "default_ttl_seconds": settings.ttl.default,
        "max_ttl_seconds": settings.ttl.max,
        "max_lifetime_seconds": settings.ttl.lifetime,
        "create_deadline_seconds": 120,
    }
    host = {
        "name": config.name,
        "opensandbox_url": f"http://127.0.0.1:{settings.ports.opensandbox}",
        "opensandbox_key_file": f"{SECRETS}/opensandbox.key",
        "relay_url": f"http://127.0.0.1:{settings.ports.relay}",
        "relay_upstream": f"127.0.0.1:{settings.ports.relay}",
        "relay_key_file": f"{SECRETS}/relay.key",
        "max_desktops": config.host.max_desktops,
    }
    lists: dict[str, list[Mapping[str, Any]]] = {
        "tenants": [{"name": tenant, "keys": _keys(config, tenant)} for tenant in site.tenants],
        "hosts": [host],
        "images": [image.model_dump() for image in IMAGES],
        "desktops": [{"name": name, **desktop.model_dump()} for name, desktop in site.desktops.items()],
    }
    return render(
        "viewer/viewer.toml.j2",
        settings=_toml(top),
        lists={name: [_toml(entry) for entry in entries] for name, entries in lists.items()},
    )


def _keys(config: HostConfig, tenant: str) -> list[dict[str, str]]:
    keys = [config.secrets.tenant_keys[tenant]]
    if tenant == config.site.tenants[0]:
        keys.insert(0, config.secrets.admin_key)
    return [_hashed(key) for key in keys]


def _hashed(key: ApiKey) -> dict[str, str]:
    return {"id": key.id, "role": key.role, "sha256": key_hash(key), "label": key.label}


def _toml(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _value(value) for key, value in values.items()}


def _value(value: Any) -> str:
    """A TOML value. Its strings, numbers and booleans are written as in JSON; tables inside a list are
    inline."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
