"""A bare host with persistent desktops, rolled out by real pyinfra, and questions to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.desktops.stand_in import sha256_of
from tests.hosts.bare_host import BareHost, Variant

CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent
STUDIO = {"tenant": "main", "host": "here", "backend": "kasmvnc", "resolution": "1024x768"}
SOCKET = "/run/deskfleet/desktops/studio/web.sock"
HOME = "/var/lib/deskfleet/desktops/studio"

_ASK = """
import base64, socket, struct, sys
path, user, password, target = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
s.connect(path)
basic = base64.b64encode(f"{user}:{password}".encode()).decode()
sign = f"Authorization: Basic {basic}\\r\\n" if user else ""
s.sendall(f"GET {target} HTTP/1.1\\r\\nHost: desktop\\r\\n{sign}\\r\\n".encode())
got = b""
while more := s.recv(65536):
    got += more
print(got.split(b" ", 2)[1].decode(), struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, 17, 12))[1])
"""


def eventually(holds: Callable[[], bool], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@dataclass(frozen=True)
class RolledOut:
    code: int
    out: str
    changed: list[str]


@dataclass
class DesktopHost:
    host: BareHost
    package: Path
    settings: dict[str, Any] = field(default_factory=dict)
    password: str = "a-generated-password"

    def roll_out(self, *arguments: str, studio: dict[str, str] | None = STUDIO) -> RolledOut:
        """`studio`: the desktop as the site file says it; None: there is none."""
        own = {"kasmvnc": {"file": str(self.package), "sha256": sha256_of(self.package)}}
        given = {
            "connect": f"@docker/{self.host.name}",
            "settings": own | self.settings,
            "desktops": {"studio": studio} if studio else {},
            "passwords": {"studio": self.password},
        }
        command = [
            str(Path(sys.executable).with_name("pyinfra")), str(HERE / "inventory.py"),
            str(HERE / "roll_out.py"), "-y", "--json", *arguments,
        ]  # fmt: skip
        env = {**os.environ, **self.host.daemon.env, "DESKFLEET_TEST_HOST": json.dumps(given)}
        done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
        found = json.loads(done.stdout) if done.stdout.startswith("{") else {"results": None}
        operations = (found["results"] or {"operations": []})["operations"]
        changed = [operation["name"] for operation in operations if operation["success"]]
        return RolledOut(done.returncode, done.stdout + done.stderr, changed)

    def ask(
        self,
        target: str = "/",
        *,
        user: str = "owner",
        password: str | None = None,
        by: str = "deskfleet-relay",
    ) -> tuple[int, str]:
        """GET through the desktop's socket, as the relay's user; the status, and whose program answered."""
        argv = [
            "runuser",
            "-u",
            by,
            "--",
            "python3",
            "-c",
            _ASK,
            SOCKET,
            user,
            password or self.password,
            target,
        ]
        status, uid = self.host.run(argv).out.split()
        return int(status), self.host.run(["id", "-nu", uid]).out.strip()

    def processes(self, of: str = "desk-studio") -> str:
        return self.host.run(f"ps -o pid=,args= -u {of} 2>/dev/null || true").out

    def pid_of(self, program: str) -> int:
        return int(self.host.run(["pgrep", "-of", program]).out)

    def in_the_desktop(self, command: str, *, check: bool = True) -> str:
        """Run a shell line in the desktop's network and mounts, as its user: what a terminal in it can do."""
        enter = f"nsenter --target {self.pid_of('Xkasmvnc :1')} --net --mount --ipc -- "
        user = "setpriv --reuid=desk-studio --regid=desk-studio --init-groups --no-new-privs -- "
        done = self.host.run(["sh", "-c", f'{enter}{user}sh -c "$1"', "sh", command], check=check)
        return done.out

    def supervise(self, verb: str) -> None:
        name = "deskfleet-desktop-studio"
        if self.host.variant is Variant.SYSTEMD:
            self.host.run(f"systemctl {verb} {name}")
        else:
            self.host.run(f"supervisorctl -c /etc/deskfleet/supervisord.conf {verb} {name}")
