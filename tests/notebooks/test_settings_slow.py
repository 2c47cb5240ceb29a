"""Parameters of notebooks whose effect shows behind the first answers; `tests/notebooks/test_settings.py` counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lagkit.studies import log_size as storage
from lagkit.util.errors import DataError
from tests.helpers import cells, lms
from tests.helpers.cells import metrics, run
from tests.helpers.covered import Covered
from tests.helpers.endpoints import KEY, playing, said

pytestmark = pytest.mark.slow
shows = Covered()


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small tier, and a folder of logs and answers that the notebooks share."""
    folder = tmp_path_factory.mktemp("notebooks")
    return {"tier": cells.small_tier(folder), "run": str(folder / "run")}


def both(name: str, out: Path, *pair: dict[str, Any], **shared: Any) -> list[dict[str, Any]]:
    """What a notebook leaves with two sets of parameters; its records are in `out/0` and `out/1`."""
    return [run(name, **{**shared, **given, "out": str(out / str(n))}) for n, given in enumerate(pair)]


@shows("01_build_logs look_at", "01_build_logs timed")
def test_01(common, tmp_path, monkeypatch):
    timed, real = [], storage.encoding_seconds
    monkeypatch.setattr(storage, "encoding_seconds", lambda *given: timed.append(len(given[-1])) or real(*given))
    found = both("01_build_logs", tmp_path, {"look_at": 1, "timed": 1}, {"look_at": 2, "timed": 2}, **common)
    assert timed == [1, 2]
    assert [names["trace"].question_id for names in found] == [found[0]["logs"][n].question_id for n in (1, 2)]
    assert [names["question"].id for names in found] == [found[0]["unseen"][n].id for n in (1, 2)]


@shows("05_attention_to_early_reasoning logs", "05_attention_to_early_reasoning shown")
def test_05(common):
    pairs = ((2, 0), (4, 1), (4, 9))
    found = [run("05_attention_to_early_reasoning", "reading", **common, logs=n, shown=at) for n, at in pairs]
    assert [len(names["looked_into"]) for names in found] == [2, 4, 4]
    for names, at in zip(found, (0, 1, 3), strict=True):
        longest = sorted(names["looked_into"], key=lambda case: -len(case.log.rounds))
        assert names["reading"].title == longest[at].question.text


@shows("06_position_realignment asked", "06_position_realignment dtypes", "06_position_realignment steps")
def test_06(common):
    for asked, dtypes, steps in ((2, ["float32"], 1), (3, ["bfloat16", "float32"], 2)):
        names = run(
            "06_position_realignment", "drifted", **common, asked=asked, dtypes=dtypes, steps=steps, unseen_questions=0
        )
        drifted = names["drifted"]
        assert drifted["question_id"].nunique() == asked
        assert list(drifted["dtype"].unique()) == dtypes
        assert drifted.groupby("place")["shift"].nunique().tolist() == [steps + 2] * 2


@shows("07_negative_transfer shares", "07_negative_transfer changed_facts", "07_negative_transfer aged")
@shows("07_negative_transfer thresholds", "07_negative_transfer margins")
def test_07(common, tmp_path):
    base = {"shares": [1.0], "changed_facts": 0.5, "aged": 1.0, "thresholds": [0.3], "margins": [0.1]}
    other = {"shares": [0.5], "changed_facts": 0.9, "aged": 0.5, "thresholds": [0.2], "margins": [0.01, 1.0]}
    before, after = both("07_negative_transfer", tmp_path, base, other, **common, unseen_questions=0)
    assert [set(names["effects"]["share"]) for names in (before, after)] == [{0, 1.0}, {0, 0.5}]
    assert [names["stores"]["aged store"].changed for names in (before, after)] == [1.0, 0.5]
    assert [set(names["sweeps"]["aged store"].index) - {-1.0} for names in (before, after)] == [{0.3}, {0.2}]
    tried = [{gate.margin for gate in names["right"]} - {None} for names in (before, after)]
    assert (tried[1] - tried[0], tried[0] - tried[1]) == ({0.01, 1.0}, {0.1})
    told = [{p.id: p.text for p in names["study"].changed.data.passages} for names in (before, after)]
    true = {p.id: p.text for p in before["experiment"].data.passages}
    differ = [sum(text != true[id] for id, text in world.items()) for world in told]
    assert 0 < differ[0] < differ[1]


@shows("08_log_quality shares", "08_log_quality filters", "08_log_quality second", "08_log_quality forced")
def test_08(common, tmp_path):
    base = {"shares": [0.0, 1.0], "filters": ["answered"], "forced": True}
    other = {"shares": [0.5, 1.0], "filters": ["agreement"], "second": "no_logs+passages=4", "forced": False}
    shared = {**common, "variants": ["kv_last_round"], "unseen_questions": 0}
    before, after = both("08_log_quality", tmp_path, base, other, **shared)
    assert set(before["sources"]) - set(after["sources"]) == {"forced logs"}
    swept = [names["swept"]["logs as they are"] for names in (before, after)]
    assert [set(table["share"]) for table in swept] == [{0.0, 1.0}, {0.5, 1.0}]
    precisions = [[name for name in metrics(tmp_path / n) if name.startswith("precision.")] for n in ("0", "1")]
    kept = [{name.split(".")[-1] for name in names} for names in precisions]
    assert kept == [{"all", "answered"}, {"all", "agreement"}]
    assert [path.name for path in Path(common["run"], "traces").glob("*passages=4*")]


