"""An endpoint's address and key, found in the environment; the key leaves this module towards the client alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from lagkit.util.errors import ConfigError
from lagkit.util.secrets import scrub

# Address and key belong together: a key is never sent to an address that was set elsewhere.
_VARIABLES = (("LAGKIT_API_BASE", "LAGKIT_API_KEY"), ("OPENAI_BASE_URL", "OPENAI_API_KEY"))


@dataclass(frozen=True)
class Endpoint:
    """Where an OpenAI-compatible API answers (`base_url`, up to `/v1`), and with which key.

    Raises ConfigError for an address that is none, or a key that no request can carry.
    """

    base_url: str = field(repr=False)
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):
            # It is not repeated: what is no address need not have its password where addresses have it.
            raise ConfigError(
                "The address of the endpoint is not of the form https://HOST/v1 (http:// for a server of your own)."
            )
        if not all("!" <= letter <= "~" for letter in self.key):
            raise ConfigError(
                "The endpoint's key has a space, a line break or a letter beyond ASCII in it, and no request can carry "
                "that: copy it anew."
            )

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r})"

    @property
    def host(self) -> str:
        """The host alone: a port may differ from start to start, and names and passwords are nobody's business."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def shown(self) -> str:
        """The address without names and passwords in it, for messages."""
        return urlsplit(self.bare_url)._replace(query="", fragment="").geturl()

    @property
    def credentials(self) -> tuple[str, str] | None:
        """Name and password in the address; None where it has none."""
        parts = urlsplit(self.base_url)
        return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))

    @property
    def bare_url(self) -> str:
        """The address without `credentials`: the client logs where it sends a request."""
        parts = urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def scrub(self, text: str) -> str:
        """What an endpoint said, without key and password, should it repeat them."""
        return scrub(text, self.key, *(self.credentials or ())[1:], ":".join(self.credentials or ()))

    @classmethod
    def find(cls, base_url: str = "") -> Endpoint:
        """From the first pair of variables whose address is set; with `base_url`, the key is LAGKIT_API_KEY.

        Raises ConfigError where a variable is missing.
        """
        if base_url:
            return cls(base_url, _key("LAGKIT_API_KEY", "an endpoint is given"))
        for address, key in _VARIABLES:
            if found := os.environ.get(address, "").strip():
                return cls(found, _key(key, f"{address} is set"))
        raise ConfigError(
            "No endpoint is set: put its address into LAGKIT_API_BASE (or OPENAI_BASE_URL), such as "
            "https://api.openai.com/v1, and its key into LAGKIT_API_KEY (or OPENAI_API_KEY)."
        )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _key(variable: str, given: str) -> str:
    if found := os.environ.get(variable, "").strip():
        return found
    raise ConfigError(
        f"{variable} is not set, but {given}: put the endpoint's key there (any word for a server that asks for none)."
    )
