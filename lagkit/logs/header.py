"""The header of a log store (`store.json` in a folder): its format, model, embedder, dtype and codec."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lagkit.model.backend import Model
from lagkit.model.codec import CODECS
from lagkit.model.names import Codec
from lagkit.types import MALFORMED
from lagkit.util import files
from lagkit.util.errors import StoreError, StoreMismatch
from lagkit.util.paths import refuse_links

if TYPE_CHECKING:
    from lagkit.logs.retrieve import Embedder

NAME = "store.json"
KIND = "lagkit log store"
FORMAT = 4

_LARGEST = 1 << 20  # bytes of a header: it is read as a whole


@dataclass(frozen=True)
class Header:
    """The model whose KV is stored (a JSON-able fingerprint), the embedder, its dimension, the blocks' dtype and codec.

    The dtype is that of blocks in memory, whatever the codec stores.
    """

    model: dict[str, Any]
    embedder: str
    dim: int
    dtype: str
    codec: Codec = "none"
    format: int = FORMAT
    kind: str = KIND

    def __post_init__(self) -> None:
        if not isinstance(self.model, dict) or not isinstance(self.embedder, str):
            raise StoreError("A log store needs the model's fingerprint (a mapping) and the embedder's name.")
        if not isinstance(self.dim, int) or self.dim < 1:
            raise StoreError(f"Embeddings have a whole number of dimensions, at least one; {self.dim!r} was given.")
        if not isinstance(getattr(torch, str(self.dtype), None), torch.dtype):
            raise StoreError(
                f"{self.dtype!r:.80} is no dtype of KV blocks; give torch's name of one, such as bfloat16."
            )
        if self.codec not in CODECS:
            raise StoreError(f"{self.codec!r:.80} is no codec of KV blocks; give one of {', '.join(CODECS)}.")

    @classmethod
    def new(cls, model: Mapping[str, Any], embedder: str, dim: int, dtype: Any, codec: Codec = "none") -> Header:
        """Raises StoreError for a fingerprint that JSON cannot hold, a dimension below 1, an unknown dtype or codec."""
        return cls(_plain(model), embedder, dim, str(dtype).removeprefix("torch."), codec)

    @classmethod
    def of(cls, lm: Model, embedder: Embedder, codec: Codec = "none") -> Header:
        """The header for the logs of a model and an embedder."""
        return cls.new(lm.fingerprint, embedder.name, embedder.dim, lm.dtype, codec)

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> Header:
        """Read a header's JSON; `where` names it in the StoreError for anything else or another format."""
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict) or raw.get("kind") != KIND:
                raise ValueError(f"its kind is not {KIND!r}")
            crc = raw.pop("crc32", None)
            if raw["format"] == FORMAT:
                if crc not in (None, _crc32(raw)):  # people may edit a header, and leave it out
                    raise ValueError("its checksum is another")
                return cls(**raw)
            older = bool(raw["format"] < FORMAT)
        except (*MALFORMED, StoreError) as error:
            raise StoreError(f"{where} does not describe a log store ({error}).") from error
        if older:
            raise StoreError(
                f"{where} has store format {raw['format']}, of an earlier lagkit: make the store anew. "
                "That of a run can be deleted: the command that began the run encodes its logs again."
            )
        raise StoreError(
            f"{where} has store format {raw['format']}, newer than the {FORMAT} that this lagkit reads: update lagkit."
        )

    @classmethod
    def read(cls, folder: Path) -> Header:
        """The header of the store in `folder`; raises StoreError where there is none, or links are among its files."""
        refuse_links(folder, StoreError, depth=2)  # the folders of blocks too
        try:
            with open(folder / NAME, "rb") as file:
                text = file.read(_LARGEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(f"There is no log store at {folder}; make one with LogStore.create.") from error
        except OSError as error:
            raise StoreError(f"The log store at {folder} cannot be read ({error}).") from error
        return cls.parse(text, str(folder / NAME))

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that `check` compares."""
        return {name: getattr(self, name) for name in ("model", "embedder", "dim", "dtype", "codec")}

    def to_json(self) -> bytes:
        """The bytes of `store.json`."""
        head = asdict(self)
        return (json.dumps({**head, "crc32": _crc32(head)}, indent=2, sort_keys=True) + "\n").encode()

    def write(self, folder: Path) -> None:
        """Write `store.json` atomically; raises StoreError if that fails."""
        try:
            files.write(folder / NAME, self.to_json())
        except OSError as error:
            raise StoreError(f"No log store can be made at {folder} ({error}).") from error

    def check(self, where: Path | str, **expected: Any) -> None:
        """Compare with the caller's values (None: any); raises StoreMismatch, naming both sides."""
        for name, wanted in expected.items():
            if wanted is None:
                continue
            wanted = _plain(wanted) if name == "model" else str(wanted).removeprefix("torch.")
            found = self.model if name == "model" else str(getattr(self, name))
            if wanted != found:
                raise StoreMismatch(
                    f"The log store at {where} was built with {name} {_show(found)}, but {_show(wanted)} was asked "
                    f"for: use the same {name}, or another store."
                )


def _crc32(head: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(head, sort_keys=True).encode())


def _plain(model: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(model), sort_keys=True)))
    except (TypeError, ValueError) as error:
        raise StoreError(f"A model's fingerprint must be a mapping that JSON can hold ({error}).") from error


def _show(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
