"""Training resumes where it was killed, refuses what does not fit, and leaves a model that loads."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from lagkit.model.lm import LM
from lagkit.util.errors import ConfigError, DataError, ModelNotFound
from tools.testbed.checkpoint import read_facts
from tools.testbed.packing import make_batch
from tools.testbed.tokenizer import make_tokenizer
from tools.testbed.train import TrainConfig, new_model, train

TINY = TrainConfig(
    steps=6,
    drill_steps=2,
    easy_steps=2,
    rows=2,
    tokens=320,
    hidden=32,
    layers=2,
    heads=2,
    inner=48,
    warm_up=2,
    save_every=2,
    check_every=3,
)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory):
    return train(tmp_path_factory.mktemp("train"), TINY)


def test_a_trained_model_loads_in_bf16_and_speaks_its_tokenizer(in_one_go):
    lm = LM.load(str(in_one_go))
    assert lm.dtype == torch.bfloat16
    assert lm.model.config.vocab_size == len(lm.tokenizer)
    assert lm.tokenizer.bos_token == "<s>"
    assert lm.chat([{"role": "user", "content": "a"}], open_turn=True) == "<s><|user|>a<|end|><|assistant|>"


def test_training_in_pieces_gives_the_same_model(in_one_go, tmp_path):
    # The rate of a step depends on how many there will be; without decay at the end it does not.
    flat = {"decay": 1e-9}
    train(tmp_path / "a", TINY.model_copy(update=flat))
    train(tmp_path / "b", TINY.model_copy(update={**flat, "steps": 4}))
    train(tmp_path / "b", TINY.model_copy(update=flat))
    a, b = weights(tmp_path / "a" / "model"), weights(tmp_path / "b" / "model")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_killed_run_resumes_at_its_last_checkpoint(tmp_path):
    settings = {**TINY.model_dump(), "steps": 100_000, "check_every": 100_000}
    words = [f"{key}={value}" for key, value in settings.items()]
    run = subprocess.Popen([sys.executable, "-m", "tools.testbed", "train", str(tmp_path), *words])
    try:
        limit = time.monotonic() + 120
        while not (tmp_path / "checkpoint.safetensors").exists():
            assert run.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.2)
    finally:
        run.kill()
        run.wait()
    step = read_facts(tmp_path / "checkpoint.safetensors")["step"]
    assert step >= 2
    train(tmp_path, TrainConfig(**{**settings, "steps": step + 2, "decay": 1e-9}))
    assert read_facts(tmp_path / "checkpoint.safetensors")["step"] == step + 2


def test_the_log_has_a_row_for_each_check(in_one_go):
    rows = (in_one_go.parent / "log.csv").read_text().splitlines()
    assert rows[0].startswith("step,loss,rate,tokens_per_second,answer_1")
    assert [row.split(",")[0] for row in rows[1:]] == ["3", "6"]


def test_other_settings_are_refused_in_the_same_folder(in_one_go):
    with pytest.raises(ConfigError, match=r"other settings \(hidden was 32 and is 64\)"):
        train(in_one_go.parent, TINY.model_copy(update={"hidden": 64, "steps": 8}))


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match=r"checkpoint\.safetensors cannot be read"):
        train(tmp_path, TINY)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"no checkpoint"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 5}, r"hidden \(192\) must be a multiple of heads \(5\)"),
        ({"steps": 0}, "steps: Input should be greater than 0"),
        ({"pace": 1}, "pace: Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"Wrong training settings: .*{message}"):
        TrainConfig.parse(settings)


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    config = TrainConfig(steps=100, warm_up=10, decay=0.5, rate=1.0)
    assert config.rate_at(0) == pytest.approx(0.1)
    assert config.rate_at(30) == 1.0
    assert config.rate_at(75) == pytest.approx(0.5)
    assert config.rate_at(100) == 0.0


def test_a_model_with_another_models_tokenizer_is_refused(in_one_go, tmp_path):
    for file in in_one_go.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = raw["model"]["vocab"]
    swapped = {"▁Answer": vocab["▁from"], "▁from": vocab["▁Answer"]}
    raw["model"]["vocab"] = {**vocab, **swapped}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ModelNotFound, match="tokenizer is not the one that its model was trained with"):
        LM.load(str(tmp_path))


def test_at_the_start_the_first_layers_heads_look_one_two_and_three_places_back():
    model = new_model(TrainConfig(), make_tokenizer())
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 1000, (1, 60), generator=torch.Generator().manual_seed(0))
    [attention] = model.model(ids, output_attentions=True).attentions[0]
    for head, weights in enumerate(attention):
        back = weights.diagonal(-(head + 1))[10:]
        assert back.mean() > 0.7
        assert (weights[20:].argmax(-1) == torch.arange(20, 60) - (head + 1)).float().mean() > 0.95


def test_an_interrupted_run_resumes_to_the_same_model_and_log(in_one_go, tmp_path, monkeypatch):
    def interrupted(seed, *args, **kwargs):
        if seed == "0.5":  # behind the checkpoint at 4, between the checks at 3 and 6
            raise KeyboardInterrupt
        return make_batch(seed, *args, **kwargs)

    monkeypatch.setattr("tools.testbed.train.make_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, TINY)
    monkeypatch.undo()
    resumed = train(tmp_path, TINY)
    a, b = weights(in_one_go), weights(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [
        pd.read_csv(folder / "log.csv").drop(columns="tokens_per_second") for folder in (in_one_go.parent, tmp_path)
    ]
    pd.testing.assert_frame_equal(*logs)


def test_rows_too_short_for_any_round_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="No round fits into 20 tokens"):
        train(tmp_path, TINY.model_copy(update={"tokens": 40}))
