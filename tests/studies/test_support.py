"""What is said of a model's support is measured: exact families are, broken ones are not, failures say why."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from lagkit.model import families
from lagkit.model.families import FAMILIES, SUPPORTED
from lagkit.model.lm import LM
from lagkit.model.rope import Realigner
from lagkit.runs import manifest
from lagkit.studies import support, support_page
from lagkit.util.errors import ConfigError, ModelNotFound, UnsupportedModel

SIZES = support.Sizes(log=20, prompt=12, shift=40, texts=2, timed=64, repeats=2)
PAGE = Path(__file__).parents[2] / "docs" / "results" / "support.md"
SHORT = ("llama", "gemma3", "cohere2", "glm", "phi3", "gpt2", "deepseek_v3")


@pytest.fixture(scope="module")
def surveyed() -> pd.DataFrame:
    return support.survey(SHORT, families.load, SIZES)


@pytest.fixture(scope="module")
def all_in_float32() -> pd.DataFrame:
    return support.survey(FAMILIES, families.load, SIZES, dtypes=["float32"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exact_or_refused_as_the_table_says(family: str, all_in_float32: pd.DataFrame) -> None:
    row = all_in_float32.loc[family]
    if FAMILIES[family].refused:
        assert row["verdict"] == "refused"
        assert "cannot be reused at another position" in row["reason"]
        assert pd.isna(row["error.float32"])
        return
    assert row["verdict"] == "supported"
    assert row["error.float32"] < 1e-5 < 0.1 < row["unturned.float32"]
    assert row["kl.float32"] < 1e-6 < 1e-4 < row["kl_unturned.float32"]
    assert row["agreement.float32"] == 1


def test_rounding_in_bfloat16_is_that_of_a_dense_prefill(surveyed: pd.DataFrame) -> None:
    moved = surveyed.loc[["llama", "gemma3", "cohere2", "glm", "phi3"]]
    assert moved["error.bfloat16"].between(1e-3, 5e-2).all()
    assert (moved["kl.bfloat16"] < 3 * moved["kl_moved.bfloat16"]).all()
    assert (moved["kl.bfloat16"] < 0.02 * moved["kl_unturned.bfloat16"]).all()


def test_anatomy_is_read_off_a_block() -> None:
    found = support.anatomy(families.load("cohere2", dtype="bfloat16"))
    assert found["bytes_per_token"] == 2 * found["layers"] * found["kv_heads"] * found["head_dim"] * 2 == 256
    assert (found["layout"], found["bare_layers"], found["turned"], found["limit"]) == ("interleaved", 1, 8, None)
    assert support.anatomy(families.load("phi3"))["limit"] == 128
    assert support.anatomy(families.load("glm"))["turned"] == 4


def test_injecting_is_cheaper_than_prefilling() -> None:
    found = support.cost(families.load("llama"), support.Sizes(timed=10_000, repeats=3))
    assert found["timed"] == 512, "no more than the context holds"
    assert 0 < found["inject_s"] < found["prefill_s"]
    assert found["inject_over_prefill"] == pytest.approx(found["inject_s"] / found["prefill_s"])


def test_a_model_whose_frequencies_are_not_those_in_its_buffers_is_refused() -> None:
    def load(name: str, *, dtype: str) -> LM:
        model = families.tiny("llama").to(getattr(torch, dtype))
        faster = lambda _, args, kw: (args, {"position_ids": kw["position_ids"] * 2})  # noqa: E731
        model.model.rotary_emb.register_forward_pre_hook(faster, with_kwargs=True)
        return LM(model, families.load("llama").tokenizer, name)

    row = support.measure("broken", load, SIZES)
    assert row["verdict"] == "refused"
    assert "re-aligned keys differ from prefilled ones by" in row["reason"]
    assert not any(name.startswith("error") for name in row)


@pytest.mark.parametrize("part", ["rotate", "unrotate"])
def test_a_re_alignment_that_breaks_behind_the_probe_is_seen(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = families.load("llama")
    honest = getattr(Realigner, part)
    monkeypatch.setattr(Realigner, part, lambda self, keys, at, out=None: _maybe_out(honest, self, keys, at // 2, out))
    row = support.measure("llama", lambda name, *, dtype: lm, SIZES, dtypes=["float32"])
    assert row["error.float32"] > 0.1
    assert row["kl.float32"] > 1e-2
    assert support_page.verdicts(pd.DataFrame([row])).tolist() == ["inexact"]


def _maybe_out(turn: object, self: Realigner, keys: torch.Tensor, at: torch.Tensor, out: object) -> torch.Tensor:
    return turn(self, keys, at) if out is None else turn(self, keys, at, out)


def test_models_that_fail_become_rows_and_the_others_go_on() -> None:
    def load(name: str, *, dtype: str) -> LM:
        if name == "missing":
            raise ModelNotFound("There is no such model.")
        if name == "halfway" and dtype == "bfloat16":
            raise UnsupportedModel("Too coarse.")
        return families.load("llama", dtype=dtype)

    table = support.survey(["missing", "halfway", "fine"], load, SIZES)
    assert table["verdict"].tolist() == ["not measured", "refused", "supported"]
    assert table["reason"].tolist() == ["There is no such model.", "In bfloat16: Too coarse.", ""]
    assert table["error.float32"].notna().tolist() == [False, True, True]
    too_long = support.measure("fine", load, support.Sizes(log=600))
    assert too_long["verdict"] == "not measured"
    assert "llama holds 512: inject fewer logs" in too_long["reason"]


def test_a_bug_is_no_row() -> None:
    def load(name: str, *, dtype: str) -> LM:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        support.survey(["llama"], load, SIZES)


def test_comparison_goes_on_without_a_model_that_cannot_be_run() -> None:
    def open_run(name: str) -> object:
        raise ConfigError(f"{name} has no data.")

    means, differences, answered, reasons = support.compare(["a", "b"], open_run)
    assert len(means) == len(differences) == len(answered) == 0
    assert reasons == {"a": "a has no data.", "b": "b has no data."}


def test_families_are_listed_by_name_and_an_unknown_one_is_refused() -> None:
    assert families.listed(["llama", "gpt2"]) == ["llama", "gpt2"]
    assert families.listed([]) == list(FAMILIES)
    for wrong in (lambda: families.listed(["llama", "llamas"]), lambda: families.tiny("llamas")):
        with pytest.raises(
            ConfigError, match="'llamas' is no family that lagkit has a tiny model of: these are llama, "
        ):
            wrong()


def test_short_table_groups_by_what_turns_and_by_reason(surveyed: pd.DataFrame) -> None:
    table = support_page.grouped(surveyed)
    assert table["families"].to_dict() == {
        "plain RoPE": "llama",
        "frequencies scaled: linear": "gemma3",
        "frequencies scaled: longrope": "phi3",
        "interleaved pairs": "cohere2, glm",
        "only some dimensions turn": "glm",
        "some layers without RoPE": "cohere2",
        FAMILIES["gpt2"].trait: "gpt2",
        FAMILIES["deepseek_v3"].trait: "deepseek_v3",
    }
    assert table["verdict"].tolist() == ["exact"] * 6 + ["refused"] * 2
    assert table.loc["interleaved pairs", "error"] == surveyed.loc[["cohere2", "glm"], "error.float32"].max()
    only_refused = support_page.grouped(surveyed.loc[["gpt2"]])
    assert only_refused["verdict"].tolist() == ["refused"]


def test_page_tells_every_model_of_both_surveys(surveyed: pd.DataFrame, tmp_path: Path) -> None:
    models = surveyed.loc[["llama", "gpt2"]].rename({"llama": "mine", "gpt2": "old"})
    support_page.save(tmp_path / "support.md", surveyed, models)
    page = (tmp_path / "support.md").read_text(encoding="utf-8")
    assert "| mine |  | default |" in page.partition("## Models with their own weights")[2]
    assert "| old | refused |  | KV of a gpt2 model" in page.partition("## Other models")[2]
    assert "2 x 2 x 2 x 8 x 2 = 128" in page
    versions = {"lagkit": "1", "torch": "2", "transformers": "3"}
    assert page == support_page.told(surveyed, models, manifest.versions())  # from the file as from the survey
    assert "## Models" not in support_page.told(surveyed, models.iloc[:0], versions)


def test_committed_table_is_of_the_families_that_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    families_part, refused_part = (
        page.partition("## Families")[2].partition("## Models")[0].split("## Refused families")
    )
    assert _names(families_part) == list(SUPPORTED)
    assert _names(refused_part) == [name for name in FAMILIES if name not in SUPPORTED]
    short = page.partition("## Families")[0]
    told = {name for line in short.splitlines() if line.startswith("| ") for name in line.split(" | ")[1].split(", ")}
    assert set(FAMILIES) <= told


def _names(part: str) -> list[str]:
    """The first cell of each row of a page's table."""
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]
