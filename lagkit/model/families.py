"""Families of language models, each as a tiny random model that is built in-process: what re-alignment is tried on.

A tiny model has all that matters for moving keys (which dimensions turn, in which layout, how fast, in which layers;
what else its cache holds) and nothing that costs: it is built, probed and measured in a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lagkit.model.lm import LM
from lagkit.util.errors import ConfigError

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
_LONG: dict[str, Any] = {"short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [2.0, 4.0, 6.0, 8.0]}
_LONG |= {"rope_type": "longrope", "original_max_position_embeddings": 128, "factor": 4.0}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 64}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

_SLIDING = {"sliding_window": 24}
_DEEP = {"num_hidden_layers": 4}
_THREE_SLIDE = {**_SLIDING, **_DEEP, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
# Each family names its experts in its own way; a configuration ignores the names that it does not know.
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "n_shared_experts": 1}
_EXPERTS |= {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
_EXPERTS |= {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_MLA = {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
_MLA |= {"v_head_dim": 8, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
_MLA |= {"moe_intermediate_size": 8}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_GEMMA4 = {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8, "head_dim": 8, "global_head_dim": 16}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}


@dataclass(frozen=True)
class Family:
    """One family: transformers' `model_type`, what its keys have of their own, and what differs from the usual sizes.

    trait: in words, empty for plain RoPE on all dimensions of all layers. refused: whether its KV is known to be bound
    to a position, which the probe has to find out by itself; `trait` is then the reason.
    """

    model_type: str
    trait: str = ""
    config: Mapping[str, Any] | None = None
    refused: bool = False


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {**_THETA, "rope_type": "default", **parameters}}


def _refused(model_type: str, trait: str, config: Mapping[str, Any] | None = None) -> Family:
    return Family(model_type, trait, config, refused=True)


_LEARNED, _ALIBI = "learned absolute positions", "ALiBi: distances are added to scores, keys carry none"
_RECURRENT, _HYBRID = "recurrent state instead of KV", "recurrent state in some layers"
_COMPRESSED = "compressed KV (MLA): the part with RoPE is kept apart"

FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama"),
    "llama_linear": Family("llama", "linear scaling", _rope(rope_type="linear", factor=4.0)),
    "llama_llama3": Family("llama", "llama3 scaling", _rope(**_LLAMA3)),
    "llama_yarn": Family("llama", "yarn scaling", _rope(**_YARN)),
    "llama_dynamic": Family(
        "llama", "dynamic scaling", _rope(rope_type="dynamic", factor=4.0) | {"max_position_embeddings": 128}
    ),
    "llama_longrope": Family("llama", "longrope scaling", _rope(**_LONG)),
    "llama4": Family(
        "llama4_text",
        "interleaved pairs, one layer in four without RoPE, experts",
        {**_EXPERTS, **_DEEP, "head_dim": 8, "intermediate_size_mlp": 48},
    ),
    "mistral": Family("mistral", "sliding window", _SLIDING),
    "ministral3": Family("ministral3", "yarn scaling, queries scaled by position", {"head_dim": 8}),
    "mixtral": Family("mixtral", "experts", _EXPERTS),
    "qwen2": Family("qwen2", "bias on keys"),
    "qwen2_moe": Family("qwen2_moe", "experts", _EXPERTS),
    "qwen3": Family("qwen3", "normed keys", {"head_dim": 16}),
    "qwen3_moe": Family("qwen3_moe", "normed keys, experts", {**_EXPERTS, "head_dim": 16}),
    "gemma": Family("gemma", "", {"head_dim": 16}),
    "gemma2": Family("gemma2", "sliding window in every other layer", {**_SLIDING, "head_dim": 16}),
    "gemma3": Family(
        "gemma3_text",
        "sliding window, frequencies by layer type",
        {
            **_SLIDING,
            **_DEEP,
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            },
        },
    ),
    "phi": Family("phi", "half of the dimensions turn", _rope(partial_rotary_factor=0.5)),
    "phi3": Family(
        "phi3",
        "longrope scaling",
        {**_rope(**_LONG), "original_max_position_embeddings": 128, "sliding_window": None},
    ),
    "phimoe": Family("phimoe", "experts", _EXPERTS),
    "olmo": Family("olmo"),
    "olmo2": Family("olmo2", "normed keys"),
    "olmo3": Family("olmo3", "normed keys, sliding window", {**_SLIDING, **_DEEP}),
    "olmoe": Family("olmoe", "normed keys, experts", _EXPERTS),
    "smollm3": Family("smollm3", "some layers without RoPE", {**_DEEP, "no_rope_layers": [1, 1, 0, 1]}),
    "gpt_neox": Family("gpt_neox", "half of the dimensions turn", _rope(partial_rotary_factor=0.5)),
    "gpt_oss": Family(
        "gpt_oss", "yarn scaling, sliding window, attention sinks, experts", {**_EXPERTS, **_SLIDING, "head_dim": 8}
    ),
    "starcoder2": Family("starcoder2", "bias on keys, sliding window", _SLIDING),
    "cohere": Family("cohere", "interleaved pairs"),
    "cohere2": Family(
        "cohere2", "interleaved pairs, sliding window, one layer in four without RoPE", {**_THREE_SLIDE, "head_dim": 8}
    ),
    "glm": Family(
        "glm", "interleaved pairs, half of the dimensions turn", {**_rope(partial_rotary_factor=0.5), "head_dim": 8}
    ),
    "glm4": Family(
        "glm4", "interleaved pairs, half of the dimensions turn", {**_rope(partial_rotary_factor=0.5), "head_dim": 8}
    ),
    "glm4_moe": Family(
        "glm4_moe",
        "half of the dimensions turn, experts",
        {**_EXPERTS, **_rope(partial_rotary_factor=0.5), "head_dim": 8},
    ),
    "granite": Family("granite"),
    "granitemoe": Family("granitemoe", "experts", _EXPERTS),
    "stablelm": Family("stablelm", "a quarter of the dimensions turn", _rope(partial_rotary_factor=0.25)),
    "falcon": Family("falcon", "", {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False}),
    "nemotron": Family("nemotron", "half of the dimensions turn", _rope(partial_rotary_factor=0.5)),
    "exaone4": Family("exaone4", "normed keys, full layers without RoPE", _THREE_SLIDE),
    "ernie4_5": Family("ernie4_5", "interleaved pairs", {"head_dim": 8}),
    "helium": Family("helium", "interleaved pairs", {"head_dim": 8}),
    "apertus": Family("apertus", "normed keys, llama3 scaling"),
    "arcee": Family("arcee"),
    "hunyuan": Family("hunyuan_v1_dense", "keys normed after RoPE", {"head_dim": 8}),
    "seed_oss": Family("seed_oss", "bias on keys", {"head_dim": 8}),
    "minimax_m2": Family("minimax_m2", "normed keys, experts", {**_EXPERTS, "head_dim": 8}),
    "gpt2": _refused("gpt2", _LEARNED),
    "opt": _refused("opt", _LEARNED, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_bigcode": _refused("gpt_bigcode", _LEARNED),
    "gpt_neo": _refused(
        "gpt_neo", _LEARNED, {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4}
    ),
    "bloom": _refused("bloom", _ALIBI),
    "mpt": _refused("mpt", _ALIBI, {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "falcon_alibi": _refused("falcon", _ALIBI, {"alibi": True}),
    "gptj": _refused(
        "gptj",
        "RoPE of its own code, whose frequencies are not in the model's buffers",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 512},
    ),
    "mamba": _refused("mamba", _RECURRENT, {"state_size": 8}),
    "mamba2": _refused("mamba2", _RECURRENT, {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "rwkv": _refused("rwkv", _RECURRENT, {"attention_hidden_size": 32}),
    "recurrent_gemma": _refused("recurrent_gemma", _HYBRID, {"lru_width": 32, "num_hidden_layers": 3}),
    "jamba": _refused(
        "jamba",
        _HYBRID,
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "use_mamba_kernels": False},
    ),
    "falcon_h1": _refused("falcon_h1", _HYBRID, {**_MAMBA, "mamba_d_ssm": 32}),
    "bamba": _refused("bamba", _HYBRID, {**_MAMBA, "mamba_d_head": 16, "attn_layer_indices": [1]}),
    "lfm2": _refused("lfm2", _HYBRID, {"full_attn_idxs": [1]}),
    "qwen3_next": _refused("qwen3_next", _HYBRID, {**_EXPERTS, **_LINEAR, **_DEEP, "head_dim": 8}),
    "minimax": _refused("minimax", _HYBRID, _EXPERTS),
    "deepseek_v2": _refused("deepseek_v2", _COMPRESSED, _MLA),
    "deepseek_v3": _refused("deepseek_v3", _COMPRESSED, _MLA),
    "minicpm3": _refused("minicpm3", _COMPRESSED, _MLA),
    "gemma4": _refused(
        "gemma4_text",
        "layer types turn different numbers of dimensions",
        {"layer_types": ["sliding_attention", "full_attention"], **_GEMMA4},
    ),
    "nanochat": _refused("nanochat", "pairs turn the other way round"),
}

SUPPORTED = tuple(name for name, family in FAMILIES.items() if not family.refused)


def listed(names: Sequence[str]) -> list[str]:
    """These families, all if none is named. Raises ConfigError for an unknown one."""
    return [_known(name) for name in names] or list(FAMILIES)


def tiny(family: str, **overrides: object) -> PreTrainedModel:
    """The family's model in fp32 and eval mode, with the same weights every time; `overrides` go to its configuration.

    Raises ConfigError for a family that is not in `FAMILIES`.
    """
    found = FAMILIES[_known(family)]
    config = AutoConfig.for_model(found.model_type, **{**_SIZES, **(found.config or {}), **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made: PreTrainedModel = model.eval()
    return made


def load(family: str, *, dtype: str = "float32") -> LM:
    """The family's tiny model in `dtype`, with a tokenizer whose words are the numbers of their ids.

    Raises ConfigError as `tiny` does, and UnsupportedModel for a family whose keys cannot be re-aligned.
    """
    words = Tokenizer(WordLevel({str(id): id for id in range(VOCAB)}, unk_token="0"))
    return LM(tiny(family).to(getattr(torch, dtype)), PreTrainedTokenizerFast(tokenizer_object=words), family)


def _known(name: str) -> str:
    if name not in FAMILIES:
        raise ConfigError(f"{name!r} is no family that lagkit has a tiny model of: these are {', '.join(FAMILIES)}.")
    return name
