"""What a store does anew for each database, done once for all databases of a test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from tests.postgres import SHARED
from viewer import database
from viewer.database_address import PostgresAddress


class QuickEngines:
    """Engines that share what SQLAlchemy compiled, which takes longer than to execute it: it keeps that by
    engine, and nearly every test has a database of its own. On PostgreSQL those of the one that tests use one
    after the other share their connections too, which learn of the tables but slowly. And no test's SQLite
    file must outlive a power cut."""

    def __init__(self) -> None:
        self._connected: dict[str, Engine] = {}
        """By the name of the dialect, the first engine that has connected: its dialect knows its server."""
        self._pooling: Engine | None = None

    def engine_of(self, address: Path | PostgresAddress) -> Engine:
        engine = _engine_of(address)
        name = engine.dialect.name
        if first := self._connected.get(name):
            # Both, because the compiled SQL is kept by the dialect it was made for.
            engine.dialect = engine.pool._dialect = first.dialect
            engine._compiled_cache = first._compiled_cache

        @event.listens_for(engine, "connect")
        def connected(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
            self._connected.setdefault(name, engine)
            if name == "sqlite":
                connection.execute("PRAGMA synchronous=OFF")

        is_shared = isinstance(address, PostgresAddress) and f"/{SHARED}?" in address.url
        # How long they wait is said when they connect: an impatient store has its own.
        if is_shared and database.LOCKED_MILLISECONDS == _PATIENCE:
            self._pooling = self._pooling or engine
            engine.pool = self._pooling.pool
            # A store that is closed leaves them to the next one.
            setattr(engine, "dispose", lambda: None)  # noqa: B010
        return engine

    def close(self) -> None:
        if self._pooling is not None:
            self._pooling.pool.dispose()


_engine_of = database.engine_of
_PATIENCE = database.LOCKED_MILLISECONDS


@pytest.fixture(scope="session", autouse=True)
def quick_engines() -> Iterator[None]:
    engines = QuickEngines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "engine_of", engines.engine_of)
        yield
    engines.close()
