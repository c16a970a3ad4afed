"""What our relay does with a KasmVNC desktop, by its own code, for the stand-in and KasmVNC itself alike."""

from __future__ import annotations

import asyncio
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pydantic import SecretStr

from viewer.relay.desktop_access import Credentials
from viewer.relay.desktops import WEB_SOCKET
from viewer.relay.kasmvnc import OwnerApi, OwnerRefused, StreamUser, open_stream
from viewer.relay.settings import Settings

PUMP = """
import os, socket, sys, threading
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
def there():
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=there, daemon=True).start()
while data := s.recv(65536):
    while data:
        data = data[os.write(1, data):]
"""
"""Joins its standard input and output to the socket at its argument."""


@contextmanager
def brought_here(desktops: Path, name: str, command: Sequence[str], env: Mapping[str, str]) -> Iterator[None]:
    """A desktop's socket of another machine below `desktops`. command: runs PUMP there, once a connection."""

    class Join(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            subprocess.run(command, stdin=self.request, stdout=self.request, env=env, check=False)

    (desktops / name).mkdir(parents=True)
    with socketserver.ThreadingUnixStreamServer(str(desktops / name / WEB_SOCKET), Join) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def check_streams_have_users_of_their_own(desktops: Path, name: str, owner: Credentials) -> None:
    """A user is made, listed, let in to the stream, removed, and then let in no more. `desktops`: as the
    relay's `desktops_dir`."""
    settings = Settings(
        listen="127.0.0.1:1",
        key_file=desktops / "unused",
        publish_address=IPv4Address("127.0.0.1"),
        desktops_dir=desktops,
    )
    asyncio.run(_stream_of_a_user(name, owner, settings))


async def _stream_of_a_user(name: str, owner: Credentials, settings: Settings) -> None:
    api = OwnerApi(name, owner, settings)
    user = Credentials("s-0123456789ab", SecretStr("of-a-stream"))
    assert user.user not in await api.stream_users()
    await api.create_user(StreamUser(user, may_write=False))
    assert user.user in await api.stream_users()
    sock, early = await open_stream(name, user, settings)
    with closing(sock):
        async with asyncio.timeout(10):
            while b"RFB 003.008\n" not in early:
                more = await asyncio.get_running_loop().sock_recv(sock, 4096)
                assert more, early
                early += more
    await api.remove_users([user.user])
    assert user.user not in await api.stream_users()
    with pytest.raises(OwnerRefused):
        await open_stream(name, user, settings)
