"""What the worker makes of hostwatch: events hurry the next look at a host, and never more than that.

The look stays the truth, and goes on every few seconds where no event comes: a host without hostwatch, or one
whose stream is away, is only noticed later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from viewer.hostwatch.answers import ContainerEvent, Heartbeat, HostReport
from viewer.hostwatch_client import HostwatchClient, HostwatchUnreachable
from viewer.sandbox_hosts import SandboxHost

log = logging.getLogger("deskfleet.worker")

LOOK_TWICE_SECONDS = 0.5
"""What a list leaves out is believed gone when the next one leaves it out too; so no event is good for one
look only. It also bounds how often events make the host list its sandboxes."""
RETRY_SECONDS = 2.0
_SAYS_NOTHING_NEW = ("create", "kill")
"""`start` and `die` follow at once, and those change what the host lists."""


class HostEvents:
    """Reads the events of one host; each has the host looked at twice."""

    def __init__(self, name: str, hostwatch: HostwatchClient, look_soon: Callable[[], None]) -> None:
        self._name = name
        self._hostwatch = hostwatch
        self._look_soon = look_soon
        self._news = threading.Event()
        self._silence: str | None = None

    def start(self, stop: threading.Event) -> None:
        for task in (self._read_on, self._look):
            threading.Thread(target=task, args=(stop,), name=f"events of {self._name}", daemon=True).start()

    def _read_on(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._read(stop)
            except HostwatchUnreachable as problem:
                self._say(str(problem))
                stop.wait(RETRY_SECONDS)
            except Exception:
                if not stop.is_set():  # the worker closes its connections at the end
                    log.exception("host %s: reading its events failed; it will be tried again", self._name)
                stop.wait(RETRY_SECONDS)

    def _read(self, stop: threading.Event) -> None:
        is_new = True
        for line in self._hostwatch.events():
            if stop.is_set():
                return
            if is_new:
                # Whatever happened before, while nobody listened, has to be looked for.
                self._say(None)
                self._news.set()
                is_new = False
            if _is_news(line):
                self._news.set()

    def _look(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if not self._news.wait(1):
                continue
            self._news.clear()
            self._look_soon()
            stop.wait(LOOK_TWICE_SECONDS)
            self._look_soon()

    def _say(self, silence: str | None) -> None:
        """Log it once when events stop coming, and once when they are back."""
        if silence is None:
            log.info("host %s: its events are being read", self._name)
        elif self._silence is None:
            log.warning("host %s: polled only: %s", self._name, silence)
        self._silence = silence


class HostReports:
    """Asks a host how it is doing, and hands that on; one that says nothing is logged once."""

    def __init__(
        self, name: str, hostwatch: HostwatchClient | None, on_report: Callable[[str, HostReport], None]
    ) -> None:
        self._name = name
        self._hostwatch = hostwatch
        self._on_report = on_report
        self._is_silent = False

    def ask(self) -> None:
        if self._hostwatch is None:
            return
        try:
            report = self._hostwatch.host()
        except HostwatchUnreachable as problem:
            if not self._is_silent:
                log.warning("host %s: says nothing of its load and free space: %s", self._name, problem)
            self._is_silent = True
            return
        self._is_silent = False
        self._on_report(self._name, report)


def last_lines(hostwatch: HostwatchClient | None, sandboxes: SandboxHost, sandbox_id: str) -> list[str]:
    """The last lines that the sandbox's entrypoint wrote: hostwatch's, which bounds and cleans them; else
    what OpenSandbox's diagnostics have."""
    said: list[str] = []
    if hostwatch is not None:
        try:
            said = [line.strip() for line in hostwatch.log_tail(sandbox_id) if line.strip()]
        except HostwatchUnreachable as problem:
            log.info("sandbox %s: %s; asking OpenSandbox for its log", sandbox_id, problem)
    return said or sandboxes.log_tail(sandbox_id)


def _is_news(line: ContainerEvent | Heartbeat) -> bool:
    return isinstance(line, ContainerEvent) and line.action not in _SAYS_NOTHING_NEW
