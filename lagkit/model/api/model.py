"""A language model behind an OpenAI-compatible chat endpoint, as the agent sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.reply import Reply
from lagkit.model.api.requests import Chat, Requests
from lagkit.model.context import Generation
from lagkit.model.prompts.actions import cut
from lagkit.types import Usage
from lagkit.util.errors import ConfigError, ContextTooLong, LagkitError, QuestionError, ReasoningTooLong, RequestRefused
from lagkit.util.progress import warn


class APIModel:
    """A language model that is reached through chat completions: text goes in and comes out, its KV stays there.

    dtype: only what the header of its stores asks for. spent: the usage of all requests so far, `cost` its price.
    """

    dtype = "float32"
    opens = ""  # what its template writes is not part of a reply

    def __init__(self, name: str, *, endpoint: Endpoint | None = None, requests: Requests | None = None) -> None:
        """`name`: as the endpoint calls it. `endpoint`: by default as the environment says (see `Endpoint.find`).

        Nothing is sent yet. Raises ConfigError where openai is not installed, or a variable is missing.
        """
        if not all(map(find_spec, ("openai", "pyrate_limiter"))):
            raise ConfigError("Models behind an API need the openai client: pip install 'lagkit[api]'.")
        if not name:
            raise ConfigError("The model behind the API has no name: write it as api:NAME, as the endpoint calls it.")
        from lagkit.model.api.asking import Asking  # here, since it needs the client

        self.name = name
        self.requests = requests or Requests()
        self.endpoint = endpoint or Endpoint.find()
        self.spent = Usage()
        self._untold = False  # whether a reply came without a usage that can be counted
        self.asking = Asking(self.endpoint, name, self.requests)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"APIModel({self.name!r}, {self.endpoint.host})"

    @property
    def fingerprint(self) -> dict[str, str]:
        """Tells its stores from others: the model's name and the endpoint's host, which is all that can be known."""
        return {"name": self.name, "host": self.endpoint.host}

    @property
    def cost(self) -> float:
        """The price of all requests so far, in the currency of the settings' prices."""
        return self.requests.cost(self.spent)

    def confidence(self, said: Generation, start: int, stop: int) -> float | None:
        """None: an endpoint need not tell the probabilities of its tokens."""
        return None

    def check(self, context: Chat, new_tokens: int) -> None:
        """Nothing can be said beforehand: the endpoint alone knows its tokens, and what fits."""

    def generate(
        self, contexts: Sequence[Chat], max_new_tokens: int, *, stop: Sequence[str] = (), batch_size: int = 16
    ) -> list[Generation | LagkitError]:
        """Answers in the order of `contexts`, at most `batch_size` asked for at a time, cut behind a finished action.

        stop: as for `actions.cut`; not sent, since an endpoint would look for it in the reasoning, too. In the place of
        an answer stands ContextTooLong, RequestRefused or ReasoningTooLong where it alone has none: the others are paid
        for and stay. Raises EndpointError as soon as a request fails for another reason. `usage.seconds` is the wall
        time divided by the contexts; `usage.prefilled` counts the tokens of the whole chat.
        """
        began, given_up = time.perf_counter(), threading.Event()
        with ThreadPoolExecutor(max(1, min(batch_size, len(contexts)))) as pool:
            waiting = [pool.submit(self._answer, chat, max_new_tokens, stop, given_up) for chat in contexts]
            try:
                for one in as_completed(waiting):
                    one.result()
            except BaseException:
                given_up.set()
                pool.shutdown(cancel_futures=True)
                raise
        wall = Usage(seconds=(time.perf_counter() - began) / max(1, len(contexts)))
        return [self._timed(one.result(), wall) for one in waiting]

    def _answer(
        self, chat: Chat, max_new_tokens: int, stop: Sequence[str], given_up: threading.Event
    ) -> Generation | QuestionError:
        settings: dict[str, Any] = {self.requests.limit: max_new_tokens}
        if self.requests.temperature is not None:
            settings["temperature"] = self.requests.temperature
        create = self.asking.client.chat.completions.with_raw_response.create

        def send() -> tuple[Reply, Usage]:
            body = create(model=self.name, messages=list(chat.messages), **settings).http_response.content
            reply = Reply.read(body)
            return reply, self._book(reply.usage)

        try:
            reply, usage = self.asking.ask(send, given_up)
        except (ContextTooLong, RequestRefused) as error:
            return error
        text, shown = self.endpoint.scrub(reply.text), self.endpoint.shown
        if reply.refused:
            return RequestRefused(f"{shown} {self.endpoint.scrub(reply.refused)}: leave the question out.", usage)
        if reply.cut_off and not text.strip():
            return ReasoningTooLong(
                f"{shown} says nothing within {max_new_tokens} new tokens, which all went into reasoning: raise "
                "max_new_tokens.",
                usage,
            )
        return Generation(cut(text, stop), (), usage)

    def _book(self, usage: Usage | None) -> Usage:
        """Add to `spent` what a reply tells of its tokens; returns what is counted."""
        with self._lock:
            if usage is None and not self._untold:
                warn(f"{self.endpoint.shown} does not tell how many tokens it used: they are counted as none.")
                self._untold = True
            self.spent += usage or Usage()
        return usage or Usage()

    @staticmethod
    def _timed(answer: Generation | QuestionError, wall: Usage) -> Generation | LagkitError:
        if isinstance(answer, Generation):
            return replace(answer, usage=answer.usage + wall)
        answer.usage = (answer.usage or Usage()) + wall
        return answer
