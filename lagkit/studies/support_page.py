"""A survey of models (`lagkit.studies.support`) as tables of Markdown: what the README and `docs/results` show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.runs import manifest
from lagkit.runs.report import table
from lagkit.studies.support import EXACT, SUPPORTED, traits
from lagkit.util import files

PLAIN = "plain RoPE"
_NUMBERS = {
    "error.float32": "error, fp32",
    "kl.float32": "KL, fp32",
    "kl.bfloat16": "KL, bf16",
    "kl_moved.bfloat16": "KL of rounding, bf16",
}


def verdicts(survey: pd.DataFrame) -> pd.Series:
    """In a word each: `exact` or `inexact` by the error in float32 (`supported` without one), else the survey's."""
    errors = survey.get("error.float32", pd.Series(dtype=float)).reindex(survey.index)
    words = errors.map(lambda error: SUPPORTED if isnan(error) else "exact" if error <= EXACT else "inexact")
    return words.where(survey["verdict"] == SUPPORTED, survey["verdict"])


def kinds(row: Mapping[str, Any]) -> list[str]:
    """What there is to moving a model's keys, read off its re-alignment; several may hold."""
    scaled = sorted(set(str(row["rope"]).split("+")) - {"default"})
    found = [f"frequencies scaled: {kind}" for kind in scaled]
    if row["turned"] < row["head_dim"]:
        found.append("only some dimensions turn")
    if row["bare_layers"]:
        found.append("some layers without RoPE")
    if row["layout"] == "interleaved":
        found.append("interleaved pairs")
    return found or [PLAIN]


def grouped(survey: pd.DataFrame) -> pd.DataFrame:
    """The short table: kinds of RoPE, the plain one first, then what is refused, by the reason.

    Columns: `families`; `verdict`, as in `verdicts`; `error`, the worst in float32. A family that is of several kinds
    is in several rows.
    """
    rows = []
    for (name, row), verdict in zip(survey.iterrows(), verdicts(survey), strict=True):
        moved = row["verdict"] == SUPPORTED
        for kind in kinds(row) if moved else traits([name]):
            place = (not moved, kind != PLAIN, kind if moved else "")
            rows.append((place, kind, verdict, name, row.get("error.float32", nan) if moved else nan))
    ordered = sorted(rows, key=lambda row: row[0])
    frame = pd.DataFrame(ordered, columns=["place", "keys and values", "verdict", "families", "error"])
    groups = frame.groupby(["keys and values", "verdict"], sort=False)
    joined = groups.agg(families=("families", ", ".join), error=("error", "max")).reset_index("verdict")
    return joined[["families", "verdict", "error"]]


def summary(survey: pd.DataFrame) -> str:
    """The short table as Markdown."""
    rows = [[kind, *row[:-1], _power(row[-1])] for kind, *row in grouped(survey).itertuples()]
    return table(["keys and values", "families", "verdict", "error, float32"], rows)


def supported(survey: pd.DataFrame) -> str:
    """Every supported model with its numbers; empty if there is none."""
    rows = []
    for name, row in survey[survey["verdict"] == SUPPORTED].iterrows():
        size = " x ".join(f"{row[part]:.0f}" for part in ("layers", "kv_heads", "head_dim"))
        rows.append(
            [
                name,
                *traits([name]),
                row["rope"] + ("" if pd.isna(row["limit"]) else f", up to {row['limit']:.0f}"),
                *(_power(row.get(column)) for column in _NUMBERS),
                _percent(row.get("agreement.bfloat16")),
                f"2 x {size} x 2 = {row['bytes_per_token']:,.0f}",
                f"{row['inject_over_prefill']:.2f}",
            ]
        )
    heads = ["model", "its keys", "RoPE", *_NUMBERS.values(), "agreement, bf16"]
    return table([*heads, "bytes per token, bf16", "injection over prefill"], rows) if rows else ""


def others(survey: pd.DataFrame) -> str:
    """Every model without numbers, and why; empty if there is none."""
    rest = survey[survey["verdict"] != SUPPORTED]
    rows = [[name, row["verdict"], *traits([name]), row["reason"]] for name, row in rest.iterrows()]
    return table(["model", "verdict", "because", "what lagkit says"], rows) if rows else ""


def save(page: Path, families: pd.DataFrame, models: pd.DataFrame) -> None:
    """Write the page beside its rows: a file of JSON with the same name, in which no number is rounded."""
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = {"families": families, "models": models}
    rows = {name: json.loads(part.to_json(orient="split", double_precision=15)) for name, part in parts.items()}
    files.write_json(page.with_suffix(".json"), {"versions": manifest.versions(), **rows})
    files.write(page, remade(page.with_suffix(".json")))


def remade(rows: Path) -> str:
    """The page of the rows that `save` wrote."""
    kept = json.loads(rows.read_text(encoding="utf-8"))
    families, models = (pd.DataFrame(**kept[name]) for name in ("families", "models"))
    return markdown(families, models, kept["versions"])


def markdown(families: pd.DataFrame, models: pd.DataFrame, versions: Mapping[str, str]) -> str:
    """The page: the short table, the families one by one, the models with their own weights, and what made it."""
    parts = ["# Which models are supported", _HOW, summary(families)]
    sections = {
        f"## Families\n\n{_TINY}": supported(families),
        "## Refused families": others(families),
        "## Models with their own weights": supported(models) if len(models) else "",
        "## Other models": others(models) if len(models) else "",
    }
    parts += [part for section in sections.items() if section[1] for part in section]
    made = ", ".join(f"{name} {versions[name]}" for name in ("lagkit", "torch", "transformers"))
    parts += ["## Made with", f"`make support`, which runs `notebooks/10_architectures.ipynb`; {made}."]
    return "\n\n".join(parts) + "\n"


_HOW = (
    "Every model is probed when it is loaded: keys read at one place and turned to another have to be the keys that it "
    "makes there. A family is **exact** if the relative error of its worst layer is at most "
    f"{EXACT:g} in float32. A family that stands in several rows has several peculiarities."
)
_TINY = (
    "Tiny random models of each family, logs and prompts of random tokens. **error**: of re-aligned keys against a "
    "prefill at their new place. **KL**: of the next tokens behind a log that was read elsewhere and injected, against "
    "a dense prefill (nats); **KL of rounding** is that of a dense prefill at shifted positions, where nothing is "
    "injected. **agreement**: how often the most probable next token is the same. **bytes per token**: keys and values "
    "x layers x KV heads x head dimension x 2 bytes. **injection over prefill**: time to turn a block and lay it into "
    "a cache over time to prefill the same tokens; with models this small it says nothing of large ones."
)


def _power(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.0e}".replace("e-0", "e-")


def _percent(share: float | None) -> str:
    return "" if share is None or pd.isna(share) else f"{share:.0%}"
