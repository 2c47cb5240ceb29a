"""Journals of traces: what is appended comes back, whatever a kill left behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.runs.journal import Journal
from lagkit.types import Hit, Round, Trace, Usage
from lagkit.util.errors import DataError

words = st.text(max_size=12)
hits = st.lists(st.builds(Hit, words, st.floats(-1, 1)), max_size=2).map(tuple)
counts = st.integers(0, 10**6)
usages = st.builds(Usage, counts, counts, counts, st.floats(0, 1e6))
rounds = st.builds(Round, words, words, words, hits, hits, usages)
traces = st.builds(
    Trace,
    words,
    words,
    words,
    st.lists(rounds, max_size=3).map(tuple),
    answer=st.none() | words,
    error=st.none() | words,
    correct=st.none() | st.booleans(),
    policy=words,
)


def trace(i: int) -> Trace:
    return Trace(f"q{i}", "Where?", "Be brief.", (Round("p", f"line\nbreak\u2028 <ans>{i}</ans>"),), answer=str(i))


@pytest.fixture
def journal(tmp_path):
    book = Journal(tmp_path / "traces" / "a.jsonl")
    for i in range(3):
        book.append(trace(i))
    return book


@settings(max_examples=50, deadline=None)
@given(st.lists(traces, max_size=4))
def test_traces_come_back_in_order(written):
    with tempfile.TemporaryDirectory() as folder:
        book = Journal(Path(folder) / "a.jsonl")
        for one in written:
            book.append(one)
        assert book.traces() == written


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    assert Journal(tmp_path / "none.jsonl").traces() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_append(journal, cut):
    lines = journal.path.read_bytes().splitlines(keepends=True)
    torn = lines[2][:cut] if cut > 0 else lines[2][:-1]
    journal.path.write_bytes(b"".join(lines[:2]) + torn)
    assert journal.traces() == [trace(0), trace(1)]
    journal.append(trace(2))
    assert journal.path.read_bytes() == b"".join(lines)
    assert journal.traces() == [trace(0), trace(1), trace(2)]


def test_a_torn_first_line_leaves_an_empty_journal(journal):
    journal.path.write_bytes(journal.path.read_bytes()[:20])
    assert journal.traces() == []
    journal.append(trace(5))
    assert journal.traces() == [trace(5)]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"{not json", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b'{"question_id": "q"}', "KeyError('rounds')"),
        (b'{"rounds": [], "question": "q"}', "missing 2 required positional arguments: 'question_id' and 'system'"),
        (b'{"rounds": "\xff"}', "UnicodeDecodeError"),
        (b"", "JSONDecodeError"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_changed(journal, damage, reason):
    first, _, third = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(content := first + damage + b"\n" + third)
    with pytest.raises(DataError) as refused:
        journal.traces()
    assert str(refused.value).startswith(f"Line 2 of {journal.path} is damaged (")
    assert reason in str(refused.value)
    assert str(refused.value).endswith("delete that line, and the run answers its question again.")
    assert journal.path.read_bytes() == content


def test_an_append_is_on_disk_before_it_returns(journal, monkeypatch):
    synced = []
    monkeypatch.setattr("lagkit.runs.journal.os.fsync", lambda handle: synced.append(len(journal.traces())))
    journal.append(trace(3))
    assert synced == [4]


def test_traces_whose_responses_repeat_the_question_are_refused(journal):
    lines = [json.loads(line) for line in journal.path.read_bytes().splitlines()]
    for line in lines:
        line["rounds"] = [{k: v for k, v in r.items() if k != "opening"} for r in line["rounds"]]
        del line["crc32"]
    journal.path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(DataError, match=r"a\.jsonl holds traces of an earlier version .* run again, into another fol"):
        journal.traces()
