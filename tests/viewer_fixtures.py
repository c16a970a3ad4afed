"""A viewer for tests: real settings, a real database in a fresh directory, and people of two tenants.

Alice works for `acme` (operator), Wanda watches there, Ada administers it. Bob works for `bolt` and has
nothing of theirs.
What the worker would do to a session, a test does itself through `store.fleet`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from cryptography.fernet import Fernet
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Table, insert, select

from tests import postgres
from tests.postgres import PostgresServer, running_server
from viewer import audit
from viewer.access import COOKIE
from viewer.accounts import DeclaredKey
from viewer.app import create_app
from viewer.credentials import hash_of, key_id_of, new_key, seal_secret
from viewer.database_address import PostgresAddress
from viewer.fleet_store import DeclaredDesktop
from viewer.migrations import upgrade
from viewer.model import Display, Role, Scope, Session, Status
from viewer.passwords import Passwords
from viewer.services import Services
from viewer.settings import Settings
from viewer.store import NewSession, Store
from viewer.tables import Base

ORIGIN = "http://deskfleet.localhost:8088"
OTHER_ORIGIN = "http://localhost:8088"
QUICK_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""argon2id all the same, but nobody waits for it."""
UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"


BESIDE_THE_VIEWER: dict[str, Any] = {
    "content_domain": "content.deskfleet.localhost",
    "tenants": [{"name": "acme"}, {"name": "bolt"}],
    "services": [
        {"name": "code", "host_name": "code.deskfleet.localhost", "role": "operator", "tenant": "acme"},
        {"name": "wiki", "host_name": "wiki.deskfleet.localhost", "role": "watcher"},
        {"name": "opensandbox", "host_name": "opensandbox.deskfleet.localhost", "role": "operator"},
    ],
}
"""Every kind of name that is not the viewer's own."""


@dataclass(frozen=True)
class Person:
    """Somebody with a key of a tenant; `headers` is what a program of theirs sends."""

    tenant: str
    key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class People:
    alice: Person
    wanda: Person
    ada: Person
    bob: Person


@dataclass(frozen=True)
class Everybody:
    """The people, and how a database knows them: all of SQLite's, or the rows of one that has none."""

    people: People
    sqlite: bytes = field(repr=False)
    rows: dict[Table, list[dict[str, Any]]] = field(repr=False)


def settings_values(directory: Path) -> dict[str, Any]:
    """Valid settings as the deploy would render them, with their secret files below `directory`."""
    secrets = {
        "viewer.key": Fernet.generate_key(),
        "relay.key": Fernet.generate_key(),
        "opensandbox.key": b"box-key",
    }
    for name, value in secrets.items():
        (directory / name).write_bytes(value + b"\n")
    return {
        "fleet_id": "f-test",
        "origins": [ORIGIN, OTHER_ORIGIN],
        "listen": "127.0.0.1:0",
        "database": str(directory / "deskfleet.db"),
        "secret_key_file": str(directory / "viewer.key"),
        "default_image": "desktop",
        "default_resolution": "1280x800",
        "default_ttl_seconds": 3600,
        "max_ttl_seconds": 43200,
        "max_lifetime_seconds": 86400,
        "create_deadline_seconds": 2,
        "hosts": [
            {
                "name": "here",
                "groups": ["sandboxes", "desktops"],
                "opensandbox_url": "http://127.0.0.1:8080",
                "opensandbox_key_file": str(directory / "opensandbox.key"),
                "relay_url": "http://127.0.0.1:8070",
                "relay_key_file": str(directory / "relay.key"),
                "max_desktops": 8,
            }
        ],
        "images": [
            {
                "name": "desktop",
                "uri": "deskfleet/desktop:latest",
                "aliases": ["opensandbox/desktop", "opensandbox/desktop:latest"],
            },
            {"name": "chrome", "uri": "deskfleet/chrome:latest", "devtools": True},
            {"name": "shell", "uri": "deskfleet/base:latest", "display": "none"},
        ],
    }


