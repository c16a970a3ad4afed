"""The database's history as Alembic steps, packaged with the wheel. `upgrade` brings a database up to
date.

A new step: change `viewer/tables.py`, then
`.venv/bin/python -m viewer.migrations "what changes"` writes a draft into `versions/`; read it well.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from viewer.database import engine_of
from viewer.database_address import PostgresAddress

_HERE = Path(__file__).parent


def upgrade(database: Path | PostgresAddress, to: str = "head") -> None:
    """Create or upgrade the database; nothing happens to one that is already the newest."""
    _migrate(database, lambda config: command.upgrade(config, to))


def downgrade(database: Path | PostgresAddress, to: str) -> None:
    """Back to an older step; what only newer ones have a place for is gone. `to`: `base` for no tables."""
    _migrate(database, lambda config: command.downgrade(config, to))


def _migrate(database: Path | PostgresAddress, run: Callable[[Config], None]) -> None:
    with _alone(database):
        engine = engine_of(database)
        try:
            run(config_for(engine))
        finally:
            engine.dispose()


@contextmanager
def _alone(database: Path | PostgresAddress) -> Iterator[None]:
    """One program at a time: two that turn a new file to WAL at once fail, whatever their busy timeout.
    On PostgreSQL all of it is one transaction, in which they take turns (`env.py`)."""
    if isinstance(database, PostgresAddress):
        yield
        return
    with database.with_name(f"{database.name}.migrating.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def config_for(engine: Engine) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = engine
    return config
