"""The interface of log stores: creating, opening and changing one, with the checks that all kinds share."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pandas as pd
from numpy.typing import ArrayLike

from lagkit.logs.address import SUFFIX, checked_uri
from lagkit.logs.archive import Archive
from lagkit.logs.embeddings import unit_rows
from lagkit.logs.files import BlockRow, LogRow, NewBlock, Packed, digest_of, dtype_name
from lagkit.logs.header import Header
from lagkit.logs.readable import Readable
from lagkit.logs.retrieve import Embedder, load_embedder
from lagkit.model.backend import Model
from lagkit.model.kv import KVBlock
from lagkit.model.names import Codec
from lagkit.types import Trace
from lagkit.util.errors import ModelNotFound, StoreError, StoreExists
from lagkit.util.paths import at
from lagkit.util.progress import warn

_EMBEDDED = 256  # traces of a list that are embedded, and committed, at a time


class Batch:
    """Rows on their way into a store: committed once they have waited `seconds` or hold `nbytes`, and at the end.

    When the work in between fails, what came before is committed all the same.
    """

    def __init__(
        self, commit: Callable[[list[Any], list[Any]], None], seconds: float, nbytes: float = float("inf")
    ) -> None:
        self._commit, self._seconds, self._most = commit, seconds, nbytes
        self._begin()

    def _begin(self) -> None:
        self._rows: list[Any] = []
        self._blocks: list[Any] = []
        self._bytes, self._due = 0, time.monotonic() + self._seconds

    def put(self, rows: Iterable[Any], blocks: Iterable[Any], nbytes: int = 0) -> None:
        """Take rows of logs and of blocks, which hold so many bytes."""
        self._rows += rows
        self._blocks += blocks
        self._bytes += nbytes
        if time.monotonic() > self._due or self._bytes >= self._most:
            self._flush()

    def _flush(self) -> None:
        rows, blocks = self._rows, self._blocks
        self._begin()
        self._commit(rows, blocks)

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()


class Store(Readable):
    """The logs of one model and one embedder. Iterating gives log ids, oldest first.

    `store[0]` and `store[id]` are traces.

    path: a folder, or the address of an object store. exact_search: whether a large store is searched exactly too
    (`search`). source: where contexts get the KV of logs from: loaded, recomputed, or whichever is faster
    (`lagkit.logs.planner`). Both may be set at any time. Methods are thread-safe. Every method raises StoreError on a
    closed or unreadable store, and every method that changes it on one that is open for reading.
    """

    _embedder: Embedder | None = None

    @classmethod
    def create(cls, place: str | Path, lm: Model, embedder: Embedder | str = "minilm", codec: Codec = "none") -> Self:
        """A new store of a model's logs, open for writing: in a folder, `folder.lance`, or at `s3://...` and the like.

        embedder: or its name, as `load_embedder` takes it. codec: what is kept of a block; `int8` halves a bfloat16
        block (`lagkit.model.codec`). Raises StoreError where a store, or anything else, is already.
        """
        embedder = load_embedder(embedder) if isinstance(embedder, str) else embedder
        store = cls.new(place, Header.of(lm, embedder, codec))
        store._embedder = embedder
        return store

    @classmethod
    def open(
        cls,
        place: str | Path,
        lm: Model | Mapping[str, Any] | None = None,
        *,
        embedder: str | None = None,
        codec: Codec | None = None,
        write: bool = False,
    ) -> Self:
        """An existing store, by default for reading only; opening takes the same time for any size.

        lm: the model whose logs they have to be, or its fingerprint. Raises StoreMismatch, naming both sides, if it was
        built with another model, `embedder` or `codec` than given, StoreLocked if another writer has a folder, and
        StoreError where there is no store or one of a newer format.
        """
        model = lm if lm is None or isinstance(lm, Mapping) else lm.fingerprint
        expected = {"model": model, "embedder": embedder, "codec": codec}
        return cls._kind(place)._attach(checked_uri(place), write, expected)

    @classmethod
    def new(cls, place: str | Path, header: Header, *, exist_ok: bool = False) -> Self:
        """A new store with this header, or with `exist_ok` the existing one; open for writing.

        Raises StoreExists where a store is already, StoreError where anything else is, and as `open`.
        """
        kind, place = cls._kind(place), checked_uri(place)
        try:
            return kind._make(place, header)
        except StoreExists:
            if not exist_ok:
                raise
        return kind._attach(place, True, header.identity)

    @classmethod
    def _kind(cls, place: str | Path) -> type[Self]:
        """The class of the stores at such a place; StoreError for a place of another kind, or without LanceDB."""
        uri = checked_uri(place)
        lance = "://" in uri or uri.endswith(SUFFIX)
        if lance and find_spec("lancedb") is None:
            raise StoreError(f"Stores like {uri} need LanceDB: pip install 'lagkit[lance]'.")
        # By name: both modules import this one, and LanceDB is an extra.
        module, name = ("lance.store", "LanceStore") if lance else ("store", "LogStore")
        kind: type[Store] = getattr(import_module(f"lagkit.logs.{module}"), name)
        if not issubclass(kind, cls):
            raise StoreError(f"At {uri} is a {name} and no {cls.__name__}: use Store, which finds the kind by itself.")
        return kind

    @classmethod
    @abstractmethod
    def _make(cls, place: str, header: Header) -> Self:
        """A new store at a place as `checked_uri` gives it; raises StoreExists, StoreError."""

    @classmethod
    @abstractmethod
    def _attach(cls, place: str, write: bool, expected: Mapping[str, Any]) -> Self:
        """The store at a place, if its header is as `expected` (see `Header.check`)."""

    def embedding(self, embedder: Embedder | None = None) -> Embedder:
        """The embedder of the store's logs, loaded by its name unless it is given.

        Raises StoreMismatch for another one, and ModelNotFound where none of that name can be loaded.
        """
        found = embedder or self._embedder
        if found is None:
            try:
                found = load_embedder(self.embedder)
            except ModelNotFound as error:
                raise ModelNotFound(f"The embedder of {self.path} has to be given: {error}") from error
        self.header.check(self.path, embedder=found.name, dim=found.dim)
        self._embedder = found
        return found

    def extend(self, traces: Iterable[Trace], embedder: Embedder | None = None) -> list[str]:
        """Store traces as they come, their keys embedded by the store's own embedder; returns the logs' ids.

        Traces with an error are left out, with a warning that has the first one. Traces of a list are embedded in
        batches. When the iterable fails, what came before is kept. Raises as `add` and `embedding`.
        """
        embedder, ids, failed = self.embedding(embedder), list[str](), list[str]()
        waiting = iter(traces)
        while some := list(islice(waiting, _EMBEDDED if isinstance(traces, Sequence) else 1)):
            logs = [trace for trace in some if not trace.error]
            failed += [trace.error for trace in some if trace.error]
            vectors = embedder.documents([trace.key for trace in logs])
            ids += self.add_many((trace, vector, {}) for trace, vector in zip(logs, vectors, strict=True))
        if failed:
            warn(f"{len(failed)} traces failed and were left out of {self.path}. The first one: {failed[0]}")
        return ids

    def add(self, trace: Trace, embedding: ArrayLike, blocks: Mapping[str, KVBlock] | None = None) -> str:
        """Store a trace, the embedding of its key (float32 [dim], length 1) and its KV blocks; returns the log's id.

        A trace that is there already stays as it is and gets the blocks it lacks. Raises StoreError, with nothing
        changed, for a wrong embedding, a block of another dtype or with numbers that the codec cannot hold, a full
        disk or a store open for reading.
        """
        return self.add_many([(trace, embedding, blocks or {})])[0]

    def add_many(self, logs: Iterable[tuple[Trace, ArrayLike, Mapping[str, KVBlock]]]) -> list[str]:
        """`add` for each (trace, embedding, blocks) of an iterable; returns all ids.

        When one fails, or the iterable does, the logs before it are kept. The iterable may read the store, not
        change it.
        """
        ids: list[str] = []
        with self._writing(), self._batch() as batch:
            for trace, embedding, blocks in logs:
                row = self._row(trace, embedding)
                self._put(batch, [row], self._lacking(row[0], blocks))
                ids.append(row[0])
        return ids

    def put_block(self, log: str, key: str, block: KVBlock) -> None:
        """Add a KV block to a log that is there; one that is there already, and sound, stays. Raises as `add`."""
        self.put_blocks([(log, key, block)])

    def put_blocks(self, blocks: Iterable[tuple[str, str, KVBlock]]) -> None:
        """`put_block` for each (log, key, block) of an iterable, committed together as `add_many` does."""
        with self._writing(), self._batch() as batch:
            for log, key, block in blocks:
                if log not in self:
                    raise StoreError(f"There is no log {log!r} in the store at {self.path}: add its trace first.")
                self._put(batch, [], self._lacking(log, {key: block}))

    def _row(self, trace: Trace, embedding: ArrayLike) -> LogRow:
        vector = unit_rows([embedding], self.dim, f"The embedding of log {trace.id}")
        return trace.id, vector.astype("<f4").tobytes(), json.dumps(trace.to_dict())

    def _lacking(self, log: str, blocks: Mapping[str, KVBlock]) -> list[NewBlock]:
        """Those blocks that the store lacks; raises StoreError for another dtype, or what the codec cannot hold."""
        new = []
        for key, block in blocks.items():
            if dtype_name(block) != self.dtype:
                raise StoreError(
                    f"Block {key!r} of log {log} is {dtype_name(block)}, the store at {self.path} holds {self.dtype}: "
                    "convert it with KVBlock.to."
                )
            if self._is_sound(log, key):
                continue
            try:
                content = block.dump(self.codec)
            except ValueError as error:
                raise StoreError(
                    f"Block {key!r} of log {log} cannot be kept as {self.codec} ({error}): look at the model's keys "
                    "and values, or use a store with codec none."
                ) from error
            row = BlockRow(key, len(block), len(content), digest_of(content))
            new.append(NewBlock(log, row, content))
        return new

    def put_packed(self, logs: Iterable[tuple[Packed, Callable[[BlockRow], bytes]]]) -> None:
        """Add logs as `packed` gives them, of a store with an equal header, with a function that reads their blocks.

        A log or block that is there stays. Raises StoreError for a block that is not what its row promises; the logs
        before it are kept.
        """
        with self._writing(), self._batch() as batch:
            for log, content in logs:
                self._put_one(batch, log, content)

    def _put_one(self, batch: Batch, log: Packed, content: Callable[[BlockRow], bytes]) -> None:
        new = [NewBlock(log.id, row, content(row)) for row in log.blocks if not self._is_sound(log.id, row.key)]
        for block in new:
            if digest_of(block.content) != block.row.digest:
                raise StoreError(
                    f"Block {block.row.key!r} of log {log.id} is not what its row says: verify() the store that it "
                    "comes from."
                )
        self._put(batch, [(log.id, log.embedding, log.trace)], new)

    def import_archive(self, path: str | Path | Archive) -> list[str]:
        """Add all logs of an exported file, or of one that is open; returns their ids. What is there already stays.

        The file is checked throughout first: raises StoreError for one that is damaged or something else, and
        StoreMismatch for one of another model, embedder, dimension, dtype or codec, with nothing changed.
        """
        with self._writing(), nullcontext(path) if isinstance(path, Archive) else Archive(at(path)) as archive:
            archive.header.check(archive.path, **self.header.identity)
            archive.check()
            batch = self._batch(whole=True)
            for log in archive.logs:
                self._put_one(batch, log, archive.content)
            with batch:  # which commits when it ends, and would do so after a failure too
                return [log.id for log in archive.logs]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Context of every change: raises StoreError if the store cannot be changed, and cleans up afterwards."""
        if not self.writable:
            raise StoreError(f"The log store at {self.path} is open for reading only: open it with write=True.")
        if self._busy:
            raise StoreError(
                f"The log store at {self.path} is adding logs: change it after that, not from what it reads."
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._tidy()

    def _tidy(self) -> None:
        """Clean up after a change, failed or not."""

    @abstractmethod
    def _batch(self, *, whole: bool = False) -> Batch:
        """A batch for the rows of a change. whole: committed all at once, if the store can."""

    @abstractmethod
    def _is_sound(self, log: str, key: str) -> bool:
        """Whether a log has such a block, and its content is what was stored."""

    @abstractmethod
    def _put(self, batch: Batch, rows: list[LogRow], blocks: list[NewBlock]) -> None:
        """Hand the rows of logs and blocks to a batch."""

    @abstractmethod
    def delete(self, logs: Iterable[str]) -> None:
        """Remove logs with their blocks; raises StoreError, with nothing changed, if one of them is not there."""

    @abstractmethod
    def prune(self, max_bytes: int | None = None) -> pd.DataFrame:
        """Remove blocks that are missing or damaged, damaged rows, and blocks that no log names.

        Returns what was removed, with bytes. A log whose trace or embedding is damaged goes as a whole; one with a
        damaged block keeps both. With `max_bytes`, whole logs go too, oldest first, until `nbytes` is at most that or
        no log is left. Everything is read. Raises StoreError for a negative `max_bytes`.
        """

    @abstractmethod
    def evict(self, max_bytes: int) -> list[str]:
        """Remove the oldest logs until what is left takes at most `max_bytes`, or none is left; returns their ids.

        Enforces a cap after every addition: unlike `prune` it reads no block. Raises StoreError for a negative
        `max_bytes`.
        """
