"""A run's report: tables and a page of Markdown, made of its rows at any time.

`results.parquet` holds the rows, `manifest.json` the settings, `report.json` all else that the page shows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from lagkit.datasets import loaders as data
from lagkit.datasets.loaders import Stratum
from lagkit.datasets.split import told
from lagkit.policy import OURS
from lagkit.runs.manifest import read_manifest
from lagkit.stats import changed, metrics, strata
from lagkit.stats.intervals import Hops
from lagkit.stats.wording import Finding, as_row, interval, judged
from lagkit.types import Trace, Usage
from lagkit.util import files
from lagkit.util.errors import DataError
from lagkit.util.markdown import Columns, framed, literal, table
from lagkit.util.paths import at

if TYPE_CHECKING:
    from lagkit.runs.experiment import Experiment

_AGAIN = "run the command that made the run once more"
TABLES = ("summary.csv", "differences.csv", "strata.csv", "changed.csv", "report.md")
_SCORE_NAMES = {
    **{"em": "EM", "f1": "SQuAD F1", "f1_hotpot": "HotpotQA F1"},
    **{"accuracy": "accuracy", "accuracy_flexible": "flexible accuracy"},
}
# What stands over a column of costs, and how its numbers are shown.
_COSTS: Columns = {
    **{name: (f"{name} tokens", ".0f") for name in ("prefilled", "injected", "generated")},
    **{"seconds": ("seconds", ".2f"), "cost": ("cost", ".3g")},
}
_EXACT = 12  # decimals of tables: further ones depend on the processor
_FOLDERS = ("data", "out", "store")
_IN_PARENTHESES = "In parentheses: difference to `no_logs` with its 95% interval."
_FAILED = "What failed is wrong, and its rounds end there: failures make a variant's rounds fewer."
_SHARED = {"all": "All hops", "final": "The final hop, not all", "other": "Another hop only", "none": "No hop"}


def write(run: Experiment) -> pd.DataFrame:
    """Score the traces that there are and write `Experiment.report`'s files; returns the scores.

    Variants without answers are left out. Raises DataError, with nothing written, where one has answered in part.
    """
    results = run.scored(run.config.policies, run.config.data.splits)
    _refuse_part(run, results)
    files.write_table(run.out / "results.parquet", results, durable=False)
    asked = [question for split in run.config.data.splits for question in run.questions(split)]
    known = "unseen" in run.config.data.splits and not run.data.no_strata
    overlap = strata.overlaps(run).to_dict() if known else None
    with run.store() as store:
        blocks, facts = store.summary().reset_index().to_dict("list"), _facts(run, list(store.traces()))
    kept = {"facts": facts, "logs": blocks, "hops": data.numbered(data.hops(asked)), "overlap": overlap}
    files.write_json(run.out / "report.json", kept)
    remake(run.out)
    return results


def _refuse_part(run: Experiment, results: pd.DataFrame) -> None:
    """Raise DataError where differences to doing without cannot be told: questions that one of both lacks."""
    found = results.groupby(["policy", "split"]).size() if len(results) else {}
    for split in run.config.data.splits:
        asked = len(run.questions(split))
        for name in run.config.policies:
            answered = int(found.get((name, split), 0))
            if answered < asked and (answered or name == "no_logs"):
                raise DataError(
                    f"The run in {run.out} is not finished: {name} has answered {answered} of {asked} {split} "
                    "questions. The command that began it resumes it."
                )


def read_table(path: Path, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Read a table of a finished run; raises DataError if it is missing or damaged."""
    if not path.exists():
        raise DataError(f"There is no {path.name} in {path.parent}: name the folder of a run that is finished.")
    with files.intact(path, _AGAIN):
        return read(path)


