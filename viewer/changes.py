"""Waiting until anybody has changed the database; each engine says in its own way that it was changed."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod


class Changes(ABC):
    """Tells waiting threads that some connection, of this process or another, has committed.

    One thread looks or listens while anybody waits, so a hundred waiters cost the same as one. `_version` is
    another number after each change; a number of one process says nothing to another.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._version = 0
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._closed = False

    def mark(self) -> int:
        """The database as it is now: taken before reading, handed to `wait`, no change between is lost."""
        with self._state:
            self._refresh()
            return self._version

    def wait(self, timeout_s: float, since: int | None) -> bool:
        """True as soon as the database differs from `since` (default: from now), False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._state:
            self._refresh()
            seen = self._version if since is None else since
            self._waiting += 1
            self._ensure_thread()
            try:
                happened = self._state.wait_for(
                    lambda: self._stopped or self._version != seen, max(0.0, deadline - time.monotonic())
                )
                return happened and not self._stopped
            finally:
                self._waiting -= 1

    def stop(self) -> None:
        with self._state:
            self._stopped = True
            self._state.notify_all()

    def close(self) -> None:
        with self._state:
            self._stopped = self._closed = True
            self._release()
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()

    @abstractmethod
    def committed(self) -> None:
        """This process has just changed something: its own waiters need not wait until they hear of it."""

    @abstractmethod
    def _refresh(self) -> None:
        """Bring `_version` up to date. Called with the lock, also after `close`."""

    @abstractmethod
    def _run(self) -> None:
        """What the thread does until `_closed`."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of what the thread does not let go of by itself. Called with the lock."""

    def _is_now(self, version: int) -> None:
        if version != self._version:
            self._version = version
            self._state.notify_all()

    def _ensure_thread(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="database changes", daemon=True)
            self._thread.start()
        self._state.notify_all()
