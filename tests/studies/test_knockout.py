"""Cutting rounds out of sight while a log is encoded changes what it should, and nothing else."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from lagkit.logs.encode import Encoder
from lagkit.model.cache import stack_layers
from lagkit.policy import POLICIES, Policy
from lagkit.runs.fingerprints import of_question
from lagkit.runs.journal import Basis
from lagkit.stats.metrics import is_right
from lagkit.studies import early, knockout
from lagkit.studies import examples as cases
from lagkit.types import Round, Trace
from lagkit.util.errors import ConfigError, DataError
from tests.helpers.lms import short_prompt, small_run, tiny_lm, trace_of

PROMPT = short_prompt()
LOG = trace_of("The river starts in the hills.", "It passes the old town.", "It ends in the sea.")
WHOLE = Policy("kv", keep="all_rounds")
POLICY = POLICIES["kv_last_round"]


def encoder(family: str = "llama") -> Encoder:
    return Encoder(tiny_lm(family), PROMPT)


@pytest.mark.parametrize("family", ["llama", "mistral", "smollm3"])
@pytest.mark.parametrize("policy", [POLICY, POLICIES["kv_last_round_prefix"], Policy("kv", encode="conversation")])
def test_cutting_nothing_changes_nothing(family, policy):
    plain, uncut = encoder(family).encode(LOG, policy), knockout.encode(encoder(family), LOG, policy)
    for part in ("keys", "values", "ids"):
        assert torch.equal(getattr(plain, part), getattr(uncut, part))


@pytest.mark.parametrize("cut", [0, 1])
def test_a_cut_changes_later_rounds_from_the_second_layer_on(cut):
    reading = encoder().read(LOG, WHOLE)
    intact, without = knockout.encode(encoder(), LOG, WHOLE), knockout.encode(encoder(), LOG, WHOLE, [cut])
    end = reading.rounds[cut][-1] + 1
    for part in ("keys", "values"):
        before, after = getattr(intact, part), getattr(without, part)
        assert torch.equal(before[0], after[0])  # the first layer's keys and values come from the words alone
        torch.testing.assert_close(before[:, :, :end], after[:, :, :end], atol=1e-6, rtol=0)
        moved = (before[1:, :, end:] - after[1:, :, end:]).norm(dim=-1) / before[1:, :, end:].norm(dim=-1)
        assert moved.min() > 1e-3  # every later token: an ignored mask would leave them as they are


def test_a_cut_log_is_what_eager_attention_reads_under_the_same_mask():
    lm, found = tiny_lm(), knockout.encode(encoder(), LOG, WHOLE, [1])
    reading = encoder().read(LOG, WHOLE)
    n, (_, middle, _) = len(reading.context.ids), reading.rounds
    mask = torch.tril(torch.ones(n, n, dtype=torch.bool))
    mask[middle[-1] + 1 :, list(middle)] = False
    additive = torch.zeros(n, n).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]
    with torch.inference_mode():
        out = lm.model(torch.tensor([reading.context.ids]), attention_mask=additive, use_cache=True)
    keys, values = stack_layers(out.past_key_values, 0, n)
    torch.testing.assert_close(found.values, values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.keys, lm.realigner.unrotate(keys, torch.arange(n)), atol=1e-4, rtol=1e-4)


def test_the_first_slot_stays_visible():
    reading = encoder().read(LOG, WHOLE)
    hidden = knockout._cut(reading, [0])
    assert not hidden[:, 0].any()
    assert hidden[reading.rounds[0][-1] + 1 :, 1].all()
    assert not hidden[: reading.rounds[0][-1] + 1].any()


def test_versions_name_each_cut_by_its_distance():
    made = knockout.versions(encoder(), LOG, POLICY)
    assert list(made) == ["intact", "1 back", "2 back", "all earlier"]
    assert torch.equal(made["1 back"].values, knockout.encode(encoder(), LOG, POLICY, [1]).values)
    assert torch.equal(made["2 back"].values, knockout.encode(encoder(), LOG, POLICY, [0]).values)
    assert torch.equal(made["all earlier"].values, knockout.encode(encoder(), LOG, POLICY, [0, 1]).values)


def test_change_is_relative_to_the_intact_block():
    block = encoder().encode(LOG, POLICY)
    doubled = type(block)(block.keys * 2, -block.values, block.ids)
    table = knockout.change(block, doubled).set_index(["part", "layer"])
    assert table.loc["keys", "relative"].tolist() == pytest.approx([1.0, 1.0])
    assert table.loc["values", "relative"].tolist() == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("name", ["kv_block", "kv_stranger", "kv_filler"])
def test_a_policy_that_reads_no_earlier_rounds_is_refused(name):
    with pytest.raises(ConfigError, match="reads none of its earlier rounds: choose encode responses or conversation"):
        knockout.encode(encoder(), LOG, POLICIES[name])


@pytest.mark.parametrize("name", ["no_logs", "text_last_round", "kv_block", "kv_stranger", "kv_all_rounds"])
def test_a_notebook_s_policy_is_checked_before_anything_is_built(name):
    with pytest.raises(ConfigError, match=f"Policy {name} has no earlier rounds behind what it keeps"):
        knockout.reading_policy(name)
    assert knockout.reading_policy("kv_last_round") is POLICY


@pytest.fixture
def run(tmp_path):
    """A run whose logs are written down: three rounds each, all right."""
    made = small_run(tmp_path, tiny_lm(), max_new_tokens=6)
    with made.writing():
        pass
    for question in made.log_questions:
        answer = question.answers[0]
        said = ("First, a search.", "Then another one.", f"It is {answer}. <ans>{answer}</ans>")
        opened = tuple(Round("?", words, opening=f"{made.prompt.open_turn(question)} ") for words in said)
        assert is_right(question, answer)
        told = Trace(question.id, question.text, made.prompt.system, opened, answer, correct=True)
        made.journal("log").append(told, Basis(of_question(question)))
    made.build()
    return made


def test_every_condition_is_scored_and_read_from_the_same_place(run):
    met = cases.revisit(run, 2)
    moved, answers = knockout.knock_out(run, met, POLICY)
    conditions = ["intact", "1 back", "2 back", "all earlier", "no log"]
    assert answers["condition"].tolist() == conditions * 2
    gold = answers.pivot(index="condition", columns="question_id", values="gold")
    assert (gold < 0).all(axis=None)
    assert not gold.loc["intact"].equals(gold.loc["all earlier"])
    # The tiny model's answers are noise, none of them right.
    assert answers["right"].tolist() == [0.0] * 10
    assert set(moved["condition"]) == {"1 back", "2 back", "all earlier"}
    relative = moved.groupby("layer")["relative"]
    assert relative.max()[0] == 0
    assert relative.min()[1] > 0


def test_a_right_answer_counts_as_one(run, monkeypatch):
    case = cases.revisit(run, 1)[0]
    said = type("Said", (), {"text": f" <ans>{case.question.answers[0]}</ans>"})
    monkeypatch.setattr(type(run.lm), "generate", lambda lm, contexts, *a, **k: [said] * len(contexts))
    _, answers = knockout.knock_out(run, [case], POLICY)
    assert answers["right"].tolist() == [1.0] * 5
    assert answers["answer"].tolist() == [case.question.answers[0]] * 5


def test_what_changes_for_one_log_is_told_in_words(run):
    met = cases.revisit(run, 2)
    _, answers = knockout.knock_out(run, met, POLICY)
    others = knockout.reuse(run, met, ["kv_last_round", "kv_stranger", "kv_filler", "kv_block"])
    found = knockout.of_one(pd.concat([answers, others]), met[1])
    assert found.index.tolist() == [
        "its own context",
        "round 2 hidden",
        "round 1 hidden",
        "all earlier rounds hidden",
        "a stranger's context",
        "filler",
        "nothing",
        "no log",
    ]
    own = answers[answers["question_id"] == met[1].question.id].set_index("condition")
    assert found.loc["round 1 hidden", "gold"] == own.loc["2 back", "gold"]
    assert found.loc["no log", "gold"] == own.loc["no log", "gold"]
    assert (found["answer"] == "").all()  # the tiny model's noise names none


def test_attention_to_rounds_against_another_log_in_their_place(run):
    met = cases.revisit(run, 2)
    table = early.to_rounds(run, met, POLICY)
    assert len(table) == 2 * 2 * 4 * 2  # questions, layers, heads, rounds back
    assert table["mass"].between(0, 1).all()
    same = early.to_rounds(run, [cases.Case(c.question, c.user_turn, c.log, c.log) for c in met], POLICY)
    by_round = same.groupby("back")["mass"].mean()
    assert by_round.to_numpy() == pytest.approx(table.groupby("back")["mass"].mean().to_numpy())
    # Rounds back are told apart: at layer 0 the mass is that of the words at these slots.
    assert (
        not table[table["back"] == 1]["mass"]
        .reset_index(drop=True)
        .equals(table[table["back"] == 2]["mass"].reset_index(drop=True))
    )


def test_attention_to_the_log_is_null_where_the_stranger_is_the_log(run):
    met = cases.revisit(run, 2)
    same = early.to_log(run, [cases.Case(c.question, c.user_turn, c.log, c.log) for c in met], POLICY)
    assert same["mass"].tolist() == pytest.approx(same["null"].tolist(), abs=1e-6)
    other = early.to_log(run, met, POLICY)
    assert (other["mass"] - other["null"]).abs().max() > 1e-3


def test_repetition_counts_words_and_answers(run):
    question = run.log_questions[0]
    hop = question.hops[0].answer
    said = (f"We found {hop} there.", "Nothing at all.", f"So {hop} it is.")
    log = Trace(question.id, question.text, "", tuple(Round("?", words) for words in said), hop, correct=True)
    table = early.repetition([log], [question]).set_index("back")
    assert table["found"].to_dict() == {1: 0, 2: sum(h.answer == hop for h in question.hops)}
    assert table["found_again"].to_dict() == table["found"].to_dict()
    assert table.loc[1, "words"] == 0
    assert 0 < table.loc[2, "words"] < 1


def test_without_a_right_log_there_is_nothing_to_test(run):
    with pytest.raises(DataError, match="None of 6 logs is right and has 4 rounds: build more, or allow fewer rounds"):
        cases.revisit(run, 2, rounds=4)


def test_unseen_questions_meet_their_nearest_log(run):
    met = cases.meet(run, 3)
    with run.store() as store:
        vectors = run.embedder.queries([case.question.text for case in met])
        assert [case.log.id for case in met] == [found[0].id for found in store.search(vectors, k=1)]
    assert all(case.stranger.question_id != case.log.question_id for case in met)
    assert all(case.question.text in case.user_turn for case in met)


@pytest.mark.parametrize(
    ("wrong", "said"), [("no_logs", "no_logs keeps no KV: name policies that do"), ("kv_nothing", "Unknown policy")]
)
def test_a_policy_that_keeps_no_kv_is_refused_before_any_work(run, monkeypatch, wrong, said):
    met = cases.revisit(run, 1)
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("a log was read"))
    with pytest.raises(ConfigError, match=said):
        knockout.reuse(run, met, ["kv_last_round", wrong])


def test_one_context_builder_a_policy_serves_all_cases(run, monkeypatch):
    made, builder = [], knockout.KVContextBuilder
    monkeypatch.setattr(knockout, "KVContextBuilder", lambda *given: made.append(1) or builder(*given))
    knockout.reuse(run, cases.revisit(run, 2), ["kv_last_round", "kv_block"])
    assert len(made) == 2


def test_policies_are_compared_on_the_same_questions(run):
    met = cases.revisit(run, 2)
    answers = knockout.reuse(run, met, ["kv_last_round", "kv_stranger", "kv_filler", "kv_block", "kv_last_action"])
    assert answers["condition"].tolist() == ["intact", "kv_stranger", "kv_filler", "kv_block", "kv_last_action"] * 2
    gold = answers.pivot(index="condition", columns="question_id", values="gold")
    _, cut = knockout.knock_out(run, met, POLICY)
    intact = cut[cut["condition"] == "intact"].set_index("question_id")["gold"]
    assert gold.loc["intact"].to_dict() == pytest.approx(intact.to_dict(), abs=1e-4)
    # The earlier rounds of all these logs say the same: a stranger's context is the own one, word for word.
    assert gold.loc["kv_stranger"].to_dict() == pytest.approx(gold.loc["intact"].to_dict(), abs=1e-4)
    assert gold.loc[["intact", "kv_filler", "kv_block"]].nunique().tolist() == [3, 3]
    assert gold.loc["kv_last_action"].to_dict() != pytest.approx(intact.to_dict(), abs=1e-3)
