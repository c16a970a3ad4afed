"""Certificates of the site's own authority, as the programs of a host read them.

Each program has a copy whose key it alone may read, and its group is made by its own role. So the files are
placed by the roles of the programs, through `caddy_certificates` and `viewer_certificates`, right after the
group is there, and `stamp` belongs into what the program restarts or reloads on. There is no role to call
before them. On a site of one host nothing is placed and the stamp is empty.
"""

from __future__ import annotations

from pydantic import SecretStr
from pyinfra.api.deploy import deploy

from inventory.models import Group, HostConfig
from roles.choice import Chosen
from roles.files import Directory, absent, directories, place, sha256

CADDY = "/etc/deskfleet/tls"
"""ca.pem and host.pem of a host's Caddy."""
VIEWER = "/etc/deskfleet/secrets/viewer"
"""The same for viewer and worker, on the control host. The directory is theirs."""


def caddy_certificates(config: HostConfig, *, group: str) -> None:
    """Place the files that this host's Caddy serves and asks with."""
    if config.site.spreads:
        directories(name="Make the directory of its certificates", wanted=(Directory(CADDY),))
        _place(config, CADDY, group)


def viewer_certificates(config: HostConfig, *, group: str) -> None:
    """Place the files that viewer and worker ask other hosts with; VIEWER must exist."""
    if config.site.spreads:
        _place(config, VIEWER, group)


def are_brought(config: HostConfig, chosen: Chosen) -> bool:
    """Do the chosen roles bring this host its certificate, to every program that has a copy?"""
    return "caddy" in chosen and ("viewer" in chosen or Group.CONTROL not in config.host.groups)


def stamp(config: HostConfig) -> str:
    """Changes whenever one of this host's certificate files does."""
    return sha256(*_files(config).values()) if config.site.spreads else ""


@deploy("Certificates away")
def no_certificates() -> None:
    """What Caddy had; the viewer's copy goes with its directory."""
    absent(name="Remove the host's certificates", paths=(CADDY,))


def _place(config: HostConfig, directory: str, group: str) -> None:
    for file, content in _files(config).items():
        secret = isinstance(content, SecretStr)
        place(
            name=f"Write {file}",
            path=f"{directory}/{file}",
            content=content,
            mode="640" if secret else "644",
            group=group if secret else "root",
        )


def _files(config: HostConfig) -> dict[str, str | SecretStr]:
    certificates = config.secrets.certificates
    if certificates is None:
        raise ValueError("a site of several hosts has no certificates; load its secrets first")
    own = certificates.hosts[config.name]
    return {
        "ca.pem": certificates.authority.certificate,
        # Both in one file, which takes the old one's place in one step: no program that reads them starts on
        # a certificate with the key of another. `place` ends a secret's line.
        "host.pem": SecretStr(f"{own.certificate.rstrip()}\n{own.key.get_secret_value().rstrip()}"),
    }
