"""The testbed's claims, measured on several worlds: base quality, all variants, and logs of a changed world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.datasets import loaders as data
from lagkit.datasets.world.controls import Controls
from lagkit.logs.retrieve import load_embedder
from lagkit.model.lm import LM
from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.studies.recovery import lend_logs
from lagkit.util import files
from lagkit.util.errors import ConfigError
from lagkit.util.progress import say
from tools.testbed import quality

_TABLES = ("variants", "changed", "given_all", "given_none", "logs")
_UNTOLD = ["answer", "confidence", "error"]

MISLED = ("no_logs", "text_last_round", "kv_last_round")  # the variants that meet a changed world


@dataclass(frozen=True)
class Study:
    """Results of several test worlds, a row per world and question; ids of questions tell the worlds apart.

    variants: as `Experiment.run` gives them, with `world`, `hops` and `overlap`. changed: the same questions under
    `MISLED` after facts were changed, with the logs of the world as it was; `other` is True where the right answer is
    another one now. given_all, given_none: as in `quality`. logs: a row per log, whether it was `right` and its rounds.
    hops: question id -> ids of its hops, of its world. made: `settings` of a run and a `world`, `versions` and `git`.
    """

    variants: pd.DataFrame
    changed: pd.DataFrame
    given_all: pd.DataFrame
    given_none: pd.DataFrame
    logs: pd.DataFrame
    hops: dict[str, tuple[str, ...]]
    made: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write a parquet file for each table, and `study.json`; what the page does not tell is left out."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _TABLES:
            table: pd.DataFrame = getattr(self, name)
            files.write_table(folder / f"{name}.parquet", table.drop(columns=_UNTOLD, errors="ignore"))
        files.write_json(folder / "study.json", self.made)
        hops = pd.DataFrame({"question_id": list(self.hops), "hops": [list(own) for own in self.hops.values()]})
        files.write_table(folder / "hops.parquet", hops)

    @classmethod
    def load(cls, folder: Path) -> Study:
        """Read what `save` wrote. Raises OSError if a file is missing."""
        hops = pd.read_parquet(folder / "hops.parquet")
        return cls(
            **{name: pd.read_parquet(folder / f"{name}.parquet") for name in _TABLES},
            hops={id: tuple(own) for id, own in zip(hops["question_id"], hops["hops"], strict=True)},
            made=json.loads((folder / "study.json").read_text(encoding="utf-8")),
        )


def run(config: RunConfig, controls: Controls, seeds: Sequence[int], contradicted: float) -> Study:
    """Run the worlds of `seeds`, each in its folder of `config.out`; the same call resumes.

    contradicted: share of the facts that change. Raises what `Experiment` and `write` raise; ConfigError before
    anything is computed if a seed or the share is none, or for settings that a study decides itself.
    """
    if unfit := sorted({"data", "dataset", "store", "splits"} & set(config.flat(exclude_unset=True))):
        raise ConfigError(
            f"A study draws its worlds, asks unseen questions and keeps all in `out`: leave {unfit[0]} out."
        )
    if missing := [name for name in MISLED if name not in config.policies]:
        raise ConfigError(f"A study compares {', '.join(MISLED)} at least: add {missing[0]} to the policies.")
    worlds = {}
    for seed in seeds:
        plain = {**controls.model_dump(), "seed": seed}
        worlds[seed] = Controls.parse(plain), Controls.parse({**plain, "contradicted": contradicted})
    lm = LM.load(config.model.name, device=config.model.device, dtype=config.model.dtype)
    embedder = load_embedder(config.store.embedder)
    parts = []
    for seed, (before, after) in worlds.items():
        say(f"World {seed}")
        folder = config.out / f"world-{seed}"
        settings: dict[str, Any] = {"data": None, "out": folder / "run", "splits": ("unseen",)}
        settings["world"] = before.model_dump(mode="json")
        experiment = Experiment(config.changed(**settings), lm=lm, embedder=embedder)
        settings |= {"out": folder / "run-changed", "policies": MISLED, "world": after.model_dump(mode="json")}
        parts.append(_measure(experiment, config.changed(**settings), seed))
    variants, changed, given_all, given_none, logs = (
        pd.concat(tables, ignore_index=True) for tables in zip(*(part[0] for part in parts), strict=True)
    )
    told = config.flat(exclude_none=True)
    made = {
        "settings": {name: value for name, value in told.items() if name not in ("data", "world", "out", "splits")},
        "world": controls.model_dump(mode="json", exclude={"seed", "contradicted"}, exclude_none=True),
        "versions": manifest.versions(),
        "git": manifest.git_state(),
    }
    hops = {id: own for _, found in parts for id, own in found.items()}
    return Study(variants, changed, given_all, given_none, logs, hops, made)


def _measure(
    experiment: Experiment, changed: RunConfig, seed: int
) -> tuple[list[pd.DataFrame], dict[str, tuple[str, ...]]]:
    """The tables of one world, in the order of `Study`, and its hops."""
    variants, world, lm = experiment.run(), experiment.data, experiment.local_lm
    misled = _misled(experiment, changed)
    logs = [{"question_id": t.question_id, "right": t.correct, "rounds": len(t.rounds)} for t in experiment.logs]
    facts = pd.DataFrame(
        {"question_id": q.id, "hops": len(q.hops), "overlap": data.overlap(world.seen, q)} for q in world.unseen
    )
    tables = [
        variants.merge(facts, on="question_id"),
        misled,
        quality.given_all(lm, world, seed=seed),
        quality.given_none(lm, world),
        pd.DataFrame(logs),
    ]
    named = [table.assign(world=seed, question_id=[f"{seed}:{id}" for id in table["question_id"]]) for table in tables]
    return named, {f"{seed}:{id}": tuple(f"{seed}:{hop}" for hop in own) for id, own in data.hops(world.unseen).items()}


def _misled(experiment: Experiment, config: RunConfig) -> pd.DataFrame:
    """Answer a changed world's questions with the logs of the world as it was."""
    run = Experiment(config, lm=experiment.lm, embedder=experiment.embedder)
    with run.writing():
        lend_logs(experiment, run)
        run.encode()
        for name in config.policies:
            run.answer(name, "unseen")
        results = run.report()
    # A chain that leads elsewhere now has another id; its question is the same.
    before = {question.text: question for question in experiment.data.unseen}
    was = {question.id: before[question.text] for question in run.data.unseen}
    other = {question.id: was[question.id].answers != question.answers for question in run.data.unseen}
    ids = results["question_id"]
    return results.assign(other=ids.map(other), question_id=ids.map({id: question.id for id, question in was.items()}))
