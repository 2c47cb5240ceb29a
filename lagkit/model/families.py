"""Families of language models, each as a tiny random model that is built in-process: what re-alignment is tried on.

A tiny model has all that matters for moving keys, and is built, probed and measured in a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lagkit.model.lm import LM
from lagkit.util.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """One family: transformers' `model_type`, and what differs from the usual sizes.

    trait: what its keys have of their own; empty for plain RoPE on all dimensions. refused: whether its KV is known to
    be bound to a position, which the probe has to find out by itself; `trait` is then the reason.
    """

    model_type: str
    trait: str = ""
    config: Mapping[str, Any] | None = None
    refused: bool = False


_TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_SIZES: Mapping[str, Any] = _TABLE["sizes"]
VOCAB: int = _SIZES["vocab_size"]
FAMILIES: Mapping[str, Family] = {
    name: Family(**({"model_type": name} | entry), refused=verdict == "refused")
    for verdict in ("supported", "refused")
    for name, entry in _TABLE[verdict].items()
}
SUPPORTED = tuple(name for name, family in FAMILIES.items() if not family.refused)


def listed(names: Sequence[str]) -> list[str]:
    """These families, all if none is named. Raises ConfigError for an unknown one."""
    return [_known(name) for name in names] or list(FAMILIES)


def tiny(family: str, **overrides: object) -> PreTrainedModel:
    """The family's model in fp32, with the same weights every time; raises ConfigError for an unknown family."""
    found = FAMILIES[_known(family)]
    sizes = {**_SIZES, **(found.config or {}), **overrides}
    config = AutoConfig.for_model(found.model_type, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made: PreTrainedModel = model.eval()
    return made


def load(family: str, *, dtype: str = "float32") -> LM:
    """The family's tiny model, with a tokenizer whose words are the numbers of their ids; raises UnsupportedModel."""
    words = Tokenizer(WordLevel({str(id): id for id in range(VOCAB)}, unk_token="0"))
    return LM(tiny(family).to(getattr(torch, dtype)), PreTrainedTokenizerFast(tokenizer_object=words), family)


def _known(name: str) -> str:
    if name not in FAMILIES:
        raise ConfigError(f"{name!r} is no family that lagkit has a tiny model of: these are {', '.join(FAMILIES)}.")
    return name
