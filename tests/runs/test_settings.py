"""Every key of a run's settings changes what it says it changes, through a run; a key without such a test fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch

from lagkit.agent import context as augment
from lagkit.logs import vectors
from lagkit.logs.planner import Rates
from lagkit.logs.quantised import QuantisedSearch
from lagkit.logs.retrieve import HashEmbedder
from lagkit.logs.store import LogStore
from lagkit.model.context import Context, Generation
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.runs.journal import Journal
from lagkit.types import Limits, Trace
from lagkit.util.errors import DataError, LagkitError
from tests.helpers import lms
from tests.helpers.covered import Covered

shows = Covered()
BARE = "responses.last_round.bare"  # the block of `kv_last_round`
UNSEEN = {"policies": ("no_logs", "kv_last_round"), "splits": ("unseen",)}  # where all else of a run shows nothing more


class BatchedLM(lms.ActingLM):
    """Notes how many contexts each call holds."""

    batches: list[int]

    def generate(self, contexts: Sequence[Context], max_new_tokens: int, **settings: object) -> list[Generation]:
        self.batches.append(len(contexts))
        return super().generate(contexts, max_new_tokens, **settings)


@pytest.fixture(scope="module")
def lm() -> BatchedLM:
    made: BatchedLM = lms.new_lm(BatchedLM)
    made.batches = []
    return made


@pytest.fixture(scope="module")
def base(whole) -> Experiment:
    """One run with `small_run`'s settings, for all tests that compare with it."""
    return whole[0]


@pytest.fixture
def changed(tmp_path, lm):
    """A finished run with other settings than `base`."""

    def run(**settings: object) -> Experiment:
        made = lms.small_run(tmp_path / "out", lm, **settings)
        made.run()
        return made

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return lms.saved(tmp_path_factory.mktemp("models") / "tiny")


def loaded(out: Path, model: Path, **settings: object) -> Experiment:
    """A run that loads its model by its settings: three logs, two questions, one round."""
    chosen = {
        **{"data": lms.SAMPLE, "out": out, "model": str(model), "embedder": "hash", "dtype": "float32"},
        **{"wording": "plain", "log_questions": 3, "unseen_questions": 2, "splits": ("unseen",), "max_rounds": 1},
        **{"max_new_tokens": 4, "policies": ("no_logs", "kv_last_round")},
    }
    return Experiment(RunConfig.parse({**chosen, **settings}))


def results(run: Experiment) -> pd.DataFrame:
    return pd.read_parquet(run.out / "results.parquet")


def traces(run: Experiment, name: str) -> list[Trace]:
    found = Journal(run.out / "traces" / f"{name}.jsonl").traces()
    return sorted(found, key=lambda trace: trace.question_id)


def asked(run: Experiment, split: str) -> set[str]:
    return set(results(run).query("split == @split")["question_id"])


def blocks(run: Experiment) -> list[Path]:
    return sorted((run.out / "store" / "kv").rglob("*.safetensors"))


def test_no_key_is_without_a_test():
    """Those of `api`: `tests/model/api/test_settings.py`; of `world`: `tests/datasets/world/test_controls.py`."""
    assert set(shows.names) | {"api"} == set(RunConfig.keys())
    assert {key for key, group in RunConfig.keys().items() if group == "limits"} == set(Limits.__dataclass_fields__)


# What is asked, and where the results go


@shows("data", "dataset")
def test_data_is_the_folder_of_questions_and_dataset_its_format(tmp_path, lm):
    folder = shutil.copytree(lms.SAMPLE, tmp_path / "mine")
    records = json.loads((folder / "dev_test.json").read_text(encoding="utf-8"))
    (folder / "dev_test.json").write_text(json.dumps(records[:2]), encoding="utf-8")
    with pytest.raises(LagkitError, match="no data layout is called 'mine'"):
        lms.small_run(tmp_path / "out", lm, data=folder)
    run = lms.small_run(tmp_path / "out", lm, data=folder, dataset="musique", unseen_questions=None)
    assert [question.id for question in run.questions("unseen")] == [record["id"] for record in records[:2]]
    with pytest.raises(DataError, match="record 0"):
        lms.small_run(tmp_path / "other", lm, data=folder, dataset="mmlupro")


@shows("world")
def test_world_is_drawn_into_the_run(tmp_path, lm):
    worlds = [{"seed": seed, "entities": 90, "log_questions": 4, "unseen_questions": 3} for seed in (1, 2)]
    runs = [
        lms.small_run(tmp_path / str(world["seed"]), lm, data=None, world=world, log_questions=None) for world in worlds
    ]
    for run in runs:
        run.build()
        assert len(json.loads((run.out / "world" / "dev_train.json").read_text(encoding="utf-8"))) == 4
        assert (len(run.log_questions), len(run.questions("unseen"))) == (4, 3)
    first, second = ({question.text for question in run.log_questions} for run in runs)
    assert first != second


