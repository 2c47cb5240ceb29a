"""Tables for readers: each column in its form, intervals as words, markup of answers taken literally."""

from __future__ import annotations

import pandas as pd

from lagkit.views.tables import flat, intervals, number, shown, use_numbers


def test_columns_have_the_form_of_their_names():
    page = shown(
        pd.DataFrame({"em": [0.125], "rounds": [2.5], "bytes": [1234567.0], "other": [4000]}), "About"
    ).to_html()
    assert all(f">{cell}<" in page for cell in ("12.5%", "2.50", "1,234,567", "4,000", "About"))


def test_a_divergence_has_two_digits_and_no_power_of_ten_where_none_is_needed():
    page = shown(pd.DataFrame({"kl": [0.5871, 2.04, 5.9e-06], "agreement": [0.973, 1.0, 0.5]})).to_html()
    assert all(f">{cell}<" in page for cell in ("0.59", "2", "5.9e-06", "97.3%", "100.0%"))
    assert [number(value) for value in (-0.0, 0.0, -1.1e-05)] == ["0", "0", "-1.1e-05"]


def test_a_table_that_pandas_shows_by_itself_cuts_no_text():
    with pd.option_context("display.max_colwidth", 50, "display.float_format", None):
        use_numbers()
        assert "x" * 80 in pd.DataFrame({"question": ["x" * 80]})._repr_html_()


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


def test_where_f1_is_left_out_the_other_metrics_keep_their_names():
    index = pd.MultiIndex.from_product([["z", "a"], ["unseen"], ["em", "f1", "rounds"]])
    table = pd.DataFrame({"mean": [0.5, 0.5, -2.0] * 2, "low": -9.0, "high": 9.0}, index)
    told = intervals(table.rename_axis(["policy", "split", "metric"]).xs("unseen", level="split"))
    assert list(told.columns) == ["em", "rounds"]
    assert told.loc["a", "rounds"].startswith("-2.00")


def test_numbers_have_flat_names():
    index = pd.MultiIndex.from_tuples([("all logs", "kv"), ("forced logs", "kv")], names=["logs", "policy"])
    table = pd.DataFrame({"em": [0.5, 0.25], "n": [2, 4]}, index)
    found = flat(table)
    assert found == {"em.all_logs.kv": 0.5, "em.forced_logs.kv": 0.25, "n.all_logs.kv": 2, "n.forced_logs.kv": 4}
    assert flat(table["em"].droplevel("policy"), "{column}_diff.{key}.late") == {
        "em_diff.all_logs.late": 0.5,
        "em_diff.forced_logs.late": 0.25,
    }
    assert flat(pd.Series({1: 0.5}), "found.{key}") == {"found.1": 0.5}
