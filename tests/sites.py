"""Sites and secrets for tests: small, fixed, and never those of a real site."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic import BaseModel, SecretStr

from inventory.authority import renewed
from inventory.models import ApiKey, Certificates, HostConfig, Secrets, Site

ALL_GROUPS = ("edge", "control", "sandboxes", "desktops")
FLEET = {
    "edge1": ("10.77.0.11", ("edge",)),
    "control1": ("10.77.0.12", ("control",)),
    "box1": ("10.77.0.13", ("sandboxes",)),
    "box2": ("10.77.0.14", ("sandboxes",)),
    "studio1": ("10.77.0.15", ("desktops",)),
}
"""Host -> its address and groups."""
LAYOUTS = {
    "the tutorial's": {
        "gate": ("edge", "control"),
        "box1": ("sandboxes", "desktops"),
        "box2": ("sandboxes",),
    },
    "edge apart": {"gate": ("edge",), "all": ("control", "sandboxes"), "studio": ("desktops",)},
    "one for all and a box": {"all": ALL_GROUPS, "box1": ("sandboxes",)},
    "control apart": {"gate": ("edge", "desktops"), "desk": ("control",), "box1": ("sandboxes",)},
}
"""Ways to spread the groups: name -> host -> its groups."""
SECRET_WORDS = ("opensandbox-secret", "df_admin000_secret-of-the-admin", "df_oper0000_secret-of-the-operator")


def site(*, connect: str = "@fake/h1", **settings: Any) -> Site:
    """A one-host site with these settings."""
    return Site.model_validate(
        {
            "hosts": {"here": {"groups": ALL_GROUPS, "connect": connect}},
            "settings": settings,
            "desktops": {"studio": {"tenant": "main", "host": "here", "backend": "tigervnc"}},
        }
    )


def fleet_site(**settings: Any) -> Site:
    """Five hosts, two tenants with a desktop each, and a service of the operator's own."""
    return Site.model_validate(
        {
            "hosts": {
                name: {"groups": groups, "connect": f"@fake/{name}", "address": address}
                for name, (address, groups) in FLEET.items()
            },
            "settings": {"domain": "desks.example.com", "tls": "internal", **settings},
            "tenants": ["main", "acme"],
            "desktops": {
                "drawing": {"tenant": "main", "host": "studio1"},
                "plotting": {"tenant": "acme", "host": "studio1", "backend": "tigervnc"},
            },
            "services": [
                "opensandbox",
                "kasmvnc",
                {"name": "code-server", "host": "box2", "port": 8090, "websocket": True, "tenant": "acme"},
            ],
        }
    )


def laid_out(layout: str, **settings: Any) -> Site:
    """A site of several hosts in one of LAYOUTS; with a desktop and two own services."""
    groups = LAYOUTS[layout]
    host_of = {group: name for name, members in groups.items() for group in members}
    return Site.model_validate(
        {
            "hosts": {
                name: {"groups": members, "connect": f"@fake/{name}", "address": f"10.77.0.{number}"}
                for number, (name, members) in enumerate(groups.items(), 11)
            },
            "settings": {"domain": "desks.example.com", "tls": "internal", **settings},
            "desktops": {"drawing": {"tenant": "main", "host": host_of["desktops"], "backend": "tigervnc"}},
            "services": [
                "opensandbox",
                {"name": "notes", "host": host_of["control"], "port": 8090},
                {"name": "code", "host": host_of["sandboxes"], "port": 8091, "websocket": True},
            ],
        }
    )


def _fernet(letter: str) -> SecretStr:
    return SecretStr(base64.urlsafe_b64encode(letter.encode() * 32).decode())


def secrets() -> Secrets:
    return Secrets(
        fleet_id="f-0123456789ab",
        viewer_key=_fernet("v"),
        opensandbox_keys={"here": SecretStr(SECRET_WORDS[0])},
        relay_keys={"here": _fernet("r")},
        desktop_keys={"studio": SecretStr("owner-secret-of-studio")},
        admin_key=ApiKey(id="admin000", text=SecretStr(SECRET_WORDS[1]), role="admin", label="first admin"),
        tenant_keys={
            "main": ApiKey(id="oper0000", text=SecretStr(SECRET_WORDS[2]), role="operator", label="operator")
        },
    )


def host_config(**settings: Any) -> HostConfig:
    return HostConfig(name="here", site=site(**settings), secrets=secrets())


@cache
def _fleet_certificates() -> Certificates:
    # Not fixed: a fixed certificate would end one day.
    return renewed(None, fleet_site(), datetime.now(UTC))


def fleet_secrets() -> Secrets:
    """Secrets of `fleet_site()`; each key tells its host. The certificates are new in each process."""
    boxes, relays = ("box1", "box2"), ("box1", "box2", "studio1")
    return secrets().model_copy(
        update={
            "opensandbox_keys": {name: SecretStr(f"opensandbox-secret-of-{name}") for name in boxes},
            "relay_keys": {name: _fernet(letter) for name, letter in zip(relays, "rst", strict=True)},
            "desktop_keys": {name: SecretStr(f"owner-secret-of-{name}") for name in ("drawing", "plotting")},
            "tenant_keys": {
                **secrets().tenant_keys,
                "acme": ApiKey(
                    id="oper0001", text=SecretStr("df_oper0001_secret-of-acme"), role="operator", label="acme"
                ),
            },
            "certificates": _fleet_certificates(),
        }
    )


def fleet_config(name: str, **settings: Any) -> HostConfig:
    """What the roles of this host of `fleet_site()` are told."""
    return HostConfig(name=name, site=fleet_site(**settings), secrets=fleet_secrets())


def secret_words(made: Secrets) -> list[str]:
    """What may be seen nowhere of these secrets: each value, and of a key in PEM its lines."""

    def words(value: object) -> Iterator[str]:
        if isinstance(value, SecretStr):
            lines = value.get_secret_value().splitlines()
            yield from (line for line in lines if not line.startswith("-----"))
        elif isinstance(value, BaseModel):
            for _, field in value:
                yield from words(field)
        elif isinstance(value, dict):
            for item in value.values():
                yield from words(item)

    return list(words(made))
