"""Fidelity by place: exact where KV has read what dense prefill reads, and the cells and parts that are compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from lagkit.logs.encode import Encoder
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.studies import examples, placement
from lagkit.studies.placement import EARLIER, HEAD, LEAD, NO_LOGS, QUESTIONS, REST
from lagkit.util.errors import ConfigError
from tests.helpers.lms import ActingLM, new_lm, short_prompt, small_run, tiny_lm, trace_of

EXACT = {"front": "kv_block", "prefix": "kv/last_round/kept/prefix"}
CONVERSATION = "kv/last_round/conversation/front"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Experiment:
    """Six logs of a random model, one log for each question."""
    run = small_run(tmp_path_factory.mktemp("placement") / "run", new_lm(ActingLM), logs=1)
    run.build()
    return run


@pytest.fixture(scope="module")
def met(run):
    return examples.meetings(run, 3)


def test_the_grid_is_every_cell_once():
    grid = placement.grid()
    assert list(grid[["place", "before", "best_log"]].itertuples(index=False, name=None)) == list(
        product(("front", "prefix"), ("nothing", "bos", "head"), ("first", "last"))
    )
    assert grid.index[0] == "kv_last_round"
    assert "kv_last_round_prefix+best_log=last" in grid.index
    assert "kv/last_round/responses/front/bos" in grid.index
    keys = {name: get_policy(name).block_key("h") for name in grid.index}
    assert len(set(keys.values())) == 3


def test_questions_meet_the_logs_that_a_run_shows_them(run, met):
    run.answer("kv_last_round", "unseen")
    first = {trace.question_id: trace.rounds[0] for trace in run.journal("kv_last_round.unseen").traces()}
    for meeting in met:
        assert [log.id for log in meeting.logs] == [hit.id for hit in first[meeting.question.id].logs]
        assert meeting.user_turn == first[meeting.question.id].prompt


def test_one_log_is_exact_where_it_has_read_what_dense_prefill_reads(run, met):
    others = [f"{EXACT['front']}", "kv/last_round/kept/front/bos", "kv/last_round/kept/prefix/nothing"]
    found = placement.fidelity(run.lm, placement.pairs(run, met, [*EXACT.values(), *others[1:]]))
    kl = found.groupby("variant")["kl"].max()
    assert kl[list(EXACT.values())].max() < 1e-6
    assert kl[others[1:]].min() > 1e-5
    assert kl[NO_LOGS] > kl[list(EXACT.values())].max()
    assert found[found["variant"].isin(EXACT.values())][["agreement", "same"]].min().min() == 1


def test_logs_stand_in_the_order_that_the_variant_says(tmp_path, run):
    two = small_run(tmp_path / "run", run.lm, logs=2)
    two.build()
    (meeting,) = examples.meetings(two, 1)
    best, second = (two.lm.tokenize(log.rounds[-1].response) for log in meeting.logs)
    names = ["kv_block", "kv_block+best_log=last", "kv/last_round/kept/prefix"]
    first, last, behind = placement.pairs(two, [meeting], names)
    head = len(two.lm.tokenize(Encoder(two.lm, two.prompt)._head()))
    for pair, order, begin in ((first, (best, second), 0), (last, (second, best), 0), (behind, (best, second), head)):
        words = [id for block in pair.kv.blocks for id in block.ids.tolist()]
        assert words[begin:] == [*order[0], *order[1]]
        assert [len(slots) for slots in pair.logs] == [len(words) for words in order]
        assert pair.logs[0][0] == begin
        assert pair.bos == (0 if begin else len(words))
        read = [id for block in pair.dense.blocks for id in block.ids.tolist()] + list(pair.dense.ids)
        assert read == words + list(pair.kv.ids)
        assert read[pair.bos] == two.lm.tokenizer.bos_token_id
    assert len(first.said) > 0


def test_attention_is_that_of_dense_prefill_where_kv_is_exact(run, met):
    found = placement.sinks(run.lm, placement.pairs(run, met, list(EXACT.values())))
    means = found.groupby(["variant", "read"])[["bos", "firsts", "logs"]].mean()
    for name in EXACT.values():
        assert means.loc[name, "KV"].to_list() == pytest.approx(means.loc[name, "dense"].to_list(), abs=1e-5)
        assert 0 < means.loc[name].sum(axis=1).max() < 1


@pytest.mark.parametrize("name", ["text_last_round", "kv_step", "no_logs"])
def test_only_kv_of_whole_logs_is_held_against_dense_prefill(run, met, name):
    with pytest.raises(ConfigError, match=f"{name} does not inject KV of whole logs"):
        placement.pairs(run, met, [name])


def test_hiding_changes_kv_by_what_is_hidden_only():
    lm, policy = tiny_lm(), get_policy(CONVERSATION)
    log = trace_of("It starts in the hills. <keywords>mouth</keywords>", "It ends in the sea.")
    log = replace(log, rounds=tuple(replace(r, prompt=r.prompt.replace(" Q", "\n\nQ")) for r in log.rounds))
    encoder = Encoder(lm, short_prompt())
    intact, parts = encoder.encode(log, policy), placement.hidden(encoder, log, policy)
    assert list(parts) == [HEAD, EARLIER, QUESTIONS, LEAD, REST]
    for block in parts.values():
        assert torch.equal(block.ids, intact.ids)
        assert torch.allclose(block.keys[0], intact.keys[0], atol=1e-5)
        assert (block.values[-1] - intact.values[-1]).norm() > 1e-3 * intact.values[-1].norm()
    reading = encoder.read(log, policy)
    slots = placement._parts(encoder.prompt, reading, log)
    words = {
        name: lm.tokenizer.decode([reading.context.ids[s - reading.context.injected] for s in sorted(own)])
        for name, own in slots.items()
        if name != HEAD
    }
    assert words[EARLIER] == "It starts in the hills. <keywords>mouth</keywords>"
    assert words[QUESTIONS].replace(" ", "") == "Wheredoestheriverend?" * 2
    assert words[LEAD].split() == ["Question:"] * 2
    assert words[REST].replace(" ", "") == "Passage1.Passage2."


def test_a_log_of_one_round_has_no_earlier_responses_to_hide():
    encoder, policy, log = Encoder(tiny_lm(), short_prompt()), get_policy(CONVERSATION), trace_of("It ends in the sea.")
    parts = placement.hidden(encoder, log, policy)
    assert torch.allclose(parts[EARLIER].keys, encoder.encode(log, policy).keys, atol=1e-6)


def test_hidden_pairs_are_one_for_each_part_and_for_conversations_only(run, met):
    found = placement.hidden_pairs(run, met, CONVERSATION)
    assert [pair.variant for pair in found] == [HEAD, EARLIER, QUESTIONS, LEAD, REST] * 3
    assert len({pair.dense for pair in found}) == 3
    with pytest.raises(ConfigError, match="kv_last_round reads no conversation"):
        placement.hidden_pairs(run, met, "kv_last_round")
