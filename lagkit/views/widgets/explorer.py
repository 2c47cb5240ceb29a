"""`LogExplorer`: look through a log store, and delete from it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from html import escape

import ipywidgets as widgets
from traitlets import dlink

from lagkit.logs.encode import Encoder
from lagkit.logs.index import Vectors
from lagkit.logs.listing import OLDEST_FIRST, Filter
from lagkit.logs.retrieve import Embedder, load_embedder
from lagkit.logs.store import Store
from lagkit.policy import POLICIES, get_policy
from lagkit.runs.experiment import Experiment
from lagkit.studies.tokens import encoding
from lagkit.views import palette
from lagkit.views.plots import tokens
from lagkit.views.widgets.live import LogMap, LogTable
from lagkit.views.widgets.logs import Wanted, delete_log, find, placed, project, scored, told, unrelated
from lagkit.views.widgets.pages import explorer_html, kept_html, log_names, trace_html
from lagkit.views.widgets.parts import MODEL_TURN, Panel, begin, button, promised, row, sentence, show_html

_LISTED = 200  # logs in the table at once
_NEAREST = 1000  # logs that a search finds at most
_BEST = 10  # found logs that are on the map in any case
_KEPT, _MAP = 1, 2  # numbers of tabs
_KIB = 1024
_HALF = {"flex": "1 1 420px", "min_width": "0"}  # of the page, where it is wide enough
_SIDE_BY_SIDE = {"align_items": "flex-start", "flex_flow": "row wrap", "grid_gap": "12px"}
_PAGE = {"max_height": "640px", "overflow": "auto"}  # a long log must not push the list out of sight
_NOBODY = "<p>No log is chosen.</p>"
_JUDGED = [("right or wrong", ""), ("right only", "right"), ("wrong only", "wrong"), ("not judged", "not judged")]
_REUSING = tuple(name for name, policy in POLICIES.items() if policy)
_HINT = "Click on a point to choose its log; draw a line around some to list them alone. Ctrl and wheel zoom."


class LogExplorer(Panel):
    """Search, filter, sort, read and delete logs; see what each policy keeps of one, and a map of all.

    embedder: for searching; by default the store's own, loaded at the first search. encoder: or its future; once it is
    there, tokens are shown instead of words in what is kept, and what they attended to. policies: those that are
    offered.
    """

    def __init__(
        self,
        store: Store,
        *,
        embedder: Embedder | None = None,
        encoder: Encoder | Future[Encoder] | None = None,
        policies: Sequence[str] = _REUSING,
    ) -> None:
        super().__init__()
        self.store, self._embedder = store, embedder
        self.loading = None if encoder is None else promised(encoder)
        self._floor: float | None = None
        self._places: tuple[list[str], tuple[Vectors, str]] | None = None
        self.found: list[str] = []  # all that are listed, on this page or another
        self._scores: dict[str, float] = {}
        self._wanted = Wanted()  # what was looked for last
        self._first = 0  # the number of the first log in the table, among those that are found
        self._doomed: str | None = None  # the log that the open question asks about
        both = widgets.HBox([self._list_view(), self._log_view(policies)], layout=_SIDE_BY_SIDE)
        self.view = widgets.VBox([self._filter_view(), self.message, both])
        self._search()
        if self.loading:
            self.loading.add_done_callback(lambda _: self._keep())

    @classmethod
    def of(cls, run: Experiment, store: Store) -> LogExplorer:
        """The explorer of a run's logs; its model, loaded in the background, shows what is kept of them as tokens."""
        return cls(store, encoder=begin(lambda: Encoder(run.local_lm, run.prompt, store)))

    @property
    def encoder(self) -> Encoder | None:
        """The encoder, once it is there."""
        found = self.loading
        return found.result() if found and found.done() and not found.exception() else None

    def _filter_view(self) -> widgets.Widget:
        """What to search for, and the filters below."""
        rounds, nbytes = self.store.extremes()
        words = "search by meaning: some words, then Enter"
        self.query = widgets.Text(placeholder=words, layout={"width": "auto"}, continuous_update=False)
        self.right = widgets.Dropdown(options=_JUDGED, layout={"width": "160px"})
        self.rounds, self.size = _range("rounds", max(rounds, 1)), _range("KiB of KV", nbytes // _KIB + 1)
        self.query.observe(lambda _: self._renew(), "value")
        for control in (self.right, self.rounds, self.size):
            control.observe(lambda _: self._search(), "value")
        return widgets.VBox([self.query, row(self.right, self.rounds, self.size)])

    def _list_view(self) -> widgets.Widget:
        """The table of logs; paging, and deletion with its question below."""
        self.logs = LogTable()
        self.logs.observe(lambda _: self._search(), "order")
        self.logs.observe(lambda _: self._read(), "chosen")
        self.earlier = button("previous", lambda: self._turn_to(self._first - _LISTED), "110px", icon="chevron-left")
        self.later = button("next", lambda: self._turn_to(self._first + _LISTED), "110px", icon="chevron-right")
        self.unlasso = button("Clear the lasso", lambda: self.map.set_trait("lasso", []), "140px")
        self.delete = button("Delete this log", self._ask, "150px", icon="trash")
        self.confirm = button("Yes, delete it", self._delete, button_style="danger")
        self.keep = button("No, keep it", self._close_question)
        self.question = widgets.HTML()
        self.asking = widgets.VBox([self.question, row(self.confirm, self.keep)])
        paging = row(self.earlier, self.later, self.unlasso)
        return widgets.VBox([self.logs, paging, row(self.delete), self.asking], layout=_HALF)

    def _log_view(self, policies: Sequence[str]) -> widgets.Widget:
        """What is known of the chosen log, and the map, in tabs."""
        options = [(palette.readable(name), name) for name in policies]
        self.policy = widgets.Dropdown(options=options, description="policy")
        if "kv_last_round" in policies:
            self.policy.value = "kv_last_round"
        self.look = button("What did these tokens attend to?", self._attend, "260px")
        self.trace, self.kept, self.attention, self.map = widgets.HTML(), widgets.HTML(), widgets.Output(), LogMap()
        hint = widgets.HTML(f"<div style='line-height:1.4;color:var(--jp-ui-font-color2,#767676)'>{_HINT}</div>")
        pages = {
            "Trace": widgets.Box([self.trace], layout=_PAGE),
            "What is kept": widgets.VBox([row(self.policy, self.look), self.kept, self.attention], layout=_PAGE),
            "Map of the store": widgets.VBox([hint, self.map]),
        }
        self.tabs = widgets.Tab([*pages.values()], titles=[*pages], layout=_HALF)
        self.map.observe(lambda _: self._search(), "lasso")
        dlink((self.logs, "chosen"), (self.map, "chosen"))
        self.map.observe(lambda change: self._press(change.new), "chosen")
        self.policy.observe(lambda _: self._keep(), "value")
        self.tabs.observe(lambda _: self._draw(), "selected_index")
        self.tabs.observe(lambda _: self._keep(), "selected_index")
        return self.tabs

    def snapshot(self) -> str:
        """The first rows of the table, and the chosen log round by round."""
        table = scored(self.store, self.found[:10], self._scores)
        return explorer_html(table, len(self.found), self.log, self.trace.value)

    def __repr__(self) -> str:
        return f"LogExplorer of {len(self.store):,} logs, {len(self.found):,} of them listed"

    @property
    def log(self) -> str | None:
        """The id of the chosen log."""
        return self.logs.chosen or None

    def _renew(self) -> None:
        """What is searched for comes best first, whatever the logs were sorted by before."""
        if self.logs.wanted == OLDEST_FIRST:
            self._search()
        else:
            self.logs.order = [OLDEST_FIRST.by, OLDEST_FIRST.down]  # which searches

    def _search(self, first: int = 0) -> None:
        """Look for what the controls ask for, and list it from number `first` on."""
        self._close_question()
        with self.telling():
            before, wanted = self._wanted, self._asked_for()
            self.found, self._scores = find(self.store, self._embedder, wanted)
            self._wanted = wanted
            self._first = max(0, min(first, (len(self.found) - 1) // _LISTED * _LISTED))
            stays = self.log in self._page and wanted.query == before.query
            self._list(self.log if stays else next(iter(self._page), None))
            self._draw()
            self.unlasso.layout.display = "" if self.map.lasso else "none"

    def _turn_to(self, first: int, chosen: str | None = None) -> None:
        """List another page of what was found, from number `first` on."""
        if 0 <= first < len(self.found):
            with self.telling():
                self._first = first
                self._list(chosen or self._page[0])

    @property
    def _page(self) -> list[str]:
        """The logs on the page of the table that is shown."""
        return self.found[self._first : self._first + _LISTED]

    def _list(self, chosen: str | None) -> None:
        """Show the page and the chosen log, and say how many logs were found, and which of them are listed."""
        before, last = self.log, self._first + len(self._page)
        said = told(self.store, self._wanted, self.found, self._scores)
        self.logs.show(scored(self.store, self._page, self._scores), chosen, said)
        self.earlier.disabled, self.later.disabled = self._first == 0, last == len(self.found)
        if self.log == before:  # else a change of what is chosen has had it read
            self._read()
        page = f" Listed: {self._first + 1:,} to {last:,}." if len(self.found) > _LISTED else ""
        self.say(said + page)

    def _asked_for(self) -> Wanted:
        """What the controls ask for; a slider over its whole range asks for nothing."""
        query, least, among = self.query.value.strip(), 0.0, frozenset(self.map.lasso) or None
        if query:
            if self._embedder is None:
                self.say(f"Loading the embedder {self.store.embedder} …")
                self._embedder = load_embedder(self.store.embedder)
            if self._floor is None and len(self.store):
                self._floor = unrelated(self.store, self._embedder)
            least = max(self._floor or 0.0, 0.0)
        rounds, size = (None if (s.min, s.max) == s.value else s.value for s in (self.rounds, self.size))
        fits = Filter(self.right.value, rounds, size and (size[0] * _KIB, size[1] * _KIB))
        return Wanted(query, fits, self.logs.wanted, least, _NEAREST, among)

    def _press(self, log: str) -> None:
        """Choose a log that was pressed on the map, where also those are drawn that are not listed."""
        with self.telling():
            if log in self.found:
                self.logs.chosen = log
            else:
                self.map.chosen = self.log or ""

    def _read(self) -> None:
        """Show the chosen log; one that was pressed on the map may stand on another page of the table."""
        if self.log in self.found and self.log not in self._page:
            self._turn_to(self.found.index(self.log) // _LISTED * _LISTED, self.log)
            return
        self._close_question()
        self.delete.disabled = self.log is None
        with self.telling():
            if self.log is None:
                self.trace.value = _NOBODY
            else:
                trace = self.store.get(self.log)
                self.trace.value = trace_html(trace, log_names(self.store, [trace]))
            self._keep()
            self._draw()

    def _keep(self) -> None:
        """What is kept of the chosen log, if it is being looked at: the model may have to read the log for it."""
        name, encoder, policy = self.policy.value, self.encoder, get_policy(self.policy.value)
        attends = self.log and encoder and policy and policy.inject == "kv"
        self.attention.outputs, self.look.disabled = (), not attends
        if self.tabs.selected_index != _KEPT:
            return
        with self.telling(), MODEL_TURN if encoder else nullcontext():
            if self.log is None:
                self.kept.value = _NOBODY
            else:
                self.kept.value = kept_html(self.store.get(self.log), name, encoder) + self._loading_html()

    def _loading_html(self) -> str:
        """What is to be said of a model that is not there."""
        if self.loading is None or self.encoder:
            return ""
        error = self.loading.exception() if self.loading.done() else None
        said = sentence(error) if error else "The model is being loaded: words are marked, and tokens will be."
        return f"<p><i>{escape(said)}</i></p>"

    def _attend(self) -> None:
        """Show what the kept tokens of the chosen log attended to while it was read."""
        policy = get_policy(self.policy.value)
        if self.log and self.encoder and policy:
            with self.telling(), MODEL_TURN:
                show_html(self.attention, tokens.view(encoding(self.encoder, self.store.get(self.log), policy)))

    def _draw(self) -> None:
        """The map, if it is being looked at: to lay out many logs takes a while."""
        if self.tabs.selected_index != _MAP:
            return
        with self.telling():
            ids, drawn = self.store.ids, self._places
            self._places = drawn if drawn and drawn[0] == ids else (ids, project(self.store.embeddings()))
            # Of very many logs, not all are drawn.
            always = [*self.found[:_BEST], *([self.log] if self.log else [])]
            if self._places is not drawn or not self.map.has(always):
                self.map.show(*placed(self.store, always, self._places[1]))
            self.map.mark(self.found)

    def _ask(self) -> None:
        if (log := self.log) is not None:
            with self.telling():
                question, held = self.store.get(log).question, self.store.sizes([log])["bytes"].sum()
                kv = f" and its {held / _KIB:,.0f} KiB of KV" if held else ""
                asked = escape(f"Delete the log of “{question}”{kv}, for good?")
                self.question.value = f"<div style='line-height:1.4'>{asked}</div>"
                self.asking.layout.display, self._doomed = "flex", log

    def _close_question(self) -> None:
        self.asking.layout.display, self._doomed = "none", None

    def _delete(self) -> None:
        with self.telling():
            if (log := self._doomed) is None:  # another log was chosen before this press arrived
                return
            if log in self.store:
                said = f"The log of “{self.store.get(log).question}” was deleted"
                delete_log(self.store, log)
            else:
                said = "The log was deleted by another process"
            self._floor = None
            self._search(self._first)
            self.say(f"{said}; {len(self.store):,} are left.")


def _range(what: str, most: int) -> widgets.IntRangeSlider:
    """A slider for the least and the most, from 0 to `most`."""
    look = {"description": what, "style": {"description_width": "60px"}}
    return widgets.IntRangeSlider(value=(0, most), min=0, max=most, continuous_update=False, **look)
