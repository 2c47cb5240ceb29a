"""Competing logs in numbers: shares by place, paired gains, sentences and the page, from rows with known values."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from lagkit.studies import competing_page as page
from lagkit.studies.competing import POSITIONS, Condition, conditions
from lagkit.studies.competing_rates import gain, label, load, metric, pick, rates
from lagkit.util.errors import DataError
from tools.competing import markdown_page

REPAIRED = Condition("restating", "all_rounds", "own", recompute="first:8")


def rows_of(condition, reads, groups=12, share=0.0):
    """Rows of a model which, asked for the log at a place, chooses what stands at `reads(place)`."""
    places = ("alone",) if condition.beside == "nothing" else POSITIONS
    cells = product(range(groups), range(3), places)
    return [
        {"model": "m", **condition.columns, "group": f"0-{group:03d}", "kind": "film", "asked": asked, "at": at}
        | {"chosen": reads(at), "right": reads(at) == at, "logprob": -1.0, "margin": 0.5, "share": share}
        for group, asked, at in cells
    ]


@pytest.fixture
def rows():
    """The last log is read, whatever is asked for; one alone and after recomputation always the right one."""
    same = str
    found = rows_of(page.APART, lambda at: "last") + rows_of(REPAIRED, same, share=0.4)
    return pd.DataFrame(found + rows_of(page.ALONE, same) + rows_of(page.TERSE["own"], same, 3))


def test_the_last_log_read_whatever_it_says_is_right_where_it_is_asked_for(rows):
    own = pick(rates(rows), page.APART).set_index("at")
    assert own["mean"].to_dict() == pytest.approx({"first": 0, "middle": 0, "last": 1, "all": 1 / 3})
    assert own["n"].to_dict() == {"first": 36, "middle": 36, "last": 36, "all": 108}
    assert (own["groups"] == 12).all()
    assert own["last"].dropna().to_dict() == {"first": 1, "middle": 1, "all": 1}
    # Twelve groups, not thirty-six choices: Wilson's interval of none in twelve.
    assert own.loc["first", "high"] == pytest.approx(1.96**2 / (12 + 1.96**2), abs=1e-3)


def test_bounds_of_a_share_are_shares():
    reads = [str, lambda at: "first", lambda at: "middle"]
    rows = [row | {"group": f"0-{i:03d}"} for i in range(3) for row in rows_of(page.APART, reads[i], 1)]
    found = rates(pd.DataFrame(rows))
    assert found["low"].min() >= 0
    assert found["high"].max() <= 1


def test_gains_are_paired_by_place_where_both_know_places(rows):
    apart, repaired, alone = (pick(rows, condition) for condition in (page.APART, REPAIRED, page.ALONE))
    found = gain(apart, repaired)
    assert (found.n, found.effective) == (108, 12)
    assert found.mean == pytest.approx(2 / 3)
    found = gain(apart, alone)
    assert (found.n, found.effective) == (36, 12)
    assert found.mean == pytest.approx(2 / 3)
    assert gain(apart, apart.iloc[:0]) is None


def test_sentences_say_which_log_is_read_and_what_repairs_it(rows):
    told = page.findings(rows)
    assert any("0% [0, 24] if it stands first" in said and "100% [76, 100] if it stands last" in said for said in told)
    assert any("of 72 wrong choices while another log stands last, 72 are the last log's" in said for said in told)
    [repaired] = [said for said in told if "first 8 tokens anew (40% of tokens): 100%" in said]
    assert "more (+66.7 [" in repaired
    assert not any("against stranger" in said for said in told)
    [shown] = repaired.rows
    assert (shown.verdict, shown.unit) == ("more", "points")
    assert shown.mean == pytest.approx(200 / 3)
    assert sum(not getattr(said, "rows", ()) for said in told) == 2  # what is no difference


def test_the_page_shows_what_was_measured_and_what_was_not(rows):
    made = markdown_page(rows.assign(model="qwen"))
    assert "| KV, each log read apart |  | 0% [0, 24] | 0% [0, 24] | 100% [76, 100] | 33% [" in made
    assert "| restating, all rounds | KV, each log read apart, the right one first | 42% | 0% [0, 24] |" in made
    assert "| restating, all rounds | text | 100% | not measured |" in made


def test_conditions_have_names_of_their_own():
    every = conditions()
    assert len({(c.form, c.keep, label(c)) for c in every}) == len({*every}) == len(every)
    names = {metric({"model": "a/b", **c.columns, "at": "all"}) for c in every}
    assert len(names) == len(every)
    assert "right.b.restating.all_rounds.own.prefix.rivals.first:8.all" in names


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no rows of competing logs"):
        load(tmp_path)


def test_parts_of_the_own_context_are_told_beside_all_of_it():
    none, own = page.TERSE["none"], page.TERSE["own"]
    half = Condition("terse", "last_round", "own", patch="from:50")
    rows = pd.DataFrame(rows_of(none, lambda at: "last") + rows_of(half, str, share=0.5) + rows_of(own, str))
    assert page.patched(rows[rows["patch"] == ""]).empty
    told = rows["patch"].map({"": 0.5, "from:50": 0.25}) * (rows["reads"] == "own")
    rows["logprob"] = told * (1 + rows["asked"] / 10 + rows["group"].astype("category").cat.codes / 100)
    table = page.patched(rows).loc["m"]
    assert [*table["share"]] == ["50%", "100%"]
    assert [*table["right"]] == ["100% [76, 100]"] * 2
    assert [said.split(" [")[0] for said in table["more likely"]] == ["more, +0.29", "more, +0.58"]
    assert "| KV, behind its own first round, from 50% of the layers on | 50% |" in markdown_page(rows)


def test_a_file_without_a_column_is_refused(tmp_path, rows):
    rows.to_parquet(tmp_path / "a.parquet")
    rows.drop(columns="patch").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet is damaged .*measure that model anew"):
        load(tmp_path)


def test_what_is_asked_without_logs_is_named_so():
    assert label(Condition("terse", "last_round", "own", beside="no logs")) == "no logs"
