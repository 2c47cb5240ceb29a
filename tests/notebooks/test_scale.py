"""Notebook 13, the page beside it, and their figures: what the committed results of the benchmarks say."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from benchmarks import page, race_page
from lagkit.logs.planner import Rates, Size, decisions
from lagkit.studies import injection
from lagkit.views.plots import scale
from tests.helpers.executed import execute
from tests.helpers.lms import tiny_lm


def results(name: str) -> dict:
    return json.loads((page.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_the_notebook_draws_what_was_measured_and_measures_here(tmp_path):
    executed = execute("13_scale", tmp_path, tokens=20, repeats=1)
    for name, found in results("race")["workloads"].items():
        for logs, row in found["sizes"].items():
            assert executed.metrics[f"speedup.{name.replace(' ', '_')}.{logs}"] == pytest.approx(row["speedup"])
    assert executed.metrics["inject_share.hot"] > 0
    assert len(executed.findings) == 4


def test_the_page_is_of_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.markdown(page.RESULTS)
    assert "Not measured yet" not in page.PAGE.read_text(encoding="utf-8")


def test_a_section_without_results_says_so(tmp_path):
    told = page.markdown(tmp_path)
    assert told.count("Not measured yet.") == len(page.SECTIONS)
    assert all(f"`{command}`" in told for _, _, command, _ in page.SECTIONS)


def test_a_race_in_which_no_response_ends_is_told_to_have_no_answers():
    found, name = results("race"), "qwen, long answers"
    sentence = f"No response of `{name}` ends within its 160 tokens"
    assert sentence in "".join(race_page.race(found, page.RESULTS))
    found["workloads"][name]["sizes"]["10"]["lagkit"]["generated"] -= 1
    assert "No response of" not in "".join(race_page.race(found, page.RESULTS))


def test_both_sides_of_a_race_said_the_same():
    """In float32; rounding to bfloat16 depends on the batch."""
    table = scale.race_rows(results("race"))
    exact = table[table["dtype"] == "float32"]
    assert len(exact)
    assert (exact["same_responses"] == exact["questions"]).all()


def test_a_race_has_a_line_for_each_side_in_each_panel():
    table = scale.race_rows(results("race"))
    figure = scale.race(table, "Race")
    assert len(figure.data) == 4 * 2 * table["workload"].nunique()
    first = next(trace for trace in figure.data if trace.name.startswith("lagkit"))
    own = table[(table["side"] == "lagkit") & (table["workload"] == table["workload"].iloc[0])]
    assert list(first.y) == list(own.sort_values("logs")["questions_per_s"])
    assert sum(trace.showlegend for trace in figure.data) == 2 * table["workload"].nunique()


def test_ways_are_coloured_by_what_is_sooner():
    table = decisions(
        {"near": {"m": Rates(100, 1e9)}, "far": {"m": Rates(100, 10.0)}, "none": {}}, [Size("m", 10, 10, 100)]
    )
    [cells] = scale.planner(table, "Ways").data
    assert list(cells.x) == ["near", "far"]
    assert cells.z[0][0] > 0 > cells.z[0][1]
    assert list(cells.text[0]) == ["load<br>100,000x", "recompute<br>1,000x"]


def test_injection_is_measured_cold_and_hot():
    found = injection.measure(tiny_lm(), logs=2, tokens=12, repeats=2)
    table = found.table()
    assert list(table.index) == ["cold", "hot", "prefill"]
    assert table.loc["cold", "share"] == pytest.approx(found.cold_ms / found.prefill_ms)
    assert table.loc["prefill", "share"] == 1
    assert set(found.cold) == set(found.hot) == {"open", "read and check", "realign"}
    assert found.bytes_per_token == tiny_lm().encode(injection.Context((3, 4)), 0, 2).nbytes // 2
    assert isinstance(table, pd.DataFrame)
