"""The agent's loop: search, reuse logs, reason, act; batched over questions that are in different rounds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lagkit.agent.chat import admit, context_builder
from lagkit.agent.retrieval import Found, Retriever, shown
from lagkit.datasets.loaders import Dataset
from lagkit.logs.retrieve import Embedder, PassageIndex, load_embedder
from lagkit.logs.store import Store
from lagkit.model.backend import Backend
from lagkit.model.context import Generation
from lagkit.model.prompts.actions import (
    CLOSE_ANSWER,
    OPEN_ANSWER,
    STOP_STRINGS,
    Action,
    answer_span,
    before_action,
    parse,
    unclosed,
    without_reasoning,
)
from lagkit.model.prompts.prompt import WORDING, Prompt
from lagkit.model.prompts.untrusted import encodable
from lagkit.policy import Policy, Variant
from lagkit.types import Limits, Question, Round, TaskKind, Trace, Usage
from lagkit.util.errors import ConfigError, EmptyStore, EndpointError, LagkitError, QuestionError, ReasoningTooLong
from lagkit.util.secrets import scrub

ROUND_LIMIT: dict[TaskKind, int] = {"qa": 8, "choice": 3}


@dataclass
class _Run:
    """One question on its way through the rounds."""

    question: Question
    found: Found
    rounds: list[Round] = field(default_factory=list)
    notes: str = ""
    user_turn: str = ""
    confidence: float | None = None
    spent: Usage = field(default_factory=Usage)

    @classmethod
    def of(cls, question: Question) -> _Run:
        """At its start: the question is the first query."""
        return cls(question, Found(question.text))


_Result = tuple[_Run, Generation | Exception]


class Agent:
    """Answers questions round by round under one policy; see `run`."""

    def __init__(
        self,
        lm: Backend,
        data: Dataset | None = None,
        *,
        policy: Policy | str | None = None,
        store: Store | None = None,
        limits: Limits | None = None,
        wording: str = WORDING,
        prompt: Prompt | None = None,
        embedder: Embedder | str | None = None,
        passages: PassageIndex | None = None,
        policy_name: str | None = None,
        exclude: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """An agent for `data`, whose kind says the prompt and whose passages it searches, unless they are given.

        policy: or its name, with changes of the limits behind it if need be (`kv_last_round+logs=1`); None reuses no
        logs. store: the logs that it reuses. wording: of the prompt, as in `RunConfig`. embedder: or its name; by
        default that of the store, else `minilm`. exclude: question id -> ids of logs that it does not find, its own
        where it helped to build the store.

        Raises ConfigError when data, passages or a store are missing or the model cannot follow the policy or the
        limits, EmptyStore when the store has no logs, and StoreMismatch when it was built with another embedder.
        """
        variant = Variant.of(policy)
        self.lm, self.limits = lm, variant.limits(limits or Limits())
        self.prompt = prompt or Prompt.of(_given(data).kind, wording)
        if self.prompt.kind == "qa" and passages is None and not (data and data.passages):
            raise ConfigError("Question answering searches passages: give the agent a PassageIndex.")
        if variant.policy:
            if store is None:
                raise ConfigError(f"Policy {variant.policy} reuses logs: give the agent a LogStore.")
            if not len(store):
                raise EmptyStore(f"The log store {store.path} is empty: build logs before reusing them.")
        admit(lm, variant.policy, self.limits)
        embedder = load_embedder(embedder) if isinstance(embedder, str) else embedder
        self.embedder = store.embedding(embedder) if store is not None else embedder or load_embedder()
        if passages is None and data and data.passages:
            passages = PassageIndex(data.passages, self.embedder, self.prompt.embedded)
        self.passages = passages
        self.max_rounds = self.limits.max_rounds or ROUND_LIMIT[self.prompt.kind]
        self.policy_name = policy_name or variant.name
        self.builder = context_builder(lm, self.prompt, variant.policy, store)
        self.retriever = Retriever(self.embedder, passages, variant.policy, store, self.limits, exclude or {})

    def run(self, questions: Iterable[Question]) -> Iterator[Trace]:
        """Yield each question's trace as soon as it ends, in order of ending.

        A question that fails (its prompt is too long, a block is damaged, ...) yields a trace with `error` and no
        answer; the others go on. Questions fill the batch as places become free. Raises EndpointError when the
        endpoint of a model behind an API cannot be used, or StoreUnreachable when the store's cannot.
        """
        waiting = iter(questions)
        active: list[_Run] = []
        while True:
            places = self.limits.batch_size - len(active)
            active += [_Run.of(question) for question in islice(waiting, places)]
            if not active:
                return
            ended = self._step(active)
            active = [run for run in active if id(run) not in ended]
            yield from ended.values()

    def follow(self, question: Question) -> Iterator[Trace]:
        """Yield one question's trace after each of its rounds; the last is what `run` gives.

        A round begins when the next trace is asked for: who stops asking stops the work.
        """
        run = _Run.of(question)
        while not (ended := self._step([run])):
            yield self._trace(run)
        yield from ended.values()

    def _step(self, active: list[_Run]) -> dict[int, Trace]:
        """One round of every active question; the traces of those that end with it, by the run's identity."""
        ended: dict[int, Trace] = {}
        self._retrieve(active, ended)
        if self.builder.policy and self.builder.policy.inject == "copy":
            return ended | {id(run): self._copy(run) for run in active if id(run) not in ended}
        self._distil(active, ended)
        ready: list[tuple[_Run, Any]] = []
        for run in active:
            if id(run) in ended:
                continue
            try:
                ready.append((run, self._context(run)))
            except EndpointError:
                raise
            except LagkitError as error:
                ended[id(run)] = self._trace(run, error=error)
        results = list(self._generate(ready, self.prompt.stop))
        if self.limits.force_answer:
            results = self._force(ready, results)
        for run, result in results:
            ended |= self._advance(run, result)
        return ended

    def _advance(self, run: _Run, result: Generation | Exception) -> dict[int, Trace]:
        """Record a round; the trace if the question ends with it."""
        if isinstance(result, Exception):
            return {id(run): self._trace(run, error=result)}
        said = self.lm.opens + result.text  # a mark of reasoning that the template wrote counts
        action = parse(said, self.prompt.kind)
        if result.logprobs and (span := answer_span(said)):
            run.confidence = self.lm.confidence(result, *(at - len(self.lm.opens) for at in span))
        run.rounds.append(self._round(run, result))
        run.spent = Usage()
        if action.kind == "search" and unclosed(said):
            return {id(run): self._trace(run, error=self._thought_on())}
        if action.kind == "answer" or len(run.rounds) == self.max_rounds:
            return {id(run): self._trace(run, action=action)}
        run.found.query = action.text
        return {}

    def _round(self, run: _Run, result: Generation) -> Round:
        """What was read and said; white space before the response belongs to the opening."""
        text = result.text.lstrip()
        opening = self.builder.opening(run.question) + result.text.removesuffix(text)
        usage = run.spent + result.usage
        return Round(run.user_turn, text.rstrip(), run.found.query, *run.found.new, usage, opening)

    def _thought_on(self) -> ReasoningTooLong:
        limit = self.limits.max_new_tokens
        return ReasoningTooLong(
            f"the reasoning of {self.lm.name} did not end within {limit} new tokens: raise max_new_tokens."
        )

    def _force(self, ready: Sequence[tuple[_Run, Any]], results: Sequence[_Result]) -> list[_Result]:
        """The results, where whoever would end without an answer has gone on from one that was begun for it."""
        contexts = {id(run): context for run, context in ready}
        begun: dict[int, tuple[str, Generation]] = {}
        for run, said in results:
            if len(run.rounds) + 1 < self.max_rounds or not isinstance(said, Generation):
                continue
            turn = self.lm.opens + said.text
            if parse(turn, self.prompt.kind).kind != "answer":
                begun[id(run)] = (before_action(turn) + OPEN_ANSWER).removeprefix(self.lm.opens), said
                run.spent += said.usage
        again = [
            (run, self.builder.proceed(contexts[id(run)], begun[id(run)][0])) for run, _ in ready if id(run) in begun
        ]
        forced: dict[int, Generation | Exception] = {}
        for run, result in self._generate(again, STOP_STRINGS[self.prompt.kind]):
            if isinstance(result, Generation):
                start, said = begun[id(run)]
                answer = result.text.removesuffix(CLOSE_ANSWER)
                run.confidence = self.lm.confidence(result, 0, len(answer))
                result = Generation(start + answer + CLOSE_ANSWER, (*said.ids, *result.ids), result.usage)
            forced[id(run)] = result
        return [(run, forced.get(id(run), result)) for run, result in results]

    def _copy(self, run: _Run) -> Trace:
        """The end of a question that is given the answer of the most similar log."""
        _, logs = run.found.new
        store = self.builder.store
        response = store.get(logs[0].id).rounds[-1].response if logs and store is not None else ""
        run.rounds.append(Round(run.question.text, response, run.found.query, (), logs))
        return self._trace(run, action=parse(response, self.prompt.kind))

    def _retrieve(self, active: Sequence[_Run], ended: dict[int, Trace]) -> None:
        """Search for every question; one whose query cannot be searched for fails alone."""
        failed = self.retriever.find([(run.question.id, run.found) for run in active])
        ended |= {id(active[n]): self._trace(active[n], error=error) for n, error in failed.items()}

    def _distil(self, active: Sequence[_Run], ended: dict[int, Trace]) -> None:
        """Cheatsheet only: write notes anew for every question that has found new logs."""
        policy = self.builder.policy
        if not policy or policy.inject != "cheatsheet":
            return
        todo, most = [], min(self.limits.max_new_tokens, self.prompt.notes_tokens or self.limits.max_new_tokens)
        for run in active:
            if run.found.new[1] and id(run) not in ended:
                try:
                    context = self.builder.distil_context(run.question, self._logs(run))
                    self.lm.check(context, most)
                    todo.append((run, context))
                except EndpointError:
                    raise
                except LagkitError as error:
                    ended[id(run)] = self._trace(run, error=error)
        for run, result in self._generate(todo, (), most):
            if isinstance(result, Exception):
                ended[id(run)] = self._trace(run, error=result)
                continue
            run.spent += result.usage
            if unclosed(self.lm.opens + result.text):
                ended[id(run)] = self._trace(run, error=self._thought_on())
            else:
                run.notes = without_reasoning(self.lm.opens + result.text)

    def _context(self, run: _Run) -> Any:
        ids = shown(run.found.passages, grouped=self.prompt.grouped)
        passages = [self.passages.passage(id) for id in ids] if self.passages is not None else []
        previous = without_reasoning(run.rounds[-1].response) if self.prompt.kind == "choice" and run.rounds else ""
        logs, policy = self._logs(run), self.builder.policy
        logs = logs if self.limits.best_log == "first" else logs[::-1]
        notes = run.notes or self.builder.notes(logs)
        told, in_front = (notes, "") if policy is None or policy.place == "user_turn" else ("", notes)
        run.user_turn = self.prompt.user_turn(run.question, passages, previous=previous, notes=told)
        context = self.builder.context(run.question, run.user_turn, logs, in_front)
        self.lm.check(context, self.limits.max_new_tokens)
        return context

    def _logs(self, run: _Run) -> list[str]:
        """The logs that a question has found, in the order in which they are shown."""
        return shown(run.found.logs, grouped=self.prompt.grouped)

    def _generate(
        self, ready: Sequence[tuple[_Run, Any]], stop: Sequence[str], most: int | None = None
    ) -> Iterator[_Result]:
        """Generate in a batch; when the batch fails, one by one, so that only the culprit fails.

        An endpoint that cannot be used is no question's fault, and ends the run.
        """
        if not ready:
            return
        try:
            contexts, most = [c for _, c in ready], most or self.limits.max_new_tokens
            results = self.lm.generate(contexts, most, stop=stop, batch_size=self.limits.batch_size)
            yield from zip((run for run, _ in ready), results, strict=True)
        except EndpointError:
            raise
        except (RuntimeError, LagkitError) as error:
            if len(ready) == 1:
                yield ready[0][0], error
                return
            for pair in ready:
                yield from self._generate([pair], stop, most)

    def _trace(self, run: _Run, *, action: Action | None = None, error: Exception | None = None) -> Trace:
        answer = encodable(action.text) if action and action.kind == "answer" else None
        if isinstance(error, QuestionError) and error.usage:
            run.spent += error.usage
        said = None if error is None else f"{type(error).__name__}: question {run.question.id!r}: {error}"
        return Trace(
            run.question.id,
            run.question.text,
            self.prompt.system,
            tuple(run.rounds),
            answer=answer,
            error=said and encodable(scrub(said)),
            policy=self.policy_name,
            confidence=run.confidence,
            lasting=isinstance(error, QuestionError),
            spent=run.spent,
        )


def _given(data: Dataset | None) -> Dataset:
    if data is None:
        raise ConfigError("Give the agent the data that it is to work on, or a prompt and an index of passages.")
    return data
