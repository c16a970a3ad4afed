"""Who may come in: tenants, API keys, signed-in browsers, one-time links. Secrets are stored as hashes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from pydantic import Field
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session as OrmSession

from viewer.credentials import NewKey, SecretToken, hash_of, key_id_of, new_key, new_token, same
from viewer.database import Database
from viewer.model import POOL_TENANT, Frozen, Principal, Role, Scope, utcnow
from viewer.tables import ApiKeyRow, SignInLinkRow, SignInRow, TenantRow

SIGN_IN_IDLE = timedelta(hours=12)
SIGN_IN_MOST = timedelta(days=7)
LINK_LIFE = timedelta(hours=24)
# A used sign-in is stamped at most this often: not every read of a page is a write.
_STAMP_EVERY = timedelta(minutes=5)
# So many digits of its hash tell a sign-in from all others, and open nothing.
_SIGN_IN_ID = 16


class UnknownTenant(Exception):
    """No tenant of that name."""


class UnknownKey(Exception):
    """No API key of that id."""


class TenantExists(Exception):
    """There is a tenant of that name already."""


class DeclaredKey(Frozen):
    id: str
    tenant: str
    role: Role
    sha256: str
    label: str


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

    def add_key(self, tenant: str, role: Role, label: str = "", *, life: timedelta | None = None) -> NewKey:
        """Make a key; its text exists only in the answer. `life`: after it the key is good no more."""
        key = new_key()
        with self._database.writing() as orm:
            _tenant_row(orm, tenant)
            declared = DeclaredKey(id=key.id, tenant=tenant, role=role, sha256=hash_of(key.text), label=label)
            row = _key_row(declared, from_settings=False)
            row.ends_at = None if life is None else row.created_at + life
            orm.add(row)
        return key

    def revoke_key(self, key_id: str) -> None:
        """The key stops working at once, and so does every browser that signed in with it."""
        with self._database.writing() as orm:
            row = orm.get(ApiKeyRow, key_id)
            if row is None:
                raise UnknownKey(key_id)
            _revoke(orm, row)

    def sync_declared(self, tenants: Sequence[str], keys: Sequence[DeclaredKey]) -> None:
        """Make the settings true: add and change tenants and keys, revoke declared keys that went away."""
        with self._database.writing() as orm:
            for name in tenants:
                if orm.get(TenantRow, name) is None:
                    orm.add(TenantRow(id=name, created_at=utcnow()))
            orm.flush()
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
            return _principal_of_key(orm, text)

    def principal_of_key_id(self, key_id: str) -> Principal | None:
        """Whose key has this id; None when it is no longer good. Only for what that key has made before."""
        with self._database.reading() as orm:
            row = orm.get(ApiKeyRow, key_id)
        return _principal_of_row(row) if row is not None and _is_good(row) else None

    def roles_of(self, holders: Collection[str]) -> dict[tuple[str, str], Role]:
        """What these may do now, by `Principal.holder` and tenant; one without a valid key or sign-in is
        absent."""
        now = utcnow()
        keyed = [name for name in holders if name.startswith("key:") and "/" not in name]
        links = [name for name in holders if name.startswith("link:")]
        sign_in_ids = [name.partition("/")[2] for name in holders if "/" in name]
        sign_in_id = func.substr(SignInRow.sha256, 1, _SIGN_IN_ID)
        keys = select(ApiKeyRow.id, ApiKeyRow.tenant_id, ApiKeyRow.role).where(
            ApiKeyRow.id.in_([name.removeprefix("key:") for name in keyed]),
            ApiKeyRow.revoked_at.is_(None),
            ApiKeyRow.ends_at.is_(None) | (ApiKeyRow.ends_at > now),
        )
        sign_ins = select(SignInRow).where(
            SignInRow.principal_id.in_(links) | sign_in_id.in_(sign_in_ids),
            SignInRow.ends_at > now,
            SignInRow.used_at > now - SIGN_IN_IDLE,
        )
        with self._database.reading() as orm:
            found = {(f"key:{name}", tenant): Role(role) for name, tenant, role in orm.execute(keys)}
            signed_in = [_principal_of_sign_in(row) for row in orm.scalars(sign_ins)]
        return found | {(who.holder, who.tenant): who.role for who in signed_in}

    def name_of(self, principal: Principal) -> str:
        """What a page calls whoever is signed in: the label of his key, else its id."""
        kind, _, ident = principal.id.partition(":")
        if kind == "link":
            return "sign-in link"
        with self._database.reading() as orm:
            row = orm.get(ApiKeyRow, ident)
        return (row.label if row is not None else "") or ident

    # --- browsers ----------------------------------------------------------------------------------

    def sign_in_with_key(self, text: str) -> SecretToken | None:
        """A cookie value for a browser that showed this key, or None."""
        if self.principal_of_key(text) is None:
            return None  # looked at before, so that wrong keys never wait for or take the one write lock
        with self._database.writing() as orm:
            # Again, because a revoke in between has deleted the sign-ins that there were, and not this one.
            principal = _principal_of_key(orm, text)
            return _new_sign_in(orm, principal, key_id_of(text)) if principal is not None else None

    def sign_in_with_link(self, text: str) -> SecretToken | None:
        """A cookie value for an unused link of ours, which is used up by this; else None."""
        now = utcnow()
        with self._database.writing() as orm:
            link = orm.get(SignInLinkRow, hash_of(text))
            if link is None or link.ends_at <= now:
                return None
            orm.delete(link)
            principal = Principal(
                id=f"link:{link.sha256[:8]}", tenant=link.tenant_id, role=Role(link.role), via="cookie"
            )
            return _new_sign_in(orm, principal, None)

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
        if row.used_at + _STAMP_EVERY <= now:
            self._stamp(row.sha256, now)
        return _principal_of_sign_in(row)

    def sign_out(self, value: str) -> None:
        with self._database.writing() as orm:
            orm.execute(delete(SignInRow).where(SignInRow.sha256 == hash_of(value)))

    def new_link(self, tenant: str, role: Role) -> SecretToken:
        """The token of a one-time sign-in link, good for 24 hours."""
        token = new_token()
        now = utcnow()
        with self._database.writing() as orm:
            _tenant_row(orm, tenant)
            row = SignInLinkRow(
                sha256=hash_of(token),
                tenant_id=tenant,
                role=role.value,
                created_at=now,
                ends_at=now + LINK_LIFE,
            )
            orm.add(row)
        return token

    def _stamp(self, sha256: str, now: datetime) -> None:
        with self._database.writing() as orm:
            orm.execute(update(SignInRow).where(SignInRow.sha256 == sha256).values(used_at=now))


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


def _tenant_row(orm: OrmSession, name: str) -> TenantRow:
    row = orm.get(TenantRow, name)
    if row is None or name == POOL_TENANT:  # nobody signs in as the pool
        raise UnknownTenant(name)
    return row


def _principal_of_key(orm: OrmSession, text: str) -> Principal | None:
    key_id = key_id_of(text)
    if key_id is None:
        return None
    row = orm.get(ApiKeyRow, key_id)
    # Compared even when there is no row, so that the time taken does not tell which ids exist.
    right = same(hash_of(text), row.sha256 if row is not None else "")
    if row is None or not right or not _is_good(row):
        return None
    return _principal_of_row(row)


def _is_good(row: ApiKeyRow) -> bool:
    return row.revoked_at is None and (row.ends_at is None or row.ends_at > utcnow())


def _principal_of_row(row: ApiKeyRow) -> Principal:
    return Principal(
        id=f"key:{row.id}",
        tenant=row.tenant_id,
        role=Role(row.role),
        via="key",
        scopes=None if row.scopes is None else frozenset(map(Scope, row.scopes)),
    )


def _principal_of_sign_in(row: SignInRow) -> Principal:
    # A link makes one sign-in, and is its name.
    sign_in = row.sha256[:_SIGN_IN_ID] if row.key_id is not None else None
    return Principal(
        id=row.principal_id, tenant=row.tenant_id, role=Role(row.role), via="cookie", sign_in=sign_in
    )


def _key_row(key: DeclaredKey, *, from_settings: bool) -> ApiKeyRow:
    return ApiKeyRow(
        id=key.id,
        tenant_id=key.tenant,
        role=key.role.value,
        sha256=key.sha256,
        label=key.label,
        from_settings=from_settings,
        created_at=utcnow(),
        ends_at=None,
        revoked_at=None,
    )


def _declare(orm: OrmSession, key: DeclaredKey) -> None:
    row = orm.get(ApiKeyRow, key.id)
    if row is None:
        orm.add(_key_row(key, from_settings=True))
        return
    if row.sha256 != key.sha256 or row.tenant_id != key.tenant or row.role != key.role.value:
        # Another secret, tenant or role under the same id: what was opened with the old one ends.
        orm.execute(delete(SignInRow).where(SignInRow.key_id == row.id))
    row.tenant_id, row.role, row.sha256, row.label = key.tenant, key.role.value, key.sha256, key.label
    row.from_settings, row.revoked_at, row.ends_at = True, None, None


def _revoke(orm: OrmSession, row: ApiKeyRow) -> None:
    row.revoked_at = row.revoked_at or utcnow()
    orm.execute(delete(SignInRow).where(SignInRow.key_id == row.id))


def _forget_what_is_over(orm: OrmSession, now: datetime) -> None:
    orm.execute(
        delete(SignInRow).where((SignInRow.ends_at <= now) | (SignInRow.used_at <= now - SIGN_IN_IDLE))
    )
    orm.execute(delete(SignInLinkRow).where(SignInLinkRow.ends_at <= now))


def _new_sign_in(orm: OrmSession, principal: Principal, key_id: str | None) -> SecretToken:
    token = new_token()
    now = utcnow()
    _forget_what_is_over(orm, now)
    key = orm.get(ApiKeyRow, key_id) if key_id is not None else None
    ends_at = now + SIGN_IN_MOST
    if key is not None and key.ends_at is not None:
        ends_at = min(ends_at, key.ends_at)
    orm.add(
        SignInRow(
            sha256=hash_of(token),
            tenant_id=principal.tenant,
            role=principal.role.value,
            principal_id=principal.id,
            key_id=key_id,
            created_at=now,
            used_at=now,
            ends_at=ends_at,
        )
    )
    return token
