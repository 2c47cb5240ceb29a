"""Embedders, and the search of passages."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lagkit.logs.retrieve import CachedEmbedder, HashEmbedder, PassageIndex, SentenceEmbedder, load_embedder
from lagkit.model.hub import resolve_embedder
from lagkit.types import Passage
from lagkit.util.errors import DataError, ModelNotFound
from tests.logs.test_embedcache import CountingEmbedder

PASSAGES = [
    Passage("p1", "Gustave Eiffel", "He built the tower in Paris that bears his name."),
    Passage("p2", "Lake Baikal", "The deepest lake on Earth lies in Siberia."),
    Passage("p3", "", "Penguins live in the far south."),
]


@given(st.lists(st.text(max_size=40), max_size=5))
@settings(deadline=None)
def test_hashed_vectors_have_length_one(texts):
    vectors = HashEmbedder().queries(texts)
    assert vectors.shape == (len(texts), 4096)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_a_text_without_words_is_one_word_of_its_own():
    vectors = HashEmbedder().queries(["?!", "?!", "", "...", "deep lake"])
    np.testing.assert_allclose(vectors @ vectors[0], [1, 1, 0, 0, 0], atol=1e-6)


def test_function_words_count_only_among_themselves():
    vectors = HashEmbedder().queries(["who is in the lake's tower", "lake tower", "who is", "is who"])
    np.testing.assert_allclose(vectors @ vectors.T, np.kron(np.eye(2), np.ones((2, 2))), atol=1e-6)


def test_hashed_vectors_measure_shared_words():
    same, half, none = (
        HashEmbedder().documents(["Deep LAKE!", "lake shore", "tower"]) @ HashEmbedder().queries(["deep lake"]).T
    )
    np.testing.assert_allclose([same[0], half[0], none[0]], [1, 0.5, 0], atol=1e-6)


class SentenceModel:
    """Stands in for a sentence-transformers model, whose library takes seconds to import."""

    prompts: ClassVar = {}
    max_seq_length = None

    def __init__(self, path="", device="cpu"):
        self.path, self.device, self.calls = path, device, []
        if "broken" in path:
            raise OSError("no weights")

    def get_embedding_dimension(self):
        return 2

    def encode_query(self, texts, **how):
        self.calls.append(("query", texts, how["normalize_embeddings"]))
        return np.ones((len(texts), 2), np.float64)

    def encode_document(self, texts, **how):
        self.calls.append(("document", texts, how["normalize_embeddings"]))
        return np.ones((len(texts), 2), np.float32)


@pytest.fixture
def sentence_transformers(monkeypatch, tmp_path):
    monkeypatch.setenv("LAGKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=SentenceModel))


def test_sentence_embedder_uses_the_models_own_prompts():
    model = SentenceModel()
    embedder = SentenceEmbedder(model, "fake")
    assert embedder.queries(("a",)).dtype == np.float32
    assert embedder.documents(["b", "c"]).shape == (2, 2)
    assert embedder.queries([]).shape == (0, 2)
    assert model.calls == [("query", ["a"], True), ("document", ["b", "c"], True)]


class ShortSighted(SentenceModel):
    """Counts words, of which it reads the first eight, those of its prompt among them."""

    prompts: ClassVar = {"query": "search for: "}
    max_seq_length = 8

    def get_embedding_dimension(self):
        return 64

    def tokenizer(self, texts, truncation, verbose):
        return {"input_ids": [text.split() for text in texts]}

    def encode_document(self, texts, **how):
        self.calls.append(texts)
        return HashEmbedder(64).documents([" ".join(text.split()[: self.max_seq_length]) for text in texts])

    def encode_query(self, texts, **how):
        return self.encode_document([self.prompts["query"] + text for text in texts])


class Letters(ShortSighted):
    """Counts letters, of which it reads the first eight."""

    def tokenizer(self, texts, truncation, verbose):
        return {"input_ids": [list(text) for text in texts]}


LONG = "one two three four five six seven eight nine ten eleven"


def test_long_texts_are_embedded_in_windows():
    model = ShortSighted()
    embedder = SentenceEmbedder(model, "fake")
    first, other = embedder.documents([f"{LONG} danube", f"{LONG} vistula"])
    assert first @ other < 0.99
    windows = ["one two three four five six seven", "eight nine ten eleven danube"]
    assert model.calls[0][::2] == windows
    parts = HashEmbedder(64).documents(windows)
    mean = np.average(parts, axis=0, weights=[33, 28])
    np.testing.assert_allclose(first, mean / np.linalg.norm(mean), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm([first, other], axis=1), 1, rtol=1e-6)
    model.calls.clear()
    assert embedder.documents(["x" * 50, "  spaced   out  "]).shape == (2, 64)
    assert model.calls == [["  spaced   out  ", "x" * 50]], "texts that fit are handed on as they are"


def test_the_query_prompt_counts_among_what_a_model_reads():
    model = ShortSighted()
    SentenceEmbedder(model, "fake").queries(["one two three four five six seven"])
    assert model.calls == [["search for: one two three four", "search for: five six seven"]]


def test_texts_that_fit_are_embedded_bit_by_bit_as_without_windows():
    model = ShortSighted()
    texts = ["one", "one two", "one two three four five six seven eight"]
    mixed = SentenceEmbedder(model, "fake").documents([*texts, LONG])
    np.testing.assert_array_equal(mixed[:3], model.encode_document(texts))


def test_texts_of_equally_many_tokens_share_a_batch():
    model = ShortSighted()
    texts = [" ".join(["x" * long] * words) for words in range(1, 9) for long in range(1, 17)]
    shuffled = np.random.default_rng(0).permutation(texts).tolist()
    vectors = SentenceEmbedder(model, "fake").documents(shuffled)
    assert [{len(text.split()) for text in batch} for batch in model.calls] == [{words} for words in range(8, 0, -1)]
    np.testing.assert_array_equal(vectors, HashEmbedder(64).documents(shuffled))


def test_a_word_that_is_longer_than_a_window_is_cut():
    model = Letters()
    SentenceEmbedder(model, "fake").documents(["a" * 20, " " * 30 + "b"])
    assert model.calls == [["aaaaa"] * 4 + ["b"]]


def test_a_text_of_spaces_alone_is_embedded_whole():
    texts = ["danube", " " * 20, "aaaa bbbb"]
    together = SentenceEmbedder(Letters(), "fake").documents(texts)
    alone = [SentenceEmbedder(Letters(), "fake").documents([text])[0] for text in texts]
    np.testing.assert_array_equal(together, alone)


class Failing(HashEmbedder):
    """Gives nan for one text."""

    def documents(self, texts):
        vectors = super().documents(texts)
        vectors[["penguins" in text.lower() for text in texts]] = np.nan
        return vectors


def test_a_passage_that_cannot_be_embedded_is_named():
    with pytest.raises(DataError, match="The embedding of 'p3' holds nan or inf"):
        PassageIndex(PASSAGES, Failing())


def test_a_query_that_cannot_be_embedded_is_refused():
    index = PassageIndex(PASSAGES, HashEmbedder())
    with pytest.raises(DataError, match="The embedding of query 0 holds nan or inf"):
        index.search(Failing().documents(["penguins"]), 2)


def test_nan_is_not_kept(tmp_path):
    path = tmp_path / "c.sqlite"
    assert np.isnan(CachedEmbedder(Failing(16), path).documents(["lake", "penguins"])[1]).all()
    assert np.isfinite(CachedEmbedder(HashEmbedder(16), path).documents(["lake", "penguins"])).all()


def test_embedders_are_loaded_by_name():
    assert isinstance(load_embedder("hash"), HashEmbedder)
    small = load_embedder("hash-16")
    assert (small.name, small.dim) == ("hash-16", 16)
    with pytest.raises(ModelNotFound, match="'minilmm' is no known embedder: the aliases are arctic, minilm, a hub id"):
        load_embedder("minilmm")


def test_embedder_of_a_folder_is_known_by_its_weights(tmp_path, sentence_transformers):
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    first = load_embedder(folder)
    assert first.name == "tuned-9a129038d9a0"
    (folder / "model.safetensors").write_text("weights, tuned further")
    assert load_embedder(folder).name != first.name
    first.queries(["a"])
    assert [file.name for file in (tmp_path / "home" / "embeddings").iterdir()] == [f"{first.name}.sqlite"]


def test_embedder_that_cannot_be_loaded_is_named(tmp_path, sentence_transformers):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"The embedder .*broken could not be loaded from .*broken: no weights"):
        load_embedder(str(folder))


def test_passages_are_found_by_title_and_text():
    index = PassageIndex(PASSAGES, HashEmbedder())
    found = index.search(HashEmbedder().queries(["deepest lake", "gustave", "penguins"]), 1)
    assert [index.passage(hits[0].id).id for hits in found] == ["p2", "p1", "p3"]
    assert (len(index), repr(index)) == (3, "PassageIndex(3 passages, vectors of 4096)")


def test_what_is_embedded_is_title_newline_text():
    embedder = CountingEmbedder()
    PassageIndex(PASSAGES, embedder)
    assert embedder.asked[0] == "Gustave Eiffel\nHe built the tower in Paris that bears his name."
    assert embedder.asked[2] == "Penguins live in the far south."


def test_the_same_query_again_brings_the_next_passages():
    index = PassageIndex(PASSAGES, HashEmbedder())
    query = HashEmbedder().queries(["the deepest lake in the south"])
    pages = [[hit.id for hit in index.search(query, 2, offset)[0]] for offset in (0, 2, 4)]
    assert pages == [["p2", "p3"], ["p1"], []]


def test_what_was_asked_before_is_not_searched_again(monkeypatch):
    index, query = PassageIndex(PASSAGES, HashEmbedder()), HashEmbedder().queries(["the deepest lake", "penguins"])
    first = index.search(query, 2)
    first[0].clear()  # what a caller does to a list stays with him
    asked = []
    monkeypatch.setattr(index._index, "search", lambda *found: asked.append(found) or [[]])
    assert [hit.id for hit in index.search(query[:1], 2)[0]] == ["p2", "p1"]
    assert index.search(query[1:], 1) == [[]]  # another k is another search
    assert len(asked) == 1


def test_passage_ids_are_checked():
    with pytest.raises(DataError, match="Two passages have the id 'p1'; give each its own"):
        PassageIndex([PASSAGES[0], PASSAGES[0]], HashEmbedder())
    with pytest.raises(DataError, match="There is no passage with the id 'p9' among the 3 that were indexed"):
        PassageIndex(PASSAGES, HashEmbedder()).passage("p9")


@pytest.mark.slow
def test_minilm_knows_meaning_beyond_words():
    minilm = load_embedder("minilm")
    assert (minilm.name, minilm.dim) == ("minilm", 384)
    index = PassageIndex(PASSAGES, minilm)
    [[hit]] = index.search(minilm.queries(["Who was the engineer of France's famous iron landmark?"]), 1)
    assert hit.id == "p1"
    assert hit.score == pytest.approx(0.4956, abs=0.01)


@pytest.mark.slow
def test_minilm_tells_long_questions_apart_by_their_ends():
    where = resolve_embedder("minilm")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(where), device="cpu")
    embedder = SentenceEmbedder(model, "minilm")
    long = "Which river flows through the city? " * 60
    danube, vistula = embedder.documents([f"{long} Vienna, that is.", f"{long} And who built its bridges?"])
    assert 0.5 < danube @ vistula < 0.999
    short = [f"{passage.title}\n{passage.text}" for passage in PASSAGES]
    expected = model.encode_document(short, batch_size=32, normalize_embeddings=True)
    np.testing.assert_array_equal(embedder.documents(short), expected)
