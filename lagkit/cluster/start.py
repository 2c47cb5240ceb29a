"""A Ray cluster for as long as it is needed: one that is there, or one of this machine's own; in silence."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

from lagkit.errors import ClusterError

# Ray reports to its makers, and keeps the password of a cluster that it starts in the home, unless the environment says
# otherwise.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[None]:
    """Connect to the cluster at `address`, or start one here with `cpus` processors and end it afterwards.

    Where the process is connected already, it stays so. Raises ClusterError where there is no cluster.
    """
    if ray.is_initialized():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_silence())
        settings: dict[str, Any] = {}
        password = {} if address else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        stack.enter_context(_environment(_QUIET | password))
        if address is None:
            settings = {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": stack.enter_context(_folder())}
        stack.callback(ray.shutdown)
        _connect(address or "local", settings)
        yield


def _connect(address: str, settings: dict[str, Any]) -> None:
    if not address.startswith("ray://"):  # what a client cannot say
        settings |= {"configure_logging": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, **settings)
    except Exception as error:  # as Ray raises it where a node does not start in time: of no class of its own
        raise ClusterError(f"The Ray cluster {address!r} cannot be used ({_reason(error)}).") from error
    if threading.current_thread() is threading.main_thread():
        # Ray's handler prints a traceback and aborts, which leaves what should end in good order.
        signal.signal(signal.SIGTERM, before if callable(before) else _leave)


def _knock(address: str) -> None:
    """Raise OSError where nobody answers: Ray itself would try for minutes, and say so."""
    host, port, number = address.removeprefix("ray://").rpartition(":")
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


@contextmanager
def _silence() -> Iterator[None]:
    """No lines of Ray's own; the handler of SIGTERM, which Ray replaces, comes back."""
    log, main = logging.getLogger("ray"), threading.current_thread() is threading.main_thread()
    level, handler = log.level, signal.getsignal(signal.SIGTERM)
    log.setLevel(logging.ERROR)
    try:
        # Deaths of workers are told by the pool, in a sentence.
        with mock.patch("ray._private.worker.print_to_stdstream"):
            yield
    finally:
        log.setLevel(level)
        if main:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """What is set already counts; the rest is set for as long as the cluster is used."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    _read_environment()
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        _read_environment()


def _read_environment() -> None:
    """Ray keeps what it finds there when it is imported."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _folder() -> Iterator[str]:
    """For what Ray writes. Paths of sockets may have some 100 characters, so not deep."""
    folder = tempfile.mkdtemp(prefix="lagkit-ray-", dir=get_default_system_temp_dir())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
