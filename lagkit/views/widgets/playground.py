"""`Playground`: ask a question under several variants and look at what happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import NamedTuple

import ipywidgets as widgets

from lagkit.agent.loop import ROUND_LIMIT
from lagkit.logs.retrieve import Embedder, PassageIndex
from lagkit.logs.store import Store
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import POLICIES
from lagkit.runs.experiment import Experiment
from lagkit.types import Limits, Question, Trace
from lagkit.util.progress import in_live_notebook
from lagkit.views import palette
from lagkit.views.plots import tokens
from lagkit.views.widgets.asking import follow
from lagkit.views.widgets.attending import attention_tokens
from lagkit.views.widgets.pages import answers_html, log_names, playground_html
from lagkit.views.widgets.parts import MODEL_TURN, Panel, begin, button, promised, row, sentence, show_html

_OWN = "a question of your own"
_OFFERED = ("no_logs", "kv_last_round")  # at first
_LABEL = {"description_width": "70px"}


class Means(NamedTuple):
    """What answers a question."""

    lm: LM
    embedder: Embedder
    passages: PassageIndex | None


class Playground(Panel):
    """Ask, see each variant's logs, rounds, answer and costs side by side, and what an answer attends to.

    means: or their future; questions wait for it. questions: examples to choose from, whose gold answers are known.
    variants: the names that are offered and ticked at first, all others of `POLICIES` on demand. Work runs in a thread
    of its own, one piece at a time, and stops between two rounds when that is asked for.
    """

    def __init__(
        self,
        means: Means | Future[Means],
        store: Store,
        *,
        prompt: Prompt,
        limits: Limits,
        questions: Sequence[Question] = (),
        variants: Sequence[str] = _OFFERED,
    ) -> None:
        super().__init__()
        self._means, self.store, self.prompt = promised(means), store, prompt
        self._limits = limits
        self._max_rounds = self._limits.max_rounds or ROUND_LIMIT[prompt.kind]
        self.traces: dict[str, Trace] = {}
        self.going: dict[str, str] = {}  # what is said of variants that have not ended
        self._asked: Question | None = None
        self._stopping = threading.Event()
        self._work: Future[None] | None = None
        self.answers, self.attention = widgets.HTML(), widgets.Output()
        asking = [self._question_view(questions), self._variants_view(variants), self._ask_view(), self.message]
        self.view = widgets.VBox([*asking, self.answers, self._attention_view(), self.attention])
        self.say("The model is being loaded; a question waits for it.")
        self._means.add_done_callback(lambda _: self._loaded())

    @classmethod
    def of(
        cls, run: Experiment, store: Store, *, questions: Sequence[Question], variants: Sequence[str] = _OFFERED
    ) -> Playground:
        """The playground with a run's model, prompt, passages and limits; the model is loaded in the background."""

        def load() -> Means:
            run.store().close()  # raises StoreMismatch where its logs are another model's
            return Means(run.local_lm, run.embedder, run.passages)

        limits = run.config.limits
        return cls(begin(load), store, prompt=run.prompt, limits=limits, questions=questions, variants=variants)

    def _question_view(self, questions: Sequence[Question]) -> widgets.Widget:
        """An example, or words of one's own."""
        wide = {"layout": {"width": "auto"}, "style": _LABEL}
        examples = [(_OWN, ""), *((q.text, q) for q in questions)]  # None would stand for no choice at all
        self.example = widgets.Dropdown(options=examples, description="example", **wide)
        words = "type a question, or choose an example"
        self.question = widgets.Text(description="question", placeholder=words, **wide)
        self.example.observe(lambda change: self._take_example(change.new), "value")
        self.question.observe(lambda change: self._take_words(change.new), "value")
        self.question.on_msg(lambda _, told, __: self.ask() if told.get("event") == "submit" else None)  # Enter
        return widgets.VBox([self.example, self.question])

    def _variants_view(self, offered: Sequence[str]) -> widgets.Widget:
        """A box to tick for each variant."""
        self._offered = tuple(offered)
        # A store has traces or steps for logs: here it has traces.
        of_traces = (name for name, policy in POLICIES.items() if policy is None or policy.unit == "trace")
        self.variants = {
            name: widgets.Checkbox(
                name in offered,
                description=palette.readable(name),
                tooltip=name,
                indent=False,
                layout={"width": "auto", "margin": "2px 16px 2px 2px"},
            )
            for name in dict.fromkeys((*offered, *of_traces))
        }
        self.more = widgets.ToggleButton(layout={"width": "auto"})
        self.more.observe(lambda _: self._offer(), "value")
        self._offer()
        return row(*self.variants.values(), self.more)

    def _ask_view(self) -> widgets.Widget:
        """Buttons to ask and to stop, and how far it is."""
        self.ask_button = button("Ask", self.ask, button_style="primary", icon="play")
        self.stop_button = button("Stop", self.stop, icon="stop", disabled=True)
        self.progress = widgets.IntProgress(value=0, max=1, layout={"width": "200px", "visibility": "hidden"})
        return row(self.ask_button, self.stop_button, self.progress)

    def _attention_view(self) -> widgets.Widget:
        """The variant whose answer's attention is shown."""
        self.attended = widgets.Dropdown(description="variant", disabled=True, style=_LABEL)
        self.attend_button = button("What does the answer attend to?", self.attend, "260px", disabled=True)
        return row(self.attended, self.attend_button)

    def snapshot(self) -> str:
        """The question and its answers; where nobody can press a button, what runs is waited for."""
        if not in_live_notebook():
            self.wait()
        unasked = "" if self.traces else "Nothing was asked yet."
        return playground_html(self.question.value, self._ticked, self.answers.value, unasked)

    def __repr__(self) -> str:
        return f"Playground with {', '.join(self._ticked)}; answers: {len(self.traces)}"

    @property
    def _ticked(self) -> list[str]:
        return [name for name, box in self.variants.items() if box.value]

    def ask(self, question: Question | str = "") -> None:
        """Start to answer a question, by default that of the field, under the ticked variants, if nothing runs."""
        if self.busy:
            return
        if isinstance(question, Question) and question in [value for _, value in self.example.options]:
            self.example.value = question
        elif question:
            self.question.value = question if isinstance(question, str) else question.text
        asked = question or self.example.value or self.question.value
        names = self._ticked
        self._start(lambda: self._answer(asked, names))

    def attend(self) -> None:
        """Start to look at what the chosen variant's answer attends to."""
        if name := self.attended.value:
            self._start(lambda: self._look(name))

    def stop(self) -> None:
        """Ask what runs to stop after the round it is in."""
        self._stopping.set()
        if self.busy:
            self.say("Stopping after this round …")

    @property
    def busy(self) -> bool:
        """True while something runs."""
        return self._work is not None and not self._work.done()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for what runs, at most so long; returns whether it has ended."""
        if self._work is not None:
            wait([self._work], seconds)
        return not self.busy

    def _loaded(self) -> None:
        """Say that the model is there, unless work says something else."""
        if error := self._means.exception():
            self.say(sentence(error), bad=True)
        elif not self.busy:
            self.say("The model is there: press Enter, or Ask.")

    def _offer(self) -> None:
        """Show all variants, or those of the beginning and the ticked ones."""
        self.more.description = "Fewer variants" if self.more.value else "More variants"
        self.more.icon = "minus" if self.more.value else "plus"
        for name, box in self.variants.items():
            box.layout.display = "" if self.more.value or name in self._offered or box.value else "none"

    def _take_example(self, example: Question | str) -> None:
        if isinstance(example, Question):
            self.question.value = example.text

    def _take_words(self, words: str) -> None:
        """An example's words are the example, whose answer is known; others are a question of one's own."""
        known = {example.text: example for _, example in self.example.options if isinstance(example, Question)}
        self.example.value = known.get(words.strip(), "")

    def _start(self, work: Callable[[], None]) -> None:
        if not self.busy:
            self._stopping.clear()
            self._enable(False)
            self._work = begin(lambda: self._run(work))

    def _run(self, work: Callable[[], None]) -> None:
        self.progress.value, self.progress.bar_style = 0, ""
        try:
            work()
        except Exception as error:  # told to the person who pressed the button
            self.say(sentence(error), bad=True)
            self.progress.bar_style = "danger"
        finally:
            self._enable(True)

    def _enable(self, idle: bool) -> None:
        self.ask_button.disabled, self.stop_button.disabled = not idle, idle
        self.progress.layout.visibility = "hidden" if idle else "visible"
        self.attended.disabled = self.attend_button.disabled = not (idle and self.traces)

    def _answer(self, asked: Question | str, names: Sequence[str]) -> None:
        self.traces, self.going, self._asked = {}, {}, asked if isinstance(asked, Question) else None
        self.attention.outputs, self.answers.value, self.attended.options = (), "", ()
        self.progress.value, self.progress.max = 0, max(len(names), 1) * self._max_rounds
        self.say("Working …" if self._means.done() else "The model is being loaded; the question waits for it …")
        how = "broke off"
        try:
            for name, trace, ended in self._followed(asked, names):
                number = len(trace.rounds)
                self.going = {} if ended else {name: f"in round {number + 1} …"}
                self.traces[name] = trace
                self.progress.value = (len(self.traces) - 1) * self._max_rounds + number
                self.say(f"{palette.readable(name)}: round {number} of at most {self._max_rounds}")
                self._show()
            how = "stopped"
        finally:
            self.going = {name: f"{how} after round {len(self.traces[name].rounds)}" for name in self.going}
            self._show()
            known = [(palette.readable(name), name) for name, trace in self.traces.items() if trace.rounds]
            self.attended.options, self.attended.index = known, 0 if known else None
        if self._stopping.is_set():
            unasked = [palette.readable(name) for name in names if name not in self.traces]
            rest = f" Not asked: {'; '.join(unasked)}." if unasked else ""
            self.progress.bar_style = "warning"
            self.say(f"Stopped; what was done until then is shown.{rest}")
        else:
            self.progress.value, self.progress.bar_style = self.progress.max, "success"
            self.say(f"Done: {len(self.traces)} variant{'s' * (len(self.traces) != 1)}.")

    def _followed(self, asked: Question | str, names: Sequence[str]) -> Iterator[tuple[str, Trace, bool]]:
        """What `follow` gives after every round; the model is given up between two of them."""
        lm, embedder, passages = self._means.result()
        following = follow(
            lm, self.store, asked, names, prompt=self.prompt, limits=self._limits, embedder=embedder, passages=passages
        )
        while not self._stopping.is_set():
            with MODEL_TURN:
                step = next(following, None)
            if step is None:
                return
            yield step

    def _show(self) -> None:
        gold = self._asked.answers if self._asked else ()
        names = log_names(self.store, self.traces.values())
        self.answers.value = answers_html(self.traces, names, gold, self.going)

    def _look(self, name: str) -> None:
        self.say(f"Reading the last round of {palette.readable(name)} once more …")
        lm, _, passages = self._means.result()
        trace, asked = self.traces[name], self._asked
        with MODEL_TURN:
            found = attention_tokens(lm, self.store, trace, prompt=self.prompt, passages=passages, question=asked)
        show_html(self.attention, tokens.view(found))
        self.say("Done: below stands what the answer attends to.")
