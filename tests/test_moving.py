"""From SQLite's file to PostgreSQL, and copies of what is there while others write."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.postgres import PostgresServer
from tests.viewer_fixtures import settings_values
from viewer.bootstrap import prepare_database
from viewer.database_address import PostgresAddress
from viewer.migrations import upgrade
from viewer.model import Role, Status
from viewer.moving import MoveRefused, move
from viewer.settings import Settings, SettingsError
from viewer.store import NewSession, Store
from viewer.tables import Base

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

NEW = NewSession(
    image="desktop",
    resolution="1280x800",
    task_id="t",
    agent_id="a",
    labels={"a": "é"},
    ttl_seconds=60,
    created_by="x",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database that has been used."""
    path = tmp_path / "deskfleet.db"
    upgrade(path)
    store = Store(path)
    store.accounts.add_tenant("acme")
    key = store.accounts.add_key("acme", Role.ADMIN)
    store.accounts.sign_in_with_key(key.text)
    for number in range(30):
        made = store.tenant("acme").create(NEW).session
        if number % 3 == 0:
            store.fleet.transition(made.id, Status.TERMINATED)
    store.close()
    return path


@pytest.fixture
def address(postgres_server: PostgresServer) -> PostgresAddress:
    return postgres_server.new()


@pytest.fixture
def moved(address: PostgresAddress, file: Path) -> Iterator[Store]:
    move(file, address)
    store = Store(address)
    yield store
    store.close()


def rows_of(address: Path | PostgresAddress) -> dict[str, set[str]]:
    store, found = Store(address), dict[str, set[str]]()
    with store._database.reading() as orm:
        for table in Base.metadata.sorted_tables:
            found[table.name] = {str(dict(row)) for row in orm.execute(select(table)).mappings()}
    store.close()
    return found


def test_every_row_arrives_as_it_was_and_ids_are_counted_on(file: Path, address: PostgresAddress) -> None:
    before = rows_of(file)
    assert move(file, address) == sum(map(len, before.values())) > 100
    assert rows_of(address) == before
    assert not file.exists()
    assert rows_of(file.with_name("deskfleet.db.moved")) == before
    store = Store(address)
    last = store.fleet.last_event_id()
    store.tenant("acme").create(NEW)
    assert [event.id for event in store.fleet.events_after(last, 10)] == [last + 1]
    store.close()


def test_move_is_refused_while_somebody_has_the_file_and_into_what_is_not_empty(
    file: Path, address: PostgresAddress
) -> None:
    store = Store(file)
    store.accounts.tenants()
    with pytest.raises(MoveRefused, match="stop deskfleet-viewer and deskfleet-worker first"):
        move(file, address)
    store.close()
    upgrade(address)
    used = Store(address)
    used.accounts.add_tenant("bolt")
    before = rows_of(address)
    with pytest.raises(MoveRefused, match=r"has rows in .* already"):
        move(file, address)
    used.close()
    assert rows_of(address) == before
    assert file.exists()


def test_what_postgresql_cannot_hold_stops_the_move_and_nothing_of_it_is_done(
    file: Path, address: PostgresAddress
) -> None:
    store = Store(file)
    store.tenant("acme").create(NEW.model_copy(update={"agent_id": "nul \x00"}))
    store.close()
    with pytest.raises(MoveRefused, match="could not be copied"):
        move(file, address)
    assert file.exists()
    assert not any(rows_of(address).values())


def test_viewer_does_not_begin_with_empty_tables_beside_a_full_file(
    file: Path, address: PostgresAddress, tmp_path: Path
) -> None:
    values = {**settings_values(tmp_path), "database": address.url, "state_directory": str(tmp_path)}
    settings = Settings.model_validate(values)
    with pytest.raises(SettingsError, match="deskfleet-admin move-database"):
        prepare_database(settings)
    move(file, address)
    prepare_database(settings)


def test_copy_made_while_others_write_is_whole_and_can_be_restored(
    moved: Store, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            moved.tenant("acme").create(NEW)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        moved.wait_for_change(20)
        moved.backup(tmp_path / "copy.dump")
    finally:
        stop.set()
        writer.join()
    elsewhere = postgres_server.new()
    restore = [
        "pg_restore",
        "--no-owner",
        "--exit-on-error",
        "--dbname",
        elsewhere.url,
        str(tmp_path / "copy.dump"),
    ]
    subprocess.run(restore, check=True, capture_output=True)
    upgrade(elsewhere)
    copy = Store(elsewhere)
    now = {session.id for session in moved.fleet.live_sessions()}
    then = {session.id for session in copy.fleet.live_sessions()}
    assert 20 < len(then) <= len(now)
    assert then <= now
    # Of one moment: each session has its events and its history.
    assert {event.session.id for event in copy.fleet.events_after(0, 10_000)} >= then
    last = copy.fleet.last_event_id()
    copy.tenant("acme").create(NEW)
    assert copy.fleet.last_event_id() > last
    copy.close()
