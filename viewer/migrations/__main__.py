"""Draft a migration from the difference between the newest step and `viewer/tables.py`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from viewer.database import engine_of
from viewer.migrations import config_for, upgrade

if len(sys.argv) != 2:
    sys.exit('usage: python -m viewer.migrations "what changes"')
with tempfile.TemporaryDirectory() as scratch:
    database = Path(scratch) / "newest.db"
    upgrade(database)
    command.revision(config_for(engine_of(database)), message=sys.argv[1], autogenerate=True)
