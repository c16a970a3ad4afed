"""For pyinfra: the one host of `DESKFLEET_TEST_HOST`, a HostConfig's values and how to connect, as JSON."""

import json
import os

from inventory.models import HostConfig, Site
from tests.sites import host_config

_GIVEN = json.loads(os.environ["DESKFLEET_TEST_HOST"])


def _config() -> HostConfig:
    config = host_config(connect=_GIVEN["connect"], **_GIVEN["settings"])
    site = config.site.model_dump() | {"desktops": _GIVEN["desktops"], "tenants": ("main", "guests")}
    keys = config.secrets.model_copy(update={"desktop_keys": _GIVEN["passwords"]})
    secrets = config.secrets.model_validate(keys.model_dump() | {"desktop_keys": _GIVEN["passwords"]})
    return HostConfig(name=config.name, site=Site.model_validate(site), secrets=secrets)


desktops = [(_GIVEN["connect"], {"deskfleet": _config()})]
