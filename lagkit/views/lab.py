"""First and last steps of a notebook: open a run, ask it, show a log, record findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML

from lagkit.logs.encode import Encoder
from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.stats import changed
from lagkit.stats.wording import sentences
from lagkit.types import Question, Trace
from lagkit.util import files
from lagkit.util.errors import ConfigError, DataError
from lagkit.util.paths import at
from lagkit.views import plots
from lagkit.views.findings import Details, say
from lagkit.views.widgets.asking import follow
from lagkit.views.widgets.pages import answers_html, kept_html, log_names, trace_html

ANSWERS = "answers.parquet"


def open_run(tier: str, run: str | Path, *, data: str = "", seed: int = 0, **settings: Any) -> Experiment:
    """A run of `tier` in the folder `run`, whose finished stages stay as they are; also sets figures and warnings up.

    data: a folder of questions, where the tier's own are not wanted. seed: of the test world, or of the samples that
    are drawn from `data`. settings: as in `RunConfig`; an empty one (`""`, 0, None) leaves the tier's, and so does each
    control that `world` doesn't name. A policy that is named twice is taken once. Raises ConfigError, DataError.
    """
    plots.for_notebooks()
    given = {name: value for name, value in settings.items() if value not in ("", 0, None, (), [])}
    policies = given.get("policies")
    _refuse_text("policies", policies)
    if isinstance(policies, list | tuple):
        given["policies"] = [name for number, name in enumerate(policies) if name not in policies[:number]]
    world = given.pop("world", {})
    if not isinstance(world, Mapping):
        raise ConfigError(f"`world` is a mapping of controls to values, and {world!r} is none.")
    if data:
        given["data"] = data
    config = RunConfig.of(tier, out=run, seed=seed, **given)
    if world:
        if config.data.world is None:
            raise ConfigError(
                f"The questions of {tier} are no test world, which has controls: give their folder as `data`."
            )
        config = RunConfig.of(tier, out=run, seed=seed, **given, world={**config.data.world, **world})
    return Experiment(config)


def run(tier: str, out: str | Path, **settings: Any) -> Experiment:
    """Build logs, encode them and answer the questions of `tier` under `policies`; the same line resumes.

    out: the run's folder. settings: as in `open_run`; `policies` are names of `POLICIES`, with changes of the limits
    behind them (`no_logs+passages=4`). Shows progress. Returns the run: `summary()`, `compare()`, `results`, `logs`.
    Raises ConfigError, DataError and what loading a model raises.
    """
    experiment = open_run(tier, out, **settings)
    experiment.run()
    return experiment


class Answers(dict[str, Trace]):
    """Traces of one question by variant; in a notebook they stand side by side."""

    def __init__(self, traces: Mapping[str, Trace], names: Mapping[str, str]) -> None:
        super().__init__(traces)
        self._names = names  # questions of the logs that were retrieved, by id

    def table(self) -> pd.DataFrame:
        """One row per variant: answer (empty if none), right, rounds, logs, tokens by origin and seconds."""
        rows = {}
        for name, trace in self.items():
            logs, usage = sum(len(r.logs) for r in trace.rounds), trace.usage
            about = {"answer": trace.answer or "", "right": trace.correct, "rounds": len(trace.rounds), "logs": logs}
            tokens = {"prefilled": usage.prefilled, "injected": usage.injected, "generated": usage.generated}
            rows[name] = {**about, **tokens, "seconds": usage.seconds}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")

    def _repr_html_(self) -> str:
        return answers_html(self, self._names)


def ask(run: Experiment, question: Question | str, variants: Sequence[str]) -> Answers:
    """Answer one question under each variant, with the logs and the passages of a run.

    A question in words has no gold answer, so its traces are not judged. Raises ConfigError for an unknown variant or
    an empty question, EmptyStore where the run has no logs yet.
    """
    _refuse_text("variants", variants)
    prompt, limits, embedder, passages = run.prompt, run.config.limits, run.embedder, run.passages
    with run.store() as store:
        steps = follow(
            run.lm, store, question, variants, prompt=prompt, limits=limits, embedder=embedder, passages=passages
        )
        traces = {name: trace for name, trace, _ in steps}
        return Answers(traces, log_names(store, traces.values()))


def _refuse_text(name: str, given: object) -> None:
    if isinstance(given, str):
        raise ConfigError(f"`{name}` is a list of names, and {given!r} is text: write [{given!r}].")


def show(log: Trace, *policies: str, keep: str = "", run: Experiment | None = None) -> HTML:
    """A log as a page: round by round, or what policies keep of it, highlighted.

    policies: names of `POLICIES`. keep: in their place, one of `last_action`, `last_round`, `last_two_rounds`,
    `all_rounds`. run: marks tokens of its model instead of words. Raises ConfigError for an unknown name.
    """
    names = [*policies, *([f"kv_{keep}"] if keep else [])]
    encoder = Encoder(run.local_lm, run.prompt, {own.id: own for own in run.logs}) if run else None
    return HTML("".join(kept_html(log, name, encoder) for name in names) if names else trace_html(log))


def conclude(
    out: str | Path,
    measured: Mapping[str, Any] | pd.DataFrame,
    findings: Sequence[str] = (),
    settings: Experiment | Mapping[str, Any] | None = None,
    answers: pd.DataFrame | None = None,
    *,
    verdict: Sequence[str] = (),
    run: Experiment | None = None,
) -> Details:
    """Write `metrics.json` into `out`, fill the place of `lag.table.verdict`; returns the findings to show.

    measured: a name and a finite number each, which the nightly gates compare; or differences as `run.compare()` gives
    them, which become `<metric>_diff.<policy>.<split>`, and a sentence each before the findings. settings: what the
    numbers were made with, by name, or the run whose settings these are. answers: what they come from, a row for each
    policy, split and question as in results, which the gates compare one by one; written to `answers.parquet`. verdict:
    two to four sentences that answer the notebook's question; by default the first three findings. run: stands for
    settings and answers both.
    Raises DataError if a number is not finite, or if a question has two answers of one policy.
    """
    if run is not None:
        settings, answers = run, run.results
    if isinstance(settings, Experiment):
        settings = settings.config.flat()
    if isinstance(measured, pd.DataFrame):
        findings = [*sentences(measured), *findings]
        measured = {f"{metric}_diff.{policy}.{split}": m for (policy, split, metric), m in measured["mean"].items()}
    for name, value in measured.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise DataError(f"The metric {name} is {value!r}: metrics.json holds finite numbers only.")
    folder = at(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ANSWERS).unlink(missing_ok=True)
    if answers is not None:
        rows = changed.answers(answers)
        if twice := rows[rows.duplicated(["policy", "split", "question_id"])].to_dict("records"):
            raise DataError(f"{twice[0]['policy']} answers {twice[0]['question_id']} twice: name the policies apart.")
        files.write_table(folder / ANSWERS, rows)
    told = [*(verdict or findings[:3])]
    record = {
        "metrics": {name: float(value) for name, value in measured.items()},
        "verdict": told,
        "findings": list(findings),
        "settings": dict(settings or {}),
        "git": manifest.git_state(),
        "machine": manifest.machine(),
    }
    files.write_json(folder / "metrics.json", record)
    say(told)
    return Details(findings)
