"""Problems of a store in LanceDB, and the rows that have to go for each to be gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lagkit.logs.lance.catalog import BLOCKS, LOGS, BlockEntry, LogEntry, pages
from lagkit.logs.upkeep import Problem, flaw_of_trace

if TYPE_CHECKING:
    from lagkit.logs.lance.store import LanceStore

LOGS_TABLE, BLOCKS_TABLE = f"{LOGS}.lance", f"{BLOCKS}.lance"
# Seconds after which no writer is still on its way from a block to the log that it belongs to.
GRACE = 3600
_TEXTS = 64

# Rows of the two tables that have to go for a problem to be gone.
Rows = tuple[list[LogEntry | int], list[BlockEntry | int]]


def problems(store: LanceStore) -> Iterator[tuple[Problem, Rows]]:
    """Everything that is wrong, after reading every byte of the store; raises StoreUnreachable where none can be."""
    logs, blocks = store._logs, store._blocks
    blocks.sync()
    logs.sync()
    for rowid, what in logs.damaged:
        yield Problem(LOGS_TABLE, "", f"a row of it {what}"), ([rowid], [])
    for rowid, what in blocks.damaged:
        yield Problem(BLOCKS_TABLE, "", f"a row of it {what}"), ([], [rowid])
    yield from _of_logs(store)
    for entry in sorted(entry for own in blocks.by_log.values() for entry in own.values()):
        if entry.log not in logs.by_id:
            what = f"its block {entry.key!r} is an orphan: no log of this id is there"
            yield Problem(BLOCKS_TABLE, entry.log, what), ([], [entry])
        elif flaw := blocks.fetch(entry)[1]:
            yield Problem(BLOCKS_TABLE, entry.log, f"its block {entry.key!r} {flaw}"), ([], [entry])


def _of_logs(store: LanceStore) -> Iterator[tuple[Problem, Rows]]:
    """Damaged traces and embeddings; a log goes with either, and its blocks with it."""
    for page in pages(list(store._logs.entries), _TEXTS):
        texts, vectors = store._logs.texts(page), store._logs.embeddings(page)
        for entry in page:
            gone: Rows = [entry], list(store._blocks.of(entry.id))
            if vectors.get(entry.rowid) is None:
                yield Problem(LOGS_TABLE, entry.id, f"its embedding is damaged ({4 * store.dim} bytes)"), gone
            if flaw := flaw_of_trace(entry.id, texts[entry.rowid]):
                yield Problem(LOGS_TABLE, entry.id, f"its trace {flaw}"), gone


def damaged(store: LanceStore) -> Iterator[tuple[Problem, Rows]]:
    """The problems that `prune` removes: not what another writer may be about to need."""
    young = time.time() - GRACE
    for problem, rows in problems(store):
        orphans = [row for row in rows[1] if "is an orphan" in problem.problem and isinstance(row, BlockEntry)]
        if all(row.written < young for row in orphans):
            yield problem, rows
