"""The race against the authors' procedure in docs/results/scale.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.limits import batching_limit
from lagkit.util.markdown import table
from lagkit.views.plots.scale import SIDES, race_rows

Result = dict[str, Any]


def race(found: Result, results: Path) -> Iterator[str]:
    """The section, of what `benchmarks.race` wrote; the limits are those in the folder of results."""
    rows = race_rows(found)
    path = results / "limits.json"
    limits = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    yield (
        "lagkit with 32 questions at once against the authors' procedure, written anew from its description: one "
        "question at a time, all caches unpickled into memory, keys joined and rotated in every round. The same "
        "model, store, questions and threads; each side in its own processes, in turns, medians, with the slowest and "
        "the fastest of several runs in parentheses. The speed of a machine that others share may halve within "
        "minutes, so first tokens, that is responses of one token, are timed in one process, where the sides take "
        "turns with every question. Goal: 8 times the questions a second, and a start-up that does not depend on the "
        "number of logs: `open` is until a store is open or the caches are in memory, `first hits` until the first "
        "search has found logs as well. `limit`: how many times as fast the model's matrix products alone, as "
        "measured below, let a batch be for as many tokens read and decoded; it counts nothing that is read twice, "
        "nor rows that have ended.\n"
    )
    yield table(
        [
            *("workload", "logs", "questions/s", "times", "limit", "same answers, responses", "first token, ms"),
            *("open, ms", "first hits, ms", "peak, MB"),
        ],
        [_row(both, limits) for _, both in rows.groupby(["workload", "logs"], sort=False)],
    )
    yield (
        "\n`testbed`: prompts of some 100 tokens, answers of 13. `short answers`: SmolLM2 on the sample with worked "
        "examples. `long answers`: SmolLM2 on multiple choice without examples, up to 128 tokens a round (MMLU-Pro, "
        "not in the repository). `qwen, ...`: Qwen2.5-Coder-1.5B on the same data, up to 64 and 160 tokens a round. "
        "What batches speed up is decoding. Reading prompts is bound by arithmetic on a CPU, "
        "and logs in front of a prompt change what all of it has read, so both sides read it again in every round: the "
        "shorter the answers, the smaller the gain.\n"
    )
    for name, work in found["workloads"].items():
        most = work["max_new_tokens"]
        if all(row["lagkit"]["generated"] == most * row["lagkit"]["rounds"] for row in work["sizes"].values()):
            yield f"No response of `{name}` ends within its {most} tokens: all its answers are none.\n"


def _row(both: pd.DataFrame, limits: list[Result]) -> list[Any]:
    ours, theirs = (both[both["side"] == side].iloc[0] for side in SIDES)
    measured = [row for row in limits if (row["model"], row["dtype"]) == (ours["model"], ours["dtype"])]
    limit = batching_limit(measured, ours["batch"], ours["prefilled"], ours["generated"])

    def pair(key: str, scale: float = 1.0, digits: int = 0) -> str:
        return " / ".join(f"{scale * side[key]:,.{digits}f}" for side in (ours, theirs))

    return [
        f"{ours['workload']} ({ours['dtype']})",
        f"{ours['logs']:,}",
        " / ".join(map(_rate, (ours, theirs))),
        f"**{ours['speedup']:.2f}**",
        f"{limit:.1f}" if limit else "not measured",
        f"{ours['same_answers']}, {ours['same_responses']} of {ours['questions']}",
        pair("first_token_s", 1e3),
        pair("open_s", 1e3, 1),
        pair("start_s", 1e3),
        pair("peak_mb"),
    ]


def _rate(side: pd.Series) -> str:
    """Questions a second, with those of the slowest and the fastest run if there were several."""
    runs = f" ({side['slowest']:,.2f} to {side['fastest']:,.2f})" if side["slowest"] < side["fastest"] else ""
    return f"{side['questions_per_s']:,.2f}{runs}"
