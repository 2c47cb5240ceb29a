"""Where carried context sits: a log's KV patched with that of its own context, by layer and by rank.

The difference between a log's KV behind its own context and alone (`own` less `block`) is what the context adds. It is
added in some layers only, or as a matrix of low rank, to the KV of the log alone; a question of the carry world that
only an earlier round can answer tells what is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lagkit.datasets.world.carry import Item
from lagkit.logs.encode import Encoder
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.stats.intervals import paired_intervals
from lagkit.studies.patch import Patch
from lagkit.util.progress import progress
from tools.testbed import carry_study
from tools.testbed.carry_study import BLOCK, ENCODED, OWN

RANKS = (1, 2, 4)


def patches(layers: int, ranks: Sequence[int] = RANKS) -> list[Patch]:
    """None and all of the context; it in one layer, from one on, and below one; and by rank in all layers."""
    one = [Patch(f"layer {n}", n, n + 1) for n in range(layers)]
    deep = [Patch(f"from layer {n}", n, layers) for n in range(1, layers)]
    shallow = [Patch(f"below layer {n}", 0, n) for n in range(1, layers)]
    low = [Patch(f"rank {r}", 0, layers, r) for r in ranks]
    return [Patch(BLOCK, 0, 0), Patch(OWN, 0, layers), *one, *deep, *shallow, *low]


def measure(lm: LM, items: Sequence[Item], prompt: Prompt, ranks: Sequence[int] = RANKS) -> pd.DataFrame:
    """The rows of `carry_study.measure`, of which `condition` is the name of a patch, with two columns more.

    Of the log that is asked about, `tokens` that are kept, and `share` of the numbers of its block that the patch has.
    Raises DataError as `Patch.apply`.
    """
    encoder, rows = Encoder(lm, prompt), []
    chosen = patches(lm.model.config.num_hidden_layers, ranks)
    for item in progress(items, "Where does the context sit?"):
        pairs = [[encoder.encode(log, ENCODED[way]) for way in (BLOCK, OWN)] for log in item.logs]
        block = pairs[item.right][0]
        for patch in chosen:
            context = carry_study.asked(lm, item, prompt, [patch.apply(*pair) for pair in pairs])
            [row] = carry_study.scored(lm, [item], [context], patch.name)
            rows.append({**row, "tokens": len(block), "share": patch.share(block)})
    return pd.DataFrame(rows)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of the gain in gold log-probability that a patch recovers, (patch - block) / (own - block) of the means.

    Index `rung`, `condition`, but for the two ends; columns `mean`, `low`, `high`. The interval is that of a ratio to
    first order: of the mean of `patch's gain - share * whole gain`, over the mean of the whole gain.
    """
    found = []
    for rung, own in rows.groupby("rung", sort=False):
        gold = own.pivot(index="question_id", columns="condition", values="gold")
        whole, pairs, shares = gold[OWN] - gold[BLOCK], {}, {}
        for name in [name for name in own["condition"].unique() if name not in (BLOCK, OWN)]:
            shares[rung, name] = float((gold[name] - gold[BLOCK]).mean() / whole.mean())
            pairs[rung, name] = gold[BLOCK] + shares[rung, name] * whole, gold[name]
        left = paired_intervals(pairs, carry_study.hops(own), ["rung", "condition"])[["mean", "low", "high"]]
        found.append((left / whole.mean()).add(pd.Series(shares), axis=0))
    return pd.concat(found)