@shows("09_online_store orders", "09_online_store dedup", "09_online_store cap", "09_online_store parts")
def test_09(common, tmp_path):
    tier = cells.small_tier(tmp_path, max_rounds=2)
    own = {"tier": tier, "run": str(tmp_path / "stream"), "log_questions": 5, "unseen_questions": 3}
    base, other = {"orders": 1, "dedup": 1.0, "cap": 4, "parts": 2}, {"orders": 2, "dedup": 0.1, "cap": 2, "parts": 3}
    before, after = both("09_online_store", tmp_path, base, other, **own)
    assert [names["results"]["order"].nunique() for names in (before, after)] == [1, 2]
    ends = [names["ends"]["logs"] for names in (before, after)]
    assert [end["cap"] for end in ends] == [4, 2]
    assert ends[0]["dedup"] > ends[1]["dedup"]
    for names, parts in ((before, 2), (after, 3)):
        assert {curve.groupby("condition").size().max() for curve in names["curves"].values()} == {parts}


@shows("10_architectures families", "10_architectures models", "10_architectures dtypes", "10_architectures shift")
@shows("10_architectures timed")
def test_10(common, tmp_path):
    model = lms.saved(tmp_path / "tiny")
    base = {"families": ["llama", "gpt2"], "models": [], "dtypes": ["float32"], "shift": 8, "timed": 16}
    given = {"families": ["llama"], "models": [str(model)], "dtypes": ["bfloat16"], "shift": 300, "timed": 32}
    before, after = (run("10_architectures", "real", **common, **g) for g in (base, given))
    assert [list(names["surveyed"].index) for names in (before, after)] == [["llama", "gpt2"], ["llama"]]
    assert [list(names["real"].index) for names in (before, after)] == [[], [str(model)]]
    assert [names["surveyed"].loc["llama", "timed"] for names in (before, after)] == [16, 32]
    assert ["error.float32" in names["surveyed"] for names in (before, after)] == [True, False]
    far = run("10_architectures", "surveyed", **common, **{**base, "shift": 300})
    assert far["surveyed"].loc["llama", "unturned.float32"] != before["surveyed"].loc["llama", "unturned.float32"]


@shows("11_text_only_models endpoint", "11_text_only_models model", "11_text_only_models per_minute")
@shows("11_text_only_models input_price", "11_text_only_models output_price")
def test_11(common, tmp_path, monkeypatch):
    monkeypatch.setenv("LAGKIT_API_KEY", KEY)
    text = "text_last_round_user_turn"
    given = {"texts": [text], "unseen_questions": 2, "model": "another", "input_price": 2.0, "output_price": 50.0}
    with playing([said("<ans>no</ans>", read=1000, wrote=10)]) as played:
        run("11_text_only_models", **common, **given, endpoint=played.url, per_minute=300, out=str(tmp_path))
    assert {asked["model"] for asked in played.asked} == {"another"}
    assert metrics(tmp_path)[f"cost.api.{text}"] == pytest.approx((2 * 1000 + 50 * 10) / 1e6)
    assert played.times[-1] - played.times[0] >= 0.3  # three fifths of a second, less what a busy machine takes
    assert len(played.times) == 4


@shows("12_placement asked", "12_placement hidden")
def test_12(common):
    names = run("12_placement", "cut", **common, asked=3, hidden=2, unseen_questions=4)
    assert (names["far"]["question_id"].nunique(), names["cut"]["question_id"].nunique()) == (3, 2)


@shows("20_explore question", "20_explore query")
def test_20(common):
    unseen = run("20_explore", "unseen", **common)["unseen"]
    wanted, query = unseen[-1].text, "Where is it?"
    names = run("20_explore", "traces", **common, question=wanted)
    assert {trace.question for trace in names["traces"].values()} == {wanted}
    other = run("20_explore", "found", **common, question=wanted, query=query)
    assert list(names["found"]["cosine"]) != list(other["found"]["cosine"])


@shows("90_gallery run", "90_gallery real", "90_gallery real_name", "90_gallery data", "90_gallery store")
def test_90(common, tmp_path):
    def finished(out: Path, **settings: Any) -> Path:
        policies = ("no_logs", "kv_last_round", "text_last_round")
        lms.small_run(out, lms.new_lm(lms.ActingLM), policies=policies, **settings).run()
        return out

    data = shutil.copytree(lms.SAMPLE, tmp_path / "sample")
    logs = str(tmp_path / "logs")
    mine = finished(tmp_path / "mine", data=data, store=logs)
    moved = tmp_path / "elsewhere" / "sample"
    moved.parent.mkdir()
    data.rename(moved)
    given = {"run": str(mine), "real": str(finished(tmp_path / "other", splits=("unseen",))), "real_name": "Mine"}
    with pytest.raises(DataError, match="notes a log store outside of its folder"):
        run("90_gallery", "both", **given, data=str(moved))
    with pytest.raises(DataError, match="there is no data folder"):
        run("90_gallery", "both", **given, store=logs)
    names = run("90_gallery", "both", **given, data=str(moved), store=logs)
    assert list(names["both"].index.unique("run")) == [names["name"], "Mine"]
    assert names["experiment"].out == mine
    assert set(names["real_results"]["split"]) == {"unseen"}
