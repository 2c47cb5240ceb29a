"""Runs whose data, settings, logs or records have changed under the same names: nothing old and new is ever mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lagkit.datasets import loaders as data
from lagkit.runs import load as finished
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.studies.online import Online, Rule
from lagkit.util.errors import ConfigError, DataError, StoreMismatch
from tests.helpers.lms import SAMPLE, ActingLM, ScriptedLM, new_lm, small_run

LOGGED, UNSEEN = "dev_train.json", "dev_test.json"
POLICIES = ("no_logs", "kv_last_round")


@pytest.fixture(scope="module")
def scripted() -> ScriptedLM:
    return new_lm(ScriptedLM)


@pytest.fixture(autouse=True)
def _lines(monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Questions to change."""
    return shutil.copytree(SAMPLE, tmp_path / "sample")


def begin(folder: Path, lm: ScriptedLM, **settings: Any) -> Experiment:
    """A run on the questions in `folder`, in `run` beside it, whose model says "Rome" to everything."""
    sample = data.load(folder)
    lm.play({q.text: [" It is. <ans>Rome</ans>"] * 99 for q in (*sample.seen, *sample.unseen)})
    return small_run(
        folder.parent / "run", lm, **{"data": folder, "policies": POLICIES, "splits": ("unseen",), **settings}
    )


def asked(lm: ScriptedLM) -> dict[str, int]:
    """How often each question was asked since the run was begun."""
    return {question: times for question, times in lm.turn.items() if times}


def edit(folder: Path, name: str, id: str, change: Callable[[dict[str, Any]], Any]) -> None:
    records = json.loads((folder / name).read_text(encoding="utf-8"))
    [record] = [record for record in records if record["id"] == id]
    change(record)
    (folder / name).write_text(json.dumps(records), encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Questions, gold answers, passages


def test_changed_gold_answers_are_named_and_what_was_answered_is_scored_anew(folder, scripted, capsys):
    run = begin(folder, scripted)
    results = run.run()
    assert results["em"].sum() == 0
    log, question = run.log_questions[1], run.questions("unseen")[0]
    edit(folder, LOGGED, log.id, lambda record: record.update(answer="Rome"))
    edit(folder, UNSEEN, question.id, lambda record: record.update(answer="Rome"))
    capsys.readouterr()
    again = begin(folder, scripted)
    scored = again.run()
    assert asked(scripted) == {}
    assert scored[scored["em"] == 1]["question_id"].tolist() == [question.id] * 2
    said = capsys.readouterr().err
    assert f"Gold answers or hops changed of 2 questions ({log.id}, {question.id})" in said
    with again.store() as store:
        assert {t.question_id: t.correct for t in store.traces()} == {q.id: q.id == log.id for q in again.log_questions}
        assert all(store.block_keys(id) for id in store.ids)
    assert "of which 1 answer their question rightly" in (again.out / "report.md").read_text()
    assert begin(folder, scripted).run().equals(scored)
    assert "changed" not in capsys.readouterr().err


def test_what_has_changed_is_told_where_progress_is_off_too(folder, scripted, capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "off")
    run = begin(folder, scripted)
    run.run()
    log, question = run.log_questions[1], run.questions("unseen")[0]
    assert capsys.readouterr().err == ""
    edit(folder, LOGGED, log.id, lambda record: record.update(answer="Rome"))
    edit(folder, UNSEEN, question.id, lambda record: record.update(question="Which town is it?"))
    begin(folder, scripted).run()
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0].partition(" (")[0] for line in said] == [
        "Changed since they were asked",
        "Gold answers or hops changed of 1 question",
        "1 logs of the store were replaced",
        "1 of 3 questions in no_logs.unseen were answered as they are no longer asked, or with other logs",
        "1 of 3 questions in kv_last_round.unseen were answered as they are no longer asked, or with other logs",
    ]


def test_a_changed_question_alone_is_asked_again(folder, scripted, capsys):
    run = begin(folder, scripted)
    run.run()
    question = run.questions("unseen")[2]
    edit(folder, UNSEEN, question.id, lambda record: record.update(question="Which town is it?"))
    again = begin(folder, scripted)
    with pytest.raises(DataError, match="has answered 2 of 3 unseen questions"):
        finished.reopen(run.out)
    results = again.run()
    assert asked(scripted) == {"Which town is it?": len(POLICIES)}
    assert len(results) == 3 * len(POLICIES)
    said = capsys.readouterr().err
    assert f"Changed since they were asked: 1 question ({question.id})" in said
    assert "1 of 3 questions in no_logs.unseen were answered as they are no longer asked" in said


