"""The notebooks that compare variants, run on few questions: they end with findings and finite numbers."""

from __future__ import annotations

import json
import re

import pytest

from tests.helpers import cells
from tests.helpers.executed import execute

CHOICE = """
model: testbed
dtype: float32
embedder: hash-16384
wording: examples
max_rounds: 2
max_new_tokens: 4
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small world in two rounds, and a folder of logs and answers that the notebooks share."""
    folder = tmp_path_factory.mktemp("shared")
    sizes = {"log_questions": 8, "unseen_questions": 5}
    tier = cells.small_tier(folder, max_rounds=2, splits=["unseen"])  # notebook 02 asks seen questions all the same
    return {"tier": tier, "run": str(folder / "run"), **sizes}


@pytest.fixture
def choice(tmp_path):
    """Multiple choice: a tier and a folder of questions, as parameters."""
    (tmp_path / "choice.yaml").write_text(CHOICE)
    folder = tmp_path / "mmlupro"
    folder.mkdir()
    for file, first in (("dev_train.json", 0), ("dev_test.json", 100)):
        questions = [
            {
                "question_id": first + i,
                "question": f"Is it {i}?",
                "options": ["no", "yes"],
                "answer": "A",
                "category": "c",
            }
            for i in range(6)
        ]
        (folder / file).write_text(json.dumps(questions))
    return {
        "tier": str(tmp_path / "choice.yaml"),
        "data": str(folder),
        "run": str(tmp_path / "run"),
        "log_questions": 4,
    }


def test_variants_are_compared(small, tmp_path):
    chosen = {"policies": ["text_last_round"], "baselines": ["no_logs+passages=2"], "seen_questions": 6}
    found = execute("02_compare_variants", tmp_path, **chosen, **small)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["variants"]) == ["no_logs", "text_last_round", "no_logs+passages=2", "kv_last_round"]
    numbers = summary["variants"]["kv_last_round"]["unseen"]
    assert (numbers["n"], len(numbers["em_diff"])) == (5, 3)
    assert found.metrics["em_diff.kv_last_round.unseen"] == numbers["em_diff"][0]
    assert [sum(stratum["n"] for stratum in of.values()) for of in summary["strata"].values()] == [5] * 4
    assert len(found.figures) == 5
    told = (
        r"At the nearest budget of doing without \(\d+ tokens read, \d+ with logs\), `kv_last_round` against `no_logs"
    )
    assert any(re.match(told, finding) for finding in found.findings)
    assert any(
        re.match(r"Of 5 unseen questions, `kv_last_round` turned \d+ from wrong to right", f) for f in found.findings
    )


@pytest.mark.slow
def test_variants_are_compared_where_nothing_is_shared(tmp_path):
    parameters = {"run": str(tmp_path / "run"), "split": "disjoint", "policies": ["kv_last_round"], "seen_questions": 4}
    found = execute("02_compare_variants", tmp_path, log_questions=12, unseen_questions=12, **parameters)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {policy: list(strata) for policy, strata in summary["strata"].items()} == {
        "no_logs": ["none"],
        "kv_last_round": ["none"],
    }
    assert summary["strata"]["kv_last_round"]["none"] == summary["variants"]["kv_last_round"]["unseen"]
    [told] = [finding for finding in found.findings if finding.startswith("The split is disjoint")]
    assert "the largest of 424; 26 are seen and 424 unseen, as near to the authors' 150 and 300 as" in told
    assert len(found.figures) == 5


@pytest.mark.slow
def test_multiple_choice_has_no_strata_and_that_is_said(choice, tmp_path):
    parameters = {"policies": ["kv_last_round"], "seen_questions": 3, **choice}
    found = execute("02_compare_variants", tmp_path / "out", **parameters)
    assert [f for f in found.findings if f.startswith("The data set mmlupro names no sub-questions")]
    assert not [f for f in found.findings if "overlap" in f]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["strata"] == {}
    assert len(found.figures) == 3  # differences, costs and changed answers


def test_one_run_gives_all_budgets(small, tmp_path):
    given = {**small, "run": str(tmp_path / "run"), "policies": ["text_last_round"], "max_rounds": 3}
    found = execute("04_round_budget", tmp_path, **given)
    measured = found.metrics
    scores = [measured[f"em.no_logs.round_{limit}"] for limit in (1, 2, 3)]
    assert scores == sorted(scores)
    assert {f"em_diff.text_last_round.round_{limit}" for limit in (1, 2, 3)} < set(measured)
    assert measured["rounds_to_ceiling.no_logs"] in (1, 2, 3)
    assert len(found.figures) == 2


def test_logs_are_built_and_looked_into(small, tmp_path):
    found = execute("01_build_logs", tmp_path, timed=1, **small)
    measured = found.metrics
    assert measured["logs"] == 8
    assert measured["bytes.text_last_round"] < measured["bytes.kv_last_action"] < measured["bytes.kv_all_rounds"]
    assert 0 <= measured["found.1"] <= measured["found.3"] <= 1
    pages = "".join(data["text/html"] for data in found.shown if "text/html" in data)
    assert "Round 1" in pages
    assert "because" in pages


def test_storage_is_weighed_against_what_it_buys(small, tmp_path):
    found = execute("03_storage_ablation", tmp_path, **small)
    measured = found.metrics
    assert measured["bytes.kv_last_action"] < measured["bytes.kv_last_round"] < measured["bytes.kv_all_rounds"]
    assert measured["bytes.kv/last_round/conversation/front"] == measured["bytes.kv_block"]
    assert {"em.no_logs", "rounds.kv_block", "em_diff.kv_last_two_rounds"} < set(measured)
    assert len(found.figures) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "metric"),
    [
        ("01_build_logs", {"timed": 1}, "right"),
        (
            "02_compare_variants",
            {"policies": ["kv_last_round"], "seen_questions": 3},
            "accuracy_diff.kv_last_round.unseen",
        ),
        ("03_storage_ablation", {}, "accuracy_diff.kv_block"),
        ("04_round_budget", {"policies": ["kv_last_round"], "max_rounds": 2}, "accuracy.kv_last_round.round_2"),
    ],
)
def test_multiple_choice_has_accuracy(choice, tmp_path, name, parameters, metric):
    found = execute(name, tmp_path / "out", **parameters, **choice)
    assert metric in found.metrics
