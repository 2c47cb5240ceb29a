"""What a model behind an API continues."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chat:
    """What a generation starts from: messages with `role` and `content`."""

    messages: tuple[dict[str, str], ...]
