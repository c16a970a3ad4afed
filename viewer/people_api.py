"""API v1: a tenant's people and keys, for its admins; and for everybody his own sign-ins and password.

Nobody gives more than he has, and nobody takes his own last rights by mistake.
"""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response

from viewer.access import current_sign_in, needs, principal, public_origin
from viewer.accounts import LINK_LIFE, ApiKey, PersonIsOut
from viewer.answers import json_answer
from viewer.attempts import of_password
from viewer.credentials import SecretToken
from viewer.incoming import (
    LOGIN_WANTED,
    ChangePassword,
    ChangePerson,
    CreateKey,
    CreatePerson,
    PageQuery,
    json_body,
    query,
)
from viewer.model import Role, Scope, utcnow
from viewer.openapi import Answer, Operation, describes
from viewer.passwords import TooManyChecks
from viewer.people import (
    BadLogin,
    LoginTaken,
    NewPerson,
    PeopleStore,
    Person,
    PersonChanges,
)
from viewer.problems import FieldError, Problem, role_too_small, too_many_attempts, wrong_fields
from viewer.public import (
    KeyList,
    NewPublicKey,
    NewPublicPerson,
    OneTimeLink,
    PersonList,
    PublicKey,
    PublicPerson,
    PublicSignIn,
    SignInList,
)
from viewer.services import services
from viewer.sign_in import new_password_hash, too_many_checks

people_api = Blueprint("people", __name__, url_prefix="/api/v1")

_manages = needs(Role.ADMIN, scope=Scope.MANAGE)
_anybody = needs(Role.WATCHER, scope=None)


# --- people -----------------------------------------------------------------------------------------


@people_api.get("/people")
@_manages
@describes(
    Operation(
        summary="List people, newest first",
        query=PageQuery,
        answers={200: Answer("One page.", PersonList)},
        problems=(400, 422),
    )
)
def list_people() -> Response:
    asked = query(PageQuery)
    page = _people().page(asked.cursor, asked.limit)
    return json_answer(
        PersonList(items=tuple(_public_person(one) for one in page.items), next_cursor=page.next_cursor)
    )


@people_api.post("/people")
@_manages
@describes(
    Operation(
        summary="Add a person, and make the link by which he sets his password",
        body=CreatePerson,
        answers={201: Answer("He is there; the link is shown this once.", NewPublicPerson)},
        problems=(400, 409, 413, 415, 422),
    )
)
def add_person() -> Response:
    asked = json_body(CreatePerson)
    new = NewPerson(login=asked.login, name=asked.name or "", role=asked.role)
    try:
        person = _people().add(new, by=principal().id)
    except BadLogin as error:
        raise wrong_fields(
            [FieldError(field="login", message=str(error), mend=f"give {LOGIN_WANTED}")]
        ) from error
    except LoginTaken as error:
        raise _login_taken(str(error)) from error
    link = _link(_people().new_link(person.id))
    return json_answer(NewPublicPerson(person=_public_person(person), link=link), 201)


@people_api.get("/people/<person_id>")
@_manages
@describes(
    Operation(summary="One person", answers={200: Answer("The person.", PublicPerson)}, problems=(404,))
)
def get_person(person_id: str) -> Response:
    return json_answer(_public_person(_person(person_id)))


@people_api.patch("/people/<person_id>")
@_manages
@describes(
    Operation(
        summary="Change a person's name or role, shut him out, or let him in again",
        body=ChangePerson,
        answers={200: Answer("What he may do counts at once.", PublicPerson)},
        problems=(400, 404, 409, 413, 415, 422),
    )
)
def change_person(person_id: str) -> Response:
    asked = json_body(ChangePerson)
    person = _changeable(person_id)
    if _is_self(person) and (asked.disabled or asked.role not in (None, person.role)):
        raise _own_rights()
    changes: PersonChanges = {}
    if asked.name is not None:
        changes["name"] = asked.name
    if asked.role is not None:
        changes["role"] = asked.role
    if asked.disabled is not None:
        changes["disabled"] = asked.disabled
    return json_answer(_public_person(_people().change(person.id, changes)))


@people_api.delete("/people/<person_id>")
@_manages
@describes(
    Operation(
        summary="Delete a person",
        answers={204: Answer("He is gone, and his sign-ins and streams end.")},
        problems=(404, 409),
    )
)
def delete_person(person_id: str) -> Response:
    person = _changeable(person_id)
    if _is_self(person):
        raise _own_rights()
    _people().delete(person.id)
    return Response(status=204)


