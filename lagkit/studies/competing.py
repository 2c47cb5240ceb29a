"""Which of several competing logs does a model read? A forced choice between their answers, without decoding.

Three logs say the same kind of fact of three entities, and one is asked for. The model chooses the answer with the
highest log-probability a token behind the words with which its turn is opened; chance is a third.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import SEPARATOR, kept_text
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock, Part
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.model.recompute import PlacedBlock, recompute
from lagkit.policy import Blanks, Keep, Place, Policy
from lagkit.studies.competing_items import RIVALS, UNRELATED, Fact, Form, Group
from lagkit.studies.patch import Patch
from lagkit.types import Question, Round, Trace
from lagkit.util.errors import ConfigError
from lagkit.util.files import intact, write
from lagkit.util.progress import progress

Reads = Literal["text", "dense", "own", "stranger", "filler", "none", "same positions"]
Beside = Literal["rivals", "nothing", "paragraph", "no logs"]

POSITIONS = ("first", "middle", "last")
PROMPT = Prompt("competing", "qa", "Answer from what you have read.", "$question")


@dataclass(frozen=True)
class Condition:
    """How logs are shown.

    reads: as `text`, or as KV: of all logs read in one go (`dense`), or of each log read apart, behind its `own` first
    round, a `stranger`'s, as many neutral words (`filler`) or `none`; `same positions`: own, each log at those of the
    first. beside: what stands beside the log that is asked for (`no logs`: nor that). recompute: tokens computed anew
    behind the other logs: `first:K` or `last:K` of each log, or `most:P`, the P percent that deviate most. patch: the
    part that is kept of what its own context adds to a log's KV, as `Patch.of` reads it. Raises ConfigError for what
    cannot be computed anew.
    """

    form: Form
    keep: Keep
    reads: Reads
    place: Place = "prefix"
    beside: Beside = "rivals"
    recompute: str = ""
    blanks: Blanks = "between"
    patch: str = ""

    def __post_init__(self) -> None:
        if not self.recompute:
            return
        if not re.fullmatch(r"(first|last):[1-9]\d*|most:([1-9]\d?|100)", self.recompute):
            raise ConfigError(f"{self.recompute!r} is no choice of tokens: give first:K, last:K, or most:P percent.")
        if self.reads in ("text", "dense", "same positions") or self.beside != "rivals":
            raise ConfigError("Only tokens of logs that are read apart, and stand beside others, are computed anew.")

    @property
    def columns(self) -> dict[str, str]:
        """What rows say of it."""
        return {name: getattr(self, name) for name in CHOICES}

    @property
    def policy(self) -> Policy:
        """The policy under which logs are encoded and contexts are built."""
        if self.reads == "text":
            return Policy("text", keep=self.keep, place=self.place)
        encode: Any = "kept" if self.reads == "none" else "responses"
        return Policy("kv", keep=self.keep, encode=encode, place=self.place, blanks=self.blanks)


CHOICES = [field.name for field in fields(Condition)]


def conditions() -> list[Condition]:
    """All that are measured; what matters most comes first."""

    def made(form: Form, keep: Keep, *reads: Reads, **others: Any) -> list[Condition]:
        return [Condition(form, keep, read, **others) for read in reads]

    def repaired(form: Form, *ways: str) -> list[Condition]:
        return [Condition(form, "all_rounds", "own", recompute=way) for way in ways]

    def patched(*parts: str) -> list[Condition]:
        return [Condition("terse", "last_round", "own", patch=part) for part in parts]

    found = made("restating", "all_rounds", "own", "text") + repaired("restating", "first:8")
    found += made("restating", "all_rounds", "own", beside="nothing")
    found += made("terse", "last_round", "own", "stranger", "none") + made("terse", "all_rounds", "text", "own")
    found += repaired("restating", "most:15") + made("terse", "last_round", "text", "filler")
    found += made("terse", "last_round", "own", beside="no logs")
    found += patched("from:50", "below:50", "rank:1", "rank:4")
    found += made("restating", "all_rounds", "own", beside="paragraph") + repaired("restating", "most:50")
    found += made("restating", "all_rounds", "same positions", "dense")
    found += made("restating", "all_rounds", "own", place="front")
    found += patched("from:25", "from:75", "below:25", "below:75", "rank:2")
    found += repaired("restating", "first:2") + made("restating", "last_round", "own", "text")
    found += repaired("restating", "last:8", "first:4", "most:30", "first:16")
    found += made("terse", "last_round", "own", place="front")
    found += made("restating", "last_round", "none", "stranger", "filler")
    found += made("restating", "all_rounds", "text", place="front")
    found += made("restating", "all_rounds", "own", blanks="around")
    found += made("terse", "all_rounds", "own", beside="nothing") + made("terse", "all_rounds", "dense")
    found += made("terse", "all_rounds", "own", place="front") + repaired("restating", "first:1", "most:70")
    return found + repaired("terse", "first:8", "most:15", "most:50")


def measure(lm: LM, groups: Sequence[Group], shown: Sequence[Condition], out: Path) -> pd.DataFrame:
    """Every group under every condition: a row per log that is asked for and place of it, written as they come.

    out: a file of JSON lines; what it holds is not computed again. Columns besides the condition's: `model` (with the
    groups' data set), `dtype`, `group`, `kind`, `asked` (number of the log that is asked for), `at` (where it stands),
    `chosen` (where the log stands whose answer is chosen; empty if it is not shown), `right`, `logprob` of the right
    answer (nats a token), `margin` over the best wrong one, and `share` of the logs' tokens that were computed anew, or
    of the numbers of their KV that a patch has. Raises ConfigError where `out` is another model's or groups are not of
    one data set, DataError where `out` is damaged, ContextTooLong.
    """
    names = {lm.name + (f", {group.data}" if group.data else "") for group in groups}
    if len(names) != 1:
        raise ConfigError("Give groups, and of one data set.")
    source = {"model": names.pop(), "dtype": str(lm.dtype).removeprefix("torch.")}
    rows = _kept(out, source)
    done, wanted = {_key(row) for row in rows}, {group.id: Probe(lm, group) for group in groups}
    with out.open("a", encoding="utf-8") as file:
        for condition in progress(shown, f"Competing logs, {source['model']}"):
            for id, probe in wanted.items():
                if (*condition.columns.values(), id) in done:
                    continue
                new = [source | condition.columns | row for row in probe.rows(condition)]
                file.write(json.dumps(new) + "\n")
                file.flush()
                rows += new
    asked = {(*condition.columns.values(), id) for condition in shown for id in wanted}
    return pd.DataFrame([row for row in rows if _key(row) in asked])


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a line of the file is of: a condition and a group."""
    return (*[row[name] for name in CHOICES], row["group"])


