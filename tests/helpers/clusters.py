"""Models that workers load: with actions as `ActingLM`, and with faults. By name, so that a worker can find them."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lagkit.model.context import Context, Generation
from lagkit.model.kv import KVBlock
from lagkit.runs.config import RunConfig
from lagkit.runs.workers.worker import Load
from tests.helpers.lms import ActingLM, new_lm


class MortalLM(ActingLM):
    """Kills its process in the second call of a kind, if there is a file of that name in `fatal`, and takes the file.

    Kinds: `encode`; `answer`, a generation with logs injected; `log`, one with the prompt's head at most. seconds: that
    each call takes.
    """

    fatal = Path("nowhere")
    seconds = 0.0

    def generate(self, contexts: Sequence[Context], max_new_tokens: int, **settings: object) -> list[Generation]:
        self._count("answer" if any(len(context.blocks) > 1 for context in contexts) else "log")
        return super().generate(contexts, max_new_tokens, **settings)

    def encode(self, context: Context, start: int, stop: int) -> KVBlock:
        self._count("encode")
        return super().encode(context, start, stop)

    def _count(self, kind: str) -> None:
        time.sleep(self.seconds)
        self.calls = getattr(self, "calls", Counter())
        self.calls[kind] += 1
        if self.calls[kind] == 2 and (self.fatal / kind).exists():
            (self.fatal / kind).unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def mortal(fatal: Path = MortalLM.fatal, seconds: float = 0.0) -> Load:
    """What a worker loads."""
    return partial(_load, fatal=fatal, seconds=seconds)


def _load(_: RunConfig, fatal: Path, seconds: float) -> MortalLM:
    lm = new_lm(MortalLM)
    lm.fatal, lm.seconds = fatal, seconds
    return lm


def of_session(leader: int) -> list[str]:
    """The processes of a session that live, by their command."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, session = rest.split()[:4]
        if int(session) == leader and state != "Z":
            found.append(name.partition("(")[2])
    return found
