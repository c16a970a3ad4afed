"""Reaching an RFB server on this host, and talking to it before its stream is joined."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from struct import Struct
from typing import TypeVar

from viewer.grants import DesktopSocket, Target
from viewer.relay.settings import Settings
from viewer.rfb.conversation import Conversation

Result = TypeVar("Result")
RFB_SOCKET, WEB_SOCKET = "rfb.sock", "web.sock"
"""In a desktop's directory: of TigerVNC, and of what carries on to KasmVNC's port."""
READ_BYTES = 1 << 18
BACKLOG_PAUSE = 0.01
"""Seconds before a listener that was too busy is asked again."""
_PEER = Struct("3i")
"""struct ucred of unix(7): process, user, group."""


class DesktopUnreachable(Exception):
    """Nothing answers at the target, or it hung up before it said what we need."""


def use_no_delay(sock: socket.socket) -> None:
    """A key press must not wait for the next one. Keep-alive finds peers that vanished without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def connect(target: Target, settings: Settings) -> socket.socket:
    """Return a connected non-blocking socket, or raise DesktopUnreachable. The caller sets the time limit."""
    if isinstance(target, DesktopSocket):
        return await _connect(settings.desktops_dir / target.name / RFB_SOCKET)
    return await _connect((str(settings.publish_address), target.port))


async def connect_web(desktop: str, settings: Settings) -> socket.socket:
    """As `connect`, to where a desktop's own web client and its streams are served."""
    return await _connect(settings.desktops_dir / desktop / WEB_SOCKET)


async def connect_server(url: str) -> socket.socket:
    """As `connect`, to a server of this host's at `http://ADDRESS:PORT`."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return await _connect((host, int(port)))


async def _connect(place: Path | tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if isinstance(place, Path):
            await _connect_unix(sock, str(place))
            _check_owner(sock, place.parent)
        else:
            await asyncio.get_running_loop().sock_connect(sock, place)
        use_no_delay(sock)
    except OSError as error:
        sock.close()
        raise DesktopUnreachable(f"the desktop cannot be reached ({error.strerror})") from error
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_unix(sock: socket.socket, path: str) -> None:
    """At once, or EAGAIN while the listener's backlog is full: then nothing is under way that one could wait
    for, as event loops believe."""
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(BACKLOG_PAUSE)


async def converse(sock: socket.socket, conversation: Conversation[Result]) -> Result:
    """Run the conversation over the socket; raises RfbError or DesktopUnreachable."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(sock, conversation.opening())
        while not conversation.done:
            received = b""
            if conversation.behind:
                await asyncio.sleep(0)
            elif not (received := await loop.sock_recv(sock, READ_BYTES)):
                raise DesktopUnreachable("the desktop hung up")
            reply = conversation.feed(received)
            if reply:
                await loop.sock_sendall(sock, reply)
    except OSError as error:
        raise DesktopUnreachable(f"the desktop hung up ({error.strerror})") from error
    return conversation.result


def _check_owner(sock: socket.socket, folder: Path) -> None:
    """Raise PermissionError unless the desktop's own user listens at the other end.

    The folder is his, so he may put a link there that leads to another desktop's socket, which this relay can
    open and he cannot. Looked at on the connection, not on the path, so there is no moment in between."""
    _pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid != folder.stat().st_uid:
        raise PermissionError(errno.EPERM, "another user's program listens there")
