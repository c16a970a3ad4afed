"""Browser to desktop: whole messages, in order, whoever sends them.

What the desktop does not take waits here, and `room` waits with it: until then the browser is not read. So
whatever is sent, at whatever moment, stands between two messages.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


class Upstream:
    """Does not own the socket. `on_desktop_gone` is called at most once, with a sentence."""

    def __init__(self, desktop: socket.socket, *, on_desktop_gone: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._desktop = desktop
        self._on_desktop_gone = on_desktop_gone
        self._waiting = bytearray()
        self._drained = asyncio.Event()
        self._drained.set()
        self._is_open = True
        self.bytes_sent = 0

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def send(self, messages: bytes) -> None:
        """Queue whole messages."""
        if not messages or not self._is_open:
            return
        self.bytes_sent += len(messages)
        if self._waiting:
            self._waiting += messages
            return
        taken = self._write(messages)
        if taken < len(messages) and self._is_open:
            self._waiting += messages[taken:]
            self._drained.clear()
            self._loop.add_writer(self._desktop, self._writable)

    async def room(self) -> None:
        """Return when the kernel has taken all, or the desktop has gone."""
        await self._drained.wait()

    def close(self) -> None:
        """Before the socket is."""
        self._is_open = False
        self._stop()

    def _writable(self) -> None:
        del self._waiting[: self._write(self._waiting)]
        if not self._waiting or not self._is_open:
            self._stop()

    def _stop(self) -> None:
        if not self._drained.is_set():
            self._loop.remove_writer(self._desktop)
            self._drained.set()
        self._waiting.clear()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._desktop.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._is_open = False
            self._on_desktop_gone(f"the desktop has gone ({error.strerror})")
            return 0
