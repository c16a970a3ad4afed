"""Desktops of KasmVNC on bare hosts. The package is a stand-in that keeps KasmVNC's contract: what is shown
is our wiring of it, not KasmVNC."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest

from tests.desktops.desktop_host import HOME, SOCKET, STUDIO, DesktopHost, eventually
from tests.desktops.stand_in import stand_in_package
from tests.fake_kasmvnc import hash_password
from tests.hosts.bare_host import Variant

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]
PASSWORDS = f"{HOME}/.kasmpasswd"
ACCESS = "/etc/deskfleet/secrets/relay/desktops/studio.json"
PLAIN_ONLY = pytest.mark.parametrize("bare", [Variant.PLAIN], indirect=True)
"""For what no supervisor has a part in."""
WATCHER = f"s-0123456789:{hash_password('of-a-stream')}:r"


@pytest.fixture(scope="module")
def desktop(bare: DesktopHost) -> DesktopHost:
    """Rolled out for the first time."""
    done = bare.roll_out()
    assert done.code == 0, done.out
    assert "KasmVNC | Install KasmVNC" in done.changed
    return bare


def test_relay_comes_in_with_the_owners_password_only(desktop: DesktopHost) -> None:
    assert desktop.ask(user="") == (401, "desk-studio")
    assert desktop.ask(password="wrong-password")[0] == 401
    assert desktop.ask()[0] == 200


@PLAIN_ONLY
def test_one_who_asks_without_a_password_does_not_lock_the_relay_out(desktop: DesktopHost) -> None:
    for _ in range(8):
        desktop.ask(user="")
    assert desktop.ask()[0] == 200


@PLAIN_ONLY
def test_others_on_the_host_do_not_reach_the_socket(desktop: DesktopHost) -> None:
    done = desktop.host.run(
        ["runuser", "-u", "nobody", "--", "python3", "-c",
         f"import socket; socket.socket(socket.AF_UNIX).connect('{SOCKET}')"], check=False,
    )  # fmt: skip
    assert "PermissionError" in done.out
    assert "Connection refused" in desktop.host.run(
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/6901'", check=False
    ).out  # fmt: skip
    udp = desktop.host.run("cat /proc/net/udp /proc/net/udp6").out
    assert not re.search(r":1AF5 ", udp), "UDP 6901 is shut in as well"


def test_second_roll_out_changes_nothing(desktop: DesktopHost) -> None:
    done = desktop.roll_out()
    assert (done.code, done.changed) == (0, []), done.out


@PLAIN_ONLY
def test_new_password_of_the_owner_disturbs_no_stream(desktop: DesktopHost) -> None:
    """Those who watch have users of their own in the same file, made by the relay while they do."""
    desktop.host.run(f"echo '{WATCHER}' | runuser -u desk-studio -- tee -a {PASSWORDS}")
    serving = desktop.pid_of("Xkasmvnc :1")
    assert desktop.roll_out().changed == []
    assert desktop.host.read(PASSWORDS).splitlines()[1:] == [WATCHER]

    rotated = dataclasses.replace(desktop, password="another-password")
    changed = rotated.roll_out().changed
    assert [name.partition(" | ")[2] for name in changed] == [
        "Set the owner of studio", "Tell the relay whose studio is"
    ]  # fmt: skip
    assert desktop.host.read(PASSWORDS).splitlines()[1:] == [WATCHER]
    assert (rotated.ask()[0], desktop.ask()[0]) == (200, 401)
    assert rotated.ask(user="s-0123456789", password="of-a-stream")[0] == 200
    assert desktop.pid_of("Xkasmvnc :1") == serving
    assert desktop.roll_out().code == 0
    assert desktop.ask()[0] == 200


@PLAIN_ONLY
def test_relays_file_is_for_the_relay_only(desktop: DesktopHost) -> None:
    assert desktop.host.run(f"stat -c '%a %U %G' {ACCESS}").out.strip() == "640 root deskfleet-relay"
    assert desktop.host.run(f"runuser -u desk-studio -- cat {ACCESS}", check=False).code != 0
    assert desktop.host.run(f"runuser -u deskfleet-relay -- cat {ACCESS}").code == 0


def test_terminal_in_the_desktop_reaches_nothing_of_the_host(desktop: DesktopHost) -> None:
    assert desktop.in_the_desktop("ls /sys/class/net; grep -c : /proc/net/dev").split()[-1] == "1"
    address = desktop.host.address
    for target in ("127.0.0.1/22", f"{address}/22", "169.254.169.254/80", "1.1.1.1/53"):
        said = desktop.in_the_desktop(f"bash -c 'exec 3<>/dev/tcp/{target}' 2>&1 || true")
        assert re.search("Connection refused|Network is unreachable", said), (target, said)
    assert (
        desktop.in_the_desktop("bash -c 'exec 3<>/dev/tcp/127.0.0.1/6901' && echo its own").strip()
        == "its own"
    )


def test_terminal_in_the_desktop_sees_no_socket_of_the_host(desktop: DesktopHost) -> None:
    """Neither the system's bus nor a supervisor's."""
    # The second is where mount(8) takes its notes.
    assert set(desktop.in_the_desktop("ls -A /run").split()) <= {"deskfleet", "mount"}
    assert desktop.in_the_desktop("find /run/ -type s").split() == [SOCKET]
    assert desktop.in_the_desktop("ls -A /dev/shm") == ""
    assert len(desktop.host.run("find /run/ -type s").out.split()) > 1


_LOOK_FOR_A_WAY_OUT = f"""
own=$(readlink /proc/self/ns/net)
while :; do
    for process in /proc/[0-9]*; do
        # Told to those alone who may attach to it.
        if there=$(readlink $process/ns/net 2>/dev/null) && [ "$there" != "$own" ]; then
            cat $process/cmdline >> {HOME}/way-out
        fi
    done
