"""Entries: how a browser gets from the viewer to an origin that is not the viewer's.

A ticket is made for somebody who is signed in (or for an API key), good for one origin, one minute, one use.
It is posted there and becomes that origin's own cookie, the entry. An entry is worth what its maker may do
now: when the sign-in, the key or the role behind it ends, so does the entry. Both are stored as hashes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import Field
from sqlalchemy import delete
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.accounts import AccountStore
from viewer.credentials import SecretToken, hash_of, new_token
from viewer.database import Database
from viewer.model import Frozen, Principal, Role, utcnow
from viewer.shares import visitor_by_id
from viewer.tables import EntryRow, ShareVisitRow, SignInRow

TICKET_LIFE = timedelta(seconds=60)
ENTRY_LIFE = timedelta(hours=12)
"""As long as the longest stream."""


class Audience(Frozen):
    """What an entry opens: a session's own page, or a service; and the one origin where it does."""

    origin: str
    session_id: str | None = None
    service: str | None = None


class Ticket(Frozen):
    text: SecretToken = Field(repr=False)
    expires_at: datetime


class Entry(Frozen):
    """A valid entry. `who` is its maker as he is now, with the weaker of his roles then and now."""

    audience: Audience
    who: Principal


class EntryStore:
    def __init__(self, database: Database, accounts: AccountStore) -> None:
        self._database = database
        self._accounts = accounts

    def new_ticket(self, who: Principal, audience: Audience, *, cookie: str | None) -> Ticket:
        """`cookie`: the viewer's, by which `who` is signed in; None for an API key, and for a share link."""
        text, now = new_token(), utcnow()
        row = EntryRow(
            sha256=hash_of(text),
            is_ticket=True,
            origin=audience.origin,
            session_id=audience.session_id,
            service=audience.service,
            tenant_id=who.tenant,
            role=who.role.value,
            key_id=who.id.removeprefix("key:") if who.via == "key" else None,
            share_visit_id=who.sign_in if who.via == "share" else None,
            sign_in_sha256=hash_of(cookie) if cookie else None,
            created_at=now,
            ends_at=now + TICKET_LIFE,
        )
        with self._database.writing() as orm:
            _forget_what_is_over(orm, now)
            orm.add(row)
            audit.note(orm, who.tenant, "entry.ticket", _target(row))
        return Ticket(text=text, expires_at=row.ends_at)

    def enter(self, ticket: str, origin: str, *, old: str | None = None) -> SecretToken | None:
        """The cookie for an unused ticket of that origin, which is used up by this; else None.

        `old`: the entry's cookie that the browser had there; it ends.
        """
        now = utcnow()
        with self._database.writing() as orm:
            row = orm.get(EntryRow, hash_of(ticket))
            if row is None or not row.is_ticket or row.ends_at <= now or row.origin != origin:
                return None
            cookie = new_token()
            orm.add(_entered(row, cookie, now))
            orm.delete(row)
            _note_use(orm, row)
            if old:
                orm.execute(
                    delete(EntryRow).where(EntryRow.sha256 == hash_of(old), EntryRow.origin == origin)
                )
            return cookie

    def entry(self, cookie: str, origin: str) -> Entry | None:
        """What this cookie opens at that origin; None when unknown, over, or its maker is out."""
        with self._database.reading() as orm:
            row = orm.get(EntryRow, hash_of(cookie))
        if row is None or row.is_ticket or row.ends_at <= utcnow() or row.origin != origin:
            return None
        who = self._maker(row)
        if who is None or who.tenant != row.tenant_id:
            return None
        audience = Audience(origin=row.origin, session_id=row.session_id, service=row.service)
        return Entry(
            audience=audience, who=who.model_copy(update={"role": _weaker(Role(row.role), who.role)})
        )

    def _maker(self, row: EntryRow) -> Principal | None:
        if row.sign_in_sha256 is not None:
            return self._accounts.principal_of_sign_in(row.sign_in_sha256)
        if row.share_visit_id is not None:
            with self._database.reading() as orm:
                return visitor_by_id(orm, row.share_visit_id, utcnow())
        return self._accounts.principal_of_key_id(row.key_id) if row.key_id is not None else None


def _entered(ticket: EntryRow, cookie: SecretToken, now: datetime) -> EntryRow:
    return EntryRow(
        sha256=hash_of(cookie),
        is_ticket=False,
        origin=ticket.origin,
        session_id=ticket.session_id,
        service=ticket.service,
        tenant_id=ticket.tenant_id,
        role=ticket.role,
        key_id=ticket.key_id,
        sign_in_sha256=ticket.sign_in_sha256,
        share_visit_id=ticket.share_visit_id,
        created_at=now,
        ends_at=now + ENTRY_LIFE,
    )


def _target(row: EntryRow) -> str:
    return f"session:{row.session_id}" if row.session_id is not None else f"service:{row.service}"


def _note_use(orm: OrmSession, row: EntryRow) -> None:
    """By its maker: the browser that uses it shows nothing but the ticket."""
    sign_in = orm.get(SignInRow, row.sign_in_sha256) if row.sign_in_sha256 is not None else None
    visit = orm.get(ShareVisitRow, row.share_visit_id) if row.share_visit_id is not None else None
    maker = f"share:{visit.link_id}" if visit is not None else f"key:{row.key_id}"
    maker = sign_in.principal_id if sign_in is not None else maker
    audit.note(orm, row.tenant_id, "entry.open", _target(row), principal=maker)


def _weaker(one: Role, other: Role) -> Role:
    return other if one.covers(other) else one


def _forget_what_is_over(orm: OrmSession, now: datetime) -> None:
    orm.execute(delete(EntryRow).where(EntryRow.ends_at <= now))
