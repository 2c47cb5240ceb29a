"""One log token by token, coloured by attention, as HTML that needs no server and no network."""

from __future__ import annotations

import math
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lagkit.studies.tokens import FIRST, OTHER, Piece, TokenAttention
from lagkit.util.errors import DataError
from lagkit.views import palette
from lagkit.views.scripts import TOKENS, macros

LIMIT = 1_000_000  # bytes of attention in one view
STRONGEST = 12  # the fewest tokens that are kept of a row that is cut
DEEPEST = 0.7  # opacity of the strongest colour: text on it stays readable in both themes
_LEVELS = 255


@dataclass(frozen=True)
class Packed:
    """Attention as a page holds it: square roots in 8 bits, so that small weights keep their digits.

    queries: rows of `TokenAttention.rows`, 0 (the mean) first. weights: `[rows, pieces]`, or `[rows, k]` where only the
    strongest are kept, with their positions in `index` (uint16). shares: `[rows, parts]`. A row for each query, layer
    and head, in this order. covered: the share of all attention that the kept weights hold.
    """

    queries: list[int]
    weights: Tensor
    index: Tensor | None
    shares: Tensor
    covered: float

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        parts = [self.weights, self.shares, *([] if self.index is None else [self.index])]
        return sum(part.nbytes for part in parts)

    def asked(self, attention: TokenAttention) -> list[int]:
        """Positions of the pieces that the queries are of."""
        return [attention.asking[query - 1] for query in self.queries if query]


class View:
    """A token view: in a notebook `html` with its script, as text the shares by part."""

    def __init__(self, attention: TokenAttention, html: str) -> None:
        self.attention, self.html = attention, html

    def _repr_html_(self) -> str:
        return self.html + TOKENS

    def __repr__(self) -> str:
        return f"{self.attention.title}\n{self.attention.by_part().round(3)}"


def view(attention: TokenAttention, answers: pd.DataFrame | None = None, *, limit: int = LIMIT) -> View:
    """A log's text coloured by attention, maps of layers and heads beside it, and shares in a table.

    answers: a table to stand beside it, such as `knockout.of_one` gives. limit: bytes of attention; above it, rows keep
    their strongest tokens only, and fewer tokens can be asked. Raises DataError where not even one row a head fits.
    """
    packed, (layers, heads, _, _) = pack(attention, limit), attention.weights.shape
    channels = " ".join(map(str, bytes.fromhex(palette.KV.removeprefix("#"))))
    about = {
        "view": attention,
        "heads": layers * heads,
        "data": _data(attention, packed),
        "sections": _sections(attention),
        "asking": frozenset(attention.asking),
        "choosable": frozenset(packed.asked(attention)),
        "first": FIRST,
        "deep": _colours(attention),
        "shares": attention.by_part(),
        "answers": answers,
        "size": _size(attention, packed),
        "ink": {"weight": channels, "asks": palette.TEXT, "deepest": DEEPEST},
    }
    return View(attention, str(_macros().view(about)))