done
"""


@PLAIN_ONLY
def test_roll_out_lends_the_desktop_no_program_outside_of_it(desktop: DesktopHost) -> None:
    """One that ran as its user where the host's network is would be its programs' way there; a pipe in the
    place of a file that it reads would hold it long enough."""
    desktop.in_the_desktop(f"rm {PASSWORDS}; mkfifo {PASSWORDS}")
    desktop.host.write("/opt/look.sh", _LOOK_FOR_A_WAY_OUT, "755")
    desktop.in_the_desktop("setsid -f sh /opt/look.sh >/dev/null 2>&1")
    try:
        done = desktop.roll_out()
        assert [name.partition(" | ")[2] for name in done.changed] == ["Set the owner of studio"], done.out
    finally:
        desktop.host.run("pkill -f '^sh /opt/look.sh'; rm /opt/look.sh")
    assert desktop.host.run(f"cat {HOME}/way-out", check=False).code != 0
    assert desktop.ask()[0] == 200


def test_crashed_server_returns_and_the_home_is_as_it_was(desktop: DesktopHost) -> None:
    desktop.host.run(f"runuser -u desk-studio -- sh -c 'echo mine > {HOME}/notes.txt'")
    crashed = desktop.pid_of("Xkasmvnc :1")
    desktop.host.run(f"kill -9 {crashed}")

    def returned() -> bool:
        found = desktop.host.run(
            f"pgrep -of 'Xkasmvnc :1' | grep -vx {crashed} && [ -S {SOCKET} ]", check=False
        )
        return found.code == 0

    eventually(returned)
    assert desktop.ask()[0] == 200
    assert desktop.host.read(f"{HOME}/notes.txt") == "mine\n"


def test_stop_leaves_no_process_and_no_socket(desktop: DesktopHost) -> None:
    """Not even one that left its terminal."""
    desktop.in_the_desktop("setsid -f sleep 9876 >/dev/null 2>&1")
    assert "sleep 9876" in desktop.processes()
    desktop.supervise("stop")
    eventually(lambda: desktop.processes() == "")
    assert desktop.host.run("ls -A /run/deskfleet/desktops/studio").out == ""
    done = desktop.roll_out()
    assert done.changed == ["Start what was stopped"]
    assert desktop.ask()[0] == 200


def test_desktop_returns_after_its_session_was_killed(desktop: DesktopHost) -> None:
    """By force, so that it could not clean up: nothing of its earlier life runs on beside the new one."""
    session = desktop.host.run("ps -o ppid= -p $(pgrep -of 'Xkasmvnc :1')").out.strip()
    desktop.host.run(f"kill -9 {session}")

    def one_is_left() -> bool:
        servers = desktop.host.run("pgrep -f 'python3 /usr/bin/Xkasmvnc :1'", check=False).out.split()
        return len(servers) == 1 and desktop.host.run(f"[ -S {SOCKET} ]", check=False).code == 0

    time.sleep(1)
    eventually(one_is_left)
    assert desktop.ask()[0] == 200


@PLAIN_ONLY
def test_another_package_is_installed_over_it_and_the_desktop_restarted(
    desktop: DesktopHost, tmp_path: Path
) -> None:
    newer = dataclasses.replace(desktop, package=stand_in_package(tmp_path, revision=2))
    changed = newer.roll_out().changed
    assert [name.rpartition(" | ")[2] for name in changed] == ["Install KasmVNC", "Run studio"]
    assert "1.5.0-2" in desktop.host.run("dpkg-query -W kasmvncserver").out
    assert newer.roll_out().changed == []
    assert [name.rpartition(" | ")[2] for name in desktop.roll_out().changed] == [
        "Install KasmVNC",
        "Run studio",
    ]
    assert "1.5.0-1" in desktop.host.run("dpkg-query -W kasmvncserver").out
    assert len(desktop.host.run("ls /opt/deskfleet/kasmvnc").out.split()) == 2


@PLAIN_ONLY
def test_wrong_package_stops_the_roll_out_before_any_change(desktop: DesktopHost) -> None:
    refused = dataclasses.replace(
        desktop, settings={"kasmvnc": {"url": "http://127.0.0.1:9/kasmvnc.deb", "sha256": "ab" * 32}}
    ).roll_out()
    assert refused.code != 0
    assert refused.changed == []
    assert "desktop studio: KasmVNC's package can't be had from http://127.0.0.1:9/kasmvnc.deb" in refused.out


@PLAIN_ONLY
def test_choice_is_made_once_and_again_only_when_told(desktop: DesktopHost) -> None:
    """The desktop goes to TigerVNC and back; its home stays."""
    desktop.host.run(f"runuser -u desk-studio -- sh -c 'echo mine > {HOME}/notes.txt'")
    open_choice = STUDIO | {"backend": "kasmvnc-or-tigervnc"}
    nowhere = dataclasses.replace(
        desktop, settings={"kasmvnc": {"url": "http://127.0.0.1:9/kasmvnc.deb", "sha256": "ab" * 32}}
    )
    done = nowhere.roll_out(studio=open_choice)
    assert done.code == 0, done.out
    assert desktop.host.read("/var/lib/deskfleet/kasmvnc.decision").startswith(
        "tigervnc KasmVNC's package can't"
    )
    assert desktop.host.run("ls /run/deskfleet/desktops/studio").out.split() == ["rfb.sock"]
    assert "Xkasmvnc" not in desktop.processes()
    assert "Xtigervnc" in desktop.processes()
    assert json.loads(desktop.host.read(ACCESS)) == {"backend": "tigervnc", "tenant": "main"}
    assert nowhere.roll_out(studio=open_choice).changed == []
    assert desktop.roll_out(studio=open_choice).changed == [], "it could be had by now, but nobody asked"

    again = desktop.roll_out("--data", "deskfleet_kasmvnc=retry", studio=open_choice)
    assert again.code == 0, again.out
    assert "Xtigervnc" not in desktop.processes()
    assert desktop.ask()[0] == 200
    assert desktop.host.read(f"{HOME}/notes.txt") == "mine\n"


@PLAIN_ONLY
def test_desktop_of_another_tenant_begins_anew_and_the_relay_knows_whose_it_is(desktop: DesktopHost) -> None:
    desktop.host.run(f"runuser -u desk-studio -- sh -c 'echo mine > {HOME}/notes.txt'")
    for tenant in ("guests", "main"):
        done = desktop.roll_out(studio=STUDIO | {"tenant": tenant})
        assert done.code == 0, done.out
        assert json.loads(desktop.host.read(ACCESS))["tenant"] == tenant
        assert desktop.ask()[0] == 200
        assert desktop.host.run(f"ls {HOME}/notes.txt", check=False).code != 0
    assert desktop.roll_out().changed == []


def test_taking_it_away_leaves_nothing(desktop: DesktopHost) -> None:
    done = desktop.roll_out("--data", "deskfleet_state=absent")
    assert done.code == 0, done.out
    assert desktop.host.run("getent passwd | grep -e desk- -e deskfleet", check=False).out == ""
    assert desktop.host.run("ls -d /opt/deskfleet /etc/deskfleet /var/lib/deskfleet", check=False).code != 0
    packages = desktop.host.run("dpkg-query -W -f='${Package}\\n'").out.split()
    assert not {"kasmvncserver", "socat", "openbox", "xterm", "tigervnc-standalone-server"} & set(packages)
    assert "Xkasmvnc" not in desktop.host.run("ps -eo args").out
    again = desktop.roll_out("--data", "deskfleet_state=absent")
    assert (again.code, again.changed) == (0, [])
