"""Machines for the hosts of a site, at the addresses that it gives them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from inventory.models import Group, Host, Site, Ssh
from tests.fleet.desktop_images import docker_data
from tests.fleet.operator import NotOverSsh, Operator
from tests.hosts.bare_host import BareHost, BareHosts, Variant
from tests.hosts.lan import Lan, Machine, start_machines

PLAIN = ("control1", "box2")
"""Hosts without systemd; so each group's programs run under both supervisors, here or on one-host sites."""


def lan_of(hosts: BareHosts, site: Site) -> Lan:
    """A network that holds the addresses of all hosts: the /24 of the first one."""
    first = next(iter(site.hosts.values()))
    return Lan(hosts.daemon, ipaddress.IPv4Network(f"{_address(first)}/24", strict=False))


def machines(site: Site, *, images: Path | None) -> list[Machine]:
    """images: what sandbox hosts have in their Docker from the start; None: nothing, so they build them."""
    return [
        Machine(
            name,
            Variant.PLAIN if name in PLAIN else Variant.SYSTEMD,
            _address(host),
            docker_data=images if Group.SANDBOXES in host.groups else None,
            users=(host.connect.user,) if isinstance(host.connect, Ssh) else (),
        )
        for name, host in site.hosts.items()
    ]


def bring_up(
    hosts: BareHosts, site: Site, operator: Operator, *, with_images: bool = True
) -> dict[str, BareHost]:
    """A machine for each host of the site, whose keys the operator has pinned. Those that the site enters
    through a jump host are closed to him."""
    lan = lan_of(hosts, site)
    wanted = machines(site, images=docker_data() if with_images else None)
    running = start_machines(hosts, lan, wanted, public_key=operator.prepare(), names=names_of(site))
    for name, host in site.hosts.items():
        if isinstance(host.connect, Ssh) and host.connect.jump:
            lan.close(ipaddress.IPv4Address(running[name].address))
    operator.pin(running.values())
    return running


def names_of(site: Site) -> dict[str, ipaddress.IPv4Address]:
    """What a name server knows of the site."""
    return {site.settings.domain: _address(site.hosts[site.edge])}


def _address(host: Host) -> ipaddress.IPv4Address:
    """Both ways to a machine of ours are the same: the operator's and the other hosts'."""
    address = host.fleet_address
    if address is None or isinstance(host.connect, str) or host.connect.address != str(address):
        raise NotOverSsh(f"a machine of ours has one address, not {host.connect} and {address}")
    return address
