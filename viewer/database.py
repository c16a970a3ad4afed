"""The engine below the store: SQLite in WAL mode or PostgreSQL, writes that cannot deadlock, waiting for a
change. What is SQLite's alone is here, what is PostgreSQL's in `viewer.postgres`; nobody else knows which of
them it is."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session as OrmSession
from sqlalchemy.pool import ConnectionPoolEntry

from viewer import postgres
from viewer.changes import Changes
from viewer.database_address import PostgresAddress

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


def engine_of(address: Path | PostgresAddress) -> Engine:
    """`writes`, an execution option of a connection: it takes the lock of writers before its first look."""
    if isinstance(address, PostgresAddress):
        return postgres.postgres_engine(address, lock_milliseconds=LOCKED_MILLISECONDS)
    return sqlite_engine(address)


def begin_alone(connection: Connection) -> None:
    """As a migration begins: nobody else writes until its end, for which others are waited for as long as
    it takes. `connection` has the option `writes`."""
    if connection.dialect.name == "postgresql":
        postgres.begin_alone(connection)


class DatabaseBusy(Exception):
    """Another process has been writing for LOCKED_MILLISECONDS; nothing was done."""


class DatabaseAway(Exception):
    """PostgreSQL cannot be reached. Nothing was done, unless it went away in the moment of a commit."""


class Database:
    """Short transactions on one database, and the news that anybody changed it."""

    def __init__(self, address: Path | PostgresAddress) -> None:
        self.address = address
        self.engine = engine_of(address)
        # SQLite lets who waits nap and try again, in no order: of a hundred threads some would come too late.
        # So the threads of one process wait here, and one of them at a time there. On PostgreSQL it keeps
        # them from waiting there with all the connections that there are.
        self._turn = threading.Lock()
        self._notifications: postgres.Notifications | None = None
        self._changes: Changes
        if isinstance(address, PostgresAddress):
            self._reader, self._writer = postgres.readers_of(self.engine), self.engine
            self._changes = self._notifications = postgres.Notifications(address)
        else:
            self._reader, self._writer = self.engine, self.engine.execution_options(writes=True)
            self._changes = ChangeWatch(address)

    @contextmanager
    def reading(self) -> Iterator[OrmSession]:
        """One read transaction: all that is read in it is of one moment. Raises DatabaseAway."""
        with _in_our_words(), OrmSession(self._reader) as orm:
            yield orm

    @contextmanager
    def writing(self) -> Iterator[OrmSession]:
        """One write transaction: all of it or nothing. Waiters are told after the commit. Raises DatabaseBusy
        when another process holds the lock for too long, and DatabaseAway."""
        has_changed = True
        try:
            with (
                self._turn,
                _in_our_words(),
                OrmSession(self._writer, expire_on_commit=False) as orm,
                orm.begin(),
            ):
                self._take_the_lock(orm)
                yield orm
                if self._notifications is not None:
                    orm.flush()
                    has_changed = postgres.tell_of_the_change(orm, self._notifications.sender)
        finally:
            # Also when the answer to the commit was lost: it may have come about.
            if has_changed:
                self._changes.committed()

    def mark(self) -> int:
        return self._changes.mark()

    def wait_for_change(self, timeout_s: float, since: int | None = None) -> bool:
        return self._changes.wait(timeout_s, since)

    def backup(self, target: Path) -> None:
        """Copy the live database into one consistent file: an SQLite file by SQLite's online backup, an
        archive for `pg_restore` by `pg_dump`. Raises postgres.DumpFailed."""
        if isinstance(self.address, PostgresAddress):
            postgres.dump(self.address, target)
            return
        source, copy = sqlite3.connect(self.address), sqlite3.connect(target)
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

    def _take_the_lock(self, orm: OrmSession) -> None:
        """By the first statement, which begins the transaction; from then on nothing waits any more."""
        if self._notifications is not None:
            postgres.take_the_turn(orm)
        else:
            orm.connection()


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except NoConnection as error:
        raise DatabaseBusy("all connections to the database are in use") from error
    except DBAPIError as error:
        if postgres.is_busy(error) or _is_locked(error):
            raise DatabaseBusy(str(error.orig)) from error
        if postgres.is_away(error):
            raise DatabaseAway(postgres.first_line(error.orig or error)) from error
        raise


def _is_locked(error: DBAPIError) -> bool:
    return isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig)


def lacks_tables(error: DBAPIError) -> bool:
    """The tables are not there yet, or are those of an older version."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return "no such" in str(error.orig)
    return postgres.lacks_tables(error)


class ChangeWatch(Changes):
    """SQLite's `data_version`, read on a connection that never writes, changes with every commit."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._changed_at = 0.0

    def committed(self) -> None:
        with self._state:
            if self._waiting:
                self._refresh()

    def _refresh(self) -> None:
        if self._closed:
            return
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._connection.execute(f"PRAGMA busy_timeout={LOCKED_MILLISECONDS}")
        version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            self._changed_at = time.monotonic()
        self._is_now(version)

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._closed or self._waiting > 0)
                if self._closed:
                    return
                self._refresh()
                is_busy = time.monotonic() - self._changed_at < BUSY_SECONDS
            time.sleep(BUSY_POLL_SECONDS if is_busy else POLL_SECONDS)