@people_api.post("/people/<person_id>/links")
@_manages
@describes(
    Operation(
        summary="A new link by which a person sets his password",
        answers={201: Answer("It is shown this once; former ones are void.", OneTimeLink)},
        problems=(404, 409),
    )
)
def make_link(person_id: str) -> Response:
    person = _changeable(person_id)
    if person.disabled_at is not None:
        raise Problem(
            409, "disabled", "This person is shut out", "Let him in again first: `disabled: false`."
        )
    return json_answer(_link(_people().new_link(person.id)), 201)


@people_api.get("/people/<person_id>/sign-ins")
@_manages
@describes(
    Operation(
        summary="Where a person is signed in",
        answers={200: Answer("Newest first.", SignInList)},
        problems=(404,),
    )
)
def list_sign_ins_of(person_id: str) -> Response:
    return json_answer(_sign_ins(_person(person_id).principal_id))


@people_api.delete("/people/<person_id>/sign-ins/<sign_in>")
@_manages
@describes(
    Operation(
        summary="End one of a person's sign-ins",
        answers={204: Answer("It has ended, and its streams end.")},
        problems=(404,),
    )
)
def end_sign_in_of(person_id: str, sign_in: str) -> Response:
    return _end(_changeable(person_id).principal_id, sign_in)


# --- keys -------------------------------------------------------------------------------------------


@people_api.get("/keys")
@_manages
@describes(
    Operation(
        summary="List API keys, newest first, those that are over too",
        query=PageQuery,
        answers={200: Answer("One page.", KeyList)},
        problems=(400, 422),
    )
)
def list_keys() -> Response:
    asked = query(PageQuery)
    page = services().store.accounts.keys(principal().tenant, asked.cursor, asked.limit)
    return json_answer(
        KeyList(items=tuple(_public_key(key) for key in page.items), next_cursor=page.next_cursor)
    )


@people_api.post("/keys")
@_manages
@describes(
    Operation(
        summary="Make an API key",
        body=CreateKey,
        answers={201: Answer("Its text is shown this once.", NewPublicKey)},
        problems=(400, 413, 415, 422),
    )
)
def add_key() -> Response:
    asked, who, accounts = json_body(CreateKey), principal(), services().store.accounts
    if not who.role.covers(asked.role):
        raise role_too_small(asked.role, who.role)
    made = accounts.add_key(
        who.tenant,
        asked.role,
        asked.label or "",
        life=timedelta(days=asked.days) if asked.days else None,
        scopes=_scopes_for(asked),
        by=who.id,
    )
    key = _public_key(accounts.key(who.tenant, made.id))
    return json_answer(NewPublicKey(key=key, text=made.text), 201)


@people_api.delete("/keys/<key_id>")
@_manages
@describes(
    Operation(
        summary="Revoke an API key",
        answers={204: Answer("It is over, and so is what it opened.")},
        problems=(404, 409),
    )
)
def revoke_key(key_id: str) -> Response:
    accounts, who = services().store.accounts, principal()
    key = accounts.key(who.tenant, key_id)
    if who.id == f"key:{key.id}":
        raise _own_rights()
    if key.from_settings and key.revoked_at is None:
        name = f"{key.label!r} " if key.label else ""
        raise Problem(
            409,
            "declared-key",
            "This key belongs to the site",
            f"The key {name}({key.id}) is one of the site's own secrets, and a roll-out would bring it back;"
            " replace it there: `python -m inventory.keys rotate`, then roll out.",
        )
    if Scope.FLEET in (key.scopes or ()) and not who.may(Scope.FLEET):
        raise _fleets_own()
    accounts.revoke_key(key.id)
    return Response(status=204)


# --- oneself ----------------------------------------------------------------------------------------


@people_api.get("/me/sign-ins")
@_anybody
@describes(
    Operation(
        summary="Where you are signed in with a browser", answers={200: Answer("Newest first.", SignInList)}
    )
)
def list_own_sign_ins() -> Response:
    return json_answer(_sign_ins(principal().id))


@people_api.delete("/me/sign-ins/<sign_in>")
@_anybody
@describes(
    Operation(
        summary="End one of your sign-ins",
        answers={204: Answer("It has ended, and its streams end.")},
        problems=(404,),
    )
)
def end_own_sign_in(sign_in: str) -> Response:
    return _end(principal().id, sign_in)


@people_api.delete("/me/sign-ins")
@_anybody
@describes(
    Operation(
        summary="End all of your sign-ins but this one",
        answers={204: Answer("They have ended, and their streams end.")},
    )
)
def end_other_sign_ins() -> Response:
    services().store.accounts.end_sign_ins(principal().id, but=current_sign_in())
    return Response(status=204)


