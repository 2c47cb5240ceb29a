"""Progress: a bar on a terminal and in a live notebook, a few plain lines in a log, or nothing; and warnings.

An animated bar freezes at 0% in an executed notebook and fills a log file with control characters, so bars are drawn
only on a terminal and in a live notebook. `LAGKIT_PROGRESS=bar|lines|off` overrides this. Warnings are always shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Literal, TypeVar, get_args

from tqdm.auto import tqdm

from lagkit.util.errors import ConfigError
from lagkit.util.terminal import printable, tell

Mode = Literal["bar", "lines", "off"]
T = TypeVar("T")

_QUIET_SECONDS = 1.0  # work that is done sooner shows nothing
_LINE_SECONDS = 10.0  # a line is printed at most this often ...
_LINE_SHARE = 0.1  # ... and after at least this share of a known total


def progress_mode() -> Mode:
    """How progress is shown in this process; raises ConfigError when `LAGKIT_PROGRESS` holds another word."""
    wanted = os.environ.get("LAGKIT_PROGRESS", "")
    if wanted in get_args(Mode):
        return wanted  # type: ignore[return-value]  # as was just asked
    if wanted:
        raise ConfigError(f"LAGKIT_PROGRESS is {wanted!r}; set it to one of {', '.join(get_args(Mode))}, or unset it.")
    watched = in_live_notebook() if _kernel() else sys.stderr.isatty()
    return "bar" if watched else "lines"


def in_live_notebook() -> bool:
    """Whether a person runs this cell in a notebook, not a headless runner, which cannot be asked for input."""
    kernel: Any = _kernel()
    return kernel is not None and bool(kernel.get_parent().get("content", {}).get("allow_stdin"))


def say(text: str) -> None:
    """Print one line about what is going on: in the notebook, or on standard error outside of one."""
    if progress_mode() != "off":
        warn(text)


def warn(text: str) -> None:
    """Print one line that changes what results mean or cost, where `say` does, even where progress is off."""
    tell(printable(text), sys.stdout if _kernel() else sys.stderr)


def quiet() -> None:
    """Silence the bars and warnings of transformers and the hub; their errors still are raised."""
    import transformers
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # not in its `__all__`

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    disable_progress_bars()


class Progress:
    """Counts steps of work, visibly if it takes over a second; a context manager, with `update` after each step.

    A bar goes when the work is done: a saved notebook shows none.
    """

    def __init__(self, desc: str, total: int | None = None) -> None:
        self.desc, self.total, self.done = desc, total, 0
        self._mode = progress_mode()
        self._bar = tqdm(desc=desc, total=total, delay=_QUIET_SECONDS, leave=False) if self._mode == "bar" else None
        self._began = self._said_at = time.monotonic()
        self._said = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._mode == "lines" and self.done > self._said and time.monotonic() - self._began >= _QUIET_SECONDS:
            self._line()

    def update(self, steps: int = 1) -> None:
        """Count `steps` more steps as done."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(steps)
            return
        waited, untold = time.monotonic() - self._said_at, self.done - self._said
        if self._mode == "lines" and waited >= _LINE_SECONDS and untold >= _LINE_SHARE * (self.total or 0):
            self._line()

    def _line(self) -> None:
        self._said, self._said_at = self.done, time.monotonic()
        of = f" of {self.total}" if self.total is not None else ""
        say(f"{self.desc}: {self.done}{of}, {self._said_at - self._began:.0f} s")


def progress(iterable: Iterable[T], desc: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable` and show how far it is; `total` defaults to its length where it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(desc, total) as shown:
        for item in iterable:
            yield item
            shown.update()


def _kernel() -> object | None:
    """The Jupyter kernel that runs this code, if any."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)
