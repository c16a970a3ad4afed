"""A site as pyinfra's groups: who is in which, how each host is reached, and what its roles are told.

A plain Python inventory of an operator's own needs one line for a site file, and may add hosts or data to it:

    edge, control, sandboxes, desktops = groups_of("acme")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import paramiko

from inventory.models import Group, Host, HostConfig, Ssh
from inventory.secrets import VARIABLE, load_secrets
from inventory.site_file import SiteRefused, load_site, site_path
from inventory.transport import Way, direct, through

Members = list[tuple[str, dict[str, Any]]]
"""Hosts as pyinfra takes them: how it calls one, and its data."""


class Groups(NamedTuple):
    edge: Members
    control: Members
    sandboxes: Members
    desktops: Members


def groups_of(site: str | None = None) -> Groups:
    """The groups of a site, by its name or file; None: of the one in DESKFLEET_SITE.

    Raises SiteRefused or SecretsUnreadable with all that is to be mended.
    """
    path = site_path(site)
    loaded = load_site(path)
    ways = _Ways(path)
    entries = {name: _entry(name, host, ways) for name, host in loaded.hosts.items()}
    if ways.problems:
        raise SiteRefused("\n".join(ways.problems))
    secrets = load_secrets(loaded, site_file=path)
    kept = None if VARIABLE in os.environ else path
    for name, (_, data) in entries.items():
        data["deskfleet"] = HostConfig(name=name, site=loaded, secrets=secrets, site_file=kept)
    return Groups(*([entries[name] for name in loaded.hosts_in(group)] for group in Group))


def _entry(name: str, host: Host, ways: _Ways) -> tuple[str, dict[str, Any]]:
    if isinstance(host.connect, Ssh):
        return name, ways.to(name, host.connect)
    return host.connect, {"_sudo": True} if host.connect == "@local" and os.geteuid() != 0 else {}


class _Ways:
    """Connection data of a site's hosts; what can't be used is gathered in `problems`."""

    def __init__(self, site_file: Path) -> None:
        self.problems: list[str] = []
        self._site_file = site_file
        self._pinned: dict[Path, paramiko.HostKeys | None] = {}

    def to(self, name: str, ssh: Ssh) -> dict[str, Any]:
        """pyinfra's data for a host that SSH reaches."""
        key = f"hosts.{name}.connect"
        known_hosts = self._known_hosts(ssh)
        data: dict[str, Any] = {
            "ssh_hostname": ssh.address,
            "ssh_user": ssh.user,
            "ssh_port": ssh.port,
            "ssh_known_hosts_file": str(known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_paramiko_connect_kwargs": direct(),
        }
        if ssh.key:
            data["ssh_key"] = self._key_file(ssh.key, f"{key}.key")
        if ssh.user != "root":
            data["_sudo"] = True
        way_there = "ssh-keyscan"
        if ssh.jump:
            jump = ssh.jump
            data["ssh_paramiko_connect_kwargs"] = through(
                Way(
                    ssh.address, ssh.port, jump.address, jump.port, jump.user,
                    self._key_file(jump.key, f"{key}.jump.key") if jump.key else None, str(known_hosts),
                )
            )  # fmt: skip
            self._check_pin(f"{key}.jump", known_hosts, jump.address, jump.port, way_there)
            way_there = f"ssh -p {jump.port} {jump.user}@{jump.address} ssh-keyscan"
        self._check_pin(key, known_hosts, ssh.address, ssh.port, way_there)
        return data

    def _known_hosts(self, ssh: Ssh) -> Path:
        return self._file(ssh.known_hosts or f"{self._site_file.stem}.known_hosts")

    def _file(self, written: str) -> Path:
        """Paths in a site file start where it lies."""
        return (self._site_file.parent / Path(written).expanduser()).absolute()

    def _key_file(self, written: str, key: str) -> str:
        path = self._file(written)
        if not path.is_file():
            self._problem(key, f"there is no file {_shown(path)}")
        return str(path)

    def _check_pin(self, key: str, file: Path, address: str, port: int, scan: str) -> None:
        """A host whose key nobody has checked is not talked to."""
        if file not in self._pinned:
            self._pinned[file] = _pinned(file)
        pinned = self._pinned[file]
        if pinned is not None and pinned.lookup(address if port == 22 else f"[{address}]:{port}"):
            return
        state = (
            "holds no key of" if pinned is not None else "is not there or not readable, so it pins no key of"
        )
        self._problem(
            key,
            f"{_shown(file)} {state} {address}; run: {scan} -p {port} {address} >> {_shown(file)}"
            " and compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on the host",
        )

    def _problem(self, key: str, sentence: str) -> None:
        self.problems.append(f"{_shown(self._site_file)}:{key}: {sentence}")


def _pinned(file: Path) -> paramiko.HostKeys | None:
    try:
        return paramiko.HostKeys(str(file))
    except (OSError, paramiko.SSHException, UnicodeDecodeError):
        return None


def _shown(path: Path) -> str:
    shown = os.path.relpath(path)
    return str(path) if shown.startswith("..") else shown
