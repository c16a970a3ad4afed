"""Who may come in: tenants, API keys, signed-in browsers, one-time links. Secrets are stored as hashes.

Whose a sign-in is, is in it; what he may do is read from his row, or his key's, each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from pydantic import Field
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.credentials import NewKey, SecretToken, hash_of, key_id_of, new_key, new_token, same
from viewer.database import Database, DatabaseBusy
from viewer.listing import Page, one_page, page_of
from viewer.model import POOL_TENANT, Frozen, Principal, Role, Scope, utcnow
from viewer.shares import visitors_of
from viewer.standing import good_key, is_good_key, is_open, person_in
from viewer.tables import ApiKeyRow, PersonRow, SignInLinkRow, SignInRow, TenantRow

SIGN_IN_IDLE = timedelta(hours=12)
SIGN_IN_MOST = timedelta(days=7)
LINK_LIFE = timedelta(hours=24)
# A used sign-in or key is stamped at most this often: not every read of a page is a write.
_STAMP_EVERY = timedelta(minutes=5)
# So many digits of its hash tell a sign-in from all others, and open nothing.
_SIGN_IN_ID = 16
_MOST_USER_AGENT = 200


class UnknownTenant(Exception):
    """No tenant of that name."""


class UnknownKey(Exception):
    """No API key of that id."""


class TenantExists(Exception):
    """There is a tenant of that name already."""


class UnknownSignIn(Exception):
    """He has no sign-in of that id."""


class PersonIsOut(Exception):
    """There is no such person, he is disabled, or his password is another one by now."""


class DeclaredKey(Frozen):
    id: str
    tenant: str
    role: Role
    sha256: str
    label: str
    scopes: tuple[Scope, ...] | None = None
    ends_at: datetime | None = None


class ApiKey(Frozen):
    """A key without its text, which nobody has any more. `scopes` None: all but `fleet`."""

    id: str
    tenant_id: str
    role: Role
    label: str
    scopes: tuple[Scope, ...] | None
    from_settings: bool
    created_by: str | None
    created_at: datetime
    last_used_at: datetime | None
    ends_at: datetime | None
    revoked_at: datetime | None


class Browser(Frozen):
    """Where a sign-in comes from, as its list shows it."""

    address: str | None = None
    user_agent: str | None = None


class SignIn(Frozen):
    """A signed-in browser. Its id opens nothing."""

    id: str
    principal_id: str
    address: str | None
    user_agent: str | None
    created_at: datetime
    used_at: datetime
    ends_at: datetime


class Login(Frozen):
    """What a login leads to. Nobody's login has no person, and nothing to compare a password with."""

    person_id: str | None = None
    tenant_id: str | None = None
    password_hash: str | None = Field(default=None, repr=False)


class LinkOf(Frozen):
    """Whose password a link lets be set."""

    person_id: str
    login: str


_UNKNOWN_BROWSER = Browser()
_NO_HASH = "0" * 64


class AccountStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- tenants and keys --------------------------------------------------------------------------

    def tenants(self) -> list[str]:
        with self._database.reading() as orm:
            named = select(TenantRow.id).where(TenantRow.id != POOL_TENANT).order_by(TenantRow.id)
            return list(orm.scalars(named))

    def add_tenant(self, name: str) -> None:
        with self._database.writing() as orm:
            if orm.get(TenantRow, name) is not None:
                raise TenantExists(name)
            orm.add(TenantRow(id=name, created_at=utcnow()))
            audit.note(orm, name, "tenant.create", f"tenant:{name}")

    def add_key(
        self,
        tenant: str,
        role: Role,
        label: str = "",
        *,
        life: timedelta | None = None,
        scopes: Collection[Scope] | None = None,
        by: str | None = None,
    ) -> NewKey:
        """Make a key; its text exists only in the answer. `life`: after it the key is good no more. `scopes`
        None: all but `fleet`."""
        key = new_key()
        with self._database.writing() as orm:
            _tenant_row(orm, tenant)
            declared = DeclaredKey(
                id=key.id,
                tenant=tenant,
                role=role,
                sha256=hash_of(key.text),
                label=label,
                scopes=None if scopes is None else tuple(scopes),
                ends_at=None if life is None else utcnow() + life,
            )
            row = _key_row(declared, from_settings=False)
            row.created_by = by
            orm.add(row)
            _note_key(orm, row, "key.create")
        return key

    def revoke_key(self, key_id: str) -> None:
        """The key stops working at once, and so does every browser that signed in with it."""
        with self._database.writing() as orm:
            row = orm.get(ApiKeyRow, key_id)
            if row is None:
                raise UnknownKey(key_id)
            _revoke(orm, row)

    def keys(self, tenant: str, cursor: str | None, limit: int) -> Page[ApiKey]:
        """Those that are over, too. Raises viewer.listing.BadCursor."""
        of_tenant = select(ApiKeyRow).where(ApiKeyRow.tenant_id == tenant)
        query = one_page(of_tenant, ApiKeyRow.created_at, ApiKeyRow.id, cursor, limit)
        with self._database.reading() as orm:
            found = [ApiKey.model_validate(row, from_attributes=True) for row in orm.scalars(query)]
        return page_of(found, limit)

    def key(self, tenant: str, key_id: str) -> ApiKey:
        """Raises UnknownKey, for another tenant's too."""
        with self._database.reading() as orm:
            row = orm.get(ApiKeyRow, key_id)
            if row is None or row.tenant_id != tenant:
                raise UnknownKey(key_id)
            return ApiKey.model_validate(row, from_attributes=True)

    def sync_declared(self, tenants: Sequence[str], keys: Sequence[DeclaredKey]) -> None:
        """Make the settings true: add and change tenants and keys, revoke declared keys that went away, and
        disable tenants that did: nobody of theirs comes in until they are back."""
        with self._database.writing() as orm:
            for name in tenants:
                _declare_tenant(orm, name)
            orm.flush()
            for tenant in orm.scalars(
                select(TenantRow).where(TenantRow.from_settings, TenantRow.id.not_in(tenants))
            ):
                _disable(orm, tenant)
            for key in keys:
                _declare(orm, key)
            kept = {key.id for key in keys}
            for row in orm.scalars(
                select(ApiKeyRow).where(ApiKeyRow.from_settings, ApiKeyRow.revoked_at.is_(None))
            ):
                if row.id not in kept:
                    _revoke(orm, row)

    def principal_of_key(self, text: str) -> Principal | None:
        """Whose key this is; None for one that is malformed, unknown, wrong, revoked or over."""
        with self._database.reading() as orm:
            row = _key_of(orm, text)
        if row is None:
            return None
        now = utcnow()
        if row.last_used_at is None or row.last_used_at + _STAMP_EVERY <= now:
            self._stamp_key(row.id, now)
        return _principal_of_row(row)

    def principal_of_key_id(self, key_id: str) -> Principal | None:
        """Whose key has this id; None when it is no longer good. Only for what that key has made before."""
        with self._database.reading() as orm:
            row = good_key(orm, key_id, utcnow())
            return _principal_of_row(row) if row is not None else None

    def roles_of(self, holders: Collection[str]) -> dict[tuple[str, str], Role]:
        """What these may do now, by `Principal.holder` and tenant; one without a valid key or sign-in is
        absent."""
        now = utcnow()
        keyed = [name for name in holders if name.startswith("key:") and "/" not in name]
        links = [name for name in holders if name.startswith("link:")]
        sign_in_ids = [
            name.partition("/")[2] for name in holders if "/" in name and not name.startswith("share:")
        ]
        keys = select(ApiKeyRow).where(ApiKeyRow.id.in_([name.removeprefix("key:") for name in keyed]))
        sign_ins = select(SignInRow).where(
            SignInRow.principal_id.in_(links) | _id_of_sign_in().in_(sign_in_ids),
            SignInRow.ends_at > now,
            SignInRow.used_at > now - SIGN_IN_IDLE,
        )
        with self._database.reading() as orm:
            found = [_principal_of_row(row) for row in orm.scalars(keys) if is_good_key(orm, row, now)]
            signed_in = [_principal_of_sign_in(orm, row) for row in orm.scalars(sign_ins)]
            visitors = visitors_of(orm, holders, now)
        everybody = [*found, *(who for who in signed_in if who is not None), *visitors]
        return {(who.holder, who.tenant): who.role for who in everybody if who.may(Scope.STREAMS)}

    def name_of(self, principal: Principal) -> str:
        """What a page calls whoever is signed in: his name, or the label of his key, else its id."""
        with self._database.reading() as orm:
            return audit.name_of(orm, principal.id)

    def names_of(self, principals: Collection[str]) -> dict[str, str]:
        """What pages call each of these, by `Principal.id`; its id where nobody knows a name."""
        with self._database.reading() as orm:
            return {principal: audit.name_of(orm, principal) for principal in principals}

    # --- browsers ----------------------------------------------------------------------------------

    def sign_in_with_key(self, text: str, browser: Browser = _UNKNOWN_BROWSER) -> SecretToken | None:
        """A cookie value for a browser that showed this key, or None."""
        if self.principal_of_key(text) is None:
            return None  # looked at before, so that wrong keys never wait for or take the one write lock
        with self._database.writing() as orm:
            # Again, because a revoke in between has deleted the sign-ins that there were, and not this one.
            row = _key_of(orm, text)
            if row is None:
                return None
            return _new_sign_in(orm, _principal_of_row(row), browser, key=row)

    def sign_in_with_link(self, text: str, browser: Browser = _UNKNOWN_BROWSER) -> SecretToken | None:
        """A cookie value for an unused link that is nobody's in particular, which is used up by this; else
        None. A person's link lets him set his password, and no more."""
        now = utcnow()
        with self._database.writing() as orm:
            link = orm.get(SignInLinkRow, hash_of(text))
            if link is None or link.ends_at <= now or link.person_id is not None:
                return None
            orm.delete(link)
            principal = Principal(
                id=f"link:{link.sha256[:8]}",
                tenant=link.tenant_id,
                role=Role(link.role),
                via="cookie",
                scopes=_with_fleet(link.is_fleet_admin),
            )
            return _new_sign_in(orm, principal, browser)

    def login(self, login: str) -> Login:
        """`login`: folded. What a password is checked against; somebody who is disabled has a login still,
        so that it takes as long as any other."""
        with self._database.reading() as orm:
            row = orm.scalar(select(PersonRow).where(PersonRow.login == login))
        if row is None:
            return Login()
        return Login(person_id=row.id, tenant_id=row.tenant_id, password_hash=row.password_hash)

    def sign_in_person(
        self,
        person_id: str,
        *,
        address: str | None,
        user_agent: str | None,
        password_hash: str | None = None,
        new_hash: str | None = None,
    ) -> SecretToken:
        """A cookie value for somebody who has just proved that he is this person. Raises PersonIsOut.

        password_hash: what his password was checked against; it must still be his. new_hash: takes its place.
        """
        with self._database.writing() as orm:
            row = person_in(orm, person_id)
            if row is None:
                raise PersonIsOut
            if password_hash is not None and row.password_hash != password_hash:
                raise PersonIsOut
            if new_hash is not None:
                row.password_hash = new_hash
            browser = Browser(address=address, user_agent=user_agent)
            return _sign_in_person(orm, row, browser)

    def note_failed_sign_in(self, person_id: str | None, *, is_locked: bool) -> None:
        """For the audit log: of the person's tenant where there is one, whom the answer does not tell."""
        with self._database.writing() as orm:
            person = None if person_id is None else orm.get(PersonRow, person_id)
            tenant = audit.NO_TENANT if person is None else person.tenant_id
            target = None if person is None else f"person:{person.id}"
            audit.note(orm, tenant, "sign_in.failed", target, outcome="refused")
            if is_locked:
                audit.note(orm, tenant, "sign_in.locked", target, outcome="refused")

    def person_of_link(self, text: str) -> LinkOf | None:
        """Whose password this unused link lets be set; None for any other text."""
        with self._database.reading() as orm:
            found = _link_and_person(orm, text)
        return None if found is None else LinkOf(person_id=found[1].id, login=found[1].login)

    def set_password_by_link(
        self, text: str, password_hash: str, browser: Browser = _UNKNOWN_BROWSER
    ) -> SecretToken | None:
        """Use the link up: set the password, end all that was opened before, and sign this browser in. None
        when the link is no longer good."""
        with self._database.writing() as orm:
            found = _link_and_person(orm, text)
            if found is None:
                return None
            _, person = found
            _set_password(orm, person, password_hash, but=None)
            return _sign_in_person(orm, person, browser)

    def change_password(self, person_id: str, former_hash: str, new_hash: str, *, keep: str | None) -> None:
        """End his other sign-ins and his unused links. keep: the id of the sign-in that stays. Raises
        PersonIsOut where the former password is no longer his."""
        with self._database.writing() as orm:
            row = orm.get(PersonRow, person_id)
            if row is None or row.disabled_at is not None or row.password_hash != former_hash:
                raise PersonIsOut
            _set_password(orm, row, new_hash, but=keep)

    def password_of(self, person_id: str) -> Login:
        """What he must show before he changes it."""
        with self._database.reading() as orm:
            row = orm.get(PersonRow, person_id)
        return (
            Login()
            if row is None
            else Login(person_id=row.id, tenant_id=row.tenant_id, password_hash=row.password_hash)
        )

    # --- sign-ins, listed and ended ----------------------------------------------------------------

    def sign_ins_of(self, principal_id: str) -> list[SignIn]:
        """Those that are good, newest first."""
        now = utcnow()
        query = (
            select(SignInRow)
            .where(
                SignInRow.principal_id == principal_id,
                SignInRow.ends_at > now,
                SignInRow.used_at > now - SIGN_IN_IDLE,
            )
            .order_by(SignInRow.created_at.desc())
        )
        with self._database.reading() as orm:
            return [_sign_in_of(row) for row in orm.scalars(query)]

    def end_sign_in(self, principal_id: str, sign_in_id: str) -> None:
        """Its streams end too. Raises UnknownSignIn for one that is not his."""
        with self._database.writing() as orm:
            row = orm.scalar(
                select(SignInRow).where(
                    SignInRow.principal_id == principal_id, _id_of_sign_in() == sign_in_id
                )
            )
            if row is None:
                raise UnknownSignIn(sign_in_id)
            orm.delete(row)
            _note_ended(orm, row)

    def end_sign_ins(self, principal_id: str, *, but: str | None = None) -> int:
        """All of his but the one with that id; how many they were."""
        gone = select(SignInRow).where(SignInRow.principal_id == principal_id)
        if but is not None:
            gone = gone.where(_id_of_sign_in() != but)
        with self._database.writing() as orm:
            rows = list(orm.scalars(gone))
            for row in rows:
                orm.delete(row)
                _note_ended(orm, row)
            return len(rows)

    def principal_of_cookie(self, value: str) -> Principal | None:
        """Who is signed in with this cookie; None when unknown, idle for 12 h, or older than 7 days."""
        return self.principal_of_sign_in(hash_of(value))

    def principal_of_sign_in(self, sha256: str) -> Principal | None:
        """The same, by the hash of the cookie."""
        now = utcnow()
        with self._database.reading() as orm:
            row = orm.get(SignInRow, sha256)
            if row is None or row.ends_at <= now or row.used_at + SIGN_IN_IDLE <= now:
                return None
            found = _principal_of_sign_in(orm, row)
        if found is not None and row.used_at + _STAMP_EVERY <= now:
            self._stamp(row.sha256, now)
        return found

    def sign_out(self, value: str) -> None:
        with self._database.writing() as orm:
            row = orm.get(SignInRow, hash_of(value))
            if row is not None:
                orm.delete(row)
                audit.note(orm, row.tenant_id, "sign_out", None, principal=row.principal_id)

    def new_link(self, tenant: str, role: Role, *, is_fleet_admin: bool = False) -> SecretToken:
        """The token of a one-time sign-in link that is nobody's in particular, good for 24 hours."""
        token = new_token()
        now = utcnow()
        with self._database.writing() as orm:
            _tenant_row(orm, tenant)
            row = SignInLinkRow(
                sha256=hash_of(token),
                tenant_id=tenant,
                role=role.value,
                is_fleet_admin=is_fleet_admin,
                created_at=now,
                ends_at=now + LINK_LIFE,
            )
            orm.add(row)
            audit.note(orm, tenant, "sign_in.link", f"link:{row.sha256[:8]}", detail={"role": role.value})
        return token

    def _stamp(self, sha256: str, now: datetime) -> None:
        with self._database.writing() as orm:
            orm.execute(update(SignInRow).where(SignInRow.sha256 == sha256).values(used_at=now))

    def _stamp_key(self, key_id: str, now: datetime) -> None:
        # A key is no less good while another process holds the lock.
        with contextlib.suppress(DatabaseBusy), self._database.writing() as orm:
            orm.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_used_at=now))


