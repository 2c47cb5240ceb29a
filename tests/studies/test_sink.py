"""The attention sink: both forms inject the same tokens, and what is looked at adds up."""

from __future__ import annotations

import pytest

from lagkit.agent.context import KVContextBuilder
from lagkit.policy import get_policy
from lagkit.runs.experiment import Experiment
from lagkit.studies import examples, sink
from lagkit.util.errors import ConfigError
from tests.helpers.lms import ActingLM, new_lm, small_run


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


def test_a_part_that_has_no_two_forms_is_refused(run):
    with pytest.raises(ConfigError, match="where last_round or last_action is kept; 'all_rounds' is not"):
        sink.looks(run, examples.meetings(run, 1), ["all_rounds"])
