"""The worker under a test's hand: its real code, with threads that move only when they are told to.

Each of its threads is a greenlet that stops before every transaction, before and after every request to a
host, and wherever it sleeps; whoever steers says which one goes on to its next stop. Time stands still
until it is moved. So any order of steps can be played, again and again, and a crash can come between any
two of them.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]
from sqlalchemy.orm import Session as OrmSession

import viewer.chores
import viewer.database
import viewer.lifecycle
import viewer.relay_client
import viewer.sandbox_hosts
import viewer.worker
from tests.model_host import ModelHost
from viewer.database import Database
from viewer.settings import Settings
from viewer.store import Store
from viewer.worker import Worker

TABLE = "the table"
MOST_MOVES = 5000
"""More in one go is a worker that never comes to rest."""


MOST_LOOKS = 6
"""What goes wrong is tried again after a pause, so it comes to rest before that."""


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self._began = self.now = datetime(2026, 12, 1, 12, tzinfo=UTC)

    def utcnow(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return (self.now - self._began).total_seconds()


class Threads:
    """Who is under way. Nobody moves by himself."""

    def __init__(self, clock: Clock, *, on_time: Callable[[], None], on_step: Callable[[], None]) -> None:
        self._clock = clock
        self._on_time = on_time
        self._on_step = on_step
        self._main = getcurrent()
        self._running: dict[str, greenlet] = {}
        self._asleep: dict[str, datetime] = {}
        self._is_killing = False

    def start(self, name: str, task: Callable[[], object]) -> None:
        assert name not in self._running, name
        self._running[name] = greenlet(task, parent=self._main)

    def names(self) -> list[str]:
        return list(self._running)

    def pause(self) -> None:
        """A thread stops here until it is moved; the test itself goes on."""
        if self._is_killing:
            raise GreenletExit
        if getcurrent() is not self._main:
            self._main.switch()

    def sleep(self, seconds: float) -> None:
        name = next(name for name, thread in self._running.items() if thread is getcurrent())
        self._asleep[name] = self._clock.now + timedelta(seconds=seconds)
        self.pause()

    def move(self, name: str) -> None:
        """To its next stop, or its end; one that sleeps lets the time pass until it wakes."""
        wakes = self._asleep.pop(name, self._clock.now)
        self.let_time_pass(max(timedelta(0), wakes - self._clock.now))
        thread = self._running[name]
        thread.switch()
        if thread.dead:
            self._running.pop(name, None)
        self._on_step()

    def run(self, name: str) -> None:
        """To its end."""
        self._run(lambda: [name] if name in self._running else [])

    def run_all(self, most_moves: int | None = None, until: Callable[[], bool] = lambda: False) -> None:
        """Until everybody has come to his end, in turns; whoever sleeps waits for those who do not."""
        self._run(self.names, most_moves, until)

    def _run(
        self,
        names: Callable[[], list[str]],
        most_moves: int | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        for _ in range(MOST_MOVES if most_moves is None else most_moves):
            if not names() or until():
                return
            name = min(names(), key=lambda name: self._asleep.get(name, self._clock.now))
            self.move(name)
            if name in self._running:
                self._running[name] = self._running.pop(name)  # to the end of the line
        assert most_moves is not None, f"no end of {names()}"

    def let_time_pass(self, span: timedelta) -> None:
        if span:
            self._clock.now += span
            self._on_time()
            self._on_step()

    def kill(self) -> None:
        """As `kill -9` does: nobody makes another step."""
        self._is_killing = True
        for thread in self._running.values():
            thread.throw(GreenletExit)
        self._running.clear()
        self._asleep.clear()
        self._is_killing = False


class Failures(logging.Handler):
    """What the worker's log tells of threads that failed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self.seen.append(f"{record.getMessage()}\n{trace}")


