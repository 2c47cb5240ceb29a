"""How a model behind an API is asked."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lagkit.types import Usage
from lagkit.util.settings import Settings


class Requests(Settings):
    """How a model behind an API is asked, and what that costs.

    per_minute: so many requests at most (None: no limit). retries: of a request that failed for a reason that may pass,
    first after `backoff` seconds, then twice as long each time, or when the endpoint says; not if that is more than
    `patience` seconds. timeout: seconds to wait for an answer. temperature: None leaves it to the endpoint, which some
    models ask for. limit: the name under which the endpoint knows the largest number of new tokens. input_price,
    output_price: of a million tokens, in any currency.
    """

    what: ClassVar[str] = "settings of `api`"

    per_minute: PositiveInt | None = None
    retries: NonNegativeInt = 5
    backoff: float = Field(default=1.0, ge=0)
    patience: float = Field(default=120.0, ge=0)
    timeout: float = Field(default=120.0, gt=0)
    temperature: float | None = Field(default=0.0, ge=0)
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    input_price: float = Field(default=0.0, ge=0)
    output_price: float = Field(default=0.0, ge=0)

    def cost(self, usage: Usage) -> float:
        """The price of what was read and written; tokens that the endpoint has cached count like others."""
        return (self.input_price * usage.prefilled + self.output_price * usage.generated) / 1e6
