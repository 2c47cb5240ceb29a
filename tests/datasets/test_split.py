"""Components of shared hops, and the split that keeps each on one side."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.datasets.loaders import Dataset, load, overlaps
from lagkit.datasets.split import components, disjoint_split, survey, told
from lagkit.datasets.world.controls import Controls
from lagkit.datasets.world.dataset import write
from lagkit.types import Hop, Question
from lagkit.util.errors import DataError

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "docs" / "results"
SAMPLE = REPOSITORY / "data" / "sample"
DATASETS = Path(os.environ.get("LAGKIT_DATASETS") or REPOSITORY.parent / "shared" / "datasets")


def dataset(seen: list[list[int]], unseen: list[list[int]]) -> Dataset:
    """Questions by the numbers of their hops."""
    made = [
        Question(f"q{i}", "?", ("!",), hops=tuple(Hop(str(hop), "?", "!") for hop in hops))
        for i, hops in enumerate([*seen, *unseen])
    ]
    return Dataset("mine", "qa", tuple(made[: len(seen)]), tuple(made[len(seen) :]))


def ids(questions) -> list[str]:
    return [question.id for question in questions]


def test_questions_are_tied_by_hops_directly_and_through_others():
    data = dataset([[1, 2], [3], []], [[4, 5], [2, 4], [6, 6], []])
    groups = components((*data.seen, *data.unseen))
    assert [ids(group) for group in groups] == [["q0", "q3", "q4"], ["q1"], ["q2"], ["q5"], ["q6"]]
    assert components(()) == []


def test_whole_components_make_up_the_authors_sizes():
    data = dataset([[1], [1], [2], [2], [3]], [[1], [3]])  # components of 3, 2 and 2 questions; 5 are seen
    for seed in range(8):
        split = disjoint_split(data, seed)
        assert (len(split.seen), len(split.unseen)) == (5, 2)
        assert {"q0", "q1", "q5"} < set(ids(split.seen))
        assert ids(split.seen) == sorted(ids(split.seen))
    assert len({disjoint_split(data, seed).seen for seed in range(8)}) == 2
    assert told(data, split).endswith("the largest of 3; 5 are seen and 2 unseen, as many as in the authors' split.")


def test_a_component_that_fits_no_side_makes_the_sizes_uneven_and_that_is_told():
    data = dataset([[1], [2], [2]], [[1, 2], [2], [1], [3], [4]])  # one of 6 and two of 1
    split = disjoint_split(data, 0)
    assert (len(split.seen), len(split.unseen)) == (2, 6)
    assert told(data, split) == (
        "The split is disjoint, so no unseen question shares a hop with a seen one: 8 questions fall into 3 components "
        "by shared hops, the largest of 6; 2 are seen and 6 unseen, as near to the authors' 3 and 5 as whole "
        "components allow."
    )


def test_a_single_component_cannot_be_split():
    with pytest.raises(
        DataError, match=r"All 3 questions of mine hang together .* one side of a disjoint split would be"
    ):
        disjoint_split(dataset([[1], [1, 2]], [[2]]), 0)


@pytest.mark.parametrize("unseen", [[[]], [[1]]])
def test_questions_without_hops_cannot_be_split(unseen):
    with pytest.raises(DataError, match=r"mine names no sub-questions or evidences.*use split=authors\."):
        disjoint_split(dataset([[], []], unseen), 0)


HOPS = st.lists(st.integers(0, 40), max_size=4)


@given(st.lists(HOPS, min_size=1, max_size=30), st.lists(HOPS, min_size=1, max_size=30), st.integers(0, 3))
def test_no_hop_is_on_both_sides_and_every_question_is_on_one(seen, unseen, seed):
    data = dataset([[1], *seen], [[2], *unseen])
    groups = components((*data.seen, *data.unseen))
    assert sorted(id for group in groups for id in ids(group)) == sorted(ids((*data.seen, *data.unseen)))
    owners = [{hop.id for question in group for hop in question.hops} for group in groups]
    assert sum(map(len, owners)) == len(set().union(*owners))  # no hop in two components
    if len(groups) == 1:
        with pytest.raises(DataError, match="hang together"):
            disjoint_split(data, seed)
        return
    split = disjoint_split(data, seed)
    assert {*ids(split.seen)} | {*ids(split.unseen)} == {*ids(data.seen), *ids(data.unseen)}
    assert len(split.seen) + len(split.unseen) == len(data.seen) + len(data.unseen)
    assert split.seen
    assert split.unseen
    assert set(overlaps(split.seen, split.unseen)) == {"none"}
    assert split == disjoint_split(data, seed)
    # No sizes of whole components come nearer to the authors'.
    sums = {0}
    for group in groups:
        sums |= {total + len(group) for total in sums}
    possible = sums - {0, len(data.seen) + len(data.unseen)}
    off = abs(len(split.seen) - len(data.seen))
    assert off == min(abs(total - len(data.seen)) for total in possible)


def documented() -> dict[str, dict[str, int]]:
    """The table of strata in docs/results/README.md, by data set."""
    rows = re.findall(r"^\| (.*) \|$", (RESULTS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    start = next(i for i, row in enumerate(cells) if row[0] == "components of shared hops")
    names = cells[start - 2][1:]
    told = list(itertools.takewhile(lambda row: len(row) == len(names) + 1, cells[start:]))
    return {name: {row[0]: int(row[i]) for row in told} for i, name in enumerate(names, 1)}


@pytest.mark.parametrize("name", ["sample", "musique", "wikihop", "world-0"])
def test_the_documented_strata_are_those_of_the_data(name, tmp_path):
    folder = {"sample": SAMPLE, "world-0": tmp_path}.get(name, DATASETS / name)
    if name == "world-0":
        write(tmp_path, Controls())
    if not folder.is_dir():
        pytest.skip(f"no {name} data at $LAGKIT_DATASETS ({DATASETS})")
    assert survey(load(folder, "musique" if name in ("sample", "world-0") else name)) == documented()[name]


def test_multiple_choice_has_neither_strata_nor_a_disjoint_split():
    if not (DATASETS / "mmlupro").is_dir():
        pytest.skip(f"no mmlupro data at $LAGKIT_DATASETS ({DATASETS})")
    with pytest.raises(DataError, match="The data set mmlupro names no sub-questions or evidences"):
        survey(load(DATASETS / "mmlupro"))
