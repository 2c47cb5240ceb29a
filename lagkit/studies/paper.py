"""The paper's published table (arXiv 2505.14398), and results of our own put beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lagkit.policy import POLICIES
from lagkit.runs import load
from lagkit.stats.intervals import verdict

_TABLE = Path(__file__).with_name("paper.csv")
_SHARES = ["em", "f1", "accuracy"]

LOGS = 1_691  # of the published store on MuSiQue
TOKEN_BYTES = 131_072  # of KV in bfloat16: keys and values of 32 layers with 8 heads of 128 numbers


def published() -> pd.DataFrame:
    """The paper's results on unseen questions: `dataset`, `questions` (their number), `policy`, `em` and `f1`, or
    `accuracy` for multiple choice (shares of 1, NaN where there is none), and mean `rounds`."""
    table = pd.read_csv(_TABLE, comment="#")
    return table.assign(**{name: table[name] / 100 for name in _SHARES})


def gigabytes(tokens: pd.Series) -> pd.Series:
    """KV of the published store on Llama-3.1-8B, in GB (10^9 bytes), if a log keeps so many tokens."""
    return tokens * TOKEN_BYTES * LOGS / 1e9


def fewer_rounds(table: pd.DataFrame) -> pd.DataFrame:
    """Published mean rounds of `no_logs` and `kv_last_round` and by what `factor` they fall: a row per data set."""
    rounds = table.pivot(index="dataset", columns="policy", values="rounds")[["no_logs", "kv_last_round"]]
    rounds = rounds.loc[table["dataset"].unique()].rename_axis(columns=None)
    return rounds.assign(factor=rounds["no_logs"] / rounds["kv_last_round"])


def reported(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and differences of a run of our own, of which only the tables are at hand. Raises DataError."""
    return load.published(folder)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Published results against `no_logs` on their data set, in the form of `metrics.compare`.

    Rows: policy, `source` (the data set) and metric. Nothing about single questions is published: `low` and `high` are
    NaN.
    """
    rows = []
    for dataset, part in table.groupby("dataset", sort=False):
        means = part.set_index("policy")[[*_SHARES, "rounds"]].dropna(axis=1, how="all")
        gains = (means - means.loc["no_logs"]).drop(index="no_logs")
        rows += [
            {"policy": policy, "source": dataset, "metric": metric, "mean": gain, "n": part["questions"].iloc[0]}
            for (policy, metric), gain in gains.stack().items()
        ]
    found = pd.DataFrame(rows).set_index(["policy", "source", "metric"])
    return found.assign(low=float("nan"), high=float("nan"))


def agreement(theirs: pd.DataFrame, ours: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Agreement of our differences with the paper's in direction: a row for each of its data sets with this metric.

    theirs: as `differences` gives them. ours: the same levels, one source. Columns count the policies that both have,
    by our verdict: `same` or `opposite` direction, `equal`, and `inconclusive`.
    """
    own = ours.xs(metric, level="metric").droplevel("source")
    rows = {}
    for source, part in theirs.xs(metric, level="metric").groupby(level="source", sort=False):
        published = part.droplevel("source")["mean"].rename("published")
        pairs = own.join(published, how="inner")
        found = pd.Series([verdict(row, metric) for _, row in pairs.iterrows()], pairs.index, dtype=object)
        clear, same = found.isin(["more", "less"]), pairs["mean"] * pairs["published"] > 0
        unclear = {name: sum(found == name) for name in ("equal", "inconclusive")}
        rows[source] = {"same": sum(clear & same), "opposite": sum(clear & ~same), **unclear}
    return pd.DataFrame.from_dict(rows, orient="index")


def beside(ours: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every named policy that the paper or we have: score in percent and rounds, a pair of columns for each source.

    ours: the name of a run -> its `metrics.summarize` on one split, by policy. The score is EM, or accuracy for
    multiple choice; a policy that a source lacks is NaN.
    """
    sources = {}
    for dataset, part in published().groupby("dataset", sort=False):
        means = part.set_index("policy")
        sources[f"{dataset} ({part['questions'].iloc[0]:,}), paper"] = means.assign(
            em=means["em"].fillna(means["accuracy"])
        )
    sources |= {f"{name} ({means['n'].iloc[0]:,}), ours": means for name, means in ours.items()}
    scores = {(source, "score"): 100 * means["em"] for source, means in sources.items()}
    rounds = {(source, "rounds"): means["rounds"] for source, means in sources.items()}
    columns = [(source, name) for source in sources for name in ("score", "rounds")]
    table = pd.DataFrame(scores | rounds)[columns]
    return table.loc[[name for name in POLICIES if name in table.index]]