def all_that_is_in(database: Path | PostgresAddress) -> bytes:
    """Whatever the database holds, as it lies there: to look for what must not be in it."""
    if isinstance(database, PostgresAddress):
        return postgres.all_that_is_in(database)
    return b"".join(path.read_bytes() for path in database.parent.glob(f"{database.name}*"))


def write_settings(values: dict[str, Any], path: Path) -> Path:
    """The values as a TOML file."""
    path.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in values.items()))
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


@pytest.fixture(autouse=True)
def nobody_acts() -> Iterator[None]:
    """Whoever a test acted for, the next one does not: a command that it runs in its own process says so for
    all that follows there."""
    program = audit._program
    yield
    audit._program = program
    audit.over()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One for all tests of this process that want it."""
    with running_server() as server:
        yield server


@pytest.fixture
def database_values(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where the viewer's database is, as its settings say it: SQLite's, unless PostgreSQL is wanted."""
    if not postgres.IS_WANTED:
        return {"database": str(tmp_path / "deskfleet.db")}
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return {"database": server.shared().url, "state_directory": str(tmp_path)}


@pytest.fixture
def new_database(tmp_path: Path, request: pytest.FixtureRequest) -> Path | PostgresAddress:
    """A database without our tables."""
    if not postgres.IS_WANTED:
        return tmp_path / "new.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new()


@pytest.fixture
def settings(tmp_path: Path, database_values: dict[str, Any]) -> Settings:
    return Settings.model_validate({**settings_values(tmp_path), **BESIDE_THE_VIEWER, **database_values})


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty database at the newest step; a copy of it is much quicker than the steps."""
    path = tmp_path_factory.mktemp("database") / "newest.db"
    upgrade(path)
    return path.read_bytes()


@pytest.fixture
def store(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Store]:
    """Empty, but for the people where a test has them."""
    everybody: Everybody | None = None
    if "people" in request.fixturenames:
        everybody = request.getfixturevalue("everybody")
    if isinstance(settings.database, Path):
        empty: bytes = request.getfixturevalue("migrated_database")
        settings.database.write_bytes(everybody.sqlite if everybody else empty)
    opened = Store(settings.database)
    if everybody and isinstance(settings.database, PostgresAddress):
        with opened._database.writing() as orm:
            for table, rows in everybody.rows.items():
                orm.execute(insert(table), rows)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def everybody(migrated_database: bytes, tmp_path_factory: pytest.TempPathFactory) -> Everybody:
    """The people of all tests of this process, declared once as the deploy declares them."""
    people = People(
        alice=Person("acme", new_key().text),
        wanda=Person("acme", new_key().text),
        ada=Person("acme", new_key().text),
        bob=Person("bolt", new_key().text),
    )
    roles = {
        people.alice: Role.OPERATOR,
        people.wanda: Role.WATCHER,
        people.ada: Role.ADMIN,
        people.bob: Role.OPERATOR,
    }
    keys = [
        DeclaredKey(
            id=key_id_of(person.key) or "",
            tenant=person.tenant,
            role=role,
            sha256=hash_of(person.key),
            label="",
            # As the site's own admin key.
            scopes=tuple(Scope) if role is Role.ADMIN else None,
        )
        for person, role in roles.items()
    ]

    def declare(store: Store) -> None:
        store.accounts.sync_declared(["acme", "bolt"], keys)

    path = tmp_path_factory.mktemp("people") / "people.db"
    return everybody_after(declare, path, first=migrated_database, people=people)


def everybody_after(
    declare: Callable[[Store], None], path: Path, *, first: bytes, people: People
) -> Everybody:
    """The people, as the SQLite database `path` knows them that was `first` before `declare`."""
    path.write_bytes(first)
    store = Store(path)
    # In nobody's name, whatever test comes first and whoever acts in it.
    Context().run(declare, store)
    rows = _rows_of(store)
    store.backup(path.with_suffix(".copy"))
    store.close()
    return Everybody(people, path.with_suffix(".copy").read_bytes(), rows)


@pytest.fixture
def people(store: Store, everybody: Everybody) -> People:
    """Just as the declaration left them: nearly every test needs them, and `store` brings them."""
    return everybody.people


def _rows_of(store: Store) -> dict[Table, list[dict[str, Any]]]:
    """All that it holds, in an order in which it may be written, but the numbers that a database gives by
    itself."""
    with store._database.reading() as orm:
        found = {
            table: [
                {
                    name: value
                    for name, value in row.items()
                    if not (name == "id" and table.c.id.autoincrement is True)
                }
                for row in orm.execute(select(*table.columns)).mappings()
            ]
            for table in Base.metadata.sorted_tables
        }
    return {table: rows for table, rows in found.items() if rows}


@pytest.fixture(scope="session")
def made_apps() -> list[Flask]:
    """The app of this process, once there is one: its hundred routes take longer than most tests."""
    return []


@pytest.fixture
def app(settings: Settings, store: Store, people: People, made_apps: list[Flask]) -> Iterator[Flask]:
    """The viewer on this test's settings and store, which are all that differs between two of them."""
    if made_apps:
        made_apps[0].extensions["deskfleet"] = Services(settings, store)
    else:
        made_apps.append(create_app(settings, store))
    made = made_apps[0]
    made.extensions["deskfleet"].passwords = Passwords(QUICK_HASHER)
    yield made
    made.extensions["deskfleet"].close()


