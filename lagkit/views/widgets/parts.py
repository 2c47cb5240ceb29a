"""Parts of both widgets: messages instead of tracebacks, figures in an output, and their display."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from html import escape

import ipywidgets as widgets
import plotly.graph_objects as go
import plotly.io as pio
from IPython.display import HTML, display

from lagkit.util.errors import LagkitError
from lagkit.util.progress import in_live_notebook


class Panel:
    """Something with a `view` to press and read, made when it is first shown to a person.

    JupyterLab runs callbacks in a thread of its own once that has started, and in the kernel's main thread before.
    """

    def __init__(self) -> None:
        self._turn = threading.RLock()
        self.message = widgets.HTML()

    @cached_property
    def view(self) -> widgets.Widget:
        """All controls and what they show."""
        raise NotImplementedError

    def _ipython_display_(self) -> None:
        if in_live_notebook():
            display(self.view)
        else:
            text = f"The {type(self).__name__} is for a person in JupyterLab; nobody was there when this notebook ran."
            display(HTML(f"<p><i>{text}</i></p>"))

    def say(self, text: str, *, bad: bool = False) -> None:
        """Show one sentence below the controls."""
        colour = "#cc3344" if bad else "var(--jp-ui-font-color1,#333)"
        self.message.value = f"<span style='color:{colour}'>{escape(text)}</span>"

    @contextmanager
    def telling(self) -> Iterator[None]:
        """One thread at a time; what goes wrong is told in a sentence: a traceback is of no use at a button."""
        try:
            with self._turn:
                yield
        except Exception as error:
            self.say(sentence(error), bad=True)


def sentence(error: Exception) -> str:
    """An error in one sentence; one that lagkit did not raise on purpose is named, so that it can be reported."""
    said = " ".join(str(error).split())
    if isinstance(error, LagkitError):
        return said
    return f"Something unexpected went wrong ({type(error).__name__}: {said or 'no message'})."


def show_figure(output: widgets.Output, figure: go.Figure) -> None:
    """Replace what `output` shows, from any thread; JupyterLab draws it with what plotly brings, without a network."""
    plain = pio.renderers["plotly_mimetype"].to_mimebundle(figure.to_plotly_json())
    output.outputs = ({"output_type": "display_data", "data": plain, "metadata": {}},)


def titled(title: str) -> widgets.HTML:
    """A heading inside a view."""
    return widgets.HTML(f"<b>{escape(title)}</b>")
