"""What outside systems sign their events with: each tenant's secrets, sealed."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import Field
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.database import Database
from viewer.model import POOL_TENANT, Frozen, utcnow
from viewer.tables import TenantRow, WebhookSecretRow

MOST_SECRETS = 10
"""Good ones of one tenant; a rotation may go beyond, up to MOST_TRIED."""
MOST_TRIED = 16
"""How many secrets one message is held against, whoever sent it."""
EVENTS_PATH = "/webhooks/openclaw"
OLD_ONE_GOOD_FOR = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=7)
_STAMP_EVERY = timedelta(minutes=5)
_ID_LETTERS = string.ascii_lowercase + string.digits


class WebhookSecret(Frozen):
    """All but the secret itself. ends_at: after a rotation the old one is good until then."""

    id: str
    tenant_id: str
    label: str
    created_by: str
    created_at: datetime
    last_used_at: datetime | None
    ends_at: datetime | None
    revoked_at: datetime | None


class SealedSecret(Frozen):
    """One that a message may have been signed with."""

    id: str
    tenant_id: str
    sealed: str = Field(repr=False)


class SecretNotFound(Exception):
    """No such secret for whoever asks."""


class SecretOver(Exception):
    """It is revoked or was followed by another one already."""


class TooManySecrets(Exception):
    """The tenant has MOST_SECRETS good ones."""


class NoSuchTenant(Exception):
    """No tenant of that name."""


class WebhookSecretStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tenant: str, label: str, sealed: str, *, by: str) -> WebhookSecret:
        """Raises NoSuchTenant, TooManySecrets."""
        with self._database.writing() as orm:
            if tenant == POOL_TENANT or orm.get(TenantRow, tenant) is None:
                raise NoSuchTenant(tenant)
            row = _add(orm, tenant, label, sealed, by, most=MOST_SECRETS)
            audit.note(orm, tenant, "webhook_secret.create", _target(row), detail={"label": label})
            return _shown(row)

    def list(self, tenant: str) -> Sequence[WebhookSecret]:
        """Newest first; those that are over too."""
        query = (
            select(WebhookSecretRow)
            .where(WebhookSecretRow.tenant_id == tenant)
            .order_by(WebhookSecretRow.created_at.desc(), WebhookSecretRow.id)
            .limit(200)
        )
        with self._database.reading() as orm:
            return [_shown(row) for row in orm.scalars(query)]

    def rotate(
        self, tenant: str, secret_id: str, sealed: str, *, by: str, overlap: timedelta = OLD_ONE_GOOD_FOR
    ) -> WebhookSecret:
        """A new one in the place of the old, which is good for `overlap` still. Raises SecretNotFound,
        SecretOver, TooManySecrets."""
        with self._database.writing() as orm:
            old = _own(orm, tenant, secret_id)
            if old.revoked_at is not None or old.ends_at is not None:
                raise SecretOver
            old.ends_at = utcnow() + overlap
            orm.flush()
            row = _add(orm, tenant, old.label, sealed, by, most=MOST_TRIED)
            audit.note(orm, tenant, "webhook_secret.rotate", _target(old), detail={"successor": row.id})
            return _shown(row)

    def revoke(self, tenant: str, secret_id: str) -> None:
        """It is good no more, at once. Raises SecretNotFound."""
        with self._database.writing() as orm:
            row = _own(orm, tenant, secret_id)
            if row.revoked_at is None:
                row.revoked_at = utcnow()
                audit.note(orm, tenant, "webhook_secret.revoke", _target(row))

    def tenant_of(self, secret_id: str) -> str:
        """For the host's command line and the audit log: it is told to no client. Raises SecretNotFound."""
        with self._database.reading() as orm:
            row = orm.get(WebhookSecretRow, secret_id)
        if row is None:
            raise SecretNotFound
        return row.tenant_id

    def candidates(self, source: str | None) -> Sequence[SealedSecret]:
        """The good secrets that a message may be signed with, MOST_TRIED of them at most, oldest first.

        `source`: one of a tenant's secrets, also one that is over, so that a sender's address outlives a
        rotation; it names the tenant, and proves nothing. Oldest first, so that nobody pushes another out.
        """
        with self._database.reading() as orm:
            shut = select(TenantRow.id).where(TenantRow.disabled_at.is_not(None))
            query = select(WebhookSecretRow).where(_is_good(), WebhookSecretRow.tenant_id.not_in(shut))
            if source is not None:
                named = orm.get(WebhookSecretRow, source)
                if named is None:
                    return []
                query = query.where(WebhookSecretRow.tenant_id == named.tenant_id)
            query = query.order_by(WebhookSecretRow.created_at, WebhookSecretRow.id).limit(MOST_TRIED)
            return [
                SealedSecret(id=row.id, tenant_id=row.tenant_id, sealed=row.secret_sealed)
                for row in orm.scalars(query)
            ]

    def note_use(self, secret_id: str) -> None:
        """From time to time: not every event is a write more."""
        now = utcnow()
        with self._database.reading() as orm:
            row = orm.get(WebhookSecretRow, secret_id)
        if row is None or (row.last_used_at is not None and row.last_used_at + _STAMP_EVERY > now):
            return
        with self._database.writing() as orm:
            found = orm.get(WebhookSecretRow, secret_id)
            if found is not None:
                found.last_used_at = now


def events_address(origin: str, secret_id: str) -> str:
    """Where events go that are signed with that secret."""
    return f"{origin}{EVENTS_PATH}?source={secret_id}"


def _target(row: WebhookSecretRow) -> str:
    return f"webhook_secret:{row.id}"


def _is_good() -> ColumnElement[bool]:
    return WebhookSecretRow.revoked_at.is_(None) & (
        WebhookSecretRow.ends_at.is_(None) | (WebhookSecretRow.ends_at > utcnow())
    )


def _own(orm: OrmSession, tenant: str, secret_id: str) -> WebhookSecretRow:
    row = orm.get(WebhookSecretRow, secret_id)
    if row is None or row.tenant_id != tenant:
        raise SecretNotFound
    return row


def _add(orm: OrmSession, tenant: str, label: str, sealed: str, by: str, *, most: int) -> WebhookSecretRow:
    good = select(WebhookSecretRow.id).where(WebhookSecretRow.tenant_id == tenant, _is_good())
    if len(orm.scalars(good).all()) >= most:
        raise TooManySecrets
    row = WebhookSecretRow(
        id="".join(secrets.choice(_ID_LETTERS) for _ in range(12)),
        tenant_id=tenant,
        label=label,
        secret_sealed=sealed,
        created_by=by,
        created_at=utcnow(),
    )
    orm.add(row)
    orm.flush()
    return row


def _shown(row: WebhookSecretRow) -> WebhookSecret:
    return WebhookSecret.model_validate(row, from_attributes=True)
