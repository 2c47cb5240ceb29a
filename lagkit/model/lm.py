"""A language model that can be prompted with KV: load, tokenise, prefill, and greedy generation in ragged batches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lagkit.model.batch import BatchCache, groups
from lagkit.model.block_cache import BlockCache
from lagkit.model.cache import build_cache, read_cache
from lagkit.model.context import Context, Generation
from lagkit.model.devices import best_device, check_load, present_device, slow, torch_dtype
from lagkit.model.hub import parameters, resolve_model
from lagkit.model.kv import KVBlock
from lagkit.model.prompts.actions import end_of_action, opened
from lagkit.model.prompts.templates import PLAIN_CHAT, TODAY, asks_for_date, dated
from lagkit.model.prompts.untrusted import breaker, marks
from lagkit.model.rope import probe
from lagkit.model.tokens import digest, shortest_prefix, speaker, vocabulary_hash
from lagkit.model.upcast import upcast
from lagkit.types import Usage
from lagkit.util.errors import ConfigError, ContextTooLong, ModelNotFound

# A stop string spans few tokens: decoding this many of the newest is enough to see one end.
_STOP_WINDOW = 12

# Rows that have ended leave the batch once they are half of it: the others are moved to their places.
_CROWDED = 0.5


class LM:
    """A causal language model with its tokenizer and the re-alignment that the load-time probe found to be exact.

    `model`, `tokenizer`: of transformers. `realigner`: turns keys to new positions. `block_cache`: re-aligned blocks
    in memory. `load` gets one by name; `encode` reads tokens into KV, `generate` continues contexts, greedily.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """Wrap a loaded model. Raises UnsupportedModel when keys cannot be re-aligned."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.tokenizer.chat_template = dated(tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN_CHAT)
        self.realigner = probe(model)
        self.block_cache = BlockCache(pin=model.device.type == "cuda")
        self._heads: dict[tuple[int, ...], KVBlock] = {}

    @classmethod
    def load(cls, name: str, *, device: str | None = None, dtype: str | None = None) -> LM:
        """Load by alias (`smollm2`, `qwen`), hub id or folder; warns of a large model that will be slow on a CPU.

        device: `cpu`, `cuda`, `cuda:N` or `mps`; by default the best there is. dtype: `float32` or `bfloat16`
        (default). Raises ConfigError for others, before anything is fetched; ModelNotFound, UnsupportedModel, and
        MachineTooSmall.
        """
        device = best_device() if device is None else present_device(device)
        numbers = torch_dtype(dtype or "bfloat16")
        source = resolve_model(name)
        try:
            if device == "cpu":
                check_load(name, parameters(source), numbers)
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=numbers)
        except (OSError, ValueError, SafetensorError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ModelNotFound(f"Model {name!r} could not be loaded from {source}: {first_line}") from error
        # Written by tools.testbed.train; other models come without it.
        expected = getattr(model.config, "tokenizer_hash", None)
        if expected not in (None, vocabulary_hash(tokenizer)):
            raise ModelNotFound(
                f"The folder {source} does not hold one model: its tokenizer is not the one that its model was trained "
                "with. Copy model and tokenizer from the same training run."
            )
        if device == "cpu" and slow(numbers):
            upcast(model)
        return cls(model.to(device), tokenizer, name)  # type: ignore[arg-type]  # a wrapper that hides the types

    def __repr__(self) -> str:
        config = self.model.config
        return f"LM({self.name!r}, {config.model_type}, {str(self.dtype).removeprefix('torch.')}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The model's and so the blocks' number format."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def context_length(self) -> int:
        """Positions that the model was made for, or those within the RoPE regime in which re-alignment is exact."""
        longest: int = self.model.config.max_position_embeddings
        return min(longest, self.realigner.limit) if self.realigner.limit else longest

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Identifies everything that KV depends on: architecture, RoPE, tokenizer and (by a sample) the weights."""
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version", "dtype", "architectures"):
            config.pop(key, None)
        rope = config.pop("rope_parameters", None)
        weights = [p.detach().flatten()[:256].float().cpu().numpy().tobytes() for p in self.model.parameters()]
        return {
            "name": Path(self.name).name,
            "config": digest(json.dumps(config, sort_keys=True, default=str).encode()),
            "rope": digest(json.dumps(rope, sort_keys=True, default=str).encode()),
            "tokenizer": vocabulary_hash(self.tokenizer),
            "weights": digest(b"".join(weights)),
            # Part of the heads of models whose template writes it.
            **({"date": TODAY.date().isoformat()} if asks_for_date(self.tokenizer.chat_template) else {}),
        }

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens included if it spells them: data goes through `plain` or `chat` first."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @cached_property
    def plain(self) -> Callable[[str], str]:
        """Text to text in which nothing is a special token: `<|im_end|>` becomes `< |im_end|>` (`untrusted`)."""
        return breaker(marks(self.tokenizer))

    def chat(self, messages: Sequence[dict[str, str]], *, open_turn: bool) -> str:
        """Messages, made `plain`, through the model's own chat template; `open_turn` starts the assistant's turn.

        Where it knows no system message, its words go in front of the first user turn. Raises ConfigError where it
        refuses the messages all the same.
        """
        messages = [{**message, "content": self.plain(message["content"])} for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn))
        except TemplateError as error:
            system, *rest = messages
            if system["role"] != "system":
                raise ConfigError(f"The chat template of {self.name} refuses a conversation: {error}") from error
            if not rest:
                return ""
            first = {**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}
            return self.chat([first, *rest[1:]], open_turn=open_turn)

    @cached_property
    def opens(self) -> str:
        """The mark of reasoning with which the chat template opens the assistant's turn; empty for most models."""
        return opened(self.chat([{"role": "user", "content": "?"}], open_turn=True))

    def check(self, context: Context, new_tokens: int) -> None:
        """Raise ContextTooLong if the context and `new_tokens` more do not fit."""
        total = context.injected + len(context.ids) + new_tokens
        if total > self.context_length:
            raise ContextTooLong(
                f"{context.injected} injected + {len(context.ids)} prompt + {new_tokens} new tokens are {total}, and "
                f"{self.name} holds {self.context_length}: inject fewer logs, or lower max_new_tokens."
            )

    def head_block(self, ids: Sequence[int]) -> KVBlock:
        """The KV of a prompt's shared head (BOS, system message, worked examples), prefilled once per head."""
        key = tuple(ids)
        if key not in self._heads:
            # A forward pass needs a token, and some chats share none.
            self._heads[key] = self.encode(Context(key or (0,)), 0, len(key))
        return self._heads[key]

    @torch.inference_mode()
    def logits(self, context: Context) -> torch.Tensor:
        """Logits `[tokens, vocab]` of the context's ids, given its injected blocks. Raises ContextTooLong."""
        logits: torch.Tensor = self.model(**self._inputs([context])).logits
        return logits[0]

    @torch.inference_mode()
    def next_logits(self, contexts: Sequence[Context]) -> torch.Tensor:
        """Logits `[contexts, vocab]` of the token behind each context, in one pass. Raises ContextTooLong."""
        return self._prefill(contexts, self._inputs(contexts))

    @torch.inference_mode()
    def encode(self, context: Context, start: int, stop: int) -> KVBlock:
        """The KV of the context's tokens `[start, stop)`, counted from the first injected; raises ContextTooLong."""
        inputs = self._inputs([context])
        self.model.base_model(**inputs)
        ids = torch.cat([*(block.ids.cpu() for block in context.blocks), torch.tensor(context.ids, dtype=torch.long)])
        return read_cache(inputs["past_key_values"], self.realigner, ids[start:stop], start, stop)

    def _inputs(self, contexts: Sequence[Context]) -> dict[str, Any]:
        """Arguments of one plain forward pass; its cache then holds the injected and the prefilled tokens.

        Rows are padded left of what is injected and right of the prompt, so that none has a hole.
        """
        for context in contexts:
            self.check(context, 0)
        lengths = torch.tensor([[len(context.ids)] for context in contexts])
        injected = torch.tensor([[context.injected] for context in contexts])
        longest = int(lengths.max())
        cache, prefix = build_cache([context.parts for context in contexts], self.model, self.realigner, longest)
        places = torch.arange(longest)[None]
        ids = torch.zeros(len(contexts), longest, dtype=torch.long)
        for row, context in zip(ids, contexts, strict=True):
            row[: len(context.ids)] = torch.tensor(context.ids, dtype=torch.long)
        # Padding repeats the last position: a farther one could change how RoPE scales for the whole batch.
        positions = injected + torch.minimum(places, (lengths - 1).clamp(min=0))
        mask = torch.cat([prefix, (places < lengths).to(self.device, prefix.dtype)], dim=1)
        ids, positions = ids.to(self.device), positions.to(self.device)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}

    def _prefill(self, contexts: Sequence[Context], inputs: dict[str, Any]) -> torch.Tensor:
        """Read contexts into the cache of their `_inputs`; the logits `[contexts, vocab]` behind each one's end."""
        ends, rows = torch.tensor([len(context.ids) - 1 for context in contexts]).unique(return_inverse=True)
        logits: torch.Tensor = self.model(**inputs, logits_to_keep=ends.to(self.device)).logits
        return logits[torch.arange(len(contexts)), rows]

    def generate(
        self, contexts: Sequence[Context], max_new_tokens: int, *, stop: Sequence[str] = (), batch_size: int = 16
    ) -> list[Generation]:
        """Greedy continuations, in the order of `contexts`; each row has its own injected blocks, or none.

        Raises ContextTooLong before anything is computed if one of the contexts is too long.
        """
        for context in contexts:
            self.check(context, max_new_tokens)
        # Rows of similar length together, as shorter ones are padded to the longest, and long ones first: what others
        # need then fits into memory that these have freed.
        order = sorted(range(len(contexts)), key=lambda i: -contexts[i].injected - len(contexts[i].ids))
        done: dict[int, Generation] = {}
        for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            batch = self._generate_batch([contexts[i] for i in rows], max_new_tokens, stop)
            done |= dict(zip(rows, batch, strict=True))
        return [done[i] for i in range(len(contexts))]

    @torch.inference_mode()
    def _generate_batch(self, contexts: list[Context], max_new_tokens: int, stop: Sequence[str]) -> list[Generation]:
        """Prefill some rows at a time, then decode all together."""
        began = time.perf_counter()
        batch = BatchCache([context.injected + len(context.ids) for context in contexts], max_new_tokens)
        read, first = list[int](), list[tuple[torch.Tensor, torch.Tensor]]()
        for group in groups(c.prefix_cache.resume(c) if c.prefix_cache else c for c in contexts):
            read += [len(context.ids) for context in group]
            first.append(self._read(group, batch))
        new = self._decode(contexts, batch, first, max_new_tokens, stop)
        kept = {row: context.prefix_cache for row, context in enumerate(contexts) if context.prefix_cache}
        for row, cut in batch.cut([*kept]).items():
            kept[row].keep(contexts[row], cut)
        seconds = (time.perf_counter() - began) / len(contexts)
        return [self._finish(*row, stop, seconds) for row in zip(contexts, read, new, strict=True)]

    def _read(self, group: list[Context], batch: BatchCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Prefill contexts into the next rows of a batch; `_greedy`'s tokens behind each one's end.

        `group` is emptied: it holds the prefix caches from which its contexts go on.
        """
        inputs = self._inputs(group)
        ends = inputs["attention_mask"].shape[1] - inputs["input_ids"].shape[1]
        spans = [(ends - context.injected, ends + len(context.ids)) for context in group]
        first = _greedy(self._prefill(group, inputs))
        group.clear()
        batch.fill(inputs["past_key_values"], spans)
        return first

    def _decode(
        self,
        contexts: Sequence[Context],
        batch: BatchCache,
        first: Sequence[tuple[torch.Tensor, torch.Tensor]],
        max_new_tokens: int,
        stop: Sequence[str],
    ) -> list[list[tuple[int, float]]]:
        """Greedy tokens of each row, with their log-probabilities, behind the contexts in the batch.

        `first`: those that `_read` told. Rows that end leave the batch: else the longest would cost as if all were as
        long.
        """
        new: list[list[tuple[int, float]]] = [[] for _ in contexts]
        rows, (cache, mask) = batch.rows, batch.open()
        ended: set[int] = set()
        last, logprobs = map(torch.cat, zip(*first, strict=True))
        for left in reversed(range(max_new_tokens)):
            for row, token, logprob in zip(rows, last.tolist(), logprobs.tolist(), strict=True):
                if row not in ended:
                    new[row].append((token, logprob))
                    ended |= {row} if self._has_ended(new[row], stop, contexts[row].said) else set()
            going = [i for i, row in enumerate(rows) if row not in ended]
            if not (going and left):
                break
            if len(going) <= _CROWDED * len(rows):
                batch.narrow(cache, going)
                rows, mask, last = batch.rows[: len(going)], mask[going], last[going]
            last = last[:, None]
            mask = torch.cat([mask, torch.ones_like(last)], dim=1)
            positions = mask.sum(dim=1, keepdim=True) - 1
            inputs = {"input_ids": last, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
            last, logprobs = _greedy(self.model(**inputs).logits[:, -1])
        return new

    def _has_ended(self, new: list[tuple[int, float]], stop: Sequence[str], said: str) -> bool:
        """Whether the newest token is an end token, or completes a stop string that ends an action."""
        if new[-1][0] in self._end_ids:
            return True
        ids = [token for token, _ in new]
        tail = self._text_of(ids[-_STOP_WINDOW:])
        return any(s in tail for s in stop) and end_of_action(self._text_of(ids), stop, said) is not None

    def _finish(
        self, context: Context, read: int, made: list[tuple[int, float]], stop: Sequence[str], seconds: float
    ) -> Generation:
        """Cut a row at its end token, or behind its stop string; `read` of the context's ids were computed."""
        new = [token for token, _ in made]
        ends = [i for i, token in enumerate(new) if token in self._end_ids]
        spent: Sequence[int] = new[: ends[0] + 1] if ends else new
        text = self._text_of(spent[:-1] if ends else spent)
        if (end := end_of_action(text, stop, context.said)) is not None:
            text = text[:end]
            spent = shortest_prefix(self._text_of, spent, text)
        usage = Usage(len(context.ids), context.injected, len(spent), seconds, len(context.ids) - read)
        return Generation(text, tuple(spent), usage, tuple(logprob for _, logprob in made[: len(spent)]))

    def confidence(self, said: Generation, start: int, stop: int) -> float | None:
        """The mean log-probability of the tokens of `said.text[start:stop]`; None where it is not known, or empty."""
        first, last = (len(shortest_prefix(self._text_of, said.ids, said.text[:end])) for end in (start, stop))
        logprobs = said.logprobs[first:last]
        return sum(logprobs) / len(logprobs) if logprobs else None

    @cached_property
    def _text_of(self) -> Callable[[Sequence[int]], str]:
        """Generated token ids to what they say (`tokens.speaker`)."""
        return speaker(self.tokenizer)

    @cached_property
    def _end_ids(self) -> list[int]:
        """End tokens of the model's generation config and of its tokenizer."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return sorted({i for i in (*ids, self.tokenizer.eos_token_id) if i is not None})


def _greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token of each row of logits `[batch, vocab]`, and its log-probability, in fp32."""
    logits = logits.float()
    best, tokens = logits.max(dim=-1)
    # In place: those of a batch take as much memory as the KV of many tokens.
    return tokens, logits.sub_(best[:, None]).exp_().sum(dim=-1).log().neg()
