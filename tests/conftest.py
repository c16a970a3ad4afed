"""Fixtures for every test. Where each comes from is said by the import."""

from __future__ import annotations

from tests.role_runner import run_role
from tests.viewer_fixtures import app, client, migrated_database, people, settings, store

__all__ = ["app", "client", "migrated_database", "people", "run_role", "settings", "store"]
