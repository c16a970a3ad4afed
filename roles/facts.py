"""Facts of ours: few, cheap (one command each, no loops over users) and parsed purely."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import NamedTuple

from pyinfra.api.facts import FactBase

STATE = "/var/lib/deskfleet"
"""Where a host remembers what was done to it: stamps, what was there before us."""


class PathState(NamedTuple):
    """A file or directory as it lies on the host. `sha256` is empty for a directory."""

    sha256: str
    mode: str
    user: str
    group: str


class Paths(FactBase[dict[str, PathState]]):
    """The state of those of the given paths that exist; a link counts as what it points to."""

    def command(self, paths: Iterable[str]) -> str:
        quoted = " ".join(shlex.quote(path) for path in paths)
        return (
            f'for p in {quoted}; do if [ -e "$p" ]; then '
            'sum=-; if [ -f "$p" ]; then sum=$(sha256sum < "$p"); fi; '
            'echo "$(stat -Lc \'%a %U %G\' "$p") ${sum%% *} $p"; fi; done'
        )

    @staticmethod
    def default() -> dict[str, PathState]:
        return {}

    def process(self, output: list[str]) -> dict[str, PathState]:
        found = {}
        for line in output:
            mode, user, group, sha256, path = line.split(" ", 4)
            found[path] = PathState("" if sha256 == "-" else sha256, mode, user, group)
        return found


class Text(FactBase[str]):
    """The text of a small file, "" when there is none."""

    def command(self, path: str) -> str:
        quoted = shlex.quote(path)
        return f"if [ -f {quoted} ]; then cat {quoted}; fi"

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return "\n".join(output).strip()


class Flag(FactBase[bool]):
    """Whether a shell test holds on the host."""

    test = ""

    def command(self) -> str:
        return f"if {self.test}; then echo yes; else echo no; fi"

    @staticmethod
    def default() -> bool:
        return False

    def process(self, output: list[str]) -> bool:
        return "yes" in output


class HasSystemd(Flag):
    """systemd is PID 1: the mere presence of `systemctl` says nothing."""

    test = "[ -d /run/systemd/system ]"


class SupervisordRuns(Flag):
    """Our own supervisord runs (there may be another one that is not ours)."""

    test = (
        "[ -s /run/deskfleet/supervisord.pid ] && "
        "grep -qa supervisord /proc/$(cat /run/deskfleet/supervisord.pid)/cmdline 2>/dev/null"
    )


class MissingPackages(FactBase[list[str]]):
    """Which of the given Debian packages are not installed."""

    def command(self, packages: Iterable[str]) -> str:
        names = " ".join(shlex.quote(name) for name in packages)
        return (
            f"for p in {names}; do status=$(dpkg-query -W -f='${{db:Status-Status}}' \"$p\" 2>/dev/null); "
            'if [ "$status" != installed ]; then echo "$p"; fi; done'
        )

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]


class Account(NamedTuple):
    home: str
    shell: str
    groups: tuple[str, ...]


class User(FactBase[Account | None]):
    """One user and the groups it is in. (pyinfra's own fact walks all of /etc/passwd, ~220 ms each time.)"""

    def command(self, user: str) -> str:
        quoted = shlex.quote(user)
        return f"if getent passwd {quoted}; then id -nG {quoted}; fi"

    def process(self, output: list[str]) -> Account | None:
        if len(output) < 2:
            return None
        fields = output[0].split(":")
        return Account(home=fields[5], shell=fields[6], groups=tuple(output[1].split()))


class UnitState(NamedTuple):
    """`config`: sha256 of the unit's file; `started`, `loaded`: stamps of the last restart and reload."""

    config: str
    started: str
    loaded: str


class Unit(FactBase[UnitState]):
    """What the host knows about one unit of ours."""

    def command(self, path: str, unit: str) -> str:
        stamp = f"{STATE}/stamps/{unit}"
        return (
            f"echo config $(sha256sum {path} 2>/dev/null | cut -d' ' -f1); "
            f"echo started $(cat {stamp}.started 2>/dev/null); echo loaded $(cat {stamp}.loaded 2>/dev/null)"
        )

    @staticmethod
    def default() -> UnitState:
        return UnitState("", "", "")

    def process(self, output: list[str]) -> UnitState:
        found = {line.split(" ")[0]: line.split(" ")[1] for line in output if " " in line}
        return UnitState(found.get("config", ""), found.get("started", ""), found.get("loaded", ""))


class StoppedUnits(FactBase[list[str]]):
    """Which of the units are not running."""

    def command(self, units: Iterable[str], systemd: bool) -> str:
        names = " ".join(units)
        if systemd:
            return f"for u in {names}; do systemctl is-active --quiet $u || echo $u; done"
        return (
            f"running=$({SUPERVISORCTL} status 2>/dev/null"
            ' | awk \'$2 == "RUNNING" || $2 == "STARTING" {print $1}\'); '
            f'for u in {names}; do echo "$running" | grep -qx $u || echo $u; done'
        )

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]


SUPERVISORCTL = "supervisorctl -c /etc/deskfleet/supervisord.conf"


class HasIpv6Loopback(Flag):
    """::1 can be bound; machines that are more like containers often lack it."""

    test = "grep -qs ' lo$' /proc/net/if_inet6"
