"""A variant by its name: a policy, and what it changes of the agent's limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lagkit.agent import Limits
from lagkit.errors import ConfigError
from lagkit.policy import Policy, get_policy

_MARK = "+"
_LIMITS = TypeAdapter(Limits)


@dataclass(frozen=True)
class Variant:
    """What is compared: a policy (None: no logs) under limits of its own, where they differ from those of the run."""

    name: str
    policy: Policy | None
    changes: Mapping[str, Any]

    @classmethod
    def parse(cls, name: str) -> Variant:
        """From a policy's name and changes of `Limits` behind it, as in `no_logs+passages=4+max_rounds=8`.

        Raises ConfigError for an unknown policy, an unknown limit or a wrong value.
        """
        policy = get_policy(name)
        known = {field.name for field in fields(Limits)}
        words = {}
        for change in name.split(_MARK)[1:]:
            key, _, value = change.partition("=")
            if key not in known or not value:
                raise ConfigError(
                    f"{name!r} changes {change!r}: write NAME=VALUE, where NAME is one of {', '.join(sorted(known))}."
                )
            words[key] = value
        try:
            limits = _LIMITS.validate_python(words)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"The variant {name!r} is wrong: {first['loc'][0]}: {first['msg']}.") from error
        return cls(name, policy, {key: getattr(limits, key) for key in words})

    def limits(self, limits: Limits) -> Limits:
        """The run's limits, with this variant's changes."""
        return replace(limits, **self.changes)
