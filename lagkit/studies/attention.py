"""Attention weights of a forward pass over a context, and a pass in which some tokens can't see some others.

Under sdpa a model returns no weights, and with eager attention it returns those of all layers at once. Here the model
keeps sdpa for its output; the weights are computed beside it, from the same queries, keys and mask, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lagkit.logs.encode import EncodedText
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.util.errors import UnsupportedModel

_NAME = "lagkit_watched"


class _Watch(NamedTuple):
    """The parameters of `watching`, and what it gives."""

    keep: Callable[[Tensor], Tensor] | None
    cut: Tensor | None
    seen: dict[int, Tensor]


_watch: ContextVar[_Watch] = ContextVar("watch")


@contextmanager
def watching(
    model: PreTrainedModel, keep: Callable[[Tensor], Tensor] | None = None, cut: Tensor | None = None
) -> Iterator[dict[int, Tensor]]:
    """Watch the forward passes of `model` over one row; gives what was kept of each layer.

    keep: what is kept of a layer's weights `[heads, new tokens, all tokens]` (fp32). cut: bool `[tokens, tokens]`, True
    where a query (row) sees no key (column); slots count from the first injected token. Raises UnsupportedModel if the
    model's attention is not sdpa (some models have none).
    """
    if model.config._attn_implementation != "sdpa":
        raise UnsupportedModel(
            f"Attention of a {model.config.model_type} model cannot be looked at: it runs under "
            f"{model.config._attn_implementation}, not sdpa; load it with attn_implementation='sdpa' if it has that."
        )
    # Models that were built from one configuration share the object: change a copy, or all of them would change.
    owners: list[tuple[nn.Module, Any]] = [
        (module, module.config) for module in model.modules() if hasattr(module, "config")
    ]
    copies = {id(config): deepcopy(config) for _, config in owners}
    for config in copies.values():
        config._attn_implementation = _NAME
    seen: dict[int, Tensor] = {}
    token = _watch.set(_Watch(keep, cut, seen))
    try:
        for module, config in owners:
            module.config = copies[id(config)]
        yield seen
    finally:
        for module, config in owners:
            module.config = config
        _watch.reset(token)


def hidden_slots(reading: EncodedText, hidden: Iterable[tuple[Iterable[int], Iterable[int]]]) -> Tensor:
    """A `cut`, from slots of queries and the slots that these do not see.

    All see the very first slot: attention rests there when it has nowhere to go, and would go astray.
    """
    tokens = reading.context.injected + len(reading.context.ids)
    cut = torch.zeros(tokens, tokens, dtype=torch.bool)
    for queries, slots in hidden:
        away = torch.tensor(sorted({*slots} - {0}), dtype=torch.long)
        cut[torch.tensor([*queries], dtype=torch.long)[:, None], away[None]] = True
    return cut


def weights(lm: LM, context: Context, queries: Sequence[int]) -> Tensor:
    """Attention weights, fp32 `[layers, heads, queries, tokens]`, of one pass over the context's ids.

    queries: slots of prefilled tokens, counted from the first injected one. Raises ContextTooLong, ValueError,
    UnsupportedModel.
    """
    return _pass(lm, context, queries, lambda asked: asked)


def mass(lm: LM, context: Context, queries: Sequence[int], spans: Mapping[str, Sequence[int]]) -> Tensor:
    """Share of attention from `queries` to each of `spans` (name -> slots): fp32 `[layers, heads, spans]`.

    The mean over queries of the weights summed over the span's slots; slots and errors as in `weights`, whose size this
    needs for one layer at a time.
    """
    belongs = torch.zeros(context.injected + len(context.ids), len(spans), device=lm.device)
    for column, slots in enumerate(spans.values()):
        belongs[list(slots), column] = 1
    return _pass(lm, context, queries, lambda asked: (asked @ belongs).mean(dim=1))


def response_mass(
    lm: LM, context: Context, said: Sequence[int], spans: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """The `mass` from tokens that are said behind a context, by span: means over layers and heads."""
    end = context.injected + len(context.ids)
    whole = Context((*context.ids, *said), context.parts)
    shares = mass(lm, whole, range(end, end + len(said)), spans).mean(dim=(0, 1))
    return dict(zip(spans, shares.tolist(), strict=True))


def uniform_mass(queries: Sequence[int], spans: Mapping[str, Sequence[int]]) -> Tensor:
    """`mass` if every query shared its attention out evenly over the tokens that it sees: `[spans]`."""
    share = [[sum(slot <= query for slot in slots) / (query + 1) for slots in spans.values()] for query in queries]
    return torch.tensor(share).mean(dim=0)


@torch.inference_mode()
def _pass(lm: LM, context: Context, queries: Sequence[int], keep: Callable[[Tensor], Tensor]) -> Tensor:
    """What is kept of the weights `[heads, queries, tokens]` of each layer."""
    tokens = len(context.ids)
    rows = [slot - context.injected for slot in queries]
    if not rows or min(rows) < 0 or max(rows) >= tokens:
        raise ValueError(
            f"queries must be prefilled tokens, slots {context.injected} to {context.injected + tokens - 1}: {queries}"
        )
    lm.check(context, 0)
    with watching(lm.model, lambda found: keep(found[:, rows])) as seen:
        lm.encode(context, 0, 0)
    return torch.stack([seen[layer] for layer in sorted(seen)]).cpu()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention as sdpa; keeps what is wanted of the weights."""
    watch = _watch.get()
    layer: Any = module.layer_idx
    if watch.keep:
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = query.float() @ repeat_kv(key, query.shape[1] // key.shape[1]).float().transpose(2, 3) * factor
        found = scores.masked_fill(~attention_mask, float("-inf")).softmax(dim=-1)
        watch.seen[layer] = watch.keep(found[0])
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **settings)


def _mask(**settings: Any) -> Tensor:
    """The mask of sdpa without what is cut, always spelled out: `[batch, 1, new, all]`."""
    settings |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Any = sdpa_mask(**settings)
    cut = _watch.get().cut
    shown: Tensor = mask if cut is None else mask & ~cut[-mask.shape[-2] :].to(mask.device)
    return shown


# Under one name: without a mask function of its own, the attention function would be given no mask at all.
AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _mask)
