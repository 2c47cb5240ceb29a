"""Attention weights of a forward pass over a context, and a pass in which some tokens can't see some others.

Under sdpa a model returns no weights, and with eager attention it returns those of all layers at once. Here the model
keeps sdpa for its output; the weights are computed beside it, from the same queries, keys and mask, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class Watch:
    """Weights to keep, and attention to cut, in the passes of a `watching` block.

    keep: what of a layer's weights `[heads, new tokens, all tokens]` (fp32) is kept in `seen`; None looks at nothing.
    layers: those to look at; None: all. cut: bool `[tokens, tokens]`, True where a query (row) sees no key (column);
    slots count from the first injected token.
    """

    keep: Callable[[Tensor], Tensor] | None = None
    layers: Sequence[int] | None = None
    cut: Tensor | None = None
    seen: dict[int, Tensor] = field(default_factory=dict)


_watch: ContextVar[Watch] = ContextVar("watch")


@contextmanager
def watching(model: PreTrainedModel, watch: Watch) -> Iterator[Watch]:
    """While it lasts, forward passes of `model` over one row obey `watch`.

    Raises UnsupportedModel if the model's attention is not sdpa (some models have none).
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
    token = _watch.set(watch)
    try:
        for module, config in owners:
            module.config = copies[id(config)]
        yield watch
    finally:
        for module, config in owners:
            module.config = config
        _watch.reset(token)


def hidden_slots(reading: EncodedText, hidden: Iterable[tuple[Iterable[int], Iterable[int]]]) -> Tensor:
    """Bool `[tokens, tokens]`, a `cut` of slots of queries and the slots that they do not see.

    All see the very first slot: attention rests there when it has nowhere to go, and would go astray.
    """
    tokens = reading.context.injected + len(reading.context.ids)
    cut = torch.zeros(tokens, tokens, dtype=torch.bool)
    for queries, slots in hidden:
        away = torch.tensor(sorted({*slots} - {0}), dtype=torch.long)
        cut[torch.tensor([*queries], dtype=torch.long)[:, None], away[None]] = True
    return cut


def weights(
    lm: LM, context: Context, *, queries: Sequence[int] | None = None, layers: Sequence[int] | None = None
) -> Tensor:
    """Attention weights, fp32 `[layers, heads, queries, tokens]`, of one pass over the context's ids.

    `queries` are slots, counted from the first injected token; by default all that are prefilled: injected tokens ask
    nothing. `layers`: in the order wanted, by default all. Raises ContextTooLong, ValueError, UnsupportedModel.
    """
    rows = _rows(context, queries)
    return _pass(lm, context, layers, lambda found: found[:, rows])


def mass(
    lm: LM,
    context: Context,
    queries: Sequence[int],
    spans: Mapping[str, Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Share of attention from `queries` to each of `spans` (name -> slots): fp32 `[layers, heads, spans]`.

    The mean over queries of the weights summed over the span's slots: 1 would be all attention there is. Slots and
    errors are as in `weights`, whose size this never needs for more than one layer.
    """
    rows = _rows(context, queries)
    belongs = torch.zeros(context.injected + len(context.ids), len(spans), device=lm.device)
    for column, slots in enumerate(spans.values()):
        belongs[list(slots), column] = 1
    return _pass(lm, context, layers, lambda found: (found[:, rows] @ belongs).mean(dim=1))


def uniform_mass(queries: Sequence[int], spans: Mapping[str, Sequence[int]]) -> Tensor:
    """`mass` if every query shared its attention out evenly over the tokens that it sees: `[spans]`."""
    share = [[sum(slot <= query for slot in slots) / (query + 1) for slots in spans.values()] for query in queries]
    return torch.tensor(share).mean(dim=0)


def _rows(context: Context, queries: Sequence[int] | None) -> list[int]:
    """Rows of slots among the prefilled tokens."""
    tokens = len(context.ids)
    rows = list(range(tokens)) if queries is None else [slot - context.injected for slot in queries]
    if not rows or min(rows) < 0 or max(rows) >= tokens:
        raise ValueError(
            f"queries must be prefilled tokens, slots {context.injected} to {context.injected + tokens - 1}: {queries}"
        )
    return rows


@torch.inference_mode()
def _pass(lm: LM, context: Context, layers: Sequence[int] | None, keep: Callable[[Tensor], Tensor]) -> Tensor:
    lm.check(context, 0)
    wanted = range(lm.model.config.get_text_config(decoder=True).num_hidden_layers) if layers is None else layers
    with watching(lm.model, Watch(keep, wanted)) as watch:
        lm.encode(context, 0, 0)
    return torch.stack([watch.seen[layer] for layer in wanted]).cpu()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention as sdpa; keeps the weights of a watched layer."""
    watch = _watch.get()
    layer: Any = module.layer_idx
    if watch.keep and (watch.layers is None or layer in watch.layers):
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = query.float() @ repeat_kv(key, query.shape[1] // key.shape[1]).float().transpose(2, 3) * factor
        found = scores.masked_fill(~attention_mask, float("-inf")).softmax(dim=-1)
        watch.seen[layer] = watch.keep(found[0])
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **settings)


def _mask(**settings: Any) -> Tensor:
    """The mask of sdpa, always spelled out (sdpa may leave it away), without what is cut: `[batch, 1, new, all]`."""
    settings |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}  # with these it is always a mask
    mask: Any = sdpa_mask(**settings)
    cut = _watch.get().cut
    shown: Tensor = mask if cut is None else mask & ~cut[-mask.shape[-2] :].to(mask.device)
    return shown


# Under one name: without a mask function of its own, the attention function would be given no mask at all.
AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _mask)
