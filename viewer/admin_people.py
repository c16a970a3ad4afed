"""`deskfleet-admin` and people: who may come in, from the host's command line, also when nobody can any more.

No password is ever an argument: whoever is added, or is to come in again, gets a one-time link.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime

from viewer.accounts import UnknownSignIn
from viewer.attempts import of_address, of_login
from viewer.incoming import LOGIN_WANTED
from viewer.model import Role, Scope
from viewer.people import BadLogin, LoginTaken, NewPerson, Person, UnknownPerson, folded_login
from viewer.store import Store

_PAGE = 200


class PeopleError(Exception):
    """What was asked cannot be done; the text is one sentence."""


def add_people(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("add", help="add somebody, and print the link by which he sets his password")
    add.add_argument("login", help=LOGIN_WANTED)
    add.add_argument("--tenant", required=True)
    add.add_argument("--role", choices=list(Role), type=Role, required=True)
    add.add_argument("--name", default="", help="what he is called; without, his login")
    add.add_argument("--fleet", action="store_true", help="also for what is every tenant's")
    listed = verbs.add_parser("list", help="everybody, or one tenant's")
    listed.add_argument("--tenant")
    role = verbs.add_parser("role", help="give somebody another role")
    role.add_argument("login")
    role.add_argument("role", choices=list(Role), type=Role)
    fleet = role.add_mutually_exclusive_group()
    fleet.add_argument("--fleet", action="store_true", default=None, help="also for what is every tenant's")
    fleet.add_argument("--no-fleet", dest="fleet", action="store_false", help="for his tenant alone")
    for name, what in (
        ("disable", "shut somebody out: his sign-ins and links end"),
        ("enable", "let him in again"),
        ("link", "print a new link by which he sets his password; former ones are void"),
        ("delete", "delete somebody"),
    ):
        verbs.add_parser(name, help=what).add_argument("login")


def add_sign_ins(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="where somebody is signed in").add_argument("login")
    end = verbs.add_parser("end", help="end one of his sign-ins, or all")
    end.add_argument("login")
    end.add_argument("id", nargs="?", help="of the list; without, all of them end")


def add_unlock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("login", help="or an address, with --address")
    parser.add_argument("--address", action="store_true", help="let an address try again")


def do_person(asked: argparse.Namespace, store: Store, origin: str) -> str:
    if asked.verb == "add":
        return _add(asked, store, origin)
    if asked.verb == "list":
        return "\n".join(_listed(store, asked.tenant)) or "nobody yet"
    person = _person(store, asked.login)
    people = store.people(person.tenant_id)
    match asked.verb:
        case "role":
            changed = people.change(person.id, {"role": asked.role})
            if asked.fleet is not None:
                changed = people.change(person.id, {"is_fleet_admin": asked.fleet})
            return _line(changed)
        case "disable" | "enable":
            return _line(people.change(person.id, {"disabled": asked.verb == "disable"}))
        case "delete":
            people.delete(person.id)
            return f"{person.login} is deleted"
        case _:
            if person.disabled_at is not None:
                raise PeopleError(f"{person.login} is disabled; `person enable {person.login}` lets him in")
            return f"{origin}/set-password#token={people.new_link(person.id)}"


def do_sign_ins(asked: argparse.Namespace, store: Store) -> str:
    person = _person(store, asked.login)
    if asked.verb == "list":
        found = store.accounts.sign_ins_of(person.principal_id)
        lines = [
            f"{one.id}  since {_when(one.created_at)}  used {_when(one.used_at)}"
            f"  {one.address or '-'}  {one.user_agent or '-'}"
            for one in found
        ]
        return "\n".join(lines) or f"{person.login} is signed in nowhere"
    if asked.id is None:
        return f"{store.accounts.end_sign_ins(person.principal_id)} sign-ins have ended"
    try:
        store.accounts.end_sign_in(person.principal_id, asked.id)
    except UnknownSignIn as error:
        raise PeopleError(
            f"{person.login} has no sign-in {error}; `sign-ins list {person.login}` shows them"
        ) from error
    return f"sign-in {asked.id} has ended"


def unlock(asked: argparse.Namespace, store: Store) -> str:
    if asked.address:
        was = store.attempts.unlock(of_address(asked.login))
    else:
        person = _person(store, asked.login)
        was = store.attempts.unlock(of_login(person.login), person_id=person.id, tenant_id=person.tenant_id)
    return f"{asked.login} may try again" if was else f"{asked.login} has no failed attempts"


def keys_listed(store: Store, tenants: Sequence[str]) -> Iterator[str]:
    for tenant in tenants:
        cursor: str | None = None
        while True:
            page = store.accounts.keys(tenant, cursor, _PAGE)
            for key in page.items:
                scopes = ",".join(key.scopes) if key.scopes is not None else "all but fleet"
                end = (
                    "revoked" if key.revoked_at else f"until {_when(key.ends_at)}" if key.ends_at else "good"
                )
                used = _when(key.last_used_at) if key.last_used_at else "never"
                declared = "  of the site" if key.from_settings else ""
                yield (
                    f"{key.id}  {key.tenant_id}  {key.role}  {scopes}  {end}  used {used}"
                    f"  {key.label or '-'}{declared}"
                )
            cursor = page.next_cursor
            if cursor is None:
                break


def _add(asked: argparse.Namespace, store: Store, origin: str) -> str:
    new = NewPerson(login=asked.login, name=asked.name, role=asked.role, is_fleet_admin=asked.fleet)
    people = store.people(asked.tenant)
    try:
        person = people.add(new, by="host")
    except BadLogin as error:
        raise PeopleError(f"{error}; give {LOGIN_WANTED}") from error
    except LoginTaken as error:
        raise PeopleError(
            f"somebody signs in as {error} already; `person link {error}` lets him set his password"
        ) from error
    return f"{origin}/set-password#token={people.new_link(person.id)}"


def _person(store: Store, login: str) -> Person:
    try:
        found = store.accounts.login(folded_login(login))
    except BadLogin as error:
        raise PeopleError(f"{error}; give {LOGIN_WANTED}") from error
    if found.person_id is None or found.tenant_id is None:
        raise PeopleError(f"nobody signs in as {login}; `person list` shows who does")
    try:
        return store.people(found.tenant_id).get(found.person_id)
    except UnknownPerson as error:
        raise PeopleError(f"nobody signs in as {login} any more") from error


def _listed(store: Store, tenant: str | None) -> Iterator[str]:
    for name in [tenant] if tenant else store.accounts.tenants():
        cursor: str | None = None
        while True:
            page = store.people(name).page(cursor, _PAGE)
            yield from map(_line, page.items)
            cursor = page.next_cursor
            if cursor is None:
                break


def _line(person: Person) -> str:
    ways = [
        word for word, is_so in (("password", person.has_password), ("oidc", person.oidc_subject)) if is_so
    ]
    fleet = f" + {Scope.FLEET}" if person.is_fleet_admin else ""
    state = "disabled" if person.disabled_at else "may come in"
    return (
        f"{person.login}  {person.tenant_id}  {person.role}{fleet}  {state}"
        f"  by {', '.join(ways) or 'nothing yet'}  {person.name}"
    )


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}Z"
