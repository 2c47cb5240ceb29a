"""Wordings of the prompt compared on log questions, through the loop to the page."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from lagkit.datasets.loaders import load
from tests.helpers.lms import SAMPLE, ScriptedLM, new_lm, small_run
from tools import pilot


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


@pytest.mark.parametrize("words", [["out=runs"], ["CONFIG"], ["CONFIG", "CONFIG", "out=runs"]])
def test_a_command_without_one_run_or_a_place_for_it_is_refused_in_a_sentence(words, capsys):
    config = str(Path(__file__).parents[2] / "docs" / "results" / "real" / "pilot.yaml")
    given = [config if word == "CONFIG" else word for word in words]
    assert pilot.main([*given, "--wording", "plain", "--page", "pilot.md"]) == 2
    assert "Give one file of settings, and `out=FOLDER` for the runs" in capsys.readouterr().err
