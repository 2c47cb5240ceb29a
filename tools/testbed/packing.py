"""From rounds to batches of one shape: rounds with the same passages share them, as branches of one tree of tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from transformers import PreTrainedTokenizerBase

from lagkit.logs.encode import SEPARATOR
from lagkit.util.errors import ConfigError
from tools.testbed.rounds import Lesson, Stage, lessons

IGNORED = -100  # the label of tokens that are not learned
_FARTHEST = 600  # positions that may lie between earlier work and the prompt
_TRIES = 50  # scenes that are drawn before it is said that none fits


@dataclass(frozen=True)
class Batch:
    """Trees of tokens: a token attends to those before it in the shared stem and in its own branch.

    ids, positions, labels, branch: `[rows, tokens]`; labels are the next token's id or `IGNORED`, branch is 0 in the
    stem, 1.. in the branches and -1 in the padding. lessons: those of the branches, `[rows][branches]`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    branch: torch.Tensor
    lessons: tuple[tuple[Lesson, ...], ...]

    def mask(self) -> torch.Tensor:
        """What attends to what, `[rows, 1, tokens, tokens]`, True where it does."""
        here, there = self.branch[:, :, None], self.branch[:, None, :]
        seen = (here == there) | (there == 0)
        return seen.tril()[:, None]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch elsewhere."""
        ids, positions, labels, branch = (t.to(device) for t in (self.ids, self.positions, self.labels, self.branch))
        return Batch(ids, positions, labels, branch, self.lessons)


_Padded = tuple[list[list[int]], tuple[Lesson, ...]]


def make_batch(
    seed: str, tokenizer: PreTrainedTokenizerBase, *, rows: int, tokens: int, stage: Stage = "full", branches: int = 16
) -> Batch:
    """A batch drawn by `seed`; each row holds as many of a scene's rounds as fit, at most `branches`."""
    made = [_row(f"{seed}.{row}", tokenizer, tokens, stage, branches) for row in range(rows)]
    ids, positions, labels, branch = (torch.tensor([row[0][i] for row in made]) for i in range(4))
    return Batch(ids, positions, labels, branch, tuple(row[1] for row in made))


def _row(seed: str, tokenizer: PreTrainedTokenizerBase, tokens: int, stage: Stage, branches: int) -> _Padded:
    """The columns and lessons of the first scene under `seed` of which a round fits."""
    for attempt in range(_TRIES):
        scene = f"{seed}.{attempt}"
        drawn = lessons(scene, tokenizer, stage=stage, count=branches)
        row = _Row(tokenizer, drawn, random.Random(f"positions {scene}"))
        for lesson in drawn:
            row.add(lesson, tokens)
        if row.lessons:
            return row.padded(tokens)
    raise ConfigError(f"No round fits into {tokens} tokens: ask for longer rows.")


class _Row:
    """A tree that grows branch by branch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, drawn: Sequence[Lesson], rng: random.Random) -> None:
        self._tokenizer, self._cut = tokenizer, _shared(drawn)
        before, stem = self._ids(drawn[0].before), self._ids(drawn[0].context[: self._cut])
        skipped = rng.randrange(_FARTHEST) if before and rng.random() < 0.5 else 0
        self.ids = before + stem
        self.positions = [*range(len(before)), *range(len(before) + skipped, len(self.ids) + skipped)]
        self.labels = [IGNORED] * len(self.ids)
        self.branch = [0] * len(self.ids)
        self._next = len(self.ids) + skipped
        self._stop = self._ids("x.")[-1]
        self.lessons: list[Lesson] = []

    def add(self, lesson: Lesson, tokens: int) -> None:
        """Add a round as a branch if it fits."""
        ask = self._ids(lesson.context[self._cut :])
        reply = [*self._ids(lesson.reply), self._tokenizer.eos_token_id]
        size = len(ask) + len(reply)
        if len(self.ids) + size > tokens:
            return
        self.lessons.append(lesson)
        # A token's label is what follows it: the reply is learned from the last token of the prompt on.
        self.labels += [IGNORED] * (len(ask) - 1) + self._learned(lesson, reply) + [IGNORED]
        self.ids += ask + reply
        self.positions += range(self._next, self._next + size)
        self.branch += [len(self.lessons)] * size

    def _learned(self, lesson: Lesson, reply: list[int]) -> list[int]:
        """The reply; of what is told again only the objects, as who is told of next is anyone's guess."""
        if lesson.kind != "retelling":
            return reply
        return [token if after == self._stop else IGNORED for token, after in pairwise([*reply, IGNORED])]

    def padded(self, tokens: int) -> _Padded:
        """Lists of length `tokens` (ids, positions, labels, branch), and the lessons that are in them."""
        missing = tokens - len(self.ids)
        padding = (self._tokenizer.pad_token_id, 0, IGNORED, -1)
        columns = (self.ids, self.positions, self.labels, self.branch)
        return [c + [p] * missing for c, p in zip(columns, padding, strict=True)], tuple(self.lessons)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _shared(drawn: Sequence[Lesson]) -> int:
    """Length of the contexts' common beginning, up to a blank line: tokens never reach across one."""
    first, last = min(lesson.context for lesson in drawn), max(lesson.context for lesson in drawn)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first.rindex(SEPARATOR, 0, same)
