"""`make down`: takes everything of ours away again, from the hosts and then from this checkout."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from inventory.secrets import SecretsUnreadable
from inventory.site_file import SiteRefused, load_site, site_path
from roles.progress import Progress
from roles.up import LOCAL, failure, roll_out

_MADE_HERE = (Path("viewer/static"), Path("viewer/frontend/node_modules"), Path(".venv"))


def forget(folder: Path, *, site: str) -> None:
    """Remove `folder`, but not the ways in to other sites, which may still run: their secrets, and all that
    `make fleet` keeps."""
    others = {path for path in folder.glob("secrets-*.yml") if path.name != f"secrets-{site}.yml"}
    others |= {path for name in ("fleet", "fleet.env") if (path := folder / name).exists()}
    if not others:
        shutil.rmtree(folder, ignore_errors=True)
        return
    print(f"Kept in {folder}: {', '.join(sorted(path.name for path in others))}, of other sites", flush=True)
    for path in set(folder.iterdir()) - others:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


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
    forget(LOCAL, site=site_path().stem)
    for path in _MADE_HERE:
        shutil.rmtree(path, ignore_errors=True)
    print(f"Nothing of Deskfleet is left ({time.monotonic() - started:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