def sign_in_id(sha256: str) -> str:
    """What a sign-in is called, by the hash of its cookie."""
    return sha256[:_SIGN_IN_ID]


class Credential(Frozen):
    """What a request shows: a key wins over a cookie, even a wrong one."""

    authorization: str | None = Field(repr=False)
    cookie: str | None = Field(repr=False)

    def principal(self, accounts: AccountStore) -> Principal | None:
        """Whose it is now; None when it is missing, wrong, revoked or over."""
        if self.authorization is not None:
            scheme, _, key = self.authorization.partition(" ")
            return accounts.principal_of_key(key.strip()) if scheme.lower() == "bearer" else None
        return accounts.principal_of_cookie(self.cookie) if self.cookie else None


def _id_of_sign_in() -> ColumnElement[str]:
    return func.substr(SignInRow.sha256, 1, _SIGN_IN_ID)


def _tenant_row(orm: OrmSession, name: str) -> TenantRow:
    row = orm.get(TenantRow, name)
    if row is None or name == POOL_TENANT:  # nobody signs in as the pool
        raise UnknownTenant(name)
    return row


def _key_of(orm: OrmSession, text: str) -> ApiKeyRow | None:
    """The key's row; None for one that is malformed, unknown, wrong, revoked or over. For each that could be
    a key the same is done, whatever is wrong with it."""
    key_id = key_id_of(text)
    if key_id is None:
        return None
    row = orm.get(ApiKeyRow, key_id)
    # Compared even when there is no row, so that the time taken does not tell which ids exist.
    right = same(hash_of(text), row.sha256 if row is not None else _NO_HASH)
    return row if row is not None and right and is_good_key(orm, row, utcnow()) else None


