"""Commands of `make` that take root: typed again by sudo; what they leave in the checkout is the person's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
PASSED_ON = (
    "DESKFLEET_TEST_KEEP,DESKFLEET_TEST_DIRTY,DESKFLEET_TEST_UP,DESKFLEET_TEST_CACHE,"
    "DESKFLEET_EXECD,KASMVNC_DEB"
)


def typed_by_sudo(module: str, arguments: Sequence[str], *, why: str) -> int | None:
    """Exit code of `python -m module arguments…`, run by sudo; None where this process is root already.
    why: a sentence for whoever is asked for his password."""
    if os.geteuid() == 0:
        return None
    print(f"{why}: sudo …", flush=True)
    command = ["sudo", f"--preserve-env={PASSED_ON}", sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=CHECKOUT, check=False).returncode


@contextmanager
def given_back(checkout: Path = CHECKOUT) -> Iterator[None]:
    """What root has in the checkout afterwards becomes the property of the person who typed sudo; nothing to
    do where nobody did, or where the checkout isn't his."""
    try:
        yield
    finally:
        person = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
        if os.geteuid() == 0 and person[0] and person[1] and checkout.stat().st_uid == int(person[0]):
            _hand_over(checkout, int(person[0]), int(person[1]))


def _hand_over(folder: Path, uid: int, gid: int) -> None:
    for inside, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(inside, name)
            if os.lstat(path).st_uid == 0:
                os.chown(path, uid, gid, follow_symlinks=False)
