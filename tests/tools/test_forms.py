"""Forms of answers: what is counted, and in which order the examples stand."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.agent.loop import Agent
from lagkit.model.prompts.prompt import Prompt
from lagkit.types import Question
from tests.helpers.lms import qa, small_run, tiny_lm
from tools import forms

CHOICE = Question("c", "Which?", ("B",), "choice", ("x", "y", "z"))


@pytest.mark.parametrize(
    ("question", "answer", "form"),
    [
        (qa("Where?"), "No.", "yes or no"),
        (qa("Where?"), "yes, in Rome", "yes or no"),
        (qa("Where?"), "Norway", "other"),
        (qa("Where?"), "The", "none"),
        (qa("Where?"), None, "none"),
        (CHOICE, "(C)", "(C)"),
        (CHOICE, "The answer is B", "(B)"),
        (CHOICE, "(D)", "none"),
    ],
)
def test_forms_of_answers(question, answer, form):
    assert forms.form(question, answer) == form


@pytest.mark.parametrize(("name", "last"), [("qa_examples", "<ans>no</ans>"), ("choice_examples", "<ans>(C)</ans>")])
def test_the_fixed_order_ends_alike_for_all_questions_and_holds_the_same_examples(name, last):
    prompt = Prompt.load(name)
    fixed = forms.Fixed.ending(prompt)
    heads = [fixed.for_question(f"q{i}").head() for i in range(9)]
    assert all(head == heads[0] for head in heads)
    assert heads[0][-1]["content"].endswith(last)
    turned = prompt.head()
    assert sorted(m["content"] for m in heads[0]) == sorted(m["content"] for m in turned)
    assert len({prompt.for_question(f"q{i}").head()[-1]["content"] for i in range(99)}) == len(prompt.tasks)


def test_log_questions_are_asked_in_both_orders_and_the_page_counts(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", tiny_lm(), wording="examples", policies=("no_logs",))
    heads = []
    built = Agent._context
    monkeypatch.setattr(Agent, "_context", lambda self, asked: heads.append(type(self.prompt)) or built(self, asked))
    rows = forms.measure(run, 3)
    assert heads == [forms.Fixed] * 3 + [Prompt] * 3
    assert set(rows["question_id"]) == {question.id for question in run.log_questions[:3]}
    assert rows["order"].value_counts().to_dict() == dict.fromkeys((forms.FIXED, forms.TURNING, forms.GOLD), 3)
    rows["form"] = ["yes or no"] * 3 + ["yes or no", "other", "other"] + ["other"] * 3
    forms.save(tmp_path / "forms.md", "small", pd.DataFrame(rows), run, forms.FORCED)
    told = (tmp_path / "forms.md").read_text(encoding="utf-8")
    assert "| fixed | 3 of 3 (100% [44, 100]) | 0 of 3 (0% [0, 56]) |" in told
    assert "| turning | 1 of 3 (33% [6, 79]) | 2 of 3 (67% [21, 94]) |" in told
    assert "| right answers | 0 of 3 (0% [0, 56]) | 3 of 3 (100% [44, 100]) |" in told
    assert forms.remade(tmp_path / "forms") == told


def test_two_runs_are_compared_where_both_have_answered(tmp_path):
    run = small_run(tmp_path / "run", tiny_lm(), wording="examples", policies=("no_logs",), splits=("unseen",))
    run.build()
    ids = [trace.question_id for trace in run.logs][:3]
    before = [{"policy": "no_logs", "split": "seen", "question_id": id, "answer": "no"} for id in [*ids, "gone"]]
    before += [{"policy": "kv_last_round", "split": "seen", "question_id": ids[0], "answer": "Rome"}]
    before[1]["answer"] = None
    rows = forms.of_runs(pd.DataFrame(before), run)
    fixed = rows[rows["order"] == forms.FIXED].set_index("question_id")["form"]
    assert fixed.to_dict() == {ids[0]: "yes or no", ids[1]: "none", ids[2]: "yes or no"}
    turning = rows[rows["order"] == forms.TURNING].set_index("question_id")["form"]
    answers = {trace.question_id: trace.answer for trace in run.logs}
    asked = {question.id: question for question in run.log_questions}
    assert turning.to_dict() == {id: forms.form(asked[id], answers[id]) for id in ids}
