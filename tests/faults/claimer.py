"""What each of several processes does that claim warm desktops at once; it imports little, as each must."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier
from pathlib import Path

from viewer.database_address import PostgresAddress
from viewer.model import Session
from viewer.store import NewSession, Store

_start: Barrier


def begin_together(start: Barrier) -> None:
    """Of each process, first thing."""
    global _start
    _start = start


def claim_some(database: Path | PostgresAddress, tenant: str, new: NewSession, number: int) -> list[Session]:
    """As soon as all processes are here."""
    store = Store(database)
    own = store.tenant(tenant)
    _start.wait()
    claimed = [own.create(new, may_be_warm=True).session for _ in range(number)]
    store.close()
    return claimed
