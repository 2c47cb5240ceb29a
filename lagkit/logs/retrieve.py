"""Embedders, and the index of passages."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from lagkit.logs.embedcache import VectorCache
from lagkit.logs.index import VectorIndex, Vectors
from lagkit.model.hub import resolve_embedder
from lagkit.types import Hit, Passage
from lagkit.util.errors import ConfigError, DataError, ModelNotFound
from lagkit.util.home import lagkit_home
from lagkit.util.paths import at
from lagkit.util.progress import Progress, quiet

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_WORD = re.compile(r"\w+")
_REMEMBERED = 20_000  # searches
_CHUNK = 256  # texts embedded between two writes to the cache, so that a kill loses little
_BATCH = 16  # texts embedded together: on two cores a quarter sooner than 32, whose activations outgrow the caches


class Embedder(Protocol):
    """Turns texts into vectors whose inner product is their cosine similarity.

    `queries` and `documents` differ for models that were trained with a prompt for one of them.
    """

    name: str
    dim: int

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, dim], float32, of length 1, for texts that search."""

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, dim], float32, of length 1, for texts that are found."""


class HashEmbedder:
    """Counts of hashed words: a lexical baseline that needs no model.

    Function words count only in a text that has no others; a text without words is one word of its own. Words may
    collide in one of the `dim` numbers.
    """

    def __init__(self, dim: int = 4096) -> None:
        # Here, for it takes a third of the time in which a command that opens a store starts.
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
        from sklearn.utils import murmurhash3_32

        self.name, self.dim = f"hash-{dim}", dim
        self._function_words = ENGLISH_STOP_WORDS | {"s"}  # as in "Eiffel's"
        self._hash: Callable[[str], int] = murmurhash3_32

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, dim]; the same for queries as for documents."""
        vectors: Vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            words = _WORD.findall(text.lower())
            content = [word for word in words if word not in self._function_words]
            # As scikit-learn's HashingVectorizer hashes and scales, whose checks of one text take ten times as long.
            counts = Counter(abs(self._hash(word)) % self.dim for word in content or words or [text.lower()])
            number = np.array(list(counts.values()))
            vector[list(counts)] = number / math.sqrt(number @ number)
        return vectors

    documents = queries


class SentenceEmbedder:
    """A sentence-transformers model, with its query prompt for queries where it has one.

    A text longer than the model's limit is embedded in windows; its vector is their mean, weighted by their lengths.
    Truncated texts that differ only after the limit would have equal vectors.
    """

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        self._model, self.name = model, name
        self.dim = int(model.get_embedding_dimension() or 0)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, dim] of the texts behind the model's query prompt."""
        return self._encode(self._model.encode_query, texts, ("query",))

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, dim] of the texts."""
        return self._encode(self._model.encode_document, texts, ("document", "passage", "corpus"))

    def _encode(self, encode: Callable[..., Vectors], texts: Sequence[str], prompts: Sequence[str]) -> Vectors:
        """prompts: the names that the prompt may have which the model puts in front of these texts."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        prompt = next((self._model.prompts[name] for name in prompts if name in self._model.prompts), None) or ""
        windows = self._windows(texts, prompt)
        flat = [window for its in windows for window in its]
        # By tokens: the library sorts by characters, of which a token has one or five, and pads more.
        order = sorted(range(len(flat)), key=lambda i: -flat[i].tokens)
        batches = [[flat[i].text for i in order[start : start + _BATCH]] for start in range(0, len(order), _BATCH)]
        how = {"batch_size": _BATCH, "normalize_embeddings": True, "show_progress_bar": False}
        vectors = np.concatenate([encode(batch, **how) for batch in batches])[np.argsort(order)]
        vectors = vectors.astype(np.float32, copy=False)
        if all(len(its) == 1 for its in windows):
            return vectors
        parts = np.split(vectors, np.cumsum([len(its) for its in windows[:-1]]))
        pairs = zip(parts, windows, strict=True)
        return np.stack([part[0] if len(its) == 1 else _mean(part, its) for part, its in pairs])

    def _windows(self, texts: Sequence[str], prompt: str) -> list[list[_Window]]:
        """Each text in parts that the model reads whole: halved where a word ends, as often as it takes."""
        longest = self._model.max_seq_length
        if not longest or longest == math.inf:
            return [[_Window(text, len(text))] for text in texts]
        asked = [prompt + text for text in texts]
        tokens = map(len, self._model.tokenizer(asked, truncation=False, verbose=False)["input_ids"])
        whole = [_Window(*window) for window in zip(texts, tokens, strict=True)]
        return [
            [window]
            if window.tokens <= longest or not (halves := _halves(window.text))
            else [part for half in self._windows(halves, prompt) for part in half]
            for window in whole
        ]


class _Window(NamedTuple):
    """A text that is embedded as a whole, and its tokens, or what stands for them."""

    text: str
    tokens: int


def _halves(text: str) -> list[str]:
    """None of a text without words, or of a character."""
    middle = len(text) // 2
    gaps = (gap.start() for gap in re.finditer(r"\s+", text))
    cut = min(gaps, key=lambda place: abs(place - middle), default=middle)
    halves = [half for half in (text[:cut].strip(), text[cut:].strip()) if half]
    return halves if halves != [text] else []


