"""Notebook 08 on a small test world: what it records, says and leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import yaml

from lagkit.nightly import notebook as nb
from lagkit.runs.config import TIERS

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "08_log_quality.ipynb"
TINY = {"variants": ["kv_last_round"], "shares": [0.0, 1.0]}


@pytest.fixture
def tier(tmp_path) -> Path:
    """The testbed with a world, an embedder and limits that are small: longer questions do not get an answer."""
    world = {"entities": 90, "log_questions": 16, "unseen_questions": 6, "hops": [1, 2, 3]}
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


def test_shares_and_filters_are_measured_for_logs_as_they_are_and_forced_ones(tier, tmp_path):
    record, outputs = run(tmp_path, tier=str(tier), unseen_questions=6)
    numbers = record["metrics"]
    for label in ("logs_as_they_are", "forced_logs"):
        value, gain = (numbers[f"{name}.kv_last_round.{label}.wrong-1.unseen"] for name in ("em", "em_diff"))
        assert 0 <= value <= 1
        assert value - gain == pytest.approx(
            numbers[f"em.kv_last_round.{label}.wrong-0.unseen"]
            - numbers[f"em_diff.kv_last_round.{label}.wrong-0.unseen"]
        )
        assert numbers[f"recall.{label}.all"] == 1
        for name in ("answered", "agreement", "supported", "confidence"):
            lift = numbers[f"precision.{label}.{name}"] - numbers[f"precision.{label}.all"]
            assert numbers[f"precision_diff.{label}.{name}"] == pytest.approx(lift)
    # Every log that is not right has no answer, and every forced one has an answer.
    assert numbers["precision.logs_as_they_are.answered"] == 1
    assert numbers["precision_diff.forced_logs.answered"] == 0
    assert numbers["em_diff.kv_last_round.forced_logs.answered.against_all_logs.unseen"] == 0
    assert "wrong answer" not in record["findings"][0]
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 3
    assert [output for output in outputs if output.get("output_type") == "stream"] == []
    told = "".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
    assert all(finding in told for finding in record["findings"])


def test_a_filter_that_cannot_be_used_is_left_out_with_a_sentence(tier, tmp_path):
    record, outputs = run(
        tmp_path,
        **{"tier": str(tier), "unseen_questions": 6, "forced": False},
        **{"filters": ["answered", "agreement"], "second": "no_logs+passages=1"},
    )
    assert "recall.logs_as_they_are.answered" in record["metrics"]
    assert not any("agreement" in name or "forced" in name for name in record["metrics"])
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert printed.startswith("logs as they are: no_logs+passages=1 would only repeat the first run")
