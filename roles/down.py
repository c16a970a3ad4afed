"""`make down`: takes everything of ours away again, from the hosts and then from this checkout."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from inventory.secrets import SecretsUnreadable
from inventory.site_file import SiteRefused, load_site, site_path
from roles.progress import Progress
from roles.up import LOCAL, failure, roll_out

_MADE_HERE = (Path("viewer/static"), Path("viewer/frontend/node_modules"), Path(".venv"))


def forget(folder: Path, *, site: str) -> bool:
    """Remove `folder`, but not the ways in to other sites, which may still run: their secrets, and all that
    `make fleet` keeps. False as of `remove`."""
    others = {path for path in folder.glob("secrets-*.yml") if path.name != f"secrets-{site}.yml"}
    others |= {path for name in ("fleet", "fleet.env") if (path := folder / name).exists()}
    if others:
        names = ", ".join(sorted(path.name for path in others))
        print(f"Kept in {folder}: {names}, of other sites", flush=True)
    return remove(*sorted(set(folder.iterdir()) - others if others else {folder}))


def remove(*paths: Path) -> bool:
    """Remove what is there of these; False where something belongs to somebody else and stays, which is
    said."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    left = " ".join(shlex.quote(str(path)) for path in paths if os.path.lexists(path))
    if left:
        print(f"Not yours to remove, so it stays: {left}; take it away with sudo rm -rf {left}", flush=True)
    return not left


def main() -> int:
    started = time.monotonic()
    try:
        load_site(site_path())
    except (SiteRefused, SecretsUnreadable) as error:
        print(error, file=sys.stderr)
        return 1
    print("Taking Deskfleet away", flush=True)
    progress = Progress(sys.stdout)
    code = roll_out(progress, "--data", "deskfleet_state=absent")
    if code:
        print(failure(progress), file=sys.stderr)
        return code
    is_gone = all([forget(LOCAL, site=site_path().stem), remove(*_MADE_HERE)])
    print(f"Nothing of Deskfleet {'is left' if is_gone else 'runs'} ({time.monotonic() - started:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
