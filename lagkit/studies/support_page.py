"""A survey of models (`lagkit.studies.support`) as tables of Markdown: shown by `docs/results` and notebook 10."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from lagkit.runs import manifest
from lagkit.studies.support import EXACT, SUPPORTED, traits
from lagkit.util import files, markdown

PLAIN = "plain RoPE"


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


_SUPPORTED: markdown.Columns = {
    "trait": ("its keys", ""),
    "rope": ("RoPE", ""),
    "error.float32": ("error, fp32", _power),
    "kl.float32": ("KL, fp32", _power),
    "kl.bfloat16": ("KL, bf16", _power),
    "kl_moved.bfloat16": ("KL of rounding, bf16", _power),
    "agreement.bfloat16": ("agreement, bf16", ".0%"),
    "bytes": ("bytes per token, bf16", ""),
    "inject_over_prefill": ("injection over prefill", ".2f"),
}
_OTHERS = {"verdict": ("verdict", ""), "trait": ("because", ""), "reason": ("what lagkit says", "")}
_SUMMARY: markdown.Columns = {
    "families": ("families", ""),
    "verdict": ("verdict", ""),
    "error": ("error, float32", _power),
}


def verdicts(survey: pd.DataFrame) -> pd.Series:
    """Verdicts in a word: `exact` or `inexact` by the error in float32 (`supported` without one), else the survey's."""
    errors = survey.get("error.float32", pd.Series(dtype=float)).reindex(survey.index)
    words = errors.map(lambda error: SUPPORTED if isnan(error) else "exact" if error <= EXACT else "inexact")
    return words.where(survey["verdict"] == SUPPORTED, survey["verdict"])


def kinds(row: Mapping[str, Any]) -> list[str]:
    """The kinds of RoPE by which a model's keys are moved; several may hold."""
    scaled = sorted(set(str(row["rope"]).split("+")) - {"default"})
    traits = {
        "only some dimensions turn": row["turned"] < row["head_dim"],
        "some layers without RoPE": row["bare_layers"],
        "interleaved pairs": row["layout"] == "interleaved",
    }
    found = [f"frequencies scaled: {kind}" for kind in scaled] + [name for name, holds in traits.items() if holds]
    return found or [PLAIN]


def grouped(survey: pd.DataFrame) -> pd.DataFrame:
    """The short table: kinds of RoPE, the plain one first, then what is refused, by the reason.

    Columns: `families`; `verdict`, as in `verdicts`; `error`, the worst in float32.
    """
    rows = []
    for (name, row), verdict in zip(survey.iterrows(), verdicts(survey), strict=True):
        moved = row["verdict"] == SUPPORTED
        for kind in kinds(row) if moved else traits([name]):
            place = (not moved, kind != PLAIN, kind if moved else "")
            rows.append((place, kind, verdict, name, row.get("error.float32", nan) if moved else nan))
    frame = pd.DataFrame(rows, columns=["place", "keys and values", "verdict", "families", "error"])
    groups = frame.sort_values("place", kind="stable").groupby(["keys and values", "verdict"], sort=False)
    joined = groups.agg(families=("families", ", ".join), error=("error", "max")).reset_index("verdict")
    return joined[["families", "verdict", "error"]]


def summary(survey: pd.DataFrame) -> str:
    """The short table as Markdown."""
    return markdown.framed(grouped(survey), _SUMMARY, "keys and values")


def supported(survey: pd.DataFrame) -> str:
    """Every supported model with its numbers; empty if there is none."""
    own = survey[survey["verdict"] == SUPPORTED]
    if own.empty:
        return ""
    limits = [f", up to {limit:.0f}" if limit == limit else "" for limit in own["limit"].astype(float)]
    size = own[["layers", "kv_heads", "head_dim", "bytes_per_token"]]
    bytes_ = [f"2 x {layers:.0f} x {heads:.0f} x {dim:.0f} x 2 = {n:,.0f}" for layers, heads, dim, n in size.to_numpy()]
    own = own.assign(trait=traits(own.index), rope=own["rope"] + limits, bytes=bytes_)
    return markdown.framed(own.reindex(columns=list(_SUPPORTED)), _SUPPORTED, "model")


def others(survey: pd.DataFrame) -> str:
    """Every model without numbers, and why; empty if there is none."""
    rest = survey[survey["verdict"] != SUPPORTED]
    return markdown.framed(rest.assign(trait=traits(rest.index)), _OTHERS, "model") if len(rest) else ""


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
    return told(families, models, kept["versions"])


def told(families: pd.DataFrame, models: pd.DataFrame, versions: Mapping[str, str]) -> str:
    """The page: the short table, the families one by one, the models with their own weights, and the versions."""
    return markdown.page(
        Path(__file__).with_name("support.md.j2"),
        exact=f"{EXACT:g}",
        summary=summary(families),
        supported=supported(families),
        refused=others(families),
        models=supported(models),
        others=others(models),
        made=", ".join(f"{name} {versions[name]}" for name in ("lagkit", "torch", "transformers")),
    )
