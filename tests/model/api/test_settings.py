"""Every key of `api`, and each variable of the environment that a user may set, changes what it says it changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import plotly.io as pio
import pytest

from lagkit.__main__ import main
from lagkit.logs.base import Store
from lagkit.logs.retrieve import load_embedder
from lagkit.model.api.requests import Requests
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.util.errors import ConfigError, EndpointError, ModelNotFound
from lagkit.views import pictures
from tests.helpers import lms, stores
from tests.helpers.covered import Covered
from tests.helpers.endpoints import KEY, Played, Reply, failed, playing, said

shows, variables = Covered(), Covered()
SAID = said("<ans>The Danube</ans>", read=1000, wrote=10)
DOCUMENTED = {"LAGKIT_HOME", "LAGKIT_PROGRESS", "LAGKIT_API_BASE", "LAGKIT_API_KEY", "LAGKIT_STORE_CACHE"}
DOCUMENTED |= {"LAGKIT_PICTURES", "OPENAI_BASE_URL", "OPENAI_API_KEY", "HF_HUB_OFFLINE"}


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Answer one question through an endpoint, by a run's settings; returns its results."""

    def run(played: Played, **api: object) -> pd.DataFrame:
        monkeypatch.setenv("LAGKIT_API_BASE", played.url)
        monkeypatch.setenv("LAGKIT_API_KEY", KEY)
        settings = {"data": lms.SAMPLE, "out": tmp_path / "out", "embedder": "hash", "model": "api:m"}
        settings |= {"log_questions": 1, "splits": ("seen",), "policies": ("no_logs",), "api": api}
        return Experiment(RunConfig.parse(settings)).run()

    return run


def test_no_key_is_without_a_test():
    assert set(shows.names) == set(Requests.model_fields)


def test_no_variable_is_without_a_test():
    """`LAGKIT_DATASETS` and `LAGKIT_SCREENSHOTS` are for tests alone."""
    assert set(variables.names) == DOCUMENTED
    sources = "".join(path.read_text(encoding="utf-8") for path in Path("lagkit").rglob("*.py"))
    named = {word for word in sources.replace('"', " ").replace("`", " ").split() if word.startswith("LAGKIT_")}
    assert {name.strip(".,:;)").partition("=")[0] for name in named} <= DOCUMENTED


@shows("temperature", "limit")
def test_the_request_has_the_temperature_and_the_limit_by_its_name(ask):
    with playing([SAID]) as played:
        ask(played, temperature=0.5, limit="max_completion_tokens")
    [asked] = played.asked
    assert (asked["temperature"], asked["max_completion_tokens"]) == (0.5, 1024)
    assert "max_tokens" not in asked


@shows("input_price", "output_price")
def test_prices_make_the_cost(ask, tmp_path):
    with playing([SAID]) as played:
        assert ask(played, input_price=2.0, output_price=50.0)["cost"].tolist() == [(2 * 1000 + 50 * 10) / 1e6]
    assert "at a cost of 0.0025" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


@shows("retries")
def test_a_request_is_repeated_so_often(ask):
    for retries in (0, 2):
        with playing([failed(500)]) as played, pytest.raises(EndpointError):
            ask(played, retries=retries)
        assert len(played.asked) == 1 + retries


@shows("timeout")
def test_an_answer_is_waited_for_so_long(ask):
    with playing([Reply(200, SAID.body, seconds=1.0)]) as played:
        with pytest.raises(EndpointError, match=r"did not answer within 0\.1 s"):
            ask(played, timeout=0.1, retries=0)
        ask(played, timeout=60.0, retries=0)


@shows("per_minute")
def test_requests_are_spaced_out(ask):
    with playing([said("No tag.")] * 2 + [SAID]) as played:
        ask(played, per_minute=60)
    first, _, third = played.times
    assert third - first >= 1.0  # two minutes' sixtieths, less what a busy machine takes from them


# The environment


