"""A run's report from its rows alone: the published forms and ours side by side."""

from __future__ import annotations

import re

import pandas as pd

from lagkit.policy import AUTHORS, OURS, POLICIES
from lagkit.runs import report
from lagkit.util import files

COSTS = dict.fromkeys(("prefilled", "injected", "generated", "seconds"), 1.0)
N = 20


def rows(policy: str, right: int, rounds: int, split: str = "unseen") -> list[dict]:
    """Answers to `N` questions, the first `right` of which are right."""
    return [
        {"policy": policy, "split": split, "question_id": f"q{i}", "em": float(i < right), "f1": 0.0, "rounds": rounds}
        | {"answer": "yes" if i < right else None}
        | {"abstained": False, "failed": False, **COSTS}
        for i in range(N)
    ]


def page(folder, *answers: list[dict]) -> str:
    """The page of a finished run with these answers."""
    pd.DataFrame([row for own in answers for row in own]).to_parquet(folder / "results.parquet")
    hops = {f"q{i}": [i] for i in range(N)}
    logs = {"block": ["responses"], "logs": [1]}
    files.write_json(folder / "report.json", {"facts": ["A fact."], "logs": logs, "hops": hops, "overlap": None})
    files.write_json(folder / "manifest.json", {"settings": {"dataset": "wikihop", "model": "small"}})
    report.remake(folder)
    return (folder / "report.md").read_text(encoding="utf-8")


def test_answers_that_turned_right_or_wrong_are_told_one_by_one(tmp_path):
    page(tmp_path, rows("no_logs", 2, 4), rows("kv_last_round", 4, 2), rows("kv_block", 1, 2))
    found = pd.read_csv(tmp_path / "changed.csv")
    assert found[["policy", "question_id", "outcome"]].values.tolist() == [
        ["kv_last_round", "q2", "wrong to right"],
        ["kv_last_round", "q3", "wrong to right"],
        ["kv_block", "q1", "right to wrong"],
    ]


def test_an_answer_of_any_characters_stays_in_its_row(tmp_path):
    said = ["a\rb", "\r", 'c,"d"', "e\nf", "=1+1", "NA"]
    before = [{**row, "answer": text} for row, text in zip(rows("no_logs", 0, 4), said, strict=False)]
    ids = [row["question_id"] for row in before]
    page(tmp_path, before, rows("kv_block", N, 2)[: len(said)])
    found = pd.read_csv(tmp_path / "changed.csv", keep_default_na=False)
    assert found["question_id"].tolist() == ids
    assert found["answer_before"].tolist() == said


def test_that_failures_make_rounds_fewer_is_said_where_any_question_failed(tmp_path):
    failed = [{**row, "failed": row["question_id"] == "q9"} for row in rows("kv_block", 2, 0)]
    said = "What failed is wrong, and its rounds end there"
    assert said in page(tmp_path, rows("no_logs", 2, 4), failed)
    assert said not in page(tmp_path, rows("no_logs", 2, 4), rows("kv_block", 2, 1))


def told(text: str) -> list[list[str]]:
    """The rows of the tables of both forms."""
    parts = re.findall(r"### As published, and ours\n\n(.*?)\n\n", text, re.DOTALL)
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for part in parts for line in part.splitlines()[2:]
    ]


def test_every_published_form_has_ours_of_the_same_kind():
    assert set(OURS) == set(AUTHORS)
    for theirs, ours in OURS.items():
        one, other = POLICIES[theirs], POLICIES[ours]
        assert (one.inject, one.keep, one.encode) == (other.inject, other.keep, other.encode)


def test_the_report_sets_published_forms_beside_ours_question_by_question(tmp_path):
    found = told(
        page(
            tmp_path,
            rows("no_logs", 0, 4),
            rows("kv_last_round", 15, 2),
            rows("authors_kv_last_round", 3, 3),
            rows("kv_block", 5, 2),
            rows("authors_block", 5, 2),
            rows("kv_last_action", 5, 2),
            rows("kv_last_round", 9, 2, "seen"),
            rows("authors_kv_last_round", 9, 1, "seen"),
            rows("no_logs", 9, 1, "seen"),
        )
    )
    [em, rounds, block, _, seen, _] = found
    assert em[:5] == ["`authors_kv_last_round`", "`kv_last_round`", "EM", "15.0", "75.0"]
    mean, low, high = map(float, re.findall(r"[+-][\d.]+", em[5]))
    assert low < mean == 60 < high
    assert em[6] == "more"
    assert rounds[2:5] == ["rounds", "3.00", "2.00"]
    assert rounds[6] == "less"
    assert block[:5] == ["`authors_block`", "`kv_block`", "EM", "25.0", "25.0"]
    assert block[6] == "inconclusive"  # twenty questions cannot tell it from three points
    assert seen[3:5] == ["45.0", "45.0"]


def test_limits_behind_a_name_belong_to_both_forms_and_a_form_alone_has_no_row(tmp_path):
    answers = [
        rows("no_logs", 0, 4),
        rows("authors_kv_last_round+logs=1", 3, 3),
        rows("kv_last_round", 15, 2),
        rows("authors_text_last_round", 15, 2),
    ]
    assert "As published" not in page(tmp_path, *answers)
    [em, _] = told(page(tmp_path, *answers, rows("kv_last_round+logs=1", 4, 3)))
    assert em[:5] == ["`authors_kv_last_round+logs=1`", "`kv_last_round+logs=1`", "EM", "15.0", "20.0"]


def test_multiple_choice_is_measured_by_accuracy(tmp_path):
    answers = [rows(name, n, 1) for name, n in (("no_logs", 1), ("kv_last_round", 2), ("authors_kv_last_round", 3))]
    for row in (row for own in answers for row in own):
        row["accuracy"] = row.pop("em")
        del row["f1"]
    [score, _] = told(page(tmp_path, *answers))
    assert score[2:5] == ["accuracy", "15.0", "10.0"]
