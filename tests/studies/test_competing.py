"""Competing logs: the items, what is injected against a block-diagonal pass, recomputation, the choice and its rows."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lagkit.model.cache import build_cache
from lagkit.model.context import Context
from lagkit.model.recompute import PlacedBlock, recompute
from lagkit.studies import competing
from lagkit.studies.attention import watching
from lagkit.studies.competing import Condition, Probe
from lagkit.studies.competing_items import RIVALS, groups
from lagkit.util.errors import ConfigError, DataError
from tests.helpers.lms import tiny_lm

APART, TEXT = Condition("restating", "all_rounds", "own"), Condition("restating", "all_rounds", "text")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def probe_of(lm):
    return Probe(lm, groups(lm, 1)[0])


def close(one, other):
    torch.testing.assert_close(one.keys, other.keys, **CLOSE)
    torch.testing.assert_close(one.values, other.values, **CLOSE)


def test_groups_share_nothing_within_and_are_the_same_for_every_count(lm):
    many = groups(lm, 16)
    assert groups(lm, 3) == many[:3]
    assert groups(lm, 3, seed=1) != many[:3]
    assert len({fact.kind for group in many for fact in group.facts}) == 8
    works = [fact.work for group in many for fact in (*group.facts, group.stranger)]
    assert len({*works}) == len(works)
    for group in many:
        facts = (*group.facts, group.stranger)
        assert all(len({getattr(fact, name) for fact in facts}) == 4 for name in ("person", "answer"))
        assert len({len(lm.tokenize(f" {fact.answer}")) for fact in facts}) == 1
        assert len(facts[0].filler.split()) == len(facts[0].first.split())


def test_only_the_first_round_of_a_terse_log_tells_whom_it_is_about(lm):
    fact, other, *_ = groups(lm, 1)[0].facts
    assert fact.person not in fact.last("terse")
    assert fact.person in fact.last("restating")
    assert fact.last("terse").endswith(f"{fact.opening.removeprefix(fact.person)} {fact.answer}.")
    assert [r.response for r in fact.log("terse", other.first).rounds] == [other.first, fact.last("terse")]


def test_logs_injected_side_by_side_are_a_block_diagonal_dense_pass(lm):
    probe = probe_of(lm)
    [shown, *_] = probe.shown(Condition("restating", "all_rounds", "own", "front"))
    question = lm.tokenize(" Who was it?")
    ids = [token for block in shown.parts for token in block.ids.tolist()]
    edges = [sum(map(len, shown.parts[:i])) for i in range(RIVALS + 1)]
    cut = torch.zeros(len(ids) + len(question), len(ids) + len(question), dtype=torch.bool)
    for start, stop in pairwise(edges):
        cut[start:stop, :start] = True
    with watching(lm.model, cut=cut):
        expected = lm.logits(Context((*ids, *question)))[-len(question) :]
    found = lm.logits(Context(tuple(question), shown.parts))
    torch.testing.assert_close(found, expected, **CLOSE)
    read_in_one_go = lm.logits(Context((*ids, *question)))[-len(question) :]
    assert (found - read_in_one_go).abs().max() > 0.01  # a model on which the difference can be seen


def test_what_is_recomputed_has_read_all_in_front_and_the_rest_stays(lm):
    probe = probe_of(lm)
    [shown, *_] = probe.shown(APART)
    head = probe.head(APART)
    blocks = [head, *shown.parts]
    words = torch.cat([block.ids for block in shown.parts]).tolist()
    dense = lm.encode(Context(tuple(words), (head,)), 0, len(head) + len(words))
    second = len(head) + len(shown.parts[0])
    close(recompute(lm, blocks, range(second, len(dense))), dense)  # the first log has read all in front already
    assert not torch.allclose(recompute(lm, blocks, ()).values, dense.values, **CLOSE)
    picked = [second, len(dense) - 1]
    some = recompute(lm, blocks, picked)
    kept = [slot for slot in range(len(dense)) if slot not in picked]
    assert torch.equal(some.take(kept).values, recompute(lm, blocks, ()).take(kept).values)
    before = some.slice(0, len(dense) - 1)
    close(some.slice(-1, None), lm.encode(Context((words[-1],), (before,)), len(before), len(dense)))


def test_a_placed_block_stands_at_its_own_positions(lm):
    [shown, *_] = probe_of(lm).shown(Condition("restating", "all_rounds", "own", "front"))
    block, other = shown.parts[:2]
    placed = PlacedBlock(block, torch.arange(len(block)))
    laid, _ = build_cache([[other, placed]], lm.model, lm.realigner, 1)
    alone, _ = build_cache([[block]], lm.model, lm.realigner, 1)
    torch.testing.assert_close(laid.layers[1].keys[:, :, len(other) :], alone.layers[1].keys)


@pytest.mark.parametrize("way", ["middle:3", "last:0", "first:-2", "first", "most:101", "first:1.5"])
def test_a_way_to_compute_anew_that_is_none_is_refused(way):
    with pytest.raises(ConfigError, match=rf"'{way}' is no choice of tokens: give first:K, last:K, or most:P percent"):
        Condition("restating", "all_rounds", "own", recompute=way)


@pytest.mark.parametrize("shown", [{"reads": "dense"}, {"reads": "text"}, {"beside": "nothing"}])
def test_what_has_nothing_to_be_computed_anew_is_not_labelled_so(shown):
    with pytest.raises(ConfigError, match="Only tokens of logs that are read apart, and stand beside others"):
        Condition(**{"form": "restating", "keep": "all_rounds", "reads": "own", "recompute": "first:8", **shown})


@pytest.mark.parametrize("repaired", ["most:100", "first:1000"])
def test_all_tokens_recomputed_give_the_choice_of_dense_prefill(lm, repaired):
    probe = probe_of(lm)
    dense = list(probe.rows(Condition("restating", "all_rounds", "dense")))
    apart = list(probe.rows(APART))
    anew = list(probe.rows(Condition("restating", "all_rounds", "own", recompute=repaired)))
    assert [row["logprob"] for row in anew] == pytest.approx([row["logprob"] for row in dense], abs=1e-4)
    assert [row["logprob"] for row in apart] != pytest.approx([row["logprob"] for row in dense], abs=1e-4)
    assert min(row["share"] for row in anew) > (0.5 if repaired.startswith("first") else 0.99)


def test_the_answer_that_the_model_finds_likeliest_is_chosen(lm):
    probe, rows = probe_of(lm), list(probe_of(lm).rows(TEXT))
    facts = probe.group.facts
    assert sorted((row["asked"], row["at"]) for row in rows) == sorted(
        (i, at) for i in range(3) for at in competing.POSITIONS
    )
    [shown, *_] = probe.shown(TEXT)
    [logprobs] = probe.logprobs(TEXT, [(shown.parts, facts[0])])
    [row] = [row for row in rows if (row["asked"], row["at"]) == (0, "first")]
    assert row["logprob"] == pytest.approx(logprobs[0], abs=1e-5)
    assert row["margin"] == pytest.approx(logprobs[0] - max(logprobs[1:]), abs=1e-5)
    assert row["right"] == (row["margin"] > 0) == (row["chosen"] == "first")
    # In words: the prompt with the logs in it, and the log-probability of the answer's tokens behind it.
    text = "\n\n".join(" ".join([fact.first]) + "\n\n" + fact.last("restating") for fact in facts)
    head, tail = (
        "<s><|system|>\nAnswer from what you have read.</s>\n",
        f"<|user|>\n{facts[0].question}</s>\n<|assistant|>\n{facts[0].opening}",
    )
    ids, answer = [*lm.tokenize(head), *lm.tokenize(text), *lm.tokenize(tail)], lm.tokenize(f" {facts[0].answer}")
    logits = lm.logits(Context((*ids, *answer)))[-len(answer) - 1 : -1].log_softmax(dim=-1)
    assert float(logits[range(len(answer)), answer].mean()) == pytest.approx(logprobs[0], abs=1e-3)


def test_a_patch_of_all_layers_is_the_own_context_and_one_of_no_layer_none(lm):
    probe = probe_of(lm)

    def block(reads="own", patch=""):
        return probe.block(Condition("terse", "last_round", reads, patch=patch), probe.group.facts[0])

    own, none = block(), block("none")
    assert not torch.allclose(own.values[1], none.values[1], **CLOSE)
    for patch, same in (("from:0", own), ("below:100", own), ("rank:1000", own), ("from:100", none), ("below:0", none)):
        close(block(patch=patch), same)
    half = block(patch="from:50")
    assert torch.equal(half.values[0], none.values[0])
    assert torch.equal(half.values[1], own.values[1])
    [row, *_] = probe.rows(Condition("terse", "last_round", "own", patch="from:50"))
    assert row["share"] == pytest.approx(0.5)


def test_a_patched_log_is_recomputed_where_both_are_asked_for(lm):
    probe, choice = probe_of(lm), {"form": "terse", "keep": "last_round"}
    patched, anew, dense = (
        [row["logprob"] for row in probe.rows(Condition(**choice, **how))]
        for how in (
            {"reads": "own", "patch": "from:50"},
            {"reads": "own", "patch": "from:50", "recompute": "most:100"},
            {"reads": "dense"},
        )
    )
    assert anew == pytest.approx(dense, abs=1e-4)
    assert anew != pytest.approx(patched, abs=1e-4)


def test_without_logs_the_prompt_alone_is_asked(lm):
    probe = probe_of(lm)
    rows = list(probe.rows(Condition("terse", "last_round", "own", beside="no logs")))
    [logprobs] = probe.logprobs(TEXT, [((), probe.group.facts[0])])
    assert [row["at"] for row in rows] == ["alone"] * RIVALS
    assert rows[0]["logprob"] == pytest.approx(logprobs[0], abs=1e-5)


def test_rows_are_kept_and_not_computed_again(lm, tmp_path, monkeypatch):
    out, some = tmp_path / "rows.jsonl", groups(lm, 2)
    shown = [APART, Condition("restating", "all_rounds", "own", beside="nothing")]
    rows = competing.measure(lm, some, shown, out)
    assert len(rows) == 2 * (9 + 3)
    assert set(rows[rows["beside"] == "nothing"]["at"]) == {"alone"}
    monkeypatch.setattr(Probe, "rows", lambda *_: pytest.fail("computed again"))
    assert competing.measure(lm, some, shown, out).to_dict() == rows.to_dict()
    whole = out.read_text()
    out.write_text(whole + '[{"model": "ti')  # killed while it wrote
    assert competing.measure(lm, some, shown, out).to_dict() == rows.to_dict()
    assert out.read_text() == whole
    out.write_text(whole.replace(f'"model": "{lm.name}"', '"model": "other"'))
    with pytest.raises(ConfigError, match="holds what other chose in float32"):
        competing.measure(lm, some, shown, out)
    for damaged in ('{"model": 1}\n', "[1]\n", "[{]\n", whole.replace('"patch"', '"past"')):
        out.write_text(damaged)
        with pytest.raises(DataError, match=r"rows.jsonl is damaged .*: delete it"):
            competing.measure(lm, some, shown, out)
        assert out.read_text() == damaged


def test_only_what_is_asked_for_is_returned(lm, tmp_path):
    out, some = tmp_path / "rows.jsonl", groups(lm, 2)
    both = competing.measure(lm, some, [APART, TEXT], out)
    assert competing.measure(lm, some[1:], [TEXT], out)["group"].unique() == [some[1].id]
    other = competing.measure(lm, groups(lm, 1, seed=1), [TEXT], out)
    assert len(both) == 4 * 9
    assert other["group"].unique() == ["1-000-film"]


@pytest.mark.parametrize("spec", ["rank", "rank:0", "from:150", "below:-1", "upto:5"])
def test_a_part_that_there_is_not_is_refused(lm, spec):
    with pytest.raises(ConfigError, match="is no part of a context"):
        probe_of(lm).block(Condition("terse", "last_round", "own", patch=spec), groups(lm, 1)[0].facts[0])
