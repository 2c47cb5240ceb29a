"""What KV in fewer bits costs, as a page of Markdown: `python -m tools.codec`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.runs import manifest
from lagkit.stats.intervals import Difference
from lagkit.stats.wording import interval
from lagkit.util import files, markdown
from tools import provenance
from tools.codec.loss import AGAIN, ANSWERED, SCHEMES, TARGET_AGREEMENT, TARGET_BYTES, Loss

_SCHEMES: dict[str, tuple[str, str]] = {
    "bytes": ("bytes", ".3f"),
    "keys": ("error of keys", ".4f"),
    "values": ("error of values", ".4f"),
    "kl": ("KL", ".1e"),
    "agreement": ("next token", ".2%"),
}


@dataclass(frozen=True)
class Measured:
    """A run's numbers, as `Loss` gives them; `about` are its settings that matter, `logs` how many are stored."""

    about: dict[str, Any]
    logs: int
    schemes: pd.DataFrame
    answers: pd.DataFrame
    files: dict[str, float]
    reading: dict[str, float]

    @classmethod
    def of(cls, loss: Loss) -> Measured:
        """Measure a run."""
        about = loss.run.config.flat(exclude_none=True, exclude={"out": True, "policies": True, "store": {"codec"}})
        about |= {"policy": loss.name, "questions with divergences": loss.cases}
        return cls(about, len(loss.blocks), loss.schemes(), loss.answers(), loss.files(), loss.reading())

    def rows(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        answers = self.answers.assign(gain=self.answers["gain"].map(asdict))
        return asdict(self) | {"schemes": self.schemes.to_dict("index"), "answers": answers.to_dict("index")}

    @classmethod
    def parse(cls, rows: dict[str, Any]) -> Measured:
        """What `rows` gave."""
        schemes, answers = (pd.DataFrame.from_dict(rows[name], orient="index") for name in ("schemes", "answers"))
        gains = answers["gain"].map(lambda gain: Difference(**gain))
        return cls(**{**rows, "schemes": schemes, "answers": answers.assign(gain=gains)})


def save(page: Path, runs: Mapping[str, Measured]) -> None:
    """Write the page beside its rows, a file of JSON with the same name."""
    page.parent.mkdir(parents=True, exist_ok=True)
    made = {"versions": manifest.versions(), "git": manifest.git_state()}
    rows = {**made, "runs": {name: run.rows() for name, run in runs.items()}}
    files.write_json(page.with_suffix(".json"), rows)
    files.write(page, remade(page.with_suffix(".json")))


def remade(rows: Path) -> str:
    """The page of the rows that `save` wrote."""
    kept = json.loads(rows.read_text(encoding="utf-8"))
    return told({name: Measured.parse(run) for name, run in kept["runs"].items()}, kept)


def told(runs: Mapping[str, Measured], made: Mapping[str, Any]) -> str:
    """The page: findings, a section for each run, and what it was made with (`versions` and `git`)."""
    sections = [
        f"## {name}\n\n{_facts(run)}\n\n{_schemes(run.schemes)}\n\n{_answers(run.answers)}"
        for name, run in runs.items()
    ]
    versions = {part: made["versions"][part] for part in ("lagkit", "torch", "transformers")}
    return markdown.page(
        Path(__file__).with_name("page.md.j2"),
        findings="\n".join(f"- {finding}" for finding in findings(runs)),
        sections="\n\n".join(sections),
        made=provenance.made_with("make codec", versions, made["git"]),
        settings="\n\n".join(f"{name}:\n\n{provenance.listed(run.about)}" for name, run in runs.items()),
    )


def findings(runs: Mapping[str, Measured]) -> list[str]:
    """What was found, each scheme against the two targets over all runs."""
    told = [_bytes(runs)]
    for name in ANSWERED:
        rows = {run: found.answers.loc[name] for run, found in runs.items()}
        counts = "; ".join(f"{_share(row)} in {run}" for run, row in rows.items())
        missed = [run for run, row in rows.items() if row["same"] < TARGET_AGREEMENT * row["n"]]
        verdict = f"misses the target in {' and '.join(missed)}" if missed else "meets the target everywhere"
        told.append(f"`{name}` {verdict}, {TARGET_AGREEMENT:.0%} of the answers the same: {counts}.")
    told += [_offsets(name, run.schemes) for name, run in runs.items()]
    again = "; ".join(f"{_share(run.answers.loc[AGAIN])} in {name}" for name, run in runs.items())
    told.append(f"Rounding alone, by the uncompressed store in other batches, leaves {again} the same.")
    return told


def _bytes(runs: Mapping[str, Measured]) -> str:
    worst = max(run.files["worst"] for run in runs.values())
    parts = "; ".join(
        f"{run.files['all']:.3f} in {name}, {run.files['worst']:.3f} for its worst log, of {run.files['worst_tokens']} "
        f"tokens; at most {TARGET_BYTES} from {run.files['from_tokens']} tokens on"
        for name, run in runs.items()
    )
    verdict = "meets the target for every log" if worst <= TARGET_BYTES else "misses the target for some logs"
    return f"`int8` {verdict}: bytes of its files over those of bf16 are {parts}."


def _offsets(name: str, schemes: pd.DataFrame) -> str:
    plain, offset = (schemes.loc[scheme] for scheme in ("int8", "int8 with offsets"))
    return (
        f"In {name} offsets would change the error of int8 keys from {plain['keys']:.4f} to {offset['keys']:.4f}, and "
        f"the bytes from {plain['bytes']:.3f} to {offset['bytes']:.3f}."
    )


def _share(row: pd.Series) -> str:
    share, low, high = (f"{100 * value:.1f}" for value in (row["same"] / row["n"], row["low"], row["high"]))
    return f"{row['same']:.0f} of {row['n']:.0f} ({share}% [{low}, {high}])"


def _facts(run: Measured) -> str:
    none, int8 = run.reading["none"], run.reading["int8"]
    return (
        f"{run.about['model']} in {run.about['dtype']}: {run.logs} logs of {run.files['tokens']:.1f} tokens on "
        f"average. From the file to the cache, a log takes {none:.2f} ms as it is and {int8:.2f} ms as int8."
    )


def _schemes(schemes: pd.DataFrame) -> str:
    return markdown.framed(schemes.loc[list(SCHEMES)].rename("`{}`".format), _SCHEMES, "scheme")


def _answers(answers: pd.DataFrame) -> str:
    rows = [
        [
            f"`{name}`" if name in SCHEMES else name,
            _share(row),
            f"{row['same_responses']} of {row['n']}",
            f"{100 * row['right']:.1f} ({interval(vars(row['gain']), 'em')})",
        ]
        for name, row in answers.iterrows()
    ]
    before = 100 * answers["right_before"].iloc[0]
    heads = ["logs", "same answers", "same responses", f"right answers (uncompressed: {before:.1f})"]
    return markdown.table(heads, rows)
