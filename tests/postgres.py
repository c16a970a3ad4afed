"""A real PostgreSQL server of the tests' own, from Debian's package: on a unix socket, in a folder that goes
with it. With DESKFLEET_TEST_POSTGRES=1 the tests' stores are on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from viewer.database_address import PostgresAddress
from viewer.migrations import upgrade
from viewer.tables import Base

VARIABLE = "DESKFLEET_TEST_POSTGRES"
IS_WANTED = bool(os.environ.get(VARIABLE))
USER = "postgres"
_TEMPLATE = "newest"
SHARED = "shared"
_QUICK = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "autovacuum_naptime": "10s",
}
"""Nothing here must outlive a power cut."""


def programs() -> Path:
    """Where Debian keeps the server's programs: of the newest version, and not on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert found, "there is no PostgreSQL here; install Debian's package postgresql"
    return found[-1]


class PostgresServer:
    """Ends with the process that started it. port: of loopback, where it asks for passwords; None: it is on
    its socket alone, and trusts everybody."""

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port
        self.folder = Path(tempfile.mkdtemp(prefix="deskfleet-postgres-"))
        self.data, self.log = self.folder / "data", self.folder / "server.log"
        # The server refuses to run as root.
        self._as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER, USER)
        else:
            self._as_user = ["setpriv"]
        self._databases = 0
        self._emptying: psycopg.Connection | None = None
        # The order of words is another one than that of bytes, which SQLite has: nothing may hang on it.
        self._run("initdb", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256",
                  f"--username={USER}", "--encoding=UTF8",
                  "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")  # fmt: skip
        self.start()

    def start(self) -> None:
        """Also again, after `stop`. Returns when it answers."""
        settings = {**_QUICK, "unix_socket_directories": str(self.folder)}
        if self.port is not None:
            settings |= {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, "--pdeathsig=QUIT", programs() / "postgres", "-D", self.data, *options],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + 90
        while True:
            try:
                self.do("SELECT 1")
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        """At once, as when it is restarted for a new configuration."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=30)

    def close(self) -> None:
        if self._emptying is not None:
            self._emptying.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> PostgresAddress:
        port = "" if self.port is None else f"&port={self.port}"
        return PostgresAddress(f"postgresql://{USER}@/{database}?host={self.folder}{port}")

    def new(self, *, template: str = "template1") -> PostgresAddress:
        """A database without our tables."""
        self._databases += 1
        name = f"t{self._databases}"
        self.do(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def migrated(self) -> PostgresAddress:
        """A database of its own with our tables, empty. A copy is quicker than the steps."""
        self._make_template()
        return self.new(template=_TEMPLATE)

    def shared(self) -> PostgresAddress:
        """The one database that tests use one after the other, emptied; that is quicker than a copy."""
        address = self.url(SHARED)
        if self._emptying is None:
            self._make_template()
            self.do(f"CREATE DATABASE {SHARED} TEMPLATE {_TEMPLATE}")
            # Kept, because a new one has to learn of every table first, which takes ten times as long.
            self._emptying = psycopg.connect(address.url, autocommit=True)
        empty(self._emptying)
        return address

    def _make_template(self) -> None:
        try:
            self.do(f"CREATE DATABASE {_TEMPLATE}")
        except psycopg.errors.DuplicateDatabase:
            return
        upgrade(self.url(_TEMPLATE))

    def do(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres").url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement))

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, programs() / program, "-D", self.data, *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def empty(connection: psycopg.Connection) -> None:
    """Without triggers: neither may rows hold each other, nor a log its own."""
    tables = list(Base.metadata.tables)
    statements = [
        "SET session_replication_role = replica",
        *(f"DELETE FROM {table}" for table in tables),
        *(
            f"SELECT setval('{table.name}_id_seq', 1, false)"
            for table in Base.metadata.tables.values()
            if table.autoincrement_column is not None
        ),
    ]
    with connection.transaction():
        connection.execute(sql.SQL("; ".join(statements)))


def all_that_is_in(address: PostgresAddress) -> bytes:
    """Every row of every table."""
    found = b""
    with psycopg.connect(address.url) as connection, connection.cursor() as cursor:
        for table in Base.metadata.tables:
            with cursor.copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as rows:
                found += b"".join(bytes(row) for row in rows)
    return found


@contextmanager
def running_server(*, port: int | None = None) -> Iterator[PostgresServer]:
    server = PostgresServer(port=port)
    try:
        yield server
    finally:
        server.close()
