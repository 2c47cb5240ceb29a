"""Contexts of a model that is reached through a chat alone: messages, and policies that can be told in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lagkit.agent.context import LogTexts
from lagkit.model.api.requests import Chat
from lagkit.model.backend import Backend
from lagkit.model.lm import LM
from lagkit.policy import Policy, chat_refusal
from lagkit.types import Limits, Question
from lagkit.util.errors import ConfigError


@dataclass(frozen=True)
class ChatContextBuilder(LogTexts):
    """Builds chats under one policy; what no chat can follow is refused beforehand (see `policy.chat_refusal`).

    The assistant's turn cannot be opened through a chat API, so the prompt's opening is dropped: what the model says is
    its whole turn. At the end of the user's turn it would lead the testbed's model astray (a test shows it).
    """

    def opening(self, question: Question) -> str:
        """None: the model opens its turn itself."""
        return ""

    def context(self, question: Question, user_turn: str, logs: Sequence[str], notes: str = "") -> Chat:
        """The chat for one round: the shared head, and the user's turn, in which logs stand already (see `notes`)."""
        return Chat((*self.prompt.for_question(question.id).head(), {"role": "user", "content": user_turn}))

    def distil_context(self, question: Question, logs: Sequence[str]) -> Chat:
        """The chat in which the model writes notes on logs for a coming question."""
        return Chat(tuple(self.distil_messages(question, logs)))


def admit(lm: Backend, policy: Policy | None, limits: Limits) -> None:
    """Raise ConfigError, with the reason, for what the model cannot follow (see `policy.chat_refusal`)."""
    if not isinstance(lm, LM) and (reason := chat_refusal(policy, limits)):
        raise ConfigError(reason)
