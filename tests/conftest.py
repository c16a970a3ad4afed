"""Fixtures for every test. Where each comes from is said by the import."""

from __future__ import annotations

import pytest

from tests.role_runner import run_role
from tests.viewer_fixtures import app, client, migrated_database, people, settings, store

FLEET = ("tests/online/test_fleet_", "tests/desktops/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What `tests.run` runs beside the tests of one host, on machines of its own."""
    for item in items:
        if item.nodeid.startswith(FLEET):
            item.add_marker("fleet")


__all__ = ["app", "client", "migrated_database", "people", "run_role", "settings", "store"]
