"""Moving a log is exact when its keys are re-aligned, and harmful when they are not."""

from __future__ import annotations

import pytest
import torch

from lagkit.studies import drift as moving
from lagkit.studies.examples import Case
from lagkit.util.errors import ContextTooLong
from tests.helpers.lms import qa, short_prompt, tiny_lm, trace_of

PROMPT = short_prompt()
CASE = Case(
    qa("Where does the river end?", "sea"),
    "Question: Where does the river end?",
    trace_of("It starts in the hills.", "It ends in the sea."),
    trace_of("A bell was cast.", "The bell hangs in the old tower."),
)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("place", ["front", "prefix"])
def test_re_aligned_is_dense_prefill_and_the_controls_are_not(family, place):
    lm = tiny_lm(family)
    shifts = [0, 64, moving.farthest(lm, PROMPT, [CASE], place)]
    table = moving.drift(lm, PROMPT, [CASE], place, shifts)
    assert len(table) == 2 * 3 * 4  # contents, shifts, variants
    by_variant = table.groupby(["variant", "shift"])
    kl, agreement = by_variant["kl"].max(), by_variant["agreement"].min()
    assert kl["re-aligned"].max() < 1e-4
    assert agreement["re-aligned"].min() == 1
    assert kl["dense, moved"][0] == 0
    assert kl["dense, moved"].max() < 1e-4
    assert kl["not re-aligned"][0] < 1e-4  # where it stands is where it was read
    assert kl["not re-aligned"][shifts[1:]].min() > 1e-2
    assert kl["un-rotated only"].min() > 1e-2
    # Un-rotated keys have forgotten where they were read.
    assert kl["un-rotated only"].to_numpy() == pytest.approx(kl["un-rotated only"][0], rel=1e-3)


def test_a_wrong_re_alignment_would_be_seen(monkeypatch):
    lm = tiny_lm()
    honest = type(lm.realigner).unrotate
    monkeypatch.setattr(type(lm.realigner), "unrotate", lambda self, keys, at: honest(self, keys, at // 2))
    table = moving.drift(lm, PROMPT, [CASE], "front", [64])
    assert table[table["variant"] == "re-aligned"]["kl"].min() > 1e-2


def test_a_shift_beyond_the_context_is_refused():
    lm = tiny_lm()
    limit = moving.farthest(lm, PROMPT, [CASE], "front")
    with pytest.raises(ContextTooLong, match=f"A shift of {limit + 1} is too far for tiny-llama: .* up to {limit}"):
        moving.drift(lm, PROMPT, [CASE], "front", [limit + 1])


def test_divergence_by_hand():
    even, sure = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log()
    found = moving.divergence(even, sure)
    assert found["kl"] == pytest.approx(0.5 * torch.tensor([0.5 / 0.75, 0.5 / 0.25]).log().sum().item())
    assert moving.divergence(sure, sure) == {"kl": 0.0, "agreement": 1.0}
    assert moving.divergence(sure, -sure)["agreement"] == 0.0


def test_shifts_reach_from_zero_to_the_limit():
    assert moving.shifts(1954) == [0, 16, 64, 256, 1024, 1954]
    assert moving.shifts(1954, steps=2) == [0, 16, 64, 1954]
    assert moving.shifts(10) == [0, 10]
    assert moving.shifts(0) == [0]
