"""The agent's loop: search, reuse logs, reason, act; batched over questions that are in different rounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lagkit.agent.chat import ChatContextBuilder, admit
from lagkit.agent.context import KVContextBuilder
from lagkit.agent.retrieval import Found, Retriever, shown
from lagkit.datasets.loaders import Dataset
from lagkit.logs.retrieve import Embedder, PassageIndex, load_embedder
from lagkit.logs.store import Store
from lagkit.model.backend import Backend
from lagkit.model.context import Generation
from lagkit.model.lm import LM
from lagkit.model.prompts import actions
from lagkit.model.prompts.actions import Action, parse, unclosed, without_reasoning
from lagkit.model.prompts.prompt import WORDING, Prompt
from lagkit.model.prompts.untrusted import encodable
from lagkit.policy import Policy, Variant
from lagkit.types import Limits, Question, Round, TaskKind, Trace, Usage
from lagkit.util.errors import ConfigError, EmptyStore, EndpointError, LagkitError, QuestionError, ReasoningTooLong
from lagkit.util.secrets import scrub

ROUND_LIMIT: dict[TaskKind, int] = {"qa": 8, "choice": 3}


@dataclass
class _Run:
    """One question on its way through the rounds.

    context: what the model continues next, with `result`. trace: set when the question ends.
    """

    question: Question
    found: Found
    rounds: list[Round] = field(default_factory=list)
    notes: str = ""
    user_turn: str = ""
    confidence: float | None = None
    spent: Usage = field(default_factory=Usage)
    context: Any = None
    result: Generation | None = None
    trace: Trace | None = None


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
        if prompt is None and data is None:
            raise ConfigError("Give the agent the data that it is to work on, or a prompt and an index of passages.")
        self.prompt = prompt or Prompt.of(data.kind if data else "qa", wording)
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
        self.builder = (
            KVContextBuilder(lm, self.prompt, variant.policy, store)
            if isinstance(lm, LM)
            else ChatContextBuilder(lm, self.prompt, variant.policy, store)
        )
        self.retriever = Retriever(self.embedder, passages, variant.policy, store, self.limits, exclude or {})

    def __repr__(self) -> str:
        return f"Agent({self.lm.name}, {self.policy_name}, {self.prompt.kind})"

    def run(self, questions: Iterable[Question]) -> Iterator[Trace]:
        """Yield each question's trace as soon as it ends, in order of ending.

        A question that fails (its prompt is too long, a block is damaged, ...) yields a trace with `error` and no
        answer; the others go on. Raises EndpointError when the endpoint of a model behind an API cannot be used, or
        StoreUnreachable when the store's cannot.
        """
        waiting = iter(questions)
        active: list[_Run] = []
        try:
            while True:
                places = self.limits.batch_size - len(active)
                active += [_Run(question, Found(question.text)) for question in islice(waiting, places)]
                if not active:
                    return
                self._step(active)
                ended = [run for run in active if run.trace is not None]
                self._forget(ended)
                yield from (run.trace for run in ended if run.trace is not None)
                active = _going(active)
        finally:
            self._forget(active)

    def follow(self, question: Question) -> Iterator[Trace]:
        """Yield one question's trace after each of its rounds, which begins when it is asked for; at last `run`'s."""
        run = _Run(question, Found(question.text))
        try:
            while run.trace is None:
                self._step([run])
                yield run.trace or self._trace(run)
        finally:
            self._forget([run])

    def _forget(self, runs: Iterable[_Run]) -> None:
        for run in runs:
            self.builder.forget(run.question)

    def _step(self, active: Sequence[_Run]) -> None:
        """One round of every active question."""
        failed = self.retriever.find([(run.question.id, run.found) for run in active])
        for number, error in failed.items():
            self._fail(active[number], error)
        if self.builder.policy and self.builder.policy.inject == "copy":
            for run in _going(active):
                self._copy(run)
            return
        self._distil(_going(active))
        ready = self._build(_going(active), self._context, self.limits.max_new_tokens)
        self._generate(ready, self.prompt.stop, self.limits.max_new_tokens)
        if self.limits.force_answer:
            self._force(ready)
        for run in _going(ready):
            self._advance(run)

    def _build(self, runs: Sequence[_Run], build: Callable[[_Run], Any], most: int) -> list[_Run]:
        """Give each question its next context; those in whose context `most` new tokens have room, the others end."""
        ready = []
        for run in runs:
            try:
                run.context = build(run)
                self.lm.check(run.context, most)
                ready.append(run)
            except EndpointError:
                raise
            except LagkitError as error:
                self._fail(run, error)
        return ready

    def _advance(self, run: _Run) -> None:
        """Record a round, which may be the question's last."""
        result = run.result
        assert result is not None  # who has none has failed
        said = self.lm.opens + result.text  # a mark of reasoning that the template wrote counts
        action = parse(said, self.prompt.kind)
        if result.logprobs and (span := actions.answer_span(said)):
            run.confidence = self.lm.confidence(result, *(at - len(self.lm.opens) for at in span))
        run.rounds.append(self._round(run, result))
        run.spent = Usage()
        if action.kind == "search" and unclosed(said):
            self._fail(run, self._thought_on())
        elif action.kind == "answer" or len(run.rounds) == self.max_rounds:
            run.trace = self._trace(run, action=action)
        else:
            run.found.query = action.text

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

    def _force(self, ready: Sequence[_Run]) -> None:
        """Have whoever would end without an answer go on from one that is begun for it."""
        assert isinstance(self.builder, KVContextBuilder)  # `admit` refuses `force_answer` elsewhere
        begun: list[tuple[_Run, str, Generation]] = []
        for run in ready:
            if len(run.rounds) + 1 < self.max_rounds or (said := run.result) is None:
                continue
            turn = self.lm.opens + said.text
            if parse(turn, self.prompt.kind).kind != "answer":
                start = (actions.before_action(turn) + actions.OPEN_ANSWER).removeprefix(self.lm.opens)
                run.context = self.builder.proceed(run.context, start)
                run.spent += said.usage
                begun.append((run, start, said))
        self._generate([run for run, *_ in begun], actions.STOP_STRINGS[self.prompt.kind], self.limits.max_new_tokens)
        for run, start, said in begun:
            if run.trace is None and (forced := run.result):
                answer = forced.text.removesuffix(actions.CLOSE_ANSWER)
                run.confidence = self.lm.confidence(forced, 0, len(answer))
                run.result = Generation(start + answer + actions.CLOSE_ANSWER, (*said.ids, *forced.ids), forced.usage)

    def _copy(self, run: _Run) -> None:
        """End a question with the answer of the most similar log."""
        _, logs = run.found.new
        store = self.builder.store
        response = store.get(logs[0].id).rounds[-1].response if logs and store is not None else ""
        run.rounds.append(Round(run.question.text, response, run.found.query, (), logs))
        run.trace = self._trace(run, action=parse(response, self.prompt.kind))

    def _distil(self, active: Sequence[_Run]) -> None:
        """Cheatsheet only: write notes anew for every question that has found new logs."""
        policy = self.builder.policy
        if not policy or policy.inject != "cheatsheet":
            return
        most = min(self.limits.max_new_tokens, self.prompt.notes.tokens or self.limits.max_new_tokens)
        new = [run for run in active if run.found.new[1]]
        todo = self._build(new, lambda run: self.builder.distil_context(run.question, self._logs(run)), most)
        self._generate(todo, (), most)
        for run in _going(todo):
            assert run.result is not None  # who has none has failed
            run.spent += run.result.usage
            if unclosed(self.lm.opens + run.result.text):
                self._fail(run, self._thought_on())
            else:
                run.notes = without_reasoning(self.lm.opens + run.result.text)

    def _context(self, run: _Run) -> Any:
        ids = shown(run.found.passages, grouped=self.prompt.grouped)
        passages = [self.passages.passage(id) for id in ids] if self.passages is not None else []
        previous = without_reasoning(run.rounds[-1].response) if self.prompt.kind == "choice" and run.rounds else ""
        logs, policy = self._logs(run), self.builder.policy
        logs = logs if self.limits.best_log == "first" else logs[::-1]
        notes = run.notes or self.builder.notes(logs)
        told, in_front = (notes, "") if policy is None or policy.place == "user_turn" else ("", notes)
        run.user_turn = self.prompt.user_turn(run.question, passages, previous=previous, notes=told)
        return self.builder.context(run.question, run.user_turn, logs, in_front)

    def _logs(self, run: _Run) -> list[str]:
        """The logs that a question has found, in the order in which they are shown."""
        return shown(run.found.logs, grouped=self.prompt.grouped)

    def _generate(self, ready: Sequence[_Run], stop: Sequence[str], most: int) -> None:
        """Generate in a batch; when it fails, one by one, so that only the culprit fails. Raises EndpointError."""
        try:
            contexts, batch_size = [run.context for run in ready], self.limits.batch_size
            results = self.lm.generate(contexts, most, stop=stop, batch_size=batch_size) if ready else []
            for run, result in zip(ready, results, strict=True):
                if isinstance(result, Generation):
                    run.result = result
                else:
                    self._fail(run, result)
            return
        except EndpointError:
            raise
        except (RuntimeError, LagkitError) as error:
            if len(ready) == 1:
                self._fail(ready[0], error)
                return
        for run in ready:  # here, where the error has gone, and with it the KV of the batch that failed
            self._generate([run], stop, most)

    def _fail(self, run: _Run, error: Exception | None) -> None:
        run.trace = self._trace(run, error=error)

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


def _going(runs: Iterable[_Run]) -> list[_Run]:
    """Those that have not ended."""
    return [run for run in runs if run.trace is None]
