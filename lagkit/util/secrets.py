"""Keys and passwords of the environment, kept out of what is written down: words from elsewhere may repeat them."""

from __future__ import annotations

import base64
import json
import os
import re
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

from lagkit.util.files import write

HIDDEN = "[secret]"
_NAMES = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|BEARER|COOKIE|(?<=_)(?:PASS|PWD|PAT|AUTH|SIG)(?![A-Z])",
    re.IGNORECASE,
)
_OF_A_FILE = re.compile(r"_(?:FILE|PATH|DIR|SOCK)$", re.IGNORECASE)  # these say where a secret is
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@\"'<>\\]+@")
_ASSIGNED = re.compile(r"(\w+)=([^\s;&]+)")  # in connection strings and addresses
# A secret has letters, and a digit, capitals behind small letters, or twelve characters: texts are full of shorter
# words ("not-needed", "true") and of numbers.
_TELLING = re.compile(r"(?=.*[^\W\d])(?:(?=.*\d).{8,}|(?=.*[a-z].*[A-Z]).{8,}|.{12,})", re.DOTALL)
_LEAST = 8  # characters of an encoded secret


def scrub(text: str, *more: str) -> str:
    """`text` without the secrets of the environment, those of `more`, and names and passwords in addresses.

    Secrets are the values of variables such as LAGKIT_API_KEY, HF_TOKEN or GITHUB_PAT, and the names and passwords in
    variables that hold an address or a connection string; as they are, as JSON, Python, HTML and addresses spell them,
    and in base64 (a Basic header) or hex, whatever stands around them.
    """
    for secret in _spellings((*_of_environment(), *more)):
        text = text.replace(secret, HIDDEN)
    return _IN_ADDRESS.sub("", text)


def scrub_file(path: Path) -> None:
    """`scrub` a text file in place, whole or not at all; one that holds no secret is not touched."""
    before = path.read_bytes()
    after = scrub(before.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    if after != before:
        write(path, after)


def _of_environment() -> list[str]:
    found = [value.strip() for name, value in os.environ.items() if _is_secret(name)]
    for value in os.environ.values():
        found += [assigned for name, assigned in _ASSIGNED.findall(value) if _is_secret(name)]
        for credentials in map(unquote, _IN_ADDRESS.findall(value)):
            name, colon, password = credentials[:-1].partition(":")
            found += [f"{name}:{password}", password] if colon else [name]
    return found


def _is_secret(name: str) -> bool:
    return bool(_NAMES.search(name)) and not _OF_A_FILE.search(name)


@lru_cache(8)
def _spellings(secrets: tuple[str, ...]) -> list[str]:
    """Everything that stands for one of the secrets, the longest first."""
    found: set[str] = set()
    for secret in secrets:
        if ":" in secret and len(secret) >= _LEAST:  # name and password, as a header has them, be the password a word
            found.add(base64.b64encode(secret.encode()).decode())
        if _TELLING.fullmatch(secret):
            found |= _written(secret) | _encoded(secret.encode("utf-8", "surrogateescape"))
    return sorted(found, key=len, reverse=True)


def _written(secret: str) -> set[str]:
    as_json = {json.dumps(secret, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False)}
    nested = {json.dumps(spelt)[1:-1] for spelt in as_json}
    quoted = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    lower = {re.sub("%..", lambda code: code[0].lower(), spelt) for spelt in quoted}
    return {secret, repr(secret)[1:-1], escape(secret), escape(secret, quote=False)} | as_json | nested | quoted | lower


def _encoded(secret: bytes) -> set[str]:
    """In hex and base64; of the latter, what follows from the secret alone at each place where it may begin."""
    found = {secret.hex(), secret.hex().upper()}
    for before in range(3):
        code = base64.b64encode(b"\0" * before + secret)
        whole = code.decode()[-(-8 * before // 6) : (before + len(secret)) * 8 // 6]
        found |= {whole, whole.translate(str.maketrans("+/", "-_"))}
    return {code for code in found if len(code) >= _LEAST}