def test_a_changed_log_question_takes_its_log_and_all_answers_with_logs_along(folder, scripted):
    run = begin(folder, scripted)
    run.run()
    log = run.log_questions[3]
    old = {t.question_id: t.id for t in run.logs}
    edit(folder, LOGGED, log.id, lambda record: record.update(question="Which town is it?"))
    again = begin(folder, scripted)
    again.run()
    unseen = {question.text: 1 for question in again.questions("unseen")}
    assert asked(scripted) == {"Which town is it?": 1, **unseen}  # under kv_last_round, not under no_logs
    with again.store() as store:
        held = {t.question_id: t for t in store.traces()}
        assert len(store) == len(held) == len(again.log_questions)
    assert held[log.id].question == "Which town is it?"
    assert {id: t.id for id, t in held.items() if id != log.id} == {id: o for id, o in old.items() if id != log.id}


def _passages(folder: Path) -> None:
    passages = json.loads((folder / "dev_docs.json").read_text(encoding="utf-8"))
    passages["warsaw"]["content"] += " It is in Poland."
    (folder / "dev_docs.json").write_text(json.dumps(passages), encoding="utf-8")


def _another_sample(folder: Path) -> None:
    records = json.loads((folder / LOGGED).read_text(encoding="utf-8"))
    (folder / LOGGED).write_text(json.dumps(records[1:]), encoding="utf-8")


def _all(folder: Path) -> None:
    for name in (LOGGED, UNSEEN):
        records = json.loads((folder / name).read_text(encoding="utf-8"))
        for record in records:
            record["question"] += " Quickly!"
        (folder / name).write_text(json.dumps(records), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_passages, "the passages"),
        (_another_sample, r"the choice of log questions: \d+ questions? \(.*\)"),
        (_all, "the questions"),
    ],
)
def test_other_data_in_the_folder_of_a_run_are_refused_and_nothing_is_changed(folder, scripted, change, what):
    run = begin(folder, scripted)
    run.run()
    change(folder)
    before = files(run.out)
    with pytest.raises(ConfigError, match=rf"run holds a run on other data \({what} changed after it was begun\): put"):
        begin(folder, scripted).run()
    with pytest.raises(ConfigError, match="on other data"):
        finished.reopen(run.out)
    assert files(run.out) == before


def test_a_test_world_that_was_edited_is_other_data(tmp_path):
    world = {"entities": 60, "log_questions": 8, "unseen_questions": 8}
    lm = new_lm(ActingLM)
    settings = {"data": None, "world": world, "policies": ("no_logs",), "splits": ("unseen",)}
    run = small_run(tmp_path, lm, **settings)
    assert list(tmp_path.iterdir()) == []
    run.run()
    question = run.questions("unseen")[0]
    edit(tmp_path / "world", UNSEEN, question.id, lambda record: record.update(question="Which town is it?"))
    small_run(tmp_path, lm, **settings).run()
    lines = Journal(tmp_path / "traces" / "no_logs.unseen.jsonl").traces()
    assert [t.question for t in lines if t.question_id == question.id] == [question.text, "Which town is it?"]
    assert len(lines) == 4
    passages = tmp_path / "world" / "dev_docs.json"
    passages.write_text(passages.read_text().replace(".", "!"))
    with pytest.raises(ConfigError, match="on other data"):
        small_run(tmp_path, lm, **settings)
    (tmp_path / "world" / "controls.json").write_text("{")
    with pytest.raises(DataError, match=r"controls\.json is damaged .*: delete it, and the same world is drawn again"):
        small_run(tmp_path, lm, **settings)


def test_a_store_with_the_logs_of_others_is_refused_before_anything_is_asked(folder, scripted):
    first = begin(folder, scripted, store=str(folder.parent / "logs"))
    first.build()
    other = shutil.copytree(folder, folder.parent / "other" / "sample")
    _all(other)
    second = begin(other, scripted, store=str(folder.parent / "logs"))
    with pytest.raises(StoreMismatch, match=r"logs holds 6 logs that this run did not make \(of .*\): give each run"):
        second.run()
    assert asked(scripted) == {}
    with first.store() as store:
        assert {log.question for log in store.traces()} == {question.text for question in first.log_questions}


# The records of a run


def test_a_run_whose_manifest_is_lost_knows_its_settings_by_itself(folder, scripted):
    run = begin(folder, scripted)
    results = run.run()
    manifest = run.out / "manifest.json"
    held = manifest.read_text()
    assert set(json.loads(held)["data"]) == {"questions", "answers", "passages"}
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"manifest.* is damaged .*: delete it, and the run resumes"):
        begin(folder, scripted)
    manifest.unlink()
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(logs was 3 and is 1\)"):
        begin(folder, scripted, logs=1)
    assert len(finished.reopen(run.out)[1]) == len(results)
    assert begin(folder, scripted).run().equals(results)
    assert asked(scripted) == {}
    assert {"settings", "prompt", "data", "sessions"} <= set(json.loads(manifest.read_text()))


