"""Connections that end when the other side is silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
import pytest

from inventory import transport
from inventory.transport import Way, jumping, without_delay


def test_connection_to_a_silent_host_ends_within_half_a_minute() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = without_delay(socket.create_connection(server.getsockname()))
    options = (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    sock: socket.socket = made.sock  # type: ignore[assignment]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    nodelay, idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
    assert nodelay
    assert idle + interval * count <= 30
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    sock.close()


class Server(paramiko.ServerInterface):
    """Lets everybody in, and opens every way."""

    def check_auth_none(self, username: str) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,none"

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        return paramiko.common.OPEN_SUCCEEDED


@dataclass
class JumpHost:
    """Its only way leads to another SSH server, of which nothing is heard any more once it `is_silent`."""

    key: Path
    known_hosts: Path
    port: int
    is_silent: threading.Event = field(default_factory=threading.Event)
    ends: list[paramiko.Transport] = field(default_factory=list)

    def way(self, key: Path) -> Way:
        return Way("10.0.0.9", 22, "127.0.0.1", self.port, "op", str(key), str(self.known_hosts))

    def serve(self, listening: socket.socket) -> None:
        outer = paramiko.Transport(listening.accept()[0])
        self.ends.append(outer)
        outer.add_server_key(paramiko.ECDSAKey.from_private_key_file(str(self.key)))
        outer.start_server(threading.Event(), Server())
        channel = outer.accept(5)
        if channel is None:
            return
        near, far = socket.socketpair()
        inner = paramiko.Transport(far)
        self.ends.append(inner)
        inner.add_server_key(paramiko.ECDSAKey.from_private_key_file(str(self.key)))
        inner.start_server(threading.Event(), Server())
        back = threading.Thread(target=copy, args=(near.recv, channel.sendall, self.is_silent), daemon=True)
        back.start()
        with near:
            copy(channel.recv, near.sendall, threading.Event())
            inner.close()
            back.join()


@pytest.fixture
def jump_host(tmp_path: Path) -> Iterator[JumpHost]:
    made = paramiko.ECDSAKey.generate()
    made.write_private_key_file(str(tmp_path / "key"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {made.get_name()} {made.get_base64()}\n")
        found = JumpHost(tmp_path / "key", known_hosts, port)
        threading.Thread(target=found.serve, args=(listening,), daemon=True).start()
        yield found
        # Else one that waits for a banner gives up in the middle of another test, and leaves its socket.
        for end in found.ends:
            end.close()


def test_host_behind_another_is_lost_when_it_is_silent(
    jump_host: JumpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jump host goes on answering; only what comes from the host behind it stops."""
    monkeypatch.setattr(transport._Jumping, "_ask_seconds", 0.1)
    made = jumping(jump_host.way(jump_host.key))
    made.start_client(timeout=5)
    made.auth_none("op")
    time.sleep(1.2)
    assert made.is_active(), "a host that answers is not lost"
    jump_host.is_silent.set()
    deadline = time.monotonic() + 5
    while made.is_active() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not made.is_active()


@pytest.mark.parametrize("agent_has_it", [True, False])
def test_encrypted_key_for_a_jump_host_is_the_agents_or_told(
    jump_host: JumpHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent_has_it: bool
) -> None:
    locked, key = tmp_path / "locked", paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(locked), password="secret")
    held = (key,) if agent_has_it else ()
    agent = type("Agent", (), {"get_keys": lambda _: held, "close": lambda _: None})
    monkeypatch.setattr("paramiko.client.Agent", agent)
    if agent_has_it:
        jumping(jump_host.way(locked)).close()
        return
    with pytest.raises(paramiko.SSHException) as error:
        jumping(jump_host.way(locked))
    assert str(error.value) == (
        f"on the way through op@127.0.0.1:{jump_host.port}: the key {locked} is encrypted;"
        f" run: ssh-add {locked}"
    )


def copy(
    recv: Callable[[int], bytes], sendall: Callable[[bytes], object], is_silent: threading.Event
) -> None:
    """Until either end is closed."""
    with suppress(OSError):
        while data := recv(4096):
            if not is_silent.is_set():
                sendall(data)
