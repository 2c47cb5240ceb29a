"""A run from a configuration to a table: build logs, encode them, answer, report. Every stage resumes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lagkit.agent.chat import admit
from lagkit.agent.loop import Agent
from lagkit.datasets import loaders as data
from lagkit.datasets.split import disjoint_split
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
from lagkit.runs import fingerprints, manifest, report
from lagkit.runs.answers import Answers, in_reach, result_row
from lagkit.runs.claim import Claim
from lagkit.runs.config import RunConfig, Split
from lagkit.runs.executor import Asking, Local, those_encoded
from lagkit.runs.journal import Journal
from lagkit.stats import metrics
from lagkit.types import Limits, Question, Trace
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.lazy import loaded_once
from lagkit.util.paths import at, refuse_links
from lagkit.util.progress import progress, warn

if TYPE_CHECKING:
    from lagkit.runs.workers import Workers

RUN_DEPTH = 3  # of folders in a run's; block files, which may be many, are further down, and the store's to look after
_STORES: dict[Unit, str] = {"trace": "store", "step": "steps"}


class Experiment:
    """One run and its folder: `manifest.json`, `store/`, `traces/*.jsonl`, then `results.parquet` and tables.

    Creating one writes nothing. Methods that write lock the folder (`writing`). `loaded` are the data as their authors
    split them, `data` as the run does. lm, embedder: to share them between runs. `workers`, if any, run the model.
    Raises DataError or ConfigError if data are missing or few, the folder is another run's, or `lm` cannot follow one.
    """

    def __init__(self, config: RunConfig, *, lm: Backend | None = None, embedder: Embedder | None = None) -> None:
        self.config, self.out = config, at(config.out)
        refuse_links(self.out, DataError, depth=RUN_DEPTH)
        self.workers: Workers | None = None
        source, world = config.data, self.out / "world"
        self.loaded = data.load(source.folder, source.format) if source.folder else worlds.load(world, source.controls)
        self.data = self.loaded if source.split == "authors" else disjoint_split(self.loaded, source.seed)
        for split in source.splits:
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
        """For a worker: the settings and the data. It loads a model of its own."""
        return {name: getattr(self, name) for name in ("config", "loaded", "data", "out")} | {"workers": None}

    def __repr__(self) -> str:
        return f"Experiment({self.config.model.name} on {self.data.name}, {self.out})"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the run's folder; does nothing inside another such block.

        A block around several methods keeps other processes out in between. Raises RunLocked where one has the lock.
        """
        with self._claim.held() as new:
            if new and self.config.data.world is not None:
                worlds.keep(self.out / "world", self.config.data.controls)
            yield

    @property
    def executor(self) -> Local | Workers:
        """The workers, or this process."""
        return self.workers or Local(self)

    @loaded_once
    def lm(self) -> Backend:
        """The language model, loaded when first needed."""
        model = self.config.model
        return load_model(model.name, device=model.device, dtype=model.dtype, api=model.api)

    @property
    def local_lm(self) -> LM:
        """The language model with its KV; raises ConfigError for one behind an API."""
        if not isinstance(self.lm, LM):
            raise ConfigError(f"{self.lm.name} is behind an API, which lets nobody reach its KV: choose a local model.")
        return self.lm

    @loaded_once
    def embedder(self) -> Embedder:
        """The embedder of queries, passages and logs."""
        return load_embedder(self.config.store.embedder)

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt for the data's kind of task."""
        return Prompt.of(self.data.kind, self.config.model.wording)

    @loaded_once
    def passages(self) -> PassageIndex | None:
        """The index of passages; None for tasks without."""
        passages = self.data.passages
        return PassageIndex(passages, self.embedder, self.prompt.embedded) if passages else None

    @cached_property
    def log_questions(self) -> tuple[Question, ...]:
        """The questions that the log store is built on: a seeded sample of the log-store split."""
        return self.data.sample("seen", self.config.data.log_questions, self.config.data.seed)

    def questions(self, split: Split) -> tuple[Question, ...]:
        """The questions to answer; seen ones are among `log_questions`."""
        if split == "unseen":
            return self.data.sample("unseen", self.config.data.unseen_questions, self.config.data.seed)
        seen = replace(self.data, seen=self.log_questions)
        return seen.sample("seen", self.config.data.seen_questions, self.config.data.seed)

    def store(self, unit: Unit = "trace", *, folder: Path | str | None = None, write: bool = False) -> Store:
        """The run's store of traces, or the one of their steps; or another in `folder`."""
        place, model, codec = folder or self.place(unit), self.executor.model, self.config.store.codec
        if write:
            store = Store.new(place, Header.of(model, self.embedder, codec), exist_ok=True)
        else:
            store = Store.open(place, model, embedder=self.embedder.name, codec=codec)
        return self.config.store.applied(store)

    def place(self, unit: Unit) -> Path | str:
        """Place of the store of traces, or of their steps."""
        if self.config.store.place is None:
            return self.out / _STORES[unit]
        return self.config.store.place if unit == "trace" else beside(self.config.store.place, _STORES[unit])

    def run(self) -> pd.DataFrame:
        """All stages; returns the results, one row per policy, split and question."""
        _ = self.executor.model, self.embedder  # what cannot be loaded is refused before the folder is touched
        with self.writing():
            with manifest.session(self):
                self.build()
                self.encode()
                for name in self.config.policies:
                    for split in self.config.data.splits:
                        self.answer(name, split)
            return self.report()

    def build(self, *, after: Experiment | None = None) -> None:
        """Answer the log questions without logs, and store every trace that did not fail, right or wrong.

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
        """Make the run's stores hold exactly these logs: whole, and as steps where a policy needs them.

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
        asked = {question.id for question in self.log_questions} if self.config.store.place is None else ()
        return lambda log: log.id in ids or log.question_id in asked

    def made(self) -> list[Trace]:
        """All logs that the run ever made, those to earlier wordings of its questions included."""
        return self.journal("log").traces()

    @property
    def _units(self) -> set[Unit]:
        """Units of the logs that the run's policies reuse."""
        return {policy.unit for policy in map(get_policy, self.config.policies) if policy}

    def encode(self) -> None:
        """Encode each log for the KV policies; existing blocks stay. Too long logs are left out. Raises NoStranger."""
        wanted = [policy for policy in map(get_policy, self.config.policies) if policy and policy.inject == "kv"]
        for unit in sorted(self._units):
            own = [policy for policy in wanted if policy.unit == unit]
            policies = {key: policy for policy in own for key in self.executor.block_keys(policy)}
            with self.writing(), self.store(unit, write=True) as store:
                todo = [(log, key) for log in store.ids for key in policies if not store.has_block(log, key)]
                made = self.executor.encode(todo, store, policies)
                what = "Encoding logs" if unit == "trace" else "Encoding steps"
                store.put_blocks(those_encoded(progress(made, what, total=len(todo))))

    def answer(self, name: str, split: Split) -> None:
        """Answer a split's questions under one policy. Seen ones without logs are those of `build`."""
        if name == "no_logs" and split == "seen":
            return
        variant = Variant.parse(name)
        with self.store(variant.policy.unit) if variant.policy else nullcontext() as store:
            limits = variant.limits(self.config.limits)
            self.ask(f"{name}.{split}", variant.policy, name, self.questions(split), store, limits=limits)

    def report(self) -> pd.DataFrame:
        """Score the existing traces; write rows, tables and page as `report.write` does, which says what it raises."""
        with self.writing():
            return report.write(self)

    def scored(self, policies: Sequence[str], splits: Sequence[Split]) -> pd.DataFrame:
        """Scores of the existing traces: one row per policy, split and question; with prices, of an API."""
        rows, logs, api = [], self._digests(), self.config.model.api
        for name, split in product(policies, splits):
            traces = self._traces(name, split, logs)
            for question in (question for question in self.questions(split) if question.id in traces):
                trace = traces[question.id]
                cost = {"cost": api.cost(trace.usage)} if api else {}
                rows.append({"policy": name, "split": split, **result_row(question, trace), **cost})
        return pd.DataFrame(rows)

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
        return self.scored(self.config.policies, self.config.data.splits)

    def summary(self) -> pd.DataFrame:
        """Mean scores, rounds and costs by policy and split, as in `metrics.summarize`."""
        return metrics.summarize(self.results)

    def compare(self) -> pd.DataFrame:
        """The paired `differences` of the `results` by policy, split and metric; scores are shares from 0 to 1."""
        return self.differences(self.results)

    def differences(self, results: pd.DataFrame, baseline: str = "no_logs") -> pd.DataFrame:
        """Paired differences to the baseline; questions that share a sub-question count as dependent.

        The log store is taken as given: what two questions share with the same log does not tie them together.
        """
        return metrics.compare(results, self.data.hops, baseline)

    def _digests(self) -> dict[Unit, str | None]:
        """Digests of the run's own logs, whole and as steps; None where the logs are another run's."""
        if not self.journal("log").path.exists():
            return {"trace": None, "step": None}
        logs = self.logs
        steps = [step.id for log in logs for step in log.steps]
        return {"trace": fingerprints.of_logs(log.id for log in logs), "step": fingerprints.of_logs(steps)}

    def _traces(self, name: str, split: Split, logs: Mapping[Unit, str | None]) -> dict[str, Trace]:
        policy = Variant.parse(name).policy
        digest = logs[policy.unit] if policy else ""
        return Answers(self.answers(name, split), self.questions(split), lambda _: digest).found

    def answers(self, name: str, split: Split) -> Journal:
        """The journal of a variant's answers; `build` answers the seen questions without logs."""
        if (name, split) == ("no_logs", "seen"):
            return self.journal("log")
        return self.journal(f"{name}.{split}", Variant.parse(name).policy)

    def journal(self, name: str, policy: Policy | None = None) -> Journal:
        """The journal of a name under a policy; a registered `keep` has one for each version of its function."""
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
        """Answer what the journal does not hold yet; returns all traces, in the order of the questions.

        Each trace is on disk as it ends. Transient failures are asked again, and so are questions that have changed or
        had other logs (`Answers`). `limits` are the run's own by default; `exclude` as in `Agent`. Runs that differ in
        these need journals of different names.
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
        return Agent(
            self.lm,
            policy=policy,
            policy_name=name,
            store=store,
            limits=limits or self.config.limits,
            prompt=self.prompt,
            embedder=self.embedder,
            passages=self.passages,
            exclude=exclude,
        )
