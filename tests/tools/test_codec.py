"""What schemes cost, against what can be said beforehand; and the page that tells it."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from lagkit.model.codec import pack, unpack
from lagkit.model.kv import KVBlock
from lagkit.util.errors import ConfigError
from tests.helpers.blocks import block_of, same
from tests.helpers.lms import SAMPLE, small_run, tiny_lm
from tools.codec.__main__ import main
from tools.codec.loss import AGAIN, ANSWERED, SCHEMES, Loss, Scheme, file_sizes, relative_error, shortest
from tools.codec.page import Measured, findings


def test_the_int8_scheme_is_the_codec_of_stores():
    block = block_of(20)
    packed = pack(block.keys, block.values, "int8")
    expected = KVBlock(*unpack(packed, "int8", "float32"), block.ids)
    assert same(SCHEMES["int8"].lossy(block), expected)
    assert SCHEMES["int8"].nbytes(block) == sum(t.nbytes for t in packed.values())


def test_errors_grow_with_fewer_bits_as_uniform_rounding_says():
    """Rounding to steps of `s` is off by s / sqrt(12) on average."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(4, 4, 400, 64, generator=generator) * 2 - 1
    block = KVBlock(numbers, numbers, torch.arange(400))
    for scheme in (Scheme(8), Scheme(4), Scheme(8, offset=True), Scheme(4, offset=True)):
        # Over -1..1: 2^bits - 1 steps with offsets, and up to 9% larger ones without.
        expected = 2 / (2**scheme.bits - 1) / 12**0.5 / numbers.norm() * numbers.numel() ** 0.5
        error = relative_error(numbers, scheme.lossy(block).keys)
        assert 0.97 * expected < error < 1.16 * expected
    # 4-bit numbers of 400 tokens and 64 channels; scales of a byte, or scale and offset of two each.
    assert Scheme(4).nbytes(block) == numbers.numel() + 16 * (400 + 64)
    assert Scheme(4, offset=True).nbytes(block) == numbers.numel() + 4 * 16 * (400 + 64)
    assert Scheme(8, keys="token").nbytes(block) == 2 * numbers.numel() + 16 * 800


def test_keys_with_large_channels_need_scales_by_channel():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 2, 30, 8, generator=generator) * torch.tensor([100.0] + [1.0] * 7)
    block = KVBlock(keys, keys, torch.arange(30))
    small = keys[..., 1:]
    by_channel, by_token = (
        relative_error(small, SCHEMES[name].lossy(block).keys[..., 1:]) for name in ("int8", "int8, keys by token")
    )
    assert by_channel < 0.01
    assert by_token > 10 * by_channel


def test_the_shortest_block_that_meets_the_target():
    """The testbed's shape, whose logs have 15 tokens and more."""
    first = shortest(6, 3, 64)
    assert 10 <= first <= 15
    for tokens, meets in ((first, True), (first - 1, False)):
        numbers = torch.ones(6, 3, tokens, 64)
        sizes = file_sizes(KVBlock(numbers, numbers, torch.arange(tokens)))
        assert (sizes["int8"] <= 0.53 * sizes["none"]) is meets
    assert shortest(1, 1, 1, limit=3) == 4


def test_a_run_is_measured_and_resumes(tmp_path, monkeypatch):
    run = small_run(tmp_path, tiny_lm(), splits=("unseen",), policies=("no_logs", "kv_last_round"))
    loss = Loss(run, "kv_last_round", 2)
    answers = loss.answers()
    schemes = loss.schemes()
    assert list(schemes.index) == list(SCHEMES)
    assert 0 < schemes.loc["int8", "keys"] < 0.01 < schemes.loc["int4", "keys"] < 0.15
    assert 0 < schemes.loc["int8", "kl"] < schemes.loc["int4", "kl"]
    assert list(answers.index) == [AGAIN, *ANSWERED]
    assert answers["n"].tolist() == [3, 3, 3]
    assert answers.loc[AGAIN, "same_responses"] == 3  # in float32 answers do not depend on batches
    assert answers.loc["int8", "same"] == 3
    assert (answers.loc["int8", "low"], answers.loc["int8", "high"]) == pytest.approx((0.4385, 1), abs=1e-4)
    monkeypatch.setattr(type(run), "agent", None)
    again = Loss(run, "kv_last_round", 2).answers()
    assert again["same_responses"].tolist() == answers["same_responses"].tolist()


def test_runs_that_say_nothing_of_codecs_are_refused(tmp_path):
    run = small_run(tmp_path, tiny_lm())
    for policy in ("no_logs", "text_last_round"):
        with pytest.raises(ConfigError, match=f"{policy} keeps no KV of whole logs"):
            Loss(run, policy, 2)
    with pytest.raises(ConfigError, match="own store is kept as int8"):
        Loss(small_run(tmp_path / "int8", tiny_lm(), codec="int8"), "kv_last_round", 2)


def measured(same: dict[str, int], worst: float = 0.52) -> Measured:
    row = {"n": 100, "low": 0.9, "high": 1.0, "same_responses": 90, "right": 0.5, "right_before": 0.5}
    answers = pd.DataFrame({name: {**row, "same": number} for name, number in same.items()}).T
    files = {"all": 0.51, "worst": worst, "worst_tokens": 15, "tokens": 20.0, "from_tokens": 13}
    schemes = pd.DataFrame({"keys": [0.005, 0.004], "bytes": [0.51, 0.56]}, index=["int8", "int8 with offsets"])
    return Measured({}, 10, schemes, answers, files, {})


def test_findings_follow_from_the_numbers():
    good = measured({AGAIN: 100, "int8": 99, "int4 with offsets": 99})
    bad = measured({AGAIN: 97, "int8": 100, "int4 with offsets": 98}, worst=0.54)
    told = findings({"a": good, "b": bad})
    assert told[0].startswith("`int8` misses the target for some logs: bytes of its files over those of bf16 are 0.510")
    assert findings({"a": good})[0].startswith("`int8` meets the target for every log")
    assert told[1].startswith("`int8` meets the target everywhere, 99% of the answers the same: 99 of 100 (99.0% ")
    assert told[2].startswith("`int4 with offsets` misses the target in b, 99% of the answers the same: 99 of ")
    offsets = (
        "In a offsets would change the error of int8 keys from 0.0050 to 0.0040, and the bytes from 0.510 to 0.560."
    )
    assert told[3:5] == [offsets, offsets.replace("In a", "In b")]
    assert told[5].startswith("Rounding alone, by the uncompressed store in other batches, leaves 100 of 100")


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lagkit.model.lm.LM.load", lambda *args, **kwargs: tiny_lm())
    settings = ["dtype=float32", "embedder=hash", "wording=plain", "log_questions=4", "seen_questions=2"]
    settings += ["unseen_questions=2", "max_rounds=1", "max_new_tokens=3", "splits=[unseen]", f"data={SAMPLE}"]
    page = tmp_path / "pages" / "codec.md"
    command = ["smollm2", "--out", str(tmp_path), "--page", str(page), "--cases", "1", *settings]
    assert main(command) == 0
    told = page.read_text(encoding="utf-8")
    assert told in capsys.readouterr().out
    assert told.count("2 of 2") >= 3
    assert "## smollm2\n\nsmollm2 in float32: 4 logs of " in told
