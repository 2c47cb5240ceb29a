"""Models from folders and by name: what is loaded, what is refused, and what a fingerprint tells apart."""

from __future__ import annotations

import re

import pytest
import torch

from lagkit.model.context import Context
from lagkit.model.families import tiny
from lagkit.model.lm import LM
from lagkit.util.errors import ConfigError, ModelNotFound, UnsupportedModel
from tests.helpers.lms import new_lm, tiny_lm, tokenizer


def asked(lm: LM) -> Context:
    river = tuple(lm.tokenize("The river"))
    return Context(tuple(lm.tokenize("Who?")), (lm.encode(Context(river), 0, len(river)),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_lm().model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def test_a_saved_model_comes_back_with_its_fingerprint(folder):
    lm = LM.load(str(folder), device="cpu", dtype="float32")
    assert lm.fingerprint == tiny_lm().fingerprint
    assert lm.generate([asked(lm)], 12)[0].ids == tiny_lm().generate([asked(tiny_lm())], 12)[0].ids
    assert repr(lm) == f"LM({str(folder)!r}, llama, float32, cpu)"


def test_bfloat16_is_the_default(folder):
    lm = LM.load(str(folder), device="cpu")
    assert lm.dtype == torch.bfloat16
    assert asked(lm).blocks[0].keys.dtype == torch.bfloat16
    assert lm.generate([asked(lm)], 3)[0].usage.generated == 3


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_named(folder, tmp_path, file):
    for part in folder.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes() if part.name != file else part.read_bytes()[:100])
    with pytest.raises(ModelNotFound, match=re.escape(str(tmp_path))):
        LM.load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "gpu"}, "There is no device 'gpu': use cpu, cuda, cuda:N (the GPU number N) or mps."),
        ({"device": ""}, "There is no device '': use cpu"),
        ({"device": "cuda"}, "There is no device cuda here (torch finds 0 GPUs): leave out device, or use cpu."),
        ({"device": "cuda:3"}, "There is no device cuda:3 here (torch finds 0 GPUs)"),
        ({"device": "mps"}, "There is no device mps here: leave out device, or use cpu."),
        ({"dtype": "fp32"}, "There is no dtype 'fp32': use float32 or bfloat16."),
        ({"dtype": "int8"}, "There is no dtype 'int8'"),
    ],
)
def test_wrong_devices_and_number_formats_are_refused_before_anything_is_fetched(monkeypatch, wrong, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("lagkit.model.lm.resolve_model", pytest.fail)
    with pytest.raises(ConfigError, match=re.escape(message)):
        LM.load("smollm2", **wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/missing", r"The folder .*/missing does not exist; give an existing folder, a hub id or an alias"),
        ("smollm3", "'smollm3' is no known model: the aliases are qwen, smollm2"),
        ("owner/unheard-of", "owner/unheard-of is neither a folder nor in the hub cache"),
        ("{folder}", "holds no model: config.json is missing"),
    ],
)
def test_an_unknown_model_is_refused(tmp_path, name, message):
    with pytest.raises(ModelNotFound, match=message):
        LM.load(name.format(folder=tmp_path))


def test_a_model_whose_keys_cannot_be_moved_is_refused():
    with pytest.raises(UnsupportedModel, match="gpt2"):
        LM(tiny("gpt2", vocab_size=600), tokenizer(), "tiny-gpt2")


def test_fingerprint_names_what_differs():
    base = tiny_lm().fingerprint
    assert set(base) == {"name", "config", "rope", "tokenizer", "weights"}
    assert new_lm(LM).fingerprint == base

    def changed(lm: LM) -> set[str]:
        return {part for part in base if lm.fingerprint[part] != base[part]}

    assert changed(new_lm(LM, rope_parameters={"rope_type": "default", "rope_theta": 5_000.0})) == {"rope"}
    assert changed(new_lm(LM, rms_norm_eps=1e-3)) == {"config"}
    assert changed(new_lm(LM, "qwen2")) >= {"name", "config", "weights"}
    trained = new_lm(LM)
    with torch.no_grad():
        trained.model.model.layers[1].self_attn.k_proj.weight[0, 0] += 1
    assert changed(trained) == {"weights"}
    longer = tokenizer()
    longer.add_tokens(["extra"])
    assert changed(LM(tiny_lm().model, longer, "tiny-llama")) == {"tokenizer"}
