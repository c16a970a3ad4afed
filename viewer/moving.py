"""From SQLite's file into PostgreSQL: all rows in one transaction, or none. Nobody else may have the file
open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from viewer.database import begin_alone, engine_of
from viewer.database_address import PostgresAddress
from viewer.migrations import upgrade
from viewer.postgres import first_line
from viewer.tables import Base

_AT_ONCE = 1000
MOVED = ".moved"
"""What the file's name ends in afterwards, so that no program takes it for the fleet's."""


class MoveRefused(Exception):
    """Nothing was moved; the text is one sentence."""


def move(source: Path, target: PostgresAddress) -> int:
    """Copy every row, check that all are there, and put the file aside; how many there are.

    Raises MoveRefused.
    """
    _is_nobodys(source)
    try:
        upgrade(source)
        upgrade(target)
        with _both(source, target) as (old, new):
            _is_empty(new)
            rows = sum(_copy(table, old, new) for table in Base.metadata.sorted_tables)
            _count_on(old, new)
    except DBAPIError as error:
        raise MoveRefused(f"the rows could not be copied: {first_line(error.orig or error)}") from error
    source.rename(source.with_name(f"{source.name}{MOVED}"))
    return rows


def _is_nobodys(source: Path) -> None:
    """SQLite leaves WAL mode only while no other connection is open."""
    with closing(sqlite3.connect(source, timeout=0.5)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError:
            raise MoveRefused(
                f"another program has {source} open; stop deskfleet-viewer and deskfleet-worker first"
            ) from None


@contextmanager
def _both(source: Path, target: PostgresAddress) -> Iterator[tuple[Connection, Connection]]:
    """Nobody else writes on either side; what is written here is there at the end, or not at all."""
    engines = engine_of(source), engine_of(target)
    old, new = (engine.execution_options(writes=True) for engine in engines)
    try:
        with old.begin() as reading, new.begin() as writing:
            begin_alone(writing)
            yield reading, writing
    finally:
        for engine in engines:
            engine.dispose()


def _is_empty(new: Connection) -> None:
    for table in Base.metadata.sorted_tables:
        if new.scalar(select(func.count()).select_from(table)):
            raise MoveRefused(f"the database has rows in {table.name} already; give an empty one")


def _copy(table: Table, old: Connection, new: Connection) -> int:
    for rows in old.execution_options(yield_per=_AT_ONCE).execute(select(table)).mappings().partitions():
        new.execute(insert(table), [dict(row) for row in rows])
    counts = [connection.scalar(select(func.count()).select_from(table)) for connection in (old, new)]
    if counts[0] != counts[1]:
        raise MoveRefused(f"of {counts[0]} rows of {table.name} only {counts[1]} arrived")
    return counts[0] or 0


def _count_on(old: Connection, new: Connection) -> None:
    """Ids that were given out are never given out again, by PostgreSQL either."""
    for name, last in _last_ids(old).items():
        sequence = text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last)")
        new.execute(sequence, {"table": name, "last": last})


def _last_ids(old: Connection) -> Mapping[str, int]:
    found = old.execute(text("SELECT name, seq FROM sqlite_sequence WHERE seq > 0"))
    return {str(name): int(last) for name, last in found}
