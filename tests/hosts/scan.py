"""A TCP scan: which ports of an address answer."""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import socket
import time
from collections.abc import Iterable

EVERY_PORT = range(1, 65536)
_AT_ONCE = 2000


def open_ports(address: str, ports: Iterable[int] = EVERY_PORT, *, seconds: float = 0.8) -> list[int]:
    """Those of the ports that accept a connection from here. seconds: how long silence is waited for."""
    _allow_many_files()
    waiting, found = list(ports), []
    while waiting:
        batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        found += _answering(address, batch, seconds)
    return sorted(found)


def _answering(address: str, ports: list[int], seconds: float) -> list[int]:
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        found, pending = [], 0
        for port in ports:
            attempt = stack.enter_context(socket.socket())
            attempt.setblocking(False)
            match attempt.connect_ex((address, port)):
                case 0:
                    found.append(port)
                case errno.EINPROGRESS:
                    selector.register(attempt, selectors.EVENT_WRITE, port)
                    pending += 1
        deadline = time.monotonic() + seconds
        while pending and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                attempt = key.fileobj  # type: ignore[assignment]
                if attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.append(key.data)
                selector.unregister(attempt)
                pending -= 1
        return found


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
