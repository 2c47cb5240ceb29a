"""`LogExplorer`: look through a log store, and delete from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from html import escape

import ipywidgets as widgets

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
from lagkit.views.widgets.finding import Wanted, find, none_found, scored, some_found, unrelated
from lagkit.views.widgets.live import LogMap, LogTable
from lagkit.views.widgets.logs import Places, delete_log, project
from lagkit.views.widgets.pages import explorer_html, kept_html, log_names, trace_html
from lagkit.views.widgets.parts import MODEL_TURN, Later, Panel, rows, sentence, show_html

_LISTED = 200  # logs in the table at once
_NEAREST = 1000  # logs that a search finds at most
_BEST = 10  # found logs that are on the map in any case
_KEPT, _MAP = 1, 2  # numbers of tabs
_KIB = 1024
_SIDE_BY_SIDE = {"align_items": "flex-start", "flex_flow": "row wrap", "grid_gap": "12px"}
_PAGE = {"max_height": "640px", "overflow": "auto"}  # a long log must not push the list out of sight
_NOBODY = "<p>No log is chosen.</p>"
_REUSING = tuple(name for name, policy in POLICIES.items() if policy)


class LogExplorer(Panel):
    """Search, filter, sort, read and delete logs; see what each policy keeps of one, and a map of all.

    embedder: for searching; by default the store's own, loaded at the first search. encoder: shows tokens instead of
    words in what is kept, and what they attended to; or one that is loaded later. policies: those that are offered.
    """

    def __init__(
        self,
        store: Store,
        *,
        embedder: Embedder | None = None,
        encoder: Encoder | Later[Encoder] | None = None,
        policies: Sequence[str] = _REUSING,
    ) -> None:
        super().__init__()
        self.store, self._given = store, encoder
        self._embedder = embedder
        self._floor: float | None = None
        self._places: tuple[list[str], tuple[Vectors, str]] | None = None
        self.found: list[str] = []  # all that are listed, on this page or another
        self._scores: dict[str, float] = {}
        self._wanted = Wanted()  # what was looked for last
        self._first = 0  # the number of the first log in the table, among those that are found
        self._doomed: str | None = None  # the log that the open question asks about
        self._build_filters()
        self._build_list()
        self._build_tabs(policies)
        self._connect()
        self._search()

    @classmethod
    def of(cls, run: Experiment, store: Store) -> LogExplorer:
        """The explorer of a run's logs; its model, loaded in the background, shows what is kept of them as tokens."""
        encoder = Later(lambda: Encoder(run.local_lm, run.prompt, store))
        made = cls(store, encoder=encoder)
        encoder.start(made._keep)
        return made

    @property
    def encoder(self) -> Encoder | None:
        """The encoder, once it is there."""
        if isinstance(self._given, Later):
            return self._given.get() if self._given.ready else None
        return self._given

    def wait(self, seconds: float | None = None) -> None:
        """Wait for what is loaded in the background, at most so long."""
        if isinstance(self._given, Later):
            self._given.wait(seconds)

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

    def _build_list(self) -> None:
        self.logs, self.map = LogTable(), LogMap()
        self.earlier = widgets.Button(description="previous", icon="chevron-left", layout={"width": "110px"})
        self.later = widgets.Button(description="next", icon="chevron-right", layout={"width": "110px"})
        self.unlasso = widgets.Button(description="Clear the lasso", layout={"width": "140px", "display": "none"})
        self.delete = widgets.Button(description="Delete this log", icon="trash", layout={"width": "150px"})
        self.confirm = widgets.Button(description="Yes, delete it", button_style="danger")
        self.keep = widgets.Button(description="No, keep it")
        self.question = widgets.HTML()
        self.asking = widgets.VBox([self.question, *rows([self.confirm, self.keep])], layout={"display": "none"})

    def _build_tabs(self, policies: Sequence[str]) -> None:
        options = [(palette.readable(name), name) for name in policies]
        self.policy = widgets.Dropdown(options=options, description="policy")
        if "kv_last_round" in policies:
            self.policy.value = "kv_last_round"
        self.look = widgets.Button(description="What did these tokens attend to?", layout={"width": "260px"})
        self.trace, self.kept, self.attention = widgets.HTML(), widgets.HTML(), widgets.Output()
        kept = [*rows([self.policy, self.look]), self.kept, self.attention]
        hint = "Click on a point to choose its log; draw a line around some to list them alone. Ctrl and wheel zoom."
        lasso = widgets.HTML(f"<div style='line-height:1.4;color:var(--jp-ui-font-color2,#767676)'>{hint}</div>")
        pages = [widgets.Box([self.trace], layout=_PAGE), widgets.VBox(kept, layout=_PAGE)]
        self.tabs = widgets.Tab(
            [*pages, widgets.VBox([lasso, self.map])],
            titles=("Trace", "What is kept", "Map of the store"),
            layout={"flex": "1 1 420px", "min_width": "0"},
        )

    def _connect(self) -> None:
        self.query.observe(lambda _: self._renew(), "value")
        for control in (self.right, self.rounds, self.size):
            control.observe(lambda _: self._search(), "value")
        self.logs.observe(lambda _: self._search(), "order")
        self.map.observe(lambda _: self._search(), "lasso")
        self.unlasso.on_click(lambda _: self.map.set_trait("lasso", []))
        self.earlier.on_click(lambda _: self._turn_to(self._first - _LISTED))
        self.later.on_click(lambda _: self._turn_to(self._first + _LISTED))
        self.logs.observe(lambda _: self._read(), "chosen")
        self.map.observe(lambda change: self._choose(change.new), "chosen")
        self.policy.observe(lambda _: self._keep(), "value")
        self.tabs.observe(lambda _: self._draw(), "selected_index")
        self.tabs.observe(lambda _: self._keep(), "selected_index")
        self.look.on_click(lambda _: self._attend())
        self.delete.on_click(lambda _: self._ask())
        self.confirm.on_click(lambda _: self._delete())
        self.keep.on_click(lambda _: self._close_question())

    @cached_property
    def view(self) -> widgets.Widget:
        """Filters above; the list on the left, and what is known of the chosen log on the right."""
        paging = rows([self.earlier, self.later, self.unlasso], [self.delete])
        column = widgets.VBox([self.logs, *paging, self.asking], layout={"flex": "1 1 420px", "min_width": "0"})
        both = widgets.HBox([column, self.tabs], layout=_SIDE_BY_SIDE)
        return widgets.VBox([self.query, *rows([self.right, self.rounds, self.size]), self.message, both])

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
            total = len(self.found)
            self._first = max(0, min(first, (total - 1) // _LISTED * _LISTED))
            listed, nothing = self._page, none_found(self.store, wanted, self.found, self._scores)
            stays = self.log in listed and wanted.query == before.query
            self._wanted = wanted
            self._list(self.log if stays else next(iter(listed), None), nothing)
            self._draw()
            self.unlasso.layout.display = "" if self.map.lasso else "none"
            self._tell(nothing)

    def _tell(self, nothing: str = "") -> None:
        """Say how many logs were found, and which of them are listed."""
        page = (
            f" Listed: {self._first + 1:,} to {self._first + len(self._page):,}." if len(self.found) > _LISTED else ""
        )
        self.say(nothing or some_found(self.store, self._wanted, self.found) + page)

    def _turn_to(self, first: int) -> None:
        """List another page of what was found, from number `first` on."""
        if 0 <= first < len(self.found):
            with self.telling():
                self._first = first
                self._list(self._page[0])
                self._tell()

    @property
    def _page(self) -> list[str]:
        """The logs on the page of the table that is shown."""
        return self.found[self._first : self._first + _LISTED]

    def _list(self, chosen: str | None, nothing: str = "") -> None:
        """Show the page, and the chosen log."""
        before = self.log
        self.logs.show(scored(self.store, self._page, self._scores), chosen, nothing)
        self.earlier.disabled, self.later.disabled = self._first == 0, self._first + _LISTED >= len(self.found)
        if self.log == before:  # else a change of what is chosen has had it read
            self._read()

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

    def _choose(self, log: str) -> None:
        """Choose a log that was pressed on the map, on the page of the table where it stands."""
        if log and log != self.log and log in self.found:
            with self.telling():
                first = self.found.index(log) // _LISTED * _LISTED
                if first != self._first:
                    self._turn_to(first)
                self.logs.chosen = log

    def _read(self) -> None:
        self._close_question()
        self.delete.disabled, self.map.chosen = self.log is None, self.log or ""
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
        self.attention.outputs, self.look.disabled = (), not self._attends
        if self.tabs.selected_index != _KEPT:
            return
        with self.telling():
            if self.log is None:
                self.kept.value = _NOBODY
            elif (encoder := self.encoder) is None:
                self.kept.value = kept_html(self.store.get(self.log), self.policy.value) + self._loading
            else:
                with MODEL_TURN:
                    self.kept.value = kept_html(self.store.get(self.log), self.policy.value, encoder)

    @property
    def _loading(self) -> str:
        """What is to be said of a model that is not there."""
        if not isinstance(self._given, Later) or self._given.ready:
            return ""
        if self._given.error is not None:
            return f"<p><i>{escape(sentence(self._given.error))}</i></p>"
        return "<p><i>The model is being loaded: words are marked, and tokens will be.</i></p>"

    @property
    def _attends(self) -> bool:
        """Whether the chosen policy's tokens can be asked what they attended to."""
        policy = get_policy(self.policy.value)
        return bool(self.log and self.encoder and policy and policy.inject == "kv")

    def _attend(self) -> None:
        """Show what the kept tokens of the chosen log attended to while it was read."""
        policy = get_policy(self.policy.value)
        if self.log is None or self.encoder is None or policy is None:
            return
        with self.telling(), MODEL_TURN:
            show_html(self.attention, tokens.view(encoding(self.encoder, self.store.get(self.log), policy)))

    def _draw(self) -> None:
        """The map, if it is being looked at: to lay out many logs takes a while."""
        if self.tabs.selected_index != _MAP:
            return
        with self.telling():
            ids = self.store.ids
            stale = self._places is None or self._places[0] != ids
            if self._places is None or stale:
                self._places = ids, project(self.store.embeddings())
            # Of very many logs, not all are drawn.
            always = [*self.found[:_BEST], *([self.log] if self.log else [])]
            if stale or not self.map.has(always):
                self.map.show(Places.of(self.store, always, self._places[1]))
            self.map.mark(self.found, self.log)

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
