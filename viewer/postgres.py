"""PostgreSQL below the store: its engine, one writer at a time, the news of a change.

It must behave as SQLite does, for which all of the store was written: a write transaction is alone from its
first statement to its commit, and one read transaction sees one state of all tables.
"""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session as OrmSession

from viewer.changes import Changes
from viewer.database_address import PostgresAddress

OLDEST_VERSION = 14
CONNECTIONS = 20
"""At most, of one process; a server allows a hundred unless it is told otherwise."""
CONNECTION_SECONDS = 10.0
"""How long a thread waits for one of them."""
HEARTBEAT_SECONDS = 2.0
ANSWER_SECONDS = 5
"""A server that has not answered on a connection for this long is away."""
_TRY_AGAIN_SECONDS = 0.5
_CHANNEL = "deskfleet_changes"
# Any number does that nobody else takes in our database.
_WRITER_LOCK = 0x6465736B_00000001

# Both sides find out within seconds that the other's machine is gone, and not after hours. The server lets
# go of a lost writer's and a lost worker's lock only then; it must be the later one to find out about the
# worker (`viewer.acting`).
_CLIENT_KEEPALIVES = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": ANSWER_SECONDS * 1000,
}
_SERVER_OPTIONS = (
    "-c timezone=UTC -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    " -c idle_in_transaction_session_timeout=60s"
)

_TAKE_THE_TURN = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_WRITER_LOCK)

log = logging.getLogger("deskfleet.database")


def postgres_engine(address: PostgresAddress, *, lock_milliseconds: int) -> Engine:
    """A bounded pool of connections, each looked at before it is used: the server may have been restarted."""
    return create_engine(
        make_url(address.url).set(drivername="postgresql+psycopg"),
        pool_size=CONNECTIONS // 2,
        max_overflow=CONNECTIONS - CONNECTIONS // 2,
        pool_timeout=CONNECTION_SECONDS,
        pool_pre_ping=True,
        # Else the text of an error, and so the log, would have the values of the row.
        hide_parameters=True,
        connect_args=_connect_arguments(f"-c lock_timeout={lock_milliseconds}"),
    )


def readers_of(engine: Engine) -> Engine:
    """Transactions that see one state of all tables, whatever is committed meanwhile, and change nothing."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def take_the_turn(orm: OrmSession) -> None:
    """Wait until no other transaction writes; the lock goes with this one's end.

    Events must become visible in the order of their ids: whoever has read up to number 9 never looks back,
    and would miss a number 8 that is committed later. So writers take turns here as they do on SQLite, and
    the quota, claims and places that are counted and then taken need no locks of their own.

    The transaction is READ COMMITTED, whose next statement sees what was committed before it: a snapshot of
    the whole transaction would be from before the wait.
    """
    orm.execute(_TAKE_THE_TURN)


def begin_alone(connection: Connection) -> None:
    """The same for a migration, which may take longer than others wait for each other."""
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(_TAKE_THE_TURN)


def tell_of_the_change(orm: OrmSession, sender: str) -> bool:
    """Wake all who wait for a change, once this transaction is committed; False if it has changed nothing:
    else who looks and finds nothing to do would wake himself up."""
    told = text("SELECT pg_notify(:channel, :sender) WHERE pg_current_xact_id_if_assigned() IS NOT NULL")
    return orm.execute(told, {"channel": _CHANNEL, "sender": sender}).first() is not None


def is_busy(error: DBAPIError) -> bool:
    """Somebody else held the lock for too long."""
    return isinstance(error.orig, psycopg.errors.LockNotAvailable)


def is_away(error: DBAPIError) -> bool:
    """The server cannot be reached, is stopping or starting, or has ended this connection."""
    found = error.orig
    if not isinstance(found, psycopg.OperationalError):
        return False
    state = found.sqlstate
    return state is None or state.startswith(("08", "57P")) or state == "53300"


def lacks_tables(error: DBAPIError) -> bool:
    return isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn)


class Notifications(Changes):
    """LISTEN on a connection of its own, which is made anew when it is lost.

    The server hands a notification on once its transaction can be seen by others, so whoever reads after it
    sees the change. What was committed while nobody listened is not told of later: a new connection counts
    as a change.
    """

    def __init__(self, address: PostgresAddress) -> None:
        super().__init__()
        self.sender = uuid.uuid4().hex
        """Our own notifications, of which our waiters know already."""
        self._address = address
        self._connection: psycopg.Connection | None = None
        self._awake, self._wake = socket.socketpair()

    def committed(self) -> None:
        with self._state:
            self._is_now(self._version + 1)

    def _refresh(self) -> None:
        if self._thread is not None or self._closed:
            return
        # In the caller's thread, so that nothing which is committed after `mark` goes unheard.
        with suppress(psycopg.Error):
            self._connection = self._listening()
        self._ensure_thread()

    def _release(self) -> None:
        self._wake.close()
        if self._thread is None:
            self._awake.close()

    def _run(self) -> None:
        try:
            while not self._closed:
                try:
                    self._hear()
                except (psycopg.Error, OSError) as error:
                    self._lose(error)
        finally:
            self._drop()
            self._awake.close()

    def _hear(self) -> None:
        if self._connection is None:
            self._connection = self._listening()
            log.info("changes of the database are heard again")
            self._changed()
        here = self._connection
        if not self._is_readable(here, HEARTBEAT_SECONDS):
            here.execute("SELECT 1")  # else a connection whose other end is gone would stay quiet for ever
        here.pgconn.consume_input()
        senders = set()
        while (notice := here.pgconn.notifies()) is not None:
            senders.add(notice.extra.decode())
        if senders - {self.sender}:
            self._changed()

    def _is_readable(self, here: psycopg.Connection, seconds: float) -> bool:
        return bool(select.select([here.fileno(), self._awake.fileno()], [], [], seconds)[0])

    def _lose(self, error: Exception) -> None:
        if self._connection is not None:
            log.warning("changes of the database are not heard: %s; trying again", first_line(error))
        self._drop()
        select.select([self._awake.fileno()], [], [], _TRY_AGAIN_SECONDS)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listening(self) -> psycopg.Connection:
        connection = connect(self._address)
        # What arrives with the answer of another statement.
        connection.add_notify_handler(lambda notice: self._changed())
        connection.execute(f"LISTEN {_CHANNEL}")
        return connection

    def _changed(self) -> None:
        with self._state:
            self._is_now(self._version + 1)


class DumpFailed(Exception):
    """`pg_dump` could not do it; the text is one sentence."""


def dump(address: PostgresAddress, target: Path) -> None:
    """All of the database as it is at one moment, in pg_dump's custom format, while others write on."""
    # The URL has no password in it; libpq reads that from its file itself.
    command = ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}", "--dbname"]
    try:
        done = subprocess.run([*command, address.url], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DumpFailed("there is no pg_dump here; install Debian's package postgresql-client") from None
    if done.returncode != 0:
        raise DumpFailed(f"pg_dump failed: {first_line(RuntimeError(done.stderr))}")


def connect(address: PostgresAddress) -> psycopg.Connection:
    """A connection of its own, each statement of which is a transaction."""
    conninfo = make_conninfo(address.url, **_connect_arguments())
    return psycopg.connect(conninfo, autocommit=True)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _connect_arguments(more_options: str = "") -> dict[str, str | int]:
    return {
        **_CLIENT_KEEPALIVES,
        "connect_timeout": ANSWER_SECONDS,
        "application_name": "deskfleet",
        "options": f"{_SERVER_OPTIONS} {more_options}".strip(),
    }
