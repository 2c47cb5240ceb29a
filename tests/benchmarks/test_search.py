"""Made-up embeddings are like the real ones they were fitted to, and what is measured on them; no speed is asserted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import search, search_store
from benchmarks.embeddings import FILE, LEVELS, Embeddings, Kin, Shape, describe, fit

SHAPE = Shape.load()
CHECK = json.loads(FILE.read_text())["check"]


def test_embeddings_are_a_stream_of_unit_vectors():
    whole, part = Embeddings(SHAPE, 700), Embeddings(SHAPE, 300)
    assert np.linalg.norm(whole.logs, axis=1) == pytest.approx(np.ones(700), abs=1e-5)
    assert np.linalg.norm(whole.queries(20), axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert np.array_equal(whole.logs[:256], part.logs[:256])  # all but its last chunk
    assert np.array_equal(part.queries(20), Embeddings(SHAPE, 300).queries(20))
    assert not np.allclose(part.queries(20), part.queries(20, seed=2))
    assert not np.allclose(Embeddings(SHAPE, 300, seed=1).logs, part.logs)


def test_they_are_spread_and_near_as_the_real_ones():
    made = Embeddings(SHAPE, CHECK["logs"], seed=7)
    found = describe(made.queries(2000), made.logs)
    assert tuple(CHECK["levels"]) == LEVELS
    for name, real in CHECK["quantiles"]["real"].items():
        assert found[name] == pytest.approx(CHECK["quantiles"]["made up"][name], abs=0.002)
        assert found[name] == pytest.approx(real, abs=0.07), name
    # The spectrum sums to what the mean leaves of length 1.
    large = Embeddings(SHAPE, 20_000).logs
    values = np.linalg.eigvalsh(np.cov(large.T))
    assert values.sum() == pytest.approx(1 - (large.mean(axis=0) ** 2).sum(), abs=0.01)
    assert 1 / ((values / values.sum()) ** 2).sum() == pytest.approx(60.6, rel=0.1)  # of the real ones


def test_a_fit_finds_what_was_drawn():
    spectrum, mean = tuple(np.linspace(0.2, 0.01, 8)), (0.4, *[0.0] * 7)
    drawn = Embeddings(Shape(spectrum, mean, mean, Kin(0.8, 9, 3), Kin(0.6, 9, 3)), 500)
    queries = drawn.queries(300)
    made = Embeddings(fit(queries, drawn.logs), 500, seed=3)
    wanted, found = describe(queries, drawn.logs), describe(made.queries(300), made.logs)
    assert all(found[name] == pytest.approx(wanted[name], abs=0.08) for name in wanted)


def test_each_way_of_searching_has_a_row_and_the_same_command_goes_on(tmp_path, monkeypatch):
    out = tmp_path / "search.json"
    kinds = [kind for kind in search.KINDS if kind.name in ("flat", "scan of 4-bit codes", "HNSW, M=16")]
    monkeypatch.setattr(search, "KINDS", kinds[:2])
    monkeypatch.setattr(search, "QUERIES", 64)
    monkeypatch.setattr(search, "TIMED", 8)
    assert search.run(out, (400,), float("inf"), "")
    rows = json.loads(out.read_text())["rows"]
    assert [(row["index"], row.get("recall")) for row in rows] == [
        ("flat", 1.0),
        ("flat", None),
        ("scan of 4-bit codes", 1.0),
        ("scan of 4-bit codes", None),
    ]
    assert all(row["ms"] > 0 and row["disk_mb"] > 0 for row in rows if "recall" in row)
    monkeypatch.setattr(search, "KINDS", kinds)
    # A build that takes too long is kept, and gone on with.
    assert not search.run(out, (400,), 0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "HNSW,M=16-400.partial",
        "HNSW,M=16-400.seconds",
        "search.json",
    ]
    assert search.run(out, (400,), float("inf"), "HNSW")
    again = json.loads(out.read_text())["rows"]
    assert again[:4] == rows
    efforts = [row["effort"] for row in again[4:] if "recall" in row]
    assert efforts == sorted(efforts)
    assert again[-2]["recall"] > 0.99
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]


@pytest.mark.slow
def test_stores_are_searched_exactly_and_by_codes():
    exact, coded = search_store.measure(500)
    assert (exact["search"], coded["search"], exact["logs"], coded["logs"]) == ("exact", "codes", 500, 500)
    assert (exact["recall"], coded["recall"]) == (1.0, 1.0)
    assert coded["codes_mb"] == pytest.approx(0.08, abs=0.02)
    assert min(coded[key] for key in ("open_ms", "first_search_s", "ms", "batch_ms")) > 0
