"""Firewall: a table of our own in nftables, loaded so that nobody is ever locked out."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pyinfra import logger
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.deploy import deploy
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from inventory.models import Group, HostConfig, OwnService, Section, Site, Ssh
from roles.docker import BRIDGE
from roles.facts import STATE, HasSystemd, Paths
from roles.files import Commands, Directory, absent, directories, place, render, tell
from roles.packages import packages
from roles.report import site_name

HOME = "/etc/deskfleet/firewall"
SCRIPT = f"{HOME}/firewall"
"""Loads, tries, confirms and takes back; also called by the start script of a machine without systemd."""
RULES = f"{HOME}/rules.nft"
"""What the site wants. What a reboot loads is a copy, made when it was confirmed."""
KEPT = f"{STATE}/firewall"
TRIAL = "/run/deskfleet-firewall"
UNIT = "/etc/systemd/system/deskfleet-firewall.service"
WAY_BACK_SECONDS = 60
_STARTS_AT_BOOT = tuple(
    f"/etc/systemd/system/{target}.wants/{UNIT.rpartition('/')[2]}"
    for target in ("sysinit.target", "nftables.service")
)
"""systemd's links."""

# Besides RFC 1918: "this network", carrier-grade NAT, loopback, link-local, protocol assignments,
# benchmarking, multicast, reserved and broadcast (IANA's special-purpose registries).
_PRIVATE_4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
)  # fmt: skip
# Loopback, mapped and translated IPv4, unique local (clouds' fd00:ec2::254 too), link-local, multicast.
_PRIVATE_6 = (
    "::/127",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
)

_TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "firewall"


class Node(NamedTuple):
    """Where a host's Caddy lets in the other hosts."""

    address: ipaddress.IPv4Address
    port: int


class Surroundings(Section):
    """What a host is like, as far as the rules depend on it, and what is loaded.

    ssh_ports: where SSH servers listen now, and where the roll-out itself came in. tunnel_ports: UDP, where
    WireGuard and its like listen. outer: interfaces that lead to other machines. resolvers: name servers that
    containers ask. refused: public addresses of the site's hosts that the rules on the host keep from
    sandboxes now. live: hash over the table as nft lists it, "" when there is none; confirmed_live: that
    hash when rules were last confirmed; confirmed_text: hash of their text, which a reboot loads; pending:
    rules wait for their confirmation.
    """

    ssh_ports: tuple[int, ...] = ()
    tunnel_ports: tuple[int, ...] = ()
    outer: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    live: str = ""
    confirmed_live: str = ""
    confirmed_text: str = ""
    pending: bool = False
    enabled: bool = False


class FirewallSurroundings(FactBase[Surroundings]):
    """Everything that the firewall needs to know of a host, by one command."""

    def command(self, address: str) -> str:
        return f"ADDRESS={address}\n{_read('look.sh')}"

    @staticmethod
    def default() -> Surroundings:
        return Surroundings()

    def process(self, output: list[str]) -> Surroundings:
        found: dict[str, set[str]] = {}
        for line in output:
            key, _, value = line.partition(" ")
            found.setdefault(key, set()).add(value.strip())
        return Surroundings(
            ssh_ports=_ports(found.get("ssh_port", ())),
            tunnel_ports=_ports(found.get("tunnel_port", ())),
            outer=tuple(sorted(found.get("outer", ()))),
            resolvers=_usable(found.get("resolver", ())),
            refused=tuple(sorted(filter(_is_public, found.get("refused", ())))),
            live="".join(found.get("live", ())),
            confirmed_live="".join(found.get("confirmed_live", ())),
            confirmed_text="".join(found.get("confirmed_text", ())),
            pending="pending" in found,
            enabled="enabled" in found,
        )


class PublicAddresses(FactBase[tuple[str, ...]]):
    """A host's own addresses, IPv4 and IPv6, that are in no private network; without those that IPv6's
    privacy extensions make up for a day."""

    def command(self) -> str:
        return (
            "PATH=$PATH:/usr/sbin:/sbin; ip -o address show scope global 2>/dev/null"
            " | awk '!/ (temporary|tentative|deprecated)/ {sub(/\\/.*/, \"\", $4); print $4}'"
        )

    @staticmethod
    def default() -> tuple[str, ...]:
        return ()

    def process(self, output: list[str]) -> tuple[str, ...]:
        return tuple(sorted(text for text in {line.strip() for line in output} if _is_public(text)))


