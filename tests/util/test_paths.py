"""Paths mean what they meant where they entered, wherever the process goes afterwards; `~` is the user's home."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_type_hints

import nbformat
import numpy as np
import pytest
import yaml
from typer import Typer

from lagkit import __main__ as command
from lagkit.datasets import loaders as data
from lagkit.datasets.world import dataset
from lagkit.datasets.world.controls import Controls
from lagkit.logs.address import beside, checked_uri
from lagkit.logs.embedcache import VectorCache
from lagkit.logs.lance import DiskCache
from lagkit.logs.store import LogStore, Store
from lagkit.model.hub import resolve_model
from lagkit.nightly import gallery
from lagkit.nightly.notebook import execute
from lagkit.runs import load as finished
from lagkit.runs import summary
from lagkit.runs.config import RunConfig
from lagkit.runs.journal import Journal
from lagkit.util.errors import StoreError
from lagkit.util.home import lagkit_home
from lagkit.util.paths import at, file_size, is_digest
from lagkit.views import lab
from tests.helpers.lms import ActingLM, new_lm, small_run
from tests.helpers.stores import HEADER, content, files_of, fill, kv, new_store, same, trace
from tools.codec import __main__ as codec
from tools.testbed import __main__ as testbed

SAMPLE = Path(__file__).parents[2] / "data" / "sample"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The process's folder; `away()` leaves it for one that holds a store of its own under the same name."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def away(name: str) -> Path:
    """Go to another folder, in which a store of the same name stands; returns that store's folder."""
    folder = Path.cwd().parent / "away"
    folder.mkdir()
    os.chdir(folder)
    with new_store(folder / name) as other:
        fill(other, [7, 8, 9])
    return folder / name


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PLACES = ["s", "s.lance"]


@pytest.mark.parametrize("place", PLACES)
def test_a_store_stays_where_it_was_opened(here, place):
    with new_store(place) as store:
        one, two = fill(store, [1, 2])
        other = away(place)
        before = snapshot(other)
        assert Path(store.path) == here / place
        assert store.verify().empty
        assert same(store.block(one, "last"), kv(1))
        assert store.prune().empty
        assert len(files_of(store)) == 2
        fill(store, [3])
        store.put_block(two, "more", kv(5))
        assert store.export("logs.tar") == Path.cwd() / "logs.tar"
        os.chdir(here)
        assert store.import_archive(Path("..") / "away" / "logs.tar") == [trace(i).id for i in (1, 2, 3)]
        assert store.prune(max_bytes=0)["log"].tolist()[-3:] == [one, two, trace(3).id]
        fill(store, [4])
        assert store.evict(0) == [trace(4).id]
    assert snapshot(other) == before
    with Store.open(here / place) as again:
        assert content(again) == {}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("write", [False, True])
def test_a_store_that_is_opened_again_stays_there_too(here, place, write):
    with new_store(place) as store:
        ids = fill(store, [1, 2])
    opened = [Store.open(place, write=write)]
    if write:
        opened[0].close()
        opened = [Store.new(place, HEADER, exist_ok=True)]
    away(place)
    with opened[0] as store:
        assert store.ids == ids
        assert all(same(store.block(log, "last"), kv(i)) for i, log in enumerate(ids, 1))


def test_prune_refuses_where_blocks_are_only_elsewhere(here):
    with new_store("s") as store:
        ids = fill(store, [1, 2])
        (here / "s" / "kv").rename(here / "kv")
        for remove in (store.prune, lambda: store.prune(max_bytes=0)):
            with pytest.raises(StoreError, match=r"s/kv is missing, so all KV blocks would be taken for lost: put it"):
                remove()
        assert [store.has_block(log, "last") for log in ids] == [True, True]
        (here / "kv").rename(here / "s" / "kv")
        assert store.prune().empty
        shutil.rmtree(here / "s" / "kv")
        (here / "s" / "kv").mkdir()  # they are lost indeed
        assert set(store.prune()["log"]) == set(ids)
        assert (store.ids, [store.has_block(log, "last") for log in ids]) == (ids, [False, False])


