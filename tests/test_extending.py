"""What docs/extending.md says: its code is run as it stands there, and does what the page promises."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lagkit.runs.register import _PLACES
from tests.lms import trace_of

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
LOG = trace_of("First. Then more.", "Rome is it. <ans>Rome</ans>")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test registers is gone after it."""
    for place in _PLACES.values():
        for name in (*place.own,):
            monkeypatch.delitem(place.own, name)
    before = {kind: dict(place.own) for kind, place in _PLACES.items()}
    yield
    for kind, place in _PLACES.items():
        place.own.clear()
        place.own.update(before[kind])


def first(trace):
    return [[(0, 6)] for _ in trace.rounds]


def test_the_page_runs_as_it_stands_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)  # the page's own code
    page = SimpleNamespace(**names)

    with page.run.store() as store:
        [key] = [key for key in store.summary().index if key.startswith("responses.first_sentence@")]
        log = store[0]
        block = store.block(log.id, key)
        said = log.rounds[0].response
        assert page.run.lm.tokenizer.decode(block.ids.tolist()).startswith(said[: said.find(".") + 1])
        assert (
            0
            < len(block)
            <= len(
                store.block(log.id, "responses.all_rounds.bare")
                if store.has_block(log.id, "responses.all_rounds.bare")
                else block
            )
        )
    assert page.summary.loc[("kv_first_sentence", "unseen"), "injected"] > 0
    assert "<mark" in page.page.data
    assert "kv_first_sentence" in page.page.data

    assert [len(split) for split in (page.data.seen, page.data.unseen, page.data.passages)] == [2, 1, 3]
    assert set(page.riddles.results["question_id"]) == {"riddle-0", "riddle-1", "riddle-2"}

    with page.by_letters.store() as store:
        assert (store.embedder, store.dim) == ("letters", 26)
        assert store.search(page.Letters().queries([store[0].key]), 1)[0][0].id == store[0].id
    assert page.by_letters.results["failed"].sum() == 0

    expected = page.run.results["answer"].map(lambda answer: float(answer is not None and len(answer.split()) <= 2))
    assert page.run.results["brief"].tolist() == expected.tolist()
    assert page.scored["brief"].mean() == pytest.approx(
        expected.groupby([page.run.results[c] for c in ("policy", "split")]).mean().mean()
    )
    assert "brief" not in page.summary
    assert "brief" in page.differences.index.get_level_values("metric")
    assert "brief" in (page.run.report(), (page.run.out / "report.md").read_text())[1]
    assert len(page.figure.data) > 0
