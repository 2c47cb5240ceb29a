"""No test asks a model hub or draws a bar, few draw pictures; torch keeps to one thread: tests run side by side."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LAGKIT_PROGRESS"] = "off"
os.environ["LAGKIT_PICTURES"] = "off"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The password that all tests' clusters share: Ray looks for it when it is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import pytest
from hypothesis import settings

import lagkit.nightly  # noqa: F401  # which knows how to import nbformat fast, before a test does it
from tests.helpers import warm
from tests.helpers.browsers import browser, one_script, tab  # noqa: F401
from tests.helpers.objectstore import bucket, server  # noqa: F401

settings.register_profile("lagkit", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("lagkit")


def pytest_sessionstart() -> None:
    warm.use()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Imports leave no garbage, and looking for it among all that they bring takes a quarter of their time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
