"""The SSH transport of the deploy."""

from __future__ import annotations

import socket
from typing import Any

import paramiko


def without_delay(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """A transport that sends at once: with Nagle's algorithm each remote command waits ~45 ms for an ACK."""
    if isinstance(sock, socket.socket):  # a jump host's channel is not one
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(sock, **kwargs)
