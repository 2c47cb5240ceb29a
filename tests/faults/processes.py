"""Work in a forked process that is killed: at a line of lagkit's code, or at a moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lagkit.util.errors import LagkitError

fork = multiprocessing.get_context("fork") if hasattr(os, "fork") else None

# What a child does, step by step: it tells after each.
Steps = Callable[[], Iterator[Any]]


@dataclass
class Ended:
    """What became of a child: the steps that it finished, whether it was killed, what it was refused."""

    done: list[Any] = field(default_factory=list)
    killed: bool = False
    refusal: str | None = None
    lines: int = 0


def run(steps: Steps, *, line: int | None = None, seconds: float | None = None) -> Ended:
    """Do the steps in a child that kills itself at that line of lagkit's code, or is killed after so long.

    Raises AssertionError for an error of the child that is not lagkit's.
    """
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_child, args=(steps, line, sender))
    child.start()
    sender.close()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child.pid, signal.SIGKILL)
    ended = Ended()
    while receiver.poll(60):
        try:
            what, value = receiver.recv()
        except EOFError:
            break
        if what == "done":
            ended.done.append(value)
        elif what == "lines":
            ended.lines = value
        elif what == "refused":
            ended.refusal = value
        else:
            raise AssertionError(f"not an error of lagkit's: {value}")
    child.join(60)
    ended.killed = child.exitcode == -signal.SIGKILL
    assert ended.killed or child.exitcode == 0, f"the process ended with {child.exitcode}"
    receiver.close()
    return ended


def _child(steps: Steps, line: int | None, pipe: Any) -> None:
    count = _count_lines(line) if line is not None else None
    try:
        for value in steps():
            pipe.send(("done", value))
    except LagkitError as error:
        pipe.send(("refused", str(error)))
    except Exception as error:  # told to the parent, which fails
        pipe.send(("failed", "".join(traceback.format_exception(error))))
    finally:
        sys.settrace(None)
    if count:
        pipe.send(("lines", count[0]))
    pipe.close()
    os._exit(0)


def _count_lines(fatal: int) -> list[int]:
    """Count the lines of lagkit's code that are run, and die at the one with this number (0: at none)."""
    count = [0]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if f"{os.sep}lagkit{os.sep}" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count[0] += 1
            if count[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    return count


_measured: dict[str, tuple[int, float]] = {}


def kill(rng: random.Random, name: str, steps: Steps, elsewhere: Callable[[], Steps]) -> Ended:
    """Kill the steps at a random line, or, every other time, at a random moment.

    How long they take is measured once for each name, on what `elsewhere` gives: the same steps on a copy.
    """
    if name not in _measured:
        lines, timed = run(elsewhere(), line=0).lines, elsewhere()
        began = time.monotonic()
        run(timed)
        _measured[name] = lines, time.monotonic() - began
    lines, seconds = _measured[name]
    if rng.random() < 0.5:
        return run(steps, line=rng.randint(1, lines))
    return run(steps, seconds=rng.uniform(0, seconds))
