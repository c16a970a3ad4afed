"""The rows of tickets (`viewer.tickets`), and who their bearers are."""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.accounts import AccountStore
from viewer.database import Database
from viewer.model import Principal, Role, Scope, utcnow
from viewer.tables import StreamTicketRow
from viewer.tickets import Claims, TicketRole

_KEPT = timedelta(hours=24)
"""A row stays this long after its ticket's end: longer than any stream that came by it, which its revocation
must still find."""
_ID_LETTERS = string.ascii_lowercase + string.digits


class UnknownTicket(Exception):
    """That session has no such ticket."""


class TicketStore:
    def __init__(self, database: Database, accounts: AccountStore) -> None:
        self._database = database
        self._accounts = accounts

    def make(
        self, who: Principal, session_id: str, role: TicketRole, *, life: timedelta, is_single_use: bool
    ) -> Claims:
        """`who` may do that, and the session is of his tenant: the caller has looked."""
        now = utcnow()
        claims = Claims(
            id="".join(secrets.choice(_ID_LETTERS) for _ in range(12)),
            tenant=who.tenant,
            session_id=session_id,
            holder=who.holder,
            role=role,
            is_single_use=is_single_use,
            made=int(now.timestamp()),
            ends=int(now.timestamp()) + int(life.total_seconds()),
        )
        with self._database.writing() as orm:
            _forget_what_is_over(orm, now)
            orm.add(
                StreamTicketRow(
                    id=claims.id,
                    tenant_id=claims.tenant,
                    session_id=session_id,
                    holder=claims.holder,
                    role=role.value,
                    is_single_use=is_single_use,
                    created_at=now,
                    ends_at=claims.ends_at,
                )
            )
            detail = {
                "ticket": claims.id,
                "role": role.value,
                "seconds": claims.ends - claims.made,
                "single_use": is_single_use,
            }
            audit.note(orm, who.tenant, "ticket.create", f"session:{session_id}", detail=detail)
        return claims

    def bearer(self, claims: Claims) -> Principal | None:
        """Who shows it now: its maker, as far as it goes. None when it is over or revoked, or he is out. One
        that has been used still lets its bearer read."""
        return self._bearer(claims) if claims.ends_at > utcnow() else None

    def still_bearer(self, claims: Claims) -> Principal | None:
        """The same for what was opened by it in time."""
        return self._bearer(claims)

    def use(self, claims: Claims) -> bool:
        """Open a stream by it. False when that cannot be: of many at once who show one for a single use, one
        wins, whichever viewer they ask."""
        now = utcnow()
        if not claims.is_single_use:
            return claims.ends_at > now and not self.revoked({claims.id})
        using = (
            update(StreamTicketRow)
            .where(
                StreamTicketRow.id == claims.id,
                StreamTicketRow.used_at.is_(None),
                StreamTicketRow.revoked_at.is_(None),
                StreamTicketRow.ends_at > now,
            )
            .values(used_at=now)
        )
        with self._database.writing() as orm:
            done = orm.execute(using)
            return isinstance(done, CursorResult) and done.rowcount == 1

    def revoke(self, tenant: str, session_id: str, ticket_id: str, *, who: Principal) -> None:
        """Nothing is opened by it any more; closing what is open is the caller's. Raises UnknownTicket, also
        for one that `who`, no operator, has not made himself."""
        with self._database.writing() as orm:
            row = orm.get(StreamTicketRow, ticket_id)
            if row is None or (row.tenant_id, row.session_id) != (tenant, session_id):
                raise UnknownTicket(ticket_id)
            if row.holder != who.holder and not who.role.covers(Role.OPERATOR):
                raise UnknownTicket(ticket_id)
            if row.revoked_at is None:
                row.revoked_at = utcnow()
                audit.note(
                    orm, tenant, "ticket.revoke", f"session:{session_id}", detail={"ticket": ticket_id}
                )

    def revoked(self, ids: Collection[str]) -> set[str]:
        """Those of these tickets that are revoked, or that nobody knows of any more."""
        good = select(StreamTicketRow.id).where(
            StreamTicketRow.id.in_(ids), StreamTicketRow.revoked_at.is_(None)
        )
        with self._database.reading() as orm:
            return set(ids) - set(orm.scalars(good))

    def _bearer(self, claims: Claims) -> Principal | None:
        if self.revoked({claims.id}):
            return None
        role = self._accounts.roles_of({claims.holder}).get((claims.holder, claims.tenant))
        if role is None or not role.covers(claims.role.needed):
            return None
        name, _, sign_in = claims.holder.partition("/")
        return Principal(
            id=name,
            tenant=claims.tenant,
            role=claims.role.needed,
            via="ticket",
            scopes=frozenset({Scope.SESSIONS, Scope.STREAMS}),
            sign_in=sign_in or None,
            only_session=claims.session_id,
        )


def _forget_what_is_over(orm: OrmSession, now: datetime) -> None:
    orm.execute(delete(StreamTicketRow).where(StreamTicketRow.ends_at <= now - _KEPT))
