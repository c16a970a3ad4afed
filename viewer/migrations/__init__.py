"""The database's history as Alembic steps, packaged with the wheel. `upgrade` brings a file up to date.

A new step: change `viewer/tables.py`, then
`.venv/bin/python -m viewer.migrations "what changes"` writes a draft into `versions/`; read it well.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from viewer.database import sqlite_engine

_HERE = Path(__file__).parent


def upgrade(database: Path) -> None:
    """Create or upgrade the database file; nothing happens to one that is already the newest."""
    with _alone(database):
        engine = sqlite_engine(database)
        try:
            command.upgrade(config_for(engine), "head")
        finally:
            engine.dispose()


@contextmanager
def _alone(database: Path) -> Iterator[None]:
    """One program at a time: two that turn a new file to WAL at once fail, whatever their busy timeout."""
    with database.with_name(f"{database.name}.migrating.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def config_for(engine: Engine) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = engine
    return config
