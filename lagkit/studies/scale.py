"""What the benchmarks measured, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lagkit.studies.injection import Costs


def findings(race: pd.DataFrame, search: pd.DataFrame, stream: Mapping[str, Any], costs: Costs) -> list[str]:
    """A sentence each on the race, on search among the most logs, on the stream and on injection.

    race: our rows, by workload and number of logs. search: a row for each index and number of logs, that of the scan
    among them. stream: the change of each measure from its first updates to its last. costs: as `injection.measure`.
    """
    best, worst = race["speedup"].idxmax(), race["speedup"].idxmin()
    most = search[search["logs"] == search["logs"].max()].set_index("index")
    ours, fastest = most.loc["scan of 4-bit codes"], most.loc[most["ms"].idxmin()]
    slower = [name for name in ("search", "read", "add", "evict") if stream[name]["low"] > 0]
    return [
        f"Against the authors' procedure: {race['speedup'].min():.1f} times the questions a second at worst "
        f"({worst[0]}, {worst[1]:,} logs), {race['speedup'].max():.1f} times at best ({best[0]}, {best[1]:,} logs).",
        f"Among {int(ours['logs']):,} logs, the scan that a store takes finds three in {ours['ms']:.1f} ms and misses "
        f"{1 - ours['recall']:.2%} of them; the fastest index ({fastest.name}) takes {fastest['ms']:.1f} ms, misses "
        f"{1 - fastest['recall']:.2%}, and takes {fastest['build_s'] / ours['build_s']:.1f} times as long to build.",
        f"Over the stream the store stayed within {stream['store_mb']['change']:+.2f} MB and the process within "
        f"{stream['rss_mb']['change']:+.2f} MB; detectably slower: {', '.join(slower) or 'nothing'}.",
        f"Here, injecting three logs takes {costs.hot_share:.1%} of the time of reading them when they are hot, "
        f"{costs.cold_share:.1%} when they are cold.",
    ]
