"""A run from a configuration to a table: build logs, encode them, answer, report. Every stage resumes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.agent.chat import admit
from lagkit.agent.loop import Agent
from lagkit.datasets import loaders as data
from lagkit.datasets import split as components
from lagkit.datasets.world import dataset as worlds
from lagkit.logs import holding
from lagkit.logs.address import beside
from lagkit.logs.header import Header
from lagkit.logs.retrieve import Embedder, PassageIndex, load_embedder
from lagkit.logs.store import Store
from lagkit.model.backend import Backend
from lagkit.model.lm import LM
from lagkit.model.loading import load_model
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import Policy, Unit, Variant, get_policy
from lagkit.runs import fingerprints, manifest, reporting
from lagkit.runs.answers import Answers, in_reach, result_row
from lagkit.runs.claim import Claim
from lagkit.runs.config import RunConfig, Split
from lagkit.runs.executor import Asking, Executor, Local, those_encoded
from lagkit.runs.journal import Journal
from lagkit.stats import metrics
from lagkit.types import Limits, Question, Trace
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.paths import at, refuse_links
from lagkit.util.progress import progress, warn

RUN_DEPTH = 3  # of folders in a run's; block files, which may be many, are further down, and the store's to look after
_STORES: dict[Unit, str] = {"trace": "store", "step": "steps"}


class Experiment:
    """One run and its folder: `manifest.json`, `store/`, `traces/*.jsonl`, then `results.parquet` and tables.

    To make one writes nothing. What writes has the folder alone meanwhile (`writing`), what reads needs nobody's leave.
    A run on a test world has it in `world/`. `loaded` are the data as their authors split them, `data` as the run does;
    the same unless `split` is disjoint. `lm` and `embedder` may be handed in, to share them between runs.
    Raises DataError or ConfigError at once when the data are missing or too few, the folder holds another run, or `lm`
    cannot follow a policy. `workers`, if there are any, do what takes a model: see `lagkit.runs.workers`.
    """

    def __init__(self, config: RunConfig, *, lm: Backend | None = None, embedder: Embedder | None = None) -> None:
        self.config = config
        self.out = at(config.out)
        refuse_links(self.out, DataError, depth=RUN_DEPTH)
        self.workers: Executor | None = None
        self.loaded = (
            data.load(config.data, config.dataset) if config.data else worlds.load(self.out / "world", config.controls)
        )
        self.data = self.loaded if config.split == "authors" else components.disjoint_split(self.loaded, config.seed)
        for split in ("seen", "unseen"):
            self.questions(split)
        self._claim = Claim(config, self.prompt, self.data, self.log_questions)
        self._claim.check()
        if lm is not None:
            for variant in map(Variant.parse, config.policies):
                admit(lm, variant.policy, variant.limits(config.limits))
            self.lm = lm
        if embedder is not None:
            self.embedder = embedder

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: the settings and the data. It loads a model of its own, and may run in another folder."""
        kept = {name: getattr(self, name) for name in ("config", "loaded", "data")}
        return {**kept, "out": self.out, "workers": None}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Have the run's folder alone; inside of another such block it changes nothing.

        Every method that writes does so by itself: around several of them it keeps others out in between, too. Raises
        RunLocked, with nothing changed, where another process has the folder.
        """
        with self._claim.held() as new:
            if new and self.config.world is not None:
                worlds.keep(self.out / "world", worlds.Controls.parse(self.config.world))
            yield

    @property
    def executor(self) -> Executor:
        """Where the model works."""
        return self.workers or Local(self)

    @cached_property
    def lm(self) -> Backend:
        """The language model, loaded when first needed."""
        config = self.config
        return load_model(config.model, device=config.device, dtype=config.dtype, api=config.api)

    @property
    def local_lm(self) -> LM:
        """The language model, whose KV can be reached; raises ConfigError for one behind an API."""
        if not isinstance(self.lm, LM):
            raise ConfigError(f"{self.lm.name} is behind an API, which lets nobody reach its KV: choose a local model.")
        return self.lm

    @cached_property
    def embedder(self) -> Embedder:
        """The embedder of queries, passages and logs."""
        return load_embedder(self.config.embedder)

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt for the data's kind of task."""
        return Prompt.of(self.data.kind, self.config.wording)

    @cached_property
    def passages(self) -> PassageIndex | None:
        """The index of passages; None for tasks without."""
        passages = self.data.passages
        return PassageIndex(passages, self.embedder, self.prompt.embedded) if passages else None

    @cached_property
    def log_questions(self) -> tuple[Question, ...]:
        """The questions that the log store is built on: a seeded sample of the log-store split."""
        return self.data.sample("seen", self.config.log_questions, self.config.seed)

    def questions(self, split: Split) -> tuple[Question, ...]:
        """The questions to answer; seen ones are among `log_questions`."""
        if split == "unseen":
            return self.data.sample("unseen", self.config.unseen_questions, self.config.seed)
        logged = replace(self.data, seen=self.log_questions)
        return logged.sample("seen", self.config.seen_questions, self.config.seed)

    def store(self, unit: Unit = "trace", *, folder: Path | str | None = None, write: bool = False) -> Store:
        """The run's log store, whose logs are traces, or the one whose logs are their steps; or another in `folder`."""
        place, model, codec = folder or self._place(unit), self.executor.model, self.config.codec
        if write:
            store = Store.new(place, Header.of(model, self.embedder, codec), exist_ok=True)
        else:
            store = Store.open(place, model, embedder=self.embedder.name, codec=codec)
        store.exact_search = self.config.search == "exact"
        store.source = self.config.blocks
        return store

    def _place(self, unit: Unit) -> Path | str:
        """Where the store is whose logs are traces, or their steps."""
        if self.config.store is None:
            return self.out / _STORES[unit]
        return self.config.store if unit == "trace" else beside(self.config.store, _STORES[unit])

    def run(self) -> pd.DataFrame:
        """All stages; returns the results, one row per policy, split and question."""
        _ = self.executor.model, self.embedder  # what cannot be loaded is refused before the folder is touched
        with self.writing():
            with manifest.session(self):
                self.build()
                self.encode()
                for name in self.config.policies:
                    for split in self.config.splits:
                        self.answer(name, split)
            return self.report()

    def build(self, *, after: Experiment | None = None) -> None:
        """Answer the log questions without logs, and log every trace that did not fail, right or wrong.

        after: a run whose logs the store holds, too, before its own. Raises StoreMismatch, before anything is answered,
        if the run's store was built with another model or holds logs of others.
        """
        lent, others = (after.logged(), after.made()) if after else ([], [])
        with self.writing():
            with self.store(write=True) as store:
                holding.check(store, self._ours([*lent, *others, *self.made()]))
                self.ask("log", None, "no_logs", self.log_questions, None)
            self.fill([*lent, *self.logged()], [*others, *self.made()])

    def fill(self, logs: Sequence[Trace], made: Iterable[Trace] = ()) -> None:
        """Have the run's stores hold these logs and no others: as they are, and step by step where a policy asks so.

        made: all logs that were ever meant for them. Raises StoreMismatch, with nothing changed, if they hold others.
        """
        made = list(made)
        steps, before = ([step for log in some for step in log.steps] for some in (logs, made))
        with self.writing():
            with self.store(write=True) as store:
                gone = holding.hold(store, logs, self._ours(made), self.embedder.documents)
            if "step" in self._units:
                with self.store("step", write=True) as store:
                    holding.hold(store, steps, self._ours(before), self.embedder.documents)
        if gone:
            warn(f"{len(gone)} logs of the store were replaced: they are judged otherwise now, or no longer the run's.")

    def _ours(self, made: Iterable[Trace]) -> Callable[[Trace], bool]:
        """Tells logs of the run: it made them, or their lines were lost, and the store is in the run's own folder."""
        ids = {log.id for log in made}
        asked = {question.id for question in self.log_questions} if self.config.store is None else ()
        return lambda log: log.id in ids or log.question_id in asked

    def made(self) -> list[Trace]:
        """All logs that the run ever made, those to earlier wordings of its questions included."""
        return self.journal("log").traces()

    @property
    def _units(self) -> set[Unit]:
        """What logs are under the run's policies."""
        return {policy.unit for policy in map(get_policy, self.config.policies) if policy}

    def encode(self) -> None:
        """Encode each log as the KV policies ask; what is encoded already stays. Too long a log is left out."""
        wanted = [policy for policy in map(get_policy, self.config.policies) if policy and policy.inject == "kv"]
        for unit in sorted(self._units):
            own = [policy for policy in wanted if policy.unit == unit]
            policies = {key: policy for policy in own for key in self.executor.block_keys(policy)}
            with self.writing(), self.store(unit, write=True) as store:
                todo = [(log, key) for log in store.ids for key in policies if not store.has_block(log, key)]
                made = self.executor.encode(todo, store.get, policies)
                what = "Encoding logs" if unit == "trace" else "Encoding steps"
                store.put_blocks(those_encoded(progress(made, what, total=len(todo))))

    def answer(self, name: str, split: Split) -> None:
        """Answer a split's questions under one policy. Seen ones without logs were answered to build the store."""
        if name == "no_logs" and split == "seen":
            return
        variant = Variant.parse(name)
        with self.store(variant.policy.unit) if variant.policy else nullcontext() as store:
            limits = variant.limits(self.config.limits)
            self.ask(f"{name}.{split}", variant.policy, name, self.questions(split), store, limits=limits)

    def report(self) -> pd.DataFrame:
        """Score the traces that there are; write `results.parquet`, and what `reporting.remake` makes of it.

        That is `summary.csv`, `differences.csv` and `report.md`; with unseen questions, and if the data name hops, also
        `strata.csv`: `Strata.table()`.
        """
        with self.writing():
            return reporting.write(self)

    def scored(self, policies: Sequence[str], splits: Sequence[Split]) -> pd.DataFrame:
        """The traces that there are, scored: one row per policy, split and question."""
        rows, logs = [], self._digests()
        for name in policies:
            for split in splits:
                traces = self._traces(name, split, logs)
                asked = [q for q in self.questions(split) if q.id in traces]
                rows += [{"policy": name, "split": split, **self._row(q, traces[q.id])} for q in asked]
        return pd.DataFrame(rows)

    def _row(self, question: Question, trace: Trace) -> dict[str, Any]:
        """A question's outcome; of a model behind an API, with its price."""
        cost = {"cost": self.config.api.cost(trace.usage)} if self.config.api else {}
        return {**result_row(question, trace), **cost}

    @property
    def logs(self) -> list[Trace]:
        """The traces of the log questions that did not fail, in the order in which they ended."""
        found = Answers(self.journal("log"), self.log_questions, in_reach(None)).found
        return [trace for trace in found.values() if not trace.error]

    def logged(self) -> list[Trace]:
        """The `logs` in the order of their questions, as the store has them: it ranks equal scores by it."""
        own = {log.question_id: log for log in self.logs}
        return [own[question.id] for question in self.log_questions if question.id in own]

    @property
    def results(self) -> pd.DataFrame:
        """One row per policy, split and question that was answered, as `run` and `report` give them."""
        return self.scored(self.config.policies, self.config.splits)

    def summary(self) -> pd.DataFrame:
        """Mean scores, rounds and costs by policy and split, as in `metrics.summarize`."""
        return metrics.summarize(self.results)

    def compare(self) -> pd.DataFrame:
        """The paired `differences` of the `results`: points, rounds and their intervals by policy, split and metric."""
        return self.differences(self.results)

    def differences(self, results: pd.DataFrame, baseline: str = "no_logs") -> pd.DataFrame:
        """Paired differences to the baseline; questions that share a sub-question count as dependent.

        The log store is taken as given: two questions that share none with each other, but one each with the same log,
        are not tied together by it.
        """
        return metrics.compare(results, self.data.hops, baseline)

    def _digests(self) -> dict[Unit, str | None]:
        """Of the logs that the run has made, as they are and step by step; None where it was lent its logs."""
        if not self.journal("log").path.exists():
            return {"trace": None, "step": None}
        logs = self.logs
        steps = [step.id for log in logs for step in log.steps]
        return {"trace": fingerprints.of_logs(log.id for log in logs), "step": fingerprints.of_logs(steps)}

    def _traces(self, name: str, split: Split, logs: Mapping[Unit, str | None]) -> dict[str, Trace]:
        journal = "log" if name == "no_logs" and split == "seen" else f"{name}.{split}"
        policy = Variant.parse(name).policy
        digest = logs[policy.unit] if policy else ""
        return Answers(self.journal(journal, policy), self.questions(split), lambda _: digest).found

    def journal(self, name: str, policy: Policy | None = None) -> Journal:
        """The answers of that name under a policy; another function under the name of a `keep` has its own."""
        return Journal(self.out / "traces" / f"{name.replace('/', '-')}{policy.stamp if policy else ''}.jsonl")

    def ask(
        self,
        journal: str,
        policy: Policy | None,
        name: str,
        questions: Sequence[Question],
        store: Store | None,
        *,
        limits: Limits | None = None,
        exclude: Mapping[str, Collection[str]] | None = None,
    ) -> list[Trace]:
        """Answer what the journal does not hold yet; each trace is on disk as it ends. All, in the questions' order.

        What failed for a reason that may have passed is asked again, and so is what was answered to another wording of
        its question or with other logs (`Answers`). `limits` are the run's own by default; `exclude` as in `Agent`. A
        journal's name has to tell both apart.
        """
        answers = Answers(self.journal(journal, policy), questions, in_reach(store, exclude))
        if answers.todo:
            with self.writing():
                answers.read()
                answers.tell()
                asking = Asking(policy, name, store, limits or self.config.limits, exclude)
                traces = self.executor.answer(answers.todo.values(), asking) if answers.todo else ()
                for trace in progress(traces, f"Answering: {journal}", total=len(answers.todo)):
                    answers.add(trace)
        return [answers.found[question.id] for question in questions]

    def agent(
        self,
        policy: Policy | None,
        name: str,
        store: Store | None,
        *,
        limits: Limits | None = None,
        exclude: Mapping[str, Collection[str]] | None = None,
    ) -> Agent:
        """An agent with the run's model, prompt and passages; `limits` are the run's own by default."""
        agent = partial(Agent, self.lm, prompt=self.prompt, embedder=self.embedder, passages=self.passages)
        limits = limits or self.config.limits
        return agent(policy=policy, policy_name=name, store=store, limits=limits, exclude=exclude)
