"""Kinds of question: hops and overlap, and differences within each kind."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.data import overlap
from lagkit.lab import open_run
from lagkit.strata import counted, differences_by, facts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return open_run("testbed", folder, log_questions=30, seen_questions=5, unseen_questions=40)


def test_facts_of_every_question_of_the_run(run):
    table = facts(run)
    assert len(table) == 45
    assert (table.groupby("split").size()[["seen", "unseen"]] == [5, 40]).all()
    assert set(table.loc[table["split"] == "seen", "overlap"]) == {"all"}
    question = run.questions("unseen")[0]
    row = table.loc[question.id]
    assert (row["gold"], row["hops"]) == (question.answers[0], len(question.hops))
    assert row["overlap"] == overlap(run.log_questions, question)


def test_a_difference_is_found_in_the_kind_that_has_it(run):
    kind = facts(run).query("split == 'unseen'")["hops"]
    rows = []
    for policy in ("no_logs", "kv_last_round"):
        for id, hops in kind.items():
            right = float(policy == "kv_last_round" and hops == 4)
            rows.append({"policy": policy, "split": "unseen", "question_id": id, "em": right, "rounds": 1})
    found = differences_by(run, pd.DataFrame(rows), kind)
    assert found.index.names == ["hops", "policy", "split", "metric"]
    means = found.xs(("kv_last_round", "unseen", "em"), level=("policy", "split", "metric"))["mean"]
    assert means.to_dict() == {1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0}
    counts = kind.value_counts().sort_index()
    assert list(counted(found).index.unique("hops")) == [f"{hops} ({n})" for hops, n in counts.items()]
