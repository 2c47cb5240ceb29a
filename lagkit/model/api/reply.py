"""What an endpoint sends back, checked where it enters: bytes become text, tokens, or what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from lagkit.model.prompts.untrusted import encodable
from lagkit.types import Usage

_TEXT = ("text", "output_text")
_REASONING = ("thinking", "reasoning", "redacted_thinking")  # parts that are no part of what is said

_SAID = 300  # characters of a refusal that are repeated

_Tokens = Annotated[int, Field(ge=0, le=2**40)]  # a table's column holds no more than 2**63


class Malformed(ValueError):
    """A reply is not of the form that the API has."""


class _Part(BaseModel):
    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[str | _Part] | None = None
    refusal: str | None = None
    tool_calls: object = None
    function_call: object = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: object = None


class _Usage(BaseModel):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens


@dataclass(frozen=True)
class Reply:
    """An endpoint's answer to one chat.

    text: what was said, without reasoning that comes in fields of its own. refused: why there is no text, for a
    sentence that begins with the endpoint; empty where there is an answer. cut_off: whether the new tokens were used
    up. usage: None where it is not told, or cannot be.
    """

    text: str
    refused: str
    cut_off: bool
    usage: Usage | None

    @classmethod
    def read(cls, body: bytes) -> Reply:
        """The first choice of a chat completion; raises Malformed."""
        try:
            completion = _Completion.model_validate(json.loads(body))
        except ValidationError as error:
            first = error.errors()[0]
            raise Malformed(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
        except (ValueError, RecursionError) as error:
            raise Malformed(f"{error} in {body[:80].decode('utf-8', 'replace')!r}") from None
        choice = completion.choices[0]
        content = choice.message.content
        said = content if isinstance(content, list) else [content or ""]
        parts = [_Part(text=part) if isinstance(part, str) else part for part in said]
        text = encodable("".join(part.text or "" for part in parts if part.type in _TEXT))
        refused = "" if text else _refusal(choice.message, parts)
        if choice.finish_reason == "content_filter":
            refused = "withholds an answer for its content"
        return cls(text, refused, choice.finish_reason == "length", _usage(completion.usage))


def _refusal(message: _Message, parts: list[_Part]) -> str:
    """Why a message without text has none, if it says so."""
    if message.refusal:
        return f"refuses to answer ({' '.join(encodable(message.refusal).split())[:_SAID]})"
    if message.tool_calls or message.function_call:
        return "calls a tool, though it was offered none, and says nothing"
    if unread := sorted({part.type for part in parts} - {*_TEXT, *_REASONING}):
        return f"answers with {', '.join(map(repr, unread))} instead of text"
    return ""


def _usage(told: object) -> Usage | None:
    try:
        tokens = _Usage.model_validate(told)
    except ValidationError:
        return None
    return Usage(tokens.prompt_tokens, 0, tokens.completion_tokens)
