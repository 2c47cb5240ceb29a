"""The share of the machine's limit, with a tiny model: what is timed and what is told; no speed is asserted."""

from __future__ import annotations

import pytest
import torch

from benchmarks import limits, page
from lagkit.model.context import Generation
from lagkit.model.lm import LM
from lagkit.model.upcast import upcast
from lagkit.types import Usage
from lagkit.util.errors import ConfigError
from tests.helpers.lms import new_lm


def upcast_lm():
    lm = new_lm(LM)
    upcast(lm.model.bfloat16())
    return lm


class Counting:
    """A model that goes on for as long as it is asked to, or for `most` tokens."""

    def __init__(self, lm, most=1_000):
        self.lm, self.most = lm, most

    def __getattr__(self, name):
        return getattr(self.lm, name)

    def generate(self, contexts, tokens, **_):
        self.lm.generate(contexts, tokens)
        return [Generation("", (0,) * min(tokens, self.most), Usage()) for _ in contexts]


@pytest.fixture(scope="module")
def lm():
    return new_lm(LM)


@pytest.fixture(scope="module")
def rows(lm):
    return limits.measured(Counting(lm), prompt=50, batches=(1, 3), repeats=1)


def test_a_row_for_each_pass_has_its_share_of_the_limit(rows):
    assert [row["pass"] for row in rows] == ["prefill 50", "decode 1", "decode 3"]
    for row in rows:
        assert row["share"] == pytest.approx(row["limit_s"] / row["took_s"])
    assert rows[0]["tokens_per_s"] == pytest.approx(50 / rows[0]["took_s"])


def test_rates_count_each_weight_once_and_that_of_the_vocabulary_where_a_token_is_chosen(lm, rows):
    names = {name for name, module in lm.model.named_modules() if isinstance(module, torch.nn.Linear)}
    sizes = {name: lm.model.get_submodule(name).weight.numel() for name in names}
    passed = sum(size for name, size in sizes.items() if name != "lm_head")
    assert rows[0]["gflops"] == pytest.approx(2e-9 * passed * 50 / rows[0]["limit_s"])
    assert rows[2]["gb_per_s"] == pytest.approx(4e-9 * sum(sizes.values()) / rows[2]["limit_s"])


def test_a_model_that_ends_early_is_told(lm):
    with pytest.raises(ConfigError, match="ends before 20 tokens"):
        limits.measured(Counting(lm, most=limits.FEW), prompt=5, batches=(1,), repeats=1)


def test_a_profile_adds_up(lm):
    told = limits.profiled(Counting(lm), batch=2)
    assert sum(told.values()) == pytest.approx(1)
    *named, (last, _) = told.items()
    assert (len(named), last) == (limits._NAMED, "other")
    assert [share for _, share in named] == sorted((share for _, share in named), reverse=True)


def test_the_page_says_which_goals_are_met(rows, lm):
    rows = [{**rows[0], "share": 0.649}, {**rows[1], "share": 0.801}]
    told = "\n".join(page._limits({"rows": rows, "profiles": {"tiny": {"mm": 0.6, "other": 0.4}}}, page.RESULTS))
    assert "| 65% | 65% | **no** |" in told
    assert "| 80% | 80% | yes |" in told
    assert "`mm` 60%, `other` 40%" in told


def test_the_limit_of_a_batch_is_that_of_its_products():
    rows = [
        {"pass": name, "limit_s": seconds}
        for name, seconds in (("prefill 1,000", 5.0), ("decode 1", 0.3), ("decode 32", 0.32))
    ]
    # 200 tokens read take a second; 100 decoded 30 seconds alone, and one as a share of a batch
    assert limits.batching_limit(rows, 32, 200, 100) == pytest.approx(31 / 2)
    assert limits.batching_limit(rows, 32, 200, 0) == 1
    assert limits.batching_limit(rows, 16, 200, 100) is None


@pytest.mark.parametrize(("own", "wide"), [(3.0, 4.0), (5.0, 4.0)])
def test_the_limit_of_upcast_layers_is_that_of_their_faster_products(monkeypatch, own, wide):
    layer, times = torch.nn.Linear(4, 8).bfloat16(), iter([0.0, own, 0.0, own + 1, 0.0, wide / 2, 0.0, wide / 2])
    upcast(layer)
    monkeypatch.setattr(limits.time, "perf_counter", times.__next__)
    assert limits.upcast_products([layer, layer], 5) == min(own, wide)


def test_an_upcast_model_is_held_against_upcast_products_and_torchs_own_are_told(monkeypatch):
    monkeypatch.setattr(limits, "products", lambda layers, rows: 100.0)
    monkeypatch.setattr(limits, "upcast_products", lambda layers, rows: 1.0)
    plain, ours = (
        limits._row(lm, "decode", 8, limits.linear_layers(lm), lambda: 2.0, 1) for lm in (new_lm(LM), upcast_lm())
    )
    assert (plain["limit_s"], ours["limit_s"], ours["share"], ours["torch_s"]) == (100.0, 1.0, 0.5, 100.0)
    assert "torch_s" not in plain
    assert "| decode 8 | 2,000 | 100,000 | 4.0 |" in "\n".join(page._upcast({"rows": [ours]}, page.RESULTS))
    assert "fast enough" in [*page._upcast({"rows": [plain]}, page.RESULTS)][-1]
