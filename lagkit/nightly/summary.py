"""The variants of a finished run as `summary.json` and as a table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lagkit import metrics
from lagkit.errors import DataError
from lagkit.nightly.run import RESULTS


def summarize(folder: Path, seconds: float) -> dict[str, Any]:
    """`{"seconds", "variants": {policy: {split: {...}}}}` from the results in `folder`.

    Per policy and split: `n`, mean `em`, `f1` and `rounds`, `abstention` (a share), `em_diff` to `no_logs` with its 95%
    interval, and `rounds_ratio`, its rounds over those of `no_logs`. Raises DataError if a file is missing.
    """
    results, differences = (folder / name for name in RESULTS)
    for path in (results, differences):
        if not path.exists():
            raise DataError(f"{path} is missing: let the run come to its end first.")
    table = metrics.summarize(pd.read_parquet(results))
    against = pd.read_csv(differences).set_index(["policy", "split", "metric"])
    variants: dict[str, Any] = {}
    for (policy, split), row in table.iterrows():
        found = {"n": int(row["n"]), **{name: float(row[name]) for name in ("em", "f1", "rounds", "abstention")}}
        diff = [0.0, 0.0, 0.0]
        if policy != "no_logs":
            diff = against.loc[(policy, split, "em"), ["mean", "low", "high"]].astype(float).tolist()
        found |= {"em_diff": diff, "rounds_ratio": found["rounds"] / float(table.loc[("no_logs", split), "rounds"])}
        variants.setdefault(policy, {})[split] = found
    return {"seconds": round(seconds, 1), "variants": variants}


def shown(summary: dict[str, Any]) -> str:
    """The summary as a table of plain text: EM in percent, differences in points."""
    rows = {}
    for policy, splits in summary["variants"].items():
        for split, row in splits.items():
            mean, low, high = (f"{100 * value:+.1f}" for value in row["em_diff"])
            rows[split, policy] = {
                "n": row["n"],
                "EM": f"{100 * row['em']:.1f}",
                "F1": f"{100 * row['f1']:.1f}",
                "EM against no_logs": "" if policy == "no_logs" else f"{mean} [{low}, {high}]",
                "rounds": f"{row['rounds']:.2f}",
                "share of its rounds": f"{row['rounds_ratio']:.2f}",
                "no answer": f"{100 * row['abstention']:.0f}%",
            }
    frame = pd.DataFrame.from_dict(rows, orient="index").sort_index(level=0, sort_remaining=False, ascending=False)
    return frame.rename_axis(["questions", "variant"]).to_string()