@shows("out", "store")
def test_out_holds_all_that_a_run_writes_but_a_store_that_lies_elsewhere(base, changed, tmp_path):
    names = {"manifest.json", "results.parquet", "summary.csv", "differences.csv", "report.md", "store", "traces"}
    assert names <= {path.name for path in base.out.iterdir()}
    run = changed(store=str(tmp_path / "elsewhere"), **UNSEEN)
    assert not (run.out / "store").exists()
    with LogStore.open(tmp_path / "elsewhere") as store:
        assert len(store) == 6


@shows("policies", "splits")
def test_policies_and_splits_say_what_is_answered(base, changed):
    run = changed(policies=("no_logs", "kv_all_rounds"), splits=("seen",))
    assert set(results(base)["policy"]) == {"no_logs", "kv_last_round", "text_last_round_user_turn"}
    assert set(results(run)["policy"]) == {"no_logs", "kv_all_rounds"}
    assert (set(results(base)["split"]), set(results(run)["split"])) == ({"seen", "unseen"}, {"seen"})
    with run.store() as store:
        assert {key for log in store for key in store.block_keys(log)} == {"responses.all_rounds.bare"}


@shows("split")
def test_a_disjoint_split_moves_questions(tmp_path, lm):
    authors, disjoint = (
        lms.small_run(tmp_path / split, lm, split=split, log_questions=None, unseen_questions=None)
        for split in ("authors", "disjoint")
    )
    hops = [{hop.id for question in authors.log_questions for hop in question.hops}]
    hops.append({hop.id for question in disjoint.log_questions for hop in question.hops})
    shared = [
        sum(any(hop.id in own for hop in question.hops) for question in run.questions("unseen"))
        for run, own in zip((authors, disjoint), hops, strict=True)
    ]
    assert shared[0] > shared[1] == 0


@shows("log_questions", "seen_questions", "unseen_questions", "seed")
def test_samples_have_their_sizes_and_depend_on_the_seed(base, changed):
    run = changed(log_questions=4, seen_questions=2, unseen_questions=1, policies=("no_logs",))
    sizes = [(len(traces(r, "log")), len(asked(r, "seen")), len(asked(r, "unseen"))) for r in (base, run)]
    assert sizes == [(6, 3, 3), (4, 2, 1)]
    other = lms.small_run(run.out.parent / "seed", run.lm, seed=base.config.data.seed + 1)
    samples = [(r.log_questions, r.questions("unseen")) for r in (base, other)]
    for mine, theirs in zip(*samples, strict=True):
        assert len(mine) == len(theirs)
        assert {question.id for question in mine} != {question.id for question in theirs}


# What a question meets


@shows("wording")
def test_wording_changes_the_prompt(base, changed):
    run = changed(wording="short", policies=("no_logs",))
    [before, *_], [after, *_] = traces(base, "log"), traces(run, "log")
    assert before.question_id == after.question_id
    assert before.system != after.system
    examples = lms.small_run(run.out.parent / "examples", run.lm, wording="examples")
    assert len(examples.prompt.head()) > len(run.prompt.head()) == 1
    prefilled = [results(r).query("policy == 'no_logs' and rounds == 1")["prefilled"].mean() for r in (base, run)]
    assert prefilled[0] != prefilled[1]


@shows("embedder")
def test_the_embedder_finds_the_logs(tmp_path, model):
    """The run loads it by its name: the store notes it, and with eight numbers words are taken for each other."""
    found = {}
    for name, dim in (("hash", 4096), ("hash-8", 8)):
        run = loaded(tmp_path / name, model, embedder=name)
        run.run()
        with LogStore.open(run.out / "store") as store:
            assert (store.embedder, store.dim) == (f"hash-{dim}", dim)
        found[name] = [hit for trace in traces(run, "kv_last_round.unseen") for hit in trace.rounds[0].logs]
    assert {hit.score for hit in found["hash"]} != {hit.score for hit in found["hash-8"]}


@shows("passages", "logs")
def test_passages_and_logs_are_what_a_query_brings(base, changed):
    run = changed(passages=1, logs=2, **UNSEEN)
    for r, passages, logs in ((base, 2, 3), (run, 1, 2)):
        first = [trace.rounds[0] for trace in traces(r, "kv_last_round.unseen")]
        assert {(len(round_.passages), len(round_.logs)) for round_ in first} == {(passages, logs)}