def _principal_of_row(row: ApiKeyRow) -> Principal:
    return Principal(
        id=f"key:{row.id}", tenant=row.tenant_id, role=Role(row.role), via="key", scopes=_scopes_of(row)
    )


def _scopes_of(row: ApiKeyRow) -> frozenset[Scope] | None:
    return None if row.scopes is None else frozenset(map(Scope, row.scopes))


def _principal_of_sign_in(orm: OrmSession, row: SignInRow) -> Principal | None:
    """Whose it is, as he is now; None where whoever he was may come in no more."""
    if not is_open(orm, row.tenant_id):
        return None
    sign_in = sign_in_id(row.sha256)
    if row.person_id is not None:
        person = person_in(orm, row.person_id)
        return None if person is None else _as_principal(person, sign_in)
    if row.key_id is not None:
        key = good_key(orm, row.key_id, utcnow())
        if key is None:
            return None
        return _principal_of_row(key).model_copy(update={"via": "cookie", "sign_in": sign_in})
    # A link makes one sign-in, and is its name.
    return Principal(
        id=row.principal_id,
        tenant=row.tenant_id,
        role=Role(row.role),
        via="cookie",
        scopes=_with_fleet(row.is_fleet_admin),
    )


def _with_fleet(is_fleet_admin: bool) -> frozenset[Scope] | None:
    return frozenset(Scope) if is_fleet_admin else None


