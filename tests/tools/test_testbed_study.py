"""The study of several worlds, in miniature: its tables, its page, and that it resumes."""

from __future__ import annotations

import pandas as pd
import pytest

from lagkit.datasets.world.controls import Controls
from lagkit.model.lm import LM
from lagkit.policy import CONTROLS
from lagkit.runs.config import RunConfig
from lagkit.util.errors import ConfigError
from tools.testbed.__main__ import main
from tools.testbed.page import markdown
from tools.testbed.study import MISLED, Study, run

SMALL = Controls(entities=90, log_questions=12, unseen_questions=10)
SEEDS = (7, 8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    settings = {
        "out": str(tmp_path_factory.mktemp("study")),
        "policies": list(MISLED),
        "embedder": "hash",
    }
    return RunConfig.of("testbed", **settings)


@pytest.fixture(scope="module")
def study(config):
    return run(config, SMALL, SEEDS, 0.5)


@pytest.mark.slow
def test_each_world_has_all_its_rows(study):
    for table in (study.variants, study.changed):
        assert table.groupby(["world", "policy"]).size().unique().tolist() == [10]
        assert not table["failed"].any()
    assert study.given_all.groupby("world").size().tolist() == [10, 10]
    assert study.logs.groupby("world").size().tolist() == [12, 12]
    assert set(study.variants["question_id"]) == set(study.changed["question_id"]) == set(study.hops)


@pytest.mark.slow
def test_questions_of_two_worlds_never_share_a_hop(study):
    first, second = (
        {hop for id, own in study.hops.items() if id.startswith(world) for hop in own} for world in ("7:", "8:")
    )
    assert first
    assert second
    assert not first & second


@pytest.mark.slow
def test_a_changed_world_asks_the_same_and_answers_some_otherwise(study):
    assert study.changed.groupby("question_id")["other"].nunique().max() == 1
    others = study.changed[study.changed["policy"] == "no_logs"]["other"].mean()
    assert 0.3 < others <= 1
    # Without logs a change does not matter; the logs of the old world do.
    before = study.variants[study.variants["policy"] == "no_logs"]["em"].mean()
    after = study.changed[study.changed["policy"] == "no_logs"]["em"].mean()
    assert abs(before - after) < 0.3


@pytest.mark.slow
def test_the_page_shows_what_the_tables_hold(study, config, tmp_path):
    page = markdown(study)
    study.save(tmp_path)
    assert markdown(Study.load(tmp_path)) == page
    for policy in MISLED:
        em = 100 * study.variants.loc[study.variants["policy"] == policy, "em"].mean()
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{policy}` | {em:.1f} |")]
        assert row.count("[") == (0 if policy == "no_logs" else 2)
    right = study.logs[study.logs["world"] == 7]["right"].sum()
    assert f"| {right} of 12 |" in page
    assert "2 worlds, 20 unseen questions" in page
    assert "- `entities`: 90" in page
    assert str(config.out) not in page


@pytest.mark.parametrize(("named", "controls"), [([], 2), (["policies=[no_logs, text_last_round, kv_last_round]"], 0)])
def test_controls_are_measured_unless_policies_are_named(monkeypatch, tmp_path, named, controls):
    asked = []

    def stop(config, *_):
        asked.extend(config.policies)
        assert set(config.flat(exclude_unset=True)) >= {"policies", "out"}
        assert "data" not in config.flat(exclude_unset=True)  # which a study refuses
        raise ConfigError("enough")

    monkeypatch.setattr("tools.testbed.study.run", stop)
    assert main(["study", "testbed", f"out={tmp_path}", *named]) == 2
    assert sum(name in CONTROLS for name in asked) == controls


@pytest.mark.slow
def test_the_same_call_answers_nothing_anew(study, config, monkeypatch):
    real = LM.generate

    def generate(self, contexts, max_new_tokens, **settings):
        # The checks of base quality, which are not journalled, ask all at once.
        assert settings["batch_size"] == 64
        return real(self, contexts, max_new_tokens, **settings)

    monkeypatch.setattr(LM, "generate", generate)
    pd.testing.assert_frame_equal(run(config, SMALL, SEEDS, 0.5).variants, study.variants)


def test_an_impossible_share_is_refused_before_anything_is_written(config, tmp_path):
    config = config.model_copy(update={"out": tmp_path / "out"})
    with pytest.raises(ConfigError, match="contradicted: Input should be less than or equal to 1"):
        run(config, SMALL, SEEDS, 1.5)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    code = main(["study", str(tmp_path / "no.yaml"), "out=x"])
    assert code == 2
    assert "no.yaml" in capsys.readouterr().err
