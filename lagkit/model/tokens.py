"""Token ids and their text; what tells one tokenizer from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens spelled out."""
    return str(tokenizer.decode(list(ids)))


def shortest_prefix(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> Sequence[int]:
    """The fewest leading tokens whose decoding covers `text`."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decoded(tokenizer, ids[:middle])) >= len(text):
            high = middle
        else:
            low = middle + 1
    return ids[:low]


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a tokenizer by its tokens and their ids."""
    return digest(json.dumps(sorted(tokenizer.get_vocab().items())).encode())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
