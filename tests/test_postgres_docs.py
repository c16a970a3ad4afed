"""Every command of docs/postgresql.md, on a real server that asks for the password."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from inventory.models import Settings as SiteSettings
from tests.postgres import PostgresServer, running_server
from tests.relay_process import free_port
from tests.viewer_fixtures import settings_values, write_settings
from viewer.bootstrap import prepare_database
from viewer.database_address import PostgresAddress
from viewer.migrations import upgrade
from viewer.settings import SettingsError, load_settings
from viewer.store import NewSession, Store

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "postgresql.md").read_text()
PASSWORD = "a long one"
NEW = NewSession(image="desktop", resolution="1280x800", ttl_seconds=60, created_by="test")
PROGRAMS = {
    "systemctl": "exit 0",
    "apt-get": "exit 0",
    "runuser": 'shift 3; exec "$@"',
    "deskfleet-admin": f'exec {sys.executable} -m viewer.admin "$@"',
}
"""What the control host has and this machine has not, or not in this way."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with running_server(port=free_port()) as found:
        yield found


class ControlHost:
    """A folder in the place of the control host's own, with the fleet's file in it."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.folder, self._server = folder, server
        self.settings = write_settings(settings_values(folder), folder / "viewer.toml")
        self.passfile = folder / "database.pgpass"
        (folder / "bin").mkdir()
        for name, does in PROGRAMS.items():
            program = folder / "bin" / name
            program.write_text(f"#!/bin/sh\n{does}\n")
            program.chmod(0o755)

    def run(self, script: str) -> str:
        """Run as root there, with this server in the place of the page's."""
        for theirs, ours in (
            ("db.example.com:5432", f"127.0.0.1:{self._server.port}"),
            ("db.example.com", f"127.0.0.1:{self._server.port}"),
            ("/var/lib/deskfleet/viewer", str(self.folder)),
            ("/etc/deskfleet/secrets/viewer/database.pgpass", str(self.passfile)),
            ("/opt/deskfleet/viewer/bin/", ""),
            ("-o deskfleet-viewer ", ""),
        ):
            script = script.replace(theirs, ours)
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DESKFLEET_SETTINGS": str(self.settings),
        }
        done = subprocess.run(
            ["sh", "-e", "-c", script], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def change_to_postgres(self) -> None:
        """As the roll-out with the page's setting does."""
        wanted = SiteSettings.model_validate(yaml.safe_load(blocks("yaml")[0])["settings"]).database
        assert wanted is not None
        assert wanted.password == "DATABASE_PASSWORD"
        self.passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
        self.passfile.chmod(0o600)
        url = f"postgresql://deskfleet@127.0.0.1:{self._server.port}/deskfleet?passfile={self.passfile}"
        values = {**settings_values(self.folder), "database": url, "state_directory": str(self.folder)}
        write_settings(values, self.settings)


def make_database(server: PostgresServer) -> None:
    for statement in blocks("sql")[0].strip().splitlines():
        try:
            server.do(statement)
        except psycopg.errors.DuplicateObject:
            assert "ROLE" in statement


def test_commands_of_the_page_make_move_copy_and_restore(server: PostgresServer, tmp_path: Path) -> None:
    moving, copying, restoring = blocks("sh")
    host = ControlHost(tmp_path, server)
    upgrade(tmp_path / "deskfleet.db")
    store = Store(tmp_path / "deskfleet.db")
    store.accounts.add_tenant("acme")
    made = {store.tenant("acme").create(NEW).session.id for _ in range(5)}
    store.close()

    make_database(server)
    assert "rows are there" in host.run(moving)
    host.change_to_postgres()
    settings = load_settings(host.settings)
    prepare_database(settings)
    assert sessions_in(settings.database) == made

    assert "monday.dump" in host.run(copying)
    server.do("DROP DATABASE deskfleet")
    make_database(server)
    host.run(restoring)
    prepare_database(settings)
    assert sessions_in(settings.database) == made


def sessions_in(address: Path | PostgresAddress) -> set[str]:
    store = Store(address)
    try:
        return {session.id for session in store.fleet.live_sessions()}
    finally:
        store.close()


def test_wrong_password_and_one_that_others_can_read_are_said_in_a_sentence_without_it(
    server: PostgresServer, tmp_path: Path
) -> None:
    host = ControlHost(tmp_path, server)
    make_database(server)
    host.change_to_postgres()
    host.passfile.write_text("*:*:*:*:not-the-right-one\n")
    with pytest.raises(SettingsError, match="password authentication failed") as refused:
        prepare_database(load_settings(host.settings))
    assert "not-the-right-one" not in str(refused.value)
    host.passfile.chmod(0o640)
    with pytest.raises(SettingsError, match="set its mode to 0600") as refused:
        load_settings(host.settings)
    assert "not-the-right-one" not in str(refused.value)
