"""Passages embedded against the limit: what is timed, counted and told; no speed is asserted."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer
from torch import nn

from benchmarks import embed, page
from lagkit.model.hub import resolve_embedder


@pytest.fixture(scope="module")
def row():
    model = SentenceTransformer(str(resolve_embedder("minilm", {})), device="cpu")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(embed, "ROWS", 64)
        patched.setattr(embed, "REPEATS", 1)
        return embed.measured(model, ["A passage.", "Another one, of more words.", "word " * 400]), model


def test_tokens_are_counted_as_the_model_reads_them_and_shares_are_of_the_limit(row):
    found, model = row
    short = sum(len(model.tokenizer(text)["input_ids"]) for text in ("A passage.", "Another one, of more words."))
    assert found["tokens"] == short + 402  # the long one is read in windows, and not cut
    assert found["share"] == pytest.approx(found["limit_s"] / found["took_s"])
    assert found["passages_per_s"] == pytest.approx(3 / found["took_s"])
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    weights = sum(module.weight.numel() for name, module in named if "pooler" not in name)
    assert found["gflops"] == pytest.approx(2e-9 * weights * found["tokens"] / found["limit_s"])


def test_the_second_time_reads_the_cache(row):
    assert row[0]["cached_s"] < row[0]["took_s"]


def test_the_page_has_a_row_for_each_embedder(row):
    told = "\n".join(
        page._embed({"rows": [{"embedder": "minilm", "data": "few", **row[0], "share": 0.5}]}, page.RESULTS)
    )
    assert f"| minilm | few | 3 | {row[0]['tokens']} |" in told
    assert "| 50% |" in told
