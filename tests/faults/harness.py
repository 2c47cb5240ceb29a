"""Draw faults by seeds, look at each, and tell in a table what was found."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from lagkit.util.markdown import table
from tests.faults import damage, kills, refusals, runs  # noqa: F401 - they register their kinds
from tests.faults.kinds import KINDS
from tests.faults.stores import remove_pattern

# An experiment takes longer than a look at a store: fewer of them. The others are as many as each other.
RARE = {"kill -9 of an experiment": 0.7, "clock going back in an experiment": 0.2}


@dataclass(frozen=True)
class Outcome:
    """What a fault led to; `broken` says which guarantee did not hold, with the error."""

    kind: str
    seed: int
    found: str
    seconds: float
    broken: str | None = None


def plan(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """`count` faults as (kind, seed): every kind has its share, in a mixed order."""
    weights = {name: RARE.get(name, 1.0) for name in KINDS}
    whole = sum(weights.values())
    counts = {name: max(1, int(count * weight / whole)) for name, weight in weights.items()}
    for name in list(KINDS)[: max(0, count - sum(counts.values()))]:
        counts[name] += 1
    drawn = [(name, seed + i) for name, n in counts.items() for i in range(n)]
    random.Random(seed).shuffle(drawn)
    return drawn[:count]


def run(faults: Sequence[tuple[str, int]]) -> Iterator[Outcome]:
    """Inject the faults one by one, each in a folder of its own."""
    try:
        for name, seed in faults:
            yield inject(name, seed)
    finally:
        remove_pattern()


def inject(name: str, seed: int) -> Outcome:
    """One fault; whatever is raised while it is looked at is a broken guarantee."""
    folder, began, broken, found = Path(mkdtemp(prefix="lagkit-fault-")), time.perf_counter(), None, ""
    folder.chmod(0o755)  # for those who are denied further in
    try:
        found = KINDS[name](random.Random(f"{name} {seed}"), folder)
    except Exception as error:  # told, with the seed to see it again
        broken = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(name, seed, found, time.perf_counter() - began, broken)


def page(outcomes: Sequence[Outcome]) -> str:
    """A table: kind, how many, what was found, how many broke a guarantee, seconds."""
    by_kind: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    rows = []
    for name in (name for name in KINDS if name in by_kind):
        those = by_kind[name]
        said = Counter(outcome.found for outcome in those if not outcome.broken)
        told = ", ".join(f"{found} ({n})" for found, n in said.most_common())
        seconds = sum(outcome.seconds for outcome in those)
        rows.append((name, len(those), told, sum(bool(outcome.broken) for outcome in those), f"{seconds:.0f}"))
    total = (len(outcomes), sum(bool(o.broken) for o in outcomes), sum(o.seconds for o in outcomes))
    rows.append(("all", total[0], "", total[1], f"{total[2]:.0f}"))
    return table(["fault", "faults", "what was found", "guarantees broken", "seconds"], rows) + "\n"
