"""A store's place decides what keeps it: the factory, copies from one kind to another, a run whose store is on S3."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lagkit.__main__ import main
from lagkit.logs.address import beside
from lagkit.logs.copying import copy
from lagkit.logs.lance import LanceStore
from lagkit.logs.store import LogStore, Store
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.util.errors import ConfigError, StoreError, StoreMismatch, StoreUnreachable
from tests.helpers.lms import ActingLM, new_lm, small_run
from tests.helpers.objectstore import DENIED, KEY, SECRET
from tests.helpers.stores import HEADER, content, fill, header, kv, trace, vector


@pytest.mark.parametrize(
    ("place", "kind", "steps"),
    [
        ("runs/a/store", LogStore, "runs/a/store-steps"),
        ("runs/a.lance", LanceStore, "runs/a-steps.lance"),
        ("s3://bucket/logs", LanceStore, "s3://bucket/logs-steps"),
        ("gs://bucket/logs/", LanceStore, "gs://bucket/logs-steps"),
        ("az://container/logs", LanceStore, "az://container/logs-steps"),
    ],
)
def test_a_place_names_its_kind_and_its_neighbour(place, kind, steps):
    assert Store._kind(place) is kind
    assert beside(place, "steps") == (steps if "://" in steps else str(Path.cwd() / steps))


@pytest.mark.parametrize("place", ["http://host/logs", "s3:///logs", "ftp://x/y"])
def test_what_is_no_place_is_refused(place):
    with pytest.raises(StoreError, match=r"is no place for a store; give a folder, or s3://\.\.\., gs://"):
        Store.open(place)


def test_without_lancedb_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("lagkit.logs.base.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"need LanceDB: pip install 'lagkit\[lance\]'"):
        Store.open("s3://bucket/logs")
    with LogStore.new(tmp_path / "s", HEADER):
        Store.open(tmp_path / "s").close()


# Copies


@pytest.fixture(params=["folder to s3", "s3 to folder", "folder to .lance"])
def pair(request, bucket, tmp_path):
    """Two places."""
    places = {"folder": tmp_path / "store", "s3": f"{bucket}/store", ".lance": tmp_path / "store.lance"}
    before, after = request.param.split(" to ")
    return places[before], places[after]


def filled(place, numbers=range(5)):
    with Store.new(place, HEADER) as store:
        store.add_many((trace(i), vector(i), {"last": kv(i), "all": kv(0, tokens=9)}) for i in numbers)
    return place


def test_a_copy_is_equal_to_the_last_byte(pair):
    before, after = filled(pair[0]), pair[1]
    with Store.open(before) as source, Store.new(after, source.header, exist_ok=True) as target:
        done = copy(source, target)
        assert (done.logs, done.new, done.bytes) == (5, 10, int(source.summary()["bytes"].sum()))
        assert done.checked == done.bytes
        assert source.ids == target.ids
        assert content(source) == content(target)
        assert (source.embeddings() == target.embeddings()).all()
        assert list(source.packed()) == list(target.packed())
        assert source.search(vector(1)[None], 5) == target.search(vector(1)[None], 5)
        again = copy(source, target)
        assert (again.new, again.bytes, again.checked) == (0, 0, done.bytes)


def test_a_copy_that_was_interrupted_is_completed(pair):
    before, after = filled(pair[0]), pair[1]
    with Store.open(before) as source, Store.new(after, source.header, exist_ok=True) as target:
        reads, fatal = source.content, source.find(trace(3).id, "last")

        def fails(row):
            if row == fatal:
                raise KeyboardInterrupt
            return reads(row)

        source.content = fails
        with pytest.raises(KeyboardInterrupt):
            copy(source, target)
        assert target.ids == [trace(i).id for i in range(3)]
        source.content = reads
        done = copy(source, target)
        assert (done.logs, done.new) == (5, 4)
        assert content(source) == content(target)


def test_a_copy_onto_something_else_is_refused_before_anything_is_written(pair):
    before, after = filled(pair[0]), pair[1]
    with (
        Store.new(after, header(model={"name": "other"})) as target,
        Store.open(before) as source,
    ):
        with pytest.raises(
            StoreMismatch, match=r'model {"name": "other"}, but {"name": "tiny", "rope": "r1"} was asked'
        ):
            copy(source, target)
        assert len(target) == 0
    with Store.new(f"{before}-2", HEADER, exist_ok=True) as target, Store.open(before) as source:
        fill(target, [3])
        with pytest.raises(StoreError, match="holds other logs than the first ones of"):
            copy(source, target)
        assert target.ids == [trace(3).id]


def test_a_copy_that_differs_is_no_copy(pair):
    before, after = filled(pair[0]), pair[1]
    with Store.open(before) as source, Store.new(after, source.header, exist_ok=True) as target:
        target.put_packed([(next(source.packed())._replace(blocks=()), None)])
        target.put_block(trace(0).id, "last", kv(7))
        with pytest.raises(StoreError, match=rf"they differ in the blocks of log {trace(0).id}"):
            copy(source, target)


def test_the_command_copies_and_says_how_fast(pair, capsys):
    before, after = filled(pair[0]), pair[1]
    assert main(["store", "copy", str(before), str(after)]) == 0
    said = capsys.readouterr().out
    assert "5 logs; 10 blocks were new" in said
    assert said.count("MB/s") == 2
    assert main(["store", "copy", str(before), str(after)]) == 0
    assert "0 blocks were new" in capsys.readouterr().out
    assert main(["store", "verify", str(after)]) == 0
    assert "All 5 logs" in capsys.readouterr().out


def test_commands_on_an_object_store(bucket, tmp_path, capsys):
    filled(f"{bucket}/store")
    assert main(["store", "summary", f"{bucket}/store"]) == 0
    assert "5 logs" in capsys.readouterr().out
    assert main(["store", "export", f"{bucket}/store", str(tmp_path / "logs.tar")]) == 0
    assert main(["store", "import", f"{bucket}/new", str(tmp_path / "logs.tar")]) == 0
    assert "5 of 5 logs were new" in capsys.readouterr().out
    assert main(["store", "prune", f"{bucket}/new", "--max-bytes", "0"]) == 0
    assert "0 logs are left in 0 bytes" in capsys.readouterr().out
    assert main(["store", "summary", f"{bucket}/missing"]) == 2
    assert "There is no log store at" in capsys.readouterr().err
    with Store.open(f"{bucket}/store") as store, LogStore.new(tmp_path / "s", HEADER) as folder:
        folder.import_archive(tmp_path / "logs.tar")
        assert content(folder) == content(store)


# Runs


def blocks(store):
    """What a store holds but for the seconds that each round took."""
    return {log: kept for log, (_, kept) in content(store).items()}


def outcome(results: pd.DataFrame) -> pd.DataFrame:
    return results.drop(columns="seconds")


def blocks_denied(method, path):
    return DENIED if method == "GET" and "blocks.lance/data" in path else None


@pytest.mark.slow
def test_a_run_whose_store_is_on_s3_gives_the_same(bucket, server, tmp_path, monkeypatch):
    lm = new_lm(ActingLM)
    settings = {"policies": ("no_logs", "kv_last_round", "kv_step", "text_last_round_user_turn")}
    folder = small_run(tmp_path / "folder", lm, **settings)
    expected = outcome(folder.run())
    remote = small_run(tmp_path / "remote", lm, **settings, store=f"{bucket}/logs")
    remote.build()
    remote.encode()
    with monkeypatch.context() as patch, server.playing(blocks_denied):
        patch.setenv("LAGKIT_STORE_CACHE", "0")
        with pytest.raises(StoreUnreachable, match="refuses access"):
            remote.run()
    pd.testing.assert_frame_equal(outcome(remote.run()), expected)
    assert not (tmp_path / "remote" / "store").exists()
    for unit in ("trace", "step"):
        with folder.store(unit) as ours, remote.store(unit) as theirs:
            assert isinstance(theirs, LanceStore)
            assert blocks(ours) == blocks(theirs)
    for file in (path for path in (tmp_path / "remote").rglob("*") if path.is_file()):
        raw = file.read_bytes()
        assert KEY.encode() not in raw
        assert SECRET.encode() not in raw
    moved = small_run(tmp_path / "folder", lm, **settings, store=f"{bucket}/moved")
    pd.testing.assert_frame_equal(outcome(moved.run()), expected)


def test_a_runs_store_is_a_place_without_credentials(tmp_path):
    for store, said in (
        (f"s3://{KEY}:{SECRET}@bucket/x", "credentials and endpoint belong in environment variables"),
        ("ftp://x/y", "is no place for a store"),
    ):
        with pytest.raises(ConfigError, match=f"store: .*{said}") as error:
            RunConfig.parse({"data": tmp_path, "out": tmp_path, "store": store})
        assert SECRET not in str(error.value)


@pytest.mark.slow
def test_the_testbed_gives_the_same_with_its_store_on_s3(bucket, tmp_path):
    settings = {
        "world": {"seed": 5, "log_questions": 12, "unseen_questions": 12},
        "policies": ("no_logs", "kv_last_round"),
    }
    found = []
    for name, store in (("folder", None), ("remote", f"{bucket}/logs")):
        run = Experiment(RunConfig.of("testbed", **settings, out=tmp_path / name, store=store))
        found.append(outcome(run.run()))
    pd.testing.assert_frame_equal(*found)
    assert found[0]["em"].mean() > 0.3
    with LanceStore.open(f"{bucket}/logs") as store, LogStore.open(tmp_path / "folder" / "store") as folder:
        assert blocks(store) == blocks(folder)
