"""Opt-in: KasmVNC itself in place of the stand-in.

Its package lies in no registry, so it is brought as a file: `KASMVNC_DEB=FILE make test`, a package for
bookworm on this machine's architecture. Reports itself skipped without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.desktops.as_the_relay import PUMP, brought_here, check_streams_have_users_of_their_own
from tests.desktops.desktop_host import HOME, SOCKET, DesktopHost, eventually
from tests.fake_kasmvnc import hash_password
from tests.hosts.bare_host import Variant, bare_hosts
from viewer.relay.desktop_access import Credentials

FILE = os.environ.get("KASMVNC_DEB")

pytestmark = [
    pytest.mark.host,
    pytest.mark.optin,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FILE, reason="set KASMVNC_DEB to the file of KasmVNC's package for bookworm"),
]


@pytest.fixture(scope="module", params=[Variant.PLAIN, Variant.SYSTEMD])
def desktop(request: pytest.FixtureRequest) -> Iterator[DesktopHost]:
    with bare_hosts() as hosts:
        host, _ = hosts.start(request.param, f"kasm-real-{request.param}")
        running = DesktopHost(host, Path(str(FILE)))
        done = running.roll_out()
        assert done.code == 0, done.out
        yield running
        if not hosts.keeping:
            host.destroy()


def test_real_kasmvnc_serves_its_page_to_the_owner_only(desktop: DesktopHost) -> None:
    assert desktop.ask(user="")[0] == 401
    assert desktop.ask("/index.html") == (200, "desk-studio")


def test_real_kasmvnc_paints(desktop: DesktopHost) -> None:
    """In its first seconds it has no screenshot."""
    eventually(lambda: desktop.ask("/api/get_screenshot?width=64&height=36")[0] == 200)


def test_real_kasmvnc_reads_its_users_anew(desktop: DesktopHost) -> None:
    """A user that comes to its file comes in, and a second roll-out leaves him there."""
    line = f"s-0123456789:{hash_password('of-a-stream')}:r"
    desktop.host.run(f"echo '{line}' | runuser -u desk-studio -- tee -a {HOME}/.kasmpasswd")
    assert desktop.ask("/index.html", user="s-0123456789", password="of-a-stream")[0] == 200
    assert desktop.roll_out().changed == []
    assert line in desktop.host.read(f"{HOME}/.kasmpasswd")


def test_real_kasmvnc_takes_the_relays_own_client(desktop: DesktopHost, tmp_path: Path) -> None:
    host, owner = desktop.host, Credentials("owner", SecretStr(desktop.password))
    pump = ["docker", "exec", "-i", "--user=deskfleet-relay", host.name, "python3", "-c", PUMP, SOCKET]
    with brought_here(tmp_path, "studio", pump, host.daemon.env):
        check_streams_have_users_of_their_own(tmp_path, "studio", owner)


def test_real_kasmvnc_does_not_shut_the_relay_out(desktop: DesktopHost) -> None:
    for _ in range(8):
        desktop.ask(user="")
    assert desktop.ask("/index.html")[0] == 200


def test_real_kasmvnc_ends_without_a_trace(desktop: DesktopHost) -> None:
    desktop.supervise("stop")
    eventually(lambda: desktop.processes() == "")
    assert desktop.host.run("ls -A /run/deskfleet/desktops/studio").out == ""
    assert desktop.roll_out().changed == ["Start what was stopped"]
    assert desktop.ask("/index.html")[0] == 200
