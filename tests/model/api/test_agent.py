"""The same agent and the same runs through an endpoint: chats, faults on the way, stores without KV, no key on disk."""

from __future__ import annotations

import json

import pytest

from lagkit.agent.loop import Agent
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.logs.store import LogStore
from lagkit.policy import POLICIES
from lagkit.runs import manifest
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.stats import metrics
from lagkit.studies.knockout import reuse
from lagkit.types import Limits
from lagkit.util.errors import ConfigError, EndpointError
from tests.helpers.endpoints import KEY, failed, playing, said
from tests.helpers.lms import SAMPLE, open_store, passages_about, qa, short_prompt, trace_of

EMBEDDER = HashEmbedder()
RIVER, SEA = qa("Which river?"), qa("Which sea?")
LOGS = [trace_of("First <keywords>k</keywords>", "Then <ans>Danube</ans>", question="Which river?")]
SEARCH, ANSWER = "I look. <keywords>river</keywords>", "Found. <ans>x</ans>"


def agent(lm, policy=None, store=None, **limits) -> Agent:
    passages = PassageIndex(passages_about("river", "sea"), EMBEDDER)
    settings = Limits(**{"passages": 1, "max_new_tokens": 8, **limits})
    return Agent(
        lm, prompt=short_prompt(), embedder=EMBEDDER, passages=passages, policy=policy, store=store, limits=settings
    )


def turn(number: int, asked: list[dict]) -> str:
    """The user's turn of a request."""
    return asked[number]["messages"][-1]["content"]


def test_two_rounds_through_a_chat():
    with playing([said(SEARCH, read=20, wrote=4), said(ANSWER, read=30, wrote=3)]) as played:
        [trace] = agent(played.model()).run([RIVER])
    assert (trace.answer, trace.error) == ("x", None)
    # The assistant's turn cannot be opened: what the model says is the response, and the prompt's opening is not in it.
    assert [r.response for r in trace.rounds] == ["I look. <keywords>river</keywords>", "Found. <ans>x</ans>"]
    assert trace.rounds[1].query == "river"
    assert (trace.usage.prefilled, trace.usage.injected, trace.usage.generated) == (50, 0, 7)
    roles = [[m["role"] for m in request["messages"]] for request in played.asked]
    assert roles == [["system", "user"]] * 2
    assert turn(0, played.asked) == "[1] River: All about river.\n\nQuestion: Which river?"


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("text_last_round_user_turn", "Then <ans>Danube</ans>"),
        ("text_all_rounds_user_turn", "First <keywords>k</keywords>\n\nThen <ans>Danube</ans>"),
    ],
)
def test_logs_stand_in_the_user_turn(tmp_path, name, notes):
    with playing([said(ANSWER)]) as played, open_store(tmp_path, played.model(), *LOGS) as store:
        [trace] = agent(played.model(), POLICIES[name], store).run([RIVER])
    assert turn(0, played.asked).startswith(f"Notes:\n{notes}\n\n[1] River")
    assert trace.answer == "x"


def test_a_cheatsheet_is_distilled_through_the_endpoint_and_shown(tmp_path):
    def by_request(asked):
        distils = asked["messages"][0]["content"] == "Distil."
        return said("Rivers end.", read=100) if distils else said(ANSWER, read=7)

    with playing(by_request) as played, open_store(tmp_path, played.model(), *LOGS) as store:
        [trace] = agent(played.model(), POLICIES["cheatsheet"], store).run([RIVER])
    assert played.asked[0]["messages"] == [
        {"role": "system", "content": "Distil."},
        {"role": "user", "content": "Logs:\nWhich river?\nThen <ans>Danube</ans>\n\nQuestion: Which river?"},
    ]
    assert turn(1, played.asked).startswith("Notes:\nRivers end.\n\n[1]")
    assert trace.usage.prefilled == 107


def test_a_question_that_is_too_long_fails_alone_and_nobody_is_asked_twice():
    def by_question(asked):
        return failed(400, "maximum context length", "x") if "sea?" in str(asked) else said(ANSWER)

    with playing(by_question) as played:
        traces = {t.question_id: t for t in agent(played.model()).run([SEA, RIVER])}
    assert traces[RIVER.id].answer == "x"
    assert traces[SEA.id].error.startswith("ContextTooLong: question 'Which sea?': http://127.0.0.1:")
    assert len(played.asked) == 2


def test_an_endpoint_that_goes_down_ends_the_run_and_blames_no_question():
    with playing([said(ANSWER), failed(401, "key expired")]) as played:
        asking = agent(played.model(), batch_size=1).run([RIVER, SEA])
        assert next(asking).answer == "x"
        with pytest.raises(EndpointError, match="refuses the key"):
            next(asking)


