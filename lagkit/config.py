"""The settings of a run, checked before anything expensive starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from lagkit.agent import Limits
from lagkit.errors import ConfigError
from lagkit.policy import POLICIES, get_policy

Split = Literal["seen", "unseen"]
Wording = Literal["examples", "plain", "short"]


class Settings(BaseModel):
    """Settings that are checked as a whole: no unknown key, no wrong value, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: ClassVar[str] = "settings"

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """From plain values; raises ConfigError with one line per unknown key or wrong value."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            known = ", ".join(cls.model_fields)
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            unknown = any(e["type"] == "extra_forbidden" for e in error.errors())
            hint = f" (keys are {known})" if unknown else ""
            raise ConfigError(f"Wrong {cls.what}: " + "; ".join(lines) + hint + ".") from error

    @classmethod
    def read(cls, path: Path | str, overrides: dict[str, Any] | None = None) -> Self:
        """From a YAML file and overrides; raises ConfigError when it is missing or not a mapping."""
        try:
            raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"The file {path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"The file {path} cannot be read: it is not UTF-8 text.") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"The file {path} is not YAML: {error}") from error
        if not isinstance(raw, dict):
            raise ConfigError(f"The file {path} must hold `key: value` lines.")
        return cls.parse({**raw, **(overrides or {})})


class RunConfig(Settings):
    """Everything that a run depends on; defaults are the authors' (paper, section 4) on a model for two cores.

    data: folder in the LAG layout. dataset: its format, by default the folder's name. out: where results go.
    wording: of the prompts; small models need worked `examples`, larger ones don't (`plain`), and `short` is for models
    that were trained on the protocol. log_questions, seen_questions, unseen_questions: sizes of seeded samples (None
    takes all); seen questions are drawn from those that the log store was built on.
    """

    what: ClassVar[str] = "run settings"

    data: Path
    out: Path
    dataset: str | None = None
    model: str = "smollm2"
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    embedder: str = "minilm"
    wording: Wording = "examples"
    policies: tuple[str, ...] = tuple(POLICIES)
    splits: tuple[Split, ...] = Field(default=("seen", "unseen"), min_length=1)
    log_questions: PositiveInt | None = None
    seen_questions: PositiveInt | None = None
    unseen_questions: PositiveInt | None = None
    seed: int = 1234
    passages: PositiveInt = 2
    logs: PositiveInt = 3
    max_rounds: PositiveInt | None = None
    max_new_tokens: PositiveInt = 1024
    batch_size: PositiveInt = Field(default=16, description="questions in flight at once")

    @field_validator("policies")
    @classmethod
    def _known_policies(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                get_policy(name)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        if "no_logs" not in names:
            raise ValueError("no_logs must be among them, since differences are measured against it")
        return names

    @field_validator("policies", "splits")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} stands twice")
        return names

    @property
    def limits(self) -> Limits:
        """The agent's share of the settings."""
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})
