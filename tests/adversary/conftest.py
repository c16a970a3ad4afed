"""One ground for all tests of this folder: what they do to it, they do to nothing that another one asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adversary.ground import Ground, running_ground


@pytest.fixture(scope="package")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with running_ground(tmp_path_factory.mktemp("ground")) as running:
        yield running
