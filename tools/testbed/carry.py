"""Two models for the carry world, continued from the shipped one: logs as text, or hidden but for their last rounds.

The second is the positive control of the study: it can answer only from what the last round's tokens carry.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from lagkit.datasets.world.carry import LOGS, RUNGS, Scoped, scope
from lagkit.datasets.world.world import ask, make_world, plain, tell, trivia
from lagkit.logs.encode import SEPARATOR
from lagkit.types import Passage, Question
from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from tools.testbed.packing import IGNORED, Batch, make_batch
from tools.testbed.rounds import PROMPT, Lesson, chat
from tools.testbed.train import Run, TrainConfig, finish

SHIPPED = Path(__file__).parents[2] / "data" / "testbed" / "model"
_LARGE = 160  # entities of a world in which three logs with three facts each are always found
_GAP = 60  # positions that may lie between the logs and the prompt


class CarryConfig(TrainConfig):
    """Settings of a continued training run.

    hidden_rounds: train the positive control: logs do not see each other, and what stands behind them sees the last
    round of each alone. ordinary: every so many steps a batch of the shipped model's own training, lest it forgets.
    """

    what: ClassVar[str] = "carry training settings"

    hidden_rounds: bool = False
    ordinary: PositiveInt = 8
    steps: PositiveInt = 300
    drill_steps: NonNegativeInt = 0
    easy_steps: NonNegativeInt = 0
    rows: PositiveInt = 8
    tokens: PositiveInt = 256
    rate: PositiveFloat = 1e-3
    warm_up: PositiveInt = 20
    save_every: PositiveInt = 20
    check_every: PositiveInt = 50

    @model_validator(mode="after")
    def _of_use(self) -> CarryConfig:
        fields = type(self).model_fields
        for name in ("hidden", "layers", "heads", "inner", "drill_steps", "easy_steps"):
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"`{name}` does nothing where the shipped model is continued: leave it out")
        return self


@dataclass(frozen=True)
class LogBatch(Batch):
    """A batch whose stems begin with logs.

    log: the number of the log of each token, from 1 on, 0 elsewhere. early: what only the log's own tokens see, if
    `apart`, and then logs do not see each other either. Both `[rows, tokens]`.
    """

    log: torch.Tensor
    early: torch.Tensor
    apart: bool

    def mask(self) -> torch.Tensor:
        """As `Batch.mask`, less what is hidden."""
        seen = super().mask()
        if not self.apart:
            return seen
        here, there = self.log[:, None, :, None], self.log[:, None, None, :]
        strangers = (here != there) & (here > 0) & (there > 0)
        return seen & ~strangers & ~((here == 0) & self.early[:, None, None, :])

    def to(self, device: torch.device | str) -> LogBatch:
        """The same batch elsewhere."""
        moved = super().to(device)
        return LogBatch(**vars(moved), log=self.log.to(device), early=self.early.to(device), apart=self.apart)


def log_batch(seed: str, tokenizer: PreTrainedTokenizerBase, *, rows: int, tokens: int, apart: bool) -> LogBatch:
    """A batch drawn by `seed`: in each row three logs under one alias, and a branch for each fact that they tell."""
    made = [_row(f"{seed}.{row}", tokenizer, tokens) for row in range(rows)]
    ids, positions, labels, branch, log, early = (torch.tensor([row[0][i] for row in made]) for i in range(6))
    return LogBatch(ids, positions, labels, branch, tuple(row[1] for row in made), log, early.bool(), apart)


def _row(seed: str, tokenizer: PreTrainedTokenizerBase, tokens: int) -> tuple[list[list[int]], tuple[Lesson, ...]]:
    rng = random.Random(f"carry lesson {seed}")
    name, size, rung, facts = f"carry lesson {seed}", rng.randint(40, 80), rng.choice(RUNGS), rng.choice((1, 2, 3))
    try:
        scoped = scope(make_world(name, size), rung, rng, facts=facts)
    except ConfigError:  # a small world may have too few facts that differ
        scoped = scope(make_world(name, _LARGE), rung, rng, facts=facts)
    ids, log, early = _logs(scoped, tokenizer)
    asked = [(own, fact) for own in range(LOGS) for fact in scoped.facts[own]]
    rng.shuffle(asked)
    titles = rng.sample(scoped.entities, rng.randint(0, 2))
    passages = [Passage("", name, tell(trivia(name, 3, rng), rng)) for name in titles]
    gap = rng.randrange(_GAP) if rng.random() < 0.5 else 0
    turns = []
    for _, fact in asked:
        question = ask(fact.subject, (fact.relation,))
        sentence = fact.sentence(plain(fact.relation))
        before = "".join(chat(tokenizer, PROMPT.system, PROMPT.user_turn(Question("", question, ()), passages)))
        turns.append((before, f"{question} {sentence} <ans> {fact.object}</ans>"))
    stem, _, _ = turns[0][0].partition("Question:")
    prompt = _ids(tokenizer, stem)
    start = len(ids) + gap
    columns = [ids + prompt, [*range(len(ids)), *range(start, start + len(prompt))]]
    columns += [[IGNORED] * len(columns[0]), [0] * len(columns[0]), log + [0] * len(prompt), early + [0] * len(prompt)]
    lessons: list[Lesson] = []
    for before, reply in turns:
        asks, said = _ids(tokenizer, before[len(stem) :]), [*_ids(tokenizer, reply), tokenizer.eos_token_id]
        size = len(asks) + len(said)
        if len(columns[0]) + size > tokens:
            break
        lessons.append(Lesson("", before, reply, 1, scoped.rung))
        first = start + len(prompt)
        labels = [IGNORED] * (len(asks) - 1) + said + [IGNORED]
        branch = [len(lessons)] * size
        more = (asks + said, [*range(first, first + size)], labels, branch, [0] * size, [0] * size)
        columns = [column + new for column, new in zip(columns, more, strict=True)]
    fill = (tokenizer.pad_token_id, 0, IGNORED, -1, 0, 0)
    missing = tokens - len(columns[0])
    return [column + [pad] * missing for column, pad in zip(columns, fill, strict=True)], tuple(lessons)


def _logs(scoped: Scoped, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[int]]:
    """Ids of the logs as text, the number of each token's log, and whether it is early: not of a last round."""
    ids: list[int] = []
    log: list[int] = []
    early: list[int] = []
    for own in range(LOGS):
        rounds = scoped.rounds(own)
        for i, said in enumerate(rounds):
            words = _ids(tokenizer, said)
            last = i == len(rounds) - 1
            blank = [] if last and own == LOGS - 1 else _ids(tokenizer, SEPARATOR)
            ids += words + blank
            log += [own + 1] * len(words + blank)
            early += [int(not last)] * len(words) + [1] * len(blank)
    return ids, log, early


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class _CarryRun(Run):
    """Continues from the shipped model, on one core: in fp32, and without Muon, whose own steps are in bf16."""

    config: CarryConfig
    half = False

    def new_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for all."""
        adam = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95), weight_decay=self.config.weight_decay)
        adam.param_groups[0]["scale"] = 1.0
        return [adam]

    def first_model(self) -> LlamaForCausalLM:
        """The shipped model."""
        torch.manual_seed(self.config.seed)
        model: Any = LlamaForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
        return model  # type: ignore[no-any-return]

    def batch(self, step: int) -> Batch:
        """Logs under an alias; now and then what the shipped model has learned."""
        config = self.config
        if step % config.ordinary == config.ordinary - 1:
            return make_batch(f"{config.seed}.{step}", self.tokenizer, rows=config.rows // 2, tokens=384)
        return self._drawn(f"{config.seed}.{step}")

    def check_batch(self, number: int) -> Batch:
        """Logs under an alias that are never learned from."""
        return self._drawn(f"check.{number}")

    def _drawn(self, seed: str) -> LogBatch:
        config = self.config
        return log_batch(seed, self.tokenizer, rows=config.rows, tokens=config.tokens, apart=config.hidden_rounds)


def train(out: Path | str, config: CarryConfig) -> Path:
    """Train up to `config.steps`, resuming from what is in `out`; as `tools.testbed.train.train`."""
    return finish(_CarryRun, at(out), config)
