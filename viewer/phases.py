"""What a session is to those who only know sandboxes: one word for its status and what is wanted of it.

Pure. `viewer.listing` says the same in SQL.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from viewer.model import Session, Status


class Phase(StrEnum):
    """Of a sandbox that is there. One that ended is not; one that failed is, until it would have ended."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    STOPPING = "stopping"
    FAILED = "failed"


def phase_of(session: Session, now: datetime) -> Phase | None:
    """None: there is no such sandbox (any more)."""
    if session.status is Status.ERROR:
        is_over = session.expires_at is not None and session.expires_at <= now
        return None if is_over else Phase.FAILED
    if session.status is Status.TERMINATED:
        return None
    if session.terminate_requested_at is not None:
        return Phase.STOPPING
    if session.status is Status.RUNNING:
        return Phase.PAUSING if session.wanted_status is Status.PAUSED else Phase.RUNNING
    if session.status is Status.PAUSED:
        return Phase.RESUMING if session.wanted_status is Status.RUNNING else Phase.PAUSED
    return Phase.CREATING