class SteeredWorker:
    """The worker of a fleet of modelled hosts; `crash` puts a new one over the same database."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        hosts: Mapping[str, ModelHost],
        clock: Clock,
        *,
        on_step: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._hosts = hosts
        self.clock = clock
        self.threads = Threads(clock, on_time=self._time_has_passed, on_step=on_step)
        self.failures = Failures()
        self._patch = pytest.MonkeyPatch()
        self._put_in_place()
        self._worker = Worker(settings, store)

    def close(self) -> None:
        self.threads.kill()
        self._worker.close()
        self._patch.undo()
        logging.getLogger("deskfleet.worker").removeHandler(self.failures)

    # --- steering ------------------------------------------------------------------------------------

    def begin_to_look(self, at: str) -> None:
        """At the table or at a host, unless that look is under way."""
        if at not in self.threads.names():
            look = self._worker.look if at == TABLE else self._worker._watches[at].look
            self.threads.start(at, look)

    def crash(self) -> None:
        self.threads.kill()
        self._worker.close()
        self._worker = Worker(self._settings, self._store)

    def look_around(self, most_moves: int | None = None, until: Callable[[], bool] = lambda: False) -> None:
        """Everybody looks, at the table again and again while anything changes, and all that comes of it is
        done: or as much of it as `most_moves` allow, or until that is so."""
        for at in self._hosts:
            self.begin_to_look(at)
        for _ in range(MOST_LOOKS):
            mark = self._store.mark()
            self.begin_to_look(TABLE)
            self.threads.run_all(most_moves, until)
            if most_moves is not None or until() or self._store.mark() == mark:
                return

    # --- what its code finds in the place of the world -------------------------------------------------

    def _put_in_place(self) -> None:
        numbers = itertools.count(1)
        # Ids decide between what is equally old, so they must be the same each time a test is played.
        instead = {"utcnow": self.clock.utcnow, "new_id": lambda: str(uuid.UUID(int=next(numbers)))}
        for name, module in list(sys.modules.items()):
            for what, function in instead.items():
                if name.startswith("viewer.") and hasattr(module, what):
                    self._patch.setattr(module, what, function)
        time = SimpleNamespace(monotonic=self.clock.monotonic, sleep=self.threads.sleep)
        for module in (viewer.chores, viewer.lifecycle, viewer.worker):
            self._patch.setattr(module, "time", time)
        steered = SimpleNamespace(Thread=self._thread, Lock=threading.Lock)
        self._patch.setattr(viewer.chores, "threading", steered)
        for client in (viewer.sandbox_hosts, viewer.relay_client):
            self._patch.setattr(client, "client_of", self._client_of)
        self._patch.setattr(Database, "reading", self._stopping(Database.reading))
        self._patch.setattr(Database, "writing", self._stopping(Database.writing))
        log = logging.getLogger("deskfleet.worker")
        log.addHandler(self.failures)
        self._patch.setattr(log, "propagate", False)

    def _thread(self, target: Callable[..., object], args: tuple[Any, ...], name: str, daemon: bool) -> Any:
        return SimpleNamespace(start=lambda: self.threads.start(name, lambda: target(*args)))

    def _stopping(self, begin: Callable[[Database], Any]) -> Callable[[Database], Any]:
        @contextmanager
        def stopping(database: Database) -> Iterator[OrmSession]:
            self.threads.pause()
            with begin(database) as orm:
                yield orm

        return stopping

    def _client_of(self, url: str, node: object, **_more: object) -> httpx.Client:
        name, _, program = httpx.URL(url).host.partition(".")
        host = self._hosts[name]
        do = host.relay_answer if program == "relay" else host.answer

        def answer(request: httpx.Request) -> httpx.Response:
            self.threads.pause()
            try:
                return do(request)
            finally:
                self.threads.pause()

        return httpx.Client(base_url=url, transport=httpx.MockTransport(answer), trust_env=False)

    def _time_has_passed(self) -> None:
        for host in self._hosts.values():
            host.time_has_passed()
