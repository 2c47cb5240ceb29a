"""The agent's loop with a model that follows a script: which prompts, passages, logs and rounds come of it."""

from __future__ import annotations

import pytest

from lagkit.agent.loop import ROUND_LIMIT, Agent
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.policy import POLICIES, Policy
from lagkit.types import Limits, Passage, Question, Trace, Usage
from tests.helpers.lms import ActingLM, new_lm, open_store, qa, short_prompt, trace_of

EMBEDDER = HashEmbedder()
RIVER, TOWN, SEA = qa("Which river?"), qa("Which town?"), qa("Which sea?")
CHOICE = Question("c1", "Which is right?", ("B",), "choice", ("one", "two"))


def ranked(i: int) -> str:
    """A text whose likeness to "river" falls with its number."""
    return " ".join(["river", *(f"w{j}" for j in range(i))])


PASSAGES = [Passage(f"p{i}", f"T{i}", ranked(i)) for i in range(6)]
LOGS = [trace_of(f"<ans>Log{i}</ans>", question=ranked(i), id=f"q{i}") for i in range(7)]
IDS = [log.id for log in LOGS]


def agent(lm, kind="qa", *, policy=None, store=None, passages=PASSAGES, prompt=None, **limits) -> Agent:
    index = PassageIndex(passages, EMBEDDER) if kind == "qa" else None
    settings = Limits(**{"max_new_tokens": 8, **limits})
    prompt = prompt or short_prompt(kind)
    return Agent(lm, prompt=prompt, embedder=EMBEDDER, passages=index, policy=policy, store=store, limits=settings)


def by_question(traces) -> dict[str, Trace]:
    return {trace.question_id: trace for trace in traces}


def ids(hits) -> list[str]:
    return [hit.id for hit in hits]


def turn(question: Question, *numbers: int) -> str:
    """The user turn with these passages."""
    shown = "\n".join(f"[{n}] T{i}: {ranked(i)}" for n, i in enumerate(numbers, 1))
    return f"{shown}\n\nQuestion: {question.text}"


def prefilled(user_turn: str, question: Question) -> str:
    return f"<|user|>\n{user_turn}</s>\n<|assistant|>\nRe: {question.text}"


# One question


def test_two_rounds_from_question_to_answer(lm):
    lm.play({RIVER.text: [" I must know. <keywords>w3 w4 w5</keywords>", " Found. <ans>The Danube</ans>"]})
    [trace] = agent(lm).run([RIVER])
    assert (trace.question_id, trace.question, trace.system) == (RIVER.id, RIVER.text, "Be brief.")
    assert (trace.answer, trace.error, trace.policy) == ("The Danube", None, "no_logs")
    assert [r.query for r in trace.rounds] == [RIVER.text, "w3 w4 w5"]
    # Passages stay for later rounds, in order of first retrieval.
    assert [ids(r.passages) for r in trace.rounds] == [["p0", "p1"], ["p5", "p4"]]
    assert [r.prompt for r in trace.rounds] == [turn(RIVER, 0, 1), turn(RIVER, 0, 1, 5, 4)]
    assert [r.response for r in trace.rounds] == [
        "I must know. <keywords>w3 w4 w5</keywords>",
        "Found. <ans>The Danube</ans>",
    ]
    # The question, with which the turn is opened, is no part of what a log keeps or is found by.
    assert [r.opening for r in trace.rounds] == ["Re: Which river? "] * 2
    assert trace.key == "Which river?\nFound. <ans>The Danube</ans>"
    assert [words for _, words in lm.seen[RIVER.text]] == [prefilled(r.prompt, RIVER) for r in trace.rounds]
    assert trace.rounds[0].passages[0].score > trace.rounds[0].passages[1].score > 0


def test_the_same_query_again_brings_the_next_passages_and_logs(lm, store):
    search = " <keywords>river</keywords>"
    lm.play({RIVER.text: [search, search, search, " <ans>x</ans>"]})
    [trace] = agent(lm, policy=Policy("kv"), store=store).run([RIVER])
    assert [r.query for r in trace.rounds] == [RIVER.text, "river", "river", "river"]
    # The question itself found the first ones already: they are neither listed nor shown a second time.
    assert [ids(r.passages) for r in trace.rounds] == [["p0", "p1"], [], ["p2", "p3"], ["p4", "p5"]]
    assert [ids(r.logs) for r in trace.rounds] == [IDS[:3], [], IDS[3:6], IDS[6:]]
    assert [r.prompt for r in trace.rounds[1:]] == [turn(RIVER, *range(n)) for n in (2, 4, 6)]
    assert [read for read, _ in lm.seen[RIVER.text]] == [
        "".join(f"<ans>Log{i}</ans>" for i in range(n)) for n in (3, 3, 6, 7)
    ]


