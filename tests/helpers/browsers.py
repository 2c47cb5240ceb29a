"""A Chromium for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lagkit.util.errors import ConfigError
from lagkit.views import pictures


@pytest.fixture(scope="module")
def browser() -> Iterator:
    try:
        path = pictures.browser()
    except ConfigError:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
