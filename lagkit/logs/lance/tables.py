"""LanceDB's tables, with deadlines, retries of conflicting commits, and lagkit's errors."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import lancedb
import pyarrow as pa
from lancedb.background_loop import LOOP

from lagkit.util.errors import StoreError, StoreUnreachable
from lagkit.util.secrets import scrub

# Seconds: for one request, and for all that one call of LanceDB asks, retries included.
TIMEOUT = 30.0
DEADLINE = 180.0
# Of a request that failed for a reason that may pass, each after twice the time; of a commit that others preceded,
# which LanceDB tries twenty times itself.
RETRIES = 6
ATTEMPTS = 3
_AT_ONCE = 500  # row ids in one statement
_STATUS = r"status(?: code)?: "
_DENIED = re.compile(
    rf"{_STATUS}40[13]|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|privileges"
    "|Unauthenticated|[Cc]redential"
)
_THROTTLED = re.compile(rf"SlowDown|{_STATUS}(?:429|503)|Too Many Requests")
_SILENT = re.compile(
    rf"{_STATUS}5\d\d|error sending request|kind: (?:Connect|Timeout|Request)|ConnectError|timed out|dns error"
    "|[Cc]onnection (?:refused|reset|closed)|error decoding response body|IncompleteMessage"
)
_CONFLICT = re.compile("[Cc]onflict|[Cc]oncurrent|[Cc]ontention|[Pp]reempted")
_MISSING = re.compile(r"[Nn]ot found: (?:.*[Nn]ot found: )?([^\s,]+)")
_CODE = re.compile(r"<Code>(\w+)</Code>")

T = TypeVar("T")


class Lost(StoreError):
    """Part of the store is missing or damaged.

    flaw: what is wrong, in a few words.
    """

    def __init__(self, uri: str, flaw: str) -> None:
        super().__init__(
            f"Something of the log store at {uri} is damaged: {flaw}. verify() lists what is, prune() removes it."
        )
        self.flaw = flaw


class Conflict(StoreError):
    """Other processes changed a table at the same time, even after all retries."""


class Place:
    """Where a store's tables are: a folder or the address of an object store, whose credentials the environment has."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._db = self.call("be opened", lambda: lancedb.connect_async(uri, storage_options=_options(uri)))

    def names(self) -> list[str]:
        """The names of all tables."""
        return list(self.call("be listed", lambda: self._db.list_tables(limit=1000)).tables)

    def open(self, name: str) -> Table:
        """An existing table; raises FileNotFoundError if there is none."""
        work = partial(self._db.open_table, name)
        return self._table("be opened", work, f"Table '{name}' was not found", FileNotFoundError(name))

    def create(self, name: str, schema: pa.Schema, *, exist_ok: bool = False) -> Table:
        """A new table; raises FileExistsError if there is one, and it may not be."""
        work = partial(self._db.create_table, name, schema=schema, exist_ok=exist_ok)
        return self._table("be made", work, f"Table '{name}' already exists", FileExistsError(name))

    def _table(self, what: str, work: Callable[[], Awaitable[Any]], told: str, refused: OSError) -> Table:
        """The table that `work` gives; raises `refused` where LanceDB says what was `told`."""

        async def attempt() -> Any:
            try:
                return await work()
            except ValueError as error:
                if told in str(error):
                    return None
                raise

        table = self.call(what, attempt)
        if table is None:
            raise refused
        return Table(self, table)

    def call(self, what: str, work: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        """The result of `work`; raises StoreUnreachable, Lost or Conflict: the store could not `what`."""
        seconds = DEADLINE if seconds is None else seconds

        async def within() -> T:
            return await asyncio.wait_for(work(), seconds)

        try:
            found: T = LOOP.run(within())  # type: ignore[no-untyped-call]  # of LanceDB
            return found
        except (StoreError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic of LanceDB at damaged data is no Exception
            raise refusal(error, self.uri, what, seconds) from None


class Table:
    """A table as of its newest version that was asked for. Rows come with a `_rowid`: it grows, and never changes."""

    def __init__(self, place: Place, table: lancedb.AsyncTable) -> None:
        self._place, self._table = place, table
        self.schema: pa.Schema = place.call("be read", table.schema)

    def latest(self) -> int:
        """Go to the newest version and return its number: one request."""
        self._place.call("be read", self._table.checkout_latest)
        return self._place.call("be read", self._table.version)

    def count(self) -> int:
        """How many rows there are; asks nobody."""
        return self._place.call("be read", self._table.count_rows)

    def scan(self, columns: Sequence[str]) -> pa.Table:
        """All rows; of `_rowid` alone, without a look into any data file."""
        return self._read(lambda: self._table.query().select([*columns, "_rowid"]).to_arrow())

    def tail(self, first: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """The rows at places `[first, stop)`."""
        return self._read(
            lambda: self._table.take_offsets(list(range(first, stop))).select([*columns, "_rowid"]).to_arrow()
        )

    def take(self, rowids: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """The rows with these ids, as far as they are there."""
        return self._read(lambda: self._table.take_row_ids(list(rowids)).select([*columns, "_rowid"]).to_arrow())

    def salvage(self, rowids: Sequence[int], columns: Sequence[str]) -> tuple[list[pa.Table], dict[int, str]]:
        """As `take`, in parts, without the rows that cannot be read; and what is wrong with these, by their ids."""
        if not rowids:
            return [], {}
        try:
            return [self.take(rowids, columns)], {}
        except Lost as error:
            if len(rowids) == 1:
                return [], {rowids[0]: error.flaw}
        half = len(rowids) // 2
        (first, lost), (second, more) = (self.salvage(some, columns) for some in (rowids[:half], rowids[half:]))
        return first + second, lost | more

    def blob(self, column: str, rowid: int) -> bytes:
        """One row's bytes in a column of blobs."""
        blobs = self._place.call("be read", lambda: self._table.fetch_blobs(column, row_ids=[rowid]))
        return bytes(blobs[0].as_py())

    def _read(self, work: Callable[[], Awaitable[pa.Table]]) -> pa.Table:
        return self._place.call("be read", work).sort_by("_rowid")

    def append(self, rows: pa.Table) -> None:
        """Add rows as they are."""
        self._commit(lambda: self._table.add(rows))

    def merge(self, on: str, rows: pa.Table) -> None:
        """Add those rows whose `on`, the table's primary key, is not there: also when others add them meanwhile."""
        self._commit(lambda: self._table.merge_insert(on).when_not_matched_insert_all().execute(rows))

    def delete(self, rowids: Sequence[int]) -> None:
        """Remove rows by their ids; unknown ones are ignored."""
        for start in range(0, len(rowids), _AT_ONCE):
            listed = ", ".join(map(str, rowids[start : start + _AT_ONCE]))
            self._commit(partial(self._table.delete, f"_rowid IN ({listed})"))

    def compact(self, keep: timedelta) -> None:
        """Write anew what small or deleted rows are among, and remove what only versions older than `keep` name."""
        self._commit(lambda: self._table.optimize(cleanup_older_than=keep), seconds=86_400)

    def fragments(self) -> int:
        """How many data files the table has; asks nobody."""
        stats: Any = self._place.call("be read", self._table.stats)  # a dict, whatever LanceDB declares
        return int(stats["fragment_stats"]["num_fragments"])

    def _commit(self, work: Callable[[], Awaitable[Any]], seconds: float | None = None) -> None:
        """A change, again where another process's came first."""
        for attempt in range(ATTEMPTS):
            try:
                self._place.call("be changed", work, seconds)
                return
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise
            time.sleep(random.uniform(0, 2**attempt))  # not all of them again at the same moment
            self.latest()


def _options(uri: str) -> dict[str, str]:
    """What LanceDB is told; credentials, endpoint and region it takes from the environment itself."""
    options = {"new_table_enable_stable_row_ids": "true"}
    if "://" in uri:
        options |= {"timeout": f"{TIMEOUT:g}s", "connect_timeout": f"{min(TIMEOUT, 10):g}s"}
        options |= {"client_max_retries": str(RETRIES), "client_retry_timeout": str(int(DEADLINE))}
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT", "")
        options |= {"allow_http": "true"} if endpoint.startswith("http://") else {}
    return options


def refusal(error: BaseException, uri: str, what: str, seconds: float | None) -> StoreError:
    """The error to raise instead of what LanceDB raised while the store at `uri` was asked to `what`.

    Raise it `from None`: what object stores answer may quote the credentials.
    """
    said = str(error)
    code = f" ({found[1]})" if (found := _CODE.search(said)) else ""
    if "NoSuchBucket" in said or "ContainerNotFound" in said:
        return StoreUnreachable(f"There is no bucket for {uri}: make it, or name another one.")
    if _DENIED.search(said):
        return StoreUnreachable(
            f"The object store refuses access to {uri}{code}: look at the credentials and the region in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; docs/stores.md has all)."
        )
    if _THROTTLED.search(said):
        return StoreUnreachable(
            f"The object store limits the rate of requests to {uri}{code} for too long: wait, or use it from fewer "
            "processes; what was committed is safe."
        )
    if isinstance(error, TimeoutError) or "merge insert timed out" in said:
        return StoreUnreachable(
            f"The log store at {uri} could not {what} within {seconds:g} s: see to the network, and go on then; what "
            "was committed is safe."
        )
    if _SILENT.search(said):
        return StoreUnreachable(
            f"The object store of {uri} cannot be reached{code}: see to the network and to AWS_ENDPOINT_URL, and go on "
            "then; what was committed is safe."
        )
    if found := _MISSING.search(said):
        return Lost(uri, f"the object {found[1].rstrip(':')} is missing")
    if _CONFLICT.search(said):
        return Conflict(
            f"The log store at {uri} could not {what}: other processes changed it at the same moment, again and again. "
            "It is as it was; try again, or let fewer processes write."
        )
    return Lost(uri, f"it could not {what} ({_plain(said)})")


def _plain(said: str) -> str:
    """The first sentence of what a library said, without places in its source code and without secrets."""
    text = " ".join(re.split(r", /\S+\.rs:|\blocation: Location|<\?xml", said)[0].split())
    return scrub(text)[:200] or "it said nothing"
