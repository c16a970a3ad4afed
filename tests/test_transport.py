"""Connections that end when the other side is silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
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


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key"
    paramiko.ECDSAKey.generate().write_private_key_file(str(path))
    return path


def test_host_behind_another_is_lost_when_it_is_silent(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jump host goes on answering; only what comes from the host behind it stops."""
    monkeypatch.setattr(transport._Jumping, "_ask_seconds", 0.1)
    host_key = paramiko.ECDSAKey.from_private_key_file(str(key))
    is_silent = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {host_key.get_name()} {host_key.get_base64()}\n")
        serving = threading.Thread(target=jump_host, args=(listening, host_key, is_silent), daemon=True)
        serving.start()
        way = Way("10.0.0.9", 22, "127.0.0.1", port, "op", str(key), str(known_hosts))
        made = jumping(way)
    made.start_client(timeout=5)
    made.auth_none("op")
    time.sleep(1.2)
    assert made.is_active(), "a host that answers is not lost"
    is_silent.set()
    deadline = time.monotonic() + 5
    while made.is_active() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not made.is_active()


def jump_host(listening: socket.socket, key: paramiko.PKey, is_silent: threading.Event) -> None:
    """An SSH server whose only way leads to a second one, until `is_silent`."""
    outer = paramiko.Transport(listening.accept()[0])
    outer.add_server_key(key)
    outer.start_server(server=Server())
    channel = outer.accept(5)
    assert channel is not None
    near, far = socket.socketpair()
    inner = paramiko.Transport(far)
    inner.add_server_key(key)
    inner.start_server(threading.Event(), Server())
    threading.Thread(target=copy, args=(near.recv, channel.sendall, is_silent), daemon=True).start()
    copy(channel.recv, near.sendall, threading.Event())


def copy(
    recv: Callable[[int], bytes], sendall: Callable[[bytes], object], is_silent: threading.Event
) -> None:
    while data := recv(4096):
        if not is_silent.is_set():
            sendall(data)
