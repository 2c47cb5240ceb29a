"""Runs on multiple choice on a page; and GPQA's format through its loader and the whole loop."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from lagkit.datasets.loaders import load
from tests.helpers.lms import ScriptedLM, new_lm, small_run
from tools import choice

OWN = Path(__file__).parents[2] / "docs" / "results" / "choice" / "gpqa"


def test_questions_in_gpqa_s_format_are_choices_with_letters_that_do_not_give_the_answer_away():
    data = load(OWN)
    assert (data.kind, len(data.seen), len(data.unseen), len(data.passages)) == ("choice", 10, 6, 0)
    assert all(len(q.choices) == 4 == len(set(q.choices)) and len(q.answers) == 1 for q in data.questions)
    letters = [q.answers[0] for q in data.questions]
    assert {letters.count(letter) for letter in "ABCD"} == {4}


def test_gpqa_s_format_goes_through_the_loop_to_a_page_of_traces(tmp_path, capsys):
    data = load(OWN)
    lm = new_lm(ScriptedLM)
    script = {q.text: ["It is <ans>(A)</ans>"] * 9 for q in data.questions}
    asked = data.unseen[0]
    # The first round of each variant asks back.
    script[asked.text] = ["First, <subquestion>what is known</subquestion>", f"~~~ <ans>({asked.answers[0]})</ans>"] * 2
    script[data.unseen[-1].text] = ["No idea."] * 9
    lm.play(script)
    run = small_run(
        tmp_path / "gpqa-form", lm, data=OWN, dataset="gpqa", policies=("no_logs", "kv_last_round"), log_questions=4,
        unseen_questions=None, splits=("unseen",), max_new_tokens=16, max_rounds=3, embedder="hash",
    )  # fmt: skip
    results = run.run()
    right = sum(q.answers == ("A",) for q in data.unseen[1:]) + 1
    assert results.groupby("policy")["accuracy"].sum().to_dict() == {"no_logs": right, "kv_last_round": right}
    page = tmp_path / "choice.md"
    choice.save(page, "gpqa-form", run, results, 1)
    told = page.read_text(encoding="utf-8")
    assert "## gpqa-form\n\nsmollm2 in float32: 6 unseen questions, 4 logs, " in told
    assert f"{asked.text} Right is ({asked.answers[0]}) " in told
    assert told.count("[assistant]\nFirst, <subquestion>what is known</subquestion>") == 2
    assert told.count(f"[assistant]\n~ ~ ~ <ans>({asked.answers[0]})</ans>") == 2
    letters = Counter(["A"] * 4 + [asked.answers[0]])
    assert told.count(", ".join(f"{letter} {n}" for letter, n in sorted(letters.items())) + " |") == 2
    assert told.count("Round 1, in which it found the logs of: ") == 1
    assert choice.remade(tmp_path / "choice") == told
    assert json.loads((tmp_path / "choice" / "gpqa-form.json").read_text())["settings"]["dataset"] == "gpqa"
    assert "data" not in json.loads((tmp_path / "choice" / "gpqa-form.json").read_text())["settings"]
