"""The worker's threads: one for each thing that is in hand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("deskfleet.worker")

RETRY_SECONDS = 2.0


class Chores:
    """Threads by key: a key is worked on by one thread at most, and not again before its pause is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, threading.Thread] = {}
        self._not_before: dict[str, float] = {}

    def start(self, key: str, chore: Callable[[], object], *, pause: float = RETRY_SECONDS) -> bool:
        """Run `chore` in a thread unless `key` is in hand or rests; after its end it rests for `pause` s."""
        with self._lock:
            if key in self._running or self._not_before.get(key, 0.0) > time.monotonic():
                return False
            # A daemon: a chore that hangs in a host's answer must not keep the process from ending.
            thread = threading.Thread(target=self._run, args=(key, chore, pause), name=key, daemon=True)
            self._running[key] = thread
        thread.start()
        return True

    def in_hand(self, prefix: str) -> set[str]:
        """Return what follows `prefix` in the keys that are being worked on."""
        with self._lock:
            return {key.removeprefix(prefix) for key in self._running if key.startswith(prefix)}

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._running.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, key: str, chore: Callable[[], object], pause: float) -> None:
        try:
            chore()
        except Exception:
            log.exception("%s failed; it will be tried again", key)
        finally:
            with self._lock:
                del self._running[key]
                self._not_before = {k: t for k, t in self._not_before.items() if t > time.monotonic()}
                self._not_before[key] = time.monotonic() + pause