@people_api.post("/me/password")
@_anybody
@describes(
    Operation(
        summary="Change your password",
        body=ChangePassword,
        answers={204: Answer("It is changed; your other sign-ins have ended.")},
        problems=(400, 409, 413, 415, 422, 503),
    )
)
def change_password() -> Response:
    asked, who, here = json_body(ChangePassword), principal(), services()
    kind, _, person_id = who.id.partition(":")
    if kind != "person":
        raise Problem(
            409, "no-password", "There is no password", "Only a person has one; you came by a key or a link."
        )
    person = here.store.people(who.tenant).get(person_id)
    stored = here.store.accounts.password_of(person_id).password_hash
    if stored is None:
        raise Problem(
            409,
            "no-password",
            "You have no password",
            "You sign in through your provider. If you want a password too, ask your admin for a link.",
        )
    counted = of_password(person_id)
    seconds = here.store.attempts.begin([counted])
    if seconds:
        raise too_many_attempts(seconds)
    try:
        is_right = here.passwords.check(asked.password, stored).is_right
    except TooManyChecks as error:
        here.store.attempts.take_back([counted])
        raise too_many_checks() from error
    if not is_right:
        raise wrong_fields(
            [
                FieldError(
                    field="password", message="is not your password", mend="give the one that you have now"
                )
            ]
        )
    here.store.attempts.succeeded(counted)
    new_hash = new_password_hash(asked.new_password, login=person.login, field="new_password")
    try:
        here.store.accounts.change_password(person_id, stored, new_hash, keep=current_sign_in())
    except PersonIsOut as error:
        raise Problem(
            409, "changed", "It was changed meanwhile", "Sign in again, and try once more."
        ) from error
    return Response(status=204)


def _public_person(person: Person) -> PublicPerson:
    kept = {name: getattr(person, name) for name in PublicPerson.model_fields if name != "is_disabled"}
    return PublicPerson(**kept, is_disabled=person.disabled_at is not None)


def _public_key(key: ApiKey) -> PublicKey:
    kept = {name: getattr(key, name) for name in PublicKey.model_fields if name != "declared"}
    return PublicKey(**kept, declared=key.from_settings)


# --- what they share --------------------------------------------------------------------------------


def _people() -> PeopleStore:
    return services().store.people(principal().tenant)


def _person(person_id: str) -> Person:
    return _people().get(person_id)


def _changeable(person_id: str) -> Person:
    """A tenant's admin who could give himself a fleet admin's password would be one."""
    person = _person(person_id)
    if person.is_fleet_admin and not principal().may(Scope.FLEET):
        raise _fleets_own()
    return person


def _is_self(person: Person) -> bool:
    return principal().id == person.principal_id


def _scopes_for(asked: CreateKey) -> tuple[Scope, ...] | None:
    """None for all but `fleet`; no more than the maker's own."""
    own = {scope for scope in Scope if principal().may(scope)}
    usual = set(Scope) - {Scope.FLEET}
    if asked.scopes is None:
        return None if usual <= own else tuple(sorted(own & usual))
    lacking = sorted(set(asked.scopes) - own)
    if lacking:
        raise wrong_fields(
            [
                FieldError(
                    field="scopes",
                    message=f"you have not {', '.join(lacking)} yourself",
                    mend=f"give some of {', '.join(sorted(own))}",
                )
            ]
        )
    return asked.scopes


def _link(token: SecretToken) -> OneTimeLink:
    """The token is in the fragment, which no server's log sees."""
    return OneTimeLink(url=password_link(public_origin(), token), expires_at=utcnow() + LINK_LIFE)


def password_link(origin: str, token: SecretToken) -> str:
    return f"{origin}/set-password#token={token}"


def _sign_ins(principal_id: str) -> SignInList:
    current = current_sign_in()
    found = services().store.accounts.sign_ins_of(principal_id)
    return SignInList(
        items=tuple(
            PublicSignIn(**one.model_dump(exclude={"principal_id"}), is_this_one=one.id == current)
            for one in found
        )
    )


def _end(principal_id: str, sign_in: str) -> Response:
    services().store.accounts.end_sign_in(principal_id, sign_in)
    return Response(status=204)


def _login_taken(login: str) -> Problem:
    detail = f"Somebody signs in as {login!r} already; give another login."
    return Problem(409, "login-taken", "This login is taken", detail)


def _own_rights() -> Problem:
    return Problem(
        409,
        "own-rights",
        "That would be your own",
        "You would lose what you do this with; ask another admin, or use `deskfleet-admin` on the control"
        " host.",
    )


def _fleets_own() -> Problem:
    return Problem(
        403,
        "fleet-admin",
        "That is the fleet's",
        "What is for all tenants is changed by a fleet admin, or by `deskfleet-admin` on the control host.",
    )
