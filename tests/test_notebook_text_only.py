"""Notebook 11 through an endpoint that plays along; with a server of its own it is run by hand and by the gallery."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import yaml

from lagkit.nightly import notebook as nb
from lagkit.runs.config import TIERS
from lagkit.util.errors import NotebookFailed
from tests.endpoints import KEY, playing, said

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "11_text_only_models.ipynb"
TEXT = "text_last_round_user_turn"


@pytest.fixture
def tier(tmp_path) -> Path:
    """The testbed with a world, an embedder and limits that are small."""
    world = {"entities": 90, "log_questions": 8, "unseen_questions": 6, "hops": [1, 2]}
    settings = yaml.safe_load(TIERS["testbed"].read_text(encoding="utf-8"))
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**settings, "world": world, "embedder": "hash", "max_rounds": 2}))
    return path


def run(tmp_path: Path, **parameters: object) -> tuple[dict, str]:
    """The record that the notebook leaves, and its executed copy as text."""
    given = {"run": str(tmp_path / "run"), "texts": [TEXT], "model": "m", "unseen_questions": 6, **parameters}
    copy = nb.execute(NOTEBOOK, tmp_path / "out", given)
    return json.loads((tmp_path / "out" / "metrics.json").read_text()), copy.read_text(encoding="utf-8")


def test_gains_recovery_and_cost_are_put_on_record_and_the_key_nowhere(tier, tmp_path, monkeypatch):
    monkeypatch.setenv("LAGKIT_API_KEY", KEY)
    with playing([said("I think <ans>nothing</ans>", read=1000, wrote=100)]) as played:
        record, copy = run(tmp_path, tier=str(tier), endpoint=played.url, input_price=2.0, output_price=5.0)
    numbers = record["metrics"]
    assert set(played.keys) == {f"Bearer {KEY}"}
    assert len(played.asked) == 12  # six questions without logs, six with
    assert numbers[f"cost.api.{TEXT}"] == pytest.approx((2 * 1000 + 5 * 100) / 1e6)
    assert numbers[f"prefilled.api.{TEXT}"] == 1000
    assert numbers["em.api.no_logs"] == numbers[f"em_gain.api.{TEXT}"] == numbers[f"rounds_gain.api.{TEXT}"] == 0
    assert numbers[f"em_gain_less_kv.api.{TEXT}"] == pytest.approx(-numbers["em_gain.local.kv_last_round"])
    assert numbers["em_gain_less_kv.local.kv_last_round"] == 0
    outputs = [o for cell in nbformat.reads(copy, 4).cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs) == 2
    assert [o for o in outputs if o.get("name") == "stderr"] == []
    told = "".join(o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {}))
    assert all(finding in told for finding in record["findings"])
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_what_a_chat_cannot_carry_is_refused_before_anything_is_answered(tier, tmp_path):
    with pytest.raises(NotebookFailed, match="choose place user_turn"):
        run(tmp_path, tier=str(tier), texts=["text_last_round"])
    assert not (tmp_path / "run").exists()
