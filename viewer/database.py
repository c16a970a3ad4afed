"""The engine below the store: SQLite in WAL mode, writes that cannot deadlock, waiting for a change."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as OrmSession
from sqlalchemy.pool import ConnectionPoolEntry

POLL_SECONDS = 0.015
BUSY_POLL_SECONDS = 0.004
"""While the last change is less than BUSY_SECONDS ago: one seldom comes alone, and in a create each step of
one process waits for that of another."""
BUSY_SECONDS = 1.0
LOCKED_MILLISECONDS = 10_000
"""How long a writer waits for one of another process."""


def sqlite_engine(path: Path) -> Engine:
    """An engine whose connections use WAL, wait LOCKED_MILLISECONDS for a lock, and hold foreign keys."""
    # Else the text of an error, and so the log, would have the values of the row.
    engine = create_engine(f"sqlite:///{path}", pool_size=16, max_overflow=64, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # None: the driver opens no transaction by itself; `begin` below says which kind it is.
        connection.isolation_level = None
        cursor = connection.cursor()
        # First: the change to WAL needs a lock too, which another program that starts may hold.
        cursor.execute(f"PRAGMA busy_timeout={LOCKED_MILLISECONDS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that becomes a writer fails at once with "database is locked" when another one wrote in
        # between, whatever the busy timeout; so a writer takes the lock first
        # (sqlite.org/lang_transaction.html).
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class DatabaseBusy(Exception):
    """Another process has been writing for LOCKED_MILLISECONDS; nothing was done."""


class Database:
    """Short transactions on one SQLite file, and the news that anybody changed it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = sqlite_engine(path)
        self._writer = self.engine.execution_options(writes=True)
        # SQLite lets who waits nap and try again, in no order: of a hundred threads some would come too late.
        # So the threads of one process wait here, and one of them at a time there.
        self._turn = threading.Lock()
        self._changes = ChangeWatch(path)

    @contextmanager
    def reading(self) -> Iterator[OrmSession]:
        with OrmSession(self.engine) as orm:
            yield orm

    @contextmanager
    def writing(self) -> Iterator[OrmSession]:
        """One write transaction: all of it or nothing. Waiters are told after the commit. Raises DatabaseBusy
        when another process holds the lock for too long."""
        with self._turn, OrmSession(self._writer, expire_on_commit=False) as orm, orm.begin():
            _take_the_lock(orm)
            yield orm
        self._changes.look()

    def mark(self) -> int:
        return self._changes.mark()

    def wait_for_change(self, timeout_s: float, since: int | None = None) -> bool:
        return self._changes.wait(timeout_s, since)

    def backup(self, target: Path) -> None:
        """Copy the live database into one consistent file with SQLite's online backup."""
        source, copy = sqlite3.connect(self.path), sqlite3.connect(target)
        try:
            source.backup(copy)
        finally:
            copy.close()
            source.close()

    def stop_waiting(self) -> None:
        """End every wait, now and later; reading and writing go on."""
        self._changes.stop()

    def close(self) -> None:
        self._changes.close()
        self.engine.dispose()


def _take_the_lock(orm: OrmSession) -> None:
    """By the first statement, which begins the transaction; from then on nothing waits any more."""
    try:
        orm.connection()
    except OperationalError as error:
        if "locked" in str(error):
            raise DatabaseBusy(str(error.orig)) from error
        raise


class ChangeWatch:
    """Tells waiting threads that some connection, of this process or another, has committed.

    SQLite's `data_version`, read on a connection that never writes, changes with every such commit. One
    thread reads it while anybody waits, so a hundred waiters cost the same as one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = threading.Condition()
        self._connection: sqlite3.Connection | None = None
        self._version = 0
        self._changed_at = 0.0
        self._waiting = 0
        self._poller: threading.Thread | None = None
        self._stopped = False
        self._closed = False

    def mark(self) -> int:
        """The database as it is now: taken before reading, handed to `wait`, no change between is lost."""
        with self._state:
            return self._read()

    def look(self) -> None:
        """Read now instead of at the next poll: this process has just committed."""
        with self._state:
            if self._waiting:
                self._read()

    def wait(self, timeout_s: float, since: int | None) -> bool:
        """True as soon as the database differs from `since` (default: from now), False after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._state:
            current = self._read()
            seen = current if since is None else since
            self._waiting += 1
            self._ensure_poller()
            try:
                return self._wait_until(lambda: self._stopped or self._version != seen, deadline)
            finally:
                self._waiting -= 1

    def stop(self) -> None:
        with self._state:
            self._stopped = True
            self._state.notify_all()

    def close(self) -> None:
        with self._state:
            self._stopped = self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._state.notify_all()
        if self._poller is not None:
            self._poller.join()

    def _wait_until(self, happened: Callable[[], bool], deadline: float) -> bool:
        return self._state.wait_for(happened, max(0.0, deadline - time.monotonic())) and not self._stopped

    def _read(self) -> int:
        if self._closed:
            return self._version
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._connection.execute(f"PRAGMA busy_timeout={LOCKED_MILLISECONDS}")
        version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            self._version = version
            self._changed_at = time.monotonic()
            self._state.notify_all()
        return version

    def _ensure_poller(self) -> None:
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, name="database changes", daemon=True)
            self._poller.start()
        self._state.notify_all()

    def _poll(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._closed or self._waiting > 0)
                if self._closed:
                    return
                self._read()
                is_busy = time.monotonic() - self._changed_at < BUSY_SECONDS
            time.sleep(BUSY_POLL_SECONDS if is_busy else POLL_SECONDS)
