"""What a store does anew for each database, done once for all databases of a test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from viewer import database
from viewer.database_address import PostgresAddress


class QuickEngines:
    """Engines that share what SQLAlchemy compiled, which takes longer than to execute it: it keeps that by
    engine, and nearly every test has a database of its own. And no test's SQLite file must outlive a power
    cut."""

    def __init__(self) -> None:
        self._connected: dict[str, Engine] = {}
        """By the name of the dialect, the first engine that has connected: its dialect knows its server."""

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

        return engine


_engine_of = database.engine_of


@pytest.fixture(scope="session", autouse=True)
def quick_engines() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "engine_of", QuickEngines().engine_of)
        yield
