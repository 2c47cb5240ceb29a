"""Questions asked in a closed book, through the loop to the page."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from lagkit.datasets import loaders
from lagkit.types import Round, Trace
from tests.helpers.lms import SAMPLE, ScriptedLM, new_lm, qa, small_run
from tools import closed


@pytest.fixture
def lm():
    return new_lm(ScriptedLM)


@pytest.fixture
def run(tmp_path, lm):
    return small_run(tmp_path / "run", lm, data=SAMPLE, log_questions=40, unseen_questions=4, embedder="hash")


def test_questions_are_asked_without_passages_and_scored_by_the_whole_response(run, lm, tmp_path):
    right, named, wrong, silent = run.questions("unseen")
    lm.play(
        {
            right.text: [right.answers[0]],
            named.text: [f"I think that it is {named.answers[0]}."],
            wrong.text: ["Nobody."],
            silent.text: [""],
        }
    )
    rows = closed.measure(run).set_index("question_id")
    assert rows["em"].to_dict() == {right.id: 1.0, named.id: 0.0, wrong.id: 0.0, silent.id: 0.0}
    assert rows["named"].to_dict() == {right.id: True, named.id: True, wrong.id: False, silent.id: False}
    assert (rows["rounds"] == 1).all()
    assert rows["overlap"].to_dict() == {q.id: loaders.overlap(run.log_questions, q) for q in run.questions("unseen")}
    read = "".join(words for asked in lm.seen.values() for both in asked for words in both)
    assert not any(passage.text[:40] in read for passage in run.data.passages)
    study = pd.DataFrame({"policy": "no_logs", "split": "unseen", "question_id": [right.id, wrong.id], "em": 1.0})
    page = tmp_path / "closed.md"
    closed.save(page, closed.beside(rows.reset_index(), study), run)
    told = page.read_text(encoding="utf-8")
    assert "| all questions | 4 | 25% [" in told
    assert "| 50% [" in told
    assert "2 of them were asked in the study: 100% [" in told
    assert "and 50% [" in told
    assert "the closed book; 1 in both." in told
    assert closed.remade(tmp_path / "closed") == told
    settings = json.loads(next((tmp_path / "closed").glob("*.json")).read_text())["settings"]
    assert settings["unseen_questions"] == 4
    assert not {"data", "policies", "max_rounds", "embedder", "wording"} & settings.keys()


def test_a_name_counts_as_words_and_not_as_a_part_of_one():
    question = qa("Into which river?", "Oka", "The")
    said = {words: Trace("q", question.text, "", (Round("", words),)) for words in ("The Oka.", "The Okavango.", "")}
    assert {words: closed.row(question, trace)["named"] for words, trace in said.items()} == {
        "The Oka.": True,
        "The Okavango.": False,
        "": False,
    }


CONFIG = f"""
data: {SAMPLE}
model: testbed
dtype: float32
embedder: hash
wording: short
log_questions: 4
splits: [unseen]
unseen_questions: 2
"""


def test_the_command_asks_and_writes_its_page(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(CONFIG)
    words = [str(tmp_path / "run.yaml"), f"out={tmp_path / 'run'}", "--page", str(tmp_path / "closed.md")]
    assert closed.main(words) == 0
    page = (tmp_path / "closed.md").read_text(encoding="utf-8")
    assert "testbed in float32" in page
    assert "| all questions | 2 |" in page
    assert "asked in the study" not in page
    assert page in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["out=run"], "Give one file of settings"),
        (["CONFIG", "out=run", "--beside", "none.parquet"], "none.parquet"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence_before_anything_is(tmp_path, capsys, monkeypatch, changed, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)
    words = ["run.yaml" if word == "CONFIG" else word for word in changed]
    monkeypatch.setattr(closed, "measure", None)
    assert closed.main([*words, "--page", "closed.md"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "closed.md").exists()