def api_run(out, lm, **settings) -> Experiment:
    """A run of six logs and three questions a split through an endpoint."""
    chosen = {
        **{"data": SAMPLE, "out": out, "model": "api:m", "embedder": "hash", "wording": "plain"},
        **{"log_questions": 6, "seen_questions": 3, "unseen_questions": 3, "max_rounds": 2, "max_new_tokens": 4},
        **{"policies": ("no_logs", "text_last_round_user_turn", "cheatsheet"), "batch_size": 3},
        **{"api": {"input_price": 1.0, "output_price": 4.0}},
    }
    return Experiment(RunConfig.parse({**chosen, **settings}), lm=lm, embedder=EMBEDDER)


def test_a_run_through_an_endpoint_is_priced_and_keeps_neither_kv_nor_key(tmp_path):
    with playing([said(ANSWER, read=100, wrote=10)]) as played:
        lm = played.model()
        results = api_run(tmp_path, lm).run()
        asked = len(played.asked)
        again = api_run(tmp_path, lm, api={"input_price": 1.0, "output_price": 4.0, "per_minute": 999}).run()
        assert len(played.asked) == asked  # other limits, the same run
    assert again.equals(results)
    table = metrics.summarize(results)["cost"].unstack("split")
    assert table.loc["no_logs"].tolist() == pytest.approx([140e-6] * 2)
    assert table.loc["cheatsheet"].tolist() == pytest.approx([280e-6] * 2)  # notes and answer
    with LogStore.open(tmp_path / "store", {"name": "m", "host": "127.0.0.1"}) as store:
        assert len(store) == 6
        assert [store.block_keys(log) for log in store.ids] == [[]] * 6
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"The endpoint read {100 * asked:,} tokens and wrote {10 * asked} for logs and answers" in page
    assert f"at a cost of {140e-6 * asked:.4g}." in page
    assert "| 0.00028 |" in page
    assert manifest.read_manifest(tmp_path)["model"] == {"name": "m", "host": "127.0.0.1"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 8
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_a_run_that_was_broken_off_goes_on_where_it_was(tmp_path):
    with playing([*[said(ANSWER)] * 7, failed(500, "oops")]) as played, pytest.raises(EndpointError, match="resumes"):
        api_run(tmp_path, played.model(retries=0), batch_size=1).run()
    book = (tmp_path / "traces" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(book) == 6
    with playing([said(ANSWER)]) as played:
        results = api_run(tmp_path, played.model(), batch_size=1).run()
    assert not results["failed"].any()
    # Two variants and one without logs on three unseen questions, the two on three seen ones; notes are asked for, too.
    assert len(played.asked) == 3 * 2 + 3 * 2 * 2 + 3 - 1


def test_another_temperature_is_another_run(tmp_path):
    with playing([said(ANSWER)]) as played:
        api_run(tmp_path, played.model()).run()
        with pytest.raises(ConfigError, match=r"temperature was 0\.0 and is 1\.0"):
            api_run(tmp_path, played.model(), api={"temperature": 1.0})


@pytest.mark.parametrize("named", [{"model": "api:m"}, {"model": "smollm2", "api": None}], ids=["settings", "model"])
def test_what_a_model_cannot_do_is_refused_before_anything_is_asked(tmp_path, named):
    """By the settings, or by the model itself where they name another."""
    with playing([said(ANSWER)]) as played:
        with pytest.raises(ConfigError, match="KV of a model behind an API"):
            api_run(tmp_path, played.model(), policies=("no_logs", "kv_last_round"), **named)
        assert played.asked == []
    assert not (tmp_path / "traces").exists()


def test_settings_of_the_endpoint_are_checked(tmp_path):
    with pytest.raises(ConfigError, match=r"api\.per_minute"):
        api_run(tmp_path, None, api={"per_minute": 0})
    with pytest.raises(ConfigError, match=r"api\.key: Extra inputs"):
        api_run(tmp_path, None, api={"key": "x"})
    assert "key" not in json.dumps(RunConfig.model_json_schema()["$defs"]["Requests"]["properties"])


def test_the_kv_of_a_model_behind_an_api_is_out_of_reach(tmp_path):
    with playing([]) as played:
        run = api_run(tmp_path, played.model())
        with pytest.raises(ConfigError, match="m is behind an API, which lets nobody reach its KV: choose"):
            reuse(run, [], ["kv_last_round"])