def _as_principal(person: PersonRow, sign_in: str | None) -> Principal:
    return Principal(
        id=f"person:{person.id}",
        tenant=person.tenant_id,
        role=Role(person.role),
        via="cookie",
        scopes=_with_fleet(person.is_fleet_admin),
        sign_in=sign_in,
    )


def _sign_in_of(row: SignInRow) -> SignIn:
    kept = {name: getattr(row, name) for name in SignIn.model_fields if name != "id"}
    return SignIn(id=sign_in_id(row.sha256), **kept)


def _note_ended(orm: OrmSession, row: SignInRow) -> None:
    detail = {"of": row.principal_id}
    audit.note(orm, row.tenant_id, "sign_in.end", f"sign_in:{sign_in_id(row.sha256)}", detail=detail)


def _link_and_person(orm: OrmSession, text: str) -> tuple[SignInLinkRow, PersonRow] | None:
    link = orm.get(SignInLinkRow, hash_of(text))
    if link is None or link.ends_at <= utcnow() or link.person_id is None:
        return None
    person = orm.get(PersonRow, link.person_id)
    return None if person is None or person.disabled_at is not None else (link, person)


def _set_password(orm: OrmSession, person: PersonRow, password_hash: str, *, but: str | None) -> None:
    person.password_hash, person.password_changed_at = password_hash, utcnow()
    me = f"person:{person.id}"
    audit.note(orm, person.tenant_id, "person.password", me, principal=me)
    end_everything_of(orm, person.id, but=but)


