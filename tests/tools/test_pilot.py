"""Wordings of the prompt compared on log questions, through the loop to the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lagkit.datasets.loaders import load
from lagkit.runs.experiment import Experiment
from tests.helpers.lms import SAMPLE, ActingLM, ScriptedLM, new_lm, small_run
from tools import pilot

REAL = pilot.measure


def test_a_response_is_tagged_that_ends_with_its_only_action():
    assert pilot.tagged("It rose in 1912. <ans>1912</ans>\n")
    assert not pilot.tagged("It rose in 1912.")
    assert not pilot.tagged("<ans>1912</ans> <ans>1913</ans>")
    assert not pilot.tagged("<keywords>the year</keywords> or so")


def test_log_questions_are_asked_and_their_tags_and_searches_counted(tmp_path):
    data = load(SAMPLE)
    lm = new_lm(ScriptedLM)
    run = small_run(tmp_path / "run", lm, data=SAMPLE, log_questions=4, max_rounds=2, embedder="hash")
    right, late, untagged, wrong = run.log_questions
    lm.play(
        {
            right.text: [f"<ans>{right.answers[0]}</ans>"],
            late.text: ["<keywords>what is missing</keywords>", f"<ans>{late.answers[0]}</ans>"],
            untagged.text: ["No idea.", "None at all."],
            wrong.text: ["<ans>nobody</ans>"],
        }
    )
    rows = pilot.measure(run).set_index("question_id")
    assert rows["em"].to_dict() == {right.id: 1.0, late.id: 1.0, untagged.id: 0.0, wrong.id: 0.0}
    assert rows["tagged"].to_dict() == {right.id: 1, late.id: 2, untagged.id: 0, wrong.id: 1}
    assert rows["searched"].to_dict() == {right.id: False, late.id: True, untagged.id: False, wrong.id: False}
    assert rows["hops"].map(len).to_dict() == {q.id: len(q.hops) for q in run.log_questions}
    assert all(isinstance(hop, int) for own in rows["hops"] for hop in own)
    page = tmp_path / "pilot.md"
    pilot.save(page, rows.reset_index().assign(wording="short"), run)
    told = page.read_text(encoding="utf-8")
    assert "| `short` | 50% [" in told
    assert "| 4 of 6: 75% [" in told
    assert "| 25% [" in told
    assert pilot.remade(tmp_path / "pilot") == told
    assert len(pd.read_parquet(tmp_path / "pilot" / f"{data.name}.parquet")) == 4
    assert "wording" not in json.loads((tmp_path / "pilot" / f"{data.name}.json").read_text())["settings"]


def test_questions_that_failed_are_counted(tmp_path):
    lm = new_lm(ScriptedLM)
    run = small_run(tmp_path / "run", lm, log_questions=2, seen_questions=1)
    one, other = (question.text for question in run.log_questions)
    lm.play({one: [RuntimeError("no room")] * 3, other: ["<ans>nobody</ans>"]})
    page = tmp_path / "pilot.md"
    pilot.save(page, pilot.measure(run).assign(wording="short"), run)
    [line] = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `short`")]
    assert line.endswith("| 1 |")


def test_the_right_letter_is_right(tmp_path):
    folder = tmp_path / "gpqa"
    folder.mkdir()
    for name in ("dev_train", "dev_test"):
        asked = [{"question": f"Which of {name} {i}?", "choices": ["x", "y"], "answer": "x"} for i in range(3)]
        (folder / f"{name}.json").write_text(json.dumps(asked))
    run = small_run(tmp_path / "run", new_lm(ActingLM), data=folder, log_questions=3)
    page = tmp_path / "pilot.md"
    rows = pilot.measure(run).assign(wording="short", accuracy=[1.0, 0.0, 1.0])
    pilot.save(page, rows, run)
    assert "| `short` | 67% [" in page.read_text(encoding="utf-8")


def test_an_answer_to_an_earlier_wording_of_a_question_does_not_count(tmp_path):
    lm = new_lm(ScriptedLM)
    run = small_run(tmp_path / "run", lm, log_questions=1, seen_questions=1)
    [question] = run.log_questions
    lm.play({question.text: [f"<ans>{question.answers[0]}</ans>"], "Who?": ["<ans>nobody</ans>"]})
    run.build()
    changed = small_run(tmp_path / "run", lm, log_questions=1, seen_questions=1)
    changed.log_questions = (replace(question, text="Who?"),)
    changed.build()
    assert pilot.measure(run)["em"].tolist() == [1.0]


COMMAND = [
    f"{Path(__file__).parents[2] / 'docs' / 'results' / 'real' / 'pilot.yaml'}",
    f"data={SAMPLE}",
    "dataset=sample",
]


def test_a_wording_counts_once_and_one_that_is_unknown_is_told_before_any_is_asked(tmp_path, monkeypatch, capsys):
    asked: list[str] = []

    def measure(run: Experiment) -> pd.DataFrame:
        asked.append(run.config.model.wording)
        run.lm = new_lm(ActingLM)
        own = small_run(tmp_path / asked[-1], run.lm, log_questions=2, seen_questions=1)
        return REAL(own)

    monkeypatch.setattr(pilot, "measure", measure)
    words = [*COMMAND, f"out={tmp_path / 'runs'}", "--page", f"{tmp_path / 'pilot.md'}", "--wording", "plain"]
    assert pilot.main([*words, "--wording", "nonsense"]) == 2
    assert "wording: Input should be" in capsys.readouterr().err
    assert asked == []
    assert pilot.main([*words, "--wording", "plain"]) == 0
    assert asked == ["plain"]


@pytest.mark.parametrize("words", [["out=runs"], ["CONFIG"], ["CONFIG", "CONFIG", "out=runs"]])
def test_a_command_without_one_run_or_a_place_for_it_is_refused_in_a_sentence(words, capsys):
    config = str(Path(__file__).parents[2] / "docs" / "results" / "real" / "pilot.yaml")
    given = [config if word == "CONFIG" else word for word in words]
    assert pilot.main([*given, "--wording", "plain", "--page", "pilot.md"]) == 2
    assert "Give one file of settings, and `out=FOLDER` for the runs" in capsys.readouterr().err
