"""Summary of a run: what other programs read of it, in the form that they rely on."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from lagkit.runs import manifest, summary
from lagkit.util import files
from lagkit.views.lab import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = open_run("testbed", tmp_path_factory.mktemp("run"), splits=("unseen",), unseen_questions=4, log_questions=4)
    sessions = [{"seconds": 2.5}, {"seconds": None}, {"seconds": 1.0}]
    files.write_json(run.out / "manifest.json", {**manifest.read_manifest(run.out), "sessions": sessions})
    return run


def results(run, score="em"):
    rows = []
    for policy, right, rounds in (("no_logs", (1, 0, 0, 0), 4), ("kv_last_round", (1, 1, 1, 0), 3)):
        for question, value in zip(run.questions("unseen"), right, strict=True):
            row = {"policy": policy, "split": "unseen", "question_id": question.id, score: float(value)}
            costs = dict.fromkeys(("prefilled", "injected", "generated", "seconds"), 1.0)
            rows.append({**row, "rounds": rounds, "abstained": not value, "failed": False, **costs})
    return pd.DataFrame(rows)


def test_the_summary_has_means_differences_and_the_time_of_finished_sessions(run):
    found = summary.summarize(run, results(run))
    assert found["seconds"] == 3.5
    numbers = found["variants"]["kv_last_round"]["unseen"]
    mean, low, high = numbers.pop("em_diff")
    assert numbers == {"n": 4, "em": 0.75, "rounds": 3.0, "abstention": 0.25, "rounds_ratio": 0.75}
    assert low < mean == 0.5 < high
    assert found["variants"]["no_logs"]["unseen"]["em_diff"] == [0.0, 0.0, 0.0]
    assert found["variants"]["no_logs"]["unseen"]["rounds_ratio"] == 1.0


def test_the_summary_tells_strata_of_unseen_questions(run):
    found = summary.summarize(run, results(run))
    strata = found["strata"]["kv_last_round"]
    assert sum(numbers["n"] for numbers in strata.values()) == 4
    assert set(strata) == set(found["strata"]["no_logs"]) <= {"all", "final", "other", "none"}
    right = sum(numbers["n"] * numbers["em"] for numbers in strata.values())
    assert right == pytest.approx(3)
    assert all(numbers["rounds_ratio"] == 0.75 and len(numbers["em_diff"]) == 3 for numbers in strata.values())
    assert not any("strata" in name or name.split(".")[-1] in strata for name in summary.flat(found))


def test_without_hops_the_summary_says_why_there_are_no_strata(run, monkeypatch):
    bare = tuple(replace(question, hops=()) for question in run.data.seen)
    monkeypatch.setattr(run, "data", replace(run.data, seen=bare))
    found = summary.summarize(run, results(run))
    assert found["strata"] == {}
    assert found["no_strata"].endswith("there are no strata.")
    assert found["variants"]["kv_last_round"]["unseen"]["n"] == 4


def test_multiple_choice_has_accuracy_instead(run):
    assert "accuracy_diff" in summary.summarize(run, results(run, "accuracy"))["variants"]["kv_last_round"]["unseen"]


def test_a_bound_that_cannot_be_told_is_null_in_json(run, tmp_path):
    one = results(run).query("question_id == @run.questions('unseen')[0].id")
    summary.write(tmp_path / "new" / "summary.json", summary.summarize(run, one))
    text = (tmp_path / "new" / "summary.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["variants"]["kv_last_round"]["unseen"]["em_diff"] == [0.0, None, None]


def test_a_share_of_no_rounds_is_null_and_no_metric(run, tmp_path):
    failed = results(run).assign(rounds=lambda rows: rows["rounds"].where(rows["policy"] != "no_logs", 0))
    found = summary.summarize(run, failed)
    summary.write(tmp_path / "summary.json", found)
    told = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert told["variants"]["kv_last_round"]["unseen"]["rounds_ratio"] is None
    assert told["strata"]["kv_last_round"][next(iter(told["strata"]["kv_last_round"]))]["rounds_ratio"] is None
    assert "rounds_ratio.kv_last_round.unseen" not in summary.flat(found)
    assert summary.shown(found).splitlines()[-1].split()[-2:] == ["?", "25%"]


@pytest.mark.parametrize(("score", "head"), [("em", "EM"), ("accuracy", "accuracy")])
def test_the_table_for_the_terminal_has_the_scores_of_its_kind_of_task(run, score, head):
    heads, _, _, row = summary.shown(summary.summarize(run, results(run, score))).splitlines()
    assert heads.split() == [
        "n",
        head,
        head,
        "against",
        "no_logs",
        "rounds",
        "share",
        "of",
        "its",
        "rounds",
        "no",
        "answer",
    ]
    assert row.split()[:3] == ["kv_last_round", "4", "75.0"]


def test_flat_names_leave_out_what_holds_by_definition(run):
    flat = summary.flat(summary.summarize(run, results(run)))
    assert flat["em_diff.kv_last_round.unseen"] == 0.5
    assert flat["rounds_ratio.kv_last_round.unseen"] == 0.75
    assert flat["em.no_logs.unseen"] == 0.25
    assert not {"em_diff.no_logs.unseen", "rounds_ratio.no_logs.unseen", "n.no_logs.unseen"} & set(flat)
