"""Runs read again, the paper's table, and the notebook that puts them side by side."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lagkit.logs.address import checked_uri
from lagkit.nightly.gallery import Executed
from lagkit.nightly.notebook import execute
from lagkit.policy import POLICIES
from lagkit.runs import load as finished
from lagkit.runs.claim import RECORD
from lagkit.runs.manifest import MANIFEST
from lagkit.stats import metrics
from lagkit.studies import paper
from lagkit.util.errors import DataError, NotebookFailed

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "90_gallery.ipynb"


def test_a_finished_run_gives_the_results_that_it_reported_without_a_model(whole, copied, monkeypatch):
    for name in ("results.parquet", "summary.csv", "differences.csv", "report.md"):
        (copied / name).unlink()  # another notebook may have reported other variants here
    monkeypatch.setattr("lagkit.model.lm.LM.load", lambda *_, **__: pytest.fail("a model was loaded"))
    experiment, results = finished.reopen(copied)
    expected = whole[1].query("split == 'unseen'").reset_index(drop=True)
    order = list(results["policy"].unique())
    assert order == ["no_logs", "text_last_round_user_turn", "kv_last_round"]
    expected = pd.concat([expected[expected["policy"] == name] for name in order], ignore_index=True)
    pd.testing.assert_frame_equal(results, expected)
    pd.testing.assert_frame_equal(
        experiment.differences(results).sort_index(),
        whole[0].differences(whole[1]).query("split == 'unseen'").sort_index(),
    )


def test_a_run_that_is_missing_or_unfinished_is_refused(copied, tmp_path):
    with pytest.raises(DataError, match=r"There is no run in .*nowhere: make it with `lagkit run testbed out="):
        finished.reopen(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    journal = copied / "traces" / "kv_last_round.unseen.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"is not finished: kv_last_round has answered 2 of 3 unseen questions\. The"):
        finished.reopen(copied)
    (copied / "traces" / "no_logs.unseen.jsonl").unlink()
    with pytest.raises(DataError, match="has no answers without logs: nothing can be measured against them"):
        finished.reopen(copied)


def test_questions_that_have_moved_are_found_where_the_caller_says(whole, copied):
    record = json.loads((copied / RECORD).read_text())
    record["settings"] |= {"data": "gone", "dataset": "musique"}
    (copied / RECORD).write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"there is no data folder \S*gone: give the path"):
        finished.reopen(copied)
    assert len(finished.reopen(copied, data=str(whole[0].config.data.folder))[1]) == 9


@pytest.mark.parametrize("place", ["{copied}/../logs", "/logs", "s3://theirs/logs", "~/logs.lance"])
def test_a_run_that_was_received_writes_to_no_store_elsewhere_unless_its_place_is_given(copied, place):
    """What goes on with a run writes to the store that its files name, whoever wrote these."""
    named = place.format(copied=copied)
    for name in (RECORD, MANIFEST):
        record = json.loads((copied / name).read_text())
        record["settings"]["store"] = named
        (copied / name).write_text(json.dumps(record))
        with pytest.raises(DataError, match=f"notes a log store outside of its folder, {re.escape(named)}: give that"):
            finished.reopen(copied)
        (copied / RECORD).unlink(missing_ok=True)  # then the manifest alone says it
    assert finished.reopen(copied, store=named)[0].config.store.place == checked_uri(named)
    record["settings"]["store"] = str(copied / "logs")
    (copied / MANIFEST).write_text(json.dumps(record))
    assert finished.reopen(copied)[0].config.store.place == str(copied / "logs")


def test_reported_tables_are_read_back(whole, tmp_path):
    results, differences = finished.published(whole[0].out)
    pd.testing.assert_frame_equal(results, whole[1])
    pd.testing.assert_frame_equal(differences, whole[0].differences(whole[1]))
    with pytest.raises(
        DataError, match=r"There is no results\.parquet in .*: name the folder of a run that is finished"
    ):
        finished.published(tmp_path)


# The paper's table


def test_the_paper_s_table_holds_four_data_sets_and_shares_of_one():
    table = paper.published()
    assert table.groupby("dataset", sort=False)["questions"].first().to_dict() == {
        **{"MuSiQue": 726, "2Wiki": 1200, "GPQA": 135, "MMLU-Pro": 300}
    }
    assert set(table["policy"]) <= set(POLICIES)
    scores = table[["em", "f1", "accuracy"]]
    assert scores.stack().dropna().between(0.18, 0.66).all()
    assert (scores["em"].isna() == scores["accuracy"].notna()).all()
    row = table.set_index(["dataset", "policy"]).loc[("2Wiki", "kv_last_round")]
    assert (row["em"], row["f1"], row["rounds"]) == (0.552, 0.647, 1.84)


def test_published_differences_have_no_interval():
    found = paper.differences(paper.published())
    assert found.loc[("kv_last_round", "MuSiQue", "em"), "mean"] == pytest.approx(0.052)
    assert found.loc[("kv_last_round", "MuSiQue", "rounds"), "mean"] == pytest.approx(-1.22)
    assert found.loc[("kv_last_round", "GPQA", "accuracy"), "mean"] == pytest.approx(0.119)
    assert ("kv_last_round", "GPQA", "em") not in found.index
    assert "no_logs" not in found.index.unique("policy")
    assert found[["low", "high"]].isna().all(axis=None)


def test_agreement_counts_directions_and_leaves_out_what_cannot_be_told():
    levels = ["policy", "source", "metric"]
    rows = {
        "kv_block": (0.1, 0.05),
        "text_last_round": (-0.1, -0.15),
        "kv_last_round": (0.1, -0.05),
        "own": (0.1, 0.05),
    }
    ours = pd.DataFrame(
        [
            {"policy": name, "source": "ours", "metric": "em", "mean": m, "low": low, "high": 2 * m - low}
            for name, (m, low) in rows.items()
        ]
    ).set_index(levels)
    counts = paper.agreement(paper.differences(paper.published()), ours, "em")
    # Block KV gains on MuSiQue and loses on 2Wiki; text gains on both; multiple choice has no EM.
    assert counts.to_dict("index") == {
        "MuSiQue": {"same": 1, "opposite": 1, "equal": 0, "inconclusive": 1},
        "2Wiki": {"same": 0, "opposite": 2, "equal": 0, "inconclusive": 1},
    }


def test_a_table_has_a_row_for_every_policy_and_a_pair_of_columns_for_every_source(whole):
    means = metrics.summarize(whole[1]).xs("unseen", level="split")
    table = paper.beside({"small": means})
    assert list(table.index) == [name for name in POLICIES if name in {*means.index, *paper.published()["policy"]}]
    assert list(table.columns.unique(0))[::4] == ["MuSiQue (726), paper", "small (3), ours"]
    assert table.loc["kv_last_round", ("GPQA (135), paper", "score")] == pytest.approx(30.4)
    assert table.loc["kv_last_round", ("small (3), ours", "rounds")] == means.loc["kv_last_round", "rounds"]
    assert table[("small (3), ours", "score")].isna().sum() == len(table) - len(means)


# The notebook


def test_the_notebook_draws_its_figures_from_runs_and_refuses_others(whole, tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("results.parquet", "differences.csv"):
        shutil.copy(whole[0].out / name, tables)
    given = {"run": str(whole[0].out), "real": str(tables)}
    copy = Executed.read(execute(NOTEBOOK, tmp_path / "out", given))
    assert len(copy.figures) == 3
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    differences = whole[0].differences(whole[1])
    for metric in ("em", "rounds"):
        expected = differences.loc[("kv_last_round", "unseen", metric), "mean"]
        assert record["metrics"][f"{metric}_diff.kv_last_round.unseen"] == pytest.approx(expected)
    assert len(record["metrics"]) == 2 * 2
    assert (
        sum(
            any(word in said for word in ("equal", "inconclusive", "less (", "more ("))
            for said in record["findings"][:4]
        )
        == 4
    )
    with pytest.raises(NotebookFailed, match=r"90_gallery\.ipynb failed in cell \d \(DataError: There is no run in "):
        execute(NOTEBOOK, tmp_path / "none", {**given, "run": str(tmp_path / "nowhere")})


def test_the_paper_s_six_gigabytes_and_its_rounds():
    tokens = pd.Series({"kv_last_action": 28.0})
    assert paper.gigabytes(tokens)["kv_last_action"] == pytest.approx(6.2, abs=0.01)
    found = paper.fewer_rounds(paper.published())
    assert list(found.index) == ["MuSiQue", "2Wiki", "GPQA", "MMLU-Pro"]
    assert found["factor"].round(2).tolist() == [1.46, 1.35, 1.15, 1.16]
