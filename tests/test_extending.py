"""What docs/extending.md says: its code is run as it stands there, and does what the page promises."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lagkit as lag
from lagkit.logs.encode import Encoder, kept_spans, kept_text
from lagkit.runs import report
from lagkit.runs.config import RunConfig
from lagkit.runs.journal import Journal
from lagkit.runs.register import _PLACES
from lagkit.runs.workers import Workers
from lagkit.stats import metrics
from lagkit.util.errors import ConfigError, DataError, ModelNotFound
from tests.helpers.lms import SAMPLE, short_prompt, small_run, tiny_lm, trace_of

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
LOG = trace_of("First. Then more.", "Rome is it. <ans>Rome</ans>")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test registers is gone after it."""
    for registered, _ in _PLACES.values():
        for name in (*registered,):
            monkeypatch.delitem(registered, name)
    before = {kind: dict(registered) for kind, (registered, _) in _PLACES.items()}
    yield
    for kind, (registered, _) in _PLACES.items():
        registered.clear()
        registered.update(before[kind])


def first(trace):
    return [[(0, min(4, len(round.response)))] for round in trace.rounds]


def test_the_page_runs_as_it_stands_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)  # the page's own code
    page = SimpleNamespace(**names)

    with page.run.store() as store:
        [key] = [key for key in store.summary().index if key.startswith("responses.first_sentence@")]
        log = store[0]
        block = store.block(log.id, key)
        kept = [r.response[: r.response.find(".") + 1 or None] for r in log.rounds]
        read = page.run.lm.tokenizer.decode(block.ids.tolist())
        assert [words for words in kept if words in read] == kept
        assert len(read) <= sum(len(words) + 4 for words in kept)
    assert page.summary.loc[("kv_first_sentence", "unseen"), "injected"] > 0
    assert "<mark" in page.page.data
    assert "kv_first_sentence" in page.page.data

    assert [len(split) for split in (page.data.seen, page.data.unseen, page.data.passages)] == [2, 1, 3]
    assert set(page.riddles.results["question_id"]) == {"riddle-0", "riddle-1", "riddle-2"}

    with page.by_letters.store() as store:
        assert (store.embedder, store.dim) == ("letters", 26)
        assert store.search(page.Letters().queries([store[0].key]), 1)[0][0].id == store[0].id
    assert page.by_letters.results["failed"].sum() == 0

    results = page.run.results
    expected = [float(isinstance(answer, str) and len(answer.split()) <= 2) for answer in results["answer"]]
    assert results["brief"].tolist() == expected
    assert sum(expected) > 0
    assert page.scored["brief"].tolist() == results.groupby(["policy", "split"], sort=False)["brief"].mean().tolist()
    assert "brief" not in page.summary
    assert "brief" in page.differences.index.get_level_values("metric")
    assert "brief" in (page.run.report(), (page.run.out / "report.md").read_text())[1]
    assert len(page.figure.data) > 0


def test_what_a_registered_keep_keeps_is_what_its_block_and_its_text_say():
    lm = tiny_lm()
    lag.register("keep", "ends", lambda trace: [[(0, 5), (len(r.response) - 4, len(r.response))] for r in trace.rounds])
    assert kept_text(LOG, "ends") == "First\n\nore.\n\nRome \n\nans>"
    told, spans = kept_spans(LOG, "ends")
    assert [told[start:stop] for start, stop in spans] == ["First", "ore.\n\nRome ", "ans>"]  # whole neighbours are one
    for name in ("ends/responses", "ends/conversation", "ends/kept"):
        said = lm.tokenizer.decode(lag.encode(lm, LOG, f"kv/{name}/front").ids.tolist())
        assert "First" in said
        assert "more" not in said.replace("ore.", "")
    assert len(lag.encode(lm, LOG, "kv_ends")) < len(lag.encode(lm, LOG, "kv_all_rounds"))


def test_the_keys_and_values_of_a_piece_are_those_of_the_whole_reading():
    lm = tiny_lm()
    lag.register("keep", "second", lambda trace: [[], [(0, len(trace.rounds[1].response))]])
    piece, usual = lag.encode(lm, LOG, "kv_second"), lag.encode(lm, LOG, "kv_last_round")
    assert piece.ids.tolist() == usual.ids.tolist()
    np.testing.assert_array_equal(piece.keys.numpy(), usual.keys.numpy())


