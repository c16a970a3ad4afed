"""Fixtures for every test. Where each comes from is said by the import."""

from __future__ import annotations

import pytest

from tests.role_runner import run_role
from tests.viewer_fixtures import app, client, migrated_database, people, settings, store

FLEET = ("tests/online/test_fleet_", "tests/desktops/")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """fleet: what `tests.run` runs beside the tests of one host, on machines of its own."""
    for item in items:
        if item.nodeid.startswith(FLEET):
            item.add_marker("fleet")
        if item.get_closest_marker("real") or item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.xdist_group(_shared_parts(item)))


def _shared_parts(item: pytest.Item) -> str:
    """Tests with real parts share them (a Docker, a browser, the built pages) by folder, else by file."""
    folder = item.path.parent.name
    return item.path.stem if folder == "tests" else folder


__all__ = ["app", "client", "migrated_database", "people", "run_role", "settings", "store"]
