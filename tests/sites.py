"""Sites and secrets for tests: small, fixed, and never those of a real site."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import SecretStr

from inventory.models import ApiKey, HostConfig, Secrets, Site

ALL_GROUPS = ("edge", "control", "sandboxes", "desktops")
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


def secrets() -> Secrets:
    def fernet(letter: str) -> SecretStr:
        return SecretStr(base64.urlsafe_b64encode(letter.encode() * 32).decode())

    return Secrets(
        fleet_id="f-0123456789ab",
        viewer_key=fernet("v"),
        opensandbox_keys={"here": SecretStr(SECRET_WORDS[0])},
        relay_keys={"here": fernet("r")},
        desktop_keys={"studio": SecretStr("owner-of-studio")},
        admin_key=ApiKey(id="admin000", text=SecretStr(SECRET_WORDS[1]), role="admin", label="first admin"),
        tenant_keys={
            "main": ApiKey(id="oper0000", text=SecretStr(SECRET_WORDS[2]), role="operator", label="operator")
        },
    )


def host_config(**settings: Any) -> HostConfig:
    return HostConfig(name="here", site=site(**settings), secrets=secrets())
