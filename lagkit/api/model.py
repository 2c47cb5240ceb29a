"""A language model behind an OpenAI-compatible chat endpoint, as the agent sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from importlib.util import find_spec
from typing import Any

from lagkit.actions import close, cut
from lagkit.agent import Limits
from lagkit.api.chat import Chat, ChatAugmenter, refusal
from lagkit.api.endpoint import Endpoint
from lagkit.config import Requests
from lagkit.errors import ConfigError, ContextTooLong, LagkitError, RequestRefused
from lagkit.model import Generation
from lagkit.policy import Policy
from lagkit.progress import say
from lagkit.prompts import Prompt
from lagkit.store import Store
from lagkit.types import Usage


class APIModel:
    """A language model that is reached through chat completions: text goes in and comes out, its KV stays there.

    Its stores hold texts and embeddings and no KV blocks; `dtype` is only what their header asks for. `spent` is the
    usage of all requests so far, `cost` its price.
    """

    dtype = "float32"

    def __init__(self, name: str, *, endpoint: Endpoint | None = None, requests: Requests | None = None) -> None:
        """`name`: as the endpoint calls it. `endpoint`: by default as the environment says (see `Endpoint.find`).

        Nothing is sent yet. Raises ConfigError where openai is not installed, or a variable is missing.
        """
        if find_spec("openai") is None:
            raise ConfigError("Models behind an API need the openai client: pip install 'lagkit[api]'.")
        if not name:
            raise ConfigError("The model behind the API has no name: write it as api:NAME, as the endpoint calls it.")
        from openai import DefaultHttpxClient, OpenAI

        from lagkit.api.asking import Asking

        self.name = name
        self.requests = requests or Requests()
        self.endpoint = endpoint or Endpoint.find()
        self.spent = Usage()
        self.asking = Asking(self.endpoint, name, self.requests)
        self._client = OpenAI(
            base_url=self.endpoint.bare_url,
            api_key=self.endpoint.key,
            timeout=self.requests.timeout,
            max_retries=0,
            http_client=DefaultHttpxClient(auth=self.endpoint.credentials) if self.endpoint.credentials else None,
        )
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

    def augmenter(self, prompt: Prompt, policy: Policy | None = None, store: Store | None = None) -> ChatAugmenter:
        """Builds this model's chats."""
        return ChatAugmenter(self, prompt, policy, store)

    def admit(self, policy: Policy | None, limits: Limits) -> None:
        """Raise ConfigError for KV, for logs outside the user turn and for forced answers (see `chat.refusal`)."""
        if reason := refusal(policy, limits):
            raise ConfigError(reason)

    def confidence(self, said: Generation, start: int, stop: int) -> float | None:
        """None: an endpoint need not tell the probabilities of its tokens."""
        return None

    def check(self, context: Chat, new_tokens: int) -> None:
        """Nothing can be said beforehand: the endpoint alone knows its tokens, and what fits."""

    def generate(
        self, contexts: Sequence[Chat], max_new_tokens: int, *, stop: Sequence[str] = (), batch_size: int = 16
    ) -> list[Generation | LagkitError]:
        """Answers in the order of `contexts`, at most `batch_size` asked for at a time; `stop` holds closing tags.

        In the place of an answer stands ContextTooLong or RequestRefused where the endpoint says so: the others are
        paid for and stay. Raises EndpointError as soon as one request cannot be answered for another reason.
        `usage.seconds` is the wall time divided by the contexts, waiting included; `usage.prefilled` counts the tokens
        of the whole chat.
        """
        began, given_up = time.perf_counter(), threading.Event()
        with ThreadPoolExecutor(max(1, min(batch_size, len(contexts)))) as pool:
            waiting = [pool.submit(self._answer, chat, max_new_tokens, stop, given_up) for chat in contexts]
            try:
                wait(waiting, return_when=FIRST_EXCEPTION)
                for failure in (one.exception() for one in waiting if one.done()):
                    if failure is not None:
                        raise failure
                answers = [one.result() for one in waiting]
            except BaseException:
                given_up.set()
                pool.shutdown(cancel_futures=True)
                raise
        seconds = (time.perf_counter() - began) / max(1, len(contexts))
        return [self._timed(answer, seconds) for answer in answers]

    def _answer(
        self, chat: Chat, max_new_tokens: int, stop: Sequence[str], given_up: threading.Event
    ) -> tuple[str, Usage] | LagkitError:
        settings: dict[str, Any] = {self.requests.limit: max_new_tokens}
        if self.requests.temperature is not None:
            settings["temperature"] = self.requests.temperature
        if stop:
            settings["stop"] = list(stop)

        def send() -> tuple[str, Usage]:
            reply = self._client.chat.completions.create(model=self.name, messages=list(chat.messages), **settings)
            return self._read(reply, stop)

        try:
            return self.asking.ask(send, given_up)
        except (ContextTooLong, RequestRefused) as error:
            return error

    def _read(self, reply: Any, stop: Sequence[str]) -> tuple[str, Usage]:
        """A reply's text, which ends with its stop string, and its tokens."""
        from lagkit.api.asking import Malformed

        if not getattr(reply, "choices", None) or getattr(reply.choices[0], "message", None) is None:
            raise Malformed(f"no choices with a message in {self.endpoint.scrub(str(reply))[:80]!r}")
        choice = reply.choices[0]
        if choice.finish_reason == "content_filter":
            raise RequestRefused(f"{self.endpoint.shown} withholds an answer for its content: leave the question out.")
        text = cut(self.endpoint.scrub(choice.message.content or ""), stop)
        if choice.finish_reason == "stop":
            text = close(text, stop)
        usage = Usage(reply.usage.prompt_tokens, 0, reply.usage.completion_tokens) if reply.usage else Usage()
        self._book(usage)
        return text, usage

    def _book(self, usage: Usage) -> None:
        with self._lock:
            if usage == Usage() and self.spent == Usage():
                say(f"{self.endpoint.shown} does not tell how many tokens it used: they are counted as none.")
            self.spent += usage

    @staticmethod
    def _timed(answer: tuple[str, Usage] | LagkitError, seconds: float) -> Generation | LagkitError:
        if isinstance(answer, LagkitError):
            return answer
        text, usage = answer
        return Generation(text, (), usage + Usage(seconds=seconds))
