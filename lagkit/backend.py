"""What the agent needs of a language model, wherever it runs, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lagkit.errors import ConfigError
from lagkit.types import Question

if TYPE_CHECKING:
    from lagkit.agent import Limits
    from lagkit.config import Requests
    from lagkit.errors import LagkitError
    from lagkit.model import Generation
    from lagkit.policy import Policy
    from lagkit.prompts import Prompt
    from lagkit.store import Store

API = "api:"  # what the name of a model behind an API begins with


class Contexts(Protocol):
    """Builds what a model continues, under one policy; contexts are the model's own and of no interest to the agent."""

    @property
    def policy(self) -> Policy | None:
        """What is reused of logs; None if nothing is."""

    @property
    def store(self) -> Store | None:
        """The logs; may be None where the policy is."""

    def opening(self, question: Question) -> str:
        """The words with which the assistant's turn is opened for the model: they belong to its response."""

    def notes(self, logs: Sequence[str]) -> str:
        """What stands of these logs (ids) in the user turn."""

    def context(self, question: Question, user_turn: str, logs: Sequence[str]) -> Any:
        """The context for one round."""

    def proceed(self, context: Any, said: str) -> Any:
        """The context in which the model goes on from these words of its own turn (for `force_answer`)."""

    def distil_context(self, question: Question, logs: Sequence[str]) -> Any:
        """The context in which notes on logs are written."""


class Backend(Protocol):
    """A language model: `model.LM`, whose KV can be reached, or `api.APIModel`, which reads and writes text alone."""

    name: str

    @property
    def dtype(self) -> Any:
        """Of the KV blocks in its stores."""

    @property
    def opens(self) -> str:
        """The mark of reasoning with which its chat template opens the assistant's turn, if it does."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Tells one model's stores from another's."""

    def augmenter(self, prompt: Prompt, policy: Policy | None = None, store: Store | None = None) -> Contexts:
        """Builds its contexts under `policy`."""

    def admit(self, policy: Policy | None, limits: Limits) -> None:
        """Raise ConfigError, with the reason, for a policy or limits that it cannot follow."""

    def check(self, context: Any, new_tokens: int) -> None:
        """Raise ContextTooLong where it is known beforehand."""

    def confidence(self, said: Generation, start: int, stop: int) -> float | None:
        """The mean log-probability of the tokens of `said.text[start:stop]`; None where it is not known, or empty."""

    def generate(
        self, contexts: Sequence[Any], max_new_tokens: int, *, stop: Sequence[str] = (), batch_size: int = 16
    ) -> Sequence[Generation | LagkitError]:
        """Continuations in the order of `contexts`, or in the place of one the error that it alone met.

        Raises EndpointError where there is no point in asking on, and any other error for the batch as a whole.
        """


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    api: Requests | None = None,
) -> Backend:
    """A model by alias, hub id or folder (see `LM.load`), or as `api:NAME` the one that an endpoint calls NAME.

    api: how the endpoint is asked. Raises ModelNotFound and UnsupportedModel, or ConfigError for a device or dtype
    that there is not, or is given for a model behind an API, or where the environment names no endpoint.
    """
    if name.startswith(API):
        if device or dtype:
            raise ConfigError(f"A device or a dtype does nothing for a model behind an API, {name}: leave it out.")
        from lagkit.api.model import APIModel  # here, since it needs an extra

        return APIModel(name.removeprefix(API), requests=api)
    from lagkit.model import LM

    return LM.load(name, device=device, dtype=dtype)
