"""Whoever may come to the edge, with what he shows: good credentials, and all that are good no more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import select, update

from tests.pages.content_site import ContentSite
from viewer.credentials import hash_of, key_id_of, new_key, new_token
from viewer.entries import Audience
from viewer.model import Principal, Role, Scope, utcnow
from viewer.people import NewPerson
from viewer.tables import ApiKeyRow, EntryRow, PersonRow, ShareLinkRow, ShareVisitRow, SignInRow
from viewer.tickets import Claims, TicketRole, text_of

OURS, THEIRS = "acme", "bolt"
"""The tenant of everybody but the caller named `other`, and his."""
PEOPLE = ("mara", "disabled", "signed-out", "idle")


@dataclass(frozen=True)
class Four:
    """Ids of sessions, or what is shown to each: the four ways in which a session may be there."""

    own: str
    ended: str
    foreign: str
    never: str

    def all(self) -> tuple[str, str, str, str]:
        return self.own, self.ended, self.foreign, self.never


@dataclass(frozen=True)
class Callers:
    """Who -> what he shows. People and keys of the same name are the same."""

    keys: dict[str, str] = field(repr=False)
    cookies: dict[str, str] = field(repr=False)
    """Values of the viewer's cookie."""
    entries: dict[str, Four] = field(repr=False)
    """Values of the cookie at the desktops' own origins. Nobody has one for the foreign desktop but `other`,
    and for one that never was: there he shows that of his own. So with all below."""
    devtools: dict[str, Four] = field(repr=False)
    """The same cookie at the origins of sandboxes that have DevTools."""
    tickets: dict[str, Four] = field(repr=False)
    visits: dict[str, Four] = field(repr=False)
    """Values of the cookie of a browser that came by a share link."""


def all_callers(site: ContentSite, screens: Four, pages: Four, browsers: Four) -> Callers:
    """While all of these still run; then call `take_away`."""
    keys = _keys(site)
    cookies = _cookies(site, keys)
    entries, devtools = (_Entries(site, one).of(keys, cookies) for one in (pages, browsers))
    guests = _Guests(site, screens)
    return Callers(keys, cookies, entries, devtools, guests.tickets(keys), guests.visits(keys))


def take_away(site: ContentSite, callers: Callers) -> None:
    """Those named so are revoked, expired, used, disabled, signed out or idle from now on; the last three by
    a hand that forgot what hangs on them."""
    accounts, now = site.store.accounts, utcnow()
    accounts.revoke_key(key_id_of(callers.keys["revoked"]) or "")
    accounts.sign_out(callers.cookies["signed-out"])
    with site.store._database.writing() as orm:
        expired = ApiKeyRow.id == key_id_of(callers.keys["expired"])
        orm.execute(update(ApiKeyRow).where(expired).values(ends_at=now))
        orm.execute(update(PersonRow).where(PersonRow.login == "disabled").values(disabled_at=now))
        idle = SignInRow.sha256 == hash_of(callers.cookies["idle"])
        orm.execute(update(SignInRow).where(idle).values(used_at=now - timedelta(hours=12)))
        cookies = (*callers.entries["over"].all(), *callers.devtools["over"].all())
        over = EntryRow.sha256.in_([hash_of(one) for one in cookies])
        orm.execute(update(EntryRow).where(over).values(ends_at=now))
        for which in ("revoked", "expired"):
            link = select(ShareVisitRow.link_id).where(
                ShareVisitRow.sha256.in_([hash_of(one) for one in callers.visits[which].all()])
            )
            of_link = update(ShareLinkRow).where(ShareLinkRow.id.in_(link))
            ended = {"revoked": {"revoked_at": now}, "expired": {"ends_at": now}}[which]
            orm.execute(of_link.values(**ended))


def _keys(site: ContentSite) -> dict[str, str]:
    made: dict[str, tuple[str, Role, Collection[Scope] | None]] = {
        "watcher": (OURS, Role.WATCHER, None),
        "operator": (OURS, Role.OPERATOR, None),
        "admin": (OURS, Role.ADMIN, None),
        "site's admin": (OURS, Role.ADMIN, tuple(Scope)),
        "other": (THEIRS, Role.ADMIN, None),
        "narrow": (OURS, Role.ADMIN, (Scope.EVENTS, Scope.SESSIONS)),
        "revoked": (OURS, Role.ADMIN, None),
        "expired": (OURS, Role.ADMIN, None),
    }
    accounts = site.store.accounts
    keys = {
        who: accounts.add_key(tenant, role, scopes=scopes).text
        for who, (tenant, role, scopes) in made.items()
    }
    wrong_end = "A" if keys["admin"][-1] != "A" else "B"
    return keys | {"wrong": keys["admin"][:-1] + wrong_end, "unknown": new_key().text}


def _cookies(site: ContentSite, keys: dict[str, str]) -> dict[str, str]:
    accounts = site.store.accounts
    cookies: dict[str, str] = {"unknown": new_token()}
    for who in ("watcher", "operator", "narrow", "other", "revoked", "expired"):
        cookies[who] = accounts.sign_in_with_key(keys[who]) or ""
    for login in PEOPLE:
        person = site.store.people(OURS).add(NewPerson(login=login, role=Role.OPERATOR), by="tests")
        cookies[login] = accounts.sign_in_person(person.id, address=None, user_agent=None)
    return cookies


