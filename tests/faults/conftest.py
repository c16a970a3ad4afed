"""Three sandbox hosts that stand apart; the tests of this folder share them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.apart import HostApart, host_apart


@pytest.fixture(scope="package")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostApart]:
    with host_apart("here", tmp_path_factory) as host:
        yield host


@pytest.fixture(scope="package")
def three(first: HostApart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HostApart, ...]]:
    with ExitStack() as stack:
        rest = [stack.enter_context(host_apart(name, tmp_path_factory)) for name in ("there", "yonder")]
        yield (first, *rest)
