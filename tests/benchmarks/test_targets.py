"""The benchmark with a tiny model: what is measured, how it is judged and where it is written; no speed is asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import targets
from lagkit.datasets import loaders as data
from lagkit.logs.retrieve import HashEmbedder
from lagkit.model.families import tiny
from lagkit.model.lm import LM
from lagkit.util.errors import ConfigError
from tests.helpers.lms import VOCAB, ActingLM, tokenizer


def load(name, *, dtype, kind=ActingLM, **config):
    model = tiny("llama", vocab_size=VOCAB, max_position_embeddings=4096, **config)
    return kind(model.to(getattr(torch, dtype)), tokenizer(), name)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    return out, targets.run_bench(out, quick=True, load=load, embedder=HashEmbedder())


@pytest.mark.slow
def test_every_key_has_a_value_its_sizes_and_a_verdict(ran):
    _, report = ran
    assert set(report) == set(targets.TARGETS)
    for key, found in report.items():
        bound, kind = targets.TARGETS[key]
        assert found["value"] > 0 or key == "store_open_extra_mb"
        assert found["sizes"]
        assert found["met"] == (found["value"] <= bound if kind == "at most" else found["value"] >= bound)


@pytest.mark.slow
def test_what_is_written_is_what_is_returned_with_the_machine_beside_it(ran):
    out, report = ran
    written = json.loads(out.read_text())
    about = {key: written.pop(key) for key in ("quick", "model", "machine", "versions", "seconds")}
    assert written == json.loads(json.dumps(report))
    assert about["quick"] is True
    assert about["machine"]["threads"] == torch.get_num_threads()
    assert about["versions"]["torch"] == torch.__version__
    assert [file.name for file in out.parent.iterdir()] == ["bench.json"]


@pytest.mark.slow
def test_parts_of_an_injection_add_up(ran):
    found = ran[1]["inject_over_prefill"]
    assert found["value"] == pytest.approx(found["inject_ms"] / found["prefill_ms"])
    assert list(found["parts_ms"]) == ["open", "read and check", "realign"]
    assert max(found["parts_ms"].values()) < found["inject_ms"]
    sizes = {"logs": 3, "tokens each": 150, "repeats": 3, "dtype": "bfloat16"}
    assert found["sizes"] == {**sizes, "model": "smollm2"}
    assert ran[1]["inject_over_prefill_qwen"]["sizes"] == {**sizes, "model": "qwen"}


@pytest.mark.slow
def test_stores_are_opened_in_processes_of_their_own(ran):
    opened, extra, searched = (ran[1][key] for key in ("store_open_s", "store_open_extra_mb", "search_ms"))
    assert opened["value"] < opened["with_first_search_s"]
    assert extra["value"] <= extra["with_first_search_mb"] + 1
    assert searched["value"] <= searched["slowest_ms"]
    assert searched["sizes"] == {"logs": 500, "dim": 384, "queries": 200, "k": 3}


@pytest.mark.slow
def test_batches_give_the_same_answers_in_float32(ran):
    found = ran[1]["batch_speedup"]
    assert found["same_answers"] is True
    assert (found["dtypes"]["float32"]["same_answers"], found["dtypes"]["float32"]["same_responses"]) == (4, 4)
    chosen = found["dtypes"][found["sizes"]["dtype"]]
    rates = chosen["questions_per_second"]
    assert found["value"] == pytest.approx(rates["batched"] / rates["one by one"])


def test_answers_that_depend_on_the_batch_fail_whatever_the_speed():
    class Moody(LM):
        def generate(self, contexts, *args, **settings):
            return [
                replace(g, text=f"<ans>{len(contexts)}</ans>") for g in super().generate(contexts, *args, **settings)
            ]

    models = {dtype: load("tiny", dtype=dtype, kind=Moody) for dtype in ("float32", "bfloat16")}
    sizes = replace(targets.QUICK, questions=3, max_new_tokens=2)
    found = targets.batch_speedup(models, HashEmbedder(), data.load("data/sample"), sizes)
    assert found["same_answers"] is False
    assert found["dtypes"]["float32"]["same_answers"] == 0
    assert not targets._meets("batch_speedup", {**found, "value": 100.0})
    assert targets._meets("batch_speedup", {"value": 100.0, "same_answers": True})


def test_bytes_overhead_at_the_shape_of_smollm2():
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    heads |= {"hidden_size": 36, "num_hidden_layers": 30}
    found = targets.bytes_overhead(load("tiny", dtype="bfloat16", kind=LM, **heads), targets.Sizes())
    assert (found["sizes"]["layers"], found["sizes"]["kv_heads"], found["sizes"]["head_dim"]) == (30, 3, 64)
    assert list(found["by_tokens"]) == ["28", "150", "500"]
    assert 1 < min(found["by_tokens"].values()) < found["value"] == found["by_tokens"]["28"] <= 1.02


def test_table_says_what_is_missed():
    found = {"value": 0.0712345, "met": False, "sizes": {"logs": 3, "dtype": "bfloat16"}}
    row = targets.table({"inject_over_prefill": found}).loc["inject_over_prefill"]
    assert row.tolist() == ["0.07123", "at most 0.03", "NO", "logs 3, dtype bfloat16"]


def test_a_place_that_cannot_be_written_is_refused_before_a_model_is_loaded(tmp_path):
    for out in (tmp_path, tmp_path / "missing" / "bench.json"):
        with pytest.raises(ConfigError, match="The results cannot be written to"):
            targets.run_bench(out, load=pytest.fail)


def test_the_command_passes_its_words_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(targets, "run_bench", lambda out, quick: asked.append((out, quick)))
    targets.main(["--out", str(tmp_path / "x.json"), "--quick"])
    assert asked == [(tmp_path / "x.json", True)]
