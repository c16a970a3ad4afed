"""Looks at a host before anything is changed, and says everything that stands in the way, one sentence
each."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.context import host, state

from inventory.models import Database as Wanted
from inventory.models import Group, HostConfig, Section
from inventory.secrets import place_name
from roles import viewer, wheel
from roles.backends import problems_of_desktops
from roles.choice import Chosen
from roles.own_certificate import LookedAt, own_files, problems_of_files
from roles.report import REPORT, site_name

_SUPPORTED = {("debian", "12")}
_UNKNOWN = "an unknown process"
_ANY = "00000000"
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")
_ARCHITECTURES = ("x86_64", "aarch64")
# Engine, images and environments take about 4 GB; sandboxes write on top. Without sandboxes: environments,
# and the packages of a desktop.
_FIRST_TIME_MB = 6_000
_WITHOUT_SANDBOXES_MB = 2_000
_LATER_MB = 1_000


class Listener(Section):
    """A port of ours that something listens on already, and what. `address` is as /proc/net/tcp has it:
    hexadecimal, in the machine's own byte order."""

    port: int
    process: str
    address: str = _ANY


class Situation(Section):
    """What a host is like before the roll-out."""

    os: str
    version: str
    architecture: str
    uid: int
    free_mb: int
    installed: bool
    listeners: tuple[Listener, ...]
    addresses: tuple[str, ...] = ()
    """IPv4 addresses that are the host's own."""
    had_sandboxes: bool = False
    """An earlier roll-out made it a sandbox host."""
    fleet_id: str | None = None
    """Of the fleet whose control host it is, by its installed settings."""
    lacks_iproute2: bool = False
    """There is no `ip` or no `ss`."""


_LOOK = Path(__file__).resolve().parent.parent / "templates" / "preflight" / "look.sh"


class HostSituation(FactBase[Situation | None]):
    """Everything that preflight needs to know, by one command."""

    def command(self, ports: tuple[int, ...]) -> str:
        return f"PORTS='{' '.join(str(port) for port in ports)}'\n{_LOOK.read_text()}"

    def process(self, output: list[str]) -> Situation | None:
        values: dict[str, str] = {}
        listeners = []
        for line in output:
            key, _, value = line.partition(" ")
            if key == "listener":
                port, address, process = value.split(" ", 2)
                listeners.append(Listener(port=int(port), process=process.strip(), address=address))
            else:
                values[key] = value.strip()
        return Situation(
            os=values.get("os", "?"),
            version=values.get("version", "?"),
            architecture=values.get("architecture", "?"),
            uid=int(values.get("uid") or -1),
            free_mb=int(values.get("free_mb") or 0),
            installed=values.get("installed") == "yes",
            listeners=tuple(listeners),
            addresses=tuple(values.get("addresses", "").split()),
            had_sandboxes=values.get("had_sandboxes") == "yes",
            fleet_id=values.get("fleet_id"),
            lacks_iproute2=values.get("lacks_iproute2") == "yes",
        )


class Database(Section):
    """The control plane's database on a host."""

    exists: bool = False
    live: dict[str, int] = Field(default={})
    """Host -> how many live sandboxes are placed on it."""
    trouble: str | None = None
    """Why it can't be read."""


_ASK = Path(__file__).resolve().parent.parent / "templates" / "preflight" / "database.sh"


class DatabaseState(FactBase[Database]):
    """Whether a host has a database of ours, and which hosts it has live sandboxes on."""

    def command(self, where: str = viewer.DATABASE, reach: str = "") -> str:
        """reach: `host/port` of a server that must answer there."""
        given = f"DATABASE={shlex.quote(where)} REACH={shlex.quote(reach)} PYTHON={wheel.PYTHON}"
        return f"{given}\n{_ASK.read_text()}"

    @staticmethod
    def default() -> Database:
        return Database()

    def process(self, output: list[str]) -> Database:
        pairs = [line.partition(" ")[::2] for line in output]
        live = [value.rsplit(" ", 1) for key, value in pairs if key == "live"]
        return Database(
            exists=("database", "yes") in pairs,
            live={name: int(number) for name, number in live},
            trouble=next((value for key, value in pairs if key == "trouble"), None),
        )


class PreflightFailed(PyinfraError):
    """The host cannot take the roll-out; nothing was changed."""


