"""Models of a known shape with random weights: as fast as the real ones, and there where no model can be fetched."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lagkit.model.devices import best_device
from lagkit.model.hub import resolve_model
from lagkit.model.lm import LM

LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128_256,
    "max_position_embeddings": 8_192,
    "rope_theta": 500_000.0,
}


def random_model(shape: dict[str, Any], device: str | None = None) -> LM:
    """A Llama of this shape in bfloat16, made on the device it is for, with the tokenizer of SmolLM2.

    The same weights every time: both sides of a race have to say the same.
    """
    device = device or best_device()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape))
    finally:
        torch.set_default_dtype(before)
    return LM(model, AutoTokenizer.from_pretrained(resolve_model("smollm2")), "llama-shape")
