"""A model whose answers are written down, and a store of a module's `LOGS`."""

from __future__ import annotations

import pytest

from tests.helpers.lms import ScriptedLM, new_lm, open_store


@pytest.fixture(scope="module")
def lm() -> ScriptedLM:
    return new_lm(ScriptedLM)


@pytest.fixture
def store(request, tmp_path, lm):
    with open_store(tmp_path / "store", lm, *request.module.LOGS) as store:
        yield store
