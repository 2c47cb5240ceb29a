"""What a model behind an API is asked, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lagkit.types import Usage
from lagkit.util.settings import Settings


@dataclass(frozen=True)
class Chat:
    """What a generation starts from: messages with `role` and `content`."""

    messages: tuple[dict[str, str], ...]


class Requests(Settings):
    """How a model behind an API is asked, and what that costs.

    per_minute: so many requests at most (None: no limit). retries: of a request that failed for a reason that may pass,
    by openai's client: after half a second, then twice as long each time up to 8, or when the endpoint says, within two
    minutes. timeout: seconds to wait for an answer. temperature: None leaves it to the endpoint. limit: its name for
    the largest number of new tokens. input_price, output_price: of a million tokens, in any currency.
    """

    what: ClassVar[str] = "settings of `api`"

    per_minute: PositiveInt | None = None
    retries: NonNegativeInt = 5
    timeout: float = Field(default=120.0, gt=0)
    temperature: float | None = Field(default=0.0, ge=0)
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    input_price: float = Field(default=0.0, ge=0)
    output_price: float = Field(default=0.0, ge=0)

    def cost(self, usage: Usage) -> float:
        """The price of what was read and written; tokens that the endpoint has cached count like others."""
        return (self.input_price * usage.prefilled + self.output_price * usage.generated) / 1e6
