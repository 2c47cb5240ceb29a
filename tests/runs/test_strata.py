"""Kinds of question: hops and overlap, and differences within each kind."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from lagkit.datasets.loaders import overlap
from lagkit.stats import metrics
from lagkit.stats.strata import about, counted, differences_by, facts, outcomes, overlaps
from lagkit.types import Question
from lagkit.util.errors import DataError
from lagkit.views.lab import open_run

COSTS = dict.fromkeys(("prefilled", "injected", "generated", "seconds"), 1.0)


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


@pytest.fixture
def choice(run, monkeypatch):
    """The same run on questions without hops."""
    bare = [tuple(replace(question, hops=()) for question in split) for split in (run.loaded.seen, run.loaded.unseen)]
    monkeypatch.setattr(run, "data", replace(run.data, name="mmlupro", seen=bare[0], unseen=bare[1]))
    monkeypatch.setattr(run, "log_questions", bare[0][:30])
    return run


def results(run) -> pd.DataFrame:
    """Right answers where all hops are shared, and a round saved everywhere, for `kv_last_round`."""
    rows = []
    for policy in ("no_logs", "kv_last_round"):
        for id, stratum in overlaps(run).items():
            right, rounds = float(policy != "no_logs" and stratum == "all"), 4 - (policy != "no_logs")
            row = {"policy": policy, "split": "unseen", "question_id": id, "em": right, "rounds": rounds}
            rows.append({**row, "abstained": not right, "failed": False, **COSTS})
    return pd.DataFrame(rows)


def test_every_unseen_question_is_in_one_stratum(run):
    found, questions = overlaps(run), run.questions("unseen")
    assert list(found.index) == [question.id for question in questions]
    assert found.to_dict() == {question.id: overlap(run.log_questions, question) for question in questions}
    assert found.value_counts().sum() == 40
    assert found.nunique() == 4


def test_results_by_stratum_have_means_and_differences_and_add_up(run):
    found = outcomes(run, results(run))
    counts = overlaps(run).value_counts().to_dict()
    table = found.table()
    for policy in ("no_logs", "kv_last_round"):
        assert table["n"].xs(policy, level="policy").to_dict() == counts
    assert table.loc[("all", "kv_last_round"), ["em", "em_diff", "rounds", "rounds_diff", "abstention"]].to_dict() == {
        "em": 1.0, "em_diff": 1.0, "rounds": 3.0, "rounds_diff": -1.0, "abstention": 0.0,
    }  # fmt: skip
    none = table.loc[("none", "kv_last_round")]
    assert none["em_low"] < none["em_diff"] == 0 < none["em_high"]
    assert table.xs("no_logs", level="policy").filter(regex="_(diff|low|high)$").isna().all(axis=None)
    assert list(table.index.unique("overlap")) == ["all", "final", "other", "none"]
    weighted = (table["n"] * table["em"]).groupby("policy").sum() / 40
    assert weighted["kv_last_round"] == pytest.approx(counts["all"] / 40)


def test_the_columns_of_a_registered_score_bear_its_name(run, monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "words_mean", lambda *_: 0.5)
    table = outcomes(run, results(run).assign(words_mean=0.5)).table()
    assert table.filter(like="words").columns.tolist() == [
        "words_mean", "words_mean_diff", "words_mean_low", "words_mean_high",
    ]  # fmt: skip


def test_seen_questions_are_left_out_and_a_run_without_variants_has_means_alone(run):
    all_of_them = results(run)
    seen = all_of_them.assign(split="seen")
    pd.testing.assert_frame_equal(
        outcomes(run, pd.concat([seen, all_of_them])).table(), outcomes(run, all_of_them).table()
    )
    table = outcomes(run, all_of_them.query("policy == 'no_logs'")).table()
    assert table["n"].sum() == 40
    assert not table.filter(regex="_diff$").columns.any()


def test_the_sentence_counts_who_shares(run):
    counts = overlaps(run).value_counts(sort=False)
    assert about(run) == (
        f"{40 - counts['none']} of 40 unseen questions share a hop with a logged one (by what they share: "
        f"all {counts['all']}, final {counts['final']}, other {counts['other']}, none {counts['none']})."
    )


def test_data_without_hops_have_no_strata_and_say_so(choice):
    reason = (
        "The data set mmlupro names no sub-questions or evidences, so what an unseen question shares with the logged"
    )
    for ask in (overlaps, lambda run: outcomes(run, pd.DataFrame({"split": []}))):
        with pytest.raises(DataError, match=reason):
            ask(choice)
    assert about(choice).startswith(reason)
    assert facts(choice)["overlap"].isna().all()
    assert "<td>not known</td>" in choice.data._repr_html_()
    assert "all 0" not in choice.data._repr_html_()


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_hops_on_one_side_alone_are_not_enough(run, split):
    assert run.data.no_strata is None
    assert replace(run.data, **{split: (Question("q", "?", ("!",)),)}).no_strata.endswith("there are no strata.")
