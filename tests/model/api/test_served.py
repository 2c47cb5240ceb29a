"""Against a real server: `transformers serve` with the testbed's model on loopback, started once for all tests."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec

import pandas as pd
import pytest

from lagkit.model.api import serving as serving_module
from lagkit.model.api.model import APIModel
from lagkit.model.api.requests import Chat
from lagkit.model.api.served import ALONE
from lagkit.model.api.serving import serving
from lagkit.model.context import Context
from lagkit.model.lm import LM
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.studies.recovery import gains, run_behind_api
from lagkit.util.errors import ConfigError, EndpointError

MISSING = [name for name in ("openai", "fastapi", "uvicorn") if find_spec(name) is None]
served = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install 'lagkit[api]'")

STOP = ("</ans>", "</keywords>")
WORLD = {"entities": 90, "log_questions": 10, "unseen_questions": 5, "hops": [1, 2]}


@pytest.fixture(scope="module")
def lm():
    with serving("testbed", seconds=120) as lm:
        yield lm


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Experiment:
    """A finished run on the spot in a small world."""
    out = tmp_path_factory.mktemp("local")
    settings = {"out": out, "world": WORLD, "embedder": "hash", "splits": ("unseen",), "max_rounds": 3}
    run = Experiment(RunConfig.of("testbed", policies=("no_logs", "kv_last_round"), **settings))
    run.run()
    return run


@served
def test_the_server_says_what_the_same_model_says_on_the_spot(lm, local):
    model = LM.load("testbed", device="cpu", dtype="float32")
    head, questions = local.prompt.head(), local.questions("unseen")
    turns = [local.prompt.user_turn(q, local.data.passages[i : i + 4]) for i, q in enumerate(questions)]
    chats = [Chat((*head, {"role": "user", "content": turn})) for turn in turns]
    contexts = [Context(tuple(model.tokenize(model.chat(chat.messages, open_turn=True)))) for chat in chats]
    there, here = lm.generate(chats, 64, stop=STOP), model.generate(contexts, 64, stop=STOP)
    assert [answer.text for answer in there] == [answer.text for answer in here]
    assert all(answer.text.endswith(STOP) for answer in there)
    assert [answer.usage.prefilled for answer in there] == [len(context.ids) for context in contexts]
    # Stop strings are not sent: the server goes on to the end token, which is paid for, and the text is cut here.
    whole = model.generate(contexts, 64)
    assert [answer.usage.generated for answer in there] == [answer.usage.generated for answer in whole]
    assert [answer.ids[:-1] for answer in whole] == [answer.ids for answer in here]


def test_the_model_restates_the_question_by_itself_and_at_the_end_of_the_user_turn_it_misleads(local):
    model, prompt = local.lm, local.prompt
    told = {passage.id: passage for passage in local.data.passages}
    asked: dict[str, list[tuple[Context, str]]] = {"opened": [], "dropped": [], "in the user turn": []}
    for question in local.log_questions:
        user = prompt.user_turn(question, [told[hop.passage_id] for hop in question.hops])
        opening = question.text
        forms = {"opened": (user, opening), "dropped": (user, ""), "in the user turn": (f"{user}\n\n{opening}", "")}
        for form, (turn, opened) in forms.items():
            chat = model.chat([*prompt.head(), {"role": "user", "content": turn}], open_turn=True)
            asked[form].append((Context(tuple(model.tokenize(chat + opened))), opened))
    said = {}
    for form, some in asked.items():
        answers = model.generate([context for context, _ in some], 64, stop=STOP)
        said[form] = [(opened + answer.text).strip() for (_, opened), answer in zip(some, answers, strict=True)]
    same = {form: sum(a == b for a, b in zip(said["opened"], said[form], strict=True)) for form in said}
    assert same["dropped"] == len(local.log_questions) == 10
    assert same["in the user turn"] <= 5


@served
def test_answers_that_are_cut_short_stay_open(lm, local):
    [answer] = lm.generate([Chat((*local.prompt.head(), {"role": "user", "content": "Question: Who?"}))], 2, stop=STOP)
    assert answer.usage.generated == 2
    assert not answer.text.endswith(STOP)


@served
def test_a_model_that_is_not_served_is_told(lm):
    with pytest.raises(EndpointError, match=r"400: Server is pinned to 'testbed'; requested 'other'\)"):
        APIModel("other", endpoint=lm.endpoint).generate([Chat(({"role": "user", "content": "x"},))], 4)


@served
def test_text_variants_run_through_the_server_with_the_logs_of_the_run_on_the_spot(lm, local, tmp_path):
    variants = ("text_last_round_user_turn", "text_all_rounds_user_turn", "cheatsheet")
    run = run_behind_api(local, lm, variants, tmp_path)
    with run.store() as store, local.store() as logs:
        assert store.ids == logs.ids
    sent, results = lm.asking.sent, run.scored(run.config.policies, ("unseen",))
    assert run_behind_api(local, lm, variants, tmp_path).scored(run.config.policies, ("unseen",)).equals(results)
    assert lm.asking.sent == sent  # nothing was asked again
    assert not results["failed"].any()
    by_policy = results.groupby("policy", sort=False)
    assert by_policy.size().to_dict() == dict.fromkeys(("no_logs", *variants), 5)
    assert (results["injected"] == 0).all()
    # The model restates the question by itself: the same answers as on the spot.
    here = local.scored(("no_logs",), ("unseen",)).set_index("question_id")
    there = by_policy.get_group("no_logs").set_index("question_id")
    assert there["answer"].tolist() == here.loc[there.index, "answer"].tolist()
    both = pd.concat(
        [local.scored(local.config.policies, ("unseen",)).assign(where="local"), results.assign(where="API")]
    )
    hops = {q.id: [hop.id for hop in q.hops] for q in local.questions("unseen")}
    table = gains(both, ("local", "kv_last_round"), hops, "em")
    assert set(table.index) == {("local", "kv_last_round"), *(("API", name) for name in variants)}


@served
def test_kv_is_refused_before_the_server_is_asked(lm, local, tmp_path):
    sent = lm.asking.sent
    with pytest.raises(ConfigError, match="KV of a model behind an API"):
        run_behind_api(local, lm, ["kv_last_round"], tmp_path / "new")
    assert lm.asking.sent == sent
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("print('no such device'); raise SystemExit(3)", "ended with 3; it last said: no such device."),
        ("import time; time.sleep(60)", "did not answer within 0.5 s; it last said: nothing."),
    ],
)
def test_a_server_that_does_not_start_is_told_with_its_last_words_and_ended(monkeypatch, does, message):
    monkeypatch.setattr(serving_module, "_SERVE", (sys.executable, "-c", does))
    began = time.monotonic()
    with pytest.raises(EndpointError) as caught, serving("testbed", seconds=0.5 if "sleep" in does else 20):
        pytest.fail("it started")
    assert str(caught.value) == f"`transformers serve` {message}"
    assert time.monotonic() - began < 20


def test_a_server_ends_when_whoever_started_it_is_gone():
    command = [*serving_module._SERVE, "nothing", "--port", "0"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert server.poll() is None
    server.stdin.close()
    assert server.wait(30) == ALONE


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(serving_module, "find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(ConfigError, match=r"needs fastapi: pip install 'lagkit\[api\]'"), serving("testbed"):
        pytest.fail("it started")


def test_gains_are_paired_with_the_reference_and_recovered_only_where_there_is_something_to_recover():
    right = {
        ("local", "no_logs"): [0, 0, 0, 0, 1, 0, 0, 0],
        ("local", "kv"): [1, 1, 1, 1, 1, 1, 1, 0],
        ("API", "no_logs"): [0, 0, 0, 0, 1, 0, 0, 1],
        ("API", "text"): [1, 1, 0, 0, 1, 1, 0, 1],
    }
    rows = [
        {"where": where, "policy": policy, "question_id": str(i), "em": float(value)}
        for (where, policy), values in right.items()
        for i, value in enumerate(values)
    ]
    alone = {str(i): [i] for i in range(8)}
    table = gains(pd.DataFrame(rows), ("local", "kv"), alone, "em")
    assert table.loc[("local", "kv"), ["mean", "apart", "recovered"]].tolist() == [0.75, 0.0, 1.0]
    assert table.loc[("API", "text"), ["mean", "apart", "recovered"]].tolist() == [0.375, -0.375, 0.5]
    assert table.loc[("API", "text"), "apart_low"] < -0.375 < table.loc[("API", "text"), "apart_high"]
    weak = gains(pd.DataFrame(rows), ("API", "text"), alone, "em")
    assert weak["recovered"].isna().all()  # 3 of 8 questions: its interval covers zero
