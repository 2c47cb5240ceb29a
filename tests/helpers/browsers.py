"""A Chromium for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lagkit.nightly import pages
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
    """A page without a network; what is opened in it may share what it has compiled of plotly.js (`one_script`)."""
    context = browser.new_context(offline=True)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def one_script() -> Iterator[None]:
    """Pages have one nonce, so that a tab compiles the plotly.js of a folder once, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "token_urlsafe", lambda: "unguessable-in-these-tests")
        yield
