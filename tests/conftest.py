"""Fixtures for every test. Where each comes from is said by the import."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]
from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

from tests import postgres
from tests.quick_engines import quick_engines
from tests.role_runner import run_role
from tests.viewer_fixtures import (
    app,
    client,
    database_values,
    everybody,
    made_apps,
    migrated_database,
    new_database,
    nobody_acts,
    people,
    postgres_server,
    settings,
    store,
)

FLEET = ("tests/online/test_fleet_", "tests/desktops/")
LONGEST = "wall"
"""The folder."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What `tests.run` runs beside the tests of one host, on machines of its own; and where PostgreSQL is
    wanted, only what would be another test there."""
    if postgres.IS_WANTED:
        elsewhere = [item for item in items if not _is_for_postgres(item)]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]
    for item in items:
        if item.nodeid.startswith(FLEET):
            item.add_marker("fleet")


def _is_for_postgres(item: pytest.Item) -> bool:
    needs = set(getattr(item, "fixturenames", ()))
    return bool(
        needs & {"database_values", "new_database", "postgres_server"}
    ) and not item.get_closest_marker("sqlite")


class BySharedParts(LoadScopeScheduling):  # type: ignore[misc]
    """Tests share a Docker, a browser or the built pages by folder, else by file: those run one after the
    other."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.partition("::")[0])
        return path.parent.name if len(path.parts) > 2 else path.name

    def _assign_work_unit(self, node: WorkerController) -> None:
        """What takes long begins first, though it is but one test: at the end all would wait for it."""
        if LONGEST in self.workqueue:
            self.workqueue.move_to_end(LONGEST, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> BySharedParts | None:
    return BySharedParts(config, log) if config.getoption("dist") == "loadscope" else None


__all__ = [
    "app",
    "client",
    "database_values",
    "everybody",
    "made_apps",
    "migrated_database",
    "new_database",
    "nobody_acts",
    "people",
    "postgres_server",
    "quick_engines",
    "run_role",
    "settings",
    "store",
]
