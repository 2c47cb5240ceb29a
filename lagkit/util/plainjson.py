"""Text and JSON files of users: errors name file and line."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from lagkit.util.errors import ConfigError, LagkitError

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, wrong: type[LagkitError] = ConfigError) -> str:
    """A UTF-8 file's text without its byte order mark; raises `wrong` if it is missing, unreadable or not UTF-8.

    Of a file that is missing, those of the same stem beside it are named: `dev_test.jsonl` is no `dev_test.json`.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        others = sorted(p.name for p in path.parent.glob(f"{path.stem}.*")) if path.parent.is_dir() else []
        beside = f", but {', '.join(others)} is there: write it as {path.suffix}" if others else ""
        raise wrong(f"The file {path} is missing{beside}.") from None
    except OSError as error:
        raise wrong(f"The file {path} cannot be read: {error.strerror}.") from error
    if raw.startswith(_WIDE) or b"\0" in raw[:4]:
        raise wrong(f"The file {path} is UTF-16 or UTF-32 text: save it as UTF-8.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise wrong(f"The file {path} is not UTF-8 text in line {line}: save it as UTF-8.") from error


def read_json(path: Path, wrong: type[LagkitError] = ConfigError) -> Any:
    """The value in a JSON file; raises `wrong` for what `read_text` refuses, for a repeated key, NaN, or no JSON."""
    text = read_text(path, wrong)
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        problem = error.msg
        if text[: error.pos].rstrip().endswith(","):
            problem = "there is a comma too many"
        elif text[error.pos :].lstrip()[:1] in tuple("{[") and error.msg == "Extra data":
            problem = "a second value begins; where there is one on each line, make them a list"
        where = f"line {error.lineno}, column {error.colno}"
        raise wrong(f"The file {path} is not valid JSON: {problem} ({where}).") from error
    except (ValueError, RecursionError) as error:
        raise wrong(f"The file {path} is not valid JSON: {error}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: of equal ones, JSON parsers silently take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice in the object {found!s:.60}…")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")
