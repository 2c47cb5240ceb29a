"""Notebook 10 in miniature: families, a folder with weights, and a model that there is none of."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.helpers import cells
from tests.helpers.executed import execute
from tests.helpers.lms import tiny_lm

NAME = "10_architectures"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The executed notebook, and the folder of a model of ours."""
    out, folder = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("models") / "mine"
    lm = tiny_lm()
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    limits = {"wording": "short", "max_rounds": 2, "max_new_tokens": 8}
    tier = cells.small_tier(out, **limits)
    models = {"families": ["llama", "cohere2", "gpt2"], "models": [str(folder), "nobody/nothing"], "timed": 64}
    sizes = {"log_questions": 6, "unseen_questions": 4, "run": str(out / "run")}
    return execute(NAME, out, tier=tier, **models, **sizes), str(folder)


def test_numbers_of_families_and_models_are_on_record(executed):
    found, folder = executed
    numbers, out = found.metrics, found.copy.parent
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
    found, _ = executed
    sentence = "The model nobody/nothing is neither a folder nor in the hub cache"
    assert any(finding.startswith(f"`nobody/nothing` is not measured: {sentence}") for finding in found.findings)
    assert sentence in (found.copy.parent / "support.md").read_text(encoding="utf-8").partition("## Other models")[2]


def test_it_can_be_read_without_running_it(executed):
    assert len(executed[0].figures) == 2


@pytest.mark.slow
def test_without_models_or_movable_families_there_still_is_a_table(tmp_path):
    found = execute(NAME, tmp_path, families=["gpt2"], models=[], run=str(tmp_path / "run"))
    assert found.metrics == {"families_supported": 0, "families_refused": 1}
    assert found.findings == ["Families: 1 refused."]
