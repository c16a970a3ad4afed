"""Of all workers on one database, one acts: whoever has the lock. The others wait for it."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from viewer.database_address import PostgresAddress
from viewer.postgres import HEARTBEAT_SECONDS, connect, first_line

AGAIN_SECONDS = 0.2
NOTICE_SECONDS = 1.0
"""Between getting PostgreSQL's lock and acting: so long the one who lost it may need to see that."""
LOCK_LOST = 3
"""Exit code."""
_LOCK = 0x6465736B_00000002
"""Any number does that nobody else takes in our database."""

log = logging.getLogger("deskfleet.worker")


@contextmanager
def acting_alone(database: Path | PostgresAddress, stop: threading.Event) -> Iterator[bool]:
    """Hold the one lock; wait for it while another worker acts. False if stopped."""
    lock = SessionLock(database) if isinstance(database, PostgresAddress) else FileLock(database)
    try:
        yield _taken(lock, stop) and lock.settle(stop)
    finally:
        lock.release()


class ActingLock(ABC):
    @abstractmethod
    def take(self) -> bool:
        """False while another one has it."""

    @abstractmethod
    def settle(self, stop: threading.Event) -> bool:
        """What is to be done between taking it and acting. False if stopped."""

    @abstractmethod
    def release(self) -> None: ...


class FileLock(ActingLock):
    """A file beside SQLite's. It goes with the process, and cannot be lost before."""

    def __init__(self, database: Path) -> None:
        self._file = database.with_name(f"{database.name}.worker.lock").open("w")

    def take(self) -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def settle(self, stop: threading.Event) -> bool:
        return True

    def release(self) -> None:
        self._file.close()


class SessionLock(ActingLock):
    """PostgreSQL's advisory lock of a session: workers on any machine wait for the one that has it.

    It goes when the connection goes, and the next one has it. The old holder sees that at once when the
    server closes the connection; when the network swallows it, within HEARTBEAT_SECONDS + ANSWER_SECONDS,
    while the server gives a silent client 25 s. It then ends without any further step, and the next one waits
    for NOTICE_SECONDS on top. (A machine that stood still for longer than all that, as when it is moved, may
    go on for the moment that it takes a thread to wake up.)
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._connection: psycopg.Connection | None = None
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Raises psycopg.Error when the server is away."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._address)
        try:
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
        except psycopg.Error:
            self._connection.close()
            raise
        return row is not None and bool(row[0])

    def settle(self, stop: threading.Event) -> bool:
        if stop.wait(NOTICE_SECONDS) or self._connection is None:
            return False
        self._thread = threading.Thread(
            target=self._watch, args=(self._connection,), name="acting lock", daemon=True
        )
        self._thread.start()
        return True

    def release(self) -> None:
        self._released.set()
        if self._thread is not None:
            self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _watch(self, here: psycopg.Connection) -> None:
        asked_at = time.monotonic()
        try:
            while not self._released.is_set():
                # Nobody tells us anything on this connection: what can be read is its end.
                is_told = select.select([here.fileno()], [], [], 0.1)[0]
                if is_told or time.monotonic() - asked_at >= HEARTBEAT_SECONDS:
                    here.execute("SELECT 1")
                    asked_at = time.monotonic()
        except (psycopg.Error, OSError, ValueError) as error:
            if not self._released.is_set():
                _end_at_once(first_line(error))


def _taken(lock: ActingLock, stop: threading.Event) -> bool:
    told = ""
    while not stop.is_set():
        try:
            if lock.take():
                return True
            why = "another worker is acting; waiting for its end"
        except psycopg.Error as error:
            why = f"the database is away; trying again: {first_line(error)}"
        if why != told:
            log.info(why)
            told = why
        stop.wait(AGAIN_SECONDS)
    return False


def _end_at_once(why: str) -> None:
    """As if killed, which all that the worker does is made for: another one may act from now on. Whoever
    started this one starts it again, and then it waits for the lock."""
    log.error("the lock of the acting worker is lost, so this one ends: %s", why)
    logging.shutdown()
    os._exit(LOCK_LOST)
