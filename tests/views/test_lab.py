"""What notebooks begin with: a run opened from parameters, on a test world or on a folder of questions."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from lagkit.stats.wording import difference, sentences
from lagkit.util.errors import ConfigError, DataError
from lagkit.views.lab import conclude, open_run, show
from tests.helpers.lms import ActingLM, new_lm, small_run


def test_a_test_world_is_drawn_into_the_run_and_stays(tmp_path):
    run = open_run("testbed", tmp_path / "run", seed=5, log_questions=10, unseen_questions=0)
    assert (len(run.data.seen), len(run.questions("unseen")), len(run.log_questions)) == (150, 300, 10)
    assert run.config.data.world["seed"] == run.config.data.seed == 5
    assert not (tmp_path / "run").exists()
    with run.writing():
        questions = tmp_path / "run" / "world" / "dev_test.json"
    before = questions.stat().st_mtime_ns
    assert open_run("testbed", tmp_path / "run", seed=5, log_questions=10).questions("unseen") == run.questions(
        "unseen"
    )
    assert questions.stat().st_mtime_ns == before


def test_another_world_in_the_same_folder_is_refused(tmp_path):
    with open_run("testbed", tmp_path, seed=5).writing():
        pass
    held = (tmp_path / "world" / "dev_test.json").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run on another test world .*: choose another folder"):
        open_run("testbed", tmp_path, seed=6)
    assert (tmp_path / "world" / "dev_test.json").read_bytes() == held


def test_a_folder_of_questions_takes_the_place_of_the_world(tmp_path, pytestconfig):
    run = open_run("testbed", tmp_path, data=str(pytestconfig.rootpath / "data" / "sample"), dataset="musique")
    assert run.config.data.world is None
    assert not (tmp_path / "world").exists()


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("max_round: Extra inputs are not permitted")):
        open_run("testbed", tmp_path, max_round=3)


@pytest.mark.parametrize(
    ("row", "metric", "said"),
    [
        ((0.133, 0.066, 0.169), "em", "`kv` against `no_logs`: more (+13.3 [+6.6, +16.9] points of EM)."),
        ((-0.8, -0.92, -0.54), "rounds", "`kv` against `no_logs`: less (-0.80 [-0.92, -0.54] rounds)."),
        ((0.05, -0.032, 0.132), "em", "`kv` against `no_logs`: inconclusive (+5.0 [-3.2, +13.2] points of EM)."),
        ((0.0, -0.004, 0.004), "em", "`kv` against `no_logs`: equal within 3 points (+0.0 [-0.4, +0.4] points of EM)."),
        (
            (-0.05, -0.08, -0.02),
            "rounds",
            "`kv` against `no_logs`: less, but by less than 0.1 rounds (-0.05 [-0.08, -0.02] rounds).",
        ),
        (
            (0.01, -0.02, 0.03),
            "accuracy",
            "`kv` against `no_logs`: equal within 3 points (+1.0 [-2.0, +3.0] points of accuracy).",
        ),
        (
            (0.01, float("nan"), float("nan")),
            "f1",
            "`kv` against `no_logs`: inconclusive (+1.0 [no interval] points of F1).",
        ),
    ],
)
def test_a_difference_in_a_sentence(row, metric, said):
    assert difference("kv", dict(zip(("mean", "low", "high"), row, strict=True)), metric) == said


def test_findings_and_numbers_are_put_on_record(tmp_path):
    run = open_run("testbed", tmp_path / "run")
    shown = conclude(tmp_path / "out", {"em": 0.5, "n": 3}, ["One.", "Two."], run)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert shown.html == "<ul><li>One.</li><li>Two.</li></ul>"
    assert (record["metrics"], record["findings"]) == ({"em": 0.5, "n": 3.0}, ["One.", "Two."])
    assert record["verdict"] == ["One.", "Two."]
    assert record["settings"]["model"] == "testbed"
    hostile = conclude(tmp_path / "out", {}, ["`a` says <b>."], run)
    assert hostile.html == "<ul><li><code>a</code> says &lt;b&gt;.</li></ul>"


@pytest.mark.parametrize("value", [float("nan"), "high", True, None])
def test_a_metric_that_no_gate_could_compare_is_refused(tmp_path, value):
    run = open_run("testbed", tmp_path / "run")
    with pytest.raises(DataError, match=r"The metric em is .*: metrics.json holds finite numbers only"):
        conclude(tmp_path / "out", {"em": value}, [], run)
    assert not (tmp_path / "out").exists()


def test_settings_that_are_no_run_s_are_put_on_record_as_they_are(tmp_path):
    conclude(tmp_path, {"em": 0.5}, ["One."], {"model": "smollm2", "seed": 7})
    assert json.loads((tmp_path / "metrics.json").read_text())["settings"] == {"model": "smollm2", "seed": 7}


def test_answers_are_put_on_record_beside_the_numbers(tmp_path):
    rows = pd.DataFrame({"policy": "kv", "split": "unseen", "question_id": ["a", "b"], "answer": ["The Oak!", None]})
    rows = rows.assign(em=[1.0, 0.0], rounds=[1, 5])
    conclude(tmp_path, {}, [], {}, rows)
    kept = pd.read_parquet(tmp_path / "answers.parquet")
    assert kept.iloc[0][["policy", "split", "question_id"]].tolist() == ["kv", "unseen", "a"]
    assert kept.iloc[0][["answer", "right", "rounds"]].tolist() == ["oak", True, 1.0]
    conclude(tmp_path, {}, [], {})
    assert not (tmp_path / "answers.parquet").exists()  # of an earlier execution
    with pytest.raises(DataError, match="kv answers a twice: name the policies apart"):
        conclude(tmp_path, {}, [], {}, rows.assign(question_id="a"))


DIFFERENCES = pd.DataFrame(
    {"mean": [0.2, -0.5, 0.0], "low": [0.1, -0.9, -0.01], "high": [0.3, -0.1, 0.01]},
    pd.MultiIndex.from_tuples(
        [("kv", "unseen", "em"), ("kv", "unseen", "rounds"), ("text", "seen", "em")],
        names=["policy", "split", "metric"],
    ),
)


def test_a_table_of_differences_is_put_on_record_as_numbers_and_sentences(tmp_path):
    shown = conclude(tmp_path, DIFFERENCES, ["And more."], {"seed": 7})
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["metrics"] == {"em_diff.kv.unseen": 0.2, "rounds_diff.kv.unseen": -0.5, "em_diff.text.seen": 0.0}
    assert record["findings"] == [
        "Unseen questions: `kv` against `no_logs`: more (+20.0 [+10.0, +30.0] points of EM).",
        "Unseen questions: `kv` against `no_logs`: less (-0.50 [-0.90, -0.10] rounds).",
        "Seen questions: `text` against `no_logs`: equal within 3 points (+0.0 [-1.0, +1.0] points of EM).",
        "And more.",
    ]
    assert shown.html.startswith("<ul><li>And more.</li></ul><table ")
    about = "{} questions: <code>{}</code> against <code>no_logs</code>"
    assert re.findall("<td[^>]*>(.*?)</td>", shown.html) == [
        *(about.format("Unseen", "kv"), "more", "+20.0", "+10.0", "+30.0", "points of EM"),
        *(about.format("Unseen", "kv"), "less", "-0.50", "-0.90", "-0.10", "rounds"),
        *(about.format("Seen", "text"), "equal within 3 points", "+0.0", "-1.0", "+1.0", "points of EM"),
    ]
    assert [f'<tr title="{finding}">' in shown.html for finding in record["findings"]] == [True] * 3 + [False]


def test_a_run_stands_for_its_settings_and_its_answers(tmp_path):
    run = small_run(tmp_path / "run", new_lm(ActingLM), policies=("no_logs", "kv_last_round"), splits=("unseen",))
    run.run()
    conclude(tmp_path / "out", run.compare(), run=run)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(record["metrics"]) == {f"{name}_diff.kv_last_round.unseen" for name in ("em", "f1", "rounds")}
    assert record["settings"]["policies"] == ["no_logs", "kv_last_round"]
    kept = pd.read_parquet(tmp_path / "out" / "answers.parquet")
    assert list(kept["question_id"]) == list(run.results["question_id"])


def test_labels_of_other_levels_stand_in_front_and_the_baseline_can_be_another():
    table = pd.concat({"forced logs": DIFFERENCES.xs("seen", level="split")}, names=["logs"])
    said = "Forced logs: `text` against `all logs`: equal within 3 points (+0.0 [-1.0, +1.0] points of EM)."
    assert sentences(table, "all logs") == [said]


def test_policies_that_are_named_twice_are_taken_once(tmp_path):
    run = open_run("testbed", tmp_path, policies=["no_logs", "kv_block", "no_logs"])
    assert run.config.policies == ("no_logs", "kv_block")


def test_a_log_is_shown_as_tokens_of_a_run_s_model(tmp_path):
    run = small_run(tmp_path / "run", new_lm(ActingLM), policies=("no_logs",), splits=("unseen",))
    run.build()
    [words, tokens] = (show(run.logs[0], "kv_last_round", run=own).data for own in (None, run))
    assert "tokens" in tokens
    assert words != tokens