def end_everything_of(orm: OrmSession, person_id: str, *, but: str | None = None) -> None:
    """End his sign-ins and unused links. but: the id of the sign-in that stays."""
    sign_ins = delete(SignInRow).where(SignInRow.person_id == person_id)
    if but is not None:
        sign_ins = sign_ins.where(_id_of_sign_in() != but)
    orm.execute(sign_ins)
    orm.execute(delete(SignInLinkRow).where(SignInLinkRow.person_id == person_id))


def _key_row(key: DeclaredKey, *, from_settings: bool) -> ApiKeyRow:
    return ApiKeyRow(
        id=key.id,
        tenant_id=key.tenant,
        role=key.role.value,
        sha256=key.sha256,
        label=key.label,
        from_settings=from_settings,
        scopes=_stored(key.scopes),
        created_at=utcnow(),
        ends_at=key.ends_at,
        revoked_at=None,
    )


def _stored(scopes: Collection[Scope] | None) -> list[str] | None:
    return None if scopes is None else sorted(scope.value for scope in set(scopes))


def _declare_tenant(orm: OrmSession, name: str) -> None:
    row = orm.get(TenantRow, name)
    if row is None:
        orm.add(TenantRow(id=name, created_at=utcnow(), from_settings=True))
        audit.note(orm, name, "tenant.create", f"tenant:{name}")
        return
    if row.disabled_at is not None:
        audit.note(orm, name, "tenant.enable", f"tenant:{name}")
    row.from_settings, row.disabled_at = True, None