def test_logs_come_in_order_of_first_retrieval(lm, store):
    lm.play({RIVER.text: [" <keywords>w5 river</keywords>", " <keywords>w2 w3 river</keywords>", " <ans>x</ans>"]})
    [trace] = agent(lm, policy=Policy("kv"), store=store, logs=1).run([qa(RIVER.text)])
    found = [log for r in trace.rounds for log in ids(r.logs)]
    assert len(found) == len(set(found)) == 3
    assert found[:2] == [IDS[0], IDS[6]]
    read = "".join(LOGS[IDS.index(log)].rounds[0].response for log in found)
    assert lm.seen[RIVER.text][-1][0] == read


@pytest.mark.parametrize("said", [" no tag in it", " <ans></ans>", " <ans>cut"])
def test_without_an_action_the_whole_response_is_the_next_query(lm, said):
    lm.play({RIVER.text: [said, " <ans>x</ans>"]})
    [trace] = agent(lm).run([RIVER])
    assert trace.rounds[1].query == said.strip()
    assert trace.answer == "x"


@pytest.mark.parametrize(("kind", "rounds"), [("qa", 8), ("choice", 3)])
def test_who_has_no_answer_in_the_last_round_abstains(lm, kind, rounds):
    question = RIVER if kind == "qa" else CHOICE
    lm.play({question.text: [f" thought {i}" for i in range(9)]})
    [trace] = agent(lm, kind).run([question])
    assert len(trace.rounds) == rounds == ROUND_LIMIT[kind]
    assert (trace.answer, trace.error) == (None, None)
    [short] = agent(lm.play({question.text: [" a", " b"]}), kind, max_rounds=2).run([question])
    assert len(short.rounds) == 2


def test_an_answer_in_the_last_round_counts(lm):
    lm.play({RIVER.text: [" a", " <ans>x</ans>"]})
    [trace] = agent(lm, max_rounds=2).run([RIVER])
    assert trace.answer == "x"


def test_multiple_choice_shows_the_previous_response_and_searches_all_sub_questions(lm, store):
    asks = (
        "Hm. <subquestion>w4 river?</subquestion> <subquestion>w5?</subquestion> <subquestion>w4 river?</subquestion>"
    )
    lm.play({CHOICE.text: [asks, "Thus <subquestion>more?</subquestion>", "So <ans>(B)</ans>"]})
    [trace] = agent(lm, "choice", policy=POLICIES["kv_last_round"], store=store).run([CHOICE])
    assert (trace.answer, trace.question_id) == ("(B)", "c1")
    assert [r.query for r in trace.rounds] == [CHOICE.text, "w4 river? w5?", "more?"]
    task = "Question: Which is right?\n(A) one\n(B) two"
    assert [r.prompt for r in trace.rounds] == [
        task,
        f"So far:\n{asks}\n{task}",
        f"So far:\nThus <subquestion>more?</subquestion>\n{task}",
    ]
    assert [ids(r.passages) for r in trace.rounds] == [[], [], []]
    assert IDS[6] in ids(trace.rounds[1].logs)


@pytest.mark.parametrize(("place", "kept"), [(0, 3), (1, 2), (2, 1)])
def test_logs_below_the_least_similarity_are_not_used(lm, store, place, kept):
    lm.play({RIVER.text: [" <keywords>river</keywords>", " <ans>x</ans>"]})
    similar = EMBEDDER.queries([RIVER.text]) @ EMBEDDER.documents([log.key for log in LOGS[:3]]).T
    least = float(similar[0, 2 - place])
    [trace] = agent(lm, policy=Policy("kv"), store=store, min_similarity=least - 1e-6).run([RIVER])
    assert ids(trace.rounds[0].logs) == IDS[: 3 - place]
    assert len(trace.rounds[0].logs) == kept
    assert all(hit.score >= least - 1e-6 for r in trace.rounds for hit in r.logs)
    assert lm.seen[RIVER.text][0][0] == "".join(f"<ans>Log{i}</ans>" for i in range(kept))


@pytest.mark.parametrize("policy", ["kv_last_round", "text_last_round", "text_last_round_user_turn", "cheatsheet"])
def test_where_no_log_is_similar_enough_the_context_is_that_without_logs(lm, store, policy):
    said = {RIVER.text: [" <keywords>w5 river</keywords>", " <ans>x</ans>"]}
    [plain] = agent(lm.play(said)).run([RIVER])
    read = lm.seen[RIVER.text]
    [trace] = agent(lm.play(said), policy=POLICIES[policy], store=store, min_similarity=1).run([RIVER])
    assert [r.logs for r in trace.rounds] == [(), ()]
    assert lm.seen[RIVER.text] == read
    assert [r.prompt for r in trace.rounds] == [r.prompt for r in plain.rounds]


