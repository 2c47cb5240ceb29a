"""Errors of LanceDB and object stores as lagkit's: one sentence that says what to do, without secrets."""

from __future__ import annotations

import re

from lagkit.util.errors import StoreError, StoreUnreachable
from lagkit.util.secrets import scrub


class Lost(StoreError):
    """Part of the store is missing or damaged.

    flaw: what is wrong, in a few words.
    """

    def __init__(self, uri: str, flaw: str) -> None:
        super().__init__(
            f"Something of the log store at {uri} is damaged: {flaw}. verify() lists what is, prune() removes it."
        )
        self.flaw = flaw


class Conflict(StoreError):
    """Other processes changed a table at the same time, even after all retries."""


_STATUS = r"status(?: code)?: "
_DENIED = re.compile(
    rf"{_STATUS}40[13]|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|privileges"
    "|Unauthenticated|[Cc]redential"
)
_THROTTLED = re.compile(rf"SlowDown|{_STATUS}(?:429|503)|Too Many Requests")
_SILENT = re.compile(
    rf"{_STATUS}5\d\d|error sending request|kind: (?:Connect|Timeout|Request)|ConnectError|timed out|dns error"
    "|[Cc]onnection (?:refused|reset|closed)|error decoding response body|IncompleteMessage"
)
_CONFLICT = re.compile("[Cc]onflict|[Cc]oncurrent|[Cc]ontention|[Pp]reempted")
_MISSING = re.compile(r"[Nn]ot found: (?:.*[Nn]ot found: )?([^\s,]+)")
_CODE = re.compile(r"<Code>(\w+)</Code>")


def refusal(error: BaseException, uri: str, what: str, seconds: float | None) -> StoreError:
    """The error to raise instead of what LanceDB raised while the store at `uri` was asked to `what`.

    Raise it `from None`: what object stores answer may quote the credentials.
    """
    said = str(error)
    code = f" ({found[1]})" if (found := _CODE.search(said)) else ""
    if "NoSuchBucket" in said or "ContainerNotFound" in said:
        return StoreUnreachable(f"There is no bucket for {uri}: make it, or name another one.")
    if _DENIED.search(said):
        return StoreUnreachable(
            f"The object store refuses access to {uri}{code}: look at the credentials and the region in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; docs/stores.md has all)."
        )
    if _THROTTLED.search(said):
        return StoreUnreachable(
            f"The object store limits the rate of requests to {uri}{code} for too long: wait, or use it from fewer "
            "processes; what was committed is safe."
        )
    if isinstance(error, TimeoutError) or "merge insert timed out" in said:
        return StoreUnreachable(
            f"The log store at {uri} could not {what} within {seconds:g} s: see to the network, and go on then; what "
            "was committed is safe."
        )
    if _SILENT.search(said):
        return StoreUnreachable(
            f"The object store of {uri} cannot be reached{code}: see to the network and to AWS_ENDPOINT_URL, and go on "
            "then; what was committed is safe."
        )
    if found := _MISSING.search(said):
        return Lost(uri, f"the object {found[1].rstrip(':')} is missing")
    if _CONFLICT.search(said):
        return Conflict(
            f"The log store at {uri} could not {what}: other processes changed it at the same moment, again and again. "
            "It is as it was; try again, or let fewer processes write."
        )
    return Lost(uri, f"it could not {what} ({_plain(said)})")


def _plain(said: str) -> str:
    """The first sentence of what a library said, without places in its source code and without secrets."""
    text = " ".join(re.split(r", /\S+\.rs:|\blocation: Location|<\?xml", said)[0].split())
    return scrub(text)[:200] or "it said nothing"
