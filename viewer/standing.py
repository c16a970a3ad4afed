"""Whether somebody's rights still stand, from the rows alone: asked wherever something rests on a key, a
person, or a tenant. Only the stores import this module."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session as OrmSession

from viewer.tables import ApiKeyRow, PersonRow, TenantRow


def is_open(orm: OrmSession, tenant_id: str) -> bool:
    """May anybody of this tenant come in?"""
    return orm.get_one(TenantRow, tenant_id).disabled_at is None


def good_key(orm: OrmSession, key_id: str, now: datetime) -> ApiKeyRow | None:
    """None where there is none, and where it is revoked, over, or its tenant's who may not come in."""
    row = orm.get(ApiKeyRow, key_id)
    return row if row is not None and is_good_key(orm, row, now) else None


def is_good_key(orm: OrmSession, row: ApiKeyRow, now: datetime) -> bool:
    is_over = row.revoked_at is not None or (row.ends_at is not None and row.ends_at <= now)
    return not is_over and is_open(orm, row.tenant_id)


def person_in(orm: OrmSession, person_id: str) -> PersonRow | None:
    """None where there is no such person, and where he, or all of his tenant, may not come in."""
    row = orm.get(PersonRow, person_id)
    return row if row is not None and row.disabled_at is None and is_open(orm, row.tenant_id) else None