class ViewerClient(FlaskClient):
    """Asks at the canonical origin, as the edge passes it on; cookies are sent by hand."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("base_url", ORIGIN)
        return super().open(*args, **kwargs)

    # Typed loosely, so that a test may say `answer.json["id"]`.
    def get(self, *args: Any, **kwargs: Any) -> Any:
        return super().get(*args, **kwargs)

    def post(self, *args: Any, **kwargs: Any) -> Any:
        return super().post(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        return super().delete(*args, **kwargs)

    def put(self, *args: Any, **kwargs: Any) -> Any:
        return super().put(*args, **kwargs)

    def patch(self, *args: Any, **kwargs: Any) -> Any:
        return super().patch(*args, **kwargs)


@pytest.fixture
def client(app: Flask) -> ViewerClient:
    return ViewerClient(app, app.response_class, use_cookies=False)


def put_relay(app: Flask, relay: object) -> None:
    """In place of the client of the relay on host `here`, for this test."""
    app.extensions["deskfleet"]._relays = {"here": relay}


def sign_in(store: Store, person: Person) -> dict[str, str]:
    """The Cookie header of a browser in which that person is signed in."""
    token = store.accounts.sign_in_with_key(person.key)
    return {"Cookie": f"{COOKIE}={token}"}


def new_session(store: Store, person: Person, **values: Any) -> Session:
    defaults: dict[str, Any] = {
        "image": "desktop",
        "resolution": "1280x800",
        "ttl_seconds": 3600,
        "created_by": "test",
    }
    return store.tenant(person.tenant).create(NewSession(**{**defaults, **values})).session


def kasmvnc_desktop(store: Store, person: Person, *, name: str = "studio") -> Session:
    """A persistent desktop of that person's tenant that shows itself by KasmVNC's own page, running."""
    desktop = store.fleet.upsert_desktop(
        DeclaredDesktop(
            name=name, tenant=person.tenant, host="here", backend="kasmvnc", resolution="1280x800"
        )
    )
    return store.fleet.transition(desktop.id, Status.RUNNING, display=Display.KASMVNC, backend="kasmvnc")


def running_session(store: Store, person: Person, *, sandbox_id: str = "box-1", **values: Any) -> Session:
    """A session as the worker leaves it when the first frame has been seen."""
    session = new_session(store, person, **values)
    return store.fleet.transition(
        session.id,
        Status.RUNNING,
        host="here",
        sandbox_id=sandbox_id,
        vnc_port=40001,
        expires_at=session.created_at + timedelta(hours=1),
    )


def session_with_password(store: Store, person: Person, settings: Settings, password: str) -> Session:
    """The same, with the password that its VNC server asks for, sealed as the worker seals it."""
    sealed = seal_secret(password, settings.secret_key)
    return running_session(store, person, vnc_password_sealed=sealed)


def waiting(store: Store) -> list[Session]:
    """Sessions that nobody has made a sandbox for, oldest first."""
    return [row for row in store.fleet.live_sessions() if row.sandbox_id is None]
