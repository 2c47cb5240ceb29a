"""The commands that look after a log store, and the one that compares data sets: none of them needs a model."""

from __future__ import annotations

import json
import shutil

from lagkit.__main__ import main
from lagkit.logs.retrieve import load_embedder
from lagkit.logs.store import LogStore
from tests.helpers import stores
from tests.helpers.covered import fails
from tests.helpers.lms import SAMPLE


def test_store_commands_need_no_model(tmp_path, capsys):
    where = tmp_path / "store"
    with stores.new_store(where) as store:
        stores.fill(store, range(4))
    assert main(["store", "summary", str(where)]) == 0
    said = capsys.readouterr().out
    assert "4 logs" in said
    assert "name tiny, rope r1" in said
    [row] = [line.split() for line in said.splitlines() if line.startswith("last")]
    assert row[:3] == ["last", "4", "12"]
    assert main(["store", "export", str(where), str(tmp_path / "logs.tar")]) == 0
    assert main(["store", "import", str(tmp_path / "new"), str(tmp_path / "logs.tar")]) == 0
    assert "4 of 4 logs were new" in capsys.readouterr().out
    assert main(["store", "import", str(tmp_path / "new"), str(tmp_path / "logs.tar")]) == 0
    assert "0 of 4 logs were new" in capsys.readouterr().out
    with LogStore.open(where) as old, LogStore.open(tmp_path / "new") as new:
        assert stores.content(old) == stores.content(new)
        assert old.model == new.model


def test_prune_to_a_size(tmp_path, capsys):
    with stores.new_store(tmp_path / "store") as store:
        ids = stores.fill(store, range(4))
    assert main(["store", "prune", str(tmp_path / "store"), "--max-bytes", "0"]) == 0
    said = capsys.readouterr().out
    assert all(log in said for log in ids)
    assert "0 logs are left" in said


def test_search_by_the_stores_embedder(tmp_path, capsys):
    embedder = load_embedder("hash")
    with stores.new_store(tmp_path / "store", embedder=embedder.name, dim=embedder.dim) as store:
        traces = [stores.trace(i) for i in range(5)]
        store.add_many((t, v, {}) for t, v in zip(traces, embedder.documents([t.key for t in traces]), strict=True))
    assert main(["store", "search", str(tmp_path / "store"), "Who is 3?", "-k", "2", "--exact"]) == 0
    exact = capsys.readouterr().out
    assert main(["store", "search", str(tmp_path / "store"), "Who is 3?", "-k", "2"]) == 0
    said = capsys.readouterr().out
    assert said == exact
    best, second = said.splitlines()
    assert f"{traces[3].id}  Who is 3?  ->  3" in best
    assert float(best.split()[0]) > float(second.split()[0])


def test_store_errors(tmp_path, capsys):
    where = tmp_path / "store"
    assert "There is no log store at" in fails(capsys, main, "store", "summary", where)
    assert "cannot be read as an archive" in fails(capsys, main, "store", "import", where, tmp_path / "no.tar")
    assert not where.exists()
    with stores.new_store(where) as store:
        stores.fill(store, range(2))
        assert "is writing to" in fails(capsys, main, "store", "prune", where)
    assert "cannot be pruned to -1 bytes" in fails(capsys, main, "store", "prune", where, "--max-bytes", "-1")
    assert main(["store", "export", str(where), str(tmp_path / "logs.tar")]) == 0
    assert "exists already" in fails(capsys, main, "store", "export", where, tmp_path / "logs.tar")
    stores.new_store(tmp_path / "other", model={"name": "else"}).close()
    said = fails(capsys, main, "store", "import", tmp_path / "other", tmp_path / "logs.tar")
    assert '{"name": "else"}' in said
    assert '{"name": "tiny", "rope": "r1"}' in said
    with stores.new_store(tmp_path / "lost", embedder="lost"):
        pass
    with LogStore.open(tmp_path / "lost", write=True) as store:
        stores.fill(store, [1])
    assert "'lost' is no known embedder" in fails(capsys, main, "store", "search", tmp_path / "lost", "x")


def test_overlap_has_a_column_for_each_folder(capsys, tmp_path):
    shutil.copytree(str(SAMPLE), tmp_path / "mine")
    assert main(["overlap", str(SAMPLE), str(tmp_path / "mine"), "--dataset", "musique"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | sample | mine |"
    assert "| components of shared hops | 69 | 69 |" in lines
    assert "| unseen by what they share: final | 50 | 50 |" in lines
    assert lines[-1] == "| unseen that share a hop | 0 | 0 |"
    assert "no data layout is called 'mine'" in fails(capsys, main, "overlap", tmp_path / "mine")


def test_overlap_of_multiple_choice_is_refused(capsys, tmp_path):
    for number, name in enumerate(("dev_train", "dev_test")):
        record = {"question_id": number, "question": "?", "options": ["x", "y"], "answer": "B", "category": "law"}
        (tmp_path / f"{name}.json").write_text(json.dumps([record]))
    said = fails(capsys, main, "overlap", tmp_path, "--dataset", "mmlupro")
    assert said.startswith(
        "lagkit: The data set mmlupro names no sub-questions or evidences, so what an unseen question shares"
    )
