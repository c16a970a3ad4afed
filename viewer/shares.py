"""Share links: a way to watch one session without an account, until it is revoked, over, or the session ends.

The secret is in the link's fragment, which no browser sends: the page behind the link posts it, and gets a
cookie in its place, the visit. Both are stored as hashes. A visit is worth no more than its link is now, and
a link no more than whoever made it may do now. All of them watch: nobody controls by a link.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from pydantic import Field
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.credentials import SecretToken, hash_of, new_token
from viewer.database import Database
from viewer.listing import Page, one_page, page_of
from viewer.model import Frozen, Principal, Role, Scope, Session, Status, utcnow
from viewer.standing import good_key, is_open, person_in
from viewer.tables import SessionRow, ShareLinkRow, ShareVisitRow

SHORTEST = timedelta(seconds=60)
LONGEST = timedelta(days=7)
MOST_LINKS = 50
"""Good ones of one session at a time."""
MOST_VISITS = 200
"""Browsers that one link lets in: whoever has it could fill the table."""
MOST_SHOWN = 200
# A visit that is used is stamped at most this often: not every look is a write.
_STAMP_EVERY = timedelta(seconds=30)
_MOST_USER_AGENT = 200
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)

Why: TypeAlias = Literal["unknown", "revoked", "expired", "used", "ended", "crowded"]
"""Why a link lets nobody in. `used`: it is for one browser, and that is another one."""
_Known: TypeAlias = tuple[SecretToken, ShareVisitRow]
"""A visit that the browser has been on already, with its cookie."""


class Visit(Frozen):
    """A browser that came by a link."""

    id: str
    address: str | None
    user_agent: str | None
    created_at: datetime
    used_at: datetime


class Share(Frozen):
    """A link without its secret, which nobody has any more but those who were given it. `is_over`: it lets
    nobody in, for whatever reason."""

    id: str
    session_id: str
    label: str
    is_single_use: bool
    created_by: str
    created_at: datetime
    ends_at: datetime
    revoked_at: datetime | None
    is_over: bool
    visits: tuple[Visit, ...] = ()


class NewShare(Frozen):
    share: Share
    token: SecretToken = Field(repr=False)


class Visitor(Frozen):
    """Whoever watches by a link: a principal that may see that one session. `ends_at`: the link does."""

    who: Principal
    session_id: str
    ends_at: datetime


class Opened(Frozen):
    """A browser is in. `cookie`: its visit's, also where it had one before."""

    visitor: Visitor
    cookie: SecretToken = Field(repr=False)


class ShareNotFound(Exception):
    """No link of that id to that session."""


class TooManyShares(Exception):
    """The session has MOST_LINKS good ones."""


