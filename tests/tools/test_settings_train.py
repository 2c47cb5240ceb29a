"""Every setting of a training run changes what it says it changes, by `python -m lagkit.testbed train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.covered import Covered
from tools.testbed import __main__ as testbed
from tools.testbed import checkpoint
from tools.testbed import train as training
from tools.testbed.packing import make_batch
from tools.testbed.tokenizer import make_tokenizer
from tools.testbed.train import TrainConfig

shows = Covered()
TINY = {
    **{"steps": 3, "drill_steps": 1, "easy_steps": 1, "rows": 1, "tokens": 320, "warm_up": 1, "decay": 0.01},
    **{"hidden": 16, "layers": 1, "heads": 1, "inner": 24, "save_every": 2, "check_every": 100},
}


class Trained(NamedTuple):
    """A finished run: the settings of each batch that it drew and the steps at which it saved, and its folder."""

    batches: list[dict[str, Any]]
    saved: list[int]
    folder: Path

    @property
    def learnt(self) -> list[dict[str, Any]]:
        """Batches that were learnt from; the others were only checked."""
        return [batch for batch in self.batches if not batch["seed"].startswith("check")]

    @property
    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "log.csv")

    @property
    def model(self) -> dict[str, Any]:
        return json.loads((self.folder / "model" / "config.json").read_text(encoding="utf-8"))

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model" / "model.safetensors")

    @property
    def size(self) -> float:
        """Of the weights, as a norm."""
        return sum(float(weight.float().norm()) for weight in self.weights.values())


Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Train:
    """Train by the command line with `TINY`, changed; the same run is not made twice."""
    done: dict[str, Trained] = {}
    real_batch, real_save = make_batch, checkpoint.save

    def run(**changed: Any) -> Trained:
        settings = {**TINY, **changed}
        if (key := json.dumps(settings)) not in done:
            found = Trained([], [], tmp_path_factory.mktemp("train"))

            def batch(seed: str, tokenizer: Any, **how: Any) -> Any:
                found.batches.append({"seed": seed, "stage": "full", **how})
                return real_batch(seed, tokenizer, **how)

            def save(path: Path, model: Any, optimizers: Any, facts: dict[str, Any]) -> None:
                found.saved.append(facts["step"])
                real_save(path, model, optimizers, facts)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training, "make_batch", batch)
                patch.setattr(training, "_CHECK_BATCHES", 1)
                patch.setattr(checkpoint, "save", save)
                words = [f"{name}={value}" for name, value in settings.items()]
                assert testbed.main(["train", str(found.folder), *words]) == 0
            done[key] = found
        return done[key]

    return run


def test_no_setting_is_without_a_test():
    assert set(shows.names) == set(TrainConfig.model_fields)


@shows("steps", "drill_steps", "easy_steps")
def test_steps_are_so_many_of_each_stage(trained):
    def stages(**changed: Any) -> list[str]:
        return [batch["stage"] for batch in trained(**changed).learnt]

    assert stages() == ["drill", "easy", "full"]
    assert stages(drill_steps=2) == ["drill", "drill", "easy"]
    assert stages(easy_steps=0) == ["drill", "full", "full"]
    assert stages(steps=1) == ["drill"]
    assert [trained(**changed).rows["step"].iloc[-1] for changed in ({}, {"steps": 1})] == [3, 1]


@shows("rows", "tokens", "seed")
def test_batches_have_their_size_and_depend_on_the_seed(trained):
    base, other = trained(), trained(rows=2, tokens=352, seed=5)
    for run, rows, tokens, seed in ((base, 1, 320, 0), (other, 2, 352, 5)):
        assert [batch["rows"] for batch in run.learnt] == [rows] * 3
        assert [batch["tokens"] for batch in run.learnt] == [tokens // 2, tokens // 2, tokens]
        assert [batch["seed"] for batch in run.learnt] == [f"{seed}.{step}" for step in range(3)]
    drawn = [training.new_model(TrainConfig.parse({**TINY, "seed": seed}), make_tokenizer()) for seed in (0, 5)]
    first, second = (model.model.layers[0].mlp.up_proj.weight for model in drawn)
    assert not torch.equal(first, second)


@shows("hidden", "layers", "heads", "inner")
def test_the_model_has_its_shape(trained):
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    wide = trained(hidden=32, layers=2, heads=2, inner=40, steps=1)
    found = [[run.model[name] for name in names] for run in (trained(), wide)]
    assert found == [[16, 1, 1, 1, 24], [32, 2, 2, 2, 40]]
    assert wide.weights["model.layers.1.mlp.up_proj.weight"].shape == (40, 32)


@shows("rate", "warm_up", "decay", "check_every")
def test_the_rate_rises_and_falls_and_is_noted(trained):
    def rates(**changed: Any) -> list[float]:
        return list(trained(check_every=1, **changed).rows["rate"])

    # A row is noted after its step, with the rate of the next.
    assert rates() == [0.002, 0.002, 0.0]
    assert rates(rate=0.004) == [0.004, 0.004, 0.0]
    assert rates(warm_up=4) == [0.001, 0.0015, 0.0]
    assert rates(decay=1.0) == [pytest.approx(0.001333), pytest.approx(0.000667), 0.0]
    assert list(trained().rows["step"]) == [3]
    assert list(trained(check_every=2).rows["step"]) == [2, 3]


@shows("weight_decay")
def test_weights_decay(trained):
    assert trained(weight_decay=20.0).size < 0.97 * trained(weight_decay=0.0).size


@shows("save_every")
def test_a_run_is_saved_so_often(trained):
    assert (trained().saved, trained(save_every=1).saved) == ([2, 3], [1, 2, 3])


@shows("compile")
def test_torch_compiles_the_model_if_it_is_asked_to(trained, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: compiled.append(model) or model)
    trained(steps=1, layers=2)
    assert compiled == []
    trained(steps=1, layers=2, compile=True)
    assert len(compiled) == 1
