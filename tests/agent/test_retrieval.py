"""What a log is found by: its last response, or all of them; and the order in which hits are shown."""

from __future__ import annotations

import pytest

from lagkit.agent.retrieval import Found, Retriever, shown
from lagkit.logs.retrieve import HashEmbedder
from lagkit.policy import POLICIES
from lagkit.types import Hit, Limits
from tests.helpers.lms import open_store, tiny_lm, trace_of

EMBEDDER = HashEmbedder()
EARLY = trace_of("volcano glacier", "<ans>x</ans>", question="One?", id="early")
LATE = trace_of("nothing", "volcano <ans>y</ans>", question="Two?", id="late")


def found(retriever: Retriever, query: str, question: str = "q") -> list[str]:
    asked = Found(query)
    assert retriever.find([(question, asked)]) == {}
    return [hit.id for hit in asked.new[1]]


@pytest.mark.parametrize(("name", "first"), [("authors_text_last_round", LATE), ("authors_text_all_rounds", EARLY)])
def test_all_responses_find_a_log_only_where_the_policy_says_so(tmp_path, name, first):
    with open_store(tmp_path, tiny_lm(), EARLY, LATE) as store:
        barred = {"q2": {first.id}}
        retriever = Retriever(EMBEDDER, None, POLICIES[name], store, Limits(logs=1), barred)
        assert found(retriever, "volcano glacier") == [first.id]
        assert found(retriever, "volcano glacier", "q2") != [first.id]
        # What is added or deleted later counts, too.
        new = trace_of("volcano glacier lava", "volcano glacier lava", question="Three?", id="new")
        store.extend([new], EMBEDDER)
        assert found(retriever, "volcano glacier lava") == [new.id]
        store.delete([new.id])
        assert found(retriever, "volcano glacier") == [first.id]


def test_hits_are_shown_in_order_of_retrieval_or_by_query():
    asked = Found("river")
    for query, hits in (("river", "ab"), ("sea", "bc"), ("river", "d")):
        asked.query = query
        asked.asked[query] += 1
        asked.add([Hit(id, 1.0) for id in hits], [])
    assert [hit.id for hit in asked.new[0]] == ["d"]
    assert shown(asked.passages, grouped=False) == ["a", "b", "c", "d"]
    assert shown(asked.passages, grouped=True) == ["a", "b", "d", "c"]
