"""An endpoint that plays faults: a small HTTP server on a thread, which answers chat completions by a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

from openai import _base_client

from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.model import APIModel
from lagkit.model.api.requests import Requests

KEY = "sk-very-secret-4711"
_transports = _base_client.httpx2._transports.default
_certificates = cache(_transports.create_ssl_context)  # of which no client here has need: 50 ms for each


@dataclass(frozen=True)
class Reply:
    """What is sent back. body: JSON, or bytes as they are. seconds: to wait before."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def said(text: str, finish: str = "stop", read: int = 10, wrote: int = 5, **more: Any) -> Reply:
    """A completion with this text."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Reply(body={**whole, **more})


def failed(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's form; `headers` with underscores for dashes."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": {"message": message, "code": code, "type": "x", "param": None}}, names)


@dataclass
class Played:
    """What the endpoint was asked: the JSON of each request, when it came, and with which Authorization."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def model(self, key: str = KEY, **requests: Any) -> APIModel:
        """A model behind this endpoint."""
        return APIModel("m", endpoint=Endpoint(self.url, key), requests=Requests(**requests))


@contextmanager
def playing(script: Sequence[Reply] | Callable[[dict[str, Any]], Reply]) -> Iterator[Played]:
    """An endpoint that gives the replies of `script` in turn, the last one for ever; or what it makes of a request.

    While it plays, the client waits hundredths of a second before it repeats a request, in place of halves.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                played.asked.append(asked)
                played.times.append(time.monotonic())
                played.keys.append(self.headers["Authorization"])
                reply = script(asked) if callable(script) else script[min(len(played.asked), len(script)) - 1]
            time.sleep(reply.seconds)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # who asked may have gone
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    played = Played(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        with (
            patch.object(_base_client, "INITIAL_RETRY_DELAY", 0.01),
            patch.object(_transports, "create_ssl_context", _certificates),
        ):
            yield played
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
