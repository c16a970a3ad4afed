"""People who come through the provider: found by issuer and subject, made and changed by the rules.

A rule's tenant is never followed to a person of another one: what belongs to one tenant would become another
one's with him. And a login is never reason enough: the provider's names and ours may be different people.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session as OrmSession

from viewer import audit
from viewer.accounts import end_everything_of
from viewer.credentials import hash_of
from viewer.database import Database
from viewer.model import utcnow
from viewer.oidc import failures
from viewer.oidc.arrivals import Arrival, Place
from viewer.oidc.attempts import LIFE_SECONDS
from viewer.oidc.failures import Reason
from viewer.people import BadLogin, folded_login
from viewer.rows import new_id
from viewer.tables import OidcStateRow, PersonRow, SignInRow

BY = "oidc"
"""Who made or changed a person by the rules, in his row and in the audit log."""
_LONGEST_NAME = 200


class OidcPeople:
    def __init__(self, database: Database) -> None:
        self._database = database

    def knows(self, principal_id: str, issuer: str) -> bool:
        """Is this somebody who comes through that provider?"""
        kind, _, person_id = principal_id.partition(":")
        with self._database.reading() as orm:
            row = orm.get(PersonRow, person_id) if kind == "person" else None
        return row is not None and row.oidc_issuer == issuer

    def use_state(self, state: str) -> bool:
        """Is it the first time? Asked before the code is redeemed, of whichever viewer gets the way back."""
        now = utcnow()
        with self._database.writing() as orm:
            orm.execute(delete(OidcStateRow).where(OidcStateRow.ends_at <= now))
            if orm.get(OidcStateRow, hash_of(state)) is not None:
                return False
            orm.add(OidcStateRow(sha256=hash_of(state), ends_at=now + timedelta(seconds=LIFE_SECONDS)))
        return True

    def admit(self, who: Arrival, place: Place) -> str:
        """The id of the person that he is here, with the role that the rules give him now. SignInFailed where
        he may not come in."""
        with self._database.writing() as orm:
            row = _row_of(orm, who.issuer, who.subject)
            if row is None:
                row = _made(orm, who, place)
            elif row.disabled_at is not None:
                raise failures.disabled()
            elif row.tenant_id == place.tenant:
                _give_role(orm, row, place)
            if row.tenant_id == place.tenant:
                return row.id
        self.shut_out(who.issuer, who.subject, Reason.OTHER_TENANT)
        raise failures.other_tenant()

    def shut_out(self, issuer: str, subject: str, reason: Reason) -> None:
        """The rules do not let him in any more: what he has open ends. Nothing for somebody unknown."""
        with self._database.writing() as orm:
            row = _row_of(orm, issuer, subject)
            if row is None or not _has_sign_ins(orm, row.id):
                return
            end_everything_of(orm, row.id)
            audit.note(
                orm,
                row.tenant_id,
                "sign_in.end",
                f"person:{row.id}",
                detail={"reason": reason.value},
                principal=BY,
            )

    def note_failure(self, reason: Reason, *, issuer: str, subject: str | None) -> None:
        """subject: where the provider has shown who it was."""
        with self._database.writing() as orm:
            row = None if subject is None else _row_of(orm, issuer, subject)
            audit.note(
                orm,
                audit.NO_TENANT if row is None else row.tenant_id,
                "sign_in.failed",
                None if row is None else f"person:{row.id}",
                outcome="refused",
                detail={"via": BY, "reason": reason.value, **({"subject": subject} if subject else {})},
            )


def _row_of(orm: OrmSession, issuer: str, subject: str) -> PersonRow | None:
    return orm.scalar(
        select(PersonRow).where(PersonRow.oidc_issuer == issuer, PersonRow.oidc_subject == subject)
    )


def _made(orm: OrmSession, who: Arrival, place: Place) -> PersonRow:
    try:
        login = folded_login(who.login or "")
    except BadLogin as error:
        raise failures.claim_missing(who.provider, who.login_claim) from error
    if orm.scalar(select(exists().where(PersonRow.login == login))):
        raise failures.login_taken(login)
    row = PersonRow(
        id=new_id(),
        tenant_id=place.tenant,
        login=login,
        name=_shown(who.name) or login,
        role=place.role.value,
        oidc_issuer=who.issuer,
        oidc_subject=who.subject,
        created_by=BY,
        created_at=utcnow(),
    )
    orm.add(row)
    orm.flush()
    detail = {"login": login, "role": row.role, "issuer": who.issuer, "subject": who.subject}
    audit.note(orm, row.tenant_id, "person.create", f"person:{row.id}", detail=detail, principal=BY)
    return row


def _give_role(orm: OrmSession, row: PersonRow, place: Place) -> None:
    if row.role == place.role.value:
        return
    detail = {"from": row.role, "to": place.role.value}
    row.role = place.role.value
    audit.note(orm, row.tenant_id, "person.role", f"person:{row.id}", detail=detail, principal=BY)


def _has_sign_ins(orm: OrmSession, person_id: str) -> bool:
    return bool(orm.scalar(select(exists().where(SignInRow.person_id == person_id))))


def _shown(name: str | None) -> str:
    """As a page may show it."""
    return "".join(letter for letter in name or "" if letter.isprintable()).strip()[:_LONGEST_NAME]