def preflight(
    *, config: HostConfig, drop: str | None = None, replace: str | None = None, chosen: Chosen
) -> None:
    """Raise PreflightFailed with every problem of this host. Called while pyinfra prepares: no host is
    changed yet. `drop`: the hosts, joined by commas, whose sandboxes may be ended by leaving them out.
    `replace`: the fleet whose keys may be replaced by those of another. `chosen`: the roles that run; what
    only others need is not looked at."""
    situation = host.get_fact(HostSituation, ports=tuple(_ports(config)))
    if situation is None:
        raise PreflightFailed(f"nothing was changed:\n{config.name}: could not be examined")
    found = [
        *problems(situation, config),
        *problems_of_fleet(_installed_fleet(situation, config), config, replace=replace),
    ]
    if "desktops" in chosen:
        found += problems_of_desktops(config)
    if situation.uid == 0 and "caddy" in chosen:
        found += _problems_of_own_certificate(config)
    if Group.CONTROL in config.host.groups:
        file = host.get_fact(DatabaseState)
        elsewhere = _database_elsewhere() if config.site.spreads and not file.exists else None
        if config.site.settings.database is None:
            found += problems_of_database(file, config, drop=_names(drop), elsewhere=elsewhere)
        else:
            found += problems_of_moving(file, elsewhere)
            server = _state_of_postgres(config.site.settings.database)
            found += problems_of_database(server, config, drop=_names(drop), elsewhere=None)
    elif situation.had_sandboxes and Group.SANDBOXES not in config.host.groups:
        # Asked from here too: `--limit` may leave the control host out of the run.
        seen = dict(_other_databases(config.site.control)).get(config.site.control)
        found += problems_of_leaving(seen, config, drop=_names(drop))
    if found:
        raise PreflightFailed(
            "nothing was changed:\n" + "\n".join(f"{config.name}: {problem}" for problem in found)
        )


def problems(situation: Situation, config: HostConfig) -> Iterator[str]:
    """One sentence for each thing that stands in the way; pure."""
    if situation.uid != 0:
        yield "the roll-out needs root; run it as root or with sudo"
    if (situation.os, situation.version) not in _SUPPORTED:
        yield f"{situation.os} {situation.version} is not supported; use Debian 12"
    if situation.architecture not in _ARCHITECTURES:
        yield f"the architecture {situation.architecture} is not supported; use x86_64 or aarch64"
    if config.site.has_firewall and situation.lacks_iproute2:
        # Else rules would be made of too little: without interfaces, and maybe without the port of SSH.
        yield (
            "`ip` or `ss` is missing, which tell the firewall how this host is reached; install it with:"
            " apt-get install iproute2"
        )
    needed = _needed_mb(situation, config)
    if situation.free_mb < needed:
        yield (
            f"the disk is nearly full: {situation.free_mb} MB free below /var/lib and /opt,"
            f" needed are {needed} MB"
        )
    address = str(config.host.fleet_address)
    if config.site.spreads and address not in situation.addresses:
        yield (
            f"the fleet address {address} is none of this host's; set hosts.{config.name}.address in the site"
            f" file to one of {', '.join(one for one in situation.addresses if not one.startswith('127.'))}"
        )
    names = _ports(config)
    loopback_is_free = _ports_off_loopback(config)
    for listener in situation.listeners:
        if listener.address in _LOOPBACK and listener.port in loopback_is_free:
            continue
        if not _is_ours(listener, situation):
            setting = names[listener.port]
            if setting is None:
                yield (
                    f"port {listener.port} is taken by {listener.process}; stop it, the edge needs this port"
                    " to lead people from http to https"
                )
                continue
            yield (
                f"port {listener.port} is taken by {listener.process}; stop it or choose another port with"
                f" settings.{setting} in the site file"
            )


def problems_of_fleet(installed: str | None, config: HostConfig, *, replace: str | None) -> Iterator[str]:
    """Whether the secrets are another fleet's than the one that runs; pure. `installed`: its id."""
    secrets = config.secrets
    if installed not in (None, secrets.fleet_id, replace):
        file = place_name(config.site, config.site_file)
        yield (
            f"{config.site.control} runs the fleet {installed}, but {file} holds the secrets of another one,"
            f" {secrets.fleet_id} (where there are none, they are made); put back those of {installed}, or"
            f" replace all its keys with --data deskfleet_replace={installed}"
        )


def _problems_of_own_certificate(config: HostConfig) -> Iterator[str]:
    own = own_files(config)
    if own is None:
        return
    seen = host.get_fact(LookedAt, cert=own.cert, key=own.key)
    if seen.key is None and not seen.missing:
        REPORT.note(
            f"whether {own.key} belongs to {own.cert} could not be looked at before python3 was there"
        )
    yield from problems_of_files(seen, own, config.site, now=datetime.now(UTC))


def problems_of_database(
    database: Database, config: HostConfig, *, drop: Collection[str], elsewhere: str | None
) -> Iterator[str]:
    """What the control host's database says against the roll-out; pure. `elsewhere`: another host that has
    one."""
    if elsewhere is not None and not database.exists:
        yield (
            f"the control plane's database is on {elsewhere}, not here; stop deskfleet-viewer and"
            f" deskfleet-worker on {elsewhere} and move its {viewer.DATA} to this host, or move it"
            " aside there to begin with an empty one"
        )
    if database.trouble is not None:
        why, wanted = database.trouble, config.site.settings.database
        if wanted is None:
            yield f"{viewer.DATABASE} can't be read ({why}); restore it from a backup or move it aside"
        else:
            yield f"settings.database: {wanted.url} can't be used from here ({why}); see docs/postgresql.md"
    for name, number in database.live.items():
        if name not in config.site.placed_on and name not in drop:
            yield (
                f"{number} sandbox{'' if number == 1 else 'es'} of {name} would end, which is no longer"
                " a sandbox host of the site file; end them first, put the host back, or let them end with"
                f" --data deskfleet_drop={name}"
            )


