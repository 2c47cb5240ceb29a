"""`Playground`: ask a question under several variants and look at what happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import ipywidgets as widgets

from lagkit.agent.loop import ROUND_LIMIT
from lagkit.logs.retrieve import Embedder, PassageIndex
from lagkit.logs.store import Store
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import POLICIES
from lagkit.runs.experiment import Experiment
from lagkit.types import Limits, Question, Trace
from lagkit.views.plots.explore import attention_bars
from lagkit.views.widgets.asking import attention_table, follow
from lagkit.views.widgets.pages import answers_html, log_names
from lagkit.views.widgets.parts import Panel, sentence, show_figure, titled

_OWN = "a question of your own"


class Playground(Panel):
    """Ask, see each variant's logs, rounds, answer and costs side by side, and what an answer attends to.

    prompt, embedder, passages, limits: as in `Agent`. questions: examples to choose from, whose gold answers are known.
    variants: the names that are ticked at first, of all in `POLICIES`. Work runs in a thread of its own, one piece at a
    time, and stops between two rounds when that is asked for.
    """

    def __init__(
        self,
        lm: LM,
        store: Store,
        *,
        prompt: Prompt,
        embedder: Embedder,
        passages: PassageIndex | None = None,
        limits: Limits | None = None,
        questions: Sequence[Question] = (),
        variants: Sequence[str] = ("no_logs", "text_last_round", "kv_last_round"),
    ) -> None:
        super().__init__()
        self.lm, self.store, self.prompt, self.passages = lm, store, prompt, passages
        limits = limits or Limits()
        self._settings: dict[str, Any] = {"embedder": embedder, "passages": passages, "limits": limits}
        self._max_rounds = limits.max_rounds or ROUND_LIMIT[prompt.kind]
        self.traces: dict[str, Trace] = {}
        self._asked: Question | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._build_controls(questions, variants)
        self._connect()

    @classmethod
    def of(cls, run: Experiment, store: Store, *, questions: Sequence[Question], variants: Sequence[str]) -> Playground:
        """The playground with a run's model, prompt, passages and limits."""
        about: dict[str, Any] = {"prompt": run.prompt, "embedder": run.embedder, "passages": run.passages}
        return cls(run.local_lm, store, **about, limits=run.config.limits, questions=questions, variants=variants)

    def _build_controls(self, questions: Sequence[Question], variants: Sequence[str]) -> None:
        wide, label = {"width": "auto"}, {"description_width": "70px"}
        examples = [(_OWN, ""), *((q.text, q) for q in questions)]  # None would stand for no choice at all
        self.example = widgets.Dropdown(options=examples, description="example", layout=wide, style=label)
        self.question = widgets.Text(
            description="question", placeholder="type a question, or choose an example", layout=wide, style=label
        )
        # A store has traces or steps for logs: here it has traces.
        of_traces = (name for name, policy in POLICIES.items() if policy is None or policy.unit == "trace")
        names = dict.fromkeys((*of_traces, *variants))
        self.variants = {
            name: widgets.Checkbox(name in variants, description=name, indent=False, layout={"width": "210px"})
            for name in names
        }
        self.ask_button = widgets.Button(description="Ask", button_style="primary", icon="play")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.progress = widgets.IntProgress(value=0, max=1, layout={"width": "200px"})
        self.answers = widgets.HTML()
        self.attended = widgets.Dropdown(description="variant", disabled=True, style=label)
        self.attend_button = widgets.Button(
            description="What does the answer attend to?", disabled=True, layout={"width": "260px"}
        )
        self.attention = widgets.Output()

    def _connect(self) -> None:
        self.example.observe(lambda change: self._take_example(change.new), "value")
        self.question.observe(lambda change: self._take_words(change.new), "value")
        self.ask_button.on_click(lambda _: self.ask())
        self.stop_button.on_click(lambda _: self.stop())
        self.attend_button.on_click(lambda _: self.attend())

    @cached_property
    def view(self) -> widgets.Widget:
        """Question and variants above, answers side by side, attention below."""
        wraps = {"flex_flow": "row wrap"}
        boxes = widgets.Box(list(self.variants.values()), layout=wraps)
        buttons = widgets.HBox([self.ask_button, self.stop_button, self.progress, self.message], layout=wraps)
        looking = widgets.HBox([self.attended, self.attend_button], layout=wraps)
        return widgets.VBox(
            [self.example, self.question, titled("Variants"), boxes, buttons, self.answers, looking, self.attention]
        )

    def ask(self) -> None:
        """Start to answer the question under the ticked variants; does nothing while something runs."""
        asked = self.example.value or self.question.value
        names = [name for name, box in self.variants.items() if box.value]
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

    def _take_example(self, example: Question | str) -> None:
        if isinstance(example, Question):
            self.question.value = example.text

    def _take_words(self, words: str) -> None:
        """Other words than the example's are a question of one's own."""
        if isinstance(self.example.value, Question) and words.strip() != self.example.value.text:
            self.example.value = ""

    def _start(self, work: Callable[[], None]) -> None:
        if self.busy:
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._enable(False)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        self.progress.bar_style = ""
        try:
            work()
        except Exception as error:  # told to the person who pressed the button
            self.say(sentence(error), bad=True)
            self.progress.bar_style = "danger"
        finally:
            self._enable(True)

    def _enable(self, idle: bool) -> None:
        self.ask_button.disabled, self.stop_button.disabled = not idle, idle
        self.attended.disabled = self.attend_button.disabled = not (idle and self.traces)

    def _answer(self, asked: Question | str, names: Sequence[str]) -> None:
        self.traces, self._asked = {}, asked if isinstance(asked, Question) else None
        self.attention.outputs, self.answers.value, self.attended.options = (), "", ()
        self.progress.value, self.progress.max = 0, max(len(names), 1) * self._max_rounds
        self.say("Working …")
        for name, trace in follow(self.lm, self.store, asked, names, prompt=self.prompt, **self._settings):
            self.traces[name] = trace
            done = (len(self.traces) - 1) * self._max_rounds + len(trace.rounds)
            self.progress.value = done
            self.say(f"{name}: round {len(trace.rounds)} of at most {self._max_rounds}")
            self.answers.value = answers_html(self.traces, log_names(self.store, self.traces.values()))
            if self._stopping.is_set():
                break
        self.attended.options = [name for name, trace in self.traces.items() if trace.rounds]
        self.attended.index = 0 if self.attended.options else None
        if self._stopping.is_set():
            self.say("Stopped; what was done until then is shown.")
            return
        self.progress.value, self.progress.bar_style = self.progress.max, "success"
        self.say(f"Done: {len(self.traces)} variant{'s' * (len(self.traces) != 1)}.")

    def _look(self, name: str | None) -> None:
        if name is None:
            return
        self.say(f"Reading {name}'s last round once more …")
        trace, asked = self.traces[name], self._asked
        table = attention_table(self.lm, self.store, trace, prompt=self.prompt, passages=self.passages, question=asked)
        show_figure(self.attention, attention_bars(table, f"What the last response of {name} attends to"))
        self.say("Done.")
