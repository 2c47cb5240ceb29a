"""Questions that hang together by shared hops, and a split of a data set that keeps what hangs together on one side.

Under the authors' split most unseen questions of MuSiQue share a sub-question with a logged one. Under the disjoint one
none does: what reuse still brings there is not the reasoning that a question needs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lagkit.datasets.loaders import Dataset, Stratum, overlaps
from lagkit.types import Question
from lagkit.util.errors import DataError


def components(questions: Sequence[Question]) -> list[tuple[Question, ...]]:
    """The questions in groups, in file order: two are in one if they share a hop, or are tied by others that do."""
    number: dict[str, int] = {}
    n = len(questions)
    ties = [(i, n + number.setdefault(hop.id, len(number))) for i, q in enumerate(questions) for hop in q.hops]
    rows, columns = np.array(ties, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(ties)), (rows, columns)), shape=(n + len(number), n + len(number)))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[Question]] = {}
    for question, label in zip(questions, labels, strict=False):
        groups.setdefault(int(label), []).append(question)
    return [tuple(group) for group in groups.values()]


def disjoint_split(dataset: Dataset, seed: int) -> Dataset:
    """The same questions, split anew so that no unseen one shares a hop with a seen one, in file order.

    Whole components are drawn by `seed` until as many questions are seen as under the authors' split, as near as their
    sizes allow. Raises DataError if the data name no hops, or if all questions are one component.
    """
    if dataset.no_strata:
        raise DataError(f"{dataset.no_strata} Nor can they be split by it: use split=authors.")
    questions = dataset.questions
    groups = components(questions)
    if len(groups) < 2:
        raise DataError(
            f"All {len(questions)} questions of {dataset.name} hang together by the hops that they share, so one side "
            "of a disjoint split would be empty: use split=authors, or other data."
        )
    random.Random(f"disjoint {seed}").shuffle(groups)
    taken = _nearest([len(group) for group in groups], len(dataset.seen))
    ids = {question.id for i in taken for question in groups[i]}
    seen, unseen = (tuple(q for q in questions if (q.id in ids) is wanted) for wanted in (True, False))
    return replace(dataset, seen=seen, unseen=unseen)


def told(authors: Dataset, split: Dataset) -> str:
    """In a sentence, what a disjoint split did to the data: components, sizes, and why these are others if they are."""
    groups = components(authors.questions)
    said = (
        "The split is disjoint, so no unseen question shares a hop with a seen one: "
        f"{len(authors.questions)} questions fall into {len(groups)} components by shared hops, the largest of "
        f"{max(map(len, groups))}; {len(split.seen)} are seen and {len(split.unseen)} unseen"
    )
    if len(split.seen) == len(authors.seen):
        return f"{said}, as many as in the authors' split."
    return f"{said}, as near to the authors' {len(authors.seen)} and {len(authors.unseen)} as whole components allow."


def survey(dataset: Dataset) -> dict[str, int]:
    """Both splits in numbers, which are the same with every seed; raises DataError as `disjoint_split` does."""
    groups, apart = components(dataset.questions), disjoint_split(dataset, seed=0)
    strata = Counter(overlaps(dataset.seen, dataset.unseen))
    return {
        "components of shared hops": len(groups),
        "questions in the largest": max(map(len, groups)),
        "authors' split: seen": len(dataset.seen),
        "authors' split: unseen": len(dataset.unseen),
        **{f"unseen by what they share: {stratum}": strata[stratum] for stratum in get_args(Stratum)},
        "disjoint split: seen": len(apart.seen),
        "disjoint split: unseen": len(apart.unseen),
        "unseen that share a hop": sum(stratum != "none" for stratum in overlaps(apart.seen, apart.unseen)),
    }


def _nearest(sizes: Sequence[int], target: int) -> list[int]:
    """Which to take, neither none nor all, so that their sizes add up as near to `target` as can be.

    In their order, each is taken if what is then left can still be filled: a shuffled order makes a random draw.
    """
    fills = [1]  # from the end: bit s of the i-th says whether some of the last i sizes add up to s
    for size in reversed(sizes):
        fills.append(fills[-1] | fills[-1] << size)
    left = min((s for s in range(1, sum(sizes)) if fills[-1] >> s & 1), key=lambda s: (abs(s - target), s))
    taken = []
    for i, size in enumerate(sizes):
        rest = fills[len(sizes) - 1 - i]
        if size <= left and rest >> (left - size) & 1:
            taken.append(i)
            left -= size
    return taken
