"""`Playground`: ask a question under several variants and look at what happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import ipywidgets as widgets

from lagkit.agent.loop import ROUND_LIMIT
from lagkit.logs.retrieve import Embedder, PassageIndex
from lagkit.logs.store import Store
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import POLICIES, Variant
from lagkit.runs.experiment import Experiment
from lagkit.types import Limits, Question, Trace
from lagkit.util.errors import ConfigError
from lagkit.util.progress import in_live_notebook
from lagkit.views import palette
from lagkit.views.plots import tokens
from lagkit.views.widgets.asking import follow
from lagkit.views.widgets.attending import attention_tokens
from lagkit.views.widgets.pages import answers_html, log_names, playground_html
from lagkit.views.widgets.parts import MODEL_TURN, Later, Panel, rows, sentence, show_html

_OWN = "a question of your own"


@dataclass(frozen=True)
class Means:
    """What answers a question."""

    lm: LM
    embedder: Embedder
    passages: PassageIndex | None

    @classmethod
    def of(cls, run: Experiment) -> Means:
        """Those of a run, which are loaded; raises StoreMismatch where its logs are another model's."""
        run.store().close()
        return cls(run.local_lm, run.embedder, run.passages)


class Playground(Panel):
    """Ask, see each variant's logs, rounds, answer and costs side by side, and what an answer attends to.

    prompt, embedder, passages, limits: as in `Agent`. questions: examples to choose from, whose gold answers are known.
    variants: the names that are offered and ticked at first; all others of `POLICIES` on demand. Work runs in a thread
    of its own, one piece at a time, and stops between two rounds when that is asked for.
    """

    def __init__(
        self,
        lm: LM | Later[Means],
        store: Store,
        *,
        prompt: Prompt,
        embedder: Embedder | None = None,
        passages: PassageIndex | None = None,
        limits: Limits | None = None,
        questions: Sequence[Question] = (),
        variants: Sequence[str] = ("no_logs", "kv_last_round"),
    ) -> None:
        """lm: the model, which needs an embedder; or both of them and passages, loaded later."""
        super().__init__()
        if isinstance(lm, LM):
            if embedder is None:
                raise ConfigError("A playground needs an embedder: logs and passages are searched with it.")
            means = Means(lm, embedder, passages)
            lm = Later(lambda: means)
            lm.start()
        self._means, self.store, self.prompt = lm, store, prompt
        self._limits = limits or Limits()
        self._max_rounds = self._limits.max_rounds or ROUND_LIMIT[prompt.kind]
        self.traces: dict[str, Trace] = {}
        self.going: dict[str, str] = {}  # what is said of variants that have not ended
        self._asked: Question | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._build_controls(questions, variants)
        self._connect()

    @classmethod
    def of(
        cls,
        run: Experiment,
        store: Store,
        *,
        questions: Sequence[Question],
        variants: Sequence[str] = ("no_logs", "kv_last_round"),
    ) -> Playground:
        """The playground with a run's model, prompt, passages and limits; the model is loaded in the background."""
        means = Later(lambda: Means.of(run))
        made = cls(means, store, prompt=run.prompt, limits=run.config.limits, questions=questions, variants=variants)
        made.say("The model is being loaded; a question waits for it.")
        means.start(made._loaded)
        return made

    def _build_controls(self, questions: Sequence[Question], variants: Sequence[str]) -> None:
        wide, label = {"width": "auto"}, {"description_width": "70px"}
        examples = [(_OWN, ""), *((q.text, q) for q in questions)]  # None would stand for no choice at all
        self.example = widgets.Dropdown(options=examples, description="example", layout=wide, style=label)
        self.question = widgets.Text(
            description="question", placeholder="type a question, or choose an example", layout=wide, style=label
        )
        # A store has traces or steps for logs: here it has traces.
        of_traces = (name for name, policy in POLICIES.items() if policy is None or policy.unit == "trace")
        self.variants = {
            name: widgets.Checkbox(
                name in variants,
                description=palette.readable(name),
                tooltip=name,
                indent=False,
                layout={"width": "auto", "margin": "2px 16px 2px 2px", "display": "" if name in variants else "none"},
            )
            for name in dict.fromkeys((*variants, *of_traces))
        }
        self._offered = [*variants]
        self.more = widgets.ToggleButton(description="More variants", icon="plus", layout={"width": "auto"})
        self.ask_button = widgets.Button(description="Ask", button_style="primary", icon="play")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.progress = widgets.IntProgress(value=0, max=1, layout={"width": "200px", "visibility": "hidden"})
        self.answers = widgets.HTML()
        look = "What does the answer attend to?"
        self.attended = widgets.Dropdown(description="variant", disabled=True, style=label)
        self.attend_button = widgets.Button(description=look, disabled=True, layout={"width": "260px"})
        self.attention = widgets.Output()

    def _connect(self) -> None:
        self.example.observe(lambda change: self._take_example(change.new), "value")
        self.question.observe(lambda change: self._take_words(change.new), "value")
        self.question.on_msg(lambda _, told, __: self.ask() if told.get("event") == "submit" else None)  # Enter
        self.more.observe(lambda _: self._offer(), "value")
        self.ask_button.on_click(lambda _: self.ask())
        self.stop_button.on_click(lambda _: self.stop())
        self.attend_button.on_click(lambda _: self.attend())

    @cached_property
    def view(self) -> widgets.Widget:
        """Question and variants above, answers side by side, attention below."""
        asking = rows([*self.variants.values(), self.more], [self.ask_button, self.stop_button, self.progress])
        looking = rows([self.attended, self.attend_button])
        parts = [self.example, self.question, *asking, self.message, self.answers, *looking, self.attention]
        return widgets.VBox(parts)

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
        """Start to answer the question, by default the one in the field, under the ticked variants.

        Does nothing while something runs.
        """
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
        name = self.attended.value
        self._start(lambda: self._look(name))

    def stop(self) -> None:
        """Ask what runs to stop after the round it is in."""
        self._stopping.set()
        if self.busy:
            self.say("Stopping after this round …")

    @property
    def busy(self) -> bool:
        """True while something runs."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for what runs, at most so long; returns whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def _loaded(self) -> None:
        """Say that the model is there, unless work says something else."""
        if self._means.error is not None:
            self.say(sentence(self._means.error), bad=True)
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
        if self.busy:
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._enable(False)
        self._thread.start()

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
        self.say("Working …" if self._means.ready else "The model is being loaded; the question waits for it …")
        try:
            for name, trace in self._followed(asked, names):
                number = len(trace.rounds)
                self.going = {} if self._has_ended(name, trace) else {name: f"in round {number + 1} …"}
                self.traces[name] = trace
                self.progress.value = (len(self.traces) - 1) * self._max_rounds + number
                self.say(f"{palette.readable(name)}: round {number} of at most {self._max_rounds}")
                self._show()
        except Exception:
            self._leave("broke off")
            raise
        finally:
            known = [(palette.readable(name), name) for name, trace in self.traces.items() if trace.rounds]
            self.attended.options, self.attended.index = known, 0 if known else None
        if self._stopping.is_set():
            self._stopped(names)
            return
        self.progress.value, self.progress.bar_style = self.progress.max, "success"
        self.say(f"Done: {len(self.traces)} variant{'s' * (len(self.traces) != 1)}.")

    def _has_ended(self, name: str, trace: Trace) -> bool:
        most = Variant.parse(name).limits(self._limits).max_rounds or self._max_rounds
        return trace.answer is not None or bool(trace.error) or len(trace.rounds) >= most

    def _followed(self, asked: Question | str, names: Sequence[str]) -> Iterator[tuple[str, Trace]]:
        """The traces after every round; the model is given up between two of them."""
        means = self._means.get()
        about = {"embedder": means.embedder, "passages": means.passages, "limits": self._limits}
        following = follow(means.lm, self.store, asked, names, prompt=self.prompt, **about)
        while not self._stopping.is_set():
            with MODEL_TURN:
                step = next(following, None)
            if step is None:
                return
            yield step

    def _stopped(self, names: Sequence[str]) -> None:
        """Say of each variant how far it came."""
        self._leave("stopped")
        self.progress.bar_style = "warning"
        unasked = [palette.readable(name) for name in names if name not in self.traces]
        rest = f" Not asked: {'; '.join(unasked)}." if unasked else ""
        self.say(f"Stopped; what was done until then is shown.{rest}")

    def _leave(self, how: str) -> None:
        """Say how the variant ended that has not come to its end."""
        self.going = {name: f"{how} after round {len(self.traces[name].rounds)}" for name in self.going}
        self._show()

    def _show(self) -> None:
        gold = self._asked.answers if self._asked else ()
        names = log_names(self.store, self.traces.values())
        self.answers.value = answers_html(self.traces, names, gold, self.going)

    def _look(self, name: str | None) -> None:
        if name is None:
            return
        self.say(f"Reading the last round of {palette.readable(name)} once more …")
        means = self._means.get()
        passages, asked = means.passages, self._asked
        with MODEL_TURN:
            found = attention_tokens(
                means.lm, self.store, self.traces[name], prompt=self.prompt, passages=passages, question=asked
            )
        show_html(self.attention, tokens.view(found))
        self.say("Done: below stands what the answer attends to.")
