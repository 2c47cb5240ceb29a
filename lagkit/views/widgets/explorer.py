"""`LogExplorer`: look through a log store, and delete from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import ipywidgets as widgets
import pandas as pd

from lagkit.logs.encode import Encoder
from lagkit.logs.index import Vectors
from lagkit.logs.listing import Filter
from lagkit.logs.retrieve import Embedder, load_embedder
from lagkit.logs.store import Store
from lagkit.policy import POLICIES
from lagkit.runs.experiment import Experiment
from lagkit.views.widgets.logs import delete_log, project, search_table, similarity_map
from lagkit.views.widgets.pages import kept_html, log_names, trace_html
from lagkit.views.widgets.parts import Panel, show_figure

_LISTED = 200  # logs in the list at once
_MAP = 2  # the number of the map's tab
_KIB = 1024
_SIDE_BY_SIDE = {"align_items": "flex-start", "flex_flow": "row wrap", "grid_gap": "12px"}
_PAGE = {"max_height": "640px", "overflow": "auto"}  # a long log must not push the list out of sight
_REUSING = tuple(name for name, policy in POLICIES.items() if policy)


class LogExplorer(Panel):
    """Search, filter, read and delete logs; see what each policy keeps of one, and a map of all.

    embedder: for searching; by default the store's own, loaded at the first search. encoder: shows tokens instead of
    words in what is kept. policies: those that are offered, by name.
    """

    def __init__(
        self,
        store: Store,
        *,
        embedder: Embedder | None = None,
        encoder: Encoder | None = None,
        policies: Sequence[str] = _REUSING,
    ) -> None:
        super().__init__()
        self.store, self.encoder = store, encoder
        self._embedder = embedder
        self._places: tuple[list[str], tuple[Vectors, str]] | None = None
        self.found = pd.DataFrame()
        self._first = 0  # the number of the first log in the list, among those that are found
        self._build_filters()
        self.logs = widgets.Select(rows=16, layout={"width": "auto"})
        self.earlier = widgets.Button(description="previous", icon="chevron-left", layout={"width": "110px"})
        self.later = widgets.Button(description="next", icon="chevron-right", layout={"width": "110px"})
        self.policy = widgets.Dropdown(options=policies, description="policy")
        if "kv_last_round" in policies:
            self.policy.value = "kv_last_round"
        self.trace, self.kept, self.map = widgets.HTML(), widgets.HTML(), widgets.Output()
        self.delete = widgets.Button(description="Delete this log", icon="trash", layout={"width": "150px"})
        self.confirm = widgets.Button(description="Yes, delete it", button_style="danger")
        self.keep = widgets.Button(description="No, keep it")
        self.question = widgets.HTML()
        answers = widgets.HBox([self.confirm, self.keep])
        self.asking = widgets.VBox([self.question, answers], layout={"display": "none"})
        self.tabs = widgets.Tab(
            [widgets.Box([self.trace], layout=_PAGE), widgets.VBox([self.policy, self.kept], layout=_PAGE), self.map],
            titles=("Trace", "What is kept", "Map of the store"),
            layout={"flex": "2 1 420px", "min_width": "0"},
        )
        self._connect()
        self._search()

    @classmethod
    def of(cls, run: Experiment, store: Store) -> LogExplorer:
        """The explorer of a run's logs; what is kept of them is shown as tokens of its model."""
        return cls(store, embedder=run.embedder, encoder=Encoder(run.local_lm, run.prompt, store))

    def _build_filters(self) -> None:
        rounds, nbytes = self.store.extremes()
        rounds, size = max(rounds, 1), nbytes // _KIB + 1
        label = {"description_width": "60px"}
        self.query = widgets.Text(
            placeholder="search by meaning: some words, then Enter",
            layout={"width": "auto"},
            continuous_update=False,
        )
        kinds = [("right or wrong", ""), ("right only", "right"), ("wrong only", "wrong"), ("not judged", "not judged")]
        self.right = widgets.Dropdown(options=kinds, layout={"width": "160px"})
        self.rounds = widgets.IntRangeSlider(
            value=(0, rounds), min=0, max=rounds, description="rounds", style=label, continuous_update=False
        )
        self.size = widgets.IntRangeSlider(
            value=(0, size), min=0, max=size, description="KiB of KV", style=label, continuous_update=False
        )

    def _connect(self) -> None:
        for control in (self.query, self.right, self.rounds, self.size):
            control.observe(lambda _: self._search(), "value")
        self.earlier.on_click(lambda _: self._search(self._first - _LISTED))
        self.later.on_click(lambda _: self._search(self._first + _LISTED))
        self.logs.observe(lambda _: self._read(), "value")
        self.policy.observe(lambda _: self._read(), "value")
        self.tabs.observe(lambda _: self._draw(), "selected_index")
        self.delete.on_click(lambda _: self._ask())
        self.confirm.on_click(lambda _: self._delete())
        self.keep.on_click(lambda _: self._close_question())

    @cached_property
    def view(self) -> widgets.Widget:
        """Filters above; the list on the left, and what is known of the chosen log on the right."""
        filters = widgets.HBox([self.right, self.rounds, self.size], layout={"flex_flow": "row wrap"})
        paging = widgets.HBox([self.earlier, self.later])
        left = [self.logs, paging, self.delete, self.asking]
        column = widgets.VBox(left, layout={"flex": "1 1 280px", "min_width": "0"})
        both = widgets.HBox([column, self.tabs], layout=_SIDE_BY_SIDE)
        return widgets.VBox([self.query, filters, self.message, both])

    @property
    def log(self) -> str | None:
        """The id of the chosen log."""
        log: str | None = self.logs.value
        return log

    def _search(self, first: int = 0) -> None:
        """List the logs that are found, from number `first` on."""
        self._close_question()
        with self.telling():
            wanted = self._wanted()
            total = self.store.count(wanted)
            self._first = max(0, min(first, (total - 1) // _LISTED * _LISTED))
            self.found = self._find(wanted)
            chosen = self.log
            options = [
                (_label(row), log) for log, row in zip(self.found.index, self.found.to_dict("records"), strict=True)
            ]
            self.logs.options = options
            stays = chosen in self.found.index and not self.query.value.strip()
            self.logs.value = chosen if stays else next(iter(self.found.index), None)
            self._read()
            self._draw()
            last = self._first + len(self.found)
            self.earlier.disabled, self.later.disabled = self._first == 0, last >= total
            listed = f" Listed: {self._first + 1:,} to {last:,}." if total > _LISTED else ""
            self.say(f"{total:,} of {len(self.store):,} logs.{listed}")

    def _wanted(self) -> Filter:
        """Filter that the controls ask for; a slider over its whole range asks for nothing."""
        rounds, size = (None if (s.min, s.max) == s.value else s.value for s in (self.rounds, self.size))
        return Filter(self.right.value, rounds, size and (size[0] * _KIB, size[1] * _KIB))

    def _find(self, wanted: Filter) -> pd.DataFrame:
        if self._embedder is None and self.query.value.strip():
            self.say(f"Loading the embedder {self.store.embedder} …")
            self._embedder = load_embedder(self.store.embedder)
        limits: dict[str, Any] = {"k": _LISTED, "offset": self._first, **asdict(wanted)}
        return search_table(self.store, self._embedder, self.query.value, **limits)

    def _read(self) -> None:
        self._close_question()
        self.delete.disabled = self.log is None
        if self.log is None:
            self.trace.value = self.kept.value = "<p>No log is chosen.</p>"
            return
        with self.telling():
            trace = self.store.get(self.log)
            self.trace.value = trace_html(trace, log_names(self.store, [trace]))
            self.kept.value = kept_html(trace, self.policy.value, self.encoder)

    def _draw(self) -> None:
        """The map, if it is being looked at: a figure that is drawn unseen gets a wrong size, and it takes a while."""
        if self.tabs.selected_index != _MAP:
            return
        with self.telling():
            ids = self.store.ids
            if self._places is None or self._places[0] != ids:
                self._places = ids, project(self.store.embeddings())
            marked = list(self.found.index[:10]) if self.query.value.strip() else []
            show_figure(self.map, similarity_map(self.store, marked, self._places[1]))

    def _ask(self) -> None:
        if self.log is not None:
            self.question.value = "It goes with its KV, for good. Sure?"
            self.asking.layout.display = "flex"

    def _close_question(self) -> None:
        self.asking.layout.display = "none"

    def _delete(self) -> None:
        log = self.log
        if log is None:
            return
        with self.telling():
            said = self.store.get(log).question
            delete_log(self.store, log)
            self._search(self._first)
            self.say(f"The log of “{said}” was deleted; {len(self.store):,} are left.")


def _label(row: dict[str, Any]) -> str:
    """A log in one line of the list; the question comes last, for the list may be too narrow for it."""
    score = f"{row['cosine']:.2f}  " if "cosine" in row else ""
    return f"{score}{row['right']}, {row['rounds']} round{'s' * (row['rounds'] != 1)}: {row['question']}"
