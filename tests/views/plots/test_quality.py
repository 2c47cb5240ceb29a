"""The figure of wrong logs shows the numbers of its tables: means, intervals around them, the line of no_logs."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.views.plots.quality import by_share

MEASURES = {"em": "EM", "rounds": "rounds"}


def swept(gain: float) -> pd.DataFrame:
    rows = [
        {"policy": policy, "share": share, "metric": metric, "value": base + mean, "base": base, "mean": mean}
        for policy in ("text", "kv")
        for share in (0.0, 0.5)
        for metric, base, mean in (("em", 0.4, gain - share / 10), ("rounds", 4.0, share - 1))
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["mean"] - 0.1, high=table["mean"] + 0.2)


def test_each_variant_has_a_line_in_each_panel_beside_no_logs():
    figure = by_share({"as they are": swept(0.3), "forced": swept(0.1)}, MEASURES, "Title")
    assert len(figure.data) == 2 * 2 * (2 + 1)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["text", "kv", "no logs"]
    lines = {(t.xaxis, t.yaxis, t.name): t for t in figure.data if t.name}
    assert list(lines["x", "y", "kv"].y) == pytest.approx([70, 65])
    assert list(lines["x2", "y2", "text"].y) == pytest.approx([50, 45])
    assert list(lines["x3", "y3", "kv"].y) == pytest.approx([3, 3.5])
    assert list(lines["x", "y", "kv"].x) == [0.8, 50.8]  # beside those of the other
    assert set(lines["x", "y", "no logs"].y) == {40}
    assert set(lines["x4", "y4", "no logs"].y) == {4}
    assert {note.text for note in figure.layout.annotations} == {"as they are", "forced"}
    assert list(figure.layout.xaxis3.ticktext) == ["0%", "50%"]


@pytest.mark.parametrize(("gain", "high"), [(0.3, [90, 85]), (0.5, [100, 100])])
def test_a_bar_is_the_interval_of_the_difference_around_no_logs_and_ends_at_all_questions(gain, high):
    figure = by_share({"": swept(gain)}, MEASURES, "Title")
    means = next(trace for trace in figure.data if trace.name == "text")
    assert [sum(pair) for pair in zip(means.y, means.error_y.array, strict=True)] == pytest.approx(high)
    assert list(means.error_y.arrayminus) == pytest.approx([10, 10])
    assert [row[1] for row in means.customdata.tolist()] == pytest.approx(high)