def _disable(orm: OrmSession, row: TenantRow) -> None:
    if row.disabled_at is None:
        row.disabled_at = utcnow()
        audit.note(orm, row.id, "tenant.disable", f"tenant:{row.id}")


def _declare(orm: OrmSession, key: DeclaredKey) -> None:
    row = orm.get(ApiKeyRow, key.id)
    if row is None:
        row = _key_row(key, from_settings=True)
        orm.add(row)
        _note_key(orm, row, "key.create")
        return
    changed = (row.sha256, row.tenant_id, row.role) != (key.sha256, key.tenant, key.role.value)
    former = (row.scopes, row.ends_at, row.revoked_at)
    if changed or former != (_stored(key.scopes), key.ends_at, None):
        _note_key_change(orm, row, key)
    if changed:
        # Another secret, tenant or role under the same id: what was opened with the old one ends.
        orm.execute(delete(SignInRow).where(SignInRow.key_id == row.id))
    row.tenant_id, row.role, row.sha256, row.label = key.tenant, key.role.value, key.sha256, key.label
    row.scopes, row.ends_at = _stored(key.scopes), key.ends_at
    row.from_settings, row.revoked_at = True, None


def _revoke(orm: OrmSession, row: ApiKeyRow) -> None:
    if row.revoked_at is None:
        row.revoked_at = utcnow()
        _note_key(orm, row, "key.revoke")
    orm.execute(delete(SignInRow).where(SignInRow.key_id == row.id))


def _note_key(orm: OrmSession, row: ApiKeyRow, action: audit.Action) -> None:
    detail = {"role": row.role, "label": row.label, "declared": row.from_settings}
    audit.note(orm, row.tenant_id, action, f"key:{row.id}", detail=detail)


def _note_key_change(orm: OrmSession, row: ApiKeyRow, key: DeclaredKey) -> None:
    """Should it go from one tenant to another, the former one's log says only that it is gone."""
    if row.tenant_id != key.tenant:
        _note_key(orm, row, "key.revoke")
    detail = {"role": key.role.value, "former_role": row.role, "label": key.label}
    audit.note(orm, key.tenant, "key.change", f"key:{row.id}", detail=detail)


def _forget_what_is_over(orm: OrmSession, now: datetime) -> None:
    orm.execute(
        delete(SignInRow).where((SignInRow.ends_at <= now) | (SignInRow.used_at <= now - SIGN_IN_IDLE))
    )
    orm.execute(delete(SignInLinkRow).where(SignInLinkRow.ends_at <= now))


def _sign_in_person(orm: OrmSession, person: PersonRow, browser: Browser) -> SecretToken:
    person.last_sign_in_at = utcnow()
    return _new_sign_in(orm, _as_principal(person, None), browser, person_id=person.id)


def _new_sign_in(
    orm: OrmSession,
    principal: Principal,
    browser: Browser,
    *,
    key: ApiKeyRow | None = None,
    person_id: str | None = None,
) -> SecretToken:
    token = new_token()
    now = utcnow()
    audit.note(
        orm,
        principal.tenant,
        "sign_in.ok",
        None,
        detail={"user_agent": browser.user_agent} if browser.user_agent else None,
        principal=principal.id,
    )
    _forget_what_is_over(orm, now)
    ends_at = now + SIGN_IN_MOST
    if key is not None and key.ends_at is not None:
        ends_at = min(ends_at, key.ends_at)
    orm.add(
        SignInRow(
            sha256=hash_of(token),
            tenant_id=principal.tenant,
            role=principal.role.value,
            principal_id=principal.id,
            key_id=key.id if key is not None else None,
            person_id=person_id,
            is_fleet_admin=key is None and principal.may(Scope.FLEET),
            address=browser.address,
            user_agent=(browser.user_agent or "")[:_MOST_USER_AGENT] or None,
            created_at=now,
            used_at=now,
            ends_at=ends_at,
        )
    )
    return token