class ShareOver(Exception):
    """The link, or the visit that came by it, lets nobody in."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why: Why = why


class ShareStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- for those who share ------------------------------------------------------------------------

    def create(
        self, session: Session, who: Principal, *, label: str, life: timedelta, is_single_use: bool
    ) -> NewShare:
        """Raises TooManyShares; ShareOver where the session has ended meanwhile."""
        token, now = new_token(), utcnow()
        row = ShareLinkRow(
            id=str(uuid.uuid4()),
            sha256=hash_of(token),
            tenant_id=session.tenant_id,
            session_id=session.id,
            label=label,
            is_single_use=is_single_use,
            created_by=who.id,
            created_at=now,
            ends_at=now + life,
        )
        with self._database.writing() as orm:
            if _has_ended(orm, session.id):
                raise ShareOver("ended")
            good = select(func.count()).where(
                ShareLinkRow.session_id == session.id,
                ShareLinkRow.revoked_at.is_(None),
                ShareLinkRow.ends_at > now,
            )
            if (orm.scalar(good) or 0) >= MOST_LINKS:
                raise TooManyShares
            orm.add(row)
            detail = {"session": session.id, "label": label, "single_use": is_single_use,
                      "until": row.ends_at.isoformat()}  # fmt: skip
            audit.note(orm, session.tenant_id, "share.create", _target(row), detail=detail)
            return NewShare(share=_share_of(orm, row, (), now), token=token)

    def list(self, session: Session) -> list[Share]:
        """Newest first, MOST_SHOWN at most, those that are over too; each with who came by it."""
        now = utcnow()
        newest = (
            select(ShareLinkRow)
            .where(ShareLinkRow.session_id == session.id, ShareLinkRow.tenant_id == session.tenant_id)
            .order_by(ShareLinkRow.created_at.desc(), ShareLinkRow.id)
            .limit(MOST_SHOWN)
        )
        with self._database.reading() as orm:
            rows = list(orm.scalars(newest))
            visits = _visits_of(orm, [row.id for row in rows])
            return [_share_of(orm, row, visits.get(row.id, ()), now) for row in rows]

    def page(self, tenant_id: str, cursor: str | None, limit: int) -> Page[Share]:
        """The same of all the tenant's sessions, a page at a time. Raises viewer.listing.BadCursor."""
        now = utcnow()
        of_tenant = select(ShareLinkRow).where(ShareLinkRow.tenant_id == tenant_id)
        query = one_page(of_tenant, ShareLinkRow.created_at, ShareLinkRow.id, cursor, limit)
        with self._database.reading() as orm:
            rows = list(orm.scalars(query))
            visits = _visits_of(orm, [row.id for row in rows])
            return page_of([_share_of(orm, row, visits.get(row.id, ()), now) for row in rows], limit)

    def revoke(self, session: Session, share_id: str) -> None:
        """It lets nobody in any more, and those who are in are out. Raises ShareNotFound."""
        with self._database.writing() as orm:
            row = orm.get(ShareLinkRow, share_id)
            if row is None or (row.session_id, row.tenant_id) != (session.id, session.tenant_id):
                raise ShareNotFound(share_id)
            if row.revoked_at is None:
                row.revoked_at = utcnow()
                audit.note(orm, row.tenant_id, "share.revoke", _target(row), detail={"session": session.id})

    # --- for those who come by a link ---------------------------------------------------------------

    def open(
        self, token: str, *, cookies: Collection[str], address: str | None, user_agent: str | None
    ) -> Opened:
        """Let the browser in. cookies: of the visits that it has; one of this link stays the same visit.
        Raises ShareOver."""
        # Looked at before, so that wrong tokens neither wait for nor take the one write lock.
        with self._database.reading() as orm:
            if _link_of(orm, token) is None:
                raise ShareOver("unknown")
        now = utcnow()
        with self._database.writing() as orm:
            link = _link_of(orm, token)
            if link is None:
                raise ShareOver("unknown")
            known = _known_visit(orm, link, cookies)
            why = _why_not(orm, link, known, now)
            if why is not None:
                _note_open(orm, link, why)
            elif known is None:
                cookie = new_token()
                visit = _new_visit(link, cookie, now, address, user_agent)
                orm.add(visit)
                _note_open(orm, link)
                return Opened(visitor=_visitor(link, visit), cookie=cookie)
            else:
                cookie, visit = known
                visit.used_at = now
                return Opened(visitor=_visitor(link, visit), cookie=cookie)
        raise ShareOver(why)

    def visitor(self, cookies: Collection[str], session_id: str) -> Visitor | None:
        """Who watches that session by one of these visits; None where none is of it. Raises ShareOver where
        one is, and lets nobody in any more. The end of the session itself is no such reason: that it has
        ended is all that he may still see of it."""
        now = utcnow()
        with self._database.reading() as orm:
            for cookie in cookies:
                visit = _visit_of(orm, cookie)
                link = None if visit is None else orm.get(ShareLinkRow, visit.link_id)
                if visit is not None and link is not None and link.session_id == session_id:
                    why = _why_over(orm, link, now)
                    break
            else:
                return None
        if why is not None:
            raise ShareOver(why)
        if visit.used_at + _STAMP_EVERY <= now:
            self._stamp(visit.id, now)
        return _visitor(link, visit)

    def _stamp(self, visit_id: str, now: datetime) -> None:
        with self._database.writing() as orm:
            orm.execute(update(ShareVisitRow).where(ShareVisitRow.id == visit_id).values(used_at=now))


def visitors_of(orm: OrmSession, holders: Collection[str], now: datetime) -> list[Principal]:
    """Those of these (`Principal.holder`) who came by a link that is still good."""
    ids = [name.partition("/")[2] for name in holders if name.startswith("share:")]
    if not ids:
        return []
    pairs = orm.execute(
        select(ShareVisitRow, ShareLinkRow)
        .join(ShareLinkRow, ShareLinkRow.id == ShareVisitRow.link_id)
        .where(ShareVisitRow.id.in_(ids))
    )
    return [_visitor(link, visit).who for visit, link in pairs if _why_over(orm, link, now) is None]


def visitor_by_id(orm: OrmSession, visit_id: str, now: datetime) -> Principal | None:
    """Whoever that visit is; None once its link lets nobody watch any more."""
    return next(iter(visitors_of(orm, [f"share:/{visit_id}"], now)), None)


def _known_visit(orm: OrmSession, link: ShareLinkRow, cookies: Collection[str]) -> _Known | None:
    """The one of these visits that is of this link, with its cookie."""
    for cookie in cookies:
        visit = _visit_of(orm, cookie)
        if visit is not None and visit.link_id == link.id:
            return SecretToken(cookie), visit
    return None


