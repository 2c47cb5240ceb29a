"""A Ray cluster for as long as it is needed: one that is there, or one of this machine's own; in silence."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray

from lagkit.util.errors import ClusterError


@contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[None]:
    """Connect to the cluster at `address`, or start one here with `cpus` processors and end it afterwards.

    Where the process is connected already, it stays so. Raises ClusterError where there is no cluster.
    """
    if ray.is_initialized():
        yield
        return
    with ExitStack() as stack:
        settings: dict[str, Any] = {}
        if address is None:
            if not (Path.home() / ".ray" / "auth_token").exists():  # where Ray would write a password of its own
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            # Not deep: paths of sockets may have some 100 characters.
            folder = TemporaryDirectory(
                prefix="lagkit-ray-", dir=os.environ.get("RAY_TMPDIR"), ignore_cleanup_errors=True
            )
            settings = {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
        before = signal.getsignal(signal.SIGTERM)  # Ray takes it over, and then leaves processes and files behind
        stack.callback(_on_sigterm, before)
        stack.callback(ray.shutdown)
        _connect(address or "local", settings)
        _on_sigterm(before if callable(before) else _leave)
        yield


def _connect(address: str, settings: dict[str, Any]) -> None:
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:  # as Ray raises it where a node does not start in time: of no class of its own
        raise ClusterError(f"The Ray cluster {address!r} cannot be used ({_reason(error)}).") from error


def _knock(address: str) -> None:
    """Raise OSError where nobody answers: Ray itself would try for minutes, and say so."""
    host, port, number = address.rpartition(":")
    if port and number.isdecimal():
        socket.create_connection((host.strip("[]"), int(number)), timeout=10).close()


def _reason(error: BaseException) -> str:
    """The first words of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    if "AuthToken" in str(error):
        return "it asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where no ~/.ray/auth_token holds it"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(" Note: ")[0].rstrip(".")


def _leave(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _on_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
