"""`deskfleet-admin`: tenants, people, keys, sign-in links and backups, by hand on the control host."""

from __future__ import annotations

import argparse
import os
import pwd
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from viewer import admin_audit, admin_oidc, admin_people, audit
from viewer.accounts import TenantExists, UnknownKey, UnknownTenant
from viewer.credentials import seal_secret
from viewer.database import DatabaseAway, DatabaseBusy
from viewer.database_address import PostgresAddress
from viewer.incoming import MOST_DAYS
from viewer.migrations import upgrade
from viewer.model import Role, Scope
from viewer.moving import MOVED, MoveRefused, move
from viewer.postgres import DumpFailed, first_line
from viewer.settings import Settings, SettingsError, load_settings
from viewer.signatures import new_webhook_secret
from viewer.store import Store
from viewer.webhook_secrets import (
    MOST_SECRETS,
    NoSuchTenant,
    SecretNotFound,
    SecretOver,
    TooManySecrets,
    WebhookSecret,
    events_address,
)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)

BY = "host"
"""Whose doing it is: whoever is root on the control host. The audit log has his name."""


class AdminError(Exception):
    """What was asked cannot be done; the text is one sentence."""


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    audit.acts_as(f"host:{_user()}")
    try:
        settings = load_settings(check_secrets=False)
        if isinstance(settings.database, Path) and not settings.database.is_file():
            raise AdminError(f"there is no database at {settings.database}; start the viewer first")
        if asked.noun == "move-database":
            print(_move(asked.url, settings))
            return
        upgrade(settings.database)
        store = Store(settings.database)
        try:
            print(_do(asked, store, settings))
        finally:
            store.close()
    except (AdminError, SettingsError) as error:
        print(f"deskfleet-admin: {error}", file=sys.stderr)
        sys.exit(2)
    except (DBAPIError, DatabaseAway, DatabaseBusy) as error:
        why = first_line(getattr(error, "orig", None) or error)
        print(f"deskfleet-admin: the database cannot be used: {why}", file=sys.stderr)
        sys.exit(2)


