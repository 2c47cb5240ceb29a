"""Contexts for a model that is reached through a chat alone: messages, and policies that can be told in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lagkit.augment import LogTexts
from lagkit.policy import POLICIES, Policy
from lagkit.types import Question

if TYPE_CHECKING:
    from lagkit.agent import Limits


@dataclass(frozen=True)
class Chat:
    """What a generation starts from: messages with `role` and `content`."""

    messages: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class ChatAugmenter(LogTexts):
    """Builds chats under one policy; what no chat can follow is refused beforehand (see `refusal`).

    The assistant's turn cannot be opened through a chat API, so the prompt's opening, a restatement of the question, is
    dropped: what the model says is its whole turn. The testbed's model restates the question by itself then, and says
    the same as behind the opening; with the restatement at the end of the user's turn it goes astray (a test shows
    both). Models that follow instructions are told the protocol by the system message anyway.
    """

    def opening(self, question: Question) -> str:
        """None: the model opens its turn itself."""
        return ""

    def context(self, question: Question, user_turn: str, logs: Sequence[str]) -> Chat:
        """The chat for one round: the shared head, and the user's turn, in which logs stand already (see `notes`)."""
        return Chat((*self.prompt.head(), {"role": "user", "content": user_turn}))

    def proceed(self, context: Chat, said: str) -> Chat:
        """Not to be had: `refusal` keeps the agent from asking for it."""
        raise NotImplementedError("A chat cannot go on from words in the assistant's turn.")

    def distil_context(self, question: Question, logs: Sequence[str]) -> Chat:
        """The chat in which the model writes notes on logs for a coming question."""
        return Chat(tuple(self.distil_messages(question, logs)))


def refusal(policy: Policy | None, limits: Limits) -> str:
    """Why a model behind an API cannot follow a policy under these limits, and what to do; empty if it can."""
    if limits.force_answer:
        return (
            "force_answer has the model go on from an answer that was begun for it, which cannot be done through a "
            "chat API: leave it out."
        )
    if policy is None or policy.inject == "copy":
        return ""
    able = ", ".join(name for name, known in POLICIES.items() if known and known.place == "user_turn")
    if policy.inject == "kv":
        return (
            f"The policy {policy} injects KV, and the KV of a model behind an API can be neither read nor put in: "
            f"choose among no_logs, {able}."
        )
    if policy.place != "user_turn":
        where = "in front of BOS" if policy.place == "front" else "between the turns"
        return (
            f"The policy {policy} puts the text of logs {where}, which cannot be reached through a chat API: "
            f"choose place user_turn ({able})."
        )
    return ""
