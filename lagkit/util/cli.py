"""Shared parts of the commands: exit codes, `key=value` settings, tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lagkit.util.errors import ConfigError, LagkitError
from lagkit.util.plainyaml import load_yaml
from lagkit.util.secrets import scrub
from lagkit.util.terminal import printable, tell

if TYPE_CHECKING:
    import pandas as pd

INTERRUPTED = 130
_command = cache(typer.main.get_command)  # putting it together takes 25 ms, and a process may call it more than once
Settings = Annotated[list[str] | None, typer.Argument(metavar="key=value", help="settings; values are YAML")]


def application(text: str) -> typer.Typer:
    """A command with subcommands, whose help and errors are plain text."""
    return typer.Typer(help=text, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def call(app: typer.Typer, name: str, words: Sequence[str] | None = None) -> int:
    """Run the command that `words` name, by default those behind `name` in the shell; returns its `exit_code`."""
    return exit_code(lambda: _command(app)(words, prog_name=name, standalone_mode=False))


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command; 0 or what it returns, 2 after an error, which is told in one line, 130 when interrupted."""
    try:
        code = command() or 0
    except typer.TyperException as error:
        where = getattr(error, "ctx", None)
        see = f" (see `{where.command_path} --help`)." if where else "."
        tell(f"lagkit: {_line(error.format_message()).rstrip('.')}{see}", sys.stderr)
        return 2
    except (LagkitError, OSError) as error:
        # A full disk or a folder without permission is no fault of the program either.
        tell(f"lagkit: {_line(str(error))}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # also what Typer returns for it
        tell("Interrupted; the same command resumes.", sys.stderr)
    return code


def parted(words: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Words that are no `key=value`, and those that are."""
    pairs = [word for word in words or () if "=" in word and word.partition("=")[0].isidentifier()]
    return [word for word in words or () if word not in pairs], pairs


def settings(pairs: Sequence[str] | None, own: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """`key=value` words as settings; values are YAML. Raises ConfigError for anything else.

    own: settings that the command itself decides, each with what to give instead; they are refused.
    """
    found = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ConfigError(f"Settings are given as key=value; {pair!r} is not.")
        if key in own:
            raise ConfigError(f"{key} is not to be set here: {own[key]}.")
        if key in found:
            raise ConfigError(f"The setting {key} is given twice: give it once.")
        found[key] = load_yaml(value, f"The value of {pair!r}")
    return found


def show(table: pd.DataFrame, title: str) -> None:
    """Print a table under its title."""
    told = table.map(_plain).rename(index=_plain, columns=_plain)
    tell(f"\n{title}\n{told.to_string(float_format='{:.3f}'.format)}")


def _plain(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _line(text: str) -> str:
    return " ".join(scrub(text).split())
