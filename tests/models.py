"""Tiny random causal language models of many families and random KV blocks, made in-process."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lagkit.kv import KVBlock

VOCAB = 97
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Larger than usual, so that attention is peaked and a wrong position changes the output.
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_THETA = {"rope_theta": 10_000.0}
_LONG = {"short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [2.0, 4.0, 6.0, 8.0]}
_LONG |= {"rope_type": "longrope", "original_max_position_embeddings": 128, "factor": 4.0}

_GEMMA4 = {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8, "head_dim": 8, "global_head_dim": 16}
_MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
_MLA |= {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 8}

# family -> (transformers' model type, what differs from _SIZES)
_CONFIGS = {
    "llama": ("llama", {}),
    "llama_linear": ("llama", {"rope_parameters": {**_THETA, "rope_type": "linear", "factor": 4.0}}),
    "llama_llama3": (
        "llama",
        {
            "rope_parameters": {
                **_THETA,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "llama_yarn": (
        "llama",
        {"rope_parameters": {**_THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
    "llama_dynamic": (
        "llama",
        {"rope_parameters": {**_THETA, "rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 128},
    ),
    "llama_longrope": ("llama", {"rope_parameters": {**_THETA, **_LONG}}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 24}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 24, "num_hidden_layers": 2}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 24,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            },
        },
    ),
    "phi3": (
        "phi3",
        {"rope_parameters": {**_THETA, **_LONG}, "original_max_position_embeddings": 128, "sliding_window": None},
    ),
    "olmo2": ("olmo2", {}),
    "gpt_neox": ("gpt_neox", {"rope_parameters": {**_THETA, "rope_type": "default", "partial_rotary_factor": 0.5}}),
    "phi": ("phi", {"rope_parameters": {**_THETA, "rope_type": "default", "partial_rotary_factor": 0.5}}),
    "stablelm": ("stablelm", {"rope_parameters": {**_THETA, "rope_type": "default", "partial_rotary_factor": 0.25}}),
    "cohere": ("cohere", {}),
    "cohere2": (
        "cohere2",
        {
            "head_dim": 8,
            "sliding_window": 24,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 1]}),
    "gpt2": ("gpt2", {}),
    "bloom": ("bloom", {}),
    "jamba": (
        "jamba",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "use_mamba_kernels": False},
    ),
    "falcon_h1": ("falcon_h1", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}),
    "gemma4": ("gemma4_text", {"layer_types": ["sliding_attention", "full_attention"], **_GEMMA4}),
    "deepseek_v3": ("deepseek_v3", {"num_key_value_heads": 4, **_MLA}),
}
REFUSED = ("gpt2", "bloom", "jamba", "falcon_h1", "gemma4", "deepseek_v3")
FAMILIES = tuple(family for family in _CONFIGS if family not in REFUSED)


def tiny(family: str, **config_overrides: object) -> PreTrainedModel:
    """Build the family's model, the same weights every time, in eval mode; `config_overrides` go to its config."""
    model_type, special = _CONFIGS[family]
    config = AutoConfig.for_model(model_type, **{**_SIZES, **special, **config_overrides})
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def block_of(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 2) -> KVBlock:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(layers, 2, tokens, 8, generator=generator).to(dtype) for _ in range(2))
    return KVBlock(keys, values, torch.randint(2**31 - 1, (tokens,), generator=generator))


def same(a: KVBlock, b: KVBlock) -> bool:
    return all(
        torch.equal(x, y) and x.dtype == y.dtype for x, y in ((a.keys, b.keys), (a.values, b.values), (a.ids, b.ids))
    )