def problems_of_moving(file: Database, elsewhere: str | None) -> Iterator[str]:
    """What stands against PostgreSQL while the fleet's sessions are in SQLite's file; pure. To an empty table
    all sandboxes that run would be strangers."""
    if file.exists or elsewhere is not None:
        where = viewer.DATABASE if elsewhere is None else f"{viewer.DATABASE} on {elsewhere}"
        yield (
            f"the fleet's sessions are in {where}; move them into PostgreSQL with"
            " `deskfleet-admin move-database` (docs/postgresql.md), or move that file aside"
        )


def _state_of_postgres(wanted: Wanted) -> Database:
    reach = wanted.reach
    return host.get_fact(
        DatabaseState,
        where=viewer.database_of(wanted),
        reach="" if reach is None else f"{reach[0]}/{reach[1]}",
    )


def _installed_fleet(situation: Situation, config: HostConfig) -> str | None:
    """The id of the fleet that runs, as the control host has it; asked from elsewhere only where `--limit`
    leaves that out of the run."""
    if Group.CONTROL in config.host.groups:
        return situation.fleet_id
    for other in state.inventory:
        if site_name(other) == config.site.control and not state.is_host_in_limit(other):
            try:
                seen = other.get_fact(HostSituation, ports=())
            except ConnectError:
                continue
            return seen.fleet_id if seen else None
    return None


def problems_of_leaving(seen: Database | None, config: HostConfig, *, drop: Collection[str]) -> Iterator[str]:
    """What stands against taking the sandboxes off a host that has left their group; pure. `seen`: the
    control host's database; None: that host is away."""
    name, control = config.name, config.site.control
    if name in drop:
        return
    if seen is None or not seen.exists or seen.trouble is not None:
        why = (
            "is away" if seen is None else "has no database" if not seen.exists else "can't read its database"
        )
        yield (
            f"its sandboxes would end, as it is no longer a sandbox host of the site file, and {control},"
            f" which knows whether any is live, {why}; mend that, put the group back, or let them end with"
            f" --data deskfleet_drop={name}"
        )
        return
    own = Database(exists=True, live={of: number for of, number in seen.live.items() if of == name})
    yield from problems_of_database(own, config, drop=drop, elsewhere=None)


def _database_elsewhere() -> str | None:
    """The first other host that has a database; one that is away can't be asked."""
    return next((name for name, database in _other_databases() if database.exists), None)


def _other_databases(*wanted: str) -> Iterator[tuple[str, Database]]:
    """Of the other hosts, or of those that are wanted; one that is away is left out."""
    for other in state.inventory:
        name = site_name(other)
        if other.name == host.name or other in state.failed_hosts or (wanted and name not in wanted):
            continue
        try:
            yield name, other.get_fact(DatabaseState)
        except ConnectError:
            continue


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _needed_mb(situation: Situation, config: HostConfig) -> int:
    if situation.installed:
        return _LATER_MB
    return _FIRST_TIME_MB if Group.SANDBOXES in config.host.groups else _WITHOUT_SANDBOXES_MB


def _ports(config: HostConfig) -> dict[int, str | None]:
    """Ports of ours on this host and the setting that moves each; None for one that cannot be moved."""
    settings, groups = config.site.settings, set(config.host.groups)
    ports = settings.ports
    wanted: dict[int, str | None] = {}
    if Group.EDGE in groups:
        wanted |= {} if settings.tls == "none" else {80: None}
        wanted[settings.port] = "edge_port"
    if Group.CONTROL in groups:
        wanted[ports.viewer] = "ports.viewer"
    if groups & {Group.SANDBOXES, Group.DESKTOPS}:
        wanted[ports.relay] = "ports.relay"
    if Group.SANDBOXES in groups:
        wanted[ports.opensandbox] = "ports.opensandbox"
        wanted[ports.hostwatch] = "ports.hostwatch"
    return wanted | dict.fromkeys(_ports_off_loopback(config), "ports.node")


def _ports_off_loopback(config: HostConfig) -> set[int]:
    """Ports that we take on the fleet address alone; somebody may have them on loopback."""
    return {config.site.settings.ports.node} if config.site.spreads else set()


def _is_ours(listener: Listener, situation: Situation) -> bool:
    # Where even root may not look into other users' processes, an earlier roll-out is the likeliest holder.
    unknown = listener.process == _UNKNOWN and situation.installed
    return unknown or "/opt/deskfleet/" in listener.process