def _mean(vectors: Vectors, windows: Sequence[_Window]) -> Vectors:
    """The mean [dim], of length 1, of the vectors [n, dim] of windows."""
    mean = np.average(vectors, axis=0, weights=[len(window.text) for window in windows])
    unit: Vectors = (mean / np.linalg.norm(mean)).astype(np.float32)
    return unit


class CachedEmbedder:
    """An embedder with a cache at `path`; shows progress for many texts."""

    def __init__(self, embedder: Embedder, path: Path) -> None:
        self._embedder = embedder
        self._cache = VectorCache(path, embedder.dim)
        self.name, self.dim = embedder.name, embedder.dim

    def queries(self, texts: Sequence[str]) -> Vectors:
        """As the embedder's own."""
        return self._embed("query", texts, self._embedder.queries)

    def documents(self, texts: Sequence[str]) -> Vectors:
        """As the embedder's own."""
        return self._embed("document", texts, self._embedder.documents)

    def _embed(self, role: str, texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]) -> Vectors:
        # `windows`: earlier versions kept vectors of the beginnings of long texts.
        named = {text: VectorCache.key("windows", self.name, role, text) for text in texts}
        known = self._cache.read(named.values())
        # Texts of similar length share a batch, which saves padding; the longest come first, as they take longest.
        missing = sorted((text for text, key in named.items() if key not in known), key=len, reverse=True)
        with Progress(f"Embedding with {self.name}", len(missing)) as shown:
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                fresh = dict(zip((named[text] for text in chunk), embed(chunk), strict=True))
                self._cache.write(fresh)
                known |= fresh
                shown.update(len(chunk))
        return np.array([known[named[text]] for text in texts], np.float32).reshape(len(texts), self.dim)


# Registered embedders (`lagkit.register`): what makes one, by its name.
EMBEDDERS: dict[str, Callable[[], Embedder]] = {}


def load_embedder(name: str | Path = "minilm", device: str = "cpu") -> Embedder:
    """The embedder `name`: "hash" or "hash-DIM", an alias of `hub.EMBEDDERS`, a hub id, a folder, or a registered one.

    Vectors of a model are cached under `lagkit_home()`. Raises ModelNotFound when there is none of that name or it
    cannot be loaded, ConfigError for a registered one that calls itself otherwise.
    """
    if name in EMBEDDERS:
        own = EMBEDDERS[str(name)]()
        if own.name != name:
            raise ConfigError(f"The embedder registered as {name!r} calls itself {own.name!r}: use one name for both.")
        return own
    if hashed := re.fullmatch(r"hash(?:-([1-9]\d*))?", str(name)):
        return HashEmbedder(*(int(dim) for dim in hashed.groups() if dim))
    where = resolve_embedder(name, EMBEDDERS)
    quiet()
    from sentence_transformers import SentenceTransformer  # here, since it takes seconds to import

    try:
        model = SentenceTransformer(str(where), device=device)
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"The embedder {name} could not be loaded from {where}: {error}") from error
    label = _label(name)
    file = re.sub(r"[^\w.-]+", "--", label) + ".sqlite"
    return CachedEmbedder(SentenceEmbedder(model, label), lagkit_home() / "embeddings" / file)


def _label(name: str | Path) -> str:
    """The name of an embedder's vectors: for a folder, whose content may change, with a hash of its weights."""
    folder = at(name)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return str(name)
    with weights.open("rb") as stream:
        return f"{folder.resolve().name}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}"


class PassageIndex:
    """Passages that can be searched; what is embedded is the title, a newline and the text.

    Raises DataError when two passages have the same id, or the embedder gives nan or inf for one.
    """

    def __init__(
        self, passages: Iterable[Passage], embedder: Embedder, told: Callable[[Passage], str] | None = None
    ) -> None:
        """told: the text by which a passage is found (`Prompt.embedded`); by default its title and its text."""
        self._passages: dict[str, Passage] = {}
        for passage in passages:
            if passage.id in self._passages:
                raise DataError(f"Two passages have the id {passage.id!r}; give each its own.")
            self._passages[passage.id] = passage
        self._index = VectorIndex(embedder.dim)
        self._found: dict[tuple[bytes, int, int], list[Hit]] = {}
        texts = [told(p) if told else f"{p.title}\n{p.text}".strip() for p in self._passages.values()]
        self._index.add(list(self._passages), embedder.documents(texts))

    def __len__(self) -> int:
        return len(self._passages)

    def __repr__(self) -> str:
        return f"PassageIndex({len(self)} passages, vectors of {self._index.dim})"

    def search(self, vectors: Vectors, k: int, offset: int = 0) -> list[list[Hit]]:
        """For each query vector [n, dim], hits number `offset` .. `offset + k`, the most similar first.

        Results are cached: passages never change, and the variants of a comparison search for the same queries.
        """
        if len(self._found) > _REMEMBERED:
            self._found.clear()
        keys = [(hashlib.blake2b(np.ascontiguousarray(row).data).digest(), k, offset) for row in vectors]
        new = {key: row for key, row in zip(keys, vectors, strict=True) if key not in self._found}
        if new:
            self._found.update(zip(new, self._index.search(np.stack([*new.values()]), k, offset), strict=True))
        return [list(self._found[key]) for key in keys]

    def passage(self, id: str) -> Passage:
        """The passage of a hit; raises DataError when there is none with that id."""
        try:
            return self._passages[id]
        except KeyError:
            raise DataError(
                f"There is no passage with the id {id!r} among the {len(self)} that were indexed."
            ) from None
