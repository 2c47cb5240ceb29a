"""What replies have cost that are no answer: their tokens are in the trace, in the tables and in the report."""

from __future__ import annotations

import pytest

from lagkit.policy import POLICIES
from lagkit.runs.journal import Journal
from lagkit.types import Round, Trace, Usage
from tests.helpers.endpoints import failed, playing, said
from tests.helpers.lms import open_store, trace_of
from tests.model.api.test_agent import RIVER, agent, api_run
from tests.model.api.test_reply import sent

TOKENS = {"prompt_tokens": 100, "completion_tokens": 10}
NO_ANSWER = {
    "refused": sent(None, usage=TOKENS, refusal="no"),
    "withheld": sent("x", "content_filter", TOKENS),
    "reasoning alone": sent(None, "length", TOKENS),
}


@pytest.mark.parametrize("reply", NO_ANSWER.values(), ids=NO_ANSWER)
def test_replies_that_are_no_answer_are_in_the_cost_of_their_question(tmp_path, reply):
    script = [*[said("<ans>x</ans>", read=100, wrote=10)] * 6, reply]
    with playing(script) as played:
        results = api_run(tmp_path, played.model(), policies=("no_logs",), splits=("unseen",), batch_size=1).run()
    assert results["failed"].all()
    assert [*results["prefilled"], *results["generated"]] == [100] * 3 + [10] * 3
    assert results["cost"].tolist() == pytest.approx([140e-6] * 3)
    assert all(results["seconds"] > 0)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "The endpoint read 900 tokens and wrote 90 for logs and answers, at a cost of 0.00126." in page
    [*_, last] = Journal(tmp_path / "traces" / "no_logs.unseen.jsonl").traces()
    assert (last.rounds, last.spent.prefilled, last.spent.generated) == ((), 100, 10)


@pytest.mark.parametrize("second", [*NO_ANSWER.values(), failed(400, code="context_length_exceeded")])
def test_notes_for_a_question_that_then_fails_are_in_its_cost(tmp_path, second):
    log = trace_of("Then <ans>Danube</ans>", question="Which river?")
    told = 0 if second.status == 400 else 100
    with (
        playing([said("Notes.", read=100, wrote=10), second]) as played,
        open_store(tmp_path, played.model(), log) as store,
    ):
        [trace] = agent(played.model(), POLICIES["cheatsheet"], store).run([RIVER])
    assert trace.error
    assert trace.usage.prefilled == 100 + told


def test_notes_whose_reasoning_does_not_end_are_in_the_cost(tmp_path):
    log = trace_of("Then <ans>Danube</ans>", question="Which river?")
    with (
        playing([said("<think>Hm", read=100, wrote=10)]) as played,
        open_store(tmp_path, played.model(), log) as store,
    ):
        [trace] = agent(played.model(), POLICIES["cheatsheet"], store).run([RIVER])
    assert trace.error.startswith("ReasoningTooLong")
    assert (trace.usage.prefilled, trace.usage.generated) == (100, 10)


def test_a_trace_that_is_older_than_its_cost_of_failures_can_be_read():
    whole = Trace("q", "Who?", "s", (Round("p", "r", usage=Usage(1, 2, 3)),), answer="x")
    older = {name: value for name, value in whole.to_dict().items() if name != "spent"}
    assert Trace.from_dict(older) == whole
    assert Trace.from_dict({**older, "spent": {"prefilled": 5}}).usage == Usage(6, 2, 3)
