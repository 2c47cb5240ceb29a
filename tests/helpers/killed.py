"""Processes that are killed, forked from a server without threads: a fork of a process with threads may hang.

Tests before leave threads of Ray, Lance, servers and browsers behind, and with them locks that no child can open.
"""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

FORKS = "forkserver" in multiprocessing.get_all_start_methods()
needs_forks = pytest.mark.skipif(not FORKS, reason="starts processes by fork")
clean = multiprocessing.get_context("forkserver") if FORKS else multiprocessing.get_context("spawn")
clean.set_forkserver_preload(["tests.helpers.preload"])


def die_at_sync(number: int) -> None:
    """Have this process kill itself at its n-th sync from now on; 0: at none."""
    left, sync = [number], os.fsync

    def fatal(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = fatal