def test_a_store_whose_database_is_missing_is_no_empty_store(here):
    """In an empty database no log names any block: the next `evict` took all of them for orphans."""
    with new_store("s") as store:
        fill(store, [1, 2])
    blocks = snapshot(here / "s" / "kv")
    (here / "s" / "logs.sqlite").rename(here / "logs.sqlite")
    for write in (False, True):
        with pytest.raises(StoreError, match=r"The database of the log store at .*/s cannot be opened"):
            LogStore.open("s", write=write)
    with pytest.raises(StoreError, match="cannot be opened"):
        LogStore.new("s", HEADER, exist_ok=True)
    assert snapshot(here / "s" / "kv") == blocks


def test_caches_and_journals_stay_where_they_were(here):
    book, vectors = Journal(Path("log.jsonl")), VectorCache(Path("v.sqlite"), 2)
    cache = DiskCache(Path("cache"), 1000)
    away("s")
    book.append(trace(1))
    vectors.write({b"k": np.ones(2, np.float32)})
    digest = "ab" * 32
    assert cache.put(digest, b"content")
    assert sorted(path.name for path in here.iterdir()) == ["cache", "log.jsonl", "v.sqlite"]
    assert (book.traces(), vectors.read([b"k"])[b"k"].tolist()) == ([trace(1)], [1.0, 1.0])
    assert (here / "cache" / "ab" / digest).read_bytes() == b"content"


def test_a_run_stays_where_it_was_begun(here):
    shutil.copytree(SAMPLE, "sample")
    run = small_run(Path("run"), new_lm(ActingLM), data="sample", policies=("no_logs", "kv_last_round"), store="logs")
    run.build()
    away("run")
    results = run.run()
    assert not results["failed"].any()
    assert sorted(path.name for path in here.iterdir()) == ["logs", "run", "sample"]
    assert [path.name for path in Path.cwd().iterdir()] == ["run"]
    again, _ = finished.reopen(here / "run", store=str(here / "logs"))
    assert again.config.data.folder == here / "sample"
    with LogStore.open(again.config.store.place) as store:
        assert (store.path, len(store)) == (here / "logs", 6)


def test_what_is_said_of_a_run_names_no_folder_of_the_machine(here):
    run = small_run(Path("run"), new_lm(ActingLM), policies=("no_logs",), store="logs")
    run.run()
    assert str(here) not in (here / "run" / "report.md").read_text()


# The user's home


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another folder to be in; no folder named `~` may be made in either."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert not list(tmp_path.rglob("~*"))


@pytest.mark.parametrize("place", PLACES)
def test_stores_archives_and_copies_in_the_home_folder(home, place, capsys):
    with new_store(f"~/{place}") as store:
        fill(store, [1])
        assert store.export("~/logs.tar") == home / "logs.tar"
        store.import_archive("~/logs.tar")
    with Store.open(f"~/{place}") as store:
        assert len(store) == 1
    assert checked_uri(f"~/{place}") == str(home / place)
    assert beside(f"~/{place}", "steps").startswith(str(home / "s-steps"))
    assert command.main(["store", "export", f"~/{place}", "~/more.tar"]) == 0
    assert command.main(["store", "import", f"~/new-{place}", "~/more.tar"]) == 0
    assert command.main(["store", "copy", f"~/{place}", f"~/copy-{place}"]) == 0
    assert command.main(["store", "verify", f"~/copy-{place}"]) == 0
    assert {f"new-{place}", f"copy-{place}", "more.tar"} < {path.name for path in home.iterdir()}
    capsys.readouterr()


def test_runs_and_what_they_write_in_the_home_folder(home):
    shutil.copytree(SAMPLE, home / "sample")
    run = small_run(Path("~/run"), new_lm(ActingLM), data="~/sample", policies=("no_logs",), store="~/logs")
    results = run.run()
    assert {"run", "sample", "logs"} == {path.name for path in home.iterdir()}
    assert len(finished.published("~/run")[0]) == len(results)
    assert finished.reopen("~/run", data="~/sample", store="~/logs")[0].out == home / "run"
    lab.conclude("~/found", {"n": 1.0}, [], {})
    summary.write("~/summary.json", {"seconds": 1})
    dataset.write("~/world", Controls(log_questions=2, unseen_questions=2))
    assert data.load("~/world", "musique").seen
    for name in ("found/metrics.json", "summary.json", "world/controls.json"):
        assert (home / name).is_file()


