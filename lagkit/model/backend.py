"""What the agent needs of a language model, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lagkit.model.context import Generation
    from lagkit.util.errors import LagkitError

API = "api:"  # what the name of a model behind an API begins with


class Model(Protocol):
    """What a log store has to know of a model: the format of its KV blocks, and what tells its stores from others."""

    @property
    def dtype(self) -> Any: ...

    @property
    def fingerprint(self) -> Mapping[str, str]: ...


class Backend(Model, Protocol):
    """A language model: `model.LM`, whose KV can be reached, or `api.APIModel`, which reads and writes text alone."""

    name: str

    @property
    def opens(self) -> str:
        """The mark of reasoning with which its chat template opens the assistant's turn, if it does."""

    def check(self, context: Any, new_tokens: int) -> None:
        """Raise ContextTooLong where it is known beforehand."""

    def confidence(self, said: Generation, start: int, stop: int) -> float | None:
        """The mean log-probability of the tokens of `said.text[start:stop]`; None where it is unknown, or empty."""

    def generate(
        self, contexts: Sequence[Any], max_new_tokens: int, *, stop: Sequence[str] = (), batch_size: int = 16
    ) -> Sequence[Generation | LagkitError]:
        """Continuations in the order of `contexts`, or in the place of one the error that it alone met.

        Raises EndpointError where there is no point in asking on, and any other error for the batch as a whole.
        """
