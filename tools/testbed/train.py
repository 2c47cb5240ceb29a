"""Training the testbed's model: a small Llama learns rounds of the protocol as plain text; a killed run resumes."""

from __future__ import annotations

import csv
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from filelock import FileLock
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from lagkit.model.devices import best_device
from lagkit.model.tokens import vocabulary_hash
from lagkit.runs.claim import LOCK, alone
from lagkit.util.errors import ConfigError
from lagkit.util.files import replacing
from lagkit.util.paths import at, refuse_links
from lagkit.util.progress import Progress, say
from lagkit.util.settings import Settings
from tools.testbed import checkpoint
from tools.testbed.packing import IGNORED, Batch, make_batch
from tools.testbed.rounds import Stage
from tools.testbed.tokenizer import make_tokenizer

# Of a run that is resumed.
_MAY_CHANGE = {"steps", "drill_steps", "easy_steps", "decay", "compile", "save_every", "check_every"}

_CHECK_BATCHES = 6
_ROTATIONS = 6  # how many of RoPE's rotations tell the heads of the first layer where to look at the start ...
_SHARPNESS = 2.0  # ... and how strongly


class TrainConfig(Settings):
    """Settings of a training run. `decay` is the share of the steps, at the end, in which the learning rate falls to 0.

    compile: let torch compile the model, which needs a C++ compiler and pays after some hundred steps.
    """

    what: ClassVar[str] = "training settings"

    steps: PositiveInt = 3200
    drill_steps: NonNegativeInt = 900
    easy_steps: NonNegativeInt = 400
    rows: PositiveInt = 20
    tokens: PositiveInt = 384
    hidden: PositiveInt = 192
    layers: PositiveInt = 6
    heads: PositiveInt = 3
    inner: PositiveInt = 512
    rate: PositiveFloat = 2e-3
    warm_up: PositiveInt = 100
    decay: float = Field(default=0.5, gt=0, le=1)
    weight_decay: NonNegativeFloat = 0.01
    seed: int = 0
    save_every: PositiveInt = 50
    check_every: PositiveInt = 100
    compile: bool = False

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self

    def stage_at(self, step: int) -> Stage:
        """What is learned at a step: first to find facts, then short rounds, then all."""
        if step < self.drill_steps:
            return "drill"
        return "easy" if step < self.drill_steps + self.easy_steps else "full"

    def rate_at(self, step: int) -> float:
        """The learning rate: a linear rise, a plateau, and a linear fall to 0 at the last step."""
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.rate * min(1.0, (step + 1) / self.warm_up, falling)


