"""A model behind an API: what is sent, what comes of the answers, and each fault in a sentence."""

from __future__ import annotations

import socket
import time
import traceback

import pytest

from lagkit.agent.chat import admit
from lagkit.model.api import model as api_model
from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.model import APIModel
from lagkit.model.api.requests import Chat, Requests
from lagkit.model.loading import load_model
from lagkit.model.prompts.actions import cut
from lagkit.policy import POLICIES, Policy, chat_refusal
from lagkit.runs.config import RunConfig
from lagkit.types import Limits, Usage
from lagkit.util.errors import ConfigError, ContextTooLong, EndpointError, RequestRefused
from tests.helpers.endpoints import KEY, Reply, failed, playing, said

CHAT = Chat(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which river?"}))
STOP = ("</ans>", "</keywords>")
VARIABLES = ("LAGKIT_API_BASE", "LAGKIT_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY")


def ask(played, **requests):
    """One answer, or the error in its place."""
    [answer] = played.model(**requests).generate([CHAT], 64, stop=STOP)
    return answer


def failing(played, error=EndpointError, **requests) -> str:
    """The sentence with which asking fails; neither it nor its traceback tells the key."""
    with pytest.raises(error) as caught:
        ask(played, **requests)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value).replace(played.url, "URL")


# What is sent, and what comes back


def test_a_request_is_greedy_and_carries_the_chat_and_the_limit_but_no_stop_strings():
    with playing([said("It is <ans>the Danube</ans>", read=12, wrote=7)]) as played:
        answer = ask(played)
    assert played.asked == [{"model": "m", "messages": list(CHAT.messages), "temperature": 0.0, "max_tokens": 64}]
    assert played.keys == [f"Bearer {KEY}"]
    assert answer.text == "It is <ans>the Danube</ans>"
    assert (answer.usage.prefilled, answer.usage.injected, answer.usage.generated) == (12, 0, 7)
    assert 0 < answer.usage.seconds < 5


def test_what_some_endpoints_do_not_know_can_be_left_out_or_renamed():
    with playing([said("x")]) as played:
        played.model(temperature=None, limit="max_completion_tokens").generate([CHAT], 9)
    assert played.asked == [{"model": "m", "messages": list(CHAT.messages), "max_completion_tokens": 9}]


@pytest.mark.parametrize(
    ("text", "finish", "whole"),
    [
        ("<ans>a</ans> no. <keywords>b</keywords>", "stop", "<ans>a</ans>"),
        ("a <keywords>b</keywords> <ans>c</ans>", "stop", "a <keywords>b</keywords>"),
        ("a <ans>b</ans>", "stop", "a <ans>b</ans>"),
        ("a <ans>b</ans> and on <ans>c", "length", "a <ans>b</ans>"),
        ("a <ans>b", "stop", "a <ans>b"),
        ("a <ans>b", "length", "a <ans>b"),
        ("no tag at all", "stop", "no tag at all"),
        (None, "stop", ""),
    ],
)
def test_an_answer_is_cut_behind_its_first_action(text, finish, whole):
    with playing([said(text, finish)]) as played:
        assert ask(played).text == whole


def test_cutting_without_stop_strings_changes_nothing():
    assert cut("a <ans>b</ans> c", ()) == "a <ans>b</ans> c"


def test_answers_come_in_the_order_of_the_chats_and_tokens_and_cost_add_up():
    chats = [Chat(({"role": "user", "content": str(i)},)) for i in range(9)]

    def echo(asked):
        number = int(asked["messages"][0]["content"])
        return Reply(200, said(str(number), read=100 * number, wrote=number).body, seconds=0.05 * (number % 3))

    with playing(echo) as played:
        model = played.model(input_price=2.0, output_price=10.0)
        answers = model.generate(chats, 8, batch_size=4)
    assert [answer.text for answer in answers] == [str(i) for i in range(9)]
    assert model.spent == Usage(3600, 0, 36)
    assert model.cost == pytest.approx((2 * 3600 + 10 * 36) / 1e6)
    assert model.requests.cost(answers[5].usage) == pytest.approx((2 * 500 + 10 * 5) / 1e6)
    assert (model.asking.sent, model.asking.repeated) == (9, 0)


def test_an_endpoint_that_tells_no_usage_is_named_once(capsys, monkeypatch):
    monkeypatch.setenv("LAGKIT_PROGRESS", "lines")
    with playing([said("x", usage=None)]) as played:
        model = played.model()
        answers = model.generate([CHAT], 8) + model.generate([CHAT], 8)
    assert [answer.usage.prefilled for answer in answers] == [0, 0]
    assert "does not tell how many tokens it used" in capsys.readouterr().err


# Faults


