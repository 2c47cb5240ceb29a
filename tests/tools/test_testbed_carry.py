"""Batches of logs with aliases: what is hidden from whom, and that runs resume."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lagkit.logs.encode import SEPARATOR
from lagkit.util.errors import ConfigError
from tools.testbed.__main__ import main as tools
from tools.testbed.carry import CarryConfig, log_batch, train
from tools.testbed.packing import IGNORED
from tools.testbed.tokenizer import make_tokenizer

TOKENIZER = make_tokenizer()
SMALL = {"rows": 2, "tokens": 224, "save_every": 1, "check_every": 2, "warm_up": 1}


@pytest.fixture(scope="module")
def batch():
    return log_batch("a", TOKENIZER, rows=12, tokens=256, apart=True)


def test_the_tokens_are_those_of_the_text(batch):
    for row in range(len(batch.ids)):
        stem = batch.branch[row] == 0
        logs = TOKENIZER.decode(batch.ids[row][batch.log[row] > 0])
        first = batch.branch[row] == 1
        text = logs.lstrip() + batch.lessons[row][0].context + batch.lessons[row][0].reply
        ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
        assert batch.ids[row][stem | first].tolist() == [*ids, TOKENIZER.eos_token_id]
        assert logs.count(SEPARATOR) == 3 * 3 - 1


def test_what_stands_behind_the_logs_sees_the_last_round_of_each_alone(batch):
    mask = batch.mask()[:, 0]
    behind = (batch.log == 0) & (batch.branch >= 0)
    for row, column in ((behind[:, :, None], batch.early[:, None, :]),):
        assert not (mask & row & column).any()
    for row in range(len(batch.ids)):
        last = (batch.log[row] > 0) & ~batch.early[row]
        assert mask[row][behind[row]][:, last].all()
        said = TOKENIZER.decode(batch.ids[row][last])
        assert said.count("<ans>") == 3
        assert said.count(SEPARATOR) == 0


def test_a_log_sees_itself_and_no_other(batch):
    mask = batch.mask()[:, 0]
    size = batch.ids.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    for row in range(len(batch.ids)):
        for log in (1, 2, 3):
            own = batch.log[row] == log
            assert torch.equal(mask[row][own], causal[own] & own)


def test_the_plain_model_reads_all_as_text(batch):
    plain = log_batch("a", TOKENIZER, rows=12, tokens=256, apart=False)
    assert torch.equal(plain.ids, batch.ids)
    behind = (plain.log == 0) & (plain.branch >= 0)
    for row in range(len(plain.ids)):
        assert plain.mask()[row, 0][behind[row]][:, plain.log[row] > 0].all()


def test_a_reply_names_what_its_log_says_of_whom_is_asked(batch):
    kinds = set()
    for row in range(len(batch.ids)):
        for number, lesson in enumerate(batch.lessons[row], 1):
            kinds.add(lesson.kind)
            learned = batch.ids[row][1:][(batch.branch[row][1:] == number) & (batch.labels[row][:-1] != IGNORED)]
            assert TOKENIZER.decode(learned).strip().startswith(lesson.reply)
            said = TOKENIZER.decode(batch.ids[row][batch.log[row] > 0])
            answer = lesson.reply.partition("<ans> ")[2].partition("<")[0]
            assert f"is {answer}." in said
    assert kinds == {"restated", "same_round", "one_back", "two_back"}


@pytest.mark.parametrize(
    "setting", ["rate=-1", "hidden=64", "layers=2", "heads=1", "inner=8", "drill_steps=5", "easy_steps=-1"]
)
def test_settings_that_do_nothing_or_harm_are_refused(setting, tmp_path, capsys):
    assert tools(["carry", str(tmp_path / "made"), setting]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_training_in_pieces_gives_the_same_model_and_another_mask_another(tmp_path):
    whole = CarryConfig(**SMALL, steps=3, decay=0.01)
    train(tmp_path / "whole", whole)
    train(tmp_path / "parts", whole.model_copy(update={"steps": 2}))
    train(tmp_path / "parts", whole)
    train(tmp_path / "control", whole.model_copy(update={"hidden_rounds": True}))
    found = {name: load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts", "control")}
    weights = [key for key in found["whole"] if key.startswith("model/")]
    assert all(torch.equal(found["whole"][key], found["parts"][key]) for key in weights)
    assert not all(torch.equal(found["whole"][key], found["control"][key]) for key in weights)
    with pytest.raises(ConfigError, match="other settings"):
        train(tmp_path / "whole", whole.model_copy(update={"hidden_rounds": True}))


def test_worlds_with_too_few_facts_are_drawn_larger():
    for step in range(90, 110):  # of the committed model's run, one of which has such a world
        assert all(log_batch(f"0.{step}", TOKENIZER, rows=8, tokens=256, apart=True).lessons)
