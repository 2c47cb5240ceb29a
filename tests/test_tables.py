"""Tables for readers: each column in its form, intervals as words, markup of answers taken literally."""

from __future__ import annotations

import pandas as pd

from lagkit.views.tables import intervals, shown


def test_columns_have_the_form_of_their_names():
    page = shown(
        pd.DataFrame({"em": [0.125], "rounds": [2.5], "bytes": [1234567.0], "other": [4000]}), "About"
    ).to_html()
    assert all(f">{cell}<" in page for cell in ("12.5%", "2.50", "1,234,567", "4,000", "About"))


def test_text_is_escaped_everywhere():
    page = shown(pd.DataFrame({"answer": ["<b>bold</b>"]})).to_html()
    assert "&lt;b&gt;bold" in page
    page = shown(pd.DataFrame({"<i>": [1]}, index=["<u>"]), "<s>").to_html()
    assert all(f"&lt;{tag}&gt;" in page and f"<{tag}>" not in page for tag in "ius")


def test_missing_values_are_empty():
    page = shown(pd.DataFrame({"answer": ["x", None]})).to_html()
    assert "None" not in page
    assert "nan" not in page


def test_text_in_a_column_of_numbers_name_stays_as_it_is():
    assert ">+1.0 [0.0, 2.0]<" in shown(pd.DataFrame({"em": ["+1.0 [0.0, 2.0]"]})).to_html()


def test_intervals_keep_the_order_of_policies_and_metrics():
    index = pd.MultiIndex.from_product([["z", "a"], ["rounds", "em"]], names=["policy", "metric"])
    table = pd.DataFrame({"mean": 0.1, "low": 0.0, "high": 0.2}, index=index)
    told = intervals(table)
    assert (list(told.index), list(told.columns)) == (["z", "a"], ["rounds", "em"])
    assert told.loc["z"].tolist() == ["+0.10 [+0.00, +0.20]", "+10.0 [+0.0, +20.0]"]