def test_a_wrong_key_is_told_at_once_and_not_repeated():
    with playing([failed(401, f"Incorrect API key provided: {KEY}", "invalid_api_key")]) as played:
        assert failing(played) == (
            "URL refuses the key (401: Incorrect API key provided: [the key]): set the endpoint's key beside its "
            "address, in LAGKIT_API_KEY."
        )
    assert len(played.asked) == 1


def test_one_that_fails_for_all_ends_the_others_and_is_the_one_that_is_told():
    def by_number(asked):
        number = int(asked["messages"][0]["content"])
        return failed(401, "{no} such key") if number == 3 else Reply(200, said("x").body, seconds=0.3)

    chats = [Chat(({"role": "user", "content": str(i)},)) for i in range(30)]
    with playing(by_number) as played:
        with pytest.raises(EndpointError, match=r"refuses the key \(401: {no} such key\)"):
            played.model().generate(chats, 8, batch_size=4)
        assert len(played.asked) < 10


def test_a_rate_limit_is_waited_for_as_long_as_the_endpoint_asks():
    with playing([failed(429, "slow down", retry_after="0.4"), said("<ans>x</ans>")]) as played:
        model = played.model()
        [answer] = model.generate([CHAT], 8, stop=STOP)
    assert answer.text == "<ans>x</ans>"
    assert 0.4 <= played.times[1] - played.times[0] < 2
    assert (model.asking.sent, model.asking.repeated) == (2, 1)


def test_a_rate_limit_that_lasts_ends_in_a_sentence():
    with playing([failed(429, "slow down")]) as played:
        assert failing(played, retries=3) == (
            "URL limits the rate of requests, lower api.per_minute: slow down (tried 4 times). What has ended is kept: "
            "the same command resumes."
        )
    assert len(played.asked) == 4
    gaps = [b - a for a, b in zip(played.times, played.times[1:], strict=False)]
    assert all(gap >= least for gap, least in zip(gaps, (0.0075, 0.015, 0.03), strict=True))


def test_who_is_asked_to_wait_too_long_does_not():
    with playing([failed(429, "tomorrow", retry_after="3600")]) as played:
        assert "tomorrow (tried once)" in failing(played)
    with playing([failed(429, "pay", "insufficient_quota", x_should_retry="false")]) as played:
        assert failing(played) == "URL has no credit left for this key (429: pay): add some."
        assert len(played.asked) == 1


def test_an_endpoint_that_fails_for_a_moment_is_asked_again():
    with playing([failed(500, "oops"), failed(503, "busy"), said("<ans>x</ans>")]) as played:
        assert ask(played).text == "<ans>x</ans>"
    with playing([failed(500, "oops")]) as played:
        assert failing(played, retries=1).startswith("URL fails with 500: oops (tried 2 times).")


def test_nobody_listening_is_waited_for_and_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    model = APIModel("m", endpoint=Endpoint(url, KEY), requests=Requests(retries=1))
    sentence = r"cannot be reached, see that the address in LAGKIT_API_BASE is right and its server runs: .*refused.* "
    with pytest.raises(EndpointError, match=sentence + r"\(tried 2 times\)"):
        model.generate([CHAT] * 3, 8)


def test_an_endpoint_that_hangs_is_given_up():
    with playing([Reply(200, {}, seconds=0.6)]) as played:
        assert failing(played, timeout=0.1, retries=1).startswith("URL did not answer within 0.1 s (tried 2 times).")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b'{"choices": ['),
        Reply(200, b"<html>Welcome</html>", {"Content-Type": "text/html"}),
        Reply(200, {"choices": []}),
        Reply(200, {"choices": None, "object": "chat.completion"}),
        Reply(200, []),
    ],
)
def test_what_is_no_completion_is_told(reply):
    with playing([reply]) as played:
        assert failing(played).startswith("URL does not answer in the form of OpenAI's API: ")
    assert len(played.asked) == 1


def test_an_unknown_model_and_an_unknown_field_are_told():
    with playing([failed(404, "no such model")]) as played:
        assert failing(played).startswith("URL has no model 'm', or not at this address (404: no such model):")
    with playing([failed(400, "Unsupported parameter: max_tokens", "unsupported_parameter")]) as played:
        assert "does not understand the request (400: Unsupported parameter: max_tokens): see" in failing(played)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        ("This model's maximum context length is 2048 tokens. However, you requested 3000 tokens", None),
        ("the request exceeds the available context size", None),
    ],
)
def test_a_chat_that_is_too_long_fails_alone(message, code):
    def by_length(asked):
        return failed(400, message, code) if len(asked["messages"]) == 1 else said("x")

    with playing(by_length) as played:
        long, short = played.model().generate([Chat(CHAT.messages[:1]), CHAT], 8)
    assert isinstance(long, ContextTooLong)
    assert str(long).endswith(f"({'400'}: {message.rstrip('.')}): show fewer logs, or lower max_new_tokens.")
    assert short.text == "x"
    assert len(played.asked) == 2


