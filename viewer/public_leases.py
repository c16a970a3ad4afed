"""How a lease looks from outside: in answers, events and refusals."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from viewer.model import Frozen, Lease, LeaseHolder, LeaseKind, LeaseRequest, LeaseState


class PublicHolder(Frozen):
    """id: a person with two browsers has two, because only one of them has the keyboard."""

    id: str
    kind: LeaseKind
    name: str


class PublicLeaseRequest(Frozen):
    by: PublicHolder
    reason: str | None
    at: datetime


class PublicLease(Frozen):
    """Who has keyboard and mouse of a session. Times are RFC 3339 in UTC."""

    session_id: str
    number: int = Field(description="Grows with every change of the holder; 0: nobody ever had it.")
    holder: PublicHolder | None = Field(description="Null: nobody.")
    since: datetime | None
    ends_at: datetime | None = Field(description="Without a renewal it ends then.")
    reason: str | None
    requests: tuple[PublicLeaseRequest, ...] = Field(description="Who asks for it, oldest first.")


class LeaseAnswer(PublicLease):
    you: str = Field(description="Who you would be as its holder: compare with `holder.id`.")


class HeldBy(Frozen):
    """Why something had to be refused: somebody else has keyboard and mouse."""

    name: str
    kind: LeaseKind
    since: datetime | None = None
    ends_at: datetime | None = None
    reason: str | None = None


def public_lease(state: LeaseState) -> PublicLease:
    return PublicLease.model_validate(_fields(state))


def lease_answer(state: LeaseState, you: str) -> LeaseAnswer:
    return LeaseAnswer.model_validate({**_fields(state), "you": you})


def in_words(lease: PublicLease) -> str:
    """For a line of text."""
    who = "nobody has control" if lease.holder is None else f"{lease.holder.name} has control"
    why = f" ({lease.reason})" if lease.reason else ""
    asking = ", ".join(one.by.name for one in lease.requests)
    return f"{who}{why}" + (f"; asked for by {asking}" if asking else "")


def held_by(lease: Lease) -> HeldBy | None:
    holder = lease.holder
    if holder is None:
        return None
    return HeldBy(
        name=holder.name, kind=holder.kind, since=lease.since, ends_at=lease.ends_at, reason=lease.reason
    )


def _fields(state: LeaseState) -> dict[str, object]:
    lease = state.lease
    return {
        "session_id": lease.session_id,
        "number": lease.number,
        "holder": None if lease.holder is None else _holder(lease.holder),
        "since": lease.since,
        "ends_at": lease.ends_at,
        "reason": lease.reason,
        "requests": tuple(map(_request, state.requests)),
    }


def _holder(holder: LeaseHolder) -> PublicHolder:
    return PublicHolder(id=holder.id, kind=holder.kind, name=holder.name)


def _request(request: LeaseRequest) -> PublicLeaseRequest:
    return PublicLeaseRequest(by=_holder(request.by), reason=request.reason, at=request.at)
