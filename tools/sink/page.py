"""Rows of the study of the attention sink, and their page: `python -m tools.sink`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.datasets import loaders
from lagkit.model.prompts.actions import TAGS
from lagkit.runs.experiment import Experiment
from lagkit.stats.intervals import Difference, mean_interval, paired_interval
from lagkit.studies import attention, drift, examples, sink
from lagkit.util import files, markdown
from lagkit.util.code import digest
from tools import provenance, sections

_SHARES = {
    "garbled": "garbled",
    "broken": "broken tag",
    "acts": "act",
    "right": "right",
    "firsts": "attention to first tokens",
    "logs": "to their others",
    "prompt": "to the prompt",
}
LOOP, BASE = "whole-loop", "kv_last_round"
_BROKEN = re.compile(rf"</(?:{'|'.join(tag[1:-1] for tag in TAGS if tag[1] != '/')})(?!>)")
_APART = {"same": "same response", "agreement": "same next token", "kl": "KL, nats"}


def measure(run: Experiment, questions: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of `sink.looks` on the first unseen questions, whether they are `broken`, and `hops`; and what they were
    made with.

    The run's folder keeps those of each batch, so that a later call of the same code resumes.
    """
    run.build()
    met, size = examples.meetings(run, questions), run.config.limits.batch_size
    # A digest leaves out what a function uses of other modules.
    codes = digest(sink.looks), digest(attention.response_mass), digest(drift.response_logits), digest(drift.divergence)
    folder, parts = run.out / "sink" / "-".join(codes), []
    for start in range(0, len(met), size):
        batch = met[start : start + size]
        path = folder / f"{start}-{start + len(batch)}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_table(path, sink.looks(run, batch))
        parts.append(pd.read_parquet(path))
    rows = pd.concat(parts, ignore_index=True)
    hops = rows["question_id"].map(loaders.numbered(run.data.hops))
    return rows.assign(broken=rows["response"].map(broken).astype(float), hops=hops), about(run)


def broken(response: str) -> bool:
    """Whether a response begins to close a tag by other words than its own, as in `</ans</ans>`."""
    return bool(_BROKEN.search(response))


def about(run: Experiment) -> dict[str, Any]:
    """What rows were made with: logs, settings, versions and commit."""
    made = sections.made(run.config, policies=True)
    if run.config.data.folder is not None:
        made["settings"]["data"] = run.config.data.folder.name
    return made | {"logs": len(run.logs), "right logs": sum(bool(log.correct) for log in run.logs)}


def save(page: Path, name: str, rows: pd.DataFrame, made: Mapping[str, Any]) -> None:
    """Write a model's rows, and the page of all of them."""
    sections.save(page, name, rows, made, remade)


def remade(folder: Path) -> str:
    """The page of the rows in a folder."""
    parts = []
    for name, rows, made in sections.kept(folder):
        section = _loop if name == LOOP else _section
        parts.append(section(name, rows, made))
    return markdown.page(Path(__file__).with_name("page.md.j2"), sections="\n\n".join(parts))


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Means with their intervals: a row for each part kept and form, of the columns that the page shows."""
    hops = sections.hops(rows)
    found: dict[tuple[str, str], dict[str, Difference]] = {}
    for key, own in rows.groupby(["keep", "sink"], sort=False):
        values = own.set_index("question_id")
        names = [*_SHARES, *(_APART if key[1] == sink.WITHOUT else ())]
        if key[1] == sink.NO_LOGS:
            names = [name for name in names if name not in ("firsts", "logs")]
        found[key] = {name: mean_interval(values[name], hops) for name in names}
    return pd.DataFrame.from_dict(found, orient="index")


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """What the sink changes: with it less without it, paired by question; a row for each part kept."""
    hops, found = sections.hops(rows), {}
    for keep in [name for name in rows["keep"].unique() if name != sink.NO_LOGS]:
        own = rows[rows["keep"] == keep].set_index("question_id")
        kept, bare = (own[own["sink"] == form] for form in (sink.WITH, sink.WITHOUT))
        found[keep] = {name: paired_interval(bare[name], kept[name], hops) for name in _SHARES}
    return pd.DataFrame.from_dict(found, orient="index")


def _section(name: str, rows: pd.DataFrame, made: Mapping[str, Any]) -> str:
    settings = made["settings"]
    data = settings.get("dataset", "its data")
    n, found, changed = rows["question_id"].nunique(), cells(rows), changes(rows)
    apart = found.loc[[key for key in found.index if key[1] == sink.WITHOUT], list(_APART)]
    told = [
        f"## {name}",
        f"{settings['model']} in {settings['dtype']} on {data}: {n} unseen questions, each behind "
        f"the {settings['logs']} nearest of {made['logs']} logs, {made['right logs']} of which are right.",
        _table(found[list(_SHARES)], _SHARES, ["kept", "sink"]),
        "With the sink less without it, in points:",
        _table(changed, _SHARES, ["kept"], sign="+"),
        "Without the sink against with it:",
        _table(apart.droplevel(1), _APART, ["kept"]),
        "First responses to the first question:",
        _responses(rows),
        provenance.made_with(f"python -m tools.sink docs/results/sink/{name}.yaml", made["versions"], made["git"]),
    ]
    return "\n\n".join(told)


def _loop(name: str, rows: pd.DataFrame, made: Mapping[str, Any]) -> str:
    """First responses of a run, by variant; `more` broken tags than with our usual form."""
    settings, hops, told = made["settings"], sections.hops(rows), []
    data = settings.get("dataset", "its data")
    values = {policy: own.set_index("question_id") for policy, own in rows.groupby("policy", sort=False)}
    for policy, own in values.items():
        shares = [_told(mean_interval(own[key], hops), key, "") for key in ("broken", "acts")]
        other = BASE in values and policy != BASE
        more = _told(paired_interval(values[BASE]["broken"], own["broken"], hops), "more", "+") if other else ""
        told.append([f"`{policy}`", *shares, more])
    n = rows["question_id"].nunique()
    parts = [
        "## The whole loop",
        f"First responses of a run on {data} with {settings['model']} in {settings['dtype']}: {n} "
        f"unseen questions, each variant that has answered all. More: broken tags less those of `{BASE}`, in points.",
        markdown.table(["variant", "broken tag", "act", "more"], told),
        provenance.made_with("python -m tools.sink.loop CONFIG.yaml data=FOLDER", made["versions"], made["git"]),
    ]
    return "\n\n".join(parts)


def _table(found: pd.DataFrame, heads: Mapping[str, str], index: list[str], sign: str = "") -> str:
    rows = []
    for key, own in found.iterrows():
        labels = key if isinstance(key, tuple) else (key,)
        rows.append([*(label.replace("_", " ") for label in labels), *(_told(own[name], name, sign) for name in heads)])
    return markdown.table([*index, *heads.values()], rows)


def _told(found: Difference | float, name: str, sign: str) -> str:
    """The mean and its interval; nothing where there is none."""
    if not isinstance(found, Difference):
        return ""
    scale, form = (1, ".2f") if name == "kl" else (100, ".1f")
    mean, low, high = (format(scale * value, f"{sign}{form}") for value in (found.mean, found.low, found.high))
    return f"{mean}{'' if sign or name == 'kl' else '%'} [{low}, {high}]"


def _responses(rows: pd.DataFrame) -> str:
    first = rows[rows["question_id"] == rows["question_id"].iloc[0]]
    told = [[row["keep"].replace("_", " "), row["sink"], row["response"]] for _, row in first.iterrows()]
    return markdown.table(["kept", "sink", "response"], told)
