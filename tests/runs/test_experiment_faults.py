"""What goes wrong with a run: refused before it starts, or recorded while all else goes on; nothing is lost."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from lagkit.datasets import loaders as data
from lagkit.logs.encode import Encoder
from lagkit.runs.claim import RECORD
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.types import Trace
from lagkit.util import files
from lagkit.util.errors import ConfigError, ContextTooLong, DataError, EmptyStore, ModelNotFound, StoreMismatch
from tests.helpers.lms import SAMPLE, ActingLM, ScriptedLM, new_lm, small_run
from tests.helpers.stores import file_of


@pytest.fixture(scope="module")
def lm() -> ActingLM:
    return new_lm(ActingLM)


def journal(experiment: Experiment, name: str) -> list[Trace]:
    return Journal(experiment.out / "traces" / f"{name}.jsonl").traces()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 7}, "seed was 1234 and is 7"),
        ({"logs": 1, "max_rounds": 3}, "logs was 3 and is 1, max_rounds was 2 and is 3|max_rounds .*, logs"),
        ({"model": "other"}, "model was 'smollm2' and is 'other'"),
        ({"split": "disjoint"}, "split was 'authors' and is 'disjoint'"),
        ({"log_questions": 9}, "log_questions was 6 and is 9"),
        ({"min_similarity": 0.5}, "min_similarity was None and is 0.5"),
    ],
)
def test_other_settings_in_the_folder_of_a_run_are_refused_and_named(whole, lm, changed, message):
    begun = whole[0]
    before = (begun.out / "manifest.json").read_bytes()
    with pytest.raises(
        ConfigError, match=rf"whole holds a run with other settings \(({message})\): choose another folder"
    ):
        small_run(begun.out, lm, **changed)
    assert (begun.out / "manifest.json").read_bytes() == before


def test_another_wording_of_the_prompt_is_another_setting(whole, lm, monkeypatch):
    begun = whole[0]
    other = replace(begun.prompt, system="Be long.")
    monkeypatch.setattr(Experiment, "prompt", other)
    with pytest.raises(ConfigError, match=rf"prompt was .*{begun.prompt.hash}.* and is .*{other.hash}"):
        small_run(begun.out, lm)


def test_a_run_that_is_older_than_a_setting_was_made_with_its_default(copied, lm):
    record = json.loads((copied / RECORD).read_text())
    del record["settings"]["split"]
    files.write_json(copied / RECORD, record)
    with pytest.raises(ConfigError, match="split was 'authors' and is 'disjoint'"):
        small_run(copied, lm, split="disjoint")
    assert small_run(copied, lm).config.data.split == "authors"


def test_a_run_can_grow(tmp_path, lm):
    small_run(tmp_path, lm, policies=("no_logs",), splits=("unseen",), unseen_questions=2).run()
    results = small_run(tmp_path, lm, policies=("no_logs", "kv_block"), splits=("unseen",), batch_size=1).run()
    assert results.groupby("policy").size().to_dict() == {"no_logs": 3, "kv_block": 3}
    assert len(journal(small_run(tmp_path, lm), "no_logs.unseen")) == 3


def test_a_model_that_differs_is_refused_with_both_fingerprints_before_it_answers(copied, lm):
    log = copied / "traces" / "log.jsonl"
    log.write_bytes(one := log.read_bytes().splitlines(keepends=True)[0])
    other = new_lm(ActingLM, rms_norm_eps=1e-3)
    with pytest.raises(StoreMismatch) as refused:
        small_run(copied, other).run()
    assert all(print["config"] in str(refused.value) for print in (lm.fingerprint, other.fingerprint))
    assert log.read_bytes() == one


def test_failed_questions_are_recorded_and_nothing_else_suffers(tmp_path):
    sample = data.load(SAMPLE)
    lm = new_lm(ScriptedLM)
    script = {q.text: [f" It is. <ans>{q.answers[0]}</ans>"] * 9 for q in (*sample.seen, *sample.unseen)}
    experiment = small_run(tmp_path, lm)
    bad_log, bad = experiment.log_questions[0], experiment.questions("unseen")[1]
    failing = {q.text: [RuntimeError("no memory")] for q in (bad_log, bad)}
    results = small_run(tmp_path, lm.play(script | failing)).run()
    failed = results[results["failed"]].set_index("question_id")
    assert set(failed.index) - {bad_log.id} == {bad.id}
    assert list(failed.loc[[bad.id], "policy"]) == list(experiment.config.policies)
    assert set(failed.loc[[bad.id], "error"]) == {f"RuntimeError: question {bad.id!r}: no memory"}
    assert (results[~results["failed"]]["em"] == 1.0).all()
    assert (failed["em"] == 0.0).all()
    with experiment.store() as store:
        assert bad_log.id not in {t.question_id for t in store.traces()}
        assert len(store) == 5
    # What they failed of may have passed: a run that resumes asks them again, and with one log more all that use logs.
    again = small_run(tmp_path, lm.play(script)).run()
    assert not again["failed"].any()
    assert lm.turn[bad_log.text] == 1 + 2 * (bad_log.id in set(results["question_id"]))
    with experiment.store() as store:
        assert bad_log.id in {t.question_id for t in store.traces()}


def test_a_damaged_block_fails_its_questions_and_is_named_in_the_table(tmp_path):
    lm = new_lm(ActingLM)  # its own: a model that has used an equal block holds it in memory
    experiment = small_run(tmp_path, lm, policies=("no_logs", "kv_last_round"), splits=("unseen",), logs=1)
    experiment.build()
    experiment.encode()
    finder, *others = experiment.questions("unseen")
    with experiment.store() as store:
        [[hit]] = store.search(experiment.embedder.queries([finder.text]), 1)
        path = file_of(store, hit.id, "responses.last_round.bare")
    path.write_bytes(path.read_bytes()[:-4])
    results = experiment.run().set_index(["policy", "question_id"])
    error = results.loc[("kv_last_round", finder.id), "error"]
    assert error.startswith(f"DamagedBlock: question {finder.id!r}: The KV block {path} is damaged: it has ")
    assert not all(results.loc[("kv_last_round", q.id), "failed"] for q in others)
    assert not results.loc["no_logs", "failed"].any()
    with experiment.store() as store:
        assert list(store.verify()["log"]) == [hit.id]


def test_without_a_single_log_there_is_nothing_to_reuse(tmp_path):
    lm = new_lm(ScriptedLM, max_position_embeddings=64)
    experiment = small_run(tmp_path, lm.play({}), splits=("unseen",))
    with pytest.raises(EmptyStore, match=r"The log store .*store is empty: build logs before reusing them"):
        experiment.run()
    assert all(t.error.startswith("ContextTooLong: ") for t in journal(experiment, "log"))


def test_a_log_that_is_too_long_to_encode_is_left_out_and_said(tmp_path, lm, monkeypatch, capsys):
    experiment = small_run(tmp_path, lm)
    experiment.build()
    encode, first = Encoder.encode, []

    def choosy(self, trace, policy):
        if not first:
            first.append(trace.id)
            raise ContextTooLong("too long")
        return encode(self, trace, policy)

    monkeypatch.setattr(Encoder, "encode", choosy)
    experiment.encode()
    assert capsys.readouterr().out == f"Log {first[0]} is not encoded as responses.last_round.bare: too long\n"
    with experiment.store() as store:
        assert [log for log in store if not store.block_keys(log)] == first


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"data": SAMPLE.parent / "none"}, DataError, "there is no data folder"),
        ({"log_questions": 151}, ConfigError, "cannot draw 151 questions: sample has 150 seen ones"),
        ({"seen_questions": 9}, ConfigError, "cannot draw 9 questions: sample has 6 seen ones"),
        ({"unseen_questions": 201}, ConfigError, "cannot draw 201 questions: sample has 200 unseen ones"),
        ({"split": "disjoint", "unseen_questions": 201}, ConfigError, "cannot draw 201 questions: sample has 200"),
        (
            {"data": None, "world": {"contradicted": 0.5}, "split": "disjoint"},
            ConfigError,
            r"contradicted facts cannot be split anew: use split=authors",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_at_once_and_claims_no_folder(tmp_path, lm, settings, error, message):
    with pytest.raises(error, match=message):
        small_run(tmp_path / "out", lm, **settings)
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_not_asked_may_hold_fewer_questions(tmp_path, lm):
    run = small_run(tmp_path / "out", lm, log_questions=2, seen_questions=3, splits=("unseen",))
    assert (len(run.log_questions), len(run.questions("unseen"))) == (2, 3)
    with pytest.raises(ConfigError, match="cannot draw 3 questions: sample has 2 seen ones"):
        run.questions("seen")


def test_a_folder_in_which_nothing_was_answered_takes_other_settings(tmp_path, lm):
    config = small_run(tmp_path, lm, model="typo").config
    with pytest.raises(ModelNotFound, match="'typo' is no known model"):
        Experiment(config).run()
    assert small_run(tmp_path, lm, model="other").config.model.name == "other"


def test_a_damaged_journal_is_named(copied, lm):
    path = copied / "traces" / "log.jsonl"
    path.write_text("{}\n")
    with pytest.raises(DataError, match=re.escape(f"Line 1 of {path} is damaged")):
        small_run(copied, lm).run()


@pytest.mark.parametrize("changes", [{"model": "nothing"}, {"embedder": "nothing"}, {"device": "cuda:99"}])
def test_what_cannot_be_loaded_is_refused_before_anything_is_written(tmp_path, lm, changes):
    config = small_run(tmp_path / "out", lm, **changes).config
    handed = {} if changes.keys() & {"model", "device"} else {"lm": lm}
    with pytest.raises((ModelNotFound, ConfigError)):
        Experiment(config, **handed).run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("journal", "kept", "said"),
    [
        ("kv_last_round.unseen", 2, "kv_last_round has answered 2 of 3 unseen"),
        ("no_logs.unseen", 0, "no_logs has answered 0 of 3 unseen"),
        ("log", 0, "no_logs has answered 0 of 3 seen"),
    ],
)
def test_an_unfinished_run_is_not_reported_and_keeps_the_report_that_it_has(copied, lm, journal, kept, said):
    with small_run(copied, lm).writing():
        pass  # it notes where it is now
    path = copied / "traces" / f"{journal}.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    before = {file.name: file.read_bytes() for file in copied.iterdir() if file.is_file()}
    with pytest.raises(DataError, match=rf"is not finished: {said} questions\. The command that began it resumes it"):
        small_run(copied, lm).report()
    assert {file.name: file.read_bytes() for file in copied.iterdir() if file.is_file()} == before


def test_a_variant_without_answers_is_left_out_of_a_report(copied, lm):
    (copied / "traces" / "kv_last_round.unseen.jsonl").unlink()
    assert len(small_run(copied, lm).report()) == 15
