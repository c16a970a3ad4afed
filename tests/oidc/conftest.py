"""A real provider per module, and a viewer that lets people in through it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oidc.provider_process import ProviderProcess
from tests.viewer_fixtures import ORIGIN
from viewer.settings import OidcSettings, Settings


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    with ProviderProcess(tmp_path_factory.mktemp("provider"), ORIGIN) as running:
        yield running


@pytest.fixture
def settings(settings: Settings, there: ProviderProcess) -> Settings:
    return settings.model_copy(update={"oidc": OidcSettings.model_validate(there.settings())})
