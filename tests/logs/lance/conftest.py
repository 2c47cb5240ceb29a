"""Stores in LanceDB, empty: on an object store, and in a folder."""

from __future__ import annotations

import pytest

from lagkit.logs.lance import LanceStore
from tests.helpers.stores import HEADER


@pytest.fixture
def store(bucket):
    with LanceStore.new(f"{bucket}/store", HEADER) as store:
        yield store


@pytest.fixture
def local(tmp_path):
    """For what does not depend on where the store is: an object store's requests take four times as long."""
    with LanceStore.new(str(tmp_path / "store.lance"), HEADER) as store:
        yield store
