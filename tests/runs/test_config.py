"""Settings of a run: defaults, files, and everything wrong with them in one sentence."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from lagkit.datasets.loaders import load
from lagkit.model.loading import load_model
from lagkit.policy import AUTHORS, CONTROLS, POLICIES
from lagkit.runs.config import TIERS, RunConfig
from lagkit.types import Limits
from lagkit.util.errors import ConfigError

PATHS = {"data": "data/sample", "out": "runs/x"}


def test_defaults_are_the_authors_hyper_parameters():
    config = RunConfig.parse(PATHS)
    assert (config.data.folder, config.out) == (Path("data/sample").resolve(), Path("runs/x").resolve())
    assert config.limits == Limits() == Limits(2, 3, None, 1024, 16, min_similarity=None)
    own = tuple(name for name in POLICIES if name not in AUTHORS | CONTROLS)  # which are asked for by name
    assert (config.data.seed, config.policies, config.data.splits) == (1234, own, ("seen", "unseen"))


def test_flat_keys_and_groups_are_each_other_s_inverse():
    config = RunConfig.parse({**PATHS, "store": "s3://bucket/logs", "seed": 3, "logs": 1, "model": "m"})
    assert (config.store.place, config.data.seed, config.limits.logs, config.model.name) == (
        "s3://bucket/logs",
        3,
        1,
        "m",
    )
    flat = config.flat()
    assert list(flat) == list(RunConfig.keys())
    assert {name: flat[name] for name in ("store", "seed", "logs", "model", "max_rounds", "splits")} == {
        **{"store": "s3://bucket/logs", "seed": 3, "logs": 1, "model": "m", "max_rounds": None},
        **{"splits": ["seen", "unseen"]},
    }
    assert RunConfig.parse(flat) == config
    assert config.changed(seed=4) == RunConfig.parse({**flat, "seed": 4})


def test_limits_are_the_agent_s_share():
    chosen = {"passages": 1, "logs": 2, "max_rounds": 3, "max_new_tokens": 4, "batch_size": 5}
    chosen |= {"min_similarity": 0.5}
    assert RunConfig.parse({**PATHS, **chosen}).limits == Limits(**chosen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"max_round": 3},
            "max_round: Extra inputs are not permitted (keys are out, policies, data, world, dataset, split, ",
        ),
        (
            {"Seed": 3, "logz": 1},
            "Seed: Extra inputs are not permitted; logz: Extra inputs are not permitted (keys are",
        ),
        ({"limits": {"logs": 1}}, "limits: Extra inputs are not permitted (keys are"),
        ({"folder": "data/sample"}, "folder: Extra inputs are not permitted (keys are"),
        ({"store": "s3://me@bucket"}, "settings: store: A store's address is only a bucket and a path"),
        ({"seed": 1.5}, "seed: Input should be a valid integer, got a number with a fractional part"),
        (
            {"seed": True},
            "seed: True is true or false, as are yes, no, on and off in YAML: put text in quotes, or give",
        ),
        ({"max_rounds": True}, "max_rounds: True is true or false"),
        ({"min_similarity": False}, "min_similarity: False is true or false"),
        ({"embedder": True}, "embedder: True is true or false"),
        ({"api": {"retries": True}}, "api.retries: True is true or false"),
        ({"model": 7}, "model: 7 is a number, and text is needed: put it in quotes (on a command line \"'7'\")."),
        ({"model": None}, "model: text is needed, and not None."),
        ({"data": ["a"]}, "data: text is needed, and not ['a']."),
        ({"out": date(2026, 11, 28)}, "out: 2026-11-28 is a date, and text is needed: put it in quotes"),
        (
            {"device": "gpu"},
            "device: There is no device 'gpu': use cpu, cuda, cuda:N (the GPU number N) or",
        ),
        ({"policies": [True, "no_logs"]}, "policies: True is true or false, as are yes, no, on and off in YAML"),
        ({"splits": [False]}, "splits: False is true or false"),
        ({"data": None, "world": {"hops": [True, 2]}}, "hops: True is true or false"),
        ({"data": None, "world": {"overlap": {"all": True}}}, "overlap: True is true or false"),
        ({"device": 0}, "device: 0 is a number, and text is needed"),
        ({"dtype": "fp32"}, "dtype: Input should be 'float32' or 'bfloat16'"),
        ({"max_new_tokens": 0}, "Wrong run settings: max_new_tokens: Input should be greater than 0."),
        ({"logs": "many"}, "logs: Input should be a valid integer, unable to parse string as an integer"),
        ({"batch_size": 2.5}, "batch_size: Input should be a valid integer"),
        ({"dtype": "float16"}, "dtype: Input should be 'float32' or 'bfloat16'"),
        ({"splits": ["seen", "other"]}, "splits.1: Input should be 'seen' or 'unseen'"),
        ({"policies": "no_logs"}, "policies: a list is needed, such as [a, b], and not 'no_logs'"),
        ({"policies": ["no_logs", "kv_last"]}, "policies: Unknown policy 'kv_last': use one of no_logs, "),
        ({"policies": ["no_logs", "kv/all/kept/front"]}, "A policy's keep is one of last_action, "),
        ({"policies": ["kv_block"]}, "no_logs must be among them"),
        ({"policies": ["no_logs", "kv_block", "kv_block"]}, "'kv_block' stands twice"),
        ({"splits": []}, "splits: Tuple should have at least 1 item"),
        ({3: 4}, "3: Keys should be strings"),
        ({"api": {}}, "`api` says how a model behind an API is asked, and smollm2 is none: leave it out"),
        ({"data": None, "world": {}, "dataset": "sample"}, "`dataset` is the format of `data`, and a test world has"),
    ],
)
def test_unknown_keys_and_wrong_values_are_named(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.parse({**PATHS, **settings})


def test_a_folder_for_results_is_needed():
    with pytest.raises(ConfigError, match="Wrong run settings: out: Field required"):
        RunConfig.parse({"data": "data/sample"})


def test_questions_come_from_a_folder_or_a_test_world():
    with pytest.raises(ConfigError, match="give either `data`, a folder of questions, or `world`, the controls"):
        RunConfig.parse({"out": "runs/x", "data": "data/sample", "world": {}})


@pytest.mark.parametrize("tier", ["smollm2", "laptop", "paper"])
def test_a_tier_without_questions_offers_those_of_the_sample(tier):
    with pytest.raises(ConfigError, match="there are no questions: give a folder of them as `data`") as caught:
        RunConfig.of(tier, out="runs/x")
    [sample] = re.findall("such as (.*), which comes with lagkit", str(caught.value))
    assert RunConfig.of(tier, out="runs/x", data=sample).data.folder.name == "sample"
    assert len(load(sample).seen) == 150


def test_controls_of_a_test_world_are_checked_and_filled_in():
    world = RunConfig.parse({"out": "runs/x", "world": {"seed": 5}}).data.world
    assert (world["seed"], world["hops"]) == (5, [1, 2, 3, 4])
    with pytest.raises(ConfigError, match=r"hops.*31 hops are more than this language allows"):
        RunConfig.parse({"out": "runs/x", "world": {"hops": [31]}})


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_takes_a_folder_of_questions(tier):
    config = RunConfig.of(tier, data="data/sample", out="runs/x", seed=3)
    assert (config.data.folder, config.data.world, config.data.seed) == (Path("data/sample").resolve(), None, 3)


def test_the_testbed_s_tier_brings_its_questions():
    assert RunConfig.of("testbed", out="runs/x").data.world["seed"] == 0
    seeded = RunConfig.of("testbed", out="runs/x", seed=5)
    assert (seeded.data.seed, seeded.data.world) == (5, RunConfig.of("testbed", out="runs/x").data.world | {"seed": 5})
    assert RunConfig.of("testbed", out="runs/x", seed=5, world={"seed": 7}).data.world["seed"] == 7


def test_an_unknown_tier_names_the_known_ones():
    with pytest.raises(
        ConfigError, match="There is no tier 'big': use one of laptop, paper, smollm2, testbed, or a YAML file"
    ):
        RunConfig.of("big", out="runs/x")


def test_a_run_cannot_be_changed_on_the_way():
    config = RunConfig.parse(PATHS)
    with pytest.raises(ValueError, match="Instance is frozen"):
        config.out = Path("runs/y")


def test_policies_may_be_spelled_out():
    config = RunConfig.parse({**PATHS, "policies": ["no_logs", "kv/all_rounds/kept/prefix"]})
    assert config.policies == ("no_logs", "kv/all_rounds/kept/prefix")


BEHIND = {"model": "api:m", "policies": ["no_logs", "text_last_round_user_turn"]}


@pytest.mark.parametrize(
    ("name", "value"), [("device", "cpu"), ("dtype", "bfloat16"), ("codec", "int8"), ("blocks", "recompute")]
)
def test_what_does_nothing_behind_an_api_is_refused(name, value):
    sentence = f"`{name}` does nothing for a model behind an API, api:m: leave it out"
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        RunConfig.parse({**PATHS, **BEHIND, name: value})
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        RunConfig.of("testbed", **PATHS, **BEHIND, **{name: value})
    with pytest.raises(ConfigError, match="A device or a dtype does nothing for a model behind an API, api:m: leave"):
        load_model("api:m", **{"device": "cpu"} if name == "device" else {"dtype": value})


@pytest.mark.parametrize("tier", TIERS)
def test_a_model_behind_an_api_takes_the_place_of_a_tier_s(tier):
    config = RunConfig.of(tier, **PATHS, **BEHIND)
    assert (config.model.device, config.model.dtype, config.store.codec, config.store.blocks) == (
        None,
        None,
        "none",
        "load",
    )
    assert RunConfig.parse(config.flat()) == config
    assert config.derived("part").model.dtype is None


def test_a_model_that_is_loaded_here_has_a_dtype():
    assert RunConfig.parse(PATHS).model.dtype == "bfloat16"
    with pytest.raises(ConfigError, match="dtype: float32 or bfloat16 is needed"):
        RunConfig.parse({**PATHS, "dtype": None})


def test_a_file_is_read_and_overridden(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: data/sample\nout: runs/a\nseed: 7\npolicies: [no_logs, kv_block]\n", encoding="utf-8")
    config = RunConfig.read(path, {"out": "runs/b", "logs": 1})
    assert (config.out, config.data.seed, config.limits.logs) == (Path("runs/b").resolve(), 7, 1)
    assert config.policies == ("no_logs", "kv_block")
    with pytest.raises(ConfigError, match="sed: Extra inputs"):
        RunConfig.read(path, {"sed": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- data\n- out\n", "must hold `key: value` lines"),
        ("", "must hold `key: value` lines"),
        ("data: d\nout: o\nlog_question: 3\n", "log_question: Extra inputs are not permitted"),
        ("1: 2\n", "1: Keys should be strings"),
        (b"data: \xff", "run.yaml is not UTF-8 text in line 1"),
        (None, "run.yaml is missing"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.read(path)
