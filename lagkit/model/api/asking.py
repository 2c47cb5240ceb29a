"""Requests to an endpoint: spaced out, repeated by openai's client, and given up with a sentence."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import openai
from pyrate_limiter import Limiter, Rate

from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.reply import Malformed
from lagkit.model.api.requests import Requests
from lagkit.util.errors import ContextTooLong, EndpointError, LagkitError, RequestRefused

T = TypeVar("T")

_TOO_LONG = re.compile(r"context[ _-]?(length|size|window)|(prompt|input|request) is too (long|large)", re.IGNORECASE)
_NO_MONEY = "insufficient_quota"  # comes as a rate limit, but waiting does not help
_SAID = 300  # characters of an endpoint's own words that are repeated
_TRIES = "x-stainless-retry-count"  # the client's header: how often a request was sent before

_given_up: ContextVar[threading.Event] = ContextVar("given_up")


class Asking:
    """Sends requests to one endpoint for one model; may be shared by threads.

    sent, repeated: numbers of requests, and of those among them that repeat a failed one.
    """

    def __init__(self, endpoint: Endpoint, model: str, requests: Requests) -> None:
        self.endpoint, self.model, self.requests = endpoint, model, requests
        self.sent = self.repeated = 0
        per_minute, self._lock = requests.per_minute, threading.Lock()
        self._limiter = Limiter(Rate(1, -(-60_000 // per_minute)), buffer_ms=1) if per_minute else None
        # Each try passes the hook, those that the client repeats as well.
        passing = openai.DefaultHttpxClient(auth=endpoint.credentials, event_hooks={"request": [self._pass]})
        self.client = openai.OpenAI(
            base_url=endpoint.bare_url,
            api_key=endpoint.key,
            timeout=requests.timeout,
            max_retries=requests.retries,
            http_client=passing,
        )

    def ask(self, send: Callable[[], T], given_up: threading.Event) -> T:
        """What `send` returns; the client repeats it where that may help, and not once `given_up` is set.

        Raises ContextTooLong or RequestRefused for what stands in the request, else EndpointError.
        """
        _given_up.set(given_up)
        try:
            return send()
        except (openai.OpenAIError, Malformed) as error:
            failure = self._failure(error)
        raise failure  # here, for the client's error may tell the key

    def _pass(self, request: Any) -> None:
        """Wait for the next place; raises EndpointError where nothing is asked any more."""
        if self._limiter is not None:
            self._limiter.try_acquire()
        if _given_up.get().is_set():
            raise EndpointError(f"{self.endpoint.shown} was not asked any more, since another request failed.")
        with self._lock:
            self.sent += 1
            self.repeated += request.headers.get(_TRIES, "0") != "0"

    def _failure(self, error: Exception) -> LagkitError:
        """What is raised: a sentence that says what may be done, or how often it was tried."""
        where, said, status = self.endpoint.shown, self._said(error), getattr(error, "status_code", None)
        if isinstance(error, openai.APIStatusError) and (lasting := self._lasting(error, said)):
            return lasting
        if isinstance(error, openai.APITimeoutError):
            trouble = f"did not answer within {self.requests.timeout:g} s"
        elif isinstance(error, openai.APIConnectionError):
            trouble = f"cannot be reached, see that the address in LAGKIT_API_BASE is right and its server runs: {said}"
        elif status is None:
            trouble = f"does not answer in the form of OpenAI's API: {said}"
        elif status == 429:
            trouble = f"limits the rate of requests, lower api.per_minute: {said}"
        else:
            trouble = f"fails with {status}: {said}"
        tries = 1 + int(error.request.headers.get(_TRIES, 0)) if isinstance(error, openai.APIError) else 1
        tried = "once" if tries == 1 else f"{tries} times"
        return EndpointError(f"{where} {trouble} (tried {tried}). What has ended is kept: the same command resumes.")

    def _lasting(self, error: openai.APIStatusError, said: str) -> LagkitError | None:
        """The error of what the same request would meet again."""
        status, code = error.status_code, str(error.code)
        kind: type[LagkitError] = EndpointError
        if code == _NO_MONEY:
            trouble, remedy = "has no credit left for this key", "add some"
        elif status in (401, 403):
            trouble, remedy = "refuses the key", "set the endpoint's key beside its address, in LAGKIT_API_KEY"
        elif status == 404:
            trouble, remedy = f"has no model {self.model!r}, or not at this address", "compare both with its manual"
        elif status not in (400, 413, 422):
            return None
        elif "context_length" in code or _TOO_LONG.search(said):
            kind, trouble = ContextTooLong, "finds a request too long"
            remedy = "show fewer logs, or lower max_new_tokens"
        elif "content" in code:
            kind, trouble, remedy = RequestRefused, "refuses a request for its content", "leave the question out"
        else:
            trouble, remedy = "does not understand the request", "see the settings under `api` for what it may not know"
        return kind(f"{self.endpoint.shown} {trouble} ({status}: {said}): {remedy}.")

    def _said(self, error: Exception) -> str:
        """The endpoint's own words in one line, without the key, should they repeat it."""
        body = getattr(error, "body", None)
        words = (body.get("message") or body.get("detail")) if isinstance(body, dict) else None
        if isinstance(error, openai.APIConnectionError) and error.__cause__:
            words = str(error.__cause__)
        told = self.endpoint.scrub(" ".join(str(words or error).split()).replace(self.endpoint.key, "[the key]"))
        return told[:_SAID].rstrip(".")
