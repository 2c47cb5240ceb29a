"""Requests that are spaced out, repeated where that may help, and given up with a sentence where it won't."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import openai

from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.requests import Requests
from lagkit.util.errors import ContextTooLong, EndpointError, LagkitError, RequestRefused

T = TypeVar("T")

_TOO_LONG = re.compile(r"context[ _-]?(length|size|window)|(prompt|input|request) is too (long|large)", re.IGNORECASE)
_NO_MONEY = "insufficient_quota"  # comes as a rate limit, but waiting does not help
_SAID = 300  # characters of an endpoint's own words that are repeated


class RateLimiter:
    """Lets requests pass one after the other, at most `per_minute` (None: any number), and none while it is held."""

    def __init__(self, per_minute: int | None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self) -> float:
        """Take the next place; returns the seconds until it comes."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._next)
            self._next = place + self._gap
            return place - now

    def hold(self, seconds: float) -> None:
        """Let nobody pass for some seconds from now, but those who have a place already."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


@dataclass
class Asking:
    """Sends requests to one endpoint for one model; may be shared by threads.

    sent, repeated: numbers of requests, and of those among them that repeat a failed one.
    """

    endpoint: Endpoint
    model: str
    requests: Requests
    sent: int = 0
    repeated: int = 0
    _reached: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._gate = RateLimiter(self.requests.per_minute)

    def ask(self, send: Callable[[], T], given_up: threading.Event) -> T:
        """What `send` returns, tried again while its failure may pass and `given_up` is not set.

        Raises ContextTooLong or RequestRefused for what stands in the request, and EndpointError where no request
        would do better.
        """
        for tries in range(self.requests.retries + 1):
            if given_up.wait(self._gate.turn()):
                raise EndpointError(f"{self.endpoint.shown} was not asked any more, since another request failed.")
            self._count(tries)
            try:
                reply = send()
            except (openai.OpenAIError, ValueError) as error:
                trouble, wait = self._passing(error), self._wait(error, tries)
            else:
                self._reached = True
                return reply
            if tries == self.requests.retries or wait > self.requests.patience:
                break
            self._gate.hold(wait)
            given_up.wait(wait * random.uniform(1.0, 1.5))  # apart, so that those held together don't come together
        tried = "once" if tries == 0 else f"{tries + 1} times"
        raise EndpointError(f"{trouble} (tried {tried}). What has ended is kept: the same command resumes.")

    def _count(self, tries: int) -> None:
        with self._lock:
            self.sent += 1
            self.repeated += bool(tries)

    def _passing(self, error: Exception) -> str:
        """The trouble in words, if it may pass; else raises. The error itself is not chained: it may tell the key."""
        where, said = self.endpoint.shown, self._said(error)
        if isinstance(error, openai.APITimeoutError):
            return f"{where} did not answer within {self.requests.timeout:g} s"
        if isinstance(error, openai.APIConnectionError):
            if self._reached:
                return f"{where} cannot be reached any more: {said}"
            raise EndpointError(
                f"{where} cannot be reached ({said}): see that the address in LAGKIT_API_BASE is right and its server "
                "runs."
            ) from None
        if not isinstance(error, openai.APIStatusError):
            return f"{where} does not answer in the form of OpenAI's API: {said}"
        self._reached = True
        self._raise_lasting(error, said)
        if error.status_code == 429:
            return f"{where} limits the rate of requests, lower api.per_minute: {said}"
        return f"{where} fails with {error.status_code}: {said}"

    def _raise_lasting(self, error: openai.APIStatusError, said: str) -> None:
        """Raise for what the same request would meet again."""
        status, code = error.status_code, str(error.code)
        kind: type[LagkitError]
        if code == _NO_MONEY:
            kind, trouble, remedy = EndpointError, "has no credit left for this key", "add some"
        elif status in (401, 403):
            kind, trouble = EndpointError, "refuses the key"
            remedy = "set the endpoint's key beside its address, in LAGKIT_API_KEY"
        elif status == 404:
            kind, trouble = EndpointError, f"has no model {self.model!r}, or not at this address"
            remedy = "compare both with its manual"
        elif status not in (400, 413, 422):
            return
        elif "context_length" in code or _TOO_LONG.search(said):
            kind, trouble = ContextTooLong, "finds a request too long"
            remedy = "show fewer logs, or lower max_new_tokens"
        elif "content" in code:
            kind, trouble, remedy = RequestRefused, "refuses a request for its content", "leave the question out"
        else:
            kind, trouble = EndpointError, "does not understand the request"
            remedy = "see the settings under `api` for what it may not know"
        raise kind(f"{self.endpoint.shown} {trouble} ({status}: {said}): {remedy}.") from None

    def _said(self, error: Exception) -> str:
        """The endpoint's own words in one line, without the key, should they repeat it."""
        body = getattr(error, "body", None)
        words = (body.get("message") or body.get("detail")) if isinstance(body, dict) else None
        if isinstance(error, openai.APIConnectionError) and error.__cause__:
            words = str(error.__cause__)
        told = self.endpoint.scrub(" ".join(str(words or error).split()).replace(self.endpoint.key, "[the key]"))
        return told[:_SAID].rstrip(".")

    def _wait(self, error: Exception, tries: int) -> float:
        """Seconds until the next try: what the endpoint asks for, or else twice as long each time."""
        response = getattr(error, "response", None)
        asked = _seconds(response.headers.get("retry-after", "")) if response is not None else None
        return self.requests.backoff * 2**tries if asked is None else asked


def _seconds(retry_after: str) -> float | None:
    """A `Retry-After` header in seconds: it holds a number, or a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # neither, or a date without its zone
        return None
