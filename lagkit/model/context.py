"""What a generation starts from, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lagkit.model.kv import KVBlock, Part
from lagkit.types import Usage

if TYPE_CHECKING:
    from lagkit.model.prefix_cache import PrefixCache


@dataclass(frozen=True)
class Context:
    """What a generation starts from: parts whose KV is injected at positions 0.., then tokens that are prefilled.

    prefix_cache: keeps the KV of this prompt for the next one of the same question. said: the words of the assistant's
    turn with which `ids` end; where they open a section of reasoning, no stop string ends it.
    """

    ids: tuple[int, ...]
    parts: tuple[Part, ...] = ()
    prefix_cache: PrefixCache | None = field(default=None, compare=False, repr=False)
    said: str = field(default="", compare=False, repr=False)

    @property
    def blocks(self) -> tuple[KVBlock, ...]:
        """The parts' KV; waits for those that are being read. Raises DamagedBlock."""
        return tuple(part.resolve() for part in self.parts)

    @property
    def injected(self) -> int:
        """Number of injected tokens."""
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True)
class Generation:
    """Newly generated text, up to and with the stop string that ended it, and its cost.

    `usage.seconds`: the batch's wall time divided by its rows. `logprobs`: natural logarithms, of each of `ids`; empty
    where they are not known.
    """

    text: str
    ids: tuple[int, ...] = field(repr=False)
    usage: Usage
    logprobs: tuple[float, ...] = field(default=(), repr=False)
