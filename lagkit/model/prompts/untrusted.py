"""Texts from data (passages, questions, logs, notes) must not end a turn or open one.

A tokenizer reads `<|im_end|>` in a passage as the token that ends a turn. So the spelling is broken by a space,
`< |im_end|>`: to tokenize data apart from the chat template would change tokens where the two meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lagkit.model.prompts.actions import TAGS
from lagkit.util.errors import ConfigError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """A text with `?` in place of each lone surrogate, which neither UTF-8 nor a tokenizer takes."""
    return _LONE_SURROGATE.sub("?", text)


def marks(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What data may not spell: special tokens, and others that the chat template writes around messages (DeepSeek's).

    Single characters, white space and plain words are ordinary writing, and the tags are the protocol's own. Raises
    ConfigError for a template that refuses a plain conversation.
    """
    turns = [{"role": role, "content": "."} for role in ("user", "assistant", "user")]
    try:
        frame = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError as error:
        raise ConfigError(f"The chat template refuses a conversation of user and assistant: {error}") from error
    added = tokenizer.added_tokens_decoder.values()
    spelled = {str(t) for t in added if t.special or (t.content in frame and not t.content.isalnum())}
    return sorted(mark for mark in spelled if len(mark.strip()) > 1 and mark not in TAGS)


def breaker(marks: Iterable[str]) -> Callable[[str], str]:
    """A function that breaks all of `marks` in a text and makes it `encodable`."""
    found = re.compile("|".join(re.escape(mark) for mark in marks) or r"(?!)")

    def plain(text: str) -> str:
        text = encodable(text)
        # Again until none is left: a mark may overlap another, or come about when one is broken.
        while found.search(text):
            text = found.sub(_broken, text)
        return text

    return plain


def _broken(mark: re.Match[str]) -> str:
    at = len(mark[0]) - len(mark[0].lstrip()) + 1
    return f"{mark[0][:at]} {mark[0][at:]}"
