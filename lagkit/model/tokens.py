"""Token ids and their text; what tells one tokenizer from another."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from lagkit.model.prompts.actions import REASONING, TAGS


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens spelled out."""
    return str(tokenizer.decode(list(ids)))


def speaker(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """A function from generated ids to their text without special tokens, but for tags and marks of reasoning."""
    said = (*TAGS, *REASONING, *REASONING.values())
    added = tokenizer.added_tokens_decoder.items()
    silent = {id for id, token in added if token.special and not any(token.content in mark for mark in said)}
    return lambda ids: decoded(tokenizer, [id for id in ids if id not in silent])


def shortest_prefix(text_of: Callable[[Sequence[int]], str], ids: Sequence[int], text: str) -> Sequence[int]:
    """The fewest leading tokens whose text covers `text`."""
    return ids[: bisect_left(range(len(ids)), len(text), key=lambda stop: len(text_of(ids[:stop])))]


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a tokenizer by its tokens and their ids."""
    return digest(json.dumps(sorted(tokenizer.get_vocab().items())).encode())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
