"""The operator of a test fleet: the folder of what he keeps outside git, and his site file.

The folder holds `ssh.key`, `known_hosts`, `identity.txt` (age), `fleet.yml` (the site), `fleet.age` (its
secrets, made by the first roll-out) and, after it, `root.crt` (by which a client trusts the edge).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from pyrage.x25519 import Identity

from inventory.models import Host, Jump, Site, Ssh
from inventory.site_file import load_site
from tests.hosts.bare_host import BareHost
from tests.hosts.lan import known_hosts, make_ssh_key

EXAMPLE = Path("inventory") / "example.yml"


class NotOverSsh(ValueError):
    """A host of the site is not reached over SSH, so no machine can stand for it."""


@dataclass(frozen=True)
class Operator:
    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "ssh.key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def identity(self) -> Path:
        return self.folder / "identity.txt"

    @property
    def site_file(self) -> Path:
        return self.folder / "fleet.yml"

    @property
    def authority(self) -> Path:
        """PEM by which the edge's certificate is trusted."""
        return self.folder / "root.crt"

    @property
    def env(self) -> dict[str, str]:
        """What the documented commands are told by: which site, and whose identity."""
        return {"DESKFLEET_SITE": str(self.site_file), "DESKFLEET_AGE_IDENTITY": str(self.identity)}

    def prepare(self) -> str:
        """Make what is missing of key and identity; return the public SSH key."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.identity.exists():
            identity = Identity.generate()
            with os.fdopen(os.open(self.identity, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"# public key: {identity.to_public()}\n{identity}\n")
        return make_ssh_key(self.key)

    @property
    def recipient(self) -> str:
        """The identity's public key."""
        line = self.identity.read_text().splitlines()[-1]
        return str(Identity.from_str(line).to_public())

    def pin(self, hosts: Iterable[BareHost]) -> None:
        """Let known_hosts name exactly these hosts' keys."""
        self.known_hosts.write_text(known_hosts(hosts))

    def own(self, site: Site) -> Site:
        """The site with this operator in the place of its own: his recipient and the paths of his files."""
        hosts = {
            name: host.model_copy(update={"connect": self._way(name, host)})
            for name, host in site.hosts.items()
        }
        return site.model_copy(update={"operators": (self.recipient,), "hosts": hosts})

    def _way(self, name: str, host: Host) -> Ssh:
        if isinstance(host.connect, str):
            raise NotOverSsh(f"host {name!r} says connect: {host.connect}")
        jump = host.connect.jump
        mine = {"key": str(self.key)}
        return host.connect.model_copy(
            update={
                **mine,
                "known_hosts": str(self.known_hosts),
                "jump": jump and jump.model_copy(update=mine),
            }
        )

    def write(self, site: Site) -> None:
        """Write the site file: exactly what is set, in the order of the models."""
        values = site.model_dump(mode="json", exclude_unset=True)
        self.site_file.write_text(yaml.safe_dump(values, sort_keys=False))

    def change(self, changed: Callable[[Site], Site]) -> Site:
        """Change the site file by a function of the site; returns what it says now."""
        self.write(changed(load_site(self.site_file)))
        return load_site(self.site_file)


def as_user(site: Site, name: str, user: str) -> Site:
    """The site with one host entered as another user than root."""
    return _with_way(site, name, user=user)


def through(site: Site, name: str, *, jump: str) -> Site:
    """The site with one host entered through another, as root on both."""
    address = _ssh(site.hosts[jump]).address
    return _with_way(site, name, jump=Jump(address=address))


def _with_way(site: Site, name: str, **changes: object) -> Site:
    host = site.hosts[name]
    changed = host.model_copy(update={"connect": _ssh(host).model_copy(update=changes)})
    return site.model_copy(update={"hosts": {**site.hosts, name: changed}})


def _ssh(host: Host) -> Ssh:
    if isinstance(host.connect, str):
        raise NotOverSsh(f"it says connect: {host.connect}")
    return host.connect