def test_refused_content_fails_alone():
    with playing([failed(400, "unsafe", "content_filter")]) as played:
        assert isinstance(ask(played), RequestRefused)
    with playing([said("", "content_filter")]) as played:
        assert isinstance(ask(played), RequestRefused)


# Pace


def test_requests_are_spaced_out():
    with playing([said("x")]) as played:
        lm, began = played.model(per_minute=600), time.monotonic()
        lm.generate([CHAT] * 4, 8)
    after = [arrived - began for arrived in sorted(played.times)]
    assert all(seconds > 0.1 * i - 0.01 for i, seconds in enumerate(after))  # sent a tenth of a second apart, or more
    assert after[-1] < 5


def test_repeated_requests_are_spaced_out_too():
    with playing([failed(500)]) as played:
        failing(played, per_minute=300, retries=2)
    assert all(b - a > 0.19 for a, b in zip(played.times, played.times[1:], strict=False))
    assert len(played.asked) == 3


# Where it is, and that the key stays there


def test_address_and_key_come_from_the_environment_as_a_pair(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"No endpoint is set: put its address into LAGKIT_API_BASE \(or OPENAI_BASE"):
        load_model("api:m")
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    assert Endpoint.find() == Endpoint("https://api.openai.com/v1", "theirs")
    monkeypatch.setenv("LAGKIT_API_BASE", "https://example.org/v1")
    with pytest.raises(ConfigError, match="LAGKIT_API_KEY is not set, but LAGKIT_API_BASE is set: put the"):
        Endpoint.find()  # the key of another endpoint is not sent there
    monkeypatch.setenv("LAGKIT_API_KEY", "ours")
    assert Endpoint.find() == Endpoint("https://example.org/v1", "ours")
    assert Endpoint.find("http://localhost:1/v1") == Endpoint("http://localhost:1/v1", "ours")
    assert repr(load_model("api:m")) == "APIModel('m', example.org)"


@pytest.mark.parametrize("address", ["example.org/v1", "ftp://example.org", "https://"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="not of the form https://HOST/v1"):
        Endpoint(address, KEY)


def test_fingerprint_and_repr_hold_neither_key_nor_password_nor_port():
    model = APIModel("m", endpoint=Endpoint(f"https://user:{KEY}@example.org:8443/v1", KEY))
    assert model.fingerprint == {"name": "m", "host": "example.org"}
    assert KEY not in repr(model) + repr(model.endpoint.shown) + str(model.fingerprint)
    assert KEY not in repr(Endpoint("https://example.org/v1", KEY))


def test_without_the_client_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(api_model, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lagkit\[api\]'"):
        APIModel("m")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="has no name"):
        load_model("api:")


# What it cannot do


OUT_OF_REACH = [n for n, p in POLICIES.items() if p and p.place != "user_turn" and p.inject != "copy"]


@pytest.mark.parametrize("name", OUT_OF_REACH)
def test_policies_out_of_reach_are_refused_with_a_reason_before_anything_runs(name, tmp_path):
    policy = POLICIES[name]
    reason = chat_refusal(policy, Limits())
    wanted = "KV of a model behind an API" if policy.inject == "kv" else "in front of BOS, which cannot be reached"
    assert wanted in reason
    assert "text_last_round_user_turn, text_all_rounds_user_turn" in reason
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"data": tmp_path, "out": tmp_path, "model": "api:m", "policies": ["no_logs", name]})
    assert str(caught.value) == f"Wrong run settings: {reason}"
    model = APIModel("m", endpoint=Endpoint("https://example.org/v1", KEY))
    with pytest.raises(ConfigError) as caught:
        admit(model, policy, Limits())
    assert str(caught.value) == reason


@pytest.mark.parametrize("name", ["no_logs", "copy_nearest", "cheatsheet", "text_all_rounds_user_turn"])
def test_policies_in_the_user_turn_are_within_reach(name):
    assert chat_refusal(POLICIES[name], Limits()) == ""
    assert chat_refusal(POLICIES[name], Limits(force_answer=True)).startswith("force_answer has the model go on")


def test_forced_answers_are_refused_for_a_variant_alone_too(tmp_path):
    settings = {"data": tmp_path, "out": tmp_path, "model": "api:m"}
    for more in (
        {"policies": ["no_logs", "no_logs+force_answer=true"]},
        {"policies": ["no_logs"], "force_answer": True},
    ):
        with pytest.raises(ConfigError, match="force_answer has the model go on from an answer"):
            RunConfig.parse({**settings, **more})
    assert "choose place user_turn" in chat_refusal(Policy("text", place="prefix"), Limits())
