"""Whole runs on the sample with a tiny model: the table they end in, what they leave on disk, and how they fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lagkit.logs.encode import Encoder
from lagkit.runs.answers import result_row
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.types import Question, Round, Trace, Usage
from tests.helpers.lms import ActingLM, ScriptedLM, new_lm, small_run

COLUMNS = [
    "policy",
    "split",
    "question_id",
    "answer",
    "em",
    "f1",
    "rounds",
    "abstained",
    "confidence",
    "failed",
    "error",
]
COLUMNS += ["prefilled", "injected", "generated", "seconds"]
POLICIES = ["no_logs", "kv_last_round", "text_last_round_user_turn"]


@pytest.fixture(scope="module")
def lm() -> ActingLM:
    return new_lm(ActingLM)


def journal(experiment: Experiment, name: str) -> list[Trace]:
    return Journal(experiment.out / "traces" / f"{name}.jsonl").traces()


# What a run gives


def test_results_have_a_row_for_every_policy_split_and_question(whole):
    experiment, results = whole
    assert list(results.columns) == COLUMNS
    expected = [
        (policy, split, question.id)
        for policy in POLICIES
        for split in ("seen", "unseen")
        for question in experiment.questions(split)
    ]
    assert list(results[["policy", "split", "question_id"]].itertuples(index=False, name=None)) == expected
    assert len(expected) == 3 * 2 * 3
    assert not results["failed"].any()
    assert (results["abstained"] == results["answer"].isna()).all()
    assert 0 < results["abstained"].sum() < len(results)


def test_results_are_what_the_traces_say(whole):
    experiment, results = whole
    traces = {t.question_id: t for t in journal(experiment, "kv_last_round.unseen")}
    for row in results[(results["policy"] == "kv_last_round") & (results["split"] == "unseen")].to_dict("records"):
        trace = traces[row["question_id"]]
        assert (row["rounds"], row["generated"]) == (len(trace.rounds), sum(r.usage.generated for r in trace.rounds))
        assert (row["prefilled"], row["injected"]) == (trace.usage.prefilled, trace.usage.injected)
        assert all(len(r.logs) == 3 or i for i, r in enumerate(trace.rounds))
        assert trace.policy == "kv_last_round"


def test_tables_are_on_disk_too(whole):
    experiment, results = whole
    pd.testing.assert_frame_equal(pd.read_parquet(experiment.out / "results.parquet"), results)
    summary = pd.read_csv(experiment.out / "summary.csv", index_col=["policy", "split"])
    assert summary.loc[("kv_last_round", "seen"), "n"] == 3
    mean = results.groupby(["policy", "split"])["rounds"].mean()
    assert summary["rounds"].to_dict() == pytest.approx(mean.to_dict())
    differences = pd.read_csv(experiment.out / "differences.csv", index_col=["policy", "split", "metric"])
    assert set(differences.index.get_level_values("policy")) == set(POLICIES[1:])
    page = (experiment.out / "report.md").read_text()
    assert page.count("`kv_last_round` against `no_logs`") == 2
    strata = pd.read_csv(experiment.out / "strata.csv", index_col=["overlap", "policy"])
    assert strata["n"].groupby("policy").sum().to_dict() == dict.fromkeys(POLICIES, 3)
    assert page.count("\n#### ") == len(strata.index.unique("overlap"))
    unseen = results[results["split"] == "unseen"].groupby("policy")["rounds"].sum()
    assert (strata["n"] * strata["rounds"]).groupby("policy").sum().to_dict() == pytest.approx(unseen.to_dict())


def test_seen_questions_without_logs_are_those_that_built_the_store(whole):
    experiment, results = whole
    logged = {t.question_id: t for t in journal(experiment, "log")}
    assert set(logged) == {q.id for q in experiment.log_questions}
    assert {q.id for q in experiment.questions("seen")} < set(logged)
    assert not {q.id for q in experiment.questions("unseen")} & set(logged)
    rows = results[(results["policy"] == "no_logs") & (results["split"] == "seen")].set_index("question_id")
    assert {id: logged[id].usage.prefilled for id in rows.index} == rows["prefilled"].to_dict()
    assert not (experiment.out / "traces" / "no_logs.seen.jsonl").exists()


def test_the_store_holds_every_log_and_the_blocks_that_policies_ask_for(whole):
    experiment, _ = whole
    with experiment.store() as store:
        assert {t.question_id for t in store.traces()} == {q.id for q in experiment.log_questions}
        assert [list(store.block_keys(log)) for log in store] == [["responses.last_round.bare"]] * 6
        assert store.verify().empty
        assert all(isinstance(t.correct, bool) for t in store.traces())


def test_the_manifest_says_what_the_run_was_made_with(whole, lm):
    experiment, _ = whole
    manifest = json.loads((experiment.out / "manifest.json").read_text())
    assert manifest["settings"] == experiment.config.flat()
    assert manifest["model"] == lm.fingerprint
    assert manifest["prompt"] == {"name": "qa", "hash": experiment.prompt.hash}
    session = manifest["sessions"][0]
    assert session["seconds"] > 0
    assert {"python", "torch", "transformers", "lagkit"} <= set(session["versions"])


def test_a_disjoint_run_shares_no_hop_and_says_so(tmp_path, lm):
    experiment = small_run(tmp_path, lm, split="disjoint", log_questions=None, unseen_questions=None)
    assert (len(experiment.log_questions), len(experiment.questions("unseen"))) == (150, 200)
    logged = {hop.id for question in experiment.log_questions for hop in question.hops}
    assert not logged & {hop.id for question in experiment.questions("unseen") for hop in question.hops}
    small_run(tmp_path, lm, split="disjoint", policies=("no_logs",), unseen_questions=9).run()
    page = (tmp_path / "report.md").read_text()
    assert "- The split is disjoint, so no unseen question shares a hop with a seen one: 350 questions fall" in page
    assert "- 0 of 9 unseen questions share a hop with a logged one (by what they share: all 0, final 0," in page
    assert "| split | disjoint |" in page


def test_a_run_may_ask_for_exact_searches(tmp_path, lm):
    for search, exact in (("auto", False), ("exact", True)):
        with small_run(tmp_path / search, lm, search=search).store(write=True) as store:
            assert store.exact_search is exact


def test_an_agent_of_a_run_has_its_limits_unless_told_others(whole, lm):
    experiment = small_run(whole[0].out, lm)
    limits = replace(experiment.config.limits, max_rounds=1)
    assert experiment.agent(None, "no_logs", None, limits=None).limits == experiment.config.limits
    assert experiment.agent(None, "no_logs", None, limits=limits).limits == limits
    with pytest.raises(TypeError, match="wording"):
        experiment.agent(None, "no_logs", None, wording="plain")


def test_a_run_that_is_done_is_not_done_again(whole, copied, lm, monkeypatch):
    monkeypatch.setattr(lm, "generate", pytest.fail)
    monkeypatch.setattr(Encoder, "encode", pytest.fail)
    pd.testing.assert_frame_equal(small_run(copied, lm).run(), whole[1])


def test_one_question_s_row():
    question = Question("q", "?", ("The Danube", "Danube"))
    rounds = (Round("p", "r", usage=Usage(5, 3, 2, 0.5)), Round("p", "r", usage=Usage(1, 1, 1, 0.25)))
    answered = result_row(question, Trace("q", "?", "s", rounds, answer="river Danube"))
    assert answered == {
        **{"question_id": "q", "answer": "river Danube", "em": 0.0, "f1": pytest.approx(2 / 3), "rounds": 2},
        **{"abstained": False, "confidence": None, "failed": False, "error": None},
        **{"prefilled": 6, "injected": 4, "generated": 3, "seconds": 0.75},
    }
    abstained = result_row(question, Trace("q", "?", "s", rounds))
    assert (abstained["em"], abstained["abstained"], abstained["failed"]) == (0.0, True, False)
    failed = result_row(question, Trace("q", "?", "s", (), error="ContextTooLong: ..."))
    assert (failed["f1"], failed["abstained"], failed["failed"], failed["rounds"]) == (0.0, False, True, 0)


# Multiple choice


def choices(folder: Path, said: Sequence[Sequence[str]], **fields: object) -> tuple[Path, dict[str, list[str]]]:
    """A folder of a question for each of `said` in both splits, (B) being right, and a script that says it."""
    folder.mkdir()
    script = {}
    for split, first in (("train", 0), ("test", 10)):
        record = {"options": ["x", "y"], "answer": "B", "category": "art", **fields}
        records = [{"question_id": first + i, "question": f"Made-up {first + i}?", **record} for i in range(len(said))]
        (folder / f"dev_{split}.json").write_text(json.dumps(records))
        script |= {record["question"]: list(its) * 2 for record, its in zip(records, said, strict=True)}
    return folder, script


WHOLE = {"log_questions": None, "seen_questions": None, "unseen_questions": None, "max_rounds": None}


def test_multiple_choice_from_data_to_accuracy(tmp_path):
    right, wrong, none = ["<ans>(B)</ans>"], ["Hm. <subquestion>z?</subquestion>", "<ans>(A)</ans>"], ["a", "b", "c"]
    folder, script = choices(tmp_path / "mmlupro", (right, wrong, none))
    lm = new_lm(ScriptedLM)
    experiment = small_run(
        tmp_path / "out", lm.play(script), data=folder, policies=("no_logs", "kv_last_round"), **WHOLE
    )
    results = experiment.run().set_index(["policy", "split", "question_id"])
    for policy in ("no_logs", "kv_last_round"):
        for split, ids in (("seen", "012"), ("unseen", ("10", "11", "12"))):
            rows = results.loc[[(policy, split, id) for id in ids]]
            assert list(rows["accuracy"]) == list(rows["accuracy_flexible"]) == [1.0, 0.0, 0.0]
            assert list(rows["rounds"]) == [1, 2, 3]
            assert list(rows["abstained"]) == [False, False, True]
    assert "em" not in results


def test_flexible_accuracy_reads_the_whole_last_response_where_no_answer_is_tagged(tmp_path):
    untagged, earlier = ["a", "b", "It flows. The answer is (B)"], ["The answer is (B)", "b", "c"]
    folder, script = choices(tmp_path / "mmlupro", (untagged, earlier))
    lm = new_lm(ScriptedLM).play(script)
    rows = small_run(tmp_path / "out", lm, data=folder, policies=("no_logs",), **WHOLE).run().set_index("question_id")
    for id, flexible in (("0", 1.0), ("1", 0.0), ("10", 1.0), ("11", 0.0)):
        assert (rows.loc[id, "accuracy"], rows.loc[id, "accuracy_flexible"]) == (0.0, flexible)
        assert rows.loc[id, "answer"] is None
        assert rows.loc[id, "abstained"]  # from an answer in the form that is asked for
    assert "| `no_logs` | 0.0 | 50.0 | 3.00 | 100% | 0 |" in (tmp_path / "out" / "report.md").read_text()


def test_both_of_two_equal_right_options_are_right(tmp_path):
    folder, script = choices(
        tmp_path / "mmlupro", (["<ans>(B)</ans>"], ["<ans>(C)</ans>"], ["<ans>(A)</ans>"]), options=["x", "y", "y "]
    )
    lm = new_lm(ScriptedLM).play(script)
    rows = small_run(tmp_path / "out", lm, data=folder, policies=("no_logs",), **WHOLE).run()
    assert list(rows[rows["split"] == "unseen"]["accuracy"]) == [1.0, 1.0, 0.0]


def test_a_failed_question_is_not_right_by_what_it_said_before():
    question = Question("c", "?", ("B",), "choice", ("x", "y"))
    rounds = (Round("p", "The answer is (B)"),)
    assert result_row(question, Trace("c", "?", "s", rounds))["accuracy_flexible"] == 1.0
    assert result_row(question, Trace("c", "?", "s", rounds, error="ContextTooLong: ..."))["accuracy_flexible"] == 0.0


def test_2wiki_is_scored_by_both_rules_and_the_tables_name_them(tmp_path):
    folder = tmp_path / "wikihop"
    folder.mkdir()
    for split in ("train", "test"):
        record = {"_id": split, "type": "comparison", "question": f"Both rivers, {split}?", "answer": "yes"}
        (folder / f"dev_{split}.json").write_text(json.dumps([{**record, "evidences": [], "supporting_facts": []}]))
    (folder / "dev_docs.json").write_text(json.dumps({"Danube": "A river."}))
    lm = new_lm(ScriptedLM).play(
        {f"Both rivers, {split}?": ["<ans>yes, both</ans>"] * 2 for split in ("train", "test")}
    )
    sizes = {"log_questions": 1, "seen_questions": 1, "unseen_questions": 1}
    rows = small_run(tmp_path / "out", lm, data=folder, policies=("no_logs",), **sizes).run()
    assert rows[["em", "f1", "f1_hotpot"]].values.tolist() == [[0.0, pytest.approx(2 / 3), 0.0]] * 2
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("| variant | EM | SQuAD F1 | HotpotQA F1 | rounds |") == 2
