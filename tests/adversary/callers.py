"""Whoever may come to the edge, with what he shows: good credentials, and all that are good no more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import update

from tests.pages.content_site import ContentSite
from viewer.credentials import hash_of, key_id_of, new_key, new_token
from viewer.entries import Audience
from viewer.model import Principal, Role, Scope, utcnow
from viewer.people import NewPerson
from viewer.tables import ApiKeyRow, EntryRow, PersonRow, SignInRow

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
    and for one that never was: there he shows that of his own."""


def all_callers(site: ContentSite, pages: Four) -> Callers:
    """While all of these desktops still run; then call `take_away`."""
    keys = _keys(site)
    cookies = _cookies(site, keys)
    return Callers(keys, cookies, _Entries(site, pages).of(keys, cookies))


def take_away(site: ContentSite, callers: Callers) -> None:
    """Those named so are revoked, expired, disabled, signed out or idle from now on; the last three by a
    hand that forgot what hangs on them."""
    accounts, now = site.store.accounts, utcnow()
    accounts.revoke_key(key_id_of(callers.keys["revoked"]) or "")
    accounts.sign_out(callers.cookies["signed-out"])
    with site.store._database.writing() as orm:
        expired = ApiKeyRow.id == key_id_of(callers.keys["expired"])
        orm.execute(update(ApiKeyRow).where(expired).values(ends_at=now))
        orm.execute(update(PersonRow).where(PersonRow.login == "disabled").values(disabled_at=now))
        idle = SignInRow.sha256 == hash_of(callers.cookies["idle"])
        orm.execute(update(SignInRow).where(idle).values(used_at=now - timedelta(hours=12)))
        over = EntryRow.sha256.in_([hash_of(one) for one in callers.entries["over"].all()])
        orm.execute(update(EntryRow).where(over).values(ends_at=now))


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


def _found(who: Principal | None) -> Principal:
    assert who is not None, "this credential opens nothing"
    return who


def _same(value: str) -> Four:
    return Four(value, value, value, value)
