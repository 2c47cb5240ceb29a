"""Canaries in the environment: nothing that a run, a notebook or a night writes or prints holds one of them."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit import __main__ as cli
from lagkit.api.chat import Chat
from lagkit.api.endpoint import Endpoint
from lagkit.errors import ConfigError, EndpointError
from lagkit.secrets import scrub, scrub_file
from tests.endpoints import Reply, failed, playing, said
from tests.lms import SAMPLE
from tests.nights import project

CANARIES = {
    "LAGKIT_API_KEY": "sk-canary-4711-lagkit",
    "OPENAI_API_KEY": "sk-canary-4712-openai",
    "HF_TOKEN": "hf_canary4713",
    "AWS_ACCESS_KEY_ID": "AKIACANARY4714",
    "AWS_SECRET_ACCESS_KEY": "canary4715/with+signs",
    "AWS_SESSION_TOKEN": "canary4716==",
    "DATABASE_URL": "postgres://canary:canary4717pass@db.example.org/x",
}
KEY = CANARIES["LAGKIT_API_KEY"]


@pytest.fixture
def canaries(monkeypatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def leaks(*texts: str, folder: Path | None = None) -> list[str]:
    """Where a canary stands: the first words of texts, the names of files."""
    found = [text[:80] for text in texts if "canary" in text.lower()]
    files = folder.rglob("*") if folder else ()
    return found + [str(path) for path in files if path.is_file() and b"canary" in path.read_bytes().lower()]


OTHER = st.text(st.characters(exclude_characters="/@"))  # of which no address is made


@given(before=OTHER, after=OTHER, spell=st.sampled_from([str, lambda s: json.dumps([s]), repr]))
def test_a_secret_is_taken_out_wherever_it_stands(before, after, spell):
    secret = 'canary4718"\\/ünïcode'
    assert scrub(before + secret + after, secret) == scrub(before) + "[secret]" + scrub(after)
    assert "canary4718" not in scrub(before + spell(secret) + after, secret)


def test_words_numbers_and_addresses_stay(canaries, monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "not-needed")
    monkeypatch.setenv("TOKEN_LIMIT", "123456789")
    text = "The key is not-needed in 123456789 of https://example.org/a@b/c?d=e@f and user@example.org."
    assert scrub(text) == text
    assert scrub("postgres://canary:canary4717pass@db.example.org/x") == "postgres://db.example.org/x"
    assert scrub("password canary4717pass, https://u:p@h/v1") == "password [secret], https://h/v1"


def test_a_file_without_secrets_is_not_touched(canaries, tmp_path):
    clean, dirty = tmp_path / "clean", tmp_path / "dirty"
    clean.write_bytes(b"\xff not text\r\n")
    dirty.write_bytes(b"\xff \r\n" + KEY.encode())
    before = clean.stat().st_mtime_ns
    scrub_file(clean)
    scrub_file(dirty)
    assert (clean.read_bytes(), clean.stat().st_mtime_ns) == (b"\xff not text\r\n", before)
    assert dirty.read_bytes() == b"\xff \r\n[secret]"
    assert sorted(tmp_path.iterdir()) == [clean, dirty]


@pytest.mark.parametrize(
    "address",
    [
        "canary:canary4717@example.org/v1",
        "https://canary:canary4717@",
        "https://example:canary4717",
        "https://user:canary/4717@example.org/v1",
        "http://[canary4717@example.org/v1",
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(address):
    with pytest.raises(ConfigError, match="not of the form https://HOST/v1") as caught:
        Endpoint(address, "key")
    assert leaks(*traceback.format_exception(caught.value)) == []


@pytest.mark.parametrize("key", ["sk-canary 4711", "sk-canary\n4711", "sk-canary\u20194711"])
def test_a_key_that_no_header_carries_is_refused_before_it_is_sent(key):
    with pytest.raises(ConfigError, match="a space, a line break or a letter beyond ASCII") as caught:
        Endpoint("https://example.org/v1", key)
    assert leaks(*traceback.format_exception(caught.value)) == []


# What an endpoint may say that has the key in it.
ECHOES = {
    "wrong key": failed(401, f"Incorrect API key provided: {KEY}.", "invalid_api_key"),
    "not understood": failed(400, f"Unknown header Bearer {KEY}"),
    "for its content": failed(400, f"The words {KEY} are not allowed", "content_filter"),
    "too long": failed(413, f"The prompt is too long: {KEY}"),
    "down": failed(500, f"Traceback: key={KEY!r}"),
    "other form": Reply(200, {"object": "x" * 58 + KEY}),
    "no JSON": Reply(200, f"<html>{KEY}</html>".encode()),
    "answer": said(f"Your key is <ans>{KEY}"),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_no_run_keeps_or_prints_what_an_endpoint_repeats(canaries, tmp_path, monkeypatch, capsys, caplog, echo):
    caplog.set_level(logging.DEBUG)
    settings = [f"data={SAMPLE}", "dataset=musique", "embedder=hash-64", f"out={tmp_path}", "model=api:m"]
    settings += ["max_rounds=1", "log_questions=2", "seen_questions=2", "unseen_questions=2"]
    settings += ["policies=[no_logs, text_last_round_user_turn]", "api={retries: 1, backoff: 0.0}"]
    with playing([said("I see. <ans>x"), ECHOES[echo]]) as played:
        monkeypatch.setenv("LAGKIT_API_BASE", played.url.replace("://", "://canary:canary4717pass@"))
        code = cli.main(["run", "smollm2", "--set", *settings])
    assert len(played.asked) > 1
    assert code == (0 if echo in ("answer", "for its content", "too long") else 2)
    printed = capsys.readouterr()
    assert leaks(printed.out, printed.err, folder=tmp_path) == []
    # The client's own log of requests; of headers it logs the names.
    assert leaks(*(record.getMessage() for record in caplog.records)) == []
    assert json.loads((tmp_path / "manifest.json").read_text())["model"] == {"name": "m", "host": "127.0.0.1"}


def test_an_error_and_its_traceback_hold_no_key(canaries):
    with playing([ECHOES["wrong key"]]) as played, pytest.raises(EndpointError, match=r"\[the key\]") as caught:
        played.model(KEY).generate([Chat(({"role": "user", "content": "?"},))], 1)
    assert leaks(*traceback.format_exception(caught.value)) == []


FOREIGN = """
import os, sys
print("stdout", os.environ["AWS_SECRET_ACCESS_KEY"], file=sys.stdout)
print("stderr", os.environ["HF_TOKEN"], file=sys.stderr)
raise OSError(f"403 from https://canary:x@bucket/?AWSAccessKeyId={os.environ['AWS_ACCESS_KEY_ID']}")
"""
REFUSED = """
from lagkit.api.chat import Chat
from lagkit.backend import load_model
lm = load_model("api:m")
lm
lm.endpoint
lm.generate([Chat(({"role": "user", "content": "?"},))], 1)
"""


def test_a_night_of_failing_notebooks_keeps_no_secret(canaries, tmp_path, monkeypatch, capfd):
    """Real kernels, papermill and nbconvert: copies, pages, logs, history and what is printed."""
    jobs = [{"notebook": name} for name in ("foreign", "refused")]
    with playing([ECHOES["wrong key"]]) as played:
        monkeypatch.setenv("LAGKIT_API_BASE", played.url)
        path = project(tmp_path, jobs, [("foreign", FOREIGN), ("refused", REFUSED)])
        out = tmp_path / "out"
        assert cli.main(["nightly", str(path), "--profile", "small", "--out", str(out)]) == 2
    printed = capfd.readouterr()
    assert "refuses the key (401: Incorrect API key provided: [the key])" in printed.out
    assert "403 from https://bucket/?AWSAccessKeyId=[secret]" in printed.out
    assert {f.name for f in out.rglob("*.html")} == {"report.html", "foreign.html", "refused.html"}
    assert leaks(printed.out, printed.err, folder=tmp_path / "out") == []
    assert "[secret]" in (out / "jobs" / "foreign" / "foreign.ipynb").read_text()