@shows("min_similarity")
def test_logs_below_the_least_similarity_are_left_out(base, changed):
    scores = [hit.score for trace in traces(base, "kv_last_round.unseen") for hit in trace.rounds[0].logs]
    least = sorted(scores)[len(scores) // 2]
    run = changed(min_similarity=least, **UNSEEN)
    kept = [hit.score for trace in traces(run, "kv_last_round.unseen") for hit in trace.rounds[0].logs]
    assert kept == [score for score in scores if score >= least]
    assert 0 < len(kept) < len(scores)


@shows("best_log")
def test_the_best_log_stands_first_or_last(base, changed):
    run = changed(best_log="last", policies=("no_logs", "text_last_round_user_turn"), splits=("unseen",))
    before, after = (
        {trace.question_id: trace.rounds[0] for trace in traces(r, "text_last_round_user_turn.unseen")}
        for r in (base, run)
    )
    texts = {trace.id: trace.rounds[-1].response for trace in traces(base, "log")}
    for id, round_ in before.items():
        assert [hit.id for hit in round_.logs] == [hit.id for hit in after[id].logs]
        said = [texts[hit.id] for hit in round_.logs]
        places = [[turn.prompt.index(text) for text in said] for turn in (round_, after[id])]
        assert places[0] == sorted(places[0])
        assert places[1] == sorted(places[1], reverse=True)


@shows("search")
def test_an_exact_search_asks_no_codes(tmp_path, lm, monkeypatch):
    """A store counts as large from four logs on, and its codes find nothing."""
    monkeypatch.setattr(vectors, "QUANTISED_FROM", 4)
    monkeypatch.setattr(QuantisedSearch, "search", lambda self, rows, *_: [[] for _ in rows])
    words = HashEmbedder()
    words.name = "words-4096"  # stores of hashed words have no codes
    found = {}
    for search in ("auto", "exact"):
        config = lms.small_run(tmp_path / search, lm, search=search, unseen_questions=1, **UNSEEN).config
        run = Experiment(config, lm=lm, embedder=words)
        run.run()
        found[search] = {len(trace.rounds[0].logs) for trace in traces(run, "kv_last_round.unseen")}
    assert found == {"auto": {0}, "exact": {3}}


# How long a question goes on


@shows("max_rounds", "max_new_tokens")
def test_rounds_and_responses_end_at_their_limits(base, changed):
    run = changed(max_rounds=1, max_new_tokens=2, **UNSEEN)
    assert [results(r)["rounds"].max() for r in (base, run)] == [2, 1]
    assert [(results(r)["generated"] / results(r)["rounds"]).max() for r in (base, run)] == [4, 2]


@shows("batch_size")
def test_no_batch_is_larger_than_its_size(base, changed, lm):
    largest = []
    for size in (2, 5):
        lm.batches.clear()
        lms.small_run(base.out.parent / f"batch-{size}", lm, batch_size=size, policies=("no_logs",)).build()
        largest.append(max(lm.batches))
    assert largest == [2, 5]


@shows("force_answer")
def test_a_forced_run_has_an_answer_to_every_question(base, changed):
    run = changed(force_answer=True, splits=("unseen",))
    assert results(base).query("split == 'unseen'")["abstained"].any()
    assert not results(run)["abstained"].any()


# The model, and what is kept


@shows("model", "dtype")
def test_the_model_and_its_dtype_are_those_of_the_store(tmp_path, model):
    other = lms.saved(tmp_path / "other", initializer_range=0.2)
    headers = []
    for name, folder, dtype in (("a", model, "float32"), ("b", other, "float32"), ("c", model, "bfloat16")):
        run = loaded(tmp_path / name, folder, dtype=dtype)
        run.build()
        run.encode()
        with LogStore.open(run.out / "store") as store:
            kept = store.block(store.ids[0], BARE).keys.dtype
            headers.append((store.model["weights"], store.dtype, kept))
    weights, dtypes, kept = zip(*headers, strict=True)
    assert weights[0] != weights[1]
    assert dtypes == ("float32", "float32", "bfloat16")
    assert kept == (torch.float32, torch.float32, torch.bfloat16)


@shows("device")
def test_the_model_is_where_the_device_says(tmp_path, model):
    """Where there is a GPU, the default is that; elsewhere asking for one is refused."""
    assert loaded(tmp_path / "cpu", model, device="cpu").lm.device.type == "cpu"
    default = loaded(tmp_path / "default", model).lm.device.type
    if torch.cuda.is_available():
        assert default == "cuda"
    else:
        with pytest.raises(LagkitError, match=r"(?i)cuda"):
            loaded(tmp_path / "cuda", model, device="cuda").run()


@shows("codec")
def test_a_codec_makes_smaller_files(base, changed):
    run = changed(codec="int8", **UNSEEN)
    sizes = [sum(path.stat().st_size for path in blocks(r)) for r in (base, run)]
    assert len(blocks(base)) == len(blocks(run)) == 6
    assert sizes[1] < 0.5 * sizes[0]
    with LogStore.open(run.out / "store") as store:
        assert store.codec == "int8"


@shows("blocks")
@pytest.mark.parametrize(
    ("blocks_", "rates", "failed"),
    [
        ("load", None, 2),
        ("recompute", None, 0),
        ("planned", Rates(prefill=1e9, read=1.0), 0),
        ("planned", Rates(prefill=1e-9, read=1e9), 2),
    ],
)
def test_blocks_are_read_or_computed_again(tmp_path, model, monkeypatch, blocks_, rates, failed):
    """Whoever reads the damaged files fails; whoever computes the blocks again doesn't notice."""
    run = loaded(tmp_path / "out", model, blocks=blocks_)
    run.build()
    run.encode()
    for path in blocks(run):
        path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(augment, "measure_rates", lambda lm, store: rates)
    assert run.run().query("policy == 'kv_last_round'")["failed"].sum() == failed
