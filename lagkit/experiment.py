"""A run from a configuration to a table: build logs, encode them, answer, report. Every stage resumes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit import components, data, manifest, metrics, report, strata
from lagkit.agent import Agent, Limits
from lagkit.backend import Backend, load_model
from lagkit.config import RunConfig, Split
from lagkit.errors import ConfigError, LagkitError
from lagkit.executor import Asking, Executor, Local
from lagkit.journal import Journal
from lagkit.kv import KVBlock
from lagkit.policy import Policy, Unit, get_policy
from lagkit.progress import progress
from lagkit.prompts import Prompt
from lagkit.retrieve import Embedder, PassageIndex, load_embedder
from lagkit.store import Store
from lagkit.store.places import beside, store_at
from lagkit.terminal import printable, tell
from lagkit.testbed.dataset import Controls
from lagkit.testbed.dataset import write as write_world
from lagkit.types import Question, Trace, Usage
from lagkit.variant import Variant

_STORES: dict[Unit, str] = {"trace": "store", "step": "steps"}


class Experiment:
    """One run and its folder: `manifest.json`, `store/`, `traces/*.jsonl`, then `results.parquet` and tables.

    A run on a test world has it in `world/`. `loaded` are the data as their authors split them, `data` as the run does;
    the same unless `split` is disjoint. `lm` and `embedder` may be handed in, to share them between runs.
    Raises DataError or ConfigError at once when the data are missing or too few, the folder holds another run, or `lm`
    cannot follow a policy. `workers`, if there are any, do what takes a model: see `lagkit.cluster`.
    """

    def __init__(self, config: RunConfig, *, lm: Backend | None = None, embedder: Embedder | None = None) -> None:
        self.config = config
        self.out = Path(config.out)
        self.workers: Executor | None = None
        self.loaded = data.load(config.data, config.dataset) if config.data else self._draw_world()
        self.data = self._split()
        for split in ("seen", "unseen"):
            self.questions(split)
        manifest.claim(self.out, config, self.prompt)
        if lm is not None:
            for variant in map(Variant.parse, config.policies):
                lm.admit(variant.policy, variant.limits(config.limits))
            self.lm = lm
        if embedder is not None:
            self.embedder = embedder

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: the settings and the data. It loads a model of its own, and may run in another folder."""
        kept = {name: getattr(self, name) for name in ("config", "loaded", "data")}
        return {**kept, "out": self.out.resolve(), "workers": None}

    @property
    def executor(self) -> Executor:
        """Where the model works."""
        return self.workers or Local(self)

    @cached_property
    def lm(self) -> Backend:
        """The language model, loaded when first needed."""
        config = self.config
        where = {"device": config.device, "dtype": config.dtype, "source": config.blocks}
        return load_model(config.model, **where, api=config.api)

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
        return PassageIndex(self.data.passages, self.embedder) if self.data.passages else None

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

    def _draw_world(self) -> data.Dataset:
        """The test world of the settings, written into the run's folder unless it is there already."""
        controls, folder = Controls.parse(self.config.world or {}), self.out / "world"
        kept = folder / "controls.json"
        if controls.contradicted and self.config.split == "disjoint":
            # Changed facts lead to other hops, and so to other components than those of the world that the logs are of.
            raise ConfigError("A world with contradicted facts cannot be split anew: use split=authors.")
        if not kept.exists():
            write_world(folder, controls)
        elif json.loads(kept.read_text(encoding="utf-8")) != controls.model_dump(mode="json"):
            raise ConfigError(f"{self.out} holds a run on another test world (see {kept}): choose another folder.")
        return data.load(folder, "musique")

    def _split(self) -> data.Dataset:
        """The data as the settings split them."""
        if self.config.split == "authors":
            return self.loaded
        return components.disjoint(self.loaded, self.config.seed)

    def store(self, unit: Unit = "trace", *, folder: Path | None = None, write: bool = False) -> Store:
        """The run's log store, whose logs are traces, or the one whose logs are their steps; or another in `folder`."""
        place, model, embedder = folder or self._place(unit), self.executor.model, self.embedder
        same = {"model": model.fingerprint, "embedder": embedder.name, "codec": self.config.codec}
        if write:
            dtype = str(model.dtype).removeprefix("torch.")
            store = store_at(place).open_or_create(place, **same, dim=embedder.dim, dtype=dtype)
        else:
            store = store_at(place).open(place, **same)
        store.exact_search = self.config.search == "exact"
        return store

    def _place(self, unit: Unit) -> Path | str:
        """Where the store is whose logs are traces, or their steps."""
        if self.config.store is None:
            return self.out / _STORES[unit]
        return self.config.store if unit == "trace" else beside(self.config.store, _STORES[unit])

    def run(self) -> pd.DataFrame:
        """All stages; returns the results, one row per policy, split and question."""
        with manifest.session(self):
            self.build()
            self.encode()
            for name in self.config.policies:
                for split in self.config.splits:
                    self.answer(name, split)
        return self.report()

    def build(self) -> None:
        """Answer the log questions without logs, and log every trace that did not fail, right or wrong.

        Raises StoreMismatch, before anything is answered, if the run's store was built with another model.
        """
        with self.store(write=True):
            self.ask("log", None, "no_logs", self.log_questions, None)
        traces = {trace.question_id: trace for trace in self._journal("log").traces()}
        # In the order of the questions: that of their ends depends on interruptions, and ranks equal scores.
        self.fill([trace for question in self.log_questions if not (trace := traces[question.id]).error])

    def fill(self, logs: Sequence[Trace]) -> None:
        """Put logs into the run's stores: as they are, and step by step where a policy asks for that."""
        with self.store(write=True) as store:
            self._add(store, logs)
        if "step" in self._units:
            with self.store("step", write=True) as steps:
                self._add(steps, [step for trace in logs for step in trace.steps])

    def _add(self, store: Store, traces: Sequence[Trace]) -> None:
        new = [trace for trace in traces if trace.id not in store]
        vectors = self.embedder.documents([trace.key for trace in new])
        store.add_many((trace, vector, {}) for trace, vector in zip(new, vectors, strict=True))

    @property
    def _units(self) -> set[Unit]:
        """What logs are under the run's policies."""
        return {policy.unit for policy in map(get_policy, self.config.policies) if policy}

    def encode(self) -> None:
        """Encode each log as the KV policies ask; what is encoded already stays. Too long a log is left out."""
        wanted = [policy for policy in map(get_policy, self.config.policies) if policy and policy.inject == "kv"]
        for unit in sorted(self._units):
            policies = {self.executor.block_key(policy): policy for policy in wanted if policy.unit == unit}
            with self.store(unit, write=True) as store:
                todo = [(log, key) for log in store.ids for key in policies if not store.has_block(log, key)]
                made = self.executor.encode(todo, store.get, policies)
                what = "Encoding logs" if unit == "trace" else "Encoding steps"
                store.put_blocks(_encoded(progress(made, what, total=len(todo))))

    def answer(self, name: str, split: Split) -> None:
        """Answer a split's questions under one policy. Seen ones without logs were answered to build the store."""
        if name == "no_logs" and split == "seen":
            return
        variant = Variant.parse(name)
        with self.store(variant.policy.unit) if variant.policy else nullcontext() as store:
            limits = variant.limits(self.config.limits)
            self.ask(f"{name}.{split}", variant.policy, name, self.questions(split), store, limits=limits)

    def report(self) -> pd.DataFrame:
        """Score the traces that there are; write `results.parquet`, `summary.csv`, `differences.csv`, `report.md`.

        With unseen questions, and if the data name hops, also `strata.csv`: `Strata.table()`.
        """
        results = self.scored(self.config.policies, self.config.splits)
        results.to_parquet(self.out / "results.parquet")
        summary, differences = metrics.summarize(results), self.differences(results)
        summary.to_csv(self.out / "summary.csv")
        differences.to_csv(self.out / "differences.csv")
        by_overlap = None
        if "unseen" in self.config.splits and not self.data.no_strata:
            by_overlap = strata.outcomes(self, results)
            by_overlap.table().to_csv(self.out / "strata.csv")
        with self.store() as store:
            logs = store.summary()
        page = report.markdown(summary, differences, by_overlap, logs, manifest.read_manifest(self.out), self._facts())
        (self.out / "report.md").write_text(page, encoding="utf-8")
        return results

    def scored(self, policies: Sequence[str], splits: Sequence[Split]) -> pd.DataFrame:
        """The traces that there are, scored: one row per policy, split and question."""
        rows = []
        for name in policies:
            for split in splits:
                traces = self._traces(name, split)
                asked = [q for q in self.questions(split) if q.id in traces]
                rows += [{"policy": name, "split": split, **self._row(q, traces[q.id])} for q in asked]
        return pd.DataFrame(rows)

    def _row(self, question: Question, trace: Trace) -> dict[str, Any]:
        """A question's outcome; of a model behind an API, with its price."""
        cost = {"cost": self.config.api.cost(trace.usage)} if self.config.api else {}
        return {**result_row(question, trace), **cost}

    def logs(self) -> list[Trace]:
        """The traces of the log questions that did not fail."""
        return [trace for trace in self._journal("log").traces() if not trace.error]

    def _facts(self) -> list[str]:
        """What a reader should know before the scores."""
        traces = self.logs()
        right = sum(bool(t.correct) for t in traces)
        facts = [
            f"The log store holds {len(traces)} logs, of which {right} answer their question rightly.",
            *([components.told(self.loaded, self.data)] if self.config.split == "disjoint" else []),
            strata.about(self),
            "Injected tokens are those of logs, and of the prompt's shared head where it stands at position 0.",
            "Seconds are generation alone, a batch's wall time divided by its rows; encoding is not in them.",
        ]
        if self.config.api:
            used = self._spent()
            facts.append(
                f"The endpoint read {used.prefilled:,} tokens and wrote {used.generated:,} for logs and answers, at a "
                f"cost of {self.config.api.cost(used):.4g}."
            )
        return facts

    def _spent(self) -> Usage:
        """What logs and answers have cost, counting those that were asked for before, too."""
        asked = [(name, split) for name in self.config.policies for split in self.config.splits]
        books = {"log", *(f"{name}.{split}" for name, split in asked if (name, split) != ("no_logs", "seen"))}
        return sum((trace.usage for book in sorted(books) for trace in self._journal(book).traces()), Usage())

    def differences(self, results: pd.DataFrame) -> pd.DataFrame:
        """Paired differences to `no_logs`; questions that share a sub-question count as dependent.

        The log store is taken as given: two questions that share none with each other, but one each with the same log,
        are not tied together by it.
        """
        return metrics.compare(results, data.hops((*self.data.seen, *self.data.unseen)))

    def _traces(self, name: str, split: Split) -> dict[str, Trace]:
        journal = "log" if name == "no_logs" and split == "seen" else f"{name}.{split}"
        return {trace.question_id: trace for trace in self._journal(journal).traces()}

    def _journal(self, name: str) -> Journal:
        return Journal(self.out / "traces" / f"{name.replace('/', '-')}.jsonl")

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

        `limits` are the run's own by default; `exclude` as in `Agent`. A journal's name has to tell them apart.
        """
        book = self._journal(journal)
        found = {trace.question_id: trace for trace in book.traces()}
        todo = {q.id: q for q in questions if q.id not in found}
        if not todo:
            return [found[q.id] for q in questions]
        asking = Asking(policy, name, store, limits or self.config.limits, exclude)
        answered = self.executor.answer(todo.values(), asking)
        for trace in progress(answered, f"Answering: {journal}", total=len(todo)):
            trace = replace(trace, correct=metrics.is_right(todo[trace.question_id], trace.answer))
            book.append(trace)
            found[trace.question_id] = trace
        return [found[q.id] for q in questions]

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
            self.prompt,
            embedder=self.embedder,
            passages=self.passages,
            policy=policy,
            store=store,
            limits=limits or self.config.limits,
            policy_name=name,
            exclude=exclude,
        )


def _encoded(
    made: Iterable[tuple[tuple[str, str], KVBlock | LagkitError]],
) -> Iterator[tuple[str, str, KVBlock]]:
    """What could be encoded; the rest is told."""
    for (log, key), block in made:
        if isinstance(block, LagkitError):
            tell(printable(f"Log {log} is not encoded as {key}: {block}"))
        else:
            yield log, key, block


def result_row(question: Question, trace: Trace) -> dict[str, Any]:
    """One question's outcome: scores, rounds, whether it abstained or failed, and what it cost."""
    usage = trace.usage
    return {
        "question_id": question.id,
        "answer": trace.answer,
        **metrics.score(question, trace.answer),
        "rounds": len(trace.rounds),
        "abstained": trace.answer is None and trace.error is None,
        "confidence": trace.confidence,
        "failed": trace.error is not None,
        "error": trace.error,
        "prefilled": usage.prefilled,
        "injected": usage.injected,
        "generated": usage.generated,
        "seconds": usage.seconds,
    }