def _kept(out: Path, source: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of a file; a torn last line, of a run that was killed, is cut off."""
    out.parent.mkdir(parents=True, exist_ok=True)
    *lines, torn = (out.read_text(encoding="utf-8") if out.exists() else "").split("\n")
    if torn:
        write(out, "".join(f"{line}\n" for line in lines))
    with intact(out, "delete it, and its rows are measured anew"):
        rows = [row for line in lines for row in json.loads(line)]
        found = {tuple(row[name] for name in source) for row in rows if _key(row)}
    if others := found - {(*source.values(),)}:
        name, dtype = others.pop()
        raise ConfigError(
            f"{out} holds what {name} chose in {dtype}: give {' in '.join(source.values())} a file of its own."
        )
    return rows


@dataclass(frozen=True)
class Shown:
    """Logs in the order in which they stand; None: something else. parts: their KV; share: computed anew of it."""

    facts: tuple[Fact | None, ...]
    parts: tuple[Part, ...]
    share: float = 0.0


class Probe:
    """One group of logs, as one model reads them; what was encoded is kept for other conditions."""

    def __init__(self, lm: LM, group: Group) -> None:
        self.lm, self.group = lm, group
        self._read: dict[Context, KVBlock] = {}

    def rows(self, condition: Condition) -> Iterator[dict[str, Any]]:
        """The rows of `measure`, without the condition's columns."""
        asked = [
            (shown, number, fact)
            for shown in self.shown(condition)
            for number, fact in enumerate(self.group.facts)
            if fact in shown.facts
        ]
        found = self.logprobs(condition, [(shown.parts, fact) for shown, _, fact in asked])
        for (shown, number, fact), logprobs in zip(asked, found, strict=True):
            chosen = self.group.facts[max(range(RIVALS), key=logprobs.__getitem__)]
            places = dict(zip(shown.facts, _places(len(shown.facts)), strict=True))
            yield {
                "group": self.group.id,
                "kind": fact.kind,
                "asked": number,
                "at": places[fact],
                "chosen": places.get(chosen, ""),
                "right": chosen == fact,
                "logprob": logprobs[number],
                "margin": logprobs[number] - max(logprobs[:number] + logprobs[number + 1 :]),
                "share": shown.share,
            }

    def shown(self, condition: Condition) -> Iterator[Shown]:
        """Each order in which logs are shown: every log stands once in every place."""
        facts = self.group.facts
        if condition.beside == "rivals":
            yield from (self._together(condition, facts[start:] + facts[:start]) for start in range(RIVALS))
            return
        for fact in facts:
            own = () if condition.beside == "no logs" else (self.block(condition, fact),)
            if condition.beside == "paragraph":
                paragraph = Trace("paragraph", "", "", tuple(Round("", words) for words in UNRELATED), "")
                other = (self._encode(paragraph, condition.policy),)
                yield from (Shown((fact, None), own + other), Shown((None, fact), other + own))
            else:
                yield Shown((fact,), own)

    def _together(self, condition: Condition, facts: tuple[Fact, ...]) -> Shown:
        if condition.reads == "text":
            texts = SEPARATOR.join(kept_text(fact.log(condition.form), condition.keep) for fact in facts)
            return Shown(facts, (self._prefill(condition, self.lm.tokenize(texts)),))
        blocks = [self.block(condition, fact) for fact in facts]
        head = self.head(condition)
        start = len(head)
        if condition.reads == "dense":
            return Shown(facts, (self._dense(condition, blocks),))
        if condition.reads == "same positions":
            return Shown(facts, tuple(PlacedBlock(b, torch.arange(start, start + len(b))) for b in blocks))
        if condition.patch and not condition.recompute:
            patch = Patch.of(condition.patch, len(blocks[0].keys))
            return Shown(facts, tuple(blocks), patch.share(blocks[0]))
        if not condition.recompute:
            return Shown(facts, tuple(blocks))
        slots = self._anew(condition, blocks)
        whole = recompute(self.lm, [head, *blocks], [start + slot for slot in slots])
        return Shown(facts, (whole.slice(start, len(whole)),), len(slots) / (len(whole) - start))

    def _anew(self, condition: Condition, blocks: Sequence[KVBlock]) -> list[int]:
        """The slots to compute anew, counted from the first log's first; the first log has nothing in front of it."""
        how, _, number = condition.recompute.partition(":")
        if how == "most":
            far = deviations(KVBlock.concat(blocks), self._dense(condition, blocks))
            return sorted(far.argsort(descending=True)[: round(int(number) * len(far) / 100)].tolist())
        edges = pairwise(accumulate(map(len, blocks), initial=0))
        part = slice(int(number)) if how == "first" else slice(-int(number), None)
        return [slot for edge in [*edges][1:] for slot in range(*edge)[part]]

    def _dense(self, condition: Condition, blocks: Sequence[KVBlock]) -> KVBlock:
        """The same tokens read in one go."""
        return self._prefill(condition, torch.cat([block.ids for block in blocks]).tolist())

    def logprobs(self, condition: Condition, asking: Sequence[tuple[Sequence[Part], Fact]]) -> list[list[float]]:
        """Log-probability a token of each answer of the group, for pairs of what is injected and the log asked for."""
        answers = [self.lm.tokenize(f" {fact.answer}") for fact in self.group.facts]
        begins = [*dict.fromkeys(tuple(ids[:end]) for ids in answers for end in range(len(ids)))]
        asked = [self._context(condition, parts, fact) for parts, fact in asking]
        if len(begins) > 1:  # the answers' tokens share the KV of all others but the last
            for n, context in enumerate(asked):
                read = self.lm.encode(context, context.injected, context.injected + len(context.ids) - 1)
                asked[n] = Context(context.ids[-1:], (*context.blocks, read))
        contexts = [replace(context, ids=(*context.ids, *ids)) for context in asked for ids in begins]
        logprobs = self.lm.next_logits(contexts).float().log_softmax(dim=-1).unflatten(0, (len(asking), len(begins)))
        return [
            [
                sum(float(row[begins.index(tuple(ids[:i])), ids[i]]) for i in range(len(ids))) / len(ids)
                for ids in answers
            ]
            for row in logprobs
        ]

    def _context(self, condition: Condition, parts: Sequence[Part], asked: Fact) -> Context:
        question = Question(self.group.id, asked.question, (asked.answer,))
        return self._builder(condition, asked.opening).build(question, asked.question, parts)

    def block(self, condition: Condition, fact: Fact) -> KVBlock:
        """A log's KV."""
        firsts = {"stranger": self.group.stranger.first, "filler": fact.filler}
        block = self._encode(fact.log(condition.form, firsts.get(condition.reads)), condition.policy)
        if not condition.patch:
            return block
        alone = self._encode(fact.log(condition.form), replace(condition, reads="none").policy)
        return Patch.of(condition.patch, len(block.keys)).apply(alone, block)

    def head(self, condition: Condition) -> KVBlock:
        """What stands in front of the logs: the prompt's shared head, or nothing."""
        head = self._builder(condition).encoder.head_block()
        return head if condition.place == "prefix" else head.slice(0, 0)

    def _encode(self, trace: Trace, policy: Policy) -> KVBlock:
        """As `Encoder.encode`; policies that read the same words share the prefill."""
        reading = KVContextBuilder(self.lm, PROMPT, policy).encoder.read(trace, policy)
        start = reading.context.injected
        if reading.context not in self._read:
            end = start + len(reading.context.ids)
            self._read[reading.context] = self.lm.encode(reading.context, start, end)
        return self._read[reading.context].take([slot - start for slot in reading.kept])

    def _prefill(self, condition: Condition, ids: Sequence[int]) -> KVBlock:
        """KV of words behind what stands in front of the logs."""
        head = self.head(condition)
        context = Context(tuple(ids), (head,) if len(head) else ())
        if context not in self._read:
            self._read[context] = self.lm.encode(context, len(head), len(head) + len(ids))
        return self._read[context]

    def _builder(self, condition: Condition, opening: str = "") -> KVContextBuilder:
        return KVContextBuilder(self.lm, replace(PROMPT, opening=opening), condition.policy)


def deviations(apart: KVBlock, dense: KVBlock) -> torch.Tensor:
    """Squared distance of each token's KV from dense prefill in the second layer, as in CacheBlend: `[tokens]`."""
    layer = min(1, len(apart.keys) - 1)
    gaps = (getattr(apart, name)[layer] - getattr(dense, name)[layer] for name in ("keys", "values"))
    return sum((gap.float().square().sum(dim=(0, 2)) for gap in gaps), torch.zeros(len(apart)))


def _places(logs: int) -> list[str]:
    """Names of the places of as many logs."""
    return ["alone"] if logs == 1 else [POSITIONS[0], *[POSITIONS[1]] * (logs - 2), POSITIONS[-1]]