class _Entries:
    def __init__(self, site: ContentSite, pages: Four) -> None:
        self._site, self._pages = site, pages
        self._accounts = site.store.accounts

    def of(self, keys: dict[str, str], cookies: dict[str, str]) -> dict[str, Four]:
        operator = self._by_key(keys["operator"])
        by_keys = {
            who: self._everywhere(self._by_key(keys[who]))
            for who in ("watcher", "operator", "narrow", "revoked", "expired")
        }
        by_cookies = {who: self._everywhere(self._by_cookie(cookies[who]), cookies[who]) for who in PEOPLE}
        return {
            **by_keys,
            **by_cookies,
            "over": self._everywhere(operator),
            "other": _same(self._at(self._pages.foreign, self._by_key(keys["other"]))),
            "sibling": _same(self._at(self._pages.ended, operator)),
            "ticket": _same(self._ticket(self._pages.own, operator)),
            "unknown": _same(new_token()),
            "viewer's": _same(cookies["operator"]),
        }

    def _everywhere(self, who: Principal, cookie: str | None = None) -> Four:
        own, ended = (self._at(page, who, cookie) for page in (self._pages.own, self._pages.ended))
        return Four(own, ended, own, own)

    def _at(self, session_id: str, who: Principal, cookie: str | None = None) -> str:
        ticket = self._ticket(session_id, who, cookie)
        entry = self._site.store.entries.enter(ticket, self._audience(session_id).origin)
        assert entry is not None, "the ticket was not taken"
        return entry

    def _ticket(self, session_id: str, who: Principal, cookie: str | None = None) -> str:
        """Unused."""
        return self._site.store.entries.new_ticket(who, self._audience(session_id), cookie=cookie).text

    def _audience(self, session_id: str) -> Audience:
        return Audience(origin=self._site.content_origin_of(session_id), session_id=session_id)

    def _by_key(self, key: str) -> Principal:
        return _found(self._accounts.principal_of_key(key))

    def _by_cookie(self, cookie: str) -> Principal:
        return _found(self._accounts.principal_of_cookie(cookie))


class _Guests:
    """Who is shown one session and nothing else."""

    def __init__(self, site: ContentSite, screens: Four) -> None:
        self._site, self._screens = site, screens
        self._key = (site.folder / "viewer.key").read_bytes().strip()

    def tickets(self, keys: dict[str, str]) -> dict[str, Four]:
        good = self._tickets(keys["operator"], TicketRole.CONTROL)
        tampered = good.own[:-1] + ("A" if good.own[-1] != "A" else "B")
        return {
            "watch": self._tickets(keys["operator"], TicketRole.WATCH),
            "control": good,
            "of a watcher": self._tickets(keys["watcher"], TicketRole.WATCH),
            "of a revoked key": self._tickets(keys["revoked"], TicketRole.CONTROL),
            "of another tenant": _same(
                self._ticket(keys["other"], TicketRole.CONTROL, self._screens.foreign)
            ),
            "for another session": _same(good.ended),
            "tampered": _same(tampered),
            "of another key": _same(self._forged()),
            "revoked": self._tickets(keys["operator"], TicketRole.CONTROL, then="revoke"),
            "used": self._tickets(keys["operator"], TicketRole.CONTROL, then="use"),
            "over": self._tickets(keys["operator"], TicketRole.CONTROL, life=timedelta(seconds=0)),
        }

    def _tickets(
        self, key: str, role: TicketRole, *, then: str = "", life: timedelta = timedelta(hours=1)
    ) -> Four:
        own, ended = (
            self._ticket(key, role, one, then=then, life=life)
            for one in (self._screens.own, self._screens.ended)
        )
        return Four(own, ended, own, own)

    def _ticket(
        self,
        key: str,
        role: TicketRole,
        session: str,
        *,
        then: str = "",
        life: timedelta = timedelta(hours=1),
    ) -> str:
        store, who = self._site.store, _found(self._site.store.accounts.principal_of_key(key))
        claims = store.tickets.make(who, session, role, life=life, is_single_use=then == "use")
        if then == "use":
            assert store.tickets.use(claims)
        if then == "revoke":
            store.tickets.revoke(who.tenant, session, claims.id, who=who)
        return text_of(claims, self._key)

    def _forged(self) -> str:
        """As somebody signs it who knows everything but the viewer's key."""
        now = int(utcnow().timestamp())
        claims = Claims(
            id="forged", tenant=OURS, session_id=self._screens.own, holder="key:forged",
            role=TicketRole.CONTROL, is_single_use=False, made=now, ends=now + 3600,
        )  # fmt: skip
        return text_of(claims, b"not the key of this viewer at all")

    def visits(self, keys: dict[str, str]) -> dict[str, Four]:
        return {
            "good": self._visits(keys["operator"]),
            "revoked": self._visits(keys["operator"]),
            "expired": self._visits(keys["operator"]),
            "of a revoked key": self._visits(keys["revoked"]),
            "of another tenant": _same(self._visit(keys["other"], THEIRS, self._screens.foreign)),
            "unknown": _same(new_token()),
            "the link itself": _same(self._link(keys["operator"], OURS, self._screens.own)),
        }

    def _visits(self, key: str) -> Four:
        own, ended = (self._visit(key, OURS, one) for one in (self._screens.own, self._screens.ended))
        return Four(own, ended, own, own)

    def _visit(self, key: str, tenant: str, session: str) -> str:
        link = self._link(key, tenant, session)
        return self._site.store.shares.open(link, cookies=(), address=None, user_agent=None).cookie

    def _link(self, key: str, tenant: str, session: str) -> str:
        store = self._site.store
        who = _found(store.accounts.principal_of_key(key))
        row = store.tenant(tenant).get(session)
        return store.shares.create(row, who, label="", life=timedelta(hours=1), is_single_use=False).token


def _found(who: Principal | None) -> Principal:
    assert who is not None, "this credential opens nothing"
    return who


def _same(value: str) -> Four:
    return Four(value, value, value, value)
