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


@pytest.fixture(scope="module")
def tab(browser) -> Iterator:
    """A page without a network. What is opened in it one after another shares what has been compiled of plotly.js."""
    context = browser.new_context(offline=True)
    yield context.new_page()
    context.close()
