"""Canaries in the environment: nothing that a run, a notebook or a night writes or prints holds one of them."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit import __main__ as cli
from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.requests import Chat
from lagkit.util.errors import ConfigError, EndpointError
from lagkit.util.secrets import scrub, scrub_file
from tests.helpers.endpoints import Reply, failed, playing, said
from tests.helpers.lms import SAMPLE
from tests.helpers.nights import project

CANARIES = {
    "LAGKIT_API_KEY": "sk-canary-4711-lagkit",
    "OPENAI_API_KEY": "sk-canary-4712-openai",
    "HF_TOKEN": "hf_canary4713",
    "AWS_ACCESS_KEY_ID": "AKIACANARY4714",
    "AWS_SECRET_ACCESS_KEY": "canary4715/with+signs",
    "AWS_SESSION_TOKEN": "canary4716==",
    "DATABASE_URL": "postgres://canary:canary4717pass@db.example.org/x",
    "WANDB_API_KEY": "canary-without-digits",
    "GITHUB_PAT": "CanaryOfMixedCase",
    "REDISCLI_AUTH": "canary of <four> & more words",
    "MYSQL_PWD": "canary/4719?&=%",
    "DB_PASS": "pässwort-canary-4720",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=x;AccountKey=canary4721+/==;EndpointSuffix=example.org",
    "SENTRY_DSN": "https://canary4722dsn@sentry.example.org/1",
}
# What is a secret of each, as a whole or in part.
VALUES = [*(value for name, value in CANARIES.items() if name not in ("DATABASE_URL", "SENTRY_DSN"))]
VALUES[-1] = "canary4721+/=="
VALUES += ["canary4717pass", "canary4722dsn"]
KEY = CANARIES["LAGKIT_API_KEY"]


@pytest.fixture
def canaries(monkeypatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


# The six letters as they are, in hex, and in base64 wherever they may begin, by the letters that are theirs alone.
LETTERS = {letters for word in ("canary", "CANARY", "Canary") for letters in (word, word.encode().hex())}
LETTERS |= {
    base64.b64encode(b"\0" * before + word.encode()).decode()[start:stop]
    for word in ("canary", "CANARY", "Canary")
    for before, start, stop in ((0, 0, 8), (1, 2, 9), (2, 3, 10))
}


def leaks(*texts: str, folder: Path | None = None) -> list[str]:
    """Where a canary stands: the first words of texts, the names of files."""
    found = [text[:80] for text in texts if any(letters in text for letters in LETTERS)]
    files = [path for path in folder.rglob("*") if path.is_file()] if folder else []
    return found + [str(path) for path in files if any(letters.encode() in path.read_bytes() for letters in LETTERS)]


OTHER = st.text(st.characters(exclude_characters="/@"))  # of which no address is made


@given(before=OTHER, after=OTHER, spell=st.sampled_from([str, lambda s: json.dumps([s]), repr]))
def test_a_secret_is_taken_out_wherever_it_stands(before, after, spell):
    secret = 'canary4718"\\/ünïcode'
    assert scrub(before + secret + after, secret) == scrub(before) + "[secret]" + scrub(after)
    assert "canary4718" not in scrub(before + spell(secret) + after, secret)


SPELLINGS = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda s: json.dumps(json.dumps({"said": s})),
    "Python": repr,
    "HTML": html.escape,
    "an address": lambda s: quote(s, safe=""),
    "a form": quote_plus,
    "a lower-case address": lambda s: re.sub("%..", lambda code: code[0].lower(), quote(s, safe="")),
    "hex": lambda s: s.encode().hex(),
    "Basic, as a password": lambda s: base64.b64encode(f"name:{s}".encode()).decode(),
    "Basic, as a name": lambda s: base64.b64encode(f"{s}:".encode()).decode(),
    "base64 of a page": lambda s: base64.urlsafe_b64encode(f"<html>12{s}</html>".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("value", VALUES)
def test_no_spelling_of_a_secret_stays(canaries, value, spelling):
    spelt = SPELLINGS[spelling](value)
    assert leaks(spelt) != [], "the check sees it"
    assert leaks(scrub(f"It said {spelt}, and more.")) == []


def test_a_word_for_a_password_is_hidden_in_a_header_and_stays_in_texts(monkeypatch):
    monkeypatch.setenv("LAGKIT_API_BASE", "https://somebody:danube@example.org/v1")
    code = base64.b64encode(b"somebody:danube").decode()
    assert scrub(f"Basic {code}: the danube") == "Basic [secret]: the danube"


@pytest.mark.parametrize("value", ["none", "true", "EMPTY", "not-needed", "placeholder", "Danube", "1234567890"])
@pytest.mark.parametrize("name", ["LAGKIT_API_KEY", "SOME_TOKEN", "MY_PASS"])
def test_words_and_numbers_are_no_secrets(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert scrub(f"The answer is {value}.") == f"The answer is {value}."


@pytest.mark.parametrize("name", ["PATH", "PWD", "OLDPWD", "SSH_AUTH_SOCK", "GOOGLE_APPLICATION_CREDENTIALS_FILE"])
def test_folders_and_files_are_no_secrets(monkeypatch, name):
    monkeypatch.setenv(name, "/some/folder1")
    assert scrub("in /some/folder1/x") == "in /some/folder1/x"


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
    "header": said(f"Basic {base64.b64encode(b'canary:canary4717pass').decode()}, so <ans>x"),
    "word in a header": failed(400, f"Basic {base64.b64encode(b'canary:danube').decode()}", "content_filter"),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_no_run_keeps_or_prints_what_an_endpoint_repeats(canaries, tmp_path, monkeypatch, capsys, caplog, echo):
    caplog.set_level(logging.DEBUG)
    settings = [f"data={SAMPLE}", "dataset=musique", "embedder=hash-64", f"out={tmp_path}", "model=api:m"]
    settings += ["max_rounds=1", "log_questions=2", "seen_questions=2", "unseen_questions=2"]
    settings += ["policies=[no_logs, text_last_round_user_turn]", "api={retries: 1}"]
    with playing([said("I see. <ans>x"), ECHOES[echo]]) as played:
        password = "danube" if echo == "word in a header" else "canary4717pass"
        monkeypatch.setenv("LAGKIT_API_BASE", played.url.replace("://", f"://canary:{password}@"))
        code = cli.main(["run", "smollm2", *settings])
    assert len(played.asked) > 1
    assert code == (0 if echo in ("answer", "for its content", "too long", "header", "word in a header") else 2)
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
from lagkit.model.api.requests import Chat
from lagkit.model.loading import load_model
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
