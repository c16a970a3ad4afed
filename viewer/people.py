"""People of a tenant: who they are and what they may do. How they come in is `accounts` and `sign_in`.

A person's role, and whether he may come in at all, is read from his row each time: what an admin changes
counts at once, for his browsers and his streams too.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from typing import TypedDict

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.accounts import LINK_LIFE, UnknownTenant, end_everything_of
from viewer.credentials import SecretToken, hash_of, new_token
from viewer.database import Database
from viewer.listing import Page, one_page, page_of
from viewer.model import Frozen, Role, utcnow
from viewer.rows import new_id
from viewer.tables import PersonRow, SignInLinkRow, TenantRow

_LOGIN = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}", re.ASCII)


class UnknownPerson(Exception):
    """No such person for whoever asks."""


class LoginTaken(Exception):
    """Somebody has that login already, perhaps in another tenant."""


class BadLogin(ValueError):
    """It cannot be a login."""


class Person(Frozen):
    """Times are UTC. `is_fleet_admin`: also for what is every tenant's; given on the host alone."""

    id: str
    tenant_id: str
    login: str
    name: str
    role: Role
    is_fleet_admin: bool
    has_password: bool
    password_changed_at: datetime | None
    oidc_issuer: str | None
    oidc_subject: str | None
    created_by: str
    created_at: datetime
    last_sign_in_at: datetime | None
    disabled_at: datetime | None

    @property
    def principal_id(self) -> str:
        return f"person:{self.id}"


class NewPerson(Frozen):
    """`name` "": the login. The OIDC fields: who he is at his provider."""

    login: str
    name: str = ""
    role: Role
    is_fleet_admin: bool = False
    oidc_issuer: str | None = None
    oidc_subject: str | None = None


class PersonChanges(TypedDict, total=False):
    """A key that is absent stays as it is."""

    name: str
    role: Role
    is_fleet_admin: bool
    disabled: bool


def folded_login(text: str) -> str:
    """The one form of a login, whatever its case. Raises BadLogin.

    ASCII alone: two logins that look the same must be the same.
    """
    login = unicodedata.normalize("NFKC", text).strip().casefold()
    if not _LOGIN.fullmatch(login):
        raise BadLogin(f"{text[:40]!r} is not a login")
    return login


class PeopleStore:
    """One tenant's people."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def add(self, new: NewPerson, *, by: str) -> Person:
        """Raises BadLogin, LoginTaken, viewer.accounts.UnknownTenant."""
        login = folded_login(new.login)
        try:
            with self._database.writing() as orm:
                if orm.get(TenantRow, self._tenant_id) is None:
                    raise UnknownTenant(self._tenant_id)
                row = PersonRow(
                    id=new_id(),
                    tenant_id=self._tenant_id,
                    login=login,
                    name=new.name or login,
                    role=new.role.value,
                    is_fleet_admin=new.is_fleet_admin,
                    oidc_issuer=new.oidc_issuer,
                    oidc_subject=new.oidc_subject,
                    created_by=by,
                    created_at=utcnow(),
                )
                orm.add(row)
                orm.flush()
                detail = {"login": login, "role": row.role, "is_fleet_admin": row.is_fleet_admin}
                _note(orm, row, "person.create", detail)
                return person_of(row)
        except IntegrityError as error:
            raise LoginTaken(login) from error

    def get(self, person_id: str) -> Person:
        """Raises UnknownPerson."""
        with self._database.reading() as orm:
            return person_of(self._own_row(orm, person_id))

    def page(self, cursor: str | None, limit: int) -> Page[Person]:
        """Raises viewer.listing.BadCursor."""
        mine = select(PersonRow).where(PersonRow.tenant_id == self._tenant_id)
        query = one_page(mine, PersonRow.created_at, PersonRow.id, cursor, limit)
        with self._database.reading() as orm:
            return page_of([person_of(row) for row in orm.scalars(query)], limit)

    def change(self, person_id: str, changes: PersonChanges) -> Person:
        """Who is disabled is out at once: his sign-ins and unused links end. Raises UnknownPerson."""
        with self._database.writing() as orm:
            row = self._own_row(orm, person_id)
            if "name" in changes and changes["name"] != row.name:
                row.name = changes["name"]
                _note(orm, row, "person.change", {"name": row.name})
            if "role" in changes and changes["role"].value != row.role:
                _note(orm, row, "person.role", {"role": changes["role"].value, "former_role": row.role})
                row.role = changes["role"].value
            if "is_fleet_admin" in changes and changes["is_fleet_admin"] != row.is_fleet_admin:
                row.is_fleet_admin = changes["is_fleet_admin"]
                _note(orm, row, "person.role", {"is_fleet_admin": row.is_fleet_admin})
            if "disabled" in changes and changes["disabled"] != (row.disabled_at is not None):
                _note(orm, row, "person.disable" if changes["disabled"] else "person.enable")
                row.disabled_at = utcnow() if changes["disabled"] else None
            if row.disabled_at is not None:
                end_everything_of(orm, row.id)
            orm.flush()
            return person_of(row)

    def delete(self, person_id: str) -> None:
        """Raises UnknownPerson."""
        with self._database.writing() as orm:
            row = self._own_row(orm, person_id)
            end_everything_of(orm, row.id)
            _note(orm, row, "person.delete", {"login": row.login})
            orm.delete(row)

    def new_link(self, person_id: str) -> SecretToken:
        """The token of a one-time link by which he sets his password; his former links are void. Raises
        UnknownPerson."""
        token, now = new_token(), utcnow()
        with self._database.writing() as orm:
            row = self._own_row(orm, person_id)
            orm.execute(delete(SignInLinkRow).where(SignInLinkRow.person_id == row.id))
            link = SignInLinkRow(
                sha256=hash_of(token),
                tenant_id=row.tenant_id,
                role=row.role,
                person_id=row.id,
                created_at=now,
                ends_at=now + LINK_LIFE,
            )
            orm.add(link)
            _note(orm, row, "person.link")
        return token

    def _own_row(self, orm: OrmSession, person_id: str) -> PersonRow:
        row = orm.get(PersonRow, person_id)
        if row is None or row.tenant_id != self._tenant_id:
            raise UnknownPerson
        return row


def _note(orm: OrmSession, row: PersonRow, action: audit.Action, detail: audit.Detail | None = None) -> None:
    audit.note(orm, row.tenant_id, action, f"person:{row.id}", detail=detail)


def person_of(row: PersonRow) -> Person:
    kept = {name: getattr(row, name) for name in Person.model_fields if name != "has_password"}
    return Person.model_validate({**kept, "has_password": row.password_hash is not None})