def test_settings_in_the_home_folder(home, monkeypatch):
    (home / "run.yaml").write_text(yaml.safe_dump({"data": "~/d", "out": "~/o", "store": "~/s", "wording": "plain"}))
    config = RunConfig.of("~/run.yaml")
    assert (config.data.folder, config.out, config.store.place) == (home / "d", home / "o", str(home / "s"))
    monkeypatch.setenv("LAGKIT_HOME", "~/kept")
    assert lagkit_home() == home / "kept"
    (home / "model").mkdir()
    (home / "model" / "config.json").write_text("{}")
    assert resolve_model("~/model") == home / "model"


def test_a_relative_cache_folder_is_where_it_was_at_first(here, monkeypatch):
    monkeypatch.setenv("LAGKIT_HOME", f"kept-{os.getpid()}")
    first = lagkit_home()
    away("s")
    assert lagkit_home() == first == here / f"kept-{os.getpid()}"


def test_relative_settings_of_a_file_are_below_the_folder_of_the_process(here):
    (here / "sub").mkdir()
    (here / "sub" / "run.yaml").write_text("data: d\nout: o\nstore: s\n")
    config = RunConfig.read("sub/run.yaml")
    assert (config.data.folder, config.out, config.store.place) == (here / "d", here / "o", str(here / "s"))
    assert RunConfig.parse(json.loads(json.dumps(config.flat()))) == config


def test_notebooks_in_the_home_folder(home):
    cell = nbformat.v4.new_code_cell('out: str = "elsewhere"', metadata={"tags": ["parameters"]})
    wrote = nbformat.v4.new_code_cell('open(out + "/said", "w").write("x")')
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, wrote], metadata=kernel), home / "n.ipynb")
    assert execute("~/n.ipynb", "~/done") == home / "done" / "n.ipynb"
    assert (home / "done" / "said").read_text() == "x"


def callbacks(app: Typer) -> Iterator[Callable[..., object]]:
    yield from (one.callback for one in app.registered_commands)
    for group in app.registered_groups:
        yield from callbacks(group.typer_instance)


def test_paths_of_commands_are_read_in_the_home_folder():
    """Each is made by `at`; what is typed there: the tests around this one."""
    apps, found = (command.app, codec.app, testbed.app), []
    for callback in (each for app in apps for each in callbacks(app)):
        for name, hint in get_type_hints(callback, include_extras=True).items():
            if any(kind in str(hint) for kind in ("pathlib.Path", "pathlib._local.Path")):
                assert hint.__metadata__[0].parser is at, name
                found.append(name)
    assert Counter(found) == {
        **{"out": 6, "folder": 2, "file": 2, "page": 3, "executed": 2},
        **dict.fromkeys(("folders", "source", "pages", "copies", "sites"), 1),
    }


def test_commands_in_the_home_folder(home, monkeypatch, capsys):
    assert command.main(["testbed", "world", "~/w", "entities=90", "log_questions=4", "unseen_questions=3"]) == 0
    assert (home / "w" / "dev_test.json").exists()
    assert command.main(["overlap", "~/w", "--dataset", "musique"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "|  | w |"
    seen: list[object] = []
    monkeypatch.setattr("lagkit.nightly.command.Night.run", lambda night: seen.append(night))
    assert command.main(["nightly", "~/n.yaml", "--out", "~/o"]) == 0
    [night] = seen
    assert (night.config, night.out) == (home / "n.yaml", home / "o")


def test_the_gallery_in_the_home_folder(home, monkeypatch):
    monkeypatch.setattr(gallery, "make", lambda *folders: seen.append(folders))
    seen: list[tuple[Path, ...]] = []
    assert command.main(["gallery", "~/e", "--pages", "~/p", "--copies", "~/c"]) == 0
    assert seen == [(home / "e", home / "p", home / "c")]


def test_at_resolves_once(here):
    assert at("x") == here / "x"
    assert at("x", here / "y") == here / "y" / "x"
    assert at(here / "x", here / "y") == here / "x"
    assert at("../x").resolve() == here.parent / "x"
    (here / "link").symlink_to(here)
    assert at("link") == here / "link"
    assert [is_digest(name) for name in ("a" * 64, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", None, b"a" * 64)] == [
        True, *[False] * 6,
    ]  # fmt: skip
    assert file_size(here / "none") == 0


def test_what_a_notebook_shows_of_a_store_names_no_home(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    with new_store(tmp_path / "runs" / "store") as store:
        assert str(tmp_path) not in repr(store) + store._repr_html_()
        assert "../runs/store" in repr(store)
