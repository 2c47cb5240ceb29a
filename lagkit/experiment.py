"""A run from a configuration to a table: build logs, encode them, answer, report. Every stage resumes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit import data, manifest, metrics, report
from lagkit.agent import Agent, Limits
from lagkit.config import RunConfig, Split
from lagkit.encode import Encoder
from lagkit.errors import ConfigError, ContextTooLong
from lagkit.journal import Journal
from lagkit.model import LM
from lagkit.policy import Policy, get_policy
from lagkit.progress import progress
from lagkit.prompts import Prompt
from lagkit.retrieve import Embedder, PassageIndex, load_embedder
from lagkit.store import LogStore
from lagkit.testbed.dataset import Controls
from lagkit.testbed.dataset import write as write_world
from lagkit.types import Question, Trace


class Experiment:
    """One run and its folder: `manifest.json`, `store/`, `traces/*.jsonl`, then `results.parquet` and `summary.csv`.

    A run on a test world has it in `world/`. `lm` and `embedder` may be handed in, to share them between runs.
    Raises DataError or ConfigError at once when the data are missing or too few, or the folder holds another run.
    """

    def __init__(self, config: RunConfig, *, lm: LM | None = None, embedder: Embedder | None = None) -> None:
        self.config = config
        self.out = Path(config.out)
        self.data = data.load(config.data, config.dataset) if config.data else self._draw_world()
        for split in ("seen", "unseen"):
            self.questions(split)
        manifest.claim(self.out, config, self.prompt)
        if lm is not None:
            self.lm = lm
        if embedder is not None:
            self.embedder = embedder

    @cached_property
    def lm(self) -> LM:
        """The language model, loaded when first needed."""
        return LM.load(self.config.model, device=self.config.device, dtype=self.config.dtype)

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
        if not kept.exists():
            write_world(folder, controls)
        elif json.loads(kept.read_text(encoding="utf-8")) != controls.model_dump(mode="json"):
            raise ConfigError(f"{self.out} holds a run on another test world (see {kept}): choose another folder.")
        return data.load(folder, "musique")

    def store(self, folder: Path | None = None, *, write: bool = False) -> LogStore:
        """The run's log store, or another one for its model and embedder in `folder`."""
        path, model, embedder = folder or self.out / "store", self.lm.fingerprint, self.embedder
        if not write:
            return LogStore.open(path, model=model, embedder=embedder.name)
        dtype = str(self.lm.dtype).removeprefix("torch.")
        return LogStore.open_or_create(path, model=model, embedder=embedder.name, dim=embedder.dim, dtype=dtype)

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
        with self.store(write=True) as store:
            self.ask("log", None, "no_logs", self.log_questions, None)
            traces = {trace.question_id: trace for trace in self._journal("log").traces()}
            # In the order of the questions: that of their ends depends on interruptions, and ranks equal scores.
            ordered = [traces[question.id] for question in self.log_questions]
            new = [t for t in ordered if not t.error and t.id not in store]
            vectors = self.embedder.documents([t.key for t in new])
            store.add_many((trace, vector, {}) for trace, vector in zip(new, vectors, strict=True))

    def encode(self) -> None:
        """Encode each log as the KV policies ask; what is encoded already stays. Too long a log is left out."""
        encoder = Encoder(self.lm, self.prompt)
        policies = {encoder.key(p): p for p in map(get_policy, self.config.policies) if p and p.inject == "kv"}
        with self.store(write=True) as store:
            todo = [(log, key) for log in store.ids for key in policies if not store.has_block(log, key)]
            for log, key in progress(todo, "Encoding logs"):
                try:
                    store.put_block(log, key, encoder.encode(store.get(log), policies[key]))
                except ContextTooLong as error:
                    print(f"Log {log} is not encoded as {key}: {error}")

    def answer(self, name: str, split: Split) -> None:
        """Answer a split's questions under one policy. Seen ones without logs were answered to build the store."""
        if name == "no_logs" and split == "seen":
            return
        policy, questions = get_policy(name), self.questions(split)
        with self.store() if policy else nullcontext() as store:
            self.ask(f"{name}.{split}", policy, name, questions, store)

    def report(self) -> pd.DataFrame:
        """Score the traces that there are; write `results.parquet`, `summary.csv`, `differences.csv`, `report.md`."""
        results = self.scored(self.config.policies, self.config.splits)
        results.to_parquet(self.out / "results.parquet")
        summary, differences = metrics.summarize(results), self.differences(results)
        summary.to_csv(self.out / "summary.csv")
        differences.to_csv(self.out / "differences.csv")
        with self.store() as store:
            logs = store.summary()
        page = report.markdown(summary, differences, logs, manifest.read_manifest(self.out), self._facts())
        (self.out / "report.md").write_text(page, encoding="utf-8")
        return results

    def scored(self, policies: Sequence[str], splits: Sequence[Split]) -> pd.DataFrame:
        """The traces that there are, scored: one row per policy, split and question."""
        rows = []
        for name in policies:
            for split in splits:
                traces = self._traces(name, split)
                asked = [q for q in self.questions(split) if q.id in traces]
                rows += [{"policy": name, "split": split, **result_row(q, traces[q.id])} for q in asked]
        return pd.DataFrame(rows)

    def logs(self) -> list[Trace]:
        """The traces of the log questions that did not fail."""
        return [trace for trace in self._journal("log").traces() if not trace.error]

    def _facts(self) -> list[str]:
        """What a reader should know before the scores."""
        traces = self.logs()
        sharing = [data.overlap(self.log_questions, q) for q in self.questions("unseen")]
        right = sum(bool(t.correct) for t in traces)
        return [
            f"The log store holds {len(traces)} logs, of which {right} answer their question rightly.",
            f"{len(sharing) - sharing.count('none')} of {len(sharing)} unseen questions share a hop with a logged one.",
            "Injected tokens are those of logs, and of the prompt's shared head where it stands at position 0.",
            "Seconds are generation alone, a batch's wall time divided by its rows; encoding is not in them.",
        ]

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
        store: LogStore | None,
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
        agent = self.agent(policy, name, store, limits=limits, exclude=exclude)
        for trace in progress(agent.run(todo.values()), f"Answering: {journal}", total=len(todo)):
            trace = replace(trace, correct=metrics.is_right(todo[trace.question_id], trace.answer))
            book.append(trace)
            found[trace.question_id] = trace
        return [found[q.id] for q in questions]

    def agent(
        self,
        policy: Policy | None,
        name: str,
        store: LogStore | None,
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


def result_row(question: Question, trace: Trace) -> dict[str, Any]:
    """One question's outcome: scores, rounds, whether it abstained or failed, and what it cost."""
    usage = trace.usage
    return {
        "question_id": question.id,
        "answer": trace.answer,
        **metrics.score(question, trace.answer),
        "rounds": len(trace.rounds),
        "abstained": trace.answer is None and trace.error is None,
        "failed": trace.error is not None,
        "error": trace.error,
        "prefilled": usage.prefilled,
        "injected": usage.injected,
        "generated": usage.generated,
        "seconds": usage.seconds,
    }
