"""Results of a comparison of variants: numbers that other programs read, and findings in sentences."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lagkit.datasets import split
from lagkit.runs import report, summary
from lagkit.runs.experiment import Experiment
from lagkit.stats import changed, equal_tokens, metrics, strata
from lagkit.stats.wording import difference, sentences
from lagkit.util.paths import at


def record(run: Experiment, results: pd.DataFrame, out: str | Path) -> dict[str, float]:
    """Write `summary.json` into `out`: numbers by variant and split, and by variant and stratum; the former are flat
    metrics, too."""
    found = summary.summarize(run, results)
    summary.write(at(out) / "summary.json", found)
    return summary.flat(found)


def findings(run: Experiment, results: pd.DataFrame, focus: str) -> list[str]:
    """A sentence for each variant on unseen questions, and what `focus` changes, costs, and owes to shared steps."""
    main = metrics.first_score(results)
    differences, unseen = run.differences(results), results[results["split"] == "unseen"]
    told = [
        *report.findings(differences, "unseen"),
        *sentences(differences.loc[[(focus, "seen", main)]]),
        _turned(results, focus, f", `{focus}`"),
        *_at_equal_budget(unseen, run, focus, main),
    ]
    if run.config.data.split == "disjoint":
        told.append(split.told(run.loaded, run.data))
    told.append(strata.about(run))
    if not run.data.no_strata:
        by_overlap = strata.counted(strata.outcomes(run, results).differences)
        focused = by_overlap.xs((focus, main), level=("policy", "metric"), drop_level=False)
        told += sentences(focused.rename(index="overlap {}".format, level="overlap"))
    return told


def verdict(run: Experiment, results: pd.DataFrame, focus: str) -> list[str]:
    """What `focus` brings on unseen questions in four sentences: the score, the rounds, what changed, and the cost."""
    main, unseen = metrics.first_score(results), results[results["split"] == "unseen"]
    own = run.differences(results).xs((focus, "unseen"), level=("policy", "split"))
    return [
        *(difference(focus, own.loc[metric], metric) for metric in (main, "rounds")),
        _turned(results, focus, " it"),
        _at_equal_budget(unseen, run, focus, main)[0],
    ]


def _turned(results: pd.DataFrame, focus: str, who: str) -> str:
    found = changed.counts(results).loc[(focus, "unseen")]
    right, wrong = found["wrong to right"], found["right to wrong"]
    return f"Of {found.sum()} unseen questions{who} turned {right} from wrong to right and {wrong} from right to wrong."


def _at_equal_budget(unseen: pd.DataFrame, run: Experiment, focus: str, main: str) -> list[str]:
    """Score without logs for as many tokens, and at its best."""
    spent = equal_tokens.costs(unseen, run.data.hops)
    row = equal_tokens.at_equal_budget(unseen, run.data.hops).loc[focus]
    without = spent[[name.partition("+")[0] == "no_logs" for name in spent.index]]
    best = without.sort_values("mean").iloc[-1]
    budget = f"{row['read without']:.0f} tokens read, {row['read']:.0f} with logs"
    return [
        f"At the nearest budget of doing without ({budget}), {difference(focus, row, main, row['without logs'])}",
        f"The best of doing without is `{best.name}` with {best['mean']:.1%}, for {best['read']:.0f} tokens read; "
        f"`{focus}` has {spent.loc[focus, 'mean']:.1%} for {spent.loc[focus, 'read']:.0f}.",
    ]
