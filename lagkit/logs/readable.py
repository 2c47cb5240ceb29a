"""The reading half of the interface of log stores, whatever keeps the logs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, Self

import pandas as pd
from numpy.typing import ArrayLike

from lagkit.logs.archive import write_archive
from lagkit.logs.files import BlockRow, Packed
from lagkit.logs.header import Header
from lagkit.logs.index import Vectors
from lagkit.logs.listing import OLDEST_FIRST, Filter, Order
from lagkit.logs.vectors import LogVectors
from lagkit.model.kv import KVBlock
from lagkit.model.names import BlockSource
from lagkit.types import MALFORMED, Hit, Trace
from lagkit.util.errors import DamagedBlock, StoreError
from lagkit.util.paths import at, shown


class Readable(ABC):
    """The reading half of `Store`."""

    _held = "on disk"
    _closed = False

    def __init__(self, path: Path | str, header: Header, write: bool) -> None:
        self.path = path
        self.writable = write
        self.model, self.embedder, self.dim = header.model, header.embedder, header.dim
        self.dtype, self.codec = header.dtype, header.codec
        self.exact_search = False
        self.source: BlockSource = "load"
        self.header = header
        self._busy = False

    _vectors: LogVectors

    @abstractmethod
    def close(self) -> None:
        """Close the store; a second time does nothing."""

    def _check_open(self) -> None:
        """Raise StoreError if the store was closed."""
        if self._closed:
            raise StoreError(f"The log store at {self.path} was closed; open it again with {type(self).__name__}.open.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def ids(self) -> list[str]:
        """All log ids, oldest first."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, log: object) -> bool: ...

    @abstractmethod
    def get(self, log: str) -> Trace:
        """The trace of a log; raises StoreError for an unknown id."""

    def __getitem__(self, log: int | str) -> Trace:
        """The trace of a log, by its id or its number in the order of `ids`; raises StoreError where there is none."""
        if isinstance(log, str):
            return self.get(log)
        found = self.matching(Filter(), log if log >= 0 else len(self) + log, 1) if -len(self) <= log else []
        if not found:
            raise StoreError(f"There is no log number {log} in the store at {self.path}, which has {len(self)} logs.")
        return self.get(found[0])

    @abstractmethod
    def traces(self, logs: Sequence[str] | None = None) -> Iterator[Trace]:
        """All traces, oldest first, or those of `logs` in that order, a few in memory at a time.

        Raises StoreError for an unknown id.
        """

    def _trace(self, log: str, text: str | None) -> Trace:
        """A trace from its JSON; None stands for a damaged one."""
        if text is None:
            raise StoreError(f"The trace of {log} in {self.path} is damaged: prune() removes this log.")
        try:
            trace = Trace.from_dict(json.loads(text))
        except MALFORMED as error:
            raise StoreError(f"The trace of {log} in {self.path} cannot be read ({error}): delete this log.") from error
        if trace.id != log:
            raise StoreError(f"The trace found as {log} in {self.path} is {trace.id}: verify() names what is damaged.")
        return trace

    def _unknown(self, log: str) -> StoreError:
        return StoreError(f"There is no log {log!r} in the store at {self.path}, which has {len(self)} logs.")

    @abstractmethod
    def block_keys(self, log: str) -> list[str]:
        """The keys under which a log has KV blocks, sorted; raises StoreError for an unknown id."""

    def has_block(self, log: str, key: str) -> bool:
        """Whether a log has a block under a key, sound or damaged; False for an unknown id."""
        return self.find(log, key) is not None

    def block(self, log: str, key: str) -> KVBlock:
        """A log's KV block in the store's dtype, its checksum computed.

        Raises StoreError for an unknown log or key, and DamagedBlock, naming it, for one that is missing, truncated or
        altered; all other blocks stay usable.
        """
        row = self.find(log, key)
        if row is None:
            keys = ", ".join(self.block_keys(log)) or "none"
            raise StoreError(f"Log {log} has no KV block {key!r}; it has: {keys}.")
        try:
            return self.load(row)
        except DamagedBlock:
            if self.find(log, key) == row:
                raise
        # A writer replaced or deleted the block between the look-up and the reading.
        return self.block(log, key)

    @abstractmethod
    def find(self, log: str, key: str) -> BlockRow | None:
        """The key, tokens, bytes and checksum of a log's KV block, which is not read; None if there is none."""

    @abstractmethod
    def load(self, row: BlockRow) -> KVBlock:
        """The block of a row that `find` returned, in any thread, even if the store was closed since then.

        Raises DamagedBlock as `block` does, and also if a writer has replaced or deleted it meanwhile.
        """

    def search(
        self,
        vectors: ArrayLike,
        k: int,
        offset: int = 0,
        exclude: Collection[str] = frozenset(),
        exact: bool | None = None,
    ) -> list[list[Hit]]:
        """For each row of `vectors` [queries, dim], of length 1: hits number `offset` .. `offset + k`, best first.

        Ids in `exclude` are skipped and not counted; equal scores come oldest first. Raises EmptyStore without
        logs, and StoreError for vectors of another shape or length.

        In a folder, 30,000 logs and more are searched by quantised embeddings: scores and order are exact, but one in a
        thousand of the three nearest may be missed. exact: search all embeddings; by default as `exact_search` says.
        LanceDB is always searched exactly.
        """
        self._check_open()
        return self._vectors.search(vectors, k, offset, exclude, self.exact_search if exact is None else exact)

    def embeddings(self) -> Vectors:
        """The embeddings of all logs, float32 `[logs, dim]`, in the order of `ids`."""
        self._check_open()
        return self._vectors.rows.all()

    @abstractmethod
    def verify(self) -> pd.DataFrame:
        """Read every byte and list what is wrong: file, log, problem; no rows if nothing is.

        Beside a process that is writing, its newest blocks may be listed as orphans: their logs are not committed yet.
        """

    @abstractmethod
    def _query(self, sql: str, *values: Any, facts: bool = False) -> list[tuple[Any, ...]]:
        """The rows of a query over `logs` and `blocks`, and over `facts` and `traces` if `facts`."""

    def summary(self) -> pd.DataFrame:
        """For each block key: logs, tokens, bytes. A file that several keys share counts for each of them."""
        query = "SELECT key, count(*), sum(tokens), sum(bytes) FROM blocks GROUP BY key ORDER BY key"
        return pd.DataFrame(self._query(query), columns=["key", "logs", "tokens", "bytes"]).set_index("key")

    def sizes(self, logs: Collection[str] | None = None) -> pd.DataFrame:
        """For each log, oldest first: its KV blocks, their tokens and bytes; 0 where nothing is encoded yet.

        logs: only of these; unknown ids are ignored.
        """
        query = (
            "SELECT id, count(key), coalesce(sum(tokens), 0), coalesce(sum(bytes), 0) "
            "FROM logs LEFT JOIN blocks USING (seq) WHERE ? OR id IN (SELECT value FROM json_each(?)) "
            "GROUP BY seq ORDER BY seq"
        )
        rows = self._query(query, logs is None, json.dumps(list(logs or ())))
        return pd.DataFrame(rows, columns=["log", "blocks", "tokens", "bytes"]).set_index("log")

    def matching(
        self, wanted: Filter, offset: int = 0, limit: int | None = None, order: Order = OLDEST_FIRST
    ) -> list[str]:
        """The ids of the logs that match a filter, in an order: `limit` (None: all) from number `offset` on."""
        condition, values = wanted.sql
        listed = f"SELECT id FROM logs LEFT JOIN facts USING (seq) WHERE {condition} ORDER BY {order.sql}"
        values += -1 if limit is None else limit, offset
        facts = wanted != Filter() or order.by != "added"
        return [id for (id,) in self._query(f"{listed} LIMIT ? OFFSET ?", *values, facts=facts)]

    def count(self, wanted: Filter) -> int:
        """The number of logs that match a filter."""
        condition, values = wanted.sql
        query = f"SELECT count(*) FROM logs LEFT JOIN facts USING (seq) WHERE {condition}"
        return int(self._query(query, *values, facts=wanted != Filter())[0][0])

    def extremes(self) -> tuple[int, int]:
        """The largest number of rounds and of KV bytes of any log; 0 without logs."""
        held = "SELECT coalesce(max(held), 0) FROM (SELECT sum(bytes) AS held FROM blocks GROUP BY seq)"
        [(rounds, nbytes)] = self._query(f"SELECT coalesce(max(rounds), 0), ({held}) FROM facts", facts=True)
        return int(rounds), int(nbytes)

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The size of the store in bytes."""

    @abstractmethod
    def packed(self) -> Iterator[Packed]:
        """All logs as they are stored, oldest first; raises StoreError if one is damaged."""

    @abstractmethod
    def content(self, row: BlockRow) -> bytes:
        """The bytes of a block as `KVBlock.dump` gives them; raises DamagedBlock unless its digest is right."""

    def export(self, path: str | Path) -> Path:
        """Write everything into one new file, a tar of JSON and safetensors that `import_archive` reads.

        Raises StoreError if the file exists or cannot be written, DamagedBlock if a block is not sound; then no file
        is left behind.
        """
        return write_archive(at(path), self.header, self._packed_at_once, self.content)

    def _packed_at_once(self) -> Generator[Packed, None, None]:
        """All logs as they are stored at one moment, which ends with them: the blocks are read after it."""
        yield from self.packed()

    def __repr__(self) -> str:
        mode = "writable" if self.writable else "read-only"
        return f"{type(self).__name__}({shown(self.path)!r}, {mode}, {len(self)} logs)"

    def _repr_html_(self) -> str:
        facts = {
            "model": self.model.get("name", json.dumps(self.model)),
            "embedder": f"{self.embedder} ({self.dim} dimensions)",
            "dtype": self.dtype,
            "codec": self.codec,
            "logs": f"{len(self):,}",
            self._held: f"{self.nbytes:,} bytes",
        }
        rows = "".join(f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
        title = f"<b>{type(self).__name__}</b> <code>{escape(shown(self.path))}</code>"
        return f"{title}<table>{rows}</table>{self.summary().to_html()}"