def test_a_run_whose_other_record_is_lost_goes_by_its_manifest(folder, scripted):
    run = begin(folder, scripted)
    results = run.run()
    [record] = run.out.glob("made_with.json")
    record.write_text("{}")
    with pytest.raises(
        DataError, match=r"made_with\.json is damaged \(it lacks data\): delete it, and the run resumes"
    ):
        begin(folder, scripted)
    record.unlink()
    with pytest.raises(ConfigError, match=r"other settings \(logs was 3 and is 1\)"):
        begin(folder, scripted, logs=1)
    _all(folder)
    with pytest.raises(ConfigError, match=r"on other data \(the questions changed"):
        begin(folder, scripted)
    shutil.copytree(SAMPLE, folder, dirs_exist_ok=True)
    assert begin(folder, scripted).run().equals(results)
    record.unlink()
    (run.out / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"holds answers, and neither made_with\.json nor manifest\.json to"):
        begin(folder, scripted)


# Failures


def test_failures_of_the_moment_are_asked_again_when_the_run_resumes(folder, capsys):
    scripted = new_lm(ScriptedLM)  # one that holds no blocks in memory
    run = begin(folder, scripted)
    run.build()
    run.encode()
    (run.out / "store" / "kv").rename(run.out / "away")
    results = run.run()
    failed = results[results["failed"]]
    assert failed["policy"].tolist() == ["kv_last_round"] * 3
    assert failed["error"].str.startswith("DamagedBlock: ").all()
    shutil.rmtree(run.out / "store" / "kv", ignore_errors=True)
    (run.out / "away").rename(run.out / "store" / "kv")
    capsys.readouterr()
    again = begin(folder, scripted).run()
    assert not again["failed"].any()
    assert len(again) == len(results)
    assert asked(scripted) == {question.text: 1 for question in run.questions("unseen")}
    assert "3 of 3 questions in kv_last_round.unseen failed for reasons that may have passed" in capsys.readouterr().err


def test_what_a_question_fails_of_by_itself_is_not_asked_again(folder, monkeypatch):
    lm = new_lm(ScriptedLM, max_position_embeddings=300)
    run = begin(folder, lm, policies=("no_logs",))
    run.run()
    [book] = (run.out / "traces").glob("no_logs*")
    before = book.read_bytes()
    traces = Journal(book).traces()
    assert [(trace.error.partition(":")[0], trace.lasting) for trace in traces] == [("ContextTooLong", True)] * 3
    monkeypatch.setattr(ScriptedLM, "check", pytest.fail)
    begin(folder, lm, policies=("no_logs",)).run()
    assert book.read_bytes() == before


def test_a_stream_goes_on_from_its_first_failure_of_the_moment(folder, scripted, capsys):
    run = begin(folder, scripted, log_questions=3, unseen_questions=2)
    order = Online(run, "kv_last_round").order(0)
    whole = [step.trace.id for step in Online(run, "kv_last_round").stream(Rule(), 0)]
    shutil.rmtree(run.out / "online")
    scripted.script[order[1].text] = [RuntimeError("no memory")]
    broken = Online(begin(folder, scripted, log_questions=3, unseen_questions=2), "kv_last_round")
    scripted.script[order[1].text] = [RuntimeError("no memory")] * 9
    steps = broken.stream(Rule(), 0)
    assert [step.trace.error is None for step in steps] == [True, False, True, True, True]
    capsys.readouterr()
    mended = Online(begin(folder, scripted, log_questions=3, unseen_questions=2), "kv_last_round")
    assert [step.trace.id for step in mended.stream(Rule(), 0)] == whole
    assert asked(scripted) == {question.text: 1 for question in order[1:]}
    assert "task 2 failed for a reason that may have passed" in capsys.readouterr().err
    again = Online(begin(folder, scripted, log_questions=3, unseen_questions=2), "kv_last_round")
    assert [step.trace.id for step in again.stream(Rule(), 0)] == whole
    assert asked(scripted) == {}


def test_a_stream_is_judged_by_the_gold_answers_of_today(folder, scripted):
    sizes = {"log_questions": 3, "unseen_questions": 2}
    steps = Online(begin(folder, scripted, **sizes), "kv_last_round").stream(Rule(), 0)
    assert [step.right for step in steps] == [0] * 5
    first = begin(folder, scripted, **sizes).log_questions[0]
    edit(folder, LOGGED, first.id, lambda record: record.update(answer="Rome"))
    streams = Online(begin(folder, scripted, **sizes), "kv_last_round")
    steps = streams.stream(Rule(), 0)
    assert asked(scripted) == {}
    assert steps[-1].right == 1
    with streams.run.store(folder=streams.folder(Rule(), 0) / "store") as store:
        assert [log.question_id for log in store.traces() if log.correct] == [first.id]
