"""Parts of both widgets: messages instead of tracebacks, work in the background, and their display with a snapshot."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from html import escape
from typing import Any, TypeVar

import ipywidgets as widgets

from lagkit.util.errors import LagkitError
from lagkit.util.progress import in_live_notebook
from lagkit.views import palette
from lagkit.views.plots.tokens import View

T = TypeVar("T")

MODEL_TURN = threading.RLock()  # of the one model that both widgets use, each from a thread of its own


def begin(work: Callable[[], T]) -> Future[T]:
    """Start `work` in a thread of its own, which does not keep the kernel alive."""
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except Exception as error:  # told where the result is asked for
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found


def promised(value: T | Future[T]) -> Future[T]:
    """What is loaded in the background, or is there already."""
    if isinstance(value, Future):
        return value
    found: Future[T] = Future()
    found.set_result(value)
    return found


class Panel(ABC):
    """Something with a `view` to press and read, and a `snapshot` for readers without a kernel.

    JupyterLab runs callbacks in a thread of its own once that has started, and in the kernel's main thread before.
    """

    view: widgets.Widget

    def __init__(self) -> None:
        self._turn = threading.RLock()
        self.message = widgets.HTML()

    @abstractmethod
    def snapshot(self) -> str:
        """What is shown now as HTML without a kernel: for pages, GitHub and headless runs."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        shown: dict[str, Any] = self.view._repr_mimebundle_() if in_live_notebook() else {}
        try:
            return {**shown, "text/plain": repr(self), "text/html": self.snapshot()}
        except LagkitError as error:  # another process may have deleted what is listed, or the store
            said = sentence(error)
            return {**shown, "text/plain": said, "text/html": f"<p>{escape(said)}</p>"}

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


def row(*parts: widgets.Widget) -> widgets.Box:
    """Parts side by side, on several lines where the page is narrow."""
    return widgets.Box(parts, layout={"flex_flow": "row wrap", "align_items": "center"})


def button(description: str, press: Callable[[], object], width: str | None = None, **look: Any) -> widgets.Button:
    """A button that calls `press`."""
    made = widgets.Button(description=description, layout={"width": width}, **look)
    made.on_click(lambda _: press())
    return made
