"""A real provider per module, and a viewer that lets people in through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oidc.provider_process import ProviderProcess
from tests.viewer_fixtures import BESIDE_THE_VIEWER, ORIGIN, settings_values
from viewer.settings import Settings


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    with ProviderProcess(tmp_path_factory.mktemp("provider"), ORIGIN) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, there: ProviderProcess) -> Settings:
    values = {**settings_values(tmp_path), **BESIDE_THE_VIEWER, "oidc": there.settings()}
    return Settings.model_validate(values)
