"""The only file that pyinfra reads: turns the site file into pyinfra's groups and host data.

Every public list of this module is a group to pyinfra, so all else starts with an underscore.
"""

from __future__ import annotations

import os as _os
from typing import Any as _Any

from inventory.models import Group as _Group
from inventory.models import Host as _Host
from inventory.models import HostConfig as _HostConfig
from inventory.secrets import load_secrets as _load_secrets
from inventory.site_file import load_site as _load_site
from inventory.site_file import site_path as _site_path
from inventory.transport import without_delay as _without_delay

_PATH = _site_path()
_SITE = _load_site(_PATH)
_SECRETS = _load_secrets(_SITE, site_file=_PATH)


def _entry(name: str, host: _Host) -> tuple[str, dict[str, _Any]]:
    """A host as pyinfra wants it: how it is called, and its data."""
    data: dict[str, _Any] = {"deskfleet": _HostConfig(name=name, site=_SITE, secrets=_SECRETS)}
    if isinstance(host.connect, str):
        if host.connect == "@local" and _os.geteuid() != 0:
            data["_sudo"] = True
        return host.connect, data
    data |= {
        "ssh_hostname": host.connect.address,
        "ssh_user": host.connect.user,
        "ssh_port": host.connect.port,
        "ssh_strict_host_key_checking": "yes",
        "ssh_paramiko_connect_kwargs": {"transport_factory": _without_delay},
    }
    if host.connect.key:
        data["ssh_key"] = host.connect.key
    if host.connect.known_hosts:
        data["ssh_known_hosts_file"] = host.connect.known_hosts
    return name, data


def _members(group: _Group) -> list[tuple[str, dict[str, _Any]]]:
    return [_entry(name, host) for name, host in _SITE.hosts.items() if group in host.groups]


edge = _members(_Group.EDGE)
control = _members(_Group.CONTROL)
sandboxes = _members(_Group.SANDBOXES)
desktops = _members(_Group.DESKTOPS)
