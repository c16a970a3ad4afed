"""What both tools bring about: tasks like those of our roles, in their proportions. Data only."""

from __future__ import annotations

from typing import NamedTuple

ROOT = "/opt/rollout"
PACKAGE = "rsync"
USERS = tuple(f"rollout-{name}" for name in ("viewer", "relay", "caddy", "opensandbox"))


class Folder(NamedTuple):
    path: str
    mode: str
    user: str


class Text(NamedTuple):
    path: str
    mode: str
    group: str
    content: str


class Program(NamedTuple):
    name: str
    text: str

    @property
    def path(self) -> str:
        return f"/etc/systemd/system/{self.name}.service"


FOLDERS = (
    *(Folder(f"{ROOT}/{name}", "755", "root") for name in ("", "etc", "bin", "share")),
    *(Folder(f"{ROOT}/{user}", "750", user) for user in USERS),
)
"""Parents first."""


def _configuration(number: int) -> str:
    lines = (f"key_{number}_{line} = {line * number}" for line in range(40))
    return f"# configuration {number}\n" + "\n".join(lines) + "\n"


FILES = tuple(
    Text(f"{ROOT}/etc/part-{number:02}.conf", "644", "root", _configuration(number)) for number in range(14)
)
SECRETS = tuple(Text(f"{ROOT}/etc/{user}.key", "640", user, f"secret of {user}\n") for user in USERS)
GONE = f"{ROOT}/old"
PROGRAMS = tuple(
    Program(
        user,
        f"[Unit]\nDescription={user}\n\n[Service]\nUser={user}\nExecStart=/bin/sleep infinity\n\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    for user in USERS
)
TASKS = 1 + len(USERS) + len(FOLDERS) + len(FILES) + len(SECRETS) + 1 + 2 * len(PROGRAMS)
"""A program is two: its unit file, and that it runs."""

UNDO = " ; ".join(
    (
        *(f"systemctl disable -q --now {one.name}; rm -f {one.path}" for one in PROGRAMS),
        "systemctl daemon-reload",
        f"rm -rf {ROOT} /var/lib/deskfleet",
        *(f"userdel {user}; groupdel -f {user}" for user in USERS),
        f"apt-get purge -qq -y {PACKAGE}",
        # Both find the package downloaded.
        f"apt-get install -qq -y --download-only {PACKAGE}",
    )
)
"""Brings a host back to where it was; shell, run as root, must not fail on what isn't there."""
