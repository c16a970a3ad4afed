"""An operator's own age identity, which lies outside every checkout. `make operator` makes one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pyrage
from pyrage.x25519 import Identity

_CHECKOUT = Path(__file__).resolve().parent.parent


class IdentityUnusable(Exception):
    """There is no identity, or others can read it, or it is not one; the sentence says what to do."""


def identity_path(environ: Mapping[str, str] = os.environ) -> Path:
    """DESKFLEET_AGE_IDENTITY, else a file in the operator's home."""
    wanted = environ.get("DESKFLEET_AGE_IDENTITY")
    return Path(wanted).expanduser() if wanted else Path.home() / ".config" / "deskfleet" / "identity.txt"


def identities(path: Path) -> list[Identity]:
    """The identities in the file, in age's own format: one a line, comments after `#`."""
    if _could_be_committed(path):
        raise IdentityUnusable(
            f"{path}: your age identity lies inside the checkout, where a commit could carry it away; move it"
            " out and name its new place in DESKFLEET_AGE_IDENTITY"
        )
    try:
        private = not path.stat().st_mode & 0o077
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise IdentityUnusable(
            f"{path}: there is no age identity; run `make operator` and have the key it prints added to the"
            " site's `operators:`, or name yours in DESKFLEET_AGE_IDENTITY"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise IdentityUnusable(f"{path}: the age identity is not readable") from None
    if not private:
        raise IdentityUnusable(f"{path}: others can read your age identity; run: chmod 600 {path}")
    secrets = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        found = [Identity.from_str(line) for line in secrets]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise IdentityUnusable(f"{path}: holds no age identity (a line AGE-SECRET-KEY-1…); move it away")
    return found


def _could_be_committed(path: Path) -> bool:
    """`.local` is ignored by git, and holds identities of test fleets."""
    resolved = path.resolve()
    return resolved.is_relative_to(_CHECKOUT) and not resolved.is_relative_to(_CHECKOUT / ".local")


def make_identity(path: Path) -> None:
    """Write a new identity, 0600 from the first moment; never over a file that is there."""
    if path.resolve().is_relative_to(_CHECKOUT):
        raise IdentityUnusable(
            f"{path}: lies inside the checkout, where a commit could carry it away; name another"
        )
    identity = Identity.generate()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"# public key: {identity.to_public()}\n{identity}\n")


def main() -> int:
    path = identity_path()
    try:
        if not path.exists():
            make_identity(path)
            print(f"Made your identity in {path}; keep a copy where you keep passwords.", file=sys.stderr)
        found = identities(path)
    except IdentityUnusable as error:
        print(error, file=sys.stderr)
        return 1
    print("Put this key under `operators:` of the site file:", file=sys.stderr)
    for identity in found:
        print(identity.to_public())
    return 0


if __name__ == "__main__":
    sys.exit(main())
