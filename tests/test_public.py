"""What `import lagkit as lag` gives: few names, each explained, and the method in eight lines."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import lagkit as lag
from lagkit.logs.lance import LanceStore
from lagkit.logs.retrieve import HashEmbedder
from lagkit.logs.store import LogStore
from lagkit.types import Limits
from lagkit.util.errors import ConfigError, DataError, ModelNotFound, StoreError, StoreMismatch
from tests.helpers.lms import SAMPLE, new_lm, saved, small_run, tiny_lm, trace_of

LIMITS = Limits(max_rounds=2, max_new_tokens=4, batch_size=3)


def test_the_import_is_quick_and_loads_no_torch():
    code = (
        "import time; t = time.perf_counter(); import lagkit; s = time.perf_counter() - t; import sys; "
        "print(s, *sorted({'torch', 'pandas', 'numpy', 'transformers'} & {*sys.modules}))"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert all(modules == [] for _, *modules in told)
    assert min(float(seconds) for seconds, *_ in told) < 0.2


def test_at_most_thirty_names_each_of_which_is_there_and_explained():
    assert len(lag.__all__) <= 30
    assert sorted(lag.__all__) == sorted(set(lag.__all__))
    assert all((getattr(lag, name).__doc__ or "").strip() for name in lag.__all__)
    assert lag.POLICIES.__doc__ != dict.__doc__
    assert {*lag.__all__, "__version__"} == {*dir(lag)}
    with pytest.raises(AttributeError, match="lagkit has no 'Stor'; it has run, "):
        lag.Stor  # noqa: B018


def test_what_stands_last_in_a_cell_says_what_it_is(tmp_path):
    run = small_run(tmp_path / "run", tiny_lm())
    assert re.fullmatch(r"Experiment\(\S+ on sample, .*run\)", repr(run))
    assert repr(lag.Agent(run.lm, run.data, embedder="hash")).endswith("no_logs, qa)")
    block = lag.encode(run.lm, trace_of("Rome. <ans>Rome</ans>"), "kv_last_action")
    layers, kv_heads, tokens, head_dim = block.keys.shape
    sizes = f"layers={layers}, kv_heads={kv_heads}, tokens={tokens}, head_dim={head_dim}"
    assert repr(block) == f"KVBlock({sizes}, float32, {block.nbytes:,} bytes)"


def test_a_table_without_differences_is_refused_where_they_are_drawn_or_told():
    results = pd.DataFrame({"policy": ["no_logs"], "split": ["unseen"], "em": [1.0]})
    for use in (lag.plot.forest, lag.table.intervals, lambda table: lag.conclude("out", table)):
        with pytest.raises(DataError, match=r"give what `run\.compare\(\)` returns"):
            use(results)


def test_a_name_is_looked_up_once(monkeypatch):
    assert lag.POLICIES is lag.POLICIES
    monkeypatch.setattr("lagkit.util.lazy.import_module", pytest.fail)
    assert lag.POLICIES


def test_the_method_in_eight_lines_gives_what_a_run_gives(tmp_path):
    asked = {"policies": ("no_logs", "kv_last_round"), "splits": ("unseen",)}
    run = small_run(tmp_path / "run", tiny_lm(), wording="examples", **asked)
    results = run.run()

    lm = tiny_lm()
    data = lag.load_data(SAMPLE)
    store = lag.Store.create(tmp_path / "my-store", lm, embedder="hash")
    store.extend(lag.Agent(lm, data, embedder="hash", limits=LIMITS).run(run.log_questions))
    agent = lag.Agent(lm, data, policy="kv_last_round", store=store, limits=LIMITS)
    traces = {trace.question_id: trace for trace in agent.run(run.questions("unseen"))}
    block = lag.encode(lm, store[0], "kv_last_round")

    config, responses = lm.model.config, [lm.plain(r.response) for r in store[0].rounds]
    text = "\n\n".join(responses)
    offsets = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    said = [stop for _, stop in offsets if stop > len(text) - len(responses[-1])]
    assert block.keys.shape == block.values.shape
    assert block.keys.shape == (
        config.num_hidden_layers,
        config.num_key_value_heads,
        len(said),
        config.hidden_size // config.num_attention_heads,
    )
    stored = store.block(store[0].id, "responses.last_round.bare")
    np.testing.assert_allclose(stored.keys.numpy(), block.keys.numpy(), atol=1e-5)
    assert {*store} == {log.id for log in run.logs}
    assert (store.embedder, store.dim, store.dtype, store.model) == ("hash-4096", 4096, "float32", lm.fingerprint)
    own = results[(results["policy"] == "kv_last_round") & (results["split"] == "unseen")].set_index("question_id")
    assert {id: trace.answer for id, trace in traces.items()} == own["answer"].to_dict()
    assert {id: trace.usage.injected for id, trace in traces.items()} == own["injected"].to_dict()
    assert {trace.policy for trace in traces.values()} == {"kv_last_round"}


def test_logs_by_id_and_by_number(tmp_path):
    logs = [trace_of(f"{i}.", id=f"q{i}") for i in range(3)]
    with lag.Store.create(tmp_path, tiny_lm(), "hash") as store:
        ids = store.extend(logs)
        assert ids == [*store] == [log.id for log in logs]
        assert [store[0], store[2], store[-1], store[-3], store[ids[1]]] == [
            logs[0],
            logs[2],
            logs[2],
            logs[0],
            logs[1],
        ]
        for number in (3, -4):
            with pytest.raises(
                StoreError, match=rf"There is no log number {number} in the store at .*, which has 3 logs"
            ):
                store[number]
        assert [[hit.id for hit in hits] for hits in store.search(HashEmbedder().queries([logs[1].key]), 1)] == [
            [ids[1]]
        ]


@pytest.mark.parametrize(("place", "kind"), [("a", LogStore), ("a.lance", LanceStore)])
def test_a_store_is_made_and_opened_by_its_place(tmp_path, place, kind):
    lm = tiny_lm()
    with lag.Store.create(tmp_path / place, lm, "hash-64", codec="int8") as store:
        assert type(store) is kind
        [log] = store.extend(iter([trace_of("Rome.")]))
    with lag.Store.open(tmp_path / place, lm) as store:
        assert (type(store), store.codec, store.embedder, store[0].id) == (kind, "int8", "hash-64", log)
        with pytest.raises(StoreError, match="open for reading only"):
            store.extend([trace_of("Oslo.")])
    with pytest.raises(StoreMismatch, match="was built with model"):
        lag.Store.open(tmp_path / place, new_lm(lag.LM, num_hidden_layers=1))
    with pytest.raises(StoreError, match="There is a log store at"):
        lag.Store.create(tmp_path / place, lm, "hash-64")
    other = LanceStore if kind is LogStore else LogStore
    with pytest.raises(StoreError, match=f"is a {kind.__name__} and no {other.__name__}: use Store"):
        other.open(tmp_path / place)


def test_a_store_refuses_another_embedder_and_says_when_it_cannot_find_its_own(tmp_path):
    class Mine(HashEmbedder):
        """An embedder that no name leads to."""

        def __init__(self):
            super().__init__(8)
            self.name = "mine"

    with lag.Store.create(tmp_path / "s", tiny_lm(), Mine()) as store:
        assert len(store.extend([trace_of("Rome.")])) == 1  # the one that it was made with
        with pytest.raises(StoreMismatch, match='built with embedder "mine", but "hash-8" was asked for'):
            store.extend([trace_of("Oslo.")], HashEmbedder(8))
        with pytest.raises(StoreMismatch, match='built with embedder "mine", but "hash-8" was asked for'):
            lag.Agent(tiny_lm(), lag.load_data(SAMPLE), policy="kv_last_round", store=store, embedder="hash-8")
    with lag.Store.open(tmp_path / "s", write=True) as store:
        with pytest.raises(ModelNotFound, match=r"The embedder of .* has to be given: 'mine' is no known embedder"):
            store.extend([trace_of("Oslo.")])
        assert len(store) == 1
        store.extend([trace_of("Oslo.")], Mine())
        assert len(store) == 2


def test_traces_that_failed_are_no_logs_and_what_came_before_a_failure_stays(tmp_path, capsys):
    from dataclasses import replace

    good, bad = trace_of("Rome."), replace(trace_of(id="q2"), error="it is broken")

    def coming():
        yield good
        yield bad
        raise OSError("the power went")

    with lag.Store.create(tmp_path / "s", tiny_lm(), "hash-64") as store:
        assert store.extend([good, bad]) == [good.id]
        assert re.search("1 traces failed and were left out of .*: it is broken", capsys.readouterr().err)
    with lag.Store.create(tmp_path / "t", tiny_lm(), "hash-64") as store:
        with pytest.raises(OSError, match="the power went"):
            store.extend(coming())
        assert [*store] == [good.id]


def test_an_agent_says_what_it_lacks(tmp_path):
    lm, data = tiny_lm(), lag.load_data(SAMPLE)
    with pytest.raises(ConfigError, match="Give the agent the data that it is to work on"):
        lag.Agent(lm)
    with pytest.raises(ConfigError, match="Unknown policy 'kv_lost_round'"):
        lag.Agent(lm, data, policy="kv_lost_round")
    with pytest.raises(ConfigError, match="reuses logs: give the agent a LogStore"):
        lag.Agent(lm, data, policy="kv_last_round")
    changed = lag.Agent(lm, data, policy="no_logs+passages=1", embedder="hash")
    assert (changed.limits.passages, changed.policy_name, changed.prompt.name) == (
        1,
        "no_logs+passages=1",
        "qa_examples",
    )
    assert len(changed.passages) == len(data.passages)


def test_a_model_in_a_folder_is_loaded_by_its_name(tmp_path):
    lm = lag.LM.load(str(saved(tmp_path / "model")), dtype="float32")
    block = lag.encode(lm, trace_of("Rome. <ans>Rome</ans>"), "kv_last_action")
    assert lm.tokenizer.decode(block.ids.tolist()).strip() == "<ans>Rome</ans>"