def test_another_function_under_the_same_name_shares_neither_blocks_nor_answers(tmp_path):
    lm, policies = tiny_lm(), ("no_logs", "kv_first")
    lag.register("keep", "first", first)
    run = small_run(tmp_path, lm, policies=policies)
    run.run()
    old, encoder = lag.Policy("kv", keep="first"), Encoder(lm, short_prompt())
    key, journals = encoder.key(old), {path.name for path in (tmp_path / "traces").iterdir()}
    lag.register("keep", "first", first)
    assert encoder.key(old) == key
    lag.register("keep", "first", lambda trace: [[(0, 1)] for _ in trace.rounds])
    assert encoder.key(old) != key
    small_run(tmp_path, lm, policies=policies).run()
    new = {path.name for path in (tmp_path / "traces").iterdir()} - journals
    assert {name.split("@")[0] for name in new} == {"kv_first.seen", "kv_first.unseen"}
    with run.store() as store:
        assert {"tokens"} <= {*store.summary()}
        assert sorted(store.block_keys(store[0].id)) == sorted([key, encoder.key(old)])
    lag.register("keep", "first", first)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "traces").iterdir()}
    small_run(tmp_path, lm, policies=policies).run()  # the first function's answers are there still
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "traces").iterdir()}
    assert [*lag.load(tmp_path)[1]["policy"].unique()] == ["no_logs", "kv_first"]


WIDTH = 3


def helped(trace):
    return [[(0, width())] for _ in trace.rounds]


def width():
    return WIDTH


def test_what_a_keep_calls_and_reads_is_part_of_its_key(monkeypatch):
    lag.register("keep", "helped", helped)
    policy = lag.Policy("kv", keep="helped")
    key = policy.block_key("head")
    assert key == policy.block_key("head")
    monkeypatch.setitem(globals(), "WIDTH", 4)
    assert policy.block_key("head") != key


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ([[(0, 1)]], "gave spans of 1 rounds, and the log has 2"),
        ([[(0, 99)], []], r"gave \[\(0, 99\)\] of a response of 17 characters: give \(start, stop\) inside of it"),
        ([[(3, 5), (4, 6)], []], "in order, none of which overlap"),
    ],
)
def test_spans_that_fit_no_log_are_refused(spans, told):
    lag.register("keep", "odd", lambda trace: spans)
    with pytest.raises(ConfigError, match=told):
        lag.encode(tiny_lm(), LOG, "kv_odd")


