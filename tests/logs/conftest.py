"""Stores of both kinds, for the tests of what they share."""

from __future__ import annotations

import pytest

from tests.helpers.stores import new_store


@pytest.fixture(params=["store", "store.lance"])
def place(request, tmp_path):
    """Where a store is to be: a folder, or one of LanceDB."""
    return tmp_path / request.param


@pytest.fixture
def store(place):
    with new_store(place) as store:
        yield store


@pytest.fixture
def folder_store(tmp_path):
    with new_store(tmp_path / "store") as store:
        yield store
