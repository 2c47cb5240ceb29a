"""Loading or computing again: what is decided from rates, what is measured, and that answers stay the same."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.logs.header import Header
from lagkit.logs.planner import Rates, Size, decisions, measure_rates
from lagkit.logs.store import LogStore
from lagkit.model.lm import LM
from lagkit.policy import Policy
from lagkit.runs.config import RunConfig
from lagkit.util.errors import ConfigError, StoreError
from tests.helpers.lms import new_lm, open_store, qa, saved, short_prompt, small_run, trace_of
from tests.helpers.stores import same

POSITIVE = st.floats(1e-3, 1e12)
FAST_DISK, SLOW_DISK = Rates(prefill=1_000, read=1e12), Rates(prefill=1_000, read=1e3)


@given(POSITIVE, POSITIVE, st.floats(0, 10), st.integers(0, 10**6), st.integers(0, 10**10))
def test_the_sooner_way_is_taken(prefill, read, latency, tokens, nbytes):
    rates = Rates(prefill, read, latency)
    load, recompute = rates.load_s(nbytes), rates.recompute_s(tokens)
    assert (load, recompute) == (latency + nbytes / read, tokens / prefill)
    assert {"load": load, "recompute": recompute}[rates.way(tokens, nbytes)] == min(load, recompute)


def test_the_table_of_decisions():
    sizes = [Size("llama", 150, 150, 131_072), Size("llama", 1_500, 150, 131_072), Size("other", 1, 1, 1)]
    table = decisions(
        {"far disk": {"llama": Rates(56_000, 1e8, 0.01)}, "memory": {"llama": Rates(56_000, 55e9)}}, sizes
    )
    assert list(table["place"]) == ["far disk", "far disk", "memory", "memory"]
    assert list(table["way"]) == ["recompute", "recompute", "load", "load"]
    first = table.iloc[0]
    assert first["load_ms"] == pytest.approx(10 + 1e3 * 150 * 131_072 / 1e8)
    assert first["recompute_ms"] == pytest.approx(1e3 * 150 / 56_000)
    assert first["gain"] == pytest.approx(first["load_ms"] / first["recompute_ms"])


@pytest.fixture
def store(tmp_path):
    lm = new_lm(LM)
    logs = [trace_of(f"word{i} " * (4 * i + 4) + f"<ans>{i}</ans>", question=f"word{i}?", id=f"l{i}") for i in range(6)]
    with open_store(tmp_path / "store", lm, *logs) as store:
        for log in store.ids:
            encoder = Encoder(lm, short_prompt())
            store.put_block(log, encoder.key(Policy("kv")), encoder.encode(store.get(log), Policy("kv")))
        yield lm, store


def test_rates_are_measured(store):
    found = measure_rates(*store)
    assert math.isfinite(found.prefill)
    assert 0 < found.prefill < 1e9
    assert 0 < found.read < 1e13
    assert 0 <= found.latency < 10


def test_a_store_without_blocks_cannot_be_measured(tmp_path):
    lm = new_lm(LM)
    with (
        open_store(tmp_path / "store", lm, trace_of("x")) as store,
        pytest.raises(StoreError, match="no KV blocks yet"),
    ):
        measure_rates(lm, store)


@pytest.mark.parametrize(
    ("source", "rates", "reads"),
    [("load", None, True), ("recompute", None, False), ("planned", FAST_DISK, True), ("planned", SLOW_DISK, False)],
)
def test_blocks_come_from_where_the_plan_says_and_are_the_same(store, monkeypatch, source, rates, reads):
    lm, logs = store
    logs.source = source
    kv = KVContextBuilder(lm, short_prompt(), Policy("kv"), logs)
    if rates:
        monkeypatch.setitem(kv.__dict__, "rates", rates)
    expected = [logs.block(log, kv.encoder.key(Policy("kv"))) for log in logs.ids]
    loaded, load = [], type(logs).load
    monkeypatch.setattr(type(logs), "load", lambda self, row: loaded.append(row) or load(self, row))
    found = kv.context(qa("Which?"), "USER", logs.ids).blocks
    assert all(map(same, found, expected))
    assert bool(loaded) is reads


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("handed_in", [True, False])
@pytest.mark.parametrize(
    ("blocks", "rates", "reads"),
    [("load", None, True), ("recompute", None, False), ("planned", FAST_DISK, True), ("planned", SLOW_DISK, False)],
)
def test_a_run_has_blocks_from_where_its_settings_say(tmp_path, model, monkeypatch, blocks, rates, reads, handed_in):
    settings = {"model": str(model), "device": "cpu", "blocks": blocks, "log_questions": 3, "seen_questions": 1}
    run = small_run(tmp_path / "run", new_lm(LM) if handed_in else None, **settings)
    run.build()
    run.encode()
    loaded, load, measured = [], LogStore.load, []
    monkeypatch.setattr(LogStore, "load", lambda self, row: loaded.append(row) or load(self, row))
    monkeypatch.setattr("lagkit.agent.context.measure_rates", lambda *_: measured.append(rates) or rates)
    run.answer("kv_last_round", "seen")
    assert bool(loaded) is reads
    assert measured == [rates] * (blocks == "planned")
    [trace] = run.scored(["kv_last_round"], ["seen"]).to_dict("records")
    assert not trace["failed"]
    assert trace["injected"] > 0


def test_what_a_codec_has_changed_is_not_computed_again(tmp_path):
    lm, policy = new_lm(LM), Policy("kv")
    encoder, log = Encoder(lm, short_prompt()), trace_of("word <ans>x</ans>")
    with LogStore.new(tmp_path / "store", Header.new(lm.fingerprint, "none", 2, "float32", "int8")) as store:
        store.add(log, [1, 0], {encoder.key(policy): encoder.encode(log, policy)})
        store.source = "recompute"
        kv = KVContextBuilder(lm, short_prompt(), policy, store)
        assert same(kv.block(log.id, qa("?")), store.block(log.id, encoder.key(policy)))
    with pytest.raises(ConfigError, match="blocks of codec int8 are not what computing them again gives"):
        RunConfig.of("testbed", out=tmp_path, codec="int8", blocks="planned")