@pytest.mark.parametrize(
    ("kind", "name", "function", "told"),
    [
        (
            "figure",
            "x",
            first,
            "Nothing of the kind 'figure' can be registered: choose one of keep, data, embedder, me",
        ),
        ("keep", "a/b", first, "is no name to register: use small letters"),
        ("keep", "last_round", first, "'last_round' is lagkit's own keep: choose another name than last_action"),
        ("metric", "seconds", first, "'seconds' is lagkit's own metric"),
        ("data", "mine", 3, "What is registered as 'mine' is a int: give a function"),
        ("keep", "sizes", len, "is no function of Python, whose code would tell its blocks from others"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_a_sentence(kind, name, function, told):
    with pytest.raises(ConfigError, match=told):
        lag.register(kind, name, function)


def test_an_unknown_name_gives_the_known_ones_and_the_registered(tmp_path):
    lag.register("keep", "first", first)
    lag.register("data", "mine", lambda folder: None)
    lag.register("embedder", "mine", lambda: None)
    with pytest.raises(ConfigError, match=r"Unknown policy 'kv_frist': use one of no_logs, .*kv_first, text_first, or"):
        lag.Policy("kv", keep="first") and RunConfig.of("testbed", out=tmp_path, policies=["no_logs", "kv_frist"])
    with pytest.raises(ConfigError, match=r"keep is one of last_action, .*, step, first; 'frist' is not"):
        lag.Policy("kv", keep="frist")
    with pytest.raises(ConfigError, match=r"no data layout is called 'other': give dataset= one of .*, mine"):
        lag.load_data(SAMPLE, "other")
    with pytest.raises(ModelNotFound, match="'other' is no known embedder: the aliases are arctic, mine, minilm"):
        lag.load_embedder("other")


def test_what_a_loader_an_embedder_or_a_metric_gives_is_checked(tmp_path):
    question = lag.Question("q", "Who?", ("I",))
    made = lag.datasets.loaders.Dataset
    for given, told in [
        (None, "gave a NoneType: let it give a datasets.loaders.Dataset"),
        (made("mine", "qa", (question,), (question,)), "gave two questions the id 'q'"),
        (made("mine", "qa", (question,), ()), "gave no passages, which question answering searches"),
    ]:
        lag.register("data", "mine", lambda folder, given=given: given)
        with pytest.raises(DataError, match=told):
            lag.load_data(tmp_path, "mine")
    lag.register("embedder", "mine", lambda: SimpleNamespace(name="yours", dim=2))
    with pytest.raises(ConfigError, match="registered as 'mine' calls itself 'yours': use one name for both"):
        lag.load_embedder("mine")
    lag.register("metric", "mine", lambda *_: 2)
    with pytest.raises(ConfigError, match="The metric mine gave 2: a score is a number from 0 to 1"):
        metrics.score(question, "I")
    assert metrics.is_right(question, "I")


def test_the_cost_of_a_run_counts_answers_under_a_registered_keep(tmp_path):
    """Their journal is named by the function, too."""
    lag.register("keep", "first", first)
    run = small_run(tmp_path, tiny_lm(), policies=("no_logs", "text_first"), splits=("unseen",), max_rounds=1)
    run.run()
    journals = [Journal(path) for path in (tmp_path / "traces").iterdir()]
    assert len(journals) == 3
    traces = [trace for journal in journals for trace in journal.traces()]
    assert report._spent(run).generated == sum(trace.usage.generated for trace in traces) > 0


@pytest.mark.parametrize("changes", [{"policies": ("no_logs", "kv_first")}, {"embedder": "mine"}])
def test_workers_which_cannot_know_what_is_registered_are_refused(tmp_path, changes):
    lag.register("keep", "first", first)
    lag.register("embedder", "mine", lambda: None)
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"cannot know what is registered in this one \((keep first|embedder mine)\)"):
        Workers(small_run(tmp_path, tiny_lm(), **changes), 1)


WHO = lag.Question("q", "Who?", ("I",))
LETTER = lag.Question("q", "Who?", ("B",), "choice", ("you", "I"))


@pytest.mark.parametrize(
    ("kind", "question", "told"),
    [
        ("qa", replace(WHO, id=7), "the question 7 an id or a text that is none: give each as a str"),
        ("qa", replace(WHO, text=None), "the question 'q' an id or a text that is none: give each as a str"),
        ("qa", replace(WHO, id=["q"]), "the question ['q'] an id or a text that is none: give each as a str"),
        ("qa", replace(WHO, answers=(5,)), "the question 'q' the answers (5,): give a tuple of one or more texts"),
        ("qa", replace(WHO, answers=("",)), "the question 'q' the answers ('',): give a tuple of one or more texts"),
        ("qa", {"id": "q"}, "a dict for a question: give a Question"),
        ("choice", replace(LETTER, choices=None), "the question 'q' other choices than a tuple of 1 to 26"),
        ("qa", replace(WHO, answers=()), "the question 'q' the answers (): give a tuple of one or more"),
        ("qa", replace(WHO, answers="I"), "the question 'q' the answers 'I': give a tuple of one or more"),
        ("choice", WHO, "the question 'q' the kind 'qa': give that of the data set, 'choice'"),
        (
            "choice",
            replace(LETTER, answers=("I",)),
            "the question 'q' the answers ('I',): give letters of its 2 choices",
        ),
        (
            "choice",
            replace(LETTER, answers=("C",)),
            "the question 'q' the answers ('C',): give letters of its 2 choices",
        ),
    ],
)
def test_a_question_of_a_loader_that_could_not_be_scored_is_refused(tmp_path, kind, question, told):
    passages = (lag.Passage("p", "I", "It was I."),)
    lag.register("data", "mine", lambda _: lag.datasets.loaders.Dataset("mine", kind, (question,), (), passages))
    with pytest.raises(DataError, match=re.escape(f"the loader 'mine' gave {told}")):
        lag.load_data(tmp_path, "mine")
