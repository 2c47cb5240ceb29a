"""What logs are worth and cost: the store's own sizes, times for what is encoded, scores beside them."""

from __future__ import annotations

import re
from typing import get_args

import pandas as pd
import pytest

from lagkit.logs.encode import kept_text
from lagkit.logs.retrieve import HashEmbedder
from lagkit.policy import Encode
from lagkit.stats import metrics
from lagkit.studies import log_size as storage
from lagkit.studies.attribution import contributions, found_by_rank, retrieved
from lagkit.util.errors import EmptyStore
from lagkit.views import palette
from lagkit.views.lab import open_run
from lagkit.views.plots.curves import by_bytes

NAMES = ("no_logs", "text_last_round", "kv_last_action", "kv_last_round", "kv_block")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = open_run("testbed", folder, log_questions=6, unseen_questions=30, policies=NAMES, splits=("unseen",))
    run.build()
    run.encode()
    return run


def test_one_choice_is_varied_at_a_time_unless_all_are():
    names = storage.ablation()
    assert set(names) == {
        "kv_last_action",
        "kv_last_round",
        "kv_last_two_rounds",
        "kv_all_rounds",
        "kv_block",
        "kv_stranger",
        "kv_filler",
        "kv/last_round/conversation/front",
    }
    grid = storage.ablation(grid=True)
    assert (len(grid), len(set(grid))) == (20, 20)
    assert set(names) < set(grid)


def test_sizes_are_those_of_the_store_and_of_the_text(run):
    sizes = storage.stored(run, (*NAMES, "kv_all_rounds"))
    assert list(sizes.index) == list(NAMES[1:]), "no_logs keeps nothing, and kv_all_rounds was not encoded"
    with run.store() as store:
        blocks, traces = store.summary(), list(store.traces())
    assert sizes.loc["kv_last_round", "bytes"] == blocks.loc["responses.last_round.bare", "bytes"] / 6
    text = [len(kept_text(trace, "last_round").encode()) for trace in traces]
    assert sizes.loc["text_last_round", "bytes"] == sum(text) / 6
    assert sizes.loc["text_last_round", "tokens"] == pytest.approx(sizes.loc["kv_block", "tokens"])
    assert sizes.loc["kv_last_action", "tokens"] < sizes.loc["kv_last_round", "tokens"]
    assert sizes["encode"].tolist() == ["text", "responses", "responses", "kept"]


def test_only_kv_takes_time_to_encode(run):
    seconds = storage.encoding_seconds(run, NAMES, run.logs[:2])
    assert list(seconds.index) == ["kv_last_action", "kv_last_round", "kv_block"]
    assert (seconds > 0).all()


def test_right_logs_are_counted_by_hops_within_bounds(run):
    table = storage.right_logs(run)
    logs = run.logs
    assert table.loc["all logs", "logs"] == 6 == table["logs"].iloc[1:].sum()
    assert table.loc["all logs", "right"] == sum(t.correct for t in logs) / 6
    assert table.loc["all logs", "rounds"] == sum(len(t.rounds) for t in logs) / 6
    known = table.dropna()
    assert ((known["low"] >= 0) & (known["low"] <= known["right"])).all()
    assert ((known["right"] <= known["high"]) & (known["high"] <= 1)).all()


def results():
    rows = []
    for policy, right in (("no_logs", (0, 1, 0, 1)), ("kv_last_round", (1, 1, 0, 1)), ("kv_block", (1, 1, 1, 1))):
        for number, value in enumerate(right):
            row = {"policy": policy, "split": "unseen", "question_id": str(number), "em": float(value), "rounds": 4}
            rows.append({**row, "abstained": False, "failed": False, **dict.fromkeys(metrics.COSTS, 0.0)})
    return pd.DataFrame(rows)


def test_outcomes_lay_the_differences_interval_around_the_policys_own_mean():
    sizes = pd.DataFrame({"keep": "last_round", "encode": ["responses", "kept"], "bytes": 1000.0})
    sizes.index = ["kv_last_round", "kv_block"]
    found = metrics.compare(results(), {str(i): (str(i),) for i in range(4)}).droplevel("split")
    table = storage.outcomes(sizes, metrics.summarize(results()).droplevel("split"), found)
    [row] = table.query("policy == 'kv_last_round' and metric == 'em'").to_dict("records")
    assert (row["mean"], row["base"]) == (0.75, 0.5)
    assert row["low"] == pytest.approx(0.5 + found.loc[("kv_last_round", "em"), "low"])
    figure = by_bytes(table, {"em": "EM", "rounds": "rounds"}, "Title")
    marks = [trace for trace in figure.data if trace.xaxis == "x"]
    assert [(mark.name, mark.y[0]) for mark in marks] == [("KV, last round", 75), ("KV, last round, read alone", 100)]
    assert marks[0].x[0] < 1000 < marks[1].x[0], "marks of one size stand apart"
    assert marks[0].x[0] * marks[1].x[0] == pytest.approx(1000**2)
    assert [mark.marker.color for mark in marks] == [palette.KV] * 2
    assert [mark.marker.symbol for mark in marks] == ["circle", "circle-open"]
    assert [trace.y[0] for trace in figure.data if trace.xaxis == "x2"] == [4, 4], "rounds are not in percent"
    assert figure.layout.xaxis.type == "log"
    assert [shape.y0 for shape in figure.layout.shapes] == [50, 4]


def test_policies_that_keep_the_same_tokens_have_marks_of_their_own():
    encodes = get_args(Encode)
    names = [f"kv/last_round/{encode}/front" for encode in encodes]
    numbers = {"mean": 0.5, "low": 0.4, "high": 0.6, "base": 0.5, "bytes": 1000.0, "keep": "last_round", "metric": "em"}
    table = pd.DataFrame({"policy": names, "encode": encodes, "inject": "kv", **numbers})
    marks = by_bytes(table, {"em": "EM"}, "Title").data
    # The dot in a mark that is filled has its colour, so nobody sees it.
    seen = {re.sub("(?<!-open)-dot$", "", mark.marker.symbol) for mark in marks}
    assert len(seen) == len(encodes) == len(marks)


def test_what_a_word_adds_is_what_the_score_loses_without_it():
    embedder = HashEmbedder()
    added = contributions(embedder, "Who keeps the Quell lighthouse?", "The Quell lighthouse is old.")
    assert set(added.index[:2]) == {"Quell", "lighthouse"}
    assert added["the"] == added["Who"] == 0.0, "function words do not count for this embedder"
    assert added["keeps"] < 0, "a word that the log lacks lowers the score"
    [both, one] = embedder.queries(["Who keeps the Quell lighthouse?", "Who keeps the lighthouse?"])
    [text] = embedder.documents(["The Quell lighthouse is old."])
    assert added["Quell"] == pytest.approx(float(both @ text - one @ text))


def test_a_search_says_why(run):
    query = run.logs[0].question
    with run.store() as store:
        table = retrieved(store, run.embedder, query, 3)
    assert table["question"].iloc[0] == query
    assert table["score"].is_monotonic_decreasing
    assert table["because"].iloc[0]
    assert set(table["right"]) <= {"right", "wrong"}


def test_an_empty_store_says_so(tmp_path):
    empty = open_run("testbed", tmp_path, log_questions=1, unseen_questions=1)
    with empty.store(write=True) as store, pytest.raises(EmptyStore):
        retrieved(store, empty.embedder, "Who?", 1)


def test_more_logs_find_no_fewer_useful_ones(run):
    found = found_by_rank(run)
    assert list(found.index) == [1, 2, 3]
    assert found.is_monotonic_increasing
    assert 0 < found.iloc[-1] <= 1
