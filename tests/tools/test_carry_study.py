"""The study of what kept tokens carry: each condition reads what it says, and the verdict hangs on the control."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.datasets.world.carry import RUNGS, items
from lagkit.logs.encode import SEPARATOR
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from tools.testbed import carry_study as carry
from tools.testbed.carry_study import ALL, BEYOND, BLOCK, CONDITIONS, ENCODED, LAST, NONE, OWN, STRANGER

ITEMS = items(3, 3, entities=120)
SHORT = Prompt.load("qa_short")


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("testbed", dtype="float32")


@pytest.fixture(scope="module")
def rows(lm) -> pd.DataFrame:
    return carry.measure(lm, ITEMS, SHORT)


def read(lm: LM, item, condition: str) -> tuple[str, str]:
    """The injected and the prefilled words of a condition."""
    logs = {log.id: log for other in ITEMS for log in other.logs}
    context = carry._context(lm, item, SHORT, condition, logs)
    injected = "".join(lm.tokenizer.decode(block.ids.tolist()) for block in context.blocks)
    return injected, lm.tokenizer.decode(context.ids)


def test_each_condition_shows_what_it_says(lm):
    item = next(item for item in ITEMS if item.scoped.rung == "two_back")
    last = [log.rounds[-1].response for log in item.logs]
    whole = [SEPARATOR.join(r.response for r in log.rounds) for log in item.logs]
    fact = item.scoped.facts[item.right][-1]
    end = f"{item.question.text} {fact.subject}'s {fact.relation} is"
    for condition in CONDITIONS:
        injected, prefilled = read(lm, item, condition)
        assert prefilled.endswith(end)
        shown = {LAST: SEPARATOR.join(last), ALL: SEPARATOR.join(whole)}.get(condition, "")
        front = "" if condition == NONE else prefilled.partition("<s>")[0]
        assert front.split() == shown.split()
        kept = " ".join(last) if condition in ENCODED else ""
        assert " ".join(injected.partition("<s>")[0].split()) == kept


def test_a_row_for_each_item_and_condition_scored_among_its_candidates(rows):
    assert len(rows) == len(ITEMS) * len(CONDITIONS)
    assert set(rows["rung"]) == set(RUNGS)
    assert (rows["gold"] <= 0).all()
    assert (rows["gold"][rows["right"] == 1] > -1.0987).all(), "the likeliest of three has a third at least"
    assert (rows["gold"][rows["right"] == 0] < -0.693).all(), "another has half at most"


def test_where_the_last_round_names_the_entity_its_text_suffices(rows):
    restated = rows[rows["rung"] == "restated"].groupby("condition")["right"].mean()
    assert restated[LAST] == 1


def test_where_it_does_not_contexts_make_a_difference_and_the_last_round_alone_makes_none(rows):
    hard = rows[rows["rung"].isin(BEYOND)].pivot(index=["rung", "question_id"], columns="condition", values="gold")
    assert all(hard[BLOCK] != hard[STRANGER])
    assert all(hard[OWN] != hard[STRANGER])
    one, two = (hard.loc[rung, [LAST, BLOCK]].to_numpy() for rung in BEYOND)
    assert one == pytest.approx(two, abs=1e-4), "their last rounds are the same"


def answers(right: dict[str, int], n: int = 40) -> pd.DataFrame:
    """Rows in which so many of `n` questions are right under each condition, on every rung."""
    return pd.DataFrame(
        {"rung": rung, "question_id": f"{rung}{i}", "condition": condition, "gold": -1.0, "hops": [f"{rung}{i}"]}
        | {"right": float(i < right.get(condition, n // 3))}
        for rung in RUNGS
        for condition in CONDITIONS
        for i in range(n)
    )


def test_the_verdict_holds_only_if_the_positive_control_succeeds():
    carries, none, text = answers({OWN: 38, ALL: 40}), answers({}), answers({ALL: 40})
    failed = carry.verdict({"plain": none, "control": none}, "plain", "control")
    assert len(failed) == 1
    assert failed[0].startswith("The positive control fails")
    [_, *weak] = carry.verdict({"plain": none, "control": carries}, "plain", "control")
    assert all("nothing follows, since the text of all rounds does not help it either (32.5 [" in told for told in weak)
    found = carry.verdict({"plain": text, "control": carries}, "plain", "control")
    assert found[0].startswith("The positive control succeeds (one back, two back)")
    assert len(found) == 1 + len(BEYOND)
    assert "inconclusive right answers, +0.0 [" in found[1]
    both = carry.verdict({"plain": carries, "control": carries}, "plain", "control")
    assert "stranger's: more right answers, +62.5 [" in both[1]


def test_contrasts_are_paired_differences():
    found = carry.contrasts(answers({OWN: 38, STRANGER: 20, BLOCK: 10, ALL: 40}))
    expected = {"own - stranger": 18, "stranger - block": 10, "own - block": 28, "text of all - own": 2}
    for (_, name, measure), row in found.iterrows():
        assert row["mean"] == pytest.approx(expected[name] / 40 if measure == "right" else 0)
        assert row["low"] <= row["mean"] <= row["high"]
