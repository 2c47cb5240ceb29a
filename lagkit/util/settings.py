"""Settings that are checked as a whole, from plain values or a YAML file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.plainjson import read_text
from lagkit.util.plainyaml import load_yaml


def _nameable(path: Path) -> Path:
    """The path, if a file system can hold its name; raises ValueError otherwise."""
    if b"\0" in os.fsencode(path):
        raise ValueError(f"{str(path)!r} holds a NUL, which no file name may")
    return path


# A folder of the settings: absolute from here on, wherever the run is gone on with.
Folder = Annotated[Path, AfterValidator(_nameable), AfterValidator(at)]


class Settings(BaseModel):
    """Settings that are checked as a whole: no unknown key, no wrong value, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: ClassVar[str] = "settings"

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where they are not meant, in lists too: as numbers they would count as 1 and 0."""
        switches = [part for part in _parts(value) if isinstance(part, bool)]
        if switches and not _may_switch(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(
                f"{switches[0]} is true or false, as are yes, no, on and off in YAML: put text in quotes, or give a "
                "number"
            )
        return value

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """From plain values; raises ConfigError with one line per unknown key or wrong value."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            known = ", ".join(cls.model_fields)
            lines = []
            for e in error.errors():
                where, said = ".".join(map(str, e["loc"])), _said(e["type"], e["msg"], e["input"])
                lines.append(f"{where}: {said}" if where else said)
            unknown = any(e["type"] == "extra_forbidden" for e in error.errors())
            hint = f" (keys are {known})" if unknown else ""
            raise ConfigError(f"Wrong {cls.what}: " + "; ".join(lines) + hint + ".") from error

    @classmethod
    def read(cls, path: Path | str, overrides: dict[str, Any] | None = None) -> Self:
        """From a YAML file and overrides; raises ConfigError when it is missing or not a mapping."""
        raw = load_yaml(read_text(at(path)), f"The file {path}")
        if not isinstance(raw, dict):
            raise ConfigError(f"The file {path} must hold `key: value` lines.")
        return cls.parse({**raw, **(overrides or {})})


def _parts(value: object) -> Iterator[object]:
    """A value, or what its lists and mappings hold."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _may_switch(annotation: object) -> bool:
    """Whether true and false are among the values of such a type; settings inside of settings check their own."""
    own = isinstance(annotation, type) and issubclass(annotation, Settings)
    return own or annotation in (bool, Any) or any(map(_may_switch, get_args(annotation)))


def _said(kind: str, message: str, value: object) -> str:
    """What is wrong with one value; YAML makes numbers and dates of what may be meant as text."""
    if kind not in ("string_type", "path_type"):
        return message.removeprefix("Value error, ")
    if not isinstance(value, int | float | date):
        return f"text is needed, and not {value!r}"
    read = "date" if isinstance(value, date) else "number"
    return f"{value} is a {read}, and text is needed: put it in quotes (on a command line \"'{value}'\")"
