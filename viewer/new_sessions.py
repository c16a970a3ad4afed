"""What a new sandbox session starts with, and whether its tenant may have it."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from viewer.model import Display, Frozen, Kind, Resolution, Session, Status, Via, utcnow
from viewer.resources import Quota
from viewer.rows import add, count, new_id
from viewer.tables import SessionRow

MOST_CREATING = 200
"""Sandboxes that one tenant may have in the making, those that wait for a place included."""
MOST_SOUGHT = 20
"""Sandboxes that one tenant's events named and no host has shown yet: each is asked for again and again."""
SOUGHT = "looking for its sandbox"
"""`status_reason` of a session whose sandbox an event named, until a host shows it."""
NO_QUOTA = Quota()


class TooManyCreating(Exception):
    """The tenant has MOST_CREATING sandboxes in the making."""


class TooManySought(Exception):
    """The tenant has MOST_SOUGHT sandboxes that are looked for."""


class QuotaExceeded(Exception):
    """The tenant has as much as it may; the text is one sentence."""


class NewSession(Frozen):
    """What a new sandbox session starts with; the store adds id, request id and times."""

    image: str
    display: Display = Display.RFB
    resolution: Resolution | None = None
    task_id: str | None = None
    agent_id: str | None = None
    wanted_host: str | None = None
    wanted_labels: dict[str, str] = Field(default_factory=dict)
    may_queue: bool = True
    via: Via = Via.API
    cpu_millis: int = 0
    memory_mib: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    order_sealed: str | None = Field(default=None, repr=False)
    ttl_seconds: int
    idle_seconds: int | None = None
    lifetime_seconds: int | None = None
    created_by: str
    vnc_password_sealed: str | None = Field(default=None, repr=False)
    sandbox_id: str | None = None
    """Of a sandbox that is there already, on a host that is still to be found."""


def add_session(orm: OrmSession, tenant_id: str, new: NewSession, quota: Quota) -> Session:
    """Write the row and its event, within the tenant's quota. Raises TooManySought, TooManyCreating,
    QuotaExceeded."""
    if new.sandbox_id is not None and _sought(orm, tenant_id) >= MOST_SOUGHT:
        raise TooManySought
    check_quota(orm, tenant_id, new, quota)
    session = session_of_new(tenant_id, new)
    add(orm, session, new.created_by)
    return session


def _sought(orm: OrmSession, tenant_id: str) -> int:
    """Among the tenant's in the making, which are few: an index leads to those."""
    in_making = select(SessionRow.host, SessionRow.sandbox_id).where(
        SessionRow.tenant_id == tenant_id, SessionRow.status == Status.CREATING
    )
    return sum(host is None and sandbox_id is not None for host, sandbox_id in orm.execute(in_making))


def session_of_new(tenant_id: str, new: NewSession) -> Session:
    now = utcnow()
    return Session(
        id=new_id(),
        request_id=new_id(),
        tenant_id=tenant_id,
        created_at=now,
        updated_at=now,
        expires_at=now + timedelta(seconds=new.ttl_seconds),
        lifetime_ends_at=_lifetime_end(new, now),
        status_reason=SOUGHT if new.sandbox_id is not None else None,
        **{name: value for name, value in new if name != "lifetime_seconds"},
    )


def check_quota(orm: OrmSession, tenant_id: str, new: NewSession, quota: Quota) -> None:
    """Inside the write transaction, so that of two requests at once only one gets the last place. Raises
    TooManyCreating, QuotaExceeded."""
    mine = (SessionRow.tenant_id == tenant_id, SessionRow.kind == Kind.SANDBOX)
    if count(orm, *mine, SessionRow.status == Status.CREATING) >= MOST_CREATING:
        raise TooManyCreating
    if quota == NO_QUOTA:
        return
    used = orm.execute(
        select(
            func.count(),
            func.coalesce(func.sum(SessionRow.cpu_millis), 0),
            func.coalesce(func.sum(SessionRow.memory_mib), 0),
        ).where(*mine, SessionRow.terminated_at.is_(None))
    ).one()
    for what, unit, limit, now, more in (
        ("desktops", "", quota.desktops, used[0], 1),
        ("CPU", "m", quota.cpu_millis, used[1], new.cpu_millis),
        ("memory", "Mi", quota.memory_mib, used[2], new.memory_mib),
    ):
        if limit is not None and now + more > limit:
            raise QuotaExceeded(f"your tenant may have {limit}{unit} {what} at once; {now}{unit} are in use")


def _lifetime_end(new: NewSession, now: datetime) -> datetime | None:
    return None if new.lifetime_seconds is None else now + timedelta(seconds=new.lifetime_seconds)