def pack(attention: TokenAttention, limit: int = LIMIT) -> Packed:
    """Attention in at most `limit` bytes. Raises DataError where not even the mean of the asking tokens fits."""
    rows, shares = attention.rows, attention.shares
    layers, heads, asking, pieces = rows.shape
    each, parts = layers * heads, shares.shape[-1]
    dense, cut = each * (parts + pieces), each * (parts + 3 * min(STRONGEST, pieces))
    fit = min(asking, limit // min(dense, cut))
    if fit < 1:
        raise DataError(
            f"Attention of {each:,} heads takes {min(dense, cut):,} bytes for one token, above the limit of {limit:,}: "
            "raise `limit`."
        )
    # The mean, and tokens at even distances.
    queries = [0, *(1 + (2 * i + 1) * (asking - 1) // (2 * (fit - 1)) for i in range(fit - 1))]
    chosen, kept = rows[:, :, queries], _quantised(shares[:, :, queries])
    if fit * dense <= limit:
        return Packed(queries, _quantised(chosen), None, kept, 1.0)
    strongest = chosen.topk(min(pieces, (limit // (fit * each) - parts) // 3), dim=-1)
    covered = float(strongest.values.sum(dim=-1).mean())
    index = strongest.indices.permute(2, 0, 1, 3).flatten(0, 2).to(torch.uint16)
    return Packed(queries, _quantised(strongest.values), index, kept, covered)


def _quantised(found: Tensor) -> Tensor:
    """`[layers, heads, queries, n]` as uint8 rows `[queries * layers * heads, n]` of square roots."""
    return (found.clamp(0, 1).sqrt() * _LEVELS).round().to(torch.uint8).permute(2, 0, 1, 3).flatten(0, 2)


def _data(attention: TokenAttention, packed: Packed) -> dict[str, str]:
    """The attributes that the script reads: numbers, and numbers in base64."""
    layers, heads, _, _ = attention.weights.shape
    asked = " ".join(map(str, packed.asked(attention)))
    found = {"layers": str(layers), "heads": str(heads), "queries": asked}
    found |= {"parts": " ".join(str(attention.parts.index(piece.part)) for piece in attention.pieces)}
    found["asks"] = attention.asks
    arrays = {"weights": packed.weights, "shares": packed.shares, "index": packed.index}
    return found | {
        name: b64encode(array.numpy().tobytes()).decode() for name, array in arrays.items() if array is not None
    }


def _colours(attention: TokenAttention) -> list[float]:
    """Opacity of each piece at first, as the script has it: of the largest mean weight but the first token's."""
    mean = attention.rows[:, :, 0].mean(dim=(0, 1)).tolist()
    largest = max((w for w, piece in zip(mean, attention.pieces, strict=True) if piece.part != FIRST), default=1.0)
    return [round(DEEPEST * min(1.0, weight / (largest or 1.0)), 3) for weight in mean]


def _sections(attention: TokenAttention) -> list[dict[str, Any]]:
    """Pieces that stand together, by the part that they count to; the first token stands with those behind it."""
    asking, names = set(attention.asking), [piece.part for piece in attention.pieces]
    if len(names) > 1 and names[0] == FIRST:
        names[0] = names[1]
    for i, piece in enumerate(attention.pieces[1:], 1):
        if _is_blank(piece):
            names[i] = names[i - 1]
    sections = []
    for name, group in groupby(enumerate(attention.pieces), key=lambda one: names[one[0]]):
        own = [*group]
        count = sum(i in asking for i, _ in own)
        partly = "" if count == len(own) else "partly "
        sections.append({"name": name, "asks": f"{partly}{attention.asks}" if count else "", "pieces": own})
    return sections


def _is_blank(piece: Piece) -> bool:
    """Whether a token is nothing but blank lines between rounds."""
    return piece.part == OTHER and not piece.text.strip()


def _shown(piece: Piece) -> str:
    """A token's text, with a mark for each of its line breaks."""
    return piece.text.replace("\n", "↵" if _is_blank(piece) else "↵\n")


def _size(attention: TokenAttention, packed: Packed) -> str:
    asked, of, (layers, heads, _, _) = len(packed.queries) - 1, len(attention.asking), attention.weights.shape
    told = f"{asked:,} of {of:,}" if asked < of else f"All {of:,}"
    numbers = f"{layers * heads:,} heads: {packed.nbytes / 1000:,.0f} kB in 8 bits."
    said = f"{told} {attention.asks} tokens can be asked, in {numbers}"
    if packed.index is None:
        return said
    return f"{said} Of each row the strongest {packed.index.shape[-1]} tokens are here, {packed.covered:.0%} of it."


@cache
def _macros() -> Any:
    return macros(Path(__file__).with_name("tokens.html.j2"), readable=palette.readable, exp=math.exp, shown=_shown)