@variables("LAGKIT_API_BASE", "LAGKIT_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY")
def test_the_endpoint_is_the_one_of_the_environment(ask, monkeypatch, tmp_path):
    with playing([SAID]) as ours, playing([SAID]) as theirs:
        monkeypatch.setenv("OPENAI_BASE_URL", theirs.url)
        monkeypatch.setenv("OPENAI_API_KEY", "another-key")
        ask(ours)
        monkeypatch.delenv("LAGKIT_API_BASE")
        settings = ["model=api:m", f"data={lms.SAMPLE}", f"out={tmp_path / 'theirs'}", "embedder=hash"]
        settings += ["log_questions=1", "seen_questions=1", "unseen_questions=1", "splits=[seen]", "policies=[no_logs]"]
        assert main(["run", "smollm2", *settings]) == 0
    assert (ours.keys, theirs.keys) == ([f"Bearer {KEY}"], ["Bearer another-key"])


@variables("LAGKIT_HOME")
def test_models_and_embeddings_are_kept_in_the_home(monkeypatch, tmp_path):
    """A model that lies there under an alias is the one that a run loads."""
    monkeypatch.setenv("LAGKIT_HOME", str(tmp_path / "home"))
    lms.saved(tmp_path / "home" / "models" / "smollm2")
    sizes = {"log_questions": 1, "seen_questions": 1, "unseen_questions": 1}
    run = Experiment(RunConfig.of("smollm2", data=lms.SAMPLE, out=tmp_path / "out", **sizes))
    assert run.lm.model.config.vocab_size == lms.VOCAB


@variables("HF_HUB_OFFLINE")
def test_offline_the_hub_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.setattr("lagkit.model.hub.huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE is set, so the hub was not asked"):
        load_embedder("nobody/nothing")


@variables("LAGKIT_PROGRESS")
def test_progress_is_shown_as_asked(monkeypatch, capsys, tmp_path):
    told = {}
    for mode in ("off", "lines"):
        monkeypatch.setenv("LAGKIT_PROGRESS", mode)
        monkeypatch.setattr("lagkit.util.progress._QUIET_SECONDS", 0.0)
        lms.small_run(tmp_path / mode, lms.tiny_lm(), policies=("no_logs",)).build()
        told[mode] = capsys.readouterr().err
    assert told["off"] == ""
    assert "Answering: log: 6 of 6" in told["lines"]
    monkeypatch.setenv("LAGKIT_PROGRESS", "loud")
    with pytest.raises(ConfigError, match="LAGKIT_PROGRESS is 'loud'"):
        lms.small_run(tmp_path / "loud", lms.tiny_lm()).build()


@variables("LAGKIT_PICTURES")
def test_figures_leave_no_picture_where_that_is_off(monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "json")
    monkeypatch.setattr(pictures, "find_spec", lambda _: True)
    monkeypatch.setattr(pictures.shutil, "which", lambda name: name)
    for mode, wanted in (("off", "notebook_connected"), ("", "lagkit_png")):
        monkeypatch.setenv("LAGKIT_PICTURES", mode)
        pictures.use_renderers()
        assert pio.renderers.default == f"plotly_mimetype+{wanted}"


@variables("LAGKIT_STORE_CACHE")
def test_blocks_of_an_object_store_are_cached_up_to_a_size(bucket, monkeypatch, tmp_path):
    with stores.new_store(f"{bucket}/logs") as store:
        ids = stores.fill(store, range(3))
    shutil.rmtree(tmp_path / "home")
    kept = {}
    for size in ("0", "1000000"):
        monkeypatch.setenv("LAGKIT_STORE_CACHE", size)
        with Store.open(f"{bucket}/logs") as store:
            assert all(len(store.block(log, "last")) == 3 for log in ids)
        kept[size] = len([*(tmp_path / "home" / "store-cache").glob("??/*")])
    assert kept == {"0": 0, "1000000": 3}
