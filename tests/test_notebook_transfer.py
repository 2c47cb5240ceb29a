"""Notebook 07 on a small test world, and on data that cannot be changed."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import yaml

from lagkit.nightly import notebook as nb
from lagkit.runs.config import TIERS

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "07_negative_transfer.ipynb"
TINY = {"variants": ["kv_last_round"], "shares": [1.0], "thresholds": [0.4]}


@pytest.fixture
def tier(tmp_path) -> Path:
    """The testbed with a world, an embedder and limits that are small."""
    world = {"entities": 90, "log_questions": 8, "unseen_questions": 6, "hops": [1, 2]}
    settings = yaml.safe_load(TIERS["testbed"].read_text(encoding="utf-8"))
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**settings, "world": world, "embedder": "hash", "max_rounds": 2}))
    return path


def run(tmp_path: Path, **parameters: object) -> tuple[dict, list]:
    """The record that the notebook leaves, and the outputs of its cells."""
    copy = nb.execute(NOTEBOOK, tmp_path / "out", {**TINY, "run": str(tmp_path / "run"), **parameters})
    cells = nbformat.read(copy, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return json.loads((tmp_path / "out" / "metrics.json").read_text()), outputs


def test_on_a_test_world_all_three_kinds_of_logs_and_both_stores_are_measured(tier, tmp_path):
    record, outputs = run(tmp_path, tier=str(tier), unseen_questions=6)
    assert {name.split(".")[2] for name in record["metrics"] if name.startswith("net.")} == {
        *("removed-0", "removed-1", "changed-0", "changed-1"),
    }
    numbers = record["metrics"]
    for mix in ("removed-0", "changed-1"):
        gave, took, net = (numbers[f"{side}.kv_last_round.{mix}.unseen"] for side in ("positive", "negative", "net"))
        assert net == pytest.approx(gave - took)
    assert {numbers[f"threshold.kv_last_round.{store}"] for store in ("store_as_it_is", "aged_store")} <= {-1.0, 0.4}
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 4
    without = (
        numbers["gated_em.kv_last_round.store_as_it_is.all_logs.unseen"] - numbers["net.kv_last_round.removed-0.unseen"]
    )
    for store in ("store_as_it_is", "aged_store"):
        em, difference = (f"{name}.kv_last_round.{store}" for name in ("gated_em", "gated_em_diff"))
        every = numbers[f"{em}.all_logs.unseen"]
        for use in ("all_logs", "similar_logs", "confident_answers", "both", "last_resort"):
            assert numbers[f"{difference}.{use}.unseen"] == pytest.approx(numbers[f"{em}.{use}.unseen"] - every)
        assert numbers[f"{em}.last_resort.unseen"] >= without
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    told = "".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
    assert all(finding in told for finding in record["findings"])


def test_of_data_that_cannot_be_changed_the_contradicting_part_is_left_out(tier, tmp_path, pytestconfig):
    sample = str(pytestconfig.rootpath / "data" / "sample")
    tier.write_text(tier.read_text() + "\ndataset: musique\n")
    record, outputs = run(tmp_path, tier=str(tier), data=sample, log_questions=4, unseen_questions=3)
    assert not any("changed" in name or "aged" in name for name in record["metrics"])
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert "they cannot be changed, so contradicting logs are left out" in printed