def _note_open(orm: OrmSession, link: ShareLinkRow, why_not: Why | None = None) -> None:
    audit.note(
        orm,
        link.tenant_id,
        "share.open",
        _target(link),
        outcome="done" if why_not is None else "refused",
        detail={"session": link.session_id, **({"why": why_not} if why_not else {})},
        principal=_principal_id(link),
    )


def _why_not(orm: OrmSession, link: ShareLinkRow, visit: _Known | None, now: datetime) -> Why | None:
    """Why the link does not let a browser in, which has that visit of it or none."""
    why = _why_over(orm, link, now)
    if why is not None:
        return why
    if _has_ended(orm, link.session_id):
        return "ended"
    if visit is not None:
        return None
    visits = orm.scalar(select(func.count()).where(ShareVisitRow.link_id == link.id)) or 0
    if link.is_single_use and visits:
        return "used"
    return "crowded" if visits >= MOST_VISITS else None


def _why_over(orm: OrmSession, link: ShareLinkRow, now: datetime) -> Why | None:
    if link.revoked_at is not None or _maker_is_out(orm, link, now):
        return "revoked"
    return "expired" if link.ends_at <= now else None


def _maker_is_out(orm: OrmSession, link: ShareLinkRow, now: datetime) -> bool:
    """May whoever made it not share any more? One who came by a one-time link has no row of his own."""
    kind, _, ident = link.created_by.partition(":")
    if kind not in ("key", "person"):
        return not is_open(orm, link.tenant_id)
    maker = good_key(orm, ident, now) if kind == "key" else person_in(orm, ident)
    return maker is None or not _may_share(maker.role, maker.tenant_id, link)


def _may_share(role: str, tenant_id: str, link: ShareLinkRow) -> bool:
    return Role(role).covers(Role.OPERATOR) and tenant_id == link.tenant_id


def _has_ended(orm: OrmSession, session_id: str) -> bool:
    status = orm.scalar(select(SessionRow.status).where(SessionRow.id == session_id))
    return status is None or Status(status).is_terminal


def _link_of(orm: OrmSession, token: str) -> ShareLinkRow | None:
    if not _TOKEN.fullmatch(token):
        return None
    return orm.scalar(select(ShareLinkRow).where(ShareLinkRow.sha256 == hash_of(token)))


def _visit_of(orm: OrmSession, cookie: str) -> ShareVisitRow | None:
    if not _TOKEN.fullmatch(cookie):
        return None
    return orm.scalar(select(ShareVisitRow).where(ShareVisitRow.sha256 == hash_of(cookie)))


def _visits_of(orm: OrmSession, link_ids: Collection[str]) -> Mapping[str, tuple[Visit, ...]]:
    """By link, those who came first first."""
    found: dict[str, tuple[Visit, ...]] = {}
    query = select(ShareVisitRow).where(ShareVisitRow.link_id.in_(link_ids))
    for row in orm.scalars(query.order_by(ShareVisitRow.created_at, ShareVisitRow.id)):
        shown = Visit(
            id=row.id,
            address=row.address,
            user_agent=row.user_agent,
            created_at=row.created_at,
            used_at=row.used_at,
        )
        found[row.link_id] = (*found.get(row.link_id, ()), shown)
    return found


def _new_visit(
    link: ShareLinkRow, cookie: str, now: datetime, address: str | None, user_agent: str | None
) -> ShareVisitRow:
    return ShareVisitRow(
        id=str(uuid.uuid4()),
        sha256=hash_of(cookie),
        link_id=link.id,
        address=address,
        user_agent=(user_agent or "")[:_MOST_USER_AGENT] or None,
        created_at=now,
        used_at=now,
    )


def _visitor(link: ShareLinkRow, visit: ShareVisitRow) -> Visitor:
    who = Principal(
        id=_principal_id(link),
        tenant=link.tenant_id,
        role=Role.WATCHER,
        via="share",
        scopes=frozenset({Scope.STREAMS}),
        sign_in=visit.id,
        only_session=link.session_id,
    )
    return Visitor(who=who, session_id=link.session_id, ends_at=link.ends_at)


def _share_of(orm: OrmSession, row: ShareLinkRow, visits: tuple[Visit, ...], now: datetime) -> Share:
    is_over = _why_over(orm, row, now) is not None or _has_ended(orm, row.session_id)
    kept = {name: getattr(row, name) for name in Share.model_fields if name not in ("is_over", "visits")}
    return Share(**kept, is_over=is_over, visits=visits)


def _principal_id(link: ShareLinkRow) -> str:
    return f"share:{link.id}"


def _target(link: ShareLinkRow) -> str:
    return f"share:{link.id}"
