"""What must happen only once although it may be asked for again: a request with an idempotency key."""

from __future__ import annotations

from pydantic import Field

from viewer.credentials import hash_of
from viewer.model import Frozen


class KeyReused(Exception):
    """The idempotency key belongs to a request that asked for something else."""


class Once(Frozen):
    """A request that must be done only once. body_sha256: of what was asked for."""

    key: str = Field(repr=False)
    body_sha256: str

    @property
    def stored_key(self) -> str:
        """Its hash: it finds what was done, and a copy of the database has no use for it."""
        return hash_of(self.key)
