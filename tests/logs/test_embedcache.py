"""The cache of embeddings: each text is embedded once, and a cache that is damaged costs only time."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

import lagkit.logs.retrieve
from lagkit.logs.embedcache import VectorCache
from lagkit.logs.retrieve import CachedEmbedder, HashEmbedder


class CountingEmbedder(HashEmbedder):
    """A hash embedder whose queries differ from its documents, and that remembers what it was asked."""

    def __init__(self):
        super().__init__(dim=16)
        self.asked = []

    def queries(self, texts):
        self.asked += texts
        return -super().queries(texts)

    def documents(self, texts):
        self.asked += texts
        return super().documents(texts)


@pytest.fixture
def lines(monkeypatch, capsys):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    return lambda: capsys.readouterr().err


def test_cache_asks_for_each_text_once(tmp_path):
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner, tmp_path / "c.sqlite")
    first = cached.documents(["a b", "c", "a b"])
    assert inner.asked == ["a b", "c"]
    np.testing.assert_array_equal(first, HashEmbedder(16).documents(["a b", "c", "a b"]))
    again = CachedEmbedder(inner, tmp_path / "c.sqlite").documents(["c", "new", "a b"])
    assert inner.asked == ["a b", "c", "new"]
    np.testing.assert_array_equal(again[[2, 0]], first[:2])


def test_cache_keeps_queries_documents_and_embedders_apart(tmp_path):
    inner, other = CountingEmbedder(), CountingEmbedder()
    other.name = "other"
    cached = CachedEmbedder(inner, tmp_path / "c.sqlite")
    np.testing.assert_array_equal(cached.queries(["x"]), -cached.documents(["x"]))
    CachedEmbedder(other, tmp_path / "c.sqlite").queries(["x"])
    assert (inner.asked, other.asked) == (["x", "x"], ["x"])
    assert VectorCache.key("ab", "c") != VectorCache.key("a", "bc")


def test_nothing_to_embed_gives_no_rows(tmp_path):
    assert CachedEmbedder(HashEmbedder(16), tmp_path / "c.sqlite").queries([]).shape == (0, 16)


def test_many_texts_are_kept_chunk_by_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(lagkit.logs.retrieve, "_CHUNK", 2)
    inner = CountingEmbedder()
    sizes = []
    documents = inner.documents

    def killed_in_the_third_chunk(texts):
        sizes.append([len(text) for text in texts])
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return documents(texts)

    monkeypatch.setattr(inner, "documents", killed_in_the_third_chunk)
    with pytest.raises(KeyboardInterrupt):
        CachedEmbedder(inner, tmp_path / "c.sqlite").documents(["a", "bbbb", "cc", "ddd", "eeeee"])
    assert sizes == [[5, 4], [3, 2], [1]], "the longest first, alike together"
    later = CountingEmbedder()
    CachedEmbedder(later, tmp_path / "c.sqlite").documents(["a", "bbbb", "cc", "ddd", "eeeee"])
    assert later.asked == ["a"]


def test_damaged_cache_is_started_anew(tmp_path, lines):
    path = tmp_path / "c.sqlite"
    cached = CachedEmbedder(HashEmbedder(16), path)
    expected = cached.documents(["a"])
    path.write_bytes(b"this was a database once" * 99)
    np.testing.assert_array_equal(cached.documents(["a"]), expected)
    assert lines() == "The embedding cache c.sqlite was damaged (file is not a database) and is started anew.\n"
    np.testing.assert_array_equal(cached.documents(["a"]), expected)
    assert lines() == ""


def test_unusable_cache_is_done_without(tmp_path, lines):
    path = tmp_path / "c.sqlite"
    path.mkdir()
    expected = HashEmbedder(16).documents(["a"])
    np.testing.assert_array_equal(CachedEmbedder(HashEmbedder(16), path).documents(["a"]), expected)
    assert "The embedding cache c.sqlite could not be used (unable to open database file); embeddings are" in lines()


def test_vector_of_another_length_is_computed_again(tmp_path):
    cached = CachedEmbedder(HashEmbedder(16), tmp_path / "c.sqlite")
    expected = cached.documents(["a"])
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        db.execute("UPDATE vectors SET vector = x'00'")
    np.testing.assert_array_equal(cached.documents(["a"]), expected)
    assert db.execute("SELECT length(vector) FROM vectors").fetchall() == [(64,)]
    db.close()


def embed_range(path, start):
    cached = CachedEmbedder(HashEmbedder(16), path)
    return sum(float(cached.documents([f"word{i}"]).sum()) for i in range(start, start + 40))


@pytest.mark.slow
def test_processes_share_a_cache(tmp_path):
    path = tmp_path / "c.sqlite"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        sums = list(pool.map(embed_range, [path, path], [0, 20]))
    assert sums == [40.0, 40.0]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (60,)
    db.close()


def test_vectors_of_beginnings_in_an_older_cache_are_not_used(tmp_path):
    cached = CachedEmbedder(CountingEmbedder(), tmp_path / "c.sqlite")
    VectorCache(tmp_path / "c.sqlite", 16).write({VectorCache.key(cached.name, "document", "a"): np.zeros(16)})
    np.testing.assert_array_equal(cached.documents(["a"]), HashEmbedder(16).documents(["a"]))
