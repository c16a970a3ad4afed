"""The secrets of a site by name, for the site that DESKFLEET_SITE names:

python -m inventory.keys list           what there is, and when certificates end
python -m inventory.keys show NAME      one secret, in the clear
python -m inventory.keys rotate NAME    a new one in its place; the next roll-out takes it to the hosts
python -m inventory.keys rotate all     every one of them
python -m inventory.keys export         all of them, in the clear, as DESKFLEET_SECRETS takes them
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from inventory.authority import ends, warnings
from inventory.models import ApiKey, Secrets, Site
from inventory.secrets import SecretsUnreadable, forget_former, load_secrets, names, rotate, text_of
from inventory.site_file import SiteRefused, load_site, nearest, site_path


class NotAKey(Exception):
    """No secret has this name."""


def main(arguments: list[str]) -> int:
    try:
        print("\n".join(_run(arguments)))
    except (SiteRefused, SecretsUnreadable, NotAKey) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(arguments: list[str]) -> Iterator[str]:
    path = site_path()
    site = load_site(path)
    secrets = load_secrets(site, site_file=path)
    match arguments:
        case ["list"]:
            yield from listed(secrets, datetime.now(UTC))
        case ["show", name]:
            yield shown(secrets, name)
        case ["rotate", "all"]:
            forget_former(site, site_file=path)  # they would stay as they were
            for name in names(secrets):
                if not name.startswith("given."):
                    yield from _rotated(site, name, path)
        case ["rotate", name]:
            _known(secrets, name)
            yield from _rotated(site, name, path)
        case ["export"]:
            yield text_of(secrets)
        case _:
            yield (__doc__ or "").strip()


def _rotated(site: Site, name: str, path: Path) -> Iterator[str]:
    rotate(site, name, site_file=path)
    yield f"{name} is new; the next roll-out of {os.path.relpath(path)} takes it to the hosts"


def listed(secrets: Secrets, now: datetime) -> Iterator[str]:
    yield from names(secrets)
    if secrets.certificates is not None:
        yield f"  authority ends {ends(secrets.certificates.authority):%Y-%m-%d}"
        for host, pair in secrets.certificates.hosts.items():
            yield f"  {host} ends {ends(pair):%Y-%m-%d}"
    yield from warnings(secrets.certificates, now)


def shown(secrets: Secrets, name: str) -> str:
    """One secret in the clear. Certificates are many; `list` says when they end."""
    _known(secrets, name)
    field, _, key = name.partition(".")
    value = getattr(secrets, field)
    if key:
        value = value[key]
    if isinstance(value, ApiKey):
        value = value.text
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    raise NotAKey(f"{name} is not one secret; `list` says when they end, `export` prints all")


def _known(secrets: Secrets, name: str) -> None:
    known = names(secrets)
    if name not in known:
        raise NotAKey(f"no secret is named {name!r}{nearest(name, known)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
