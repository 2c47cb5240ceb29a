"""Keys and passwords of the environment, kept out of what is written down: words from elsewhere may repeat them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from lagkit.files import write

HIDDEN = "[secret]"
_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@\"'<>\\]+@")
# What is shorter or has no digit may be a word ("not-needed"), what has no letter a number: texts are full of both.
_TELLING = re.compile(r"(?=.*\d)(?=.*[^\W\d]).{8,}", re.DOTALL)


def scrub(text: str, *more: str) -> str:
    """`text` without the secrets of the environment, those of `more`, and names and passwords in addresses.

    Secrets are the values of variables such as LAGKIT_API_KEY, HF_TOKEN or AWS_SECRET_ACCESS_KEY, and the passwords in
    variables that hold an address; as they are, and as JSON, Python and addresses spell them.
    """
    for secret in sorted(_spellings([*_of_environment(), *more]), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _IN_ADDRESS.sub("", text)


def scrub_file(path: Path) -> None:
    """`scrub` a text file in place, whole or not at all; one that holds no secret is not touched."""
    before = path.read_bytes()
    after = scrub(before.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    if after != before:
        write(path, after)


def _of_environment() -> list[str]:
    found = [value.strip() for name, value in os.environ.items() if _NAMES.search(name)]
    for value in os.environ.values():
        for credentials in _IN_ADDRESS.findall(value):
            found.append(unquote(credentials[:-1].partition(":")[2]))
    return found


def _spellings(secrets: list[str]) -> set[str]:
    kept = [secret for secret in secrets if _TELLING.fullmatch(secret)]
    return {spelt for s in kept for spelt in (s, json.dumps(s)[1:-1], repr(s)[1:-1], quote(s, safe=""))}
