"""What the command lines of lagkit have in common: exit codes, `key=value` settings, tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from lagkit.util.errors import ConfigError, LagkitError
from lagkit.util.plainyaml import load_yaml
from lagkit.util.secrets import scrub
from lagkit.util.terminal import printable, tell

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


def exit_code(command: Callable[[T], int | None], args: T) -> int:
    """Run a command; 0 or what it returns, 2 after an error, which is told in one line, 130 when interrupted."""
    try:
        return command(args) or 0
    except (LagkitError, OSError) as error:
        # A full disk or a folder without permission is no fault of the program either.
        tell(f"lagkit: {' '.join(scrub(str(error)).split())}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        tell("Interrupted; the same command resumes.", sys.stderr)
        return 130


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The option `--set key=value ...`."""
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="key=value", help="override settings")


def settings(pairs: Sequence[str], own: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """`key=value` words as settings; values are YAML. Raises ConfigError for anything else.

    own: settings that the command itself decides, each with what to give instead; they are refused.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ConfigError(f"--set takes key=value; {pair!r} is not.")
        if key in own:
            raise ConfigError(f"{key} is not to be set here: {own[key]}.")
        if key in found:
            raise ConfigError(f"--set gives {key} twice: give it once.")
        found[key] = load_yaml(value, f"The value of --set {pair!r}")
    return found


def count(word: str) -> int:
    """A whole number above zero, as the type of an option."""
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number above zero")
    return int(word)


def show(table: pd.DataFrame, title: str) -> None:
    """Print a table under its title."""
    told = table.map(lambda value: printable(value) if isinstance(value, str) else value)
    told = told.rename(index=_plain, columns=_plain)
    tell(f"\n{title}\n{told.to_string(float_format='{:.3f}'.format)}")


def _plain(label: object) -> object:
    return printable(label) if isinstance(label, str) else label