def remake(folder: str | Path, to: str | Path | None = None) -> None:
    """Write the tables of the run in `folder`, into `to` if given; a table that it does not have (any more) goes.

    Raises DataError if the rows or `report.json` are missing or damaged.
    """
    folder, out = at(folder), at(to or folder)
    results, path = read_table(folder / "results.parquet", pd.read_parquet), folder / "report.json"
    with files.intact(path, _AGAIN):
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        facts, overlap, logs = kept["facts"], kept["overlap"], pd.DataFrame(kept["logs"])
        logs = logs.set_index(logs.columns[0])
        hops = {id: tuple(map(str, own)) for id, own in kept["hops"].items()}
    summary, differences = metrics.summarize(results), metrics.compare(results, hops)
    tables = {"summary.csv": summary, "differences.csv": differences}
    by_overlap = None
    (out / "strata.csv").unlink(missing_ok=True)
    if overlap and "unseen" in set(results["split"]):
        kind = pd.Series(overlap, name="overlap").rename_axis("question_id")
        ordered = kind.astype(pd.CategoricalDtype(get_args(Stratum), ordered=True))
        by_overlap = strata.by_overlap(results, ordered, hops)
        tables["strata.csv"] = by_overlap.table()
    for name, frame in tables.items():
        files.write(out / name, frame.round(_EXACT).to_csv(), durable=False)
    # Text in quotes: without them readers end the row at a carriage return, which an answer may hold.
    turned = changed.turned(results).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
    files.write(out / "changed.csv", turned, durable=False)
    forms = _beside_published(results, hops)
    page = markdown(summary, differences, by_overlap, logs, read_manifest(folder), facts, forms)
    files.write(out / "report.md", page, durable=False)


def _beside_published(results: pd.DataFrame, hops: Hops) -> pd.DataFrame:
    """Our variants less the published forms of the same kind, in the form of `metrics.compare`, paired by question.

    `published` names the other form. Without rows where no form was answered both ways.
    """
    asked, found = list(results["policy"].unique()), []
    for name in asked:
        form, plus, limits = name.partition("+")
        ours = f"{OURS[form]}{plus}{limits}" if form in OURS else ""
        if ours in asked:
            pair = metrics.compare(results[results["policy"].isin([name, ours])], hops, name)
            found.append(pair.assign(published=name))
    return pd.concat(found) if found else pd.DataFrame()


def _facts(run: Experiment, logs: Sequence[Trace]) -> list[str]:
    """What a reader should know before the scores."""
    right = sum(bool(log.correct) for log in logs)
    facts = [
        f"The log store holds {len(logs)} logs, of which {right} answer their question rightly.",
        *([told(run.loaded, run.data)] if run.config.data.split == "disjoint" else []),
        strata.about(run),
        "Injected tokens are those of logs, and of the prompt's shared head where it stands at position 0.",
        "Seconds are generation alone, a batch's wall time divided by its rows; encoding is not in them.",
    ]
    if run.config.model.api:
        used = _spent(run)
        facts.append(
            f"The endpoint read {used.prefilled:,} tokens and wrote {used.generated:,} for logs and answers, at a "
            f"cost of {run.config.model.api.cost(used):.4g}."
        )
    return facts


def _spent(run: Experiment) -> Usage:
    """Usage of logs and answers, those of earlier sessions and those that failed included."""
    asked = [run.answers(name, split) for name in run.config.policies for split in run.config.data.splits]
    journals = {journal.path: journal for journal in (run.journal("log"), *asked)}
    return sum((trace.usage for journal in journals.values() for trace in journal.traces()), Usage())


