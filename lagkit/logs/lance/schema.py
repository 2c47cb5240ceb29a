"""The schemas of a store's two tables, and the checksums of their rows.

`logs`: a log a row, and in the schema's metadata the store's header. `blocks`: a KV block a row, whose bytes, those of
a file of `KVBlock.save`, stand apart from the other columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lagkit.logs.batch import LogRow
from lagkit.logs.database import crc32
from lagkit.logs.files import BlockRow, NewBlock
from lagkit.logs.header import Header

LOGS, BLOCKS = "logs", "blocks"
HEADER = b"lagkit"

# Without a key that is declared as such, two writers who add a log at the same moment would both succeed.
_KEY = {"lance-schema:unenforced-primary-key": "true"}
_BLOB = {"lance-encoding:blob": "true"}


class LogEntry(NamedTuple):
    """A log in the catalog: sha256 and bytes are those of its trace as JSON."""

    rowid: int
    id: str
    sha256: str
    bytes: int


class BlockEntry(NamedTuple):
    """A block in the catalog; `written` is in seconds since 1970, by the writer's clock."""

    rowid: int
    log: str
    key: str
    tokens: int
    bytes: int
    sha256: str
    written: int

    @property
    def row(self) -> BlockRow:
        return BlockRow(self.key, self.tokens, self.bytes, self.sha256)


def logs_schema(header: Header) -> pa.Schema:
    """The schema of the table `logs` of a store with this header."""
    fields = [
        pa.field("id", pa.string(), nullable=False, metadata=_KEY),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("crc", pa.int64()),
        ("embedding", pa.list_(pa.float32(), header.dim)),
        ("embedding_crc", pa.int64()),
        ("trace", pa.string()),
    ]
    return pa.schema(fields, metadata={HEADER: header.to_json()})


def blocks_schema() -> pa.Schema:
    """The schema of the table `blocks`."""
    fields = [("log", pa.string()), ("key", pa.string()), ("tokens", pa.int64()), ("bytes", pa.int64())]
    fields += [("sha256", pa.string()), ("written", pa.int64()), ("crc", pa.int64())]
    return pa.schema([*fields, pa.field("data", pa.large_binary(), metadata=_BLOB)])


def crc(entry: LogEntry | BlockEntry) -> int:
    """The checksum of an entry's columns."""
    return crc32(*map(str, entry[1:]))


def embedding_crc(log: str, embedding: bytes) -> int:
    """The checksum of a log's embedding."""
    return crc32(log, embedding)


def log_rows(header: Header, logs: Iterable[tuple[LogRow, str]]) -> pa.Table:
    """Rows of the table `logs`, of logs with the sha256 of their traces."""
    logs = list(logs)
    entries = [LogEntry(0, id, sha256, len(text.encode())) for (id, _, text), sha256 in logs]
    vectors = np.frombuffer(b"".join(embedding for (_, embedding, _), _ in logs), dtype="<f4")
    columns = {
        **{name: [getattr(entry, name) for entry in entries] for name in LogEntry._fields[1:]},
        "crc": [crc(entry) for entry in entries],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), header.dim),
        "embedding_crc": [embedding_crc(id, embedding) for (id, embedding, _), _ in logs],
        "trace": [text for (_, _, text), _ in logs],
    }
    return pa.table(columns, schema=logs_schema(header))


def block_rows(blocks: Iterable[NewBlock], written: int) -> pa.Table:
    """Rows of the table `blocks`."""
    blocks = list(blocks)
    entries = [BlockEntry(0, log, row.key, row.tokens, row.bytes, row.sha256, written) for log, row, _ in blocks]
    columns = {
        **{name: [getattr(entry, name) for entry in entries] for name in BlockEntry._fields[1:]},
        "crc": [crc(entry) for entry in entries],
        "data": [block.content for block in blocks],
    }
    return pa.table(columns, schema=blocks_schema())
