"""Notebook 09 on the sample, with rounds of a few tokens."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import yaml

from lagkit.nightly import notebook as nb
from lagkit.runs.config import TIERS

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "09_online_store.ipynb"


@pytest.fixture
def tier(tmp_path) -> Path:
    """The testbed's model for the sample, with an embedder and limits that are small."""
    settings = yaml.safe_load(TIERS["testbed"].read_text(encoding="utf-8"))
    path = tmp_path / "small.yaml"
    small = {"embedder": "hash", "max_rounds": 2, "max_new_tokens": 8, "dataset": "musique"}
    path.write_text(yaml.safe_dump({**settings, **small}))
    return path


def test_the_record_of_a_stream_of_the_sample(tier, tmp_path, pytestconfig):
    sample = str(pytestconfig.rootpath / "data" / "sample")
    given = {
        "tier": str(tier),
        "data": sample,
        "log_questions": 5,
        "unseen_questions": 3,
        "cap": 2,
        "parts": 2,
        "orders": 1,
    }
    copy = nb.execute(NOTEBOOK, tmp_path / "out", {**given, "run": str(tmp_path / "run")})
    outputs = [o for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code" for o in cell.outputs]
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    numbers = record["metrics"]
    assert (numbers["logs.append"], numbers["logs.cap"], numbers["logs.static"]) == (8, 2, 5)
    assert numbers["logs.dedup+cap"] <= 2
    for name in ("append", "dedup", "cap", "dedup+cap"):
        gained = numbers[f"em.{name}.late"] - numbers["em.no_logs.late"]
        assert numbers[f"em_diff.{name}.late"] == pytest.approx(gained)
        behind = numbers[f"em.{name}.late"] - numbers["em.static.late"]
        assert numbers[f"against_static.em.{name}.late"] == pytest.approx(behind)
    assert 0 < numbers["bytes.cap"] < numbers["bytes.append"]
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 2
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    told = "".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
    assert all(finding in told for finding in record["findings"])
