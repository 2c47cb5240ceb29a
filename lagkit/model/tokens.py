"""Token ids and their text; what tells one tokenizer from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from lagkit.model.prompts.actions import REASONING, TAGS


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens spelled out."""
    return str(tokenizer.decode(list(ids)))


def speaker(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """A function from generated token ids to what they say: their text without special tokens, as `<pad>`.

    Special tokens that spell a tag or a mark of reasoning, or a part of one, are said.
    """
    said = (*TAGS, *REASONING, *REASONING.values())
    added = tokenizer.added_tokens_decoder.items()
    silent = {id for id, token in added if token.special and not any(token.content in mark for mark in said)}
    return lambda ids: decoded(tokenizer, [id for id in ids if id not in silent])


def shortest_prefix(text_of: Callable[[Sequence[int]], str], ids: Sequence[int], text: str) -> Sequence[int]:
    """The fewest leading tokens whose text covers `text`."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(text_of(ids[:middle])) >= len(text):
            high = middle
        else:
            low = middle + 1
    return ids[:low]


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a tokenizer by its tokens and their ids."""
    return digest(json.dumps(sorted(tokenizer.get_vocab().items())).encode())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
