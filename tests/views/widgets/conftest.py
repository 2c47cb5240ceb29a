"""Both widgets on a small store, without a browser."""

from __future__ import annotations

import pytest

from lagkit.logs.encode import Encoder
from lagkit.logs.retrieve import PassageIndex
from lagkit.logs.store import LogStore
from lagkit.types import Limits
from lagkit.views.widgets import LogExplorer, Playground
from lagkit.views.widgets.playground import Means
from tests.helpers.lms import ScriptedLM, new_lm, open_store, passages_about
from tests.helpers.panels import EMBEDDER, PROMPT, QUESTION, TRACES, loaded


@pytest.fixture(scope="module")
def lm():
    return new_lm(ScriptedLM)


@pytest.fixture
def store(tmp_path, lm):
    open_store(tmp_path / "store", lm, *TRACES).close()
    with LogStore.open(tmp_path / "store") as reader:
        yield reader


@pytest.fixture
def explorer(store, lm):
    return LogExplorer(store, embedder=EMBEDDER, encoder=loaded(Encoder(lm, PROMPT)))


@pytest.fixture
def playground(store, lm):
    means = loaded(Means(lm, EMBEDDER, PassageIndex(passages_about("danube", "ice"), EMBEDDER)))
    return Playground(means, store, prompt=PROMPT, limits=Limits(max_rounds=3), questions=[QUESTION])