def new_model(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A model with random weights, drawn by the seed, but for the first layer's attention (`_look_back`)."""
    torch.manual_seed(config.seed)
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.inner,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(llama)
    _look_back(model)
    return model


@torch.no_grad()
def _look_back(model: LlamaForCausalLM) -> None:
    """Start with heads in the first layer of which the n-th attends to the token n places back.

    To find a fact, a token must know its neighbours (who, which relation) before it can be matched. From random weights
    that is found by chance after thousands of steps; with this start, the matching alone has to be learned. Scores that
    depend on distance alone need a part that all tokens share, here the first number of each embedding, which queries
    and keys turn into the fastest rotations of RoPE, keys turned on by n places.
    """
    embeddings, first = model.model.embed_tokens.weight, model.model.layers[0].self_attn
    # Larger than usual: what a token is must not drown in what the layers add, or copying is learned late.
    embeddings.mul_(5)
    embeddings[:, 0] = embeddings.norm(dim=1).mean() / 2
    size = first.head_dim
    half = size // 2
    speeds = first.config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    fast = torch.arange(min(half, _ROTATIONS))
    for head in range(first.config.num_attention_heads):
        angles = speeds[fast] * (head + 1)
        rows = head * size + fast
        for weight in (first.q_proj.weight, first.k_proj.weight):
            weight[head * size : (head + 1) * size] *= 0.1
        first.q_proj.weight[rows, 0] = _SHARPNESS
        first.k_proj.weight[rows, 0] = _SHARPNESS * angles.cos()
        first.k_proj.weight[rows + half, 0] = _SHARPNESS * angles.sin()
    for weight, scale in ((first.v_proj.weight, 1.0), (first.o_proj.weight, 0.1)):
        torch.nn.init.orthogonal_(weight, gain=scale)


def train(out: Path | str, config: TrainConfig) -> Path:
    """Train up to `config.steps`, resuming from what is in `out`; returns the folder of the finished model.

    `out` holds `checkpoint.safetensors`, `log.csv` (a row every `check_every` steps) and, at the end, `model/` in bf16.
    Raises ConfigError when `out` holds a run with other settings, DataError when its checkpoint cannot be read, and
    RunLocked while another process trains there.
    """
    return finish(Run, at(out), config)


def finish(kind: type[Run], out: Path, config: TrainConfig) -> Path:
    """As `train`, by another kind of run."""
    with alone(FileLock(out / LOCK)):
        run = kind(out, config)
        with Progress("Training", config.steps) as shown:
            shown.update(run.step)
            while run.step < config.steps:
                run.advance()
                shown.update()
        return run.export()


class Run:
    """A training run and its folder; a subclass may start from another model or learn from other batches.

    half: whether to compute in bf16. On one core without instructions for it that takes ten times as long.
    """

    half = True

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self.out, self.config, self.step = out, config, 0
        self.device = best_device()
        self.tokenizer = make_tokenizer()
        model = self.first_model()
        self.model: LlamaForCausalLM = model.to(self.device)  # type: ignore[arg-type]  # a wrapper that hides the types
        self.optimizers = self.new_optimizers()
        self._checkpoint = out / "checkpoint.safetensors"
        self.rows: list[dict[str, Any]] = []
        refuse_links(out, ConfigError, depth=2)
        self._began, self._tokens, self._loss = time.perf_counter(), 0, 0.0
        self._resume()
        self._base = torch.compile(self.model.model, dynamic=False) if config.compile else self.model.model

    def first_model(self) -> LlamaForCausalLM:
        """The model before the first step."""
        return new_model(self.config, self.tokenizer)

    def new_optimizers(self) -> list[torch.optim.Optimizer]:
        """What learns; the rate of each is that of the step times its `scale`."""
        return _optimizers(self.model, self.config)

    def batch(self, step: int) -> Batch:
        """What is learned from at a step."""
        config, stage = self.config, self.config.stage_at(step)
        tokens = config.tokens if stage == "full" else config.tokens // 2
        return make_batch(f"{config.seed}.{step}", self.tokenizer, rows=config.rows, tokens=tokens, stage=stage)

    def check_batch(self, number: int) -> Batch:
        """One of the batches that a check asks about."""
        return make_batch(f"check.{number}", self.tokenizer, rows=self.config.rows, tokens=self.config.tokens)

    def advance(self) -> None:
        """One step; saves and checks when it is time."""
        config = self.config
        batch = self.batch(self.step)
        loss = self._loss_of(self._scores(batch.to(self.device)), batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.rate_at(self.step) * group["scale"]
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self._loss += loss.item()
        self._tokens += batch.ids.numel()
        if self.step % config.check_every == 0 or self.step == config.steps:
            self._check()
        if self.step % config.save_every == 0 or self.step == config.steps:
            self._save()

    def _scores(self, batch: Batch) -> torch.Tensor:
        """Logits `[learned tokens, vocab]`."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            hidden = self._base(
                input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask(), use_cache=False
            ).last_hidden_state
            scores: torch.Tensor = self.model.lm_head(hidden[batch.labels != IGNORED])
            return scores.float()

    def _loss_of(self, scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy(scores, batch.labels[batch.labels != IGNORED].to(scores.device))

    @torch.no_grad()
    def _check(self) -> None:
        """Note the mean loss and how many unseen rounds are right to the last token, by kind and hops."""
        right: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        for i in range(_CHECK_BATCHES):
            batch = self.check_batch(i)
            for name, ok in _outcomes(batch, self._scores(batch.to(self.device)).argmax(-1).cpu()):
                right[name] += ok
                asked[name] += 1
        steps = self.step - (self.rows[-1]["step"] if self.rows else 0)
        seconds = time.perf_counter() - self._began
        row = {
            "step": self.step,
            "loss": round(self._loss / steps, 4),
            "rate": round(self.config.rate_at(self.step), 6),
            "tokens_per_second": round(self._tokens / seconds),
            **{name: round(right[name] / asked[name], 3) for name in sorted(asked)},
        }
        self.rows.append(row)
        self._began, self._tokens, self._loss = time.perf_counter(), 0, 0.0
        say("  ".join(f"{name} {value}" for name, value in row.items()))

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        saved = checkpoint.read_facts(self._checkpoint)
        now = self.config.model_dump()
        changed = [k for k, v in now.items() if k not in _MAY_CHANGE and saved["config"][k] != v]
        if changed:
            what = ", ".join(f"{k} was {saved['config'][k]} and is {now[k]}" for k in changed)
            raise ConfigError(f"{self.out} holds a run with other settings ({what}): choose another folder.")
        checkpoint.restore(self._checkpoint, self.model, self.optimizers)
        self.step, self.rows, self._loss = saved["step"], saved["rows"], saved["loss"]
        say(f"Resuming at step {self.step}.")

    def _save(self) -> None:
        facts = {"config": self.config.model_dump(), "step": self.step, "rows": self.rows, "loss": self._loss}
        checkpoint.save(self._checkpoint, self.model, self.optimizers, facts)
        if self.rows:
            with replacing(self.out / "log.csv") as aside, aside.open("w", newline="", encoding="utf-8") as stream:
                names = dict.fromkeys(name for row in self.rows for name in row)
                writer = csv.DictWriter(stream, list(names), restval="")
                writer.writeheader()
                writer.writerows(self.rows)

    def export(self) -> Path:
        """The model in bf16 with its tokenizer, as transformers saves them; written aside and renamed."""
        folder, aside = self.out / "model", self.out / "model.new"
        self.model.config.tokenizer_hash = vocabulary_hash(self.tokenizer)
        self.model.bfloat16().save_pretrained(aside)
        self.tokenizer.save_pretrained(aside)
        shutil.rmtree(folder, ignore_errors=True)
        return aside.rename(folder)


def _optimizers(model: LlamaForCausalLM, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learns this task in fewer steps, and AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    # By short trials: at three times the rate, objects are copied sooner and subjects are never told apart.
    muon.param_groups[0]["scale"], adam.param_groups[0]["scale"] = 1.0, 2.0
    return [muon, adam]


def _outcomes(batch: Batch, predicted: torch.Tensor) -> Iterable[tuple[str, bool]]:
    """For each round its kind and hops, and whether each token of the reply is the likeliest: what greedy
    decoding would say then."""
    learned = batch.labels != IGNORED
    right = torch.ones_like(batch.ids, dtype=torch.bool)
    right[learned] = predicted == batch.labels[learned]
    for row, lessons in enumerate(batch.lessons):
        for i, lesson in enumerate(lessons, 1):
            name = f"{lesson.kind}_{lesson.hops}" if lesson.kind in ("answer", "search", "notes") else lesson.kind
            yield name, bool(right[row, batch.branch[row] == i].all())