def _is_public(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    private = _PRIVATE_4 if address.version == 4 else _PRIVATE_6
    return not any(address in ipaddress.ip_network(network) for network in private)


def _ports(words: Iterable[str]) -> tuple[int, ...]:
    """What says `*` or 0 (not bound yet) is no port."""
    return tuple(sorted(int(word) for word in words if word.isdigit() and int(word)))


def _usable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Name servers that a container can ask: not those on loopback, nor those that need a named link."""
    usable = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not address.is_loopback and not (address.version == 6 and address.is_link_local):
            usable.append(address)
    return tuple(str(address) for address in sorted(usable, key=lambda one: (one.version, int(one))))


def rules(
    config: HostConfig,
    *,
    ssh_ports: Iterable[int] = (),
    tunnel_ports: Iterable[int] = (),
    outer: Iterable[str] = (),
    resolvers: Iterable[str] = (),
    public: Iterable[str] = (),
) -> str:
    """The text for `nft -f`: replaces our table as a whole, in one transaction. `public`: addresses of the
    site's hosts besides those that the site file tells."""
    settings = config.site.settings
    further = {ipaddress.ip_address(text) for text in public}
    return render(
        "firewall/rules.nft.j2",
        name=config.name,
        bridge=BRIDGE,
        outer=sorted(outer),
        hosts=_addresses(config.site),
        public4=sorted(one for one in further if isinstance(one, ipaddress.IPv4Address)),
        public6=sorted(one for one in further if isinstance(one, ipaddress.IPv6Address)),
        private4=_PRIVATE_4,
        private6=_PRIVATE_6,
        reach=sorted(settings.firewall.reach),
        own_ports=_own_ports(config),
        open_ports=_open_ports(config, ssh_ports),
        tunnel_ports=list(tunnel_ports),
        node=_node(config),
        allow=sorted(set(settings.firewall.allow)),
        resolvers=list(resolvers),
    )


def rules_for(config: HostConfig, found: Surroundings, public: Iterable[str] = ()) -> str:
    """The rules of a host with these surroundings."""
    return rules(
        config,
        ssh_ports=found.ssh_ports,
        tunnel_ports=found.tunnel_ports,
        outer=found.outer,
        resolvers=found.resolvers,
        public=public,
    )


def _addresses(site: Site) -> list[ipaddress.IPv4Address]:
    """All addresses of the site's hosts that the site file tells."""
    found = {host.fleet_address for host in site.hosts.values()} - {None}
    for each in site.hosts.values():
        if isinstance(each.connect, Ssh):
            try:
                found.add(ipaddress.IPv4Address(each.connect.address))
            except ValueError:
                continue  # a name
    return sorted(address for address in found if address is not None and not address.is_loopback)


def _node(config: HostConfig) -> Node | None:
    address = config.host.fleet_address
    if not config.site.spreads or address is None:
        return None
    return Node(address, config.site.settings.ports.node)


def _open_ports(config: HostConfig, ssh_ports: Iterable[int]) -> list[int]:
    """What answers to everybody."""
    settings, connect = config.site.settings, config.host.connect
    ssh = {*ssh_ports, *((connect.port,) if isinstance(connect, Ssh) else ())}
    # Whatever else is open is no sign of SSH: its usual port stays open then, or nobody may come back in.
    found = {*(ssh or {22}), *settings.firewall.allow}
    if Group.EDGE in config.host.groups:
        found |= {settings.port} if settings.tls == "none" else {80, settings.port}
    return sorted(found)


def _own_ports(config: HostConfig) -> list[str]:
    """Ports of ours that other containers of the host have no business with; the edge's are for everybody."""
    ports = config.site.settings.ports
    own = {
        service.port
        for service in config.site.services or ()
        if isinstance(service, OwnService) and service.host == config.name
    }
    single = sorted({ports.opensandbox, ports.relay, ports.hostwatch, ports.viewer, ports.node, *own})
    first, last = ports.sandboxes
    return [*(str(port) for port in single if not first <= port <= last), f"{first}-{last}"]


@deploy("Firewall")
def firewall(config: HostConfig) -> None:
    """From outside only what is meant to answer does, and sandboxes reach the internet alone."""
    address = str(config.host.fleet_address or "")
    found = host.get_fact(FirewallSurroundings, address=address)
    text = rules_for(config, found, _public_addresses(config, found))
    systemd = host.get_fact(HasSystemd)
    packages(name="Install nftables and ip", names=("nftables", "iproute2"))
    directories(name="Make its directory", wanted=(Directory(HOME, "700"),))
    place(name="Write its script", path=SCRIPT, content=_read("firewall.sh"), mode="755")
    place(name="Check and place the rules", path=RULES, content=text, mode="600", check='nft -c -f "$new"')
    if systemd:
        place(name="Write its unit", path=UNIT, content=_read("deskfleet-firewall.service"))
    loaded(name="Load the rules", text=text, address=address, systemd=systemd)


def _public_addresses(config: HostConfig, found: Surroundings) -> set[str]:
    """Of all hosts of the site, for one with sandboxes. Those that are not in this run (`--limit`, away) are
    not asked: while one of them is missing, what the host's rules refuse stays refused."""
    if Group.SANDBOXES not in config.host.groups:
        return set()
    asked: set[str] = set()
    addresses: set[str] = set()
    for other in state.active_hosts:
        name = site_name(other)
        if name in config.site.hosts and state.is_host_in_limit(other):
            asked.add(name)
            found_there = other.get_fact(PublicAddresses)
            addresses.update(found_there)
    return addresses if asked >= set(config.site.hosts) else addresses | set(found.refused)


@operation()
def loaded(
    text: str, address: str, systemd: bool = False, way_back_seconds: int = WAY_BACK_SECONDS
) -> Commands:
    """The rules in `RULES`, whose text this is, are loaded and stay, also after a reboot.

    They are loaded on trial first: unless the roll-out comes in by a new connection and confirms them, what
    was before comes back by itself after `way_back_seconds`, however the roll-out ended.
    """
    found = host.get_fact(FirewallSurroundings, address=address)
    enable = systemd and not found.enabled
    # A table that somebody flushed or edited is listed differently; so is none at all.
    as_confirmed = found.live == found.confirmed_live != "" and found.confirmed_text == _sha256(text)
    load = found.pending or not as_confirmed
    for link in _STARTS_AT_BOOT if enable else ():
        tell(link, "is made")
    if load:
        tell(KEPT, "changes with all that is in it")
    if enable:
        yield StringCommand("systemctl daemon-reload && systemctl enable --quiet deskfleet-firewall")
    if load:
        yield StringCommand(SCRIPT, "try", RULES, str(way_back_seconds))
        yield FunctionCommand(come_in_again, [], {})
        yield StringCommand(SCRIPT, "confirm", RULES)


def come_in_again(state: State, host: Host) -> bool:
    """Go on by a new connection; False when none comes about.

    The connection in use goes on whatever the rules say, as it is established, so it proves nothing. Where
    the connector holds none (`@local`), there is nothing that could be cut off.
    """
    former = getattr(host.connector, "client", None)
    host.disconnect()
    try:
        host.connect(reason="through the new firewall rules", show_errors=False, raise_exceptions=True)
    except ConnectError as error:
        _go_back(host, former, str(error))
        return False
    if former is not None:
        former.close()
    return True


def _go_back(host: Host, former: object, problem: str) -> None:
    """By the former connection, at once; where even that one is cut, the host does it by itself."""
    logger.error(
        f"{host.print_prefix}no new connection comes through the new firewall rules ({problem});"
        f" the former rules come back, {WAY_BACK_SECONDS} s after the new ones were loaded at the latest"
    )
    if former is not None:
        vars(host.connector)["client"] = former
        host.connected = True
        host.run_shell_command(StringCommand(SCRIPT, "back"), _sudo=bool(host.data.get("_sudo")))


@deploy("Firewall away")
def no_firewall() -> None:
    """For a site without it, and for `make down`: the table goes first, then what would load it again."""
    removed(name="Remove the rules")
    absent(name="Remove its files", paths=(HOME, UNIT, KEPT, TRIAL))


@operation()
def removed() -> Commands:
    if host.get_fact(Paths, paths=[SCRIPT]):
        systemd = host.get_fact(HasSystemd)
        for link in _STARTS_AT_BOOT if systemd else ():
            tell(link, "goes")
        yield StringCommand(SCRIPT, "remove")
        if systemd:
            yield StringCommand("systemctl disable --quiet deskfleet-firewall")


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