def test_excluded_logs_are_passed_over_for_their_question_alone(lm, store):
    search = [" <keywords>river</keywords>", " <keywords>river</keywords>", " <ans>x</ans>"]
    other = Question("other", "Which river then?", ("?",))
    lm.play({RIVER.text: search, other.text: search})
    found = agent(lm, policy=Policy("kv"), store=store)
    found.retriever.exclude = {RIVER.id: {IDS[0], IDS[2]}}
    traces = by_question(found.run([RIVER, other]))
    assert [ids(r.logs) for r in traces[RIVER.id].rounds] == [[IDS[1], IDS[3], IDS[4]], [], IDS[5:]]
    assert ids(traces["other"].rounds[0].logs) == IDS[:3]


def test_logs_as_text_stand_in_the_user_turn(lm, store):
    lm.play({RIVER.text: [" <ans>x</ans>"]})
    [trace] = agent(lm, policy=POLICIES["text_last_round_user_turn"], store=store).run([RIVER])
    logs = "\n\n".join(f"<ans>Log{i}</ans>" for i in range(3))
    assert trace.rounds[0].prompt == f"Notes:\n{logs}\n\n{turn(RIVER, 0, 1)}"
    assert lm.seen[RIVER.text] == [("<s><|system|>\nBe brief.</s>\n", prefilled(trace.rounds[0].prompt, RIVER))]


def test_a_cheatsheet_is_written_anew_when_new_logs_are_found(lm, store):
    search = " <keywords>river</keywords>"
    lm.play({RIVER.text: [search, search, " <ans>x</ans>"]}, notes={RIVER.text: " Mind the sea. "})
    [trace] = agent(lm, policy=POLICIES["cheatsheet"], store=store).run([RIVER])
    assert all(r.prompt.startswith("Notes:\nMind the sea.\n\n[1] T0") for r in trace.rounds)
    # "river" finds what the question has found already, so the second round has nothing new to distil.
    assert [sum(f"Log{i}" in words for i in range(7)) for words in lm.notes_read] == [3, 6]
    assert all(f"Question: {RIVER.text}</s>" in words for words in lm.notes_read)
    assert [r.usage.seconds for r in trace.rounds] == [1.0, 0.5, 1.0]


def test_usage_is_what_each_round_read_and_said(lm, store):
    lm.play({RIVER.text: [" <keywords>w5</keywords>", " <ans>x</ans>"]})
    [trace] = agent(lm, policy=Policy("kv"), store=store).run([RIVER])
    for r, (injected, words) in zip(trace.rounds, lm.seen[RIVER.text], strict=True):
        said = r.turn.removeprefix("Re: Which river?")
        assert r.usage == Usage(*(len(lm.tokenize(text)) for text in (words, injected, said)), 0.5)
    assert trace.usage.seconds == 1.0


# Many questions


def test_questions_in_different_rounds_share_batches_and_places_are_filled(lm):
    more = " <keywords>river</keywords>"
    questions = [qa(f"Question number {i}?") for i in range(6)]
    script = {q.text: [more] * i + [f" <ans>{i}</ans>"] for q, i in zip(questions, (3, 0, 2, 0, 1, 0), strict=True)}
    traces = list(agent(lm.play(script), batch_size=2).run(iter(questions)))
    assert {t.question_id: t.answer for t in traces} == {q.id: a for q, a in zip(questions, "302010", strict=True)}
    # Two at a time, and no more are begun while none has ended; each is told when it ends.
    assert lm.batches == [2, 2, 2, 2, 2, 2]
    assert [t.question_id[-2] for t in traces] == ["1", "0", "2", "3", "4", "5"]
    assert [len(t.rounds) for t in traces] == [1, 4, 3, 1, 2, 1]


def test_no_questions_give_no_traces(lm):
    assert list(agent(lm).run([])) == []


@pytest.mark.parametrize("policy", ["no_logs", "kv_last_round", "text_last_round_user_turn", "kv_last_round_prefix"])
def test_a_batch_of_sixteen_answers_as_one_by_one(tmp_path, policy):
    lm = new_lm(ActingLM)
    questions = [qa(f"Which river is {ranked(i)}, and why {'so ' * (i % 4)}?") for i in range(24)]
    said = []
    with open_store(tmp_path / "store", lm, *LOGS) as store:
        for batch_size in (16, 1):
            run = agent(lm, policy=POLICIES[policy], store=store, batch_size=batch_size, max_rounds=3, max_new_tokens=3)
            traces = by_question(run.run(questions))
            said.append({id: ([r.response for r in t.rounds], t.answer) for id, t in traces.items()})
    assert said[0] == said[1]
    assert {len(responses) for responses, _ in said[0].values()} == {1, 2, 3}
