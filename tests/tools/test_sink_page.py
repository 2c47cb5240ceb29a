"""Rows of the attention sink: what the page tells of them, and that a run that stops goes on."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.studies import attention, drift, sink
from lagkit.util.errors import DamagedBlock
from tests.helpers.lms import ActingLM, ScriptedLM, new_lm, small_run, tiny_lm
from tools.sink import loop, page
from tools.sink.__main__ import main

N = 12


def cell(keep: str, form: str, garbled: int, firsts: float, same: int | None = None) -> list[dict]:
    """Answers to `N` questions, the first `garbled` of which are garbled and the first `same` said in both forms."""
    rows = []
    for i in range(N):
        row = {"question_id": f"q{i}", "keep": keep, "sink": form, "garbled": float(i < garbled), "response": f"r{i}"}
        row |= {
            "acts": 1.0,
            "broken": 0.0,
            "right": 0.0,
            "firsts": firsts + i / 1000,
            "logs": 0.2,
            "prompt": 0.1 + i / 100,
            "hops": [f"h{i}"],
        }
        rows.append(row if same is None else {**row, "same": float(i < same), "agreement": 0.25, "kl": 7.0 + i})
    return rows


MADE = {
    "settings": {"model": "small", "dtype": "float32", "dataset": "wikihop", "logs": 3},
    "logs": 9,
    "right logs": 2,
    "versions": {"python": "3"},
    "git": {"commit": "c", "changed": False},
}


def test_the_page_tells_shares_and_paired_changes_with_their_intervals(tmp_path):
    rows = pd.DataFrame(
        [
            *cell(sink.NO_LOGS, sink.NO_LOGS, 0, 0.0),
            *cell("last_action", sink.WITH, 0, 0.3),
            *cell("last_action", sink.WITHOUT, 10, 0.1, same=0),
        ]
    )
    page.save(tmp_path / "sink.md", "small", rows, MADE)
    told = (tmp_path / "sink.md").read_text(encoding="utf-8")
    assert "small in float32 on wikihop: 12 unseen questions, each behind the 3 nearest of 9 logs, 2 of which" in told
    lines = {
        tuple(line.strip("| ").split(" | ")[:2]): line for line in reversed(told.splitlines()) if line.startswith("| ")
    }
    assert "| 100.0% [75.8, 100.0] | 0.0% [0.0, 24.2] |  |  | 15.5%" in lines["no logs", "no logs"]
    assert "| 0.0% [0.0, 24.2] | 0.0% [0.0, 24.2] | 100.0% [75.8, 100.0] |" in lines["last action", "with"]
    assert "| 83.3% [55.2, 95.3] |" in lines["last action", "without"]
    changed = page.changes(rows).loc["last_action"]
    assert changed["garbled"].mean == pytest.approx(-10 / 12)
    assert changed["garbled"].low < -10 / 12 < changed["garbled"].high < 0
    assert changed["firsts"].mean == pytest.approx(0.2)
    assert f"| last action | -83.3 [{100 * changed['garbled'].low:+.1f}, {100 * changed['garbled'].high:+.1f}]" in told
    apart = page.cells(rows).loc[("last_action", sink.WITHOUT)]
    assert apart["kl"].mean == pytest.approx(12.5)
    assert "| last action | 0.0% [0.0, 24.2] | 25.0% " in told
    assert page.remade(tmp_path / "sink") == told


def test_rows_are_kept_by_batch_and_a_run_that_stops_goes_on(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", new_lm(ActingLM), policies=("no_logs",), splits=("unseen",), batch_size=2)
    looks, asked = sink.looks, []

    def failing(run, met):
        asked.append(len(met))
        if len(asked) == 2:
            raise DamagedBlock("Stopped.")
        return looks(run, met)

    monkeypatch.setattr(sink, "looks", failing)
    with pytest.raises(DamagedBlock):
        page.measure(run, 3)
    rows, made = page.measure(run, 3)
    assert asked == [2, 1, 1]
    assert rows.groupby(["keep", "sink"]).size().eq(3).all()
    assert list(dict.fromkeys(rows["question_id"])) == [q.id for q in run.questions("unseen")]
    assert rows["hops"].map(len).min() > 0
    assert (made["logs"], made["settings"]["data"]) == (6, "sample")
    monkeypatch.setattr(sink, "looks", lambda run, met: looks(run, met).assign(more=1.0))
    assert page.measure(run, 3)[0]["more"].eq(1).all(), "rows of other code are measured anew"
    page.save(tmp_path / "sink.md", "sample", rows, made)
    assert page.remade(tmp_path / "sink") == (tmp_path / "sink.md").read_text(encoding="utf-8")


def test_rows_of_a_batch_are_read_back_until_what_measures_them_changes(tmp_path, monkeypatch):
    run, looked = small_run(tmp_path / "run", tiny_lm(), policies=("no_logs",), splits=("unseen",)), []
    row = {"question_id": run.questions("unseen")[0].id, "keep": "all", "sink": sink.WITH, "response": "</ans</"}

    def looks(run, met):
        looked.append(1)
        return pd.DataFrame([row])

    monkeypatch.setattr(sink, "looks", looks)
    assert page.measure(run, 1)[0]["broken"].tolist() == [1.0]
    monkeypatch.setattr(page, "broken", lambda response: False)
    assert page.measure(run, 1)[0]["broken"].tolist() == [0.0], "what is broken is told of what was kept"
    assert len(looked) == 1
    measuring = ((attention, "response_mass"), (drift, "response_logits"), (drift, "divergence"))
    for times, (module, name) in enumerate(measuring, 2):
        monkeypatch.setattr(module, name, lambda: None)
        page.measure(run, 1)
        assert len(looked) == times, f"other code of {name}"


def test_first_responses_of_a_run_stand_beside_the_study(tmp_path):
    settings = {"policies": ("no_logs", "kv_last_round", "authors_kv_last_round"), "splits": ("unseen",)}
    lm = new_lm(ScriptedLM)
    run = small_run(tmp_path / "run", lm, max_new_tokens=16, **settings)
    asked = [question.text for question in run.questions("unseen")]
    script = {question.text: ["It is <ans>x</ans>"] for question in run.log_questions}
    lm.play(script | {text: ["<ans>x</ans>", "<ans>x</ans>", "<ans>x</ans</ans>"] for text in asked})
    run.run()
    page.save(tmp_path / "sink.md", page.LOOP, loop.first_responses(run), page.about(run))
    told = (tmp_path / "sink.md").read_text(encoding="utf-8")
    assert "with smollm2 in float32: 3 unseen questions" in told
    assert "| `kv_last_round` | 0.0% [0.0, 56.1] | 100.0% [43.9, 100.0] |  |" in told
    assert "| `authors_kv_last_round` | 100.0% [43.9, 100.0] | 100.0% [43.9, 100.0] | +100.0 [" in told
    (run.out / "traces" / "authors_kv_last_round.unseen.jsonl").unlink()
    assert set(loop.first_responses(run)["policy"]) == {"no_logs", "kv_last_round"}


def test_one_run_is_measured_at_a_time(capsys):
    assert main(["smollm2", "testbed", "--out", "x"]) == 2
    assert "name one tier or one file of settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("response", "broken"),
    [
        ("<ans>no</ans</ans>", True),
        ("<ans>no</ans</", True),
        ("<keywords>x</keywords", True),
        ("<ans>no</ans>", False),
        ("<ans>No. The answer is no.", False),
        ("a</answer> b", True),
    ],
)
def test_broken_is_a_tag_that_is_closed_by_other_words(response, broken):
    assert page.broken(response) is broken
