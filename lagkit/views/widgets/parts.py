"""Parts of both widgets: messages instead of tracebacks, work in the background, and their display with a snapshot."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from html import escape
from typing import Any, Generic, TypeVar

import ipywidgets as widgets

from lagkit.util.errors import LagkitError
from lagkit.util.progress import in_live_notebook
from lagkit.views import palette
from lagkit.views.plots.tokens import View

T = TypeVar("T")

MODEL_TURN = threading.RLock()  # of the one model that both widgets use, each from a thread of its own


class Later(Generic[T]):
    """What a thread of its own loads once it is started; `get` waits for it, and raises what loading raised."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._found: Future[T] = Future()
        self._thread: threading.Thread | None = None

    def start(self, then: Callable[[], None] = lambda: None) -> None:
        """Begin to load. then: called in that thread when all is there, or failed."""
        self._thread = threading.Thread(target=self._run, args=(then,), daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether it is there."""
        return self._found.done() and self.error is None

    @property
    def error(self) -> BaseException | None:
        """What loading raised, if that has failed."""
        return self._found.exception() if self._found.done() else None

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the thread, and what it does last, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def get(self) -> T:
        """What was loaded."""
        return self._found.result()

    def _run(self, then: Callable[[], None]) -> None:
        try:
            self._found.set_result(self._load())
        except Exception as error:  # told where it is waited for
            self._found.set_exception(error)
        then()


class Panel(ABC):
    """Something with a `view` to press and read, and a `snapshot` for readers without a kernel.

    JupyterLab runs callbacks in a thread of its own once that has started, and in the kernel's main thread before.
    """

    def __init__(self) -> None:
        self._turn = threading.RLock()
        self.message = widgets.HTML()

    @property
    @abstractmethod
    def view(self) -> widgets.Widget:
        """All controls and what they show, made when it is first shown to a person."""

    @abstractmethod
    def snapshot(self) -> str:
        """What is shown now as HTML without a kernel: for pages, GitHub and headless runs."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        shown: dict[str, Any] = self.view._repr_mimebundle_() if in_live_notebook() else {}
        return {**shown, "text/plain": repr(self), "text/html": self.snapshot()}

    def say(self, text: str, *, bad: bool = False) -> None:
        """Show one sentence below the controls."""
        colour = palette.LOSS if bad else "var(--jp-ui-font-color1,inherit)"
        self.message.value = f"<div role='status' style='line-height:1.4;color:{colour}'>{escape(text)}</div>"

    @contextmanager
    def telling(self) -> Iterator[None]:
        """One thread at a time; what goes wrong is told in a sentence: a traceback is of no use at a button."""
        try:
            with self._turn:
                yield
        except Exception as error:
            self.say(sentence(error), bad=True)


def sentence(error: BaseException) -> str:
    """An error in one sentence; one that lagkit did not raise on purpose is named, so that it can be reported."""
    said = " ".join(str(error).split())
    if isinstance(error, LagkitError):
        return said
    return f"Something unexpected went wrong ({type(error).__name__}: {said or 'no message'})."


def show_html(output: widgets.Output, view: View) -> None:
    """Replace what `output` shows, from any thread; the script of the view is run, as none in `widgets.HTML` is."""
    plain = {"text/html": view._repr_html_(), "text/plain": repr(view)}
    output.outputs = ({"output_type": "display_data", "data": plain, "metadata": {}},)


def titled(title: str) -> widgets.HTML:
    """A heading inside a view."""
    return widgets.HTML(f"<b>{escape(title)}</b>")


def rows(*lines: Sequence[widgets.Widget]) -> list[widgets.Widget]:
    """Each line as a row of its parts, which wraps where the page is narrow."""
    return [widgets.Box(list(line), layout={"flex_flow": "row wrap", "align_items": "center"}) for line in lines]
