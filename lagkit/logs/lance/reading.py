"""The reading half of `LanceStore`: single logs, blocks, summaries, checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd

from lagkit.logs.archive import write_archive
from lagkit.logs.base import Store
from lagkit.logs.batch import Packed
from lagkit.logs.files import BlockRow
from lagkit.logs.header import Header
from lagkit.logs.lance import upkeep
from lagkit.logs.lance.cache import DiskCache
from lagkit.logs.lance.catalog import Blocks, Logs
from lagkit.logs.lance.refusals import Lost
from lagkit.logs.lance.schema import BLOCKS, HEADER, LOGS, BlockEntry, LogEntry
from lagkit.logs.lance.tables import Place
from lagkit.logs.listing import OLDEST_FIRST, Facts, Filter, Order
from lagkit.logs.upkeep import Problem
from lagkit.logs.vectors import LogVectors
from lagkit.model.kv import KVBlock
from lagkit.types import Trace
from lagkit.util.errors import DamagedBlock, StoreError
from lagkit.util.paths import at, refuse_links

PAGE = 512


class LanceLogs(Store):
    """The reading half of `LanceStore`.

    What other processes change is seen at once by whatever looks at all logs (`ids`, `search`, `len`, ...). A single
    log or block that is known is taken from memory and cache, without asking whether it was deleted; one that is not
    known is asked for, unless the last look was less than `catalog.FRESH` seconds ago.
    """

    _held = "in logs and blocks"

    def __init__(self, uri: str, write: bool = False, cache: DiskCache | None = None) -> None:
        """Use `create` or `open`, or this one to say where copies of what was read stay (`cache`)."""
        try:
            if "://" not in uri:
                if not Path(uri).is_dir():  # which LanceDB would make
                    raise FileNotFoundError(uri)
                refuse_links(Path(uri), StoreError, depth=3)
            place = Place(uri)
            logs = place.open(LOGS)
            blocks = place.open(BLOCKS)
        except FileNotFoundError:
            raise StoreError(f"There is no log store at {uri}; make one with LanceStore.create.") from None
        told = (logs.schema.metadata or {}).get(HEADER, b"")
        super().__init__(uri, Header.parse(told, f"The table {LOGS} at {uri}"), write)
        self._cache = cache if cache is not None else DiskCache.of(uri)
        self._log_rows, self._block_rows = Logs(logs, self.dim, uri), Blocks(blocks)
        self._vectors = LogVectors(self._log_rows)
        self._known: dict[int, Facts] = {}  # a row's id and trace never change

    def close(self) -> None:
        self._closed = True

    @property
    def _logs(self) -> Logs:
        self._check_open()
        return self._log_rows

    @property
    def _blocks(self) -> Blocks:
        self._check_open()
        return self._block_rows

    def _entries(self) -> list[LogEntry]:
        """All logs of the newest version."""
        self._logs.sync()
        return self._logs.entries

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self._entries()]

    def __len__(self) -> int:
        return len(self._entries())

    def __contains__(self, log: object) -> bool:
        return self._logs.find(log) is not None

    def get(self, log: str) -> Trace:
        entry = self._entry(log)
        kept = self._cache.get(entry.sha256)
        if kept is not None:
            return self._trace(log, kept.decode())
        [text] = self._texts([entry]).values()
        if text is not None:
            self._cache.put(entry.sha256, text.encode())
        return self._trace(log, text)

    def _entry(self, log: str) -> LogEntry:
        entry = self._logs.find(log)
        if entry is None:
            raise self._unknown(log)
        return entry

    def traces(self, logs: Sequence[str] | None = None) -> Iterator[Trace]:
        entries = self._entries() if logs is None else list(map(self._entry, logs))
        for start in range(0, len(entries), PAGE):
            page = entries[start : start + PAGE]
            texts = self._texts(page)
            yield from (self._trace(entry.id, texts[entry.rowid]) for entry in page)

    def _texts(self, entries: Sequence[LogEntry]) -> dict[int, str | None]:
        """Traces as JSON by row id; None for one that is missing, or not what its sha256 says."""
        found: dict[int, str | None] = dict.fromkeys(entry.rowid for entry in entries)
        parts, _ = self._logs.table.salvage(list(found), ["trace"])
        texts = dict(
            pair for rows in parts for pair in zip(*(rows[c].to_pylist() for c in ("_rowid", "trace")), strict=True)
        )
        for entry in entries:
            text = texts.get(entry.rowid)
            if text is not None and hashlib.sha256(text.encode()).hexdigest() == entry.sha256:
                found[entry.rowid] = text
        return found

    def block_keys(self, log: str) -> list[str]:
        if log not in self:
            raise self._unknown(log)
        self._blocks.sync()
        return sorted(self._blocks.by_log.get(log, ()))

    def find(self, log: str, key: str) -> BlockRow | None:
        entry = self._blocks.find(log, key) if log in self else None
        return None if entry is None else entry.row

    def load(self, row: BlockRow) -> KVBlock:
        content = self._cache.get(row.sha256)
        if content is None:
            content = self.content(row)
            self._cache.put(row.sha256, content)
        return KVBlock.parse(content, f"{row.sha256} at {self.path}", self.codec)

    def content(self, row: BlockRow) -> bytes:
        tried: set[int] = set()
        problem = f"of {row.bytes:,} bytes was deleted"
        while entry := next((e for e in self._block_rows.of_content(row.sha256) if e.rowid not in tried), None):
            content, flaw = self._fetch(entry)
            if flaw is None:
                return content
            tried.add(entry.rowid)
            problem = f"{entry.key!r} of log {entry.log} {flaw}"
            self._block_rows.sync()  # another process may have put a sound one in its place
        raise DamagedBlock(
            f"The KV block {problem} at {self.path}. All other blocks stay usable; verify() lists what is damaged, "
            "prune() removes it, and then the block can be added again."
        )

    def _fetch(self, entry: BlockEntry) -> tuple[bytes, str | None]:
        """A block's bytes as the store has them, and what is wrong with them, in a few words."""
        try:
            content = self._block_rows.table.blob("data", entry.rowid) or b""
        except Lost as error:
            return b"", f"is damaged: it cannot be read ({error.flaw})"
        except IndexError:
            return b"", "is missing"
        if len(content) != entry.bytes:
            return b"", f"is damaged: it has {len(content):,} bytes instead of {entry.bytes:,}"
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            return b"", "is damaged: its content is not what was stored"
        return content, None

    def verify(self) -> pd.DataFrame:
        problems = [problem for problem, _ in upkeep.problems(self)]
        return pd.DataFrame(problems, columns=Problem._fields)

    def summary(self) -> pd.DataFrame:
        owned = (self._blocks.by_log.get(entry.id, {}).values() for entry in self._entries_with_blocks())
        rows = [(block.key, 1, block.tokens, block.bytes) for blocks in owned for block in blocks]
        return pd.DataFrame(rows, columns=["key", "logs", "tokens", "bytes"]).groupby("key").sum()

    def sizes(self, logs: Collection[str] | None = None) -> pd.DataFrame:
        wanted, rows = None if logs is None else set(logs), []
        for entry in self._entries_with_blocks():
            if wanted is None or entry.id in wanted:
                blocks = self._blocks.by_log.get(entry.id, {}).values()
                rows.append((entry.id, len(blocks), sum(b.tokens for b in blocks), self._held_by(entry)))
        return pd.DataFrame(rows, columns=["log", "blocks", "tokens", "bytes"]).set_index("log")

    def matching(
        self, wanted: Filter, offset: int = 0, limit: int | None = None, order: Order = OLDEST_FIRST
    ) -> list[str]:
        entries = self._wanted(wanted)
        if order.by != "added":
            facts = self._facts(entries)
            keys = {entry.rowid: order.key(facts[entry.rowid], self._held_by(entry)) for entry in entries}
            entries = sorted(entries, key=lambda entry: keys[entry.rowid], reverse=order.down)
        elif order.down:
            entries = entries[::-1]
        return [entry.id for entry in entries[offset : None if limit is None else offset + limit]]

    def count(self, wanted: Filter) -> int:
        return len(self._wanted(wanted))

    def extremes(self) -> tuple[int, int]:
        entries = self._entries_with_blocks()
        facts = self._facts(entries)
        return (
            max((facts[entry.rowid].rounds for entry in entries), default=0),
            max(map(self._held_by, entries), default=0),
        )

    def _wanted(self, wanted: Filter) -> list[LogEntry]:
        entries = self._entries_with_blocks()
        if wanted == Filter():
            return entries
        facts = self._facts(entries)
        return [entry for entry in entries if wanted.fits(*facts[entry.rowid][:2], self._held_by(entry))]

    def _held_by(self, entry: LogEntry) -> int:
        """The bytes of a log's blocks, as of the last look."""
        return sum(block.bytes for block in self._block_rows.by_log.get(entry.id, {}).values())

    def _facts(self, entries: Sequence[LogEntry]) -> dict[int, Facts]:
        """What logs are listed by, by row id; each trace is read once for that and then known."""
        new = [entry for entry in entries if entry.rowid not in self._known]
        for start in range(0, len(new), PAGE):
            for rowid, text in self._texts(new[start : start + PAGE]).items():
                raw = json.loads(text) if text is not None else {}
                said = raw.get("question", ""), raw.get("answer") or ""
                self._known[rowid] = Facts(raw.get("correct"), len(raw.get("rounds", ())), *said)
        return self._known

    def _entries_with_blocks(self) -> list[LogEntry]:
        self._blocks.sync()
        return self._entries()

    @property
    def nbytes(self) -> int:
        """The bytes of all traces, embeddings and blocks; what LanceDB writes around them is not counted."""
        return sum(map(self._size, self._entries_with_blocks()))

    def _size(self, entry: LogEntry) -> int:
        """The bytes of a log with its blocks, as of the last look."""
        return entry.bytes + 4 * self.dim + self._held_by(entry)

    def packed(self) -> Iterator[Packed]:
        entries = self._entries_with_blocks()
        for start in range(0, len(entries), PAGE):
            page = entries[start : start + PAGE]
            texts, vectors = self._texts(page), self._logs.embeddings(page)
            for entry in page:
                text, vector = texts[entry.rowid], vectors.get(entry.rowid)
                if text is None or vector is None:
                    what = "trace" if text is None else "embedding"
                    raise StoreError(
                        f"Log {entry.id} cannot be exported: its {what} is damaged. prune() removes what is damaged."
                    )
                blocks = self._blocks.by_log.get(entry.id, {})
                yield Packed(entry.id, vector, text, tuple(blocks[key].row for key in sorted(blocks)))

    def export(self, path: str | Path) -> Path:
        return write_archive(at(path), self.header, self.packed(), self.content)