def _user() -> str:
    """Who runs this, as the machine knows him and not as his environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deskfleet-admin", description=__doc__)
    nouns = parser.add_subparsers(dest="noun", required=True)

    tenant = nouns.add_parser("tenant", help="add a tenant").add_subparsers(dest="verb", required=True)
    tenant.add_parser("add", help="add it and print its first operator key, once").add_argument("name")

    key = nouns.add_parser("key", help="add or revoke API keys").add_subparsers(dest="verb", required=True)
    add = key.add_parser("add", help="print a new key, once")
    add.add_argument("--tenant", required=True)
    add.add_argument("--role", choices=list(Role), type=Role, required=True)
    add.add_argument("--label", default="")
    add.add_argument(
        "--scope",
        choices=list(Scope),
        type=Scope,
        action="append",
        help="what it may be used for, once for each; without, all but fleet",
    )
    add.add_argument("--days", type=_days, help="after so many days it is good no more; without, never")
    listed = key.add_parser("list", help="all keys, without their texts")
    listed.add_argument("--tenant")
    key.add_parser("revoke", help="end a key and every sign-in made with it").add_argument("id")

    link = nouns.add_parser("signin-link", help="print a one-time sign-in link, good for 24 hours")
    link.add_argument("--tenant", required=True)
    link.add_argument("--role", choices=list(Role), type=Role, default=Role.OPERATOR)
    link.add_argument("--fleet", action="store_true", help="also for what is every tenant's")

    admin_people.add_people(nouns.add_parser("person", help="who signs in by name"))
    admin_people.add_sign_ins(nouns.add_parser("sign-ins", help="where somebody is signed in"))
    admin_people.add_unlock(
        nouns.add_parser("unlock", help="let somebody try again at once after wrong ones")
    )

    _add_audit(nouns.add_parser("audit", help="export, verify and prune the audit log"))
    _add_webhook_secret(
        nouns.add_parser("webhook-secret", help="what outside systems sign their events with")
    )
    oidc = nouns.add_parser("oidc", help="try the sign-in through the OpenID provider")
    tries = oidc.add_subparsers(dest="verb", required=True)
    tries.add_parser("check", help="ask the provider all that a sign-in needs, without one")
    tries.add_parser("rules", help="read claims as JSON, and say what the rules make of whoever has them")

    backup = nouns.add_parser("backup", help="copy the live database into one consistent file")
    backup.add_argument("file", type=Path)

    moving = nouns.add_parser("move-database", help="copy SQLite's file into PostgreSQL and put it aside")
    moving.add_argument("url", help="such as postgresql://user@host/database?passfile=/path")
    return parser


def _add_audit(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    export = verbs.add_parser("export", help="write it into a new file that only you can read")
    export.add_argument("--to", type=Path, metavar="FILE", required=True)
    export.add_argument("--format", choices=("ndjson", "csv"), default="ndjson")
    export.add_argument("--tenant", help="only this one's; without, everybody's")
    verbs.add_parser("heads", help="print how far each log goes; kept elsewhere, it proves more than the log")
    verify = verbs.add_parser("verify", help="say which entries were changed, taken out or put in by hand")
    verify.add_argument("--file", type=Path, help="an export (NDJSON), instead of the database")
    verify.add_argument("--kept", type=Path, metavar="FILE", help="what `audit heads` printed on another day")
    prune = verbs.add_parser("prune", help="export old entries into a new file and take them out")
    prune.add_argument(
        "--before", type=_day, metavar="DATE", required=True, help="such as 2026-01-31, in UTC"
    )
    prune.add_argument("--to", type=Path, metavar="FILE", required=True)
    prune.add_argument("--tenant", help="only this one's; without, everybody's")


def _add_webhook_secret(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("add", help="print a new one and where its events go, once")
    made.add_argument("--tenant", required=True)
    made.add_argument("--label", required=True, help="such as the name of what sends")
    listed = verbs.add_parser("list", help="list a tenant's; none is shown itself")
    listed.add_argument("--tenant", required=True)
    rotated = verbs.add_parser("rotate", help="print a successor; the old one is good for a day still")
    rotated.add_argument("id")
    verbs.add_parser("revoke", help="end one at once").add_argument("id")


def _do(asked: argparse.Namespace, store: Store, settings: Settings) -> str:
    try:
        match (asked.noun, getattr(asked, "verb", None)):
            case ("audit", _):
                return admin_audit.do(asked, store.audit)
            case ("tenant", "add"):
                return _add_tenant(store, asked.name)
            case ("key", "add"):
                life = timedelta(days=asked.days) if asked.days else None
                return store.accounts.add_key(
                    asked.tenant,
                    asked.role,
                    asked.label,
                    life=life,
                    scopes=asked.scope,
                    by=BY,
                ).text
            case ("key", "list"):
                tenants = [asked.tenant] if asked.tenant else store.accounts.tenants()
                return "\n".join(admin_people.keys_listed(store, tenants)) or "no keys yet"
            case ("person", _):
                return admin_people.do_person(asked, store, settings.canonical_origin)
            case ("sign-ins", _):
                return admin_people.do_sign_ins(asked, store)
            case ("unlock", _):
                return admin_people.unlock(asked, store)
            case ("key", "revoke"):
                store.accounts.revoke_key(asked.id)
                return f"key {asked.id} is revoked"
            case ("signin-link", _):
                token = store.accounts.new_link(asked.tenant, asked.role, is_fleet_admin=asked.fleet)
                return f"{settings.canonical_origin}/signin#token={token}"
            case ("webhook-secret", verb):
                return _webhook_secret(asked, str(verb), store, settings)
            case ("oidc", verb):
                return admin_oidc.do(verb, settings)
            case _:
                return _back_up(store, asked.file)
    except UnknownTenant as error:
        known = ", ".join(store.accounts.tenants()) or "none yet"
        raise AdminError(f"there is no tenant {error}; known: {known}") from error
    except (admin_audit.AuditError, admin_oidc.OidcError) as error:
        raise AdminError(str(error)) from error
    except admin_people.PeopleError as error:
        raise AdminError(str(error)) from error
    except UnknownKey as error:
        raise AdminError(f"there is no key {error}; give the 8 letters after df_") from error


def _webhook_secret(asked: argparse.Namespace, verb: str, store: Store, settings: Settings) -> str:
    secrets = store.webhook_secrets
    if verb == "list":
        if asked.tenant not in store.accounts.tenants():
            raise UnknownTenant(asked.tenant)
        return "\n".join(map(_line_of, secrets.list(asked.tenant))) or "there are none"
    try:
        if verb == "revoke":
            secrets.revoke(secrets.tenant_of(asked.id), asked.id)
            return f"webhook secret {asked.id} is revoked"
        text = new_webhook_secret()
        sealed = seal_secret(text, settings.secret_key)
        if verb == "add":
            made = secrets.add(asked.tenant, asked.label, sealed, by=BY)
        else:
            made = secrets.rotate(secrets.tenant_of(asked.id), asked.id, sealed, by=BY)
    except NoSuchTenant as error:
        raise UnknownTenant(asked.tenant) from error
    except SecretNotFound as error:
        raise AdminError(
            f"there is no webhook secret {asked.id}; `webhook-secret list` shows them"
        ) from error
    except SecretOver as error:
        raise AdminError(f"webhook secret {asked.id} is revoked or was rotated before") from error
    except TooManySecrets as error:
        raise AdminError(f"there are {MOST_SECRETS} good ones already; revoke one") from error
    return f"{text}\n{events_address(settings.canonical_origin, made.id)}"


def _line_of(one: WebhookSecret) -> str:
    over = (
        "revoked" if one.revoked_at else f"ends {one.ends_at:%Y-%m-%d %H:%M} UTC" if one.ends_at else "good"
    )
    return f"{one.id}  {over}  {one.label}"


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days; give 1 to {MOST_DAYS}")
    return int(text)


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; give one such as 2026-01-31") from error


def _add_tenant(store: Store, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise AdminError(f"{name!r} is no tenant's name; give 1 to 31 of a-z, 0-9 and -, a letter first")
    try:
        store.accounts.add_tenant(name)
    except TenantExists as error:
        raise AdminError(
            f"there is a tenant {name} already; `key add --tenant {name}` gives it another key"
        ) from error
    return store.accounts.add_key(name, Role.OPERATOR, "first operator").text


def _move(url: str, settings: Settings) -> str:
    source = settings.database
    if not isinstance(source, Path):
        raise AdminError("the fleet's database is in PostgreSQL already")
    try:
        rows = move(source, PostgresAddress(url))
    except ValueError as error:
        raise AdminError(f"the URL {error}") from error
    except MoveRefused as error:
        raise AdminError(str(error)) from error
    return f"{rows} rows are there; {source}{MOVED} is what was. Now roll out with the new settings.database"


def _back_up(store: Store, target: Path) -> str:
    """Write a file that only its owner can read: it holds hashes and sealed passwords."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        store.backup(target)
    except FileExistsError as error:
        raise AdminError(f"{target} exists already; give a new name") from error
    except DumpFailed as error:
        target.unlink()
        raise AdminError(str(error)) from error
    except OSError as error:
        raise AdminError(f"{target} cannot be written ({error.strerror})") from error
    return f"{target}: {target.stat().st_size} bytes"


if __name__ == "__main__":
    main()