def markdown(
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    by_overlap: strata.Strata | None,
    logs: pd.DataFrame,
    manifest: dict[str, Any],
    facts: Sequence[str],
    forms: pd.DataFrame,
) -> str:
    """The report of one run: of `metrics.summarize`, `metrics.compare`, `Store.summary` and `_beside_published`.

    by_overlap: the unseen questions by overlap, None where it is not known. facts: sentences on questions and logs.
    """
    settings = manifest["settings"]
    scores = metrics.scores_in(summary)
    title = literal(f"{settings['dataset'] or 'Run'} with {settings['model']}")
    parts = [f"# {title}", "\n".join(f"- {literal(fact)}" for fact in facts)]
    for split in summary.index.unique("split"):
        part = summary.xs(split, level="split")
        parts.append(f"## {split.capitalize()} questions (n = {part['n'].iloc[0]})")
        parts += [_outcomes(part, _at(differences, "split", split), scores), _IN_PARENTHESES]
        parts += [_FAILED] if part["failures"].any() else []
        costs = {name: shown for name, shown in _COSTS.items() if name in part}
        parts.append(f"Per question:\n\n{framed(part.rename('`{}`'.format), costs, 'variant')}")
        parts.append("\n".join(f"- {sentence}" for sentence in findings(differences, split)))
        if len(forms):
            parts.append(f"### As published, and ours\n\n{_forms(part, _at(forms, 'split', split), scores)}")
        if by_overlap and split == "unseen":
            parts += _by_overlap(by_overlap, scores)
    parts.append(f"## Stored logs\n\n{table(['block', *logs.columns], logs.reset_index().values.tolist())}")
    told = {name: value for name, value in settings.items() if name not in _FOLDERS}
    shown = [[name, ", ".join(map(str, value)) if isinstance(value, list) else value] for name, value in told.items()]
    parts.append(f"## Settings\n\n{table(['setting', 'value'], shown)}")
    return "\n\n".join(parts) + "\n"


def findings(differences: pd.DataFrame, split: str) -> list[Finding]:
    """One sentence per policy: in what it differs from no logs, in what it equals it, and what remains open."""
    sentences = []
    for policy, rows in _at(metrics.apart(differences), "split", split).groupby(level="policy", sort=False):
        said, cells, what = [], [], f"`{policy}` against `no_logs`"
        for (_, metric), row in rows.iterrows():
            words = judged(row, metric, *(("more", "fewer") if metric == "rounds" else ("higher", "lower")))
            said.append(f"{_SCORE_NAMES.get(metric, metric)} {words} ({interval(row, metric)})")
            cells.append(as_row(what, row, metric, words))
        sentences.append(Finding(f"{what}: {'; '.join(said)}.", *cells))
    return sentences


def _by_overlap(by_overlap: strata.Strata, scores: Sequence[str]) -> list[str]:
    """A heading and a table for each stratum."""
    parts = ["### Unseen questions by what they share with logged ones", _IN_PARENTHESES]
    for stratum in by_overlap.means.index.unique("overlap"):
        means, differences = (_at(frame, "overlap", stratum) for frame in by_overlap)
        parts.append(f"#### {_SHARED[stratum]} (n = {means['n'].iloc[0]})")
        parts.append(_outcomes(means, differences, scores))
    return parts


def _outcomes(part: pd.DataFrame, differences: pd.DataFrame, scores: Sequence[str]) -> str:
    rows = []
    for policy, row in part.iterrows():
        cells = [f"`{policy}`"]
        for metric in (*scores, "rounds"):
            value = f"{row[metric]:.2f}" if metric == "rounds" else f"{100 * row[metric]:.1f}"
            if (policy, metric) in differences.index:
                value += f" ({interval(differences.loc[(policy, metric)], metric)})"
            cells.append(value)
        rows.append([*cells, f"{100 * row['abstention']:.0f}%", int(row["failures"])])
    heads = ["variant", *(_SCORE_NAMES.get(s, s) for s in scores), "rounds", "abstained", "failed"]
    return table(heads, rows)


def _forms(part: pd.DataFrame, forms: pd.DataFrame, scores: Sequence[str]) -> str:
    """A row for each form and metric: both means, and ours less the published one."""
    rows = []
    for (ours, metric), row in forms.iterrows():
        if metric not in (scores[0], "rounds"):
            continue
        scale, digits = (1, 2) if metric == "rounds" else (100, 1)
        means = (f"{scale * part.loc[name, metric]:.{digits}f}" for name in (row["published"], ours))
        cells = [f"`{row['published']}`", f"`{ours}`", _SCORE_NAMES.get(metric, metric), *means]
        rows.append([*cells, interval(row, metric), judged(row, metric)])
    heads = ["published form", "ours", "measured by", "published", "ours", "ours less published", "verdict"]
    return table(heads, rows)


def _at(frame: pd.DataFrame, level: str, value: str) -> pd.DataFrame:
    """The rows at one label of a level, which may be none: a run without variants has no differences."""
    return frame[frame.index.get_level_values(level) == value].droplevel(level)
