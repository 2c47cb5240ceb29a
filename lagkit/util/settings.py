"""Settings that are checked as a whole, from plain values or a YAML file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lagkit.util.errors import ConfigError
from lagkit.util.paths import at
from lagkit.util.plainjson import read_text
from lagkit.util.plainyaml import load_yaml


def _nameable(path: Path) -> Path:
    """The path, if a file system can hold its name; raises ValueError otherwise."""
    if b"\0" in os.fsencode(path):
        raise ValueError(f"{str(path)!r} holds a NUL, which no file name may")
    return path


def _no_switch(value: object) -> object:
    """Refuse true and false, in lists too: as numbers they would count as 1 and 0."""
    if switches := [part for part in _parts(value) if isinstance(part, bool)]:
        raise ValueError(
            f"{switches[0]} is true or false, as are yes, no, on and off in YAML: put text in quotes, or give a number"
        )
    return value


# An absolute folder: it stays the same when the run is resumed from elsewhere.
Folder = Annotated[Path, AfterValidator(_nameable), AfterValidator(at)]
NoSwitch = BeforeValidator(_no_switch)  # for fields of dataclasses; those of `Settings` have it


class Settings(BaseModel):
    """Settings that are checked as a whole: no unknown key, no wrong value, no change afterwards.

    groups: fields that hold settings of their own, whose keys users write flat, beside all others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: ClassVar[str] = "settings"
    groups: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def keys(cls) -> dict[str, str]:
        """Each key that users write, with the group that holds it; empty for a field of its own."""
        found = {field.alias or name: "" for name, field in cls.model_fields.items() if name not in cls.groups}
        for group in cls.groups:
            kind: Any = cls.model_fields[group].annotation
            found |= dict.fromkeys(kind.keys() if issubclass(kind, Settings) else kind.__dataclass_fields__, group)
        return found

    def flat(self, **options: Any) -> dict[str, Any]:
        """The settings as plain JSON values under the keys that users write; the inverse of `parse`.

        options: of `model_dump`, such as `exclude_none`.
        """
        found: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json", by_alias=True, **options).items():
            found |= value if name in self.groups else {name: value}
        return found

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, settings: Any) -> Any:
        if not cls.groups or not isinstance(settings, dict):
            return settings
        keys = cls.keys()
        grouped: dict[str, Any] = {group: {} for group in cls.groups}
        for key, value in settings.items():
            # A group refuses an unknown key, too.
            group = keys.get(key, cls.groups[0])
            (grouped[group] if group else grouped)[key] = value
        return grouped

    @field_validator("*", mode="before")
    @classmethod
    def _switches_where_meant(cls, value: object, info: ValidationInfo) -> object:
        return value if _may_switch(cls.model_fields[str(info.field_name)].annotation) else _no_switch(value)

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """From plain values; raises ConfigError with one line per unknown key or wrong value."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            known = ", ".join(cls.keys())
            lines = []
            for e in error.errors():
                place = e["loc"][1:] if e["loc"][:1] and e["loc"][0] in cls.groups else e["loc"]
                where, said = ".".join(map(str, place)), _said(e["type"], e["msg"], e["input"])
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
    """Whether true and false are among the values of such a type; settings and dataclasses inside check their own."""
    own = isinstance(annotation, type) and (issubclass(annotation, Settings) or is_dataclass(annotation))
    return own or annotation in (bool, Any) or any(map(_may_switch, get_args(annotation)))


def _said(kind: str, message: str, value: object) -> str:
    """What is wrong with one value; YAML makes numbers and dates of what may be meant as text."""
    if kind in ("tuple_type", "list_type"):
        return f"a list is needed, such as [a, b], and not {value!r}"
    if kind not in ("string_type", "path_type"):
        return message.removeprefix("Value error, ")
    if not isinstance(value, int | float | date):
        return f"text is needed, and not {value!r}"
    read = "date" if isinstance(value, date) else "number"
    return f"{value} is a {read}, and text is needed: put it in quotes (on a command line \"'{value}'\")"
