"""Notebook 10 in miniature: families, a folder with weights, and a model that there is none of."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from lagkit.nightly.notebook import execute
from tests.lms import tiny_lm

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "10_architectures.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The executed notebook, its record, and its folder."""
    out, folder = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("models") / "mine"
    lm = tiny_lm()
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    tier = out / "tier.yaml"
    world = "{entities: 90, log_questions: 6, unseen_questions: 4, hops: [1, 2]}"
    limits = "max_rounds: 2\nmax_new_tokens: 8\npassages: 1"
    tier.write_text(f"world: {world}\nembedder: hash\nwording: short\ndtype: float32\n{limits}\n")
    models = {"families": "llama,cohere2,gpt2", "models": f"{folder},nobody/nothing", "timed": 64}
    sizes = {"tier": str(tier), "log_questions": 6, "unseen_questions": 4, "run": str(out / "run")}
    copy = execute(NOTEBOOK, out, {**models, **sizes})
    return nbformat.read(copy, as_version=4), json.loads((out / "metrics.json").read_text()), out, str(folder)


def test_numbers_of_families_and_models_are_on_record(executed):
    _, record, out, folder = executed
    numbers = record["metrics"]
    assert (numbers["families_supported"], numbers["families_refused"]) == (2, 1)
    assert min(numbers[f"digits.{name}"] for name in ("llama", "cohere2", folder)) > 5
    assert numbers["agreement.float32"] == numbers["agreement_worst.float32"] == 1
    assert numbers[f"bytes_per_token.{folder}"] == 128
    assert {f"em_diff.{folder}.kv_last_round", f"rounds_diff.{folder}.text_last_round"} <= set(numbers)
    rows = json.loads((out / "support.json").read_text(encoding="utf-8"))
    table = pd.concat([pd.DataFrame(**rows[part]) for part in ("families", "models")])
    assert table["verdict"].to_dict() == {
        **{"llama": "supported", "cohere2": "supported", "gpt2": "refused"},
        **{folder: "supported", "nobody/nothing": "not measured"},
    }


def test_a_model_that_is_not_there_is_told_in_a_sentence(executed):
    _, record, out, _ = executed
    sentence = "The model nobody/nothing is neither a folder nor in the hub cache"
    assert any(finding.startswith(f"`nobody/nothing` is not measured: {sentence}") for finding in record["findings"])
    assert sentence in (out / "support.md").read_text(encoding="utf-8").partition("## Other models")[2]


def test_it_can_be_read_without_running_it(executed):
    outputs = [output for cell in executed[0].cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 2
    assert [output for output in outputs if output.get("name") == "stderr"] == []


def test_without_models_or_movable_families_there_still_is_a_table(tmp_path):
    copy = execute(NOTEBOOK, tmp_path, {"families": "gpt2", "models": "", "run": str(tmp_path / "run")})
    assert "stderr" not in copy.read_text(encoding="utf-8")
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["metrics"] == {"families_supported": 0, "families_refused": 1}
    assert record["findings"] == ["Families: 1 refused."]
