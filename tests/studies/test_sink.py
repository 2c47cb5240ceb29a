"""The attention sink: both forms inject the same tokens, and what is looked at adds up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lagkit.agent.context import KVContextBuilder
from lagkit.model.context import Context, Generation
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.studies import asking, examples, sink
from lagkit.studies.attention import mass
from lagkit.studies.drift import divergence
from lagkit.types import Usage
from tests.helpers.lms import ActingLM, new_lm, qa, short_prompt, small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Experiment:
    run = small_run(tmp_path_factory.mktemp("sink") / "run", new_lm(ActingLM), logs=2)
    run.build()
    return run


def test_shares_of_attention_add_up_and_every_question_is_asked_in_all_forms(run):
    met = examples.meetings(run, 3)
    found = sink.looks(run, met)
    assert found.groupby(["keep", "sink"]).size().to_dict() == dict.fromkeys(
        [("no logs", "no logs"), *((keep, form) for keep in sink.FORMS for form in (sink.WITH, sink.WITHOUT))], 3
    )
    # The response's own tokens have the rest.
    spent = found[["firsts", "logs", "bos", "prompt"]].sum(axis=1)
    assert spent.between(0.3, 1).all()
    bare = found[found["keep"] == sink.NO_LOGS]
    assert (bare[["firsts", "logs"]] == 0).all(axis=None)
    assert (found.loc[found["keep"] != sink.NO_LOGS, ["firsts", "logs"]] > 0).all(axis=None)
    assert found["acts"].eq(1).all()  # of this model, every response acts
    assert found["repeated"].between(0, 1).all()


def test_both_forms_keep_the_same_words(run):
    with run.store(write=True) as store:
        for names in sink.FORMS.values():
            builders = [KVContextBuilder(run.lm, run.prompt, get_policy(name), store) for name in names]
            for log in store.ids:
                kept, bare = (builder.block(log, run.log_questions[0]) for builder in builders)
                one, other = (run.lm.tokenizer.decode(block.ids.tolist()).lstrip() for block in (kept, bare))
                assert one == other
                assert len(kept) != len(bare) or not kept.keys.equal(bare.keys)


def test_numbers_are_those_of_the_whole_contexts_read_once_more(run):
    """Attention and divergence are measured from what generation has read, and no prompt is read again."""
    [meeting] = examples.meetings(run, 1)
    found = sink.looks(run, [meeting]).set_index(["keep", "sink"])
    ends, whole = {}, {}
    with run.store(write=True) as store:
        for form, name in zip((sink.WITH, sink.WITHOUT), sink.FORMS["last_round"], strict=True):
            builder = KVContextBuilder(run.lm, run.prompt, get_policy(name), store)
            whole[form] = builder.build(
                meeting.question, meeting.user_turn, [builder.block(log.id, meeting.question) for log in meeting.logs]
            )
            ends[form] = whole[form].injected + len(whole[form].ids)
    [kept, bare] = asking.respond(run, list(whole.values()))
    for form, said in ((sink.WITH, kept), (sink.WITHOUT, bare)):
        context = Context((*whole[form].ids, *said.ids), whole[form].blocks)
        queries = range(ends[form], ends[form] + len(said.ids))
        share = mass(run.lm, context, queries, {"bos": [whole[form].injected]}).mean().item()
        assert found.loc[("last_round", form), "bos"] == pytest.approx(share, abs=1e-5)
    logits = [
        run.lm.logits(Context((*context.ids, *kept.ids), context.blocks))[-len(kept.ids) - 1 : -1]
        for context in whole.values()
    ]
    row = found.loc[("last_round", sink.WITHOUT)]
    assert row[["kl", "agreement"]].to_dict() == pytest.approx(divergence(*logits), abs=1e-4)
    assert row["same"] == (kept.text == bare.text)
    assert found.drop(index=[("last_round", sink.WITHOUT), ("last_action", sink.WITHOUT)])["kl"].isna().all()


def test_garbled_is_what_repeats_itself_without_an_action():
    run = SimpleNamespace(lm=SimpleNamespace(opens=""), prompt=short_prompt())
    meeting = SimpleNamespace(question=qa("Who?", "Ann"))
    for text, ids, garbled in (
        ("</ans</ans</ans", (1, 1, 1, 2), 1),
        ("</ans and more words", (1, 2, 3, 3), 0),
        ("a a a <ans>Ann</ans>", (1, 1, 1, 1), 0),
    ):
        found = sink._outcome(run, meeting, Generation(text, ids, Usage(0, 0, 0, 0.0)))
        assert (found["garbled"], found["right"]) == (garbled, float("Ann" in text))
