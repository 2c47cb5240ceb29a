"""Journal of traces: one JSON line each, so that a killed run loses at most the line that it was writing."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from lagkit.types import MALFORMED, OldTrace, Trace
from lagkit.util.errors import DataError
from lagkit.util.paths import at

# Ends a line, before the CRC-32 of the line without it: a changed bit in a word would go unnoticed.
_SUM = b', "crc32": '


@dataclass(frozen=True)
class Basis:
    """Digests (`fingerprints`) of the question that a trace answers and of the logs in its reach; empty if unknown."""

    question: str = ""
    logs: str | None = ""


_UNKNOWN = Basis()


def _read(line: bytes) -> tuple[Trace, Basis]:
    """A line's trace and its basis; a line without a checksum is older than these."""
    body, found, crc = line.rpartition(_SUM)
    if found and not (crc.endswith(b"}") and int(crc[:-1]) == zlib.crc32(body := body + b"}")):
        raise ValueError("its checksum is another")
    raw = json.loads(body if found else line)
    basis = Basis(**raw.pop("basis", {}))
    return Trace.from_dict(raw), basis


def _written(trace: Trace, basis: Basis) -> bytes:
    try:
        # A log may have brought lone surrogates into a prompt; json.loads takes them back in this form.
        value = {**trace.to_dict(), "basis": asdict(basis)}
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        line = b"%s%s%d}" % (body[:-1], _SUM, zlib.crc32(body))
        _read(line)
    except MALFORMED as error:
        raise DataError(f"The trace of question {trace.question_id!r} cannot be written ({error}).") from error
    return line


class Journal:
    """An append-only file of traces, with what each was given to.

    Any number of processes may read it, and one may write: the one that has locked the run (`Experiment.writing`). A
    torn last line, of a killed writer, is skipped, and cut off before the next append.
    """

    def __init__(self, path: Path) -> None:
        self.path = at(path)

    def traces(self) -> list[Trace]:
        """All whole traces, in the order in which they ended; raises as `entries`."""
        return [trace for trace, _ in self.entries()]

    def entries(self) -> list[tuple[Trace, Basis]]:
        """All whole traces with their bases, in the order in which they ended. Raises DataError for a damaged line."""
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], 1):
            try:
                found.append(_read(line))
            except OldTrace as error:
                raise DataError(
                    f"{self.path} holds traces of an earlier version of lagkit ({error}): run again, into another "
                    "folder."
                ) from error
            except MALFORMED as error:
                raise DataError(
                    f"Line {number} of {self.path} is damaged ({error!r}): delete that line, and the run "
                    "answers its question again."
                ) from error
        return found

    def append(self, trace: Trace, basis: Basis = _UNKNOWN) -> None:
        """Add a trace; it is on disk when this returns. Raises DataError, and writes nothing, for an unreadable one."""
        line = _written(trace, basis)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            self._cut_torn_line(file)
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _cut_torn_line(file: BinaryIO) -> None:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
