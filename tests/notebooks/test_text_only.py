"""Notebook 11 through an endpoint that plays along; with a server of its own it is run by hand and by the gallery."""

from __future__ import annotations

import pytest

from lagkit.util.errors import NotebookFailed
from tests.helpers import cells
from tests.helpers.endpoints import KEY, playing, said
from tests.helpers.executed import execute

TEXT = "text_last_round_user_turn"
WORLD = {"entities": 90, "log_questions": 6, "unseen_questions": 4, "hops": [1, 2]}


def run(folder, **parameters):
    """The executed notebook, on a small world."""
    tier = cells.small_tier(folder, world=WORLD, max_rounds=2)
    given = {"run": str(folder / "run"), "texts": [TEXT], "model": "m", "unseen_questions": 4, **parameters}
    return execute("11_text_only_models", folder / "out", tier=tier, **given)


def test_gains_recovery_and_cost_are_put_on_record_and_the_key_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LAGKIT_API_KEY", KEY)
    with playing([said("I think <ans>nothing</ans>", read=1000, wrote=100)]) as played:
        found = run(tmp_path, endpoint=played.url, input_price=2.0, output_price=5.0)
    numbers = found.metrics
    assert set(played.keys) == {f"Bearer {KEY}"}
    assert len(played.asked) == 8  # four questions without logs, four with
    assert numbers[f"cost.api.{TEXT}"] == pytest.approx((2 * 1000 + 5 * 100) / 1e6)
    assert numbers[f"prefilled.api.{TEXT}"] == 1000
    assert numbers["em.api.no_logs"] == numbers[f"em_gain.api.{TEXT}"] == numbers[f"rounds_gain.api.{TEXT}"] == 0
    assert numbers[f"em_gain_less_kv.api.{TEXT}"] == pytest.approx(-numbers["em_gain.local.kv_last_round"])
    assert numbers["em_gain_less_kv.local.kv_last_round"] == 0
    assert len(found.figures) == 2
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_what_a_chat_cannot_carry_is_refused_before_anything_is_answered(tmp_path):
    with pytest.raises(NotebookFailed, match="choose place user_turn"):
        run(tmp_path, texts=["text_last_round"])
    assert not (tmp_path / "run").exists()
